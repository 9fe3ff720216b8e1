"""Mean IoU by the streaming confusion matrix against the usual NumPy code that runs image by image.

    python scripts/benchmarks/segmentation_evaluation.py [--quick] [--threads N] [--cpu_time] [--json FILE]

Both get the same int64 arrays, 16 images of 512x512 with 21 classes, and must give the same numbers. Of ten times as
many images nothing but the matrix may stay in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_dmt.training.scoring.confusion import ConfusionMatrix, segmentation_scores

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, medians, options, peak_memory, ratios

CLASSES, VOID = 21, 255


def make_masks(images: int, side: int) -> tuple[Tensor, Tensor]:
    """(images, side, side) int64 predictions and labels: patches of 16 pixels, 1 in 5 wrong, 1 in 20 void."""
    generator = torch.Generator().manual_seed(0)
    shape = (images, side, side)
    patches = torch.randint(0, CLASSES, (images, side // 16, side // 16), generator=generator)
    labels = patches.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    wrong = torch.rand(shape, generator=generator) < 0.2
    predictions = torch.where(wrong, torch.randint(0, CLASSES, shape, generator=generator), labels)
    return predictions, labels.masked_fill(torch.rand(shape, generator=generator) < 0.05, VOID)


def histogram_scores(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, list[float]]:
    """Mean and per-class IoU the usual way: per image drop void pixels, then take three histograms."""
    areas = np.zeros((3, CLASSES))
    for predicted, truth in zip(predictions, labels, strict=True):
        valid = truth != VOID
        predicted, truth = predicted[valid], truth[valid]
        for row, values in enumerate((predicted[predicted == truth], predicted, truth)):
            areas[row] += np.histogram(values, bins=CLASSES, range=(0, CLASSES - 1))[0]
    iou = areas[0] / (areas[1] + areas[2] - areas[0])
    return float(np.nanmean(iou)), iou.tolist()


def confusion_scores(predictions: Tensor, labels: Tensor, times: int = 1) -> tuple[float, list[float]]:
    """The same from one confusion matrix, updated image by image as masks of different sizes would be."""
    confusion = ConfusionMatrix(CLASSES, ignore_index=VOID)
    for _ in range(times):
        for predicted, truth in zip(predictions, labels, strict=True):
            confusion.update(predicted, truth)
    scores = segmentation_scores(confusion.matrix)
    return scores["mean_iou"], list(scores["per_class_iou"].values())


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    images, side = (4, 256) if args.quick else (16, 512)
    predictions, labels = make_masks(images, side)
    jobs = {
        "NumPy": partial(histogram_scores, predictions.numpy(), labels.numpy()),
        "ours": partial(confusion_scores, predictions, labels),
    }
    usual, ours = (job() for job in jobs.values())
    np.testing.assert_allclose(ours[0], usual[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], usual[1], rtol=1e-12)
    seconds = in_turns(jobs, rounds=2 if args.quick else 15, cpu_time=args.cpu_time)
    what, against = f"mean IoU of {images} masks of {side}x{side}", "per-image NumPy"
    rows = [Row(what, against, ratios(seconds, "NumPy", "ours"), "times as fast", ">= 8", medians(seconds))]
    peaks = [peak_memory(partial(confusion_scores, predictions, labels, times))[1] for times in (1, 1, 10)]
    details = {f"{times * images} masks MiB": peak / 2**20 for times, peak in zip((1, 10), peaks[1:], strict=True)}
    growth = peaks[2] / peaks[1] - 1
    rows.append(Row("resident memory, ten times the masks", "once", [growth], "growth", "<= 0.1", details))
    return finish(rows, args)


if __name__ == "__main__":
    main()
