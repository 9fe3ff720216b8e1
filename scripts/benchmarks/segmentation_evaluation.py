"""Time of the mean IoU: the streaming confusion matrix against the usual NumPy code that runs image by image.

    python scripts/benchmarks/segmentation_evaluation.py [--quick] [--json FILE]

Both get the same int64 arrays and must give the same numbers. Runs are interleaved in one process; medians. The
last line is `ratio <number>`: how many times as fast the confusion matrix is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_dmt.training.metrics import ConfusionMatrix, segmentation_scores

IMAGES, SIDE, CLASSES, VOID = 16, 512, 21, 255


def make_masks(seed: int = 0) -> tuple[Tensor, Tensor]:
    """(IMAGES, SIDE, SIDE) int64 predictions and labels: patches of 16 pixels, 1 in 5 wrong, 1 in 20 void."""
    generator = torch.Generator().manual_seed(seed)
    shape = (IMAGES, SIDE, SIDE)
    patches = torch.randint(0, CLASSES, (IMAGES, SIDE // 16, SIDE // 16), generator=generator)
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


def confusion_scores(predictions: Tensor, labels: Tensor) -> tuple[float, list[float]]:
    """The same from one confusion matrix, updated image by image as masks of different sizes would be."""
    confusion = ConfusionMatrix(CLASSES, ignore_index=VOID)
    for predicted, truth in zip(predictions, labels, strict=True):
        confusion.update(predicted, truth)
    scores = segmentation_scores(confusion.matrix)
    return scores["mean_iou"], list(scores["per_class_iou"].values())


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 repetitions instead of 25")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(argv)

    predictions, labels = make_masks()
    predictions_numpy, labels_numpy = predictions.numpy(), labels.numpy()
    usual, ours = histogram_scores(predictions_numpy, labels_numpy), confusion_scores(predictions, labels)
    np.testing.assert_allclose(ours[0], usual[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], usual[1], rtol=1e-12)

    seconds: dict[str, list[float]] = {"numpy": [], "confusion matrix": []}
    for _ in range(3 if options.quick else 25):
        start = time.perf_counter()
        histogram_scores(predictions_numpy, labels_numpy)
        middle = time.perf_counter()
        confusion_scores(predictions, labels)
        seconds["numpy"].append(middle - start)
        seconds["confusion matrix"].append(time.perf_counter() - middle)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["numpy"] / medians["confusion matrix"]
    print(f"{IMAGES} masks of {SIDE}x{SIDE}, {CLASSES} classes, {torch.get_num_threads()} threads")
    print(f"mean IoU {ours[0]:.6f}, the same from both")
    print(f"{'':18}{'median ms':>10}{'min ms':>10}{'max ms':>10}")
    for name, times in seconds.items():
        print(f"{name:18}{1e3 * medians[name]:10.1f}{1e3 * min(times):10.1f}{1e3 * max(times):10.1f}")
    if options.json:
        figures = {"seconds": seconds, "medians": medians, "ratio": ratio, "mean_iou": ours[0]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"ratio {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    main()
