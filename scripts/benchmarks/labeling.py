"""The labeling pass against bare forward passes, and against the official code's two passes.

    python -m scripts.benchmarks.labeling [--quick] [--threads N] [--cpu_time] [--json FILE]

The labeling pass resizes and normalises the images for each member, runs both, and writes labels, confidences and
thresholds to disk. The bare passes run both members over the same images, already model-ready in memory; for pixels
their logits come at the size of the images, as any label needs them. The two-pass procedure is that of the official
code: a pass that collects every 16th confidence for the thresholds, then a second pass of the same network that labels
and writes one float32 file per image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hf_dmt import ModelPair, class_balanced_thresholds
from hf_dmt.models.pair import MEMBERS
from hf_dmt.models.preprocessing import clean_inputs
from hf_dmt.training import labeling
from hf_dmt.training.inference import CleanPass
from hf_dmt.training.methods import resolve

from .measure import Row, finish, in_turns, medians, options, ratio
from .subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair

RATIO = 0.2
Batch = dict[str, Tensor]


def our_pass(pair: ModelPair, images: Any, batch_size: int) -> None:
    """What a run does between two phases."""
    knobs, clean_pass = resolve("dmt", pair.task, {}), CleanPass(batch_size)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    label = labeling.label_images if pair.task == IMAGES else labeling.label_pixels
    with tempfile.TemporaryDirectory() as folder:
        label(pair, images, clean_pass, accelerator, Path(folder), knobs=knobs, facts={"phase": 1, "ratio": RATIO})


def model_ready(pair: ModelPair, images: Sequence[dict[str, Any]], batch_size: int) -> list[Batch]:
    """Batches as the image processors make them."""
    return [
        {
            name: torch.stack(clean_inputs(pair.processor(name), [item["image"] for item in images[start:][:batch_size]]))
            for name in MEMBERS
        }
        for start in range(0, len(images), batch_size)
    ]


def probabilities(pair: ModelPair, name: str, batches: Sequence[Batch], size: tuple[int, int]) -> Iterator[Tensor]:
    for batch in batches:
        yield pair.clean_logits(name, batch[name], size).softmax(dim=1)


@torch.no_grad()
def bare_forwards(pair: ModelPair, batches: Sequence[Batch], size: tuple[int, int]) -> None:
    for batch in batches:
        for name in MEMBERS:
            pair.clean_logits(name, batch[name], size)


@torch.no_grad()
def two_passes(pair: ModelPair, images: Sequence[dict[str, Any]], batch_size: int, size: tuple[int, int]) -> None:
    """The official procedure for both members, each over images that it makes model-ready anew in each pass."""
    with tempfile.TemporaryDirectory() as folder:
        for name in MEMBERS:
            sampled, predicted = [], []
            for found in probabilities(pair, name, model_ready(pair, images, batch_size), size):
                confidence, labels = found.max(dim=1)
                sampled.append(confidence.flatten(1)[:, ::16].flatten())
                predicted.append(labels.flatten(1)[:, ::16].flatten())
            thresholds = class_balanced_thresholds(
                torch.cat(sampled), torch.cat(predicted), len(pair.class_names), RATIO, rule="official"
            )
            row = 0
            for found in probabilities(pair, name, model_ready(pair, images, batch_size), size):
                confidence, labels = found.max(dim=1)
                labels[confidence < thresholds[labels]] = 255
                for image in torch.stack([labels.float(), confidence], dim=-1):
                    np.save(f"{folder}/{name}-{row}.npy", image.numpy())
                    row += 1


def measure(task: str, side: int, size: str, count: int, batch_size: int, rounds: int, *, cpu_time: bool) -> list[Row]:
    pair = image_pair(side, size) if task == IMAGES else pixel_pair(side, size)
    images = decoded(Pictures(count, side))
    batches = model_ready(pair, images, batch_size)
    jobs: dict[str, Callable[[], object]] = {
        "ours": partial(our_pass, pair, images, batch_size),
        "bare": partial(bare_forwards, pair, batches, (side, side)),
    }
    if task == PIXELS:
        jobs["two passes"] = partial(two_passes, pair, images, batch_size, (side, side))
    seconds = in_turns(jobs, rounds, cpu_time=cpu_time)
    details = {f"{name} images/s": 1e3 * count / value for name, value in medians(seconds).items()}
    details = {name.replace(" ms images", " images"): value for name, value in details.items()}
    what = f"labeling pass, {task}, {side} px"
    rows = [Row(what, "bare forwards", ratio(seconds, "bare", "ours"), "of its images/s", (">=", 0.85), details)]
    if task == PIXELS:
        speed_up = ratio(seconds, "two passes", "ours")
        rows.append(Row(f"labeling at ratio {RATIO:g}", "two passes", speed_up, "times as fast", (">=", 1.8), {}))
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    if args.quick:
        sizes = [(IMAGES, 32, "toy", 16, 8, 1), (PIXELS, 32, "toy", 4, 2, 1)]
    else:
        sizes = [(IMAGES, 224, "tiny", 64, 16, 5), (PIXELS, 512, "b0", 8, 2, 5)]
    return finish([row for size in sizes for row in measure(*size, cpu_time=args.cpu_time)], args)


if __name__ == "__main__":
    main()
