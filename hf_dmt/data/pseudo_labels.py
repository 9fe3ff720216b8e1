"""The pseudo-label store: what each member said of every unlabeled image, per phase, on disk.

Labels and confidences are stored unfiltered; selection is applied when they are read, so one pass of the networks serves
any label ratio. A folder `pseudo_labels/phase-k/{a,b}/` is complete when its `manifest.json` is there, and never changes
afterwards.

- Images: one `labels.parquet` (id, label, confidence, selected), which any table tool opens.
- Pixels: one zstd file per image (class ids and 16-bit confidence codes), written aside and renamed, so that a kill leaves
  no half image and memory does not grow with the set. `as_dataset` turns them into images a person can open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..method import decode_confidence
from .files import write_aside, write_json
from .transforms import IGNORE_INDEX

MANIFEST = "manifest.json"
_TABLE = "labels.parquet"
_CODEC = pa.Codec("zstd", compression_level=1)
_FILES_PER_FOLDER = 1000


@dataclass(frozen=True)
class ImageLabels:
    """One member's labels of the unlabeled images in one phase.

    Attributes:
        labels: (N,) int64. confidence: (N,) float32. selected: (N,) bool.
    """

    labels: np.ndarray
    confidence: np.ndarray
    selected: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Rows of the unlabeled set that the other member trains on."""
        return np.flatnonzero(self.selected)

    def write(self, folder: Path, ids: Sequence[str], manifest: dict[str, Any]) -> None:
        """Write the table, then the manifest that marks it complete."""
        table = pa.table(
            {"id": list(ids), "label": self.labels, "confidence": self.confidence, "selected": self.selected}
        )
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        write_aside(folder / _TABLE, buffer.getvalue().to_pybytes())
        write_json(folder / MANIFEST, manifest)

    @classmethod
    def read(cls, folder: Path) -> ImageLabels:
        """Raises ValueError when the folder is incomplete."""
        read_manifest(folder)
        table = pq.read_table(folder / _TABLE, columns=["label", "confidence", "selected"])
        return cls(*(table[name].to_numpy() for name in ("label", "confidence", "selected")))


class PixelLabels:
    """One member's label maps of the unlabeled images in one phase; safe to read from many workers and processes."""

    def __init__(self, folder: Path, thresholds: np.ndarray | None = None) -> None:
        self.folder = folder
        self.thresholds = thresholds  # (C,) int64 codes; a pixel is kept when its code >= the one of its class

    @classmethod
    def read(cls, folder: Path) -> PixelLabels:
        """Raises ValueError when the folder is incomplete."""
        return cls(folder, np.asarray(read_manifest(folder)["code_thresholds"], dtype=np.int64))

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        """Store one image's unfiltered labels (H, W), 0..65535, and confidence codes (H, W), 0..65535."""
        wide = labels.max(initial=0) > 255
        header = np.asarray([*labels.shape, wide], dtype="<u4").tobytes()
        # The high and the low byte of the codes as planes of their own: the high one is smooth and compresses.
        planes = np.ascontiguousarray(codes, dtype="<u2").view(np.uint8).reshape(-1, 2).T.tobytes()
        content = np.ascontiguousarray(labels, dtype="<u2" if wide else "u1").tobytes() + planes
        path = self._path(row)
        write_aside(path, header + _CODEC.compress(content, asbytes=True))

    def codes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Unfiltered `(labels, codes)` of one image, (H, W) int64 each.

        Raises:
            ValueError: the file is missing or damaged.
        """
        path = self._path(row)
        try:
            content = path.read_bytes()
            height, width, wide = (int(value) for value in np.frombuffer(content[:12], dtype="<u4"))
            pixels = height * width
            size = pixels * (4 if wide else 3)
            plain = _CODEC.decompress(content[12:], decompressed_size=size, asbytes=True)
            labels = np.frombuffer(plain, dtype="<u2" if wide else "u1", count=pixels)
            planes = np.frombuffer(plain, dtype=np.uint8, offset=size - 2 * pixels).reshape(2, pixels)
        except (OSError, ValueError) as problem:
            raise ValueError(
                f"The stored labels {path} cannot be read ({problem}). They were deleted or damaged after labeling: resume "
                "from the last checkpoint at the end of a phase, which labels again."
            ) from problem
        shape = (height, width)
        codes = planes[0].astype(np.int64) | (planes[1].astype(np.int64) << 8)
        return labels.astype(np.int64).reshape(shape), codes.reshape(shape)

    def selected(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """`(labels, confidence)` of one image for training: labels (H, W) int64 with -100 below the thresholds."""
        if self.thresholds is None:
            raise ValueError(f"{self.folder} is still being written: open it with PixelLabels.read.")
        labels, codes = self.codes(row)
        confidence = decode_confidence(torch.from_numpy(codes)).numpy()
        return np.where(codes >= self.thresholds[labels], labels, IGNORE_INDEX), confidence

    def finish(self, manifest: dict[str, Any], thresholds: Sequence[int]) -> None:
        """Mark the store complete; `thresholds` are per-class codes."""
        write_json(self.folder / MANIFEST, {**manifest, "code_thresholds": [int(code) for code in thresholds]})

    def as_dataset(self, ids: Sequence[str]) -> Any:
        """The store as a `datasets.Dataset` with columns id, label (image), confidence (image), kept (image).

        Label values are class ids; confidence is 255 times the probability; kept is 255 where the label is trained on.
        Publish it with `.push_to_hub(repo)`.
        """
        import datasets
        from PIL import Image

        def rows() -> Iterator[dict[str, Any]]:
            for row, name in enumerate(ids):
                labels, _ = self.codes(row)
                kept, confidence = self.selected(row)
                wide = labels.max(initial=0) > 255
                yield {
                    "id": name,
                    "label": Image.fromarray(labels.astype(np.uint16 if wide else np.uint8)),
                    "confidence": Image.fromarray((confidence * 255).round().astype(np.uint8)),
                    "kept": Image.fromarray(np.where(kept == IGNORE_INDEX, 0, 255).astype(np.uint8)),
                }

        image = datasets.Image()
        features = datasets.Features(
            {"id": datasets.Value("string"), "label": image, "confidence": image, "kept": image}
        )
        return datasets.Dataset.from_generator(rows, features=features)

    def _path(self, row: int) -> Path:
        return self.folder / f"{row // _FILES_PER_FOLDER:05d}" / f"{row:08d}.zst"


def is_complete(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError when there is none: the store is not complete."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"The pseudo labels in {folder} are not complete ({problem}). Resume from the last checkpoint at the end of a "
            "phase, which labels again."
        ) from problem
    return manifest
