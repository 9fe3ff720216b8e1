"""The pixel store against its alternatives: bytes on disk, and time to read one image's labels as training needs them.

    python scripts/benchmarks/store.py [STORE] [--quick] [--json FILE]

STORE is the folder of one member of a segmentation run, such as runs/digit-scenes-1/pseudo_labels/phase-1/a: what is
measured are the maps of real networks. Without it, the embedded scenes are trained on for half a minute first.

Every format holds the same labels and confidences and must give the same selected labels. Reads are interleaved, from
the page cache, in one process; medians. The last line is `ratio <number>`: bytes of the store over those of NumPy files
of 8-bit labels and float32 confidences.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_dmt.data.pseudo_labels import PixelLabels
from hf_dmt.data.transforms import IGNORE_INDEX
from hf_dmt.method import decode_confidence
from hf_dmt.method.selection import CONFIDENCE_CODES

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.run_dmt import main as run_dmt

Maps = tuple[np.ndarray, np.ndarray]  # (H, W) class ids, (H, W) confidence codes
CONFIDENCE = decode_confidence(torch.arange(CONFIDENCE_CODES)).numpy()


class Format(ABC):
    """One way to keep labels (H, W) uint8 and codes (H, W) uint16, and to read the selected ones."""

    def __init__(self, folder: Path, thresholds: np.ndarray) -> None:
        self.folder, self.thresholds = folder, thresholds
        folder.mkdir(parents=True)

    @abstractmethod
    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None: ...

    @abstractmethod
    def read(self, row: int) -> Maps: ...

    def selected(self, row: int) -> Maps:
        """(H, W) int16, -100 where not trained on, and (H, W) float32."""
        labels, codes = self.read(row)
        kept = codes >= np.take(self.thresholds, labels, mode="clip")
        return np.where(kept, labels.astype(np.int16), np.int16(IGNORE_INDEX)), np.take(CONFIDENCE, codes, mode="clip")

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Float32(Format):
    """A NumPy file an image: labels, then float32 confidences."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        with open(self.folder / f"{row}.npy", "wb") as file:
            np.save(file, labels)
            np.save(file, CONFIDENCE[codes])

    def read(self, row: int) -> Maps:
        with open(self.folder / f"{row}.npy", "rb") as file:
            return np.load(file), np.load(file)

    def selected(self, row: int) -> Maps:
        labels, confidence = self.read(row)
        kept = confidence >= np.take(CONFIDENCE[self.thresholds], labels, mode="clip")
        return np.where(kept, labels.astype(np.int16), np.int16(IGNORE_INDEX)), confidence


class Memmap(Format):
    """One file for all images of one size, 3 bytes a pixel."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        self.shape = labels.shape
        with open(self.folder / "maps.bin", "ab") as file:
            file.write(labels.tobytes() + codes.tobytes())

    def read(self, row: int) -> Maps:
        pixels = self.shape[0] * self.shape[1]
        mapped = np.memmap(self.folder / "maps.bin", mode="r", offset=3 * pixels * row, shape=(3 * pixels,))
        return mapped[:pixels].reshape(self.shape), mapped[pixels:].view("<u2").reshape(self.shape)


class Png(Format):
    """A PNG an image: labels, high and low byte of the codes as red, green and blue; fastest compression."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        planes = np.stack([labels, codes >> 8, codes & 255], axis=-1).astype(np.uint8)
        Image.fromarray(planes).save(self.folder / f"{row}.png", compress_level=1)

    def read(self, row: int) -> Maps:
        planes = np.asarray(Image.open(self.folder / f"{row}.png"))
        return planes[..., 0], planes[..., 1].astype(np.uint16) << 8 | planes[..., 2]


class Store(Format):
    """What hf_dmt writes: a zstd file an image, checked when read."""

    def write(self, row: int, labels: np.ndarray, codes: np.ndarray) -> None:
        self.store = PixelLabels(self.folder, {"code_thresholds": self.thresholds})
        self.store.write(row, labels, codes)

    def read(self, row: int) -> Maps:
        return self.store.codes(row)

    def selected(self, row: int) -> Maps:
        return self.store.selected(row)


FORMATS: dict[str, type[Format]] = {"float32 .npy": Float32, "memmap": Memmap, "PNG": Png, "store (zstd)": Store}


def trained_store(folder: Path, quick: bool) -> Path:
    """The labels that a made of the embedded scenes after a short phase 0."""
    epochs, steps = ("2", "8") if quick else ("40", "150")
    arguments = ["--task", "semantic-segmentation", "--label_ratios", "0.4", "--output_dir", str(folder / "run")]
    arguments += ["--supervised_epochs", epochs, "--max_steps", steps]
    if run_dmt(arguments):
        raise SystemExit("the run that makes the maps failed; see above")
    return folder / "run" / "pseudo_labels" / "phase-1" / "a"


def read_maps(store: PixelLabels, count: int) -> list[Maps]:
    """The maps of the first images, cut to one size so that a memmap can hold them."""
    rows = sorted(int(path.stem) for path in store.folder.rglob("*.zst"))[:count]
    found = [store.codes(row) for row in rows]
    height, width = (min(labels.shape[axis] for labels, _ in found) for axis in (0, 1))
    return [
        (np.ascontiguousarray(labels[:height, :width]), np.ascontiguousarray(codes[:height, :width]))
        for labels, codes in found
    ]


def measure(maps: list[Maps], thresholds: np.ndarray, folder: Path, repetitions: int) -> dict[str, dict[str, Any]]:
    """Per format: bytes a pixel, milliseconds to write and to read one image."""
    formats = {name: kind(folder / str(number), thresholds) for number, (name, kind) in enumerate(FORMATS.items())}
    seconds: dict[str, dict[str, list[float]]] = {name: {"write": [], "read": []} for name in formats}
    for row, (labels, codes) in enumerate(maps):
        for name, made in formats.items():
            start = time.perf_counter()
            made.write(row, labels, codes)
            seconds[name]["write"].append(time.perf_counter() - start)
    for _ in range(repetitions):
        for row, (labels, codes) in enumerate(maps):
            expected = np.where(codes >= thresholds[labels], labels.astype(np.int16), IGNORE_INDEX)
            for name, made in formats.items():
                start = time.perf_counter()
                selected, confidence = made.selected(row)
                seconds[name]["read"].append(time.perf_counter() - start)
                if not np.array_equal(selected, expected) or not np.array_equal(confidence, CONFIDENCE[codes]):
                    raise AssertionError(f"{name} gives other labels for image {row}")
    pixels = sum(labels.size for labels, _ in maps)
    return {
        name: {
            "bytes_per_pixel": made.size() / pixels,
            "write_ms": 1e3 * statistics.median(seconds[name]["write"]),
            "read_ms": 1e3 * statistics.median(seconds[name]["read"]),
        }
        for name, made in formats.items()
    }


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", nargs="?", type=Path, metavar="STORE", help="folder of one member's pixel labels")
    parser.add_argument("--quick", action="store_true", help="8 images read twice instead of 200 read 5 times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        source = options.store or trained_store(Path(temporary), options.quick)
        store = PixelLabels.read(source)
        assert store.thresholds is not None
        maps = read_maps(store, 8 if options.quick else 200)
        figures = measure(maps, store.thresholds, Path(temporary) / "formats", 2 if options.quick else 5)
    codes = np.concatenate([codes.ravel() for _, codes in maps])
    sharp = float((CONFIDENCE[codes] > 0.999).mean())
    height, width = maps[0][0].shape
    print(f"{len(maps)} maps of {height}x{width}; {sharp:.0%} of the confidences above 0.999")
    print(f"{'':14}{'bytes/pixel':>12}{'of float32':>12}{'write ms':>10}{'read ms':>10}")
    usual = figures["float32 .npy"]
    for name, row in figures.items():
        share = row["bytes_per_pixel"] / usual["bytes_per_pixel"]
        print(f"{name:14}{row['bytes_per_pixel']:12.2f}{share:12.2f}{row['write_ms']:10.2f}{row['read_ms']:10.2f}")
    ratio = figures["store (zstd)"]["bytes_per_pixel"] / usual["bytes_per_pixel"]
    if options.json:
        facts = {"images": len(maps), "height": height, "width": width, "above_0.999": sharp, "formats": figures}
        options.json.write_text(json.dumps({**facts, "ratio": ratio}, indent=2) + "\n", encoding="utf-8")
    print(f"ratio {ratio:.3f}")
    return ratio


if __name__ == "__main__":
    main()
