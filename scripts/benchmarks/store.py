"""The pixel store against its alternatives: bytes on disk, and time to read one image's labels as training needs them.

    python scripts/benchmarks/store.py STORE ... [--quick] [--threads N] [--cpu_time] [--json FILE]

A STORE is the folder of one member of a segmentation run, such as runs/digit-scenes-1/pseudo_labels/phase-1/a, so that
the maps are those of trained networks. Without one, an untrained pair labels smooth noise, which only tries the code.

Every format holds the same labels and confidences and must give the same selected labels. Reads come from the page
cache. `float32` is what the official code writes: a NumPy file an image of label and confidence, both float32.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from hf_dmt.data.labels.pseudo_labels import PixelLabels
from hf_dmt.data.tasks import IGNORE_INDEX
from hf_dmt.method import decode_confidence
from hf_dmt.method.selection import CONFIDENCE_CODES

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.labeling import our_pass
from scripts.benchmarks.measure import Row, finish, in_turns, options, ratios
from scripts.benchmarks.subjects import Pictures, pixel_pair

Maps = tuple[np.ndarray, np.ndarray]  # (H, W) class ids, (H, W) confidence codes
CONFIDENCE = decode_confidence(torch.arange(CONFIDENCE_CODES)).numpy()


class Format(ABC):
    """One way to keep labels (H, W) uint8 and codes (H, W) uint16, and to read the selected ones."""

    def __init__(self, folder: Path, thresholds: np.ndarray) -> None:
        self.folder, self.thresholds = folder, thresholds
        folder.mkdir()

    @abstractmethod
    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None: ...

    @abstractmethod
    def selected(self, row: int) -> Maps:
        """(H, W) integers, -100 where not trained on, and (H, W) float32."""

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _kept(self, labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return np.where(kept, labels.astype(np.int16), np.int16(IGNORE_INDEX))


class Float32(Format):
    """What the official code writes."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        np.save(self.folder / f"{row}.npy", np.stack([labels.astype(np.float32), CONFIDENCE[codes]]))

    def selected(self, row: int) -> Maps:
        labels, confidence = np.load(self.folder / f"{row}.npy")
        labels = labels.astype(np.uint8)
        return self._kept(labels, confidence >= np.take(CONFIDENCE[self.thresholds], labels, mode="clip")), confidence


class Memmap(Format):
    """One file for all images of one size, 3 bytes a pixel."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        self.shape = labels.shape
        with open(self.folder / "maps.bin", "ab") as file:
            file.write(labels.tobytes() + codes.tobytes())

    def selected(self, row: int) -> Maps:
        pixels = self.shape[0] * self.shape[1]
        mapped = np.memmap(self.folder / "maps.bin", mode="r", offset=3 * pixels * row, shape=(3 * pixels,))
        labels, codes = mapped[:pixels].reshape(self.shape), mapped[pixels:].view("<u2").reshape(self.shape)
        kept = codes >= np.take(self.thresholds, labels, mode="clip")
        return self._kept(labels, kept), np.take(CONFIDENCE, codes, mode="clip")


class Png(Format):
    """A PNG an image: labels, high and low byte of the codes as red, green and blue; fastest compression."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        planes = np.stack([labels, codes >> 8, codes & 255], axis=-1).astype(np.uint8)
        Image.fromarray(planes).save(self.folder / f"{row}.png", compress_level=1)

    def selected(self, row: int) -> Maps:
        planes = np.asarray(Image.open(self.folder / f"{row}.png"))
        labels, codes = planes[..., 0], planes[..., 1].astype(np.uint16) << 8 | planes[..., 2]
        kept = codes >= np.take(self.thresholds, labels, mode="clip")
        return self._kept(labels, kept), np.take(CONFIDENCE, codes, mode="clip")


class Ours(Format):
    """What hf_dmt writes: a zstd file an image, checked when read."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        self.store = PixelLabels(self.folder, {"code_thresholds": self.thresholds})
        self.store.write(row, labels, codes)

    def selected(self, row: int) -> Maps:
        return self.store.selected(row)


FORMATS: dict[str, type[Format]] = {"float32": Float32, "memmap": Memmap, "PNG": Png, "ours": Ours}


def read_maps(store: PixelLabels, count: int) -> list[Maps]:
    """The maps of the first images, cut to one size so that a memmap can hold them."""
    found = [store.codes(row) for row in sorted(int(path.stem) for path in store.folder.rglob("*.zst"))[:count]]
    height, width = (min(labels.shape[axis] for labels, _ in found) for axis in (0, 1))
    return [(labels[:height, :width].astype(np.uint8), codes[:height, :width].copy()) for labels, codes in found]


def measure(maps: list[Maps], thresholds: np.ndarray, title: str, rounds: int, *, cpu_time: bool) -> list[Row]:
    def read_all(one: Format) -> None:
        for row in range(len(maps)):
            one.selected(row)

    with tempfile.TemporaryDirectory() as folder:
        formats = {name: kind(Path(folder) / name, thresholds) for name, kind in FORMATS.items()}
        for one in formats.values():
            for row, (labels, codes) in enumerate(maps):
                one.write(row, labels, codes)
                selected, confidence = one.selected(row)
                expected = np.where(codes >= thresholds[labels], labels.astype(np.int16), IGNORE_INDEX)
                # float32 confidences cannot tell the codes nearest to 1 apart, where a threshold may lie.
                assert np.mean(selected != expected) <= (1e-2 if isinstance(one, Float32) else 0), one.folder.name
                np.testing.assert_array_equal(confidence, CONFIDENCE[codes])
        pixels = sum(labels.size for labels, _ in maps)
        sizes = {name: one.size() / pixels for name, one in formats.items()}
        reads = {name: partial(read_all, one) for name, one in formats.items()}
        seconds = in_turns(reads, rounds, cpu_time=cpu_time)
    sure = np.mean([(CONFIDENCE[codes] > 0.999).mean() for _, codes in maps])
    height, width = maps[0][0].shape
    facts = {"images": len(maps), "height": height, "width": width, "share above 0.999": float(sure)}
    per_pixel = {**facts, **{f"{name} bytes/pixel": size for name, size in sizes.items()}}
    per_image = {f"{name} ms": 1e3 * statistics.median(found) / len(maps) for name, found in seconds.items()}
    reading = ratios(seconds, "ours", "float32")
    return [
        Row(f"bytes of the store, {title}", "float32", [sizes["ours"] / sizes["float32"]], "", "<= 0.35", per_pixel),
        Row("time to read a sample of it", "float32", reading, "of its time", "<= 1", per_image),
    ]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    paths = {"nargs": "*", "type": Path, "metavar": "STORE", "help": "folder of one member's pixel labels"}
    args = options(__doc__, argv, paths=paths)
    count, rounds = (8, 2) if args.quick else (200, 9)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {f"store {number}": path for number, path in enumerate(args.paths, 1)}
        if not stores:
            our_pass(pixel_pair(64, "toy"), Pictures(count, 64), 4, Path(folder), Accelerator(cpu=True))
            stores = {"untrained": Path(folder) / "a"}
        for title, path in stores.items():
            store = PixelLabels.read(path)
            assert store.thresholds is not None
            rows += measure(read_maps(store, count), store.thresholds, title, rounds, cpu_time=args.cpu_time)
    return finish(rows, args)


if __name__ == "__main__":
    main()
