"""Labels: the pass that makes them against bare forward passes and the official two passes, and the store of masks.

    python scripts/benchmarks/labeling.py [--only pass store] [--stores FOLDER ...] [--quick] [--threads N]
    python scripts/benchmarks/labeling.py --only pass --device cuda --dtype bf16

pass: the labeling pass resizes and normalizes the images for each model, runs both, and writes labels, confidences and
thresholds to disk. The bare passes run both models over the same images, already model-ready in memory; for pixels,
their logits have the size of the images, as any label needs them. The official code makes two passes: one collects
every 16th confidence for the thresholds, the second labels and writes one float32 file per image. All three must
predict the same classes.

store: bytes on disk, and time to read one image's labels as training needs them, against a PNG and a float32 NumPy file
per image (the official code's). A folder is that of one model of a segmentation run, such as
runs/scenes/pseudo_labels/phase-5/a, so that the maps are those of a trained network. Without one, an untrained pair
labels smooth noise, which only tries the code. Reads come from the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from hf_dmt import ModelPair, class_balanced_thresholds
from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.data.members import MEMBERS
from hf_dmt.data.tasks import IGNORE_INDEX
from hf_dmt.method import decode_confidence
from hf_dmt.method.selection import CONFIDENCE_CODES
from hf_dmt.models.preprocessing import clean_inputs
from hf_dmt.training.labeling import label_pass
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.settings.methods import resolve

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, in_turns, ratios, run
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair

RATIO = 0.2
Batch = dict[str, Tensor]
Maps = tuple[np.ndarray, np.ndarray]  # (H, W) class ids, (H, W) confidence codes
CONFIDENCE = decode_confidence(torch.arange(CONFIDENCE_CODES)).numpy()


def our_pass(
    pair: ModelPair, images: Any, batch_size: int, folder: Path, accelerator: Accelerator, **given: Any
) -> None:
    """What a run does between two phases."""
    knobs, clean_pass = resolve("dmt", pair.task, given), CleanPass(pair, accelerator, batch_size)
    label = label_pass.label_images if pair.task == IMAGES else label_pass.label_pixels
    label(clean_pass, images, folder, knobs=knobs, facts={"phase": 1, "ratio": RATIO})


def model_ready(pair: ModelPair, images: Sequence[dict[str, Any]], batch_size: int) -> list[Batch]:
    """Batches as the image processors make them."""
    parts = [[item["image"] for item in images[start:][:batch_size]] for start in range(0, len(images), batch_size)]
    return [{name: torch.stack(clean_inputs(pair.processor(name), part)) for name in MEMBERS} for part in parts]


@torch.no_grad()
def logits_of(pair: ModelPair, name: str, batches: Sequence[Batch], accelerator: Accelerator) -> Iterator[Tensor]:
    for batch in batches:
        with accelerator.autocast():
            yield pair.clean_logits(name, batch[name], (pair.image_size, pair.image_size))


def bare_forwards(pair: ModelPair, batches: Sequence[Batch], accelerator: Accelerator) -> None:
    for name in MEMBERS:
        for _ in logits_of(pair, name, batches, accelerator):
            pass


def two_passes(
    pair: ModelPair, images: Sequence[dict[str, Any]], batch_size: int, folder: Path, accelerator: Accelerator
) -> None:
    """The official procedure for both members, each over images that it makes model-ready anew in each pass."""
    for name in MEMBERS:
        sampled, predicted = [], []
        for logits in logits_of(pair, name, model_ready(pair, images, batch_size), accelerator):
            confidence, labels = logits.softmax(dim=1).max(dim=1)
            sampled.append(confidence.flatten(1)[:, ::16].flatten())
            predicted.append(labels.flatten(1)[:, ::16].flatten())
        thresholds = class_balanced_thresholds(
            torch.cat(sampled), torch.cat(predicted), len(pair.class_names), RATIO, rule="official"
        )
        row = 0
        for logits in logits_of(pair, name, model_ready(pair, images, batch_size), accelerator):
            confidence, labels = logits.softmax(dim=1).max(dim=1)
            labels[confidence < thresholds[labels]] = 255
            for image in torch.stack([labels.float(), confidence], dim=1):
                np.save(folder / f"{name}-{row}.npy", image.cpu().numpy())
                row += 1


def check_same_classes(pair: ModelPair, batches: Sequence[Batch], folder: Path, accelerator: Accelerator) -> None:
    """What stands in `folder` are the classes of the bare passes, but for ties that rounding decides.

    Raises:
        AssertionError: more than 1 unit in 1000 differs.
    """
    for name in MEMBERS:
        found = [logits.argmax(dim=1).cpu() for logits in logits_of(pair, name, batches, accelerator)]
        bare = torch.cat(found).numpy()
        if pair.task == IMAGES:
            stored = ImageLabels.read(folder / name).labels
        else:
            stored = np.stack([PixelLabels.read(folder / name).codes(row)[0] for row in range(len(bare))])
            official = np.stack([np.load(folder / f"{name}-{row}.npy")[0] for row in range(len(bare))])
            kept = official != 255
            assert np.mean(official[kept] == bare[kept]) > 0.999, f"two passes: other classes of {name}"
        assert np.mean(stored == bare) > 0.999, f"labeling pass: other classes of {name}"


def pass_of(
    pair: ModelPair, count: int, batch_size: int, rounds: int, accelerator: Accelerator, *, cpu_time: bool
) -> list[Row]:
    images = decoded(Pictures(count, pair.image_size))
    batches = model_ready(pair, images, batch_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = {
            "ours": partial(our_pass, pair, images, batch_size, folder, accelerator),
            "bare": partial(bare_forwards, pair, batches, accelerator),
        }
        if pair.task == PIXELS:
            jobs["two passes"] = partial(two_passes, pair, images, batch_size, folder, accelerator)
        seconds = in_turns(jobs, rounds, cpu_time=cpu_time)
        check_same_classes(pair, batches, folder, accelerator)
    details = {f"{name} images/s": count / statistics.median(found) for name, found in seconds.items()}
    what = f"labeling pass, {pair.task}, {pair.image_size} px"
    rows = [Row(what, "bare forwards", ratios(seconds, "bare", "ours"), "of its images/s", ">= 0.85", details)]
    if pair.task == PIXELS:
        faster = ratios(seconds, "two passes", "ours")
        rows.append(Row(f"labeling at ratio {RATIO:g}", "the official two passes", faster, "times as fast", ">= 1.8"))
    return rows


def labeling_pass(args: argparse.Namespace) -> list[Row]:
    if args.quick:
        pairs, sizes = [image_pair(32, "toy"), pixel_pair(32, "toy")], [(16, 8, 1), (4, 2, 1)]
    elif args.device == "cuda":
        pairs, sizes = [image_pair(224, "base", both=True), pixel_pair(512, "b2")], [(2048, 128, 5), (128, 16, 5)]
    else:
        pairs, sizes = [image_pair(224, "tiny"), pixel_pair(512, "b0")], [(32, 16, 3), (8, 2, 3)]
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision="bf16" if args.dtype == "bf16" else None)
    rows = []
    for pair, size in zip(pairs, sizes, strict=True):
        rows += pass_of(pair.to(args.device), *size, accelerator, cpu_time=args.cpu_time)
    return rows


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


FORMATS: dict[str, type[Format]] = {"float32": Float32, "PNG": Png, "ours": Ours}


def read_maps(store: PixelLabels, count: int) -> list[Maps]:
    """The maps of the first images."""
    found = [store.codes(row) for row in sorted(int(path.stem) for path in store.folder.rglob("*.zst"))[:count]]
    return [(labels.astype(np.uint8), codes) for labels, codes in found]


def store_of(maps: list[Maps], thresholds: np.ndarray, title: str, rounds: int, *, cpu_time: bool) -> list[Row]:
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


def store(args: argparse.Namespace) -> list[Row]:
    count, rounds = (8, 2) if args.quick else (200, 9)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {f"store {number}": path for number, path in enumerate(args.stores, 1)}
        if not stores:
            our_pass(pixel_pair(64, "toy"), Pictures(count, 64), 4, Path(folder), Accelerator(cpu=True))
            stores = {"untrained": Path(folder) / "a"}
        for title, path in stores.items():
            store = PixelLabels.read(path)
            assert store.thresholds is not None
            rows += store_of(read_maps(store, count), store.thresholds, title, rounds, cpu_time=args.cpu_time)
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    folders = {"nargs": "*", "type": Path, "metavar": "FOLDER", "default": [], "help": "pixel labels of one model"}
    return run(__doc__, argv, {"pass": labeling_pass, "store": store}, gpu=True, stores=folders)


if __name__ == "__main__":
    main()
