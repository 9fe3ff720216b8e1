"""The pseudo-label store: each member's predictions for every unlabeled image, per phase, on disk.

Labels and confidences are stored unfiltered; selection is applied when they are read, so that a single labeling pass
serves any label ratio. A folder `pseudo_labels/phase-k/{a,b}/` is complete if its `manifest.json` exists; whoever
writes to it deletes the manifest first, so that labels of two models are never read as one store.

- Images: one `labels.parquet` (id, label, confidence, selected), which any table tool opens.
- Pixels: one zstd file per image (class ids and 16-bit confidence codes), written atomically, so that a kill leaves no
  partial image and memory does not grow with the set. `as_dataset` converts them to viewable images.

Everything is verified: the table's checksum is in the manifest, and the manifest has its own; an image's checksum
covers its size, row and store as well as its pixels. Labels that were edited, truncated, reordered, or copied from
another image, member or phase are an error when they are read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from ...method import decode_confidence
from ...method.selection import CONFIDENCE_CODES
from ..files import read_json, write_aside, write_json
from ..tasks import IGNORE_INDEX

MANIFEST = "manifest.json"
_TABLE = "labels.parquet"
_CODEC = pa.Codec("zstd", compression_level=1)
_FILES_PER_FOLDER = 1000
# Without a checksum, zstd decodes many damaged files to other labels.
_HEADER = np.dtype([("height", "<u4"), ("width", "<u4"), ("label_bytes", "<u4"), ("checksum", "<u4")])
_CONFIDENCE = decode_confidence(torch.arange(CONFIDENCE_CODES)).numpy()


class StoreError(ValueError):
    """Stored labels that are missing or damaged, and how to recreate them."""


@dataclass(frozen=True)
class ImageLabels:
    """One member's labels of the unlabeled images in one phase.

    Attributes:
        labels: (N,) int64.
        confidence: (N,) float32.
        selected: (N,) bool.
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
        columns = {"id": list(ids), "label": self.labels, "confidence": self.confidence, "selected": self.selected}
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), buffer)
        content = buffer.getvalue().to_pybytes()
        (folder / MANIFEST).unlink(missing_ok=True)
        write_aside(folder / _TABLE, content)
        _write_manifest(folder, {**manifest, "rows": len(self.labels), "table_crc32": zlib.crc32(content)})

    def as_dataset(self, ids: Sequence[str], class_names: Sequence[str]) -> datasets.Dataset:
        """The labels as a `datasets.Dataset` with columns id, label (class), confidence, kept (trained on)."""
        columns = {"id": list(ids), "label": self.labels, "confidence": self.confidence, "kept": self.selected}
        features = {
            "id": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(class_names)),
            "confidence": datasets.Value("float32"),
            "kept": datasets.Value("bool"),
        }
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    @classmethod
    def read(cls, folder: Path) -> ImageLabels:
        """Raises StoreError if the folder is incomplete, or the table is not the one that was written."""
        manifest = read_manifest(folder)
        names = ["label", "confidence", "selected"]
        try:
            content = (folder / _TABLE).read_bytes()
            if zlib.crc32(content) != manifest.get("table_crc32"):
                raise ValueError("it is not the table that was written with its manifest")
            table = pq.read_table(pa.BufferReader(content), columns=names)
        except (OSError, ValueError) as problem:
            raise _unreadable(folder / _TABLE, folder, problem) from problem
        return cls(*(table[name].to_numpy() for name in names))


class PixelLabels:
    """One member's label maps of the unlabeled images in one phase; safe to read from many workers and processes.

    Args:
        manifest: of a complete store, whose labels can be selected; None for one that is being written.
        key: identifies what is being written (phase, member, weights), so that files of other stores are rejected; a
            complete store has it in its manifest.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any] | None = None, *, key: str = "") -> None:
        self.folder, self.manifest = folder, manifest
        self.key = key if manifest is None else str(manifest.get("key", ""))
        # (C,): a pixel is kept if its code >= that of its class
        self.thresholds = np.asarray(manifest["code_thresholds"], dtype=np.uint16) if manifest else None

    @classmethod
    def read(cls, folder: Path) -> PixelLabels:
        """Raises ValueError if the folder is incomplete."""
        return cls(folder, read_manifest(folder))

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        """Store one image's unfiltered labels (H, W), 0..65535, and confidence codes (H, W), 0..65535."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        kind = "<u2" if labels.max(initial=0) > 255 else "u1"
        # The high and low bytes of the codes are stored as separate planes: the high one is smooth and compresses well.
        planes = np.ascontiguousarray(codes, dtype="<u2").view(np.uint8).reshape(-1, 2).T.tobytes()
        packed = _CODEC.compress(np.ascontiguousarray(labels, dtype=kind).tobytes() + planes, asbytes=True)
        shape = (*labels.shape, np.dtype(kind).itemsize)
        header = np.array((*shape, self._checksum(row, shape, packed)), dtype=_HEADER)
        write_aside(self._path(row), header.tobytes() + packed)

    def codes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Unfiltered `(labels, codes)` of one image: (H, W) uint8 or uint16, and (H, W) uint16.

        Raises:
            ValueError: the file is missing or damaged.
        """
        path = self._path(row)
        try:
            content = path.read_bytes()
            height, width, label_bytes, checksum = np.frombuffer(content, dtype=_HEADER, count=1)[0].tolist()
            packed = memoryview(content)[_HEADER.itemsize :]
            if self._checksum(row, (height, width, label_bytes), packed) != checksum:
                raise ValueError("its checksum does not match its content and its place")
            pixels = height * width
            plain = _CODEC.decompress(packed, decompressed_size=pixels * (label_bytes + 2), asbytes=True)
        except (OSError, ValueError) as problem:
            raise _unreadable(path, self.folder, problem) from problem
        labels = np.frombuffer(plain, dtype=f"<u{label_bytes}", count=pixels)
        low, high = np.frombuffer(plain, dtype=np.uint8, offset=pixels * label_bytes).reshape(2, pixels)
        codes = high.astype(np.uint16)
        codes <<= 8
        codes |= low
        return labels.reshape(height, width), codes.reshape(height, width)

    def selected(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """`(labels, confidence)` of one image for training: (H, W) int16 or int32, -100 below the thresholds; float32.

        Raises:
            ValueError: as `codes`, or the store is not complete yet.
        """
        if self.thresholds is None:
            raise ValueError(f"{self.folder} is still being written: open it with PixelLabels.read.")
        labels, codes = self.codes(row)
        # `take` with mode="clip" takes half the time of indexing; no index is out of range.
        kept = codes >= np.take(self.thresholds, labels, mode="clip")
        # int16 if it fits: with float32 confidences, wider labels would make the view go through float64.
        selected = np.full(labels.shape, IGNORE_INDEX, dtype=np.int16 if labels.itemsize == 1 else np.int32)
        np.copyto(selected, labels, where=kept)
        return selected, self.confidence_of(codes)

    @staticmethod
    def confidence_of(codes: np.ndarray) -> np.ndarray:
        """Confidence codes as float32 probabilities."""
        return np.take(_CONFIDENCE, codes, mode="clip")

    def finish(self, manifest: dict[str, Any], thresholds: Sequence[int]) -> None:
        """Mark the store complete; `thresholds` are per-class codes."""
        codes = [int(code) for code in thresholds]
        _write_manifest(self.folder, {**manifest, "key": self.key, "code_thresholds": codes})

    def as_dataset(self, ids: Sequence[str], cache_dir: str | Path | None = None) -> datasets.Dataset:
        """The store as a `datasets.Dataset` with columns id, label (image), confidence (image), kept (image).

        Label values are class ids; confidence is 255 times the probability; kept is 255 if the label is trained on.

        Args:
            cache_dir: where the rows are stored; None is the library's own cache.
        """

        def rows() -> Iterator[dict[str, Any]]:
            for row, name in enumerate(ids):
                labels, _ = self.codes(row)
                kept, confidence = self.selected(row)
                yield {
                    "id": name,
                    "label": Image.fromarray(labels),
                    "confidence": Image.fromarray((confidence * 255).round().astype(np.uint8)),
                    "kept": Image.fromarray(np.where(kept == IGNORE_INDEX, 0, 255).astype(np.uint8)),
                }

        image = datasets.Image()
        columns = {"id": datasets.Value("string"), "label": image, "confidence": image, "kept": image}
        # The cache key is a hash of `rows` and everything it refers to, including the manifest, so labels that were
        # recreated in the same folder are not read from the cache.
        features = datasets.Features(columns)
        return datasets.Dataset.from_generator(rows, features=features, cache_dir=cache_dir and str(cache_dir))

    def _checksum(self, row: int, shape: tuple[int, ...], packed: bytes | memoryview) -> int:
        return zlib.crc32(packed, zlib.crc32(f"{self.key} {row} {shape}".encode()))

    def _path(self, row: int) -> Path:
        return self.folder / f"{row // _FILES_PER_FOLDER:05d}" / f"{row:08d}.zst"


def is_complete(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises StoreError if there is none (the store is incomplete) or if it was modified."""
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.pop("crc32", None) != _crc32(manifest):
            raise ValueError("its checksum does not match its content")
    except (OSError, ValueError) as problem:
        raise StoreError(
            f"The pseudo labels in {folder} are not complete ({problem}). Resume from the last checkpoint at the end "
            "of a phase, which makes them again."
        ) from problem
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(manifest))  # as it is read back: tuples become lists
    write_json(folder / MANIFEST, {**plain, "crc32": _crc32(plain)})


def _crc32(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _unreadable(path: Path, folder: Path, problem: Exception) -> StoreError:
    return StoreError(
        f"The stored labels {path} cannot be read ({problem}). They were deleted or damaged after labeling: delete "
        f"the folder {folder} and resume from the last checkpoint at the end of a phase, which makes them again."
    )
