"""The labeling pass against bare forward passes, and against the official code's two passes.

    python scripts/benchmarks/labeling.py [--quick] [--threads N] [--cpu_time] [--json FILE]
    python scripts/benchmarks/labeling.py --device cuda --dtype bf16

The labeling pass resizes and normalizes the images for each member, runs both, and writes labels, confidences and
thresholds to disk. The bare passes run both members over the same images, already model-ready in memory; for pixels
their logits come at the size of the images, as any label needs them. The two-pass procedure is that of the official
code: a pass that collects every 16th confidence for the thresholds, then a second pass of the same network that labels
and writes one float32 file per image. All three must predict the same classes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hf_dmt import ModelPair, class_balanced_thresholds
from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.data.members import MEMBERS
from hf_dmt.models.preprocessing import clean_inputs
from hf_dmt.training.labeling import label_pass
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.settings.methods import resolve

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, options, ratios
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair

RATIO = 0.2
Batch = dict[str, Tensor]


def our_pass(
    pair: ModelPair, images: Any, batch_size: int, folder: Path, accelerator: Accelerator, **given: Any
) -> None:
    """What a run does between two phases."""
    knobs, clean_pass = resolve("dmt", pair.task, given), CleanPass(batch_size)
    label = label_pass.label_images if pair.task == IMAGES else label_pass.label_pixels
    label(pair, images, clean_pass, accelerator, folder, knobs=knobs, facts={"phase": 1, "ratio": RATIO})


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


def measure(
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


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv, gpu=True)
    if args.quick:
        pairs, sizes = [image_pair(32, "toy"), pixel_pair(32, "toy")], [(16, 8, 1), (4, 2, 1)]
    elif args.device == "cuda":
        pairs, sizes = [image_pair(224, "base", both=True), pixel_pair(512, "b2")], [(2048, 128, 5), (128, 16, 5)]
    else:
        pairs, sizes = [image_pair(224, "tiny"), pixel_pair(512, "b0")], [(32, 16, 3), (8, 2, 3)]
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision="bf16" if args.dtype == "bf16" else None)
    rows = []
    for pair, size in zip(pairs, sizes, strict=True):
        rows += measure(pair.to(args.device), *size, accelerator, cpu_time=args.cpu_time)
    return finish(rows, args)


if __name__ == "__main__":
    main()
