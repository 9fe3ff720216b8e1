"""A confusion matrix, counted batch by batch, and all scores that can be computed from it.

Both tasks are scored from one small integer matrix: memory does not grow with the number of images, and processes sum
their matrices once, exactly. `evaluate` is not used, because its import takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.tasks import IGNORE_INDEX

# Units counted at a time on the CPU. Temporary arrays of this size stay in the cache, and torch does not spread them
# over threads, which would cost more than it saves (especially on busy cores).
CHUNK = 1 << 15


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs, accumulated on a device.

    Ignored units (label -100) are counted in a row of their own instead of being masked out: this needs no boolean
    indexing and, off the CPU, no synchronization with the host. Values are not checked here, but where masks are read.

    Args:
        num_classes: number of classes C; memory is about C * C 64-bit integers.
        device: where the counts are kept; predictions and labels are moved there.
    """

    def __init__(self, num_classes: int, device: torch.device | str | None = None) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; a confusion matrix needs at least one class.")
        self.num_classes = num_classes
        # A row for each class of the truth, and one for ignored units.
        self._counts = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64, device=device)
        self.device = self._counts.device
        self._reduced = False

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count a batch: predictions, class ids, and labels, class ids or -100, are integers of the same shape."""
        if self._reduced:
            raise RuntimeError(
                "This confusion matrix was already summed over the processes; start a new one to continue counting."
            )
        if predictions.shape != labels.shape:
            raise ValueError(
                f"predictions have shape {tuple(predictions.shape)}, but labels {tuple(labels.shape)}: every unit "
                "needs one of each. Resize the logits to the labels' resolution, then take their argmax."
            )
        for name, ids in (("predictions", predictions), ("labels", labels)):
            if ids.is_floating_point():
                raise ValueError(f"{name} are {ids.dtype}, but must be class ids: take the argmax of logits.")
        if labels.numel() == 0:
            return
        # At least the number of cells, since the bincount of a chunk writes all of them.
        chunk = max(CHUNK, self._counts.numel()) if self._counts.is_cpu else labels.numel()
        predicted_chunks = predictions.to(self.device).reshape(-1).split(chunk)
        truth_chunks = labels.to(self.device).reshape(-1).split(chunk)
        for predicted, truth in zip(predicted_chunks, truth_chunks, strict=True):
            self._add(predicted.long(), truth.long())

    def _add(self, predictions: Tensor, labels: Tensor) -> None:
        counts, c = self._counts.view(-1), self.num_classes
        cells = torch.add(predictions, labels.masked_fill(labels == IGNORE_INDEX, c), alpha=c)
        if cells.is_cpu and cells.numel() >= counts.numel():
            counts += torch.bincount(cells, minlength=counts.numel())
        else:  # bincount synchronizes with an accelerator and writes all cells even for a few units
            counts.scatter_add_(0, cells, torch.ones_like(cells))

    def reduce(self, reduce_fn: Callable[[Tensor], Tensor]) -> ConfusionMatrix:
        """Sum the counts over the processes, in place and once; returns itself.

        `reduce_fn` gets the raw counts (2-D int64) and returns their sum over the processes, like `accelerator.reduce`.
        Every process must call this, even one without data.
        """
        if self._reduced:
            raise RuntimeError(
                "This confusion matrix was already summed over the processes; summing again would double it."
            )
        total = reduce_fn(self._counts)
        if total.dtype != torch.int64 or total.shape != self._counts.shape:
            raise ValueError(
                f"reduce_fn returned {total.dtype} of shape {tuple(total.shape)} for int64 counts of shape "
                f"{tuple(self._counts.shape)}; it must sum them over the processes (not gather, not average)."
            )
        self._counts = total
        self._reduced = True
        return self

    @property
    def matrix(self) -> Tensor:
        """(C, C) int64, rows are the truth, columns the predictions."""
        return self._counts[: self.num_classes].clone()

    @property
    def totals(self) -> Tensor:
        """(3, C) int64 on the device of the counts: for each class the units of the truth, the right ones, the
        predicted ones."""
        rows = self._counts[: self.num_classes]
        return torch.stack([rows.sum(dim=1), rows.diagonal(), rows.sum(dim=0)])


# Right and predicted units by class, each (C, N), and those of the truth, (C, 1) -> scores (N,) in [0, 1].
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def accuracy(right: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of correct units."""
    return np.asarray(right.sum(axis=0) / truth.sum())


def mean_accuracy(right: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean over the classes in the truth of the share found (balanced accuracy)."""
    present = truth[:, 0] > 0
    return np.asarray((right[present] / truth[present]).mean(axis=0))


def mean_iou(right: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean intersection over union of the classes in the truth or the predictions.

    The official code takes the plain mean: one absent class makes it NaN, and no checkpoint is ever the best.
    """
    union = truth + predicted - right
    known = union > 0
    share = np.divide(right, union, out=np.zeros_like(union, dtype=float), where=known)
    return np.asarray(share.sum(axis=0) / known.sum(axis=0))


MEASURES: dict[str, dict[str, Measure]] = {
    "image-classification": {"accuracy": accuracy, "mean_accuracy": mean_accuracy},
    "semantic-segmentation": {"mean_iou": mean_iou, "overall_accuracy": accuracy, "mean_accuracy": mean_accuracy},
}


def scores_of(matrix: Tensor, task: str, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The metrics of a task from a confusion matrix (C, C), for logs and JSON.

    Returns:
        The `MEASURES`; by class name `per_class_accuracy` (recall), for segmentation `per_class_iou`; and the ten most
        frequent `confusions` as [true class, predicted class, units]. None if there is nothing to score: no valid unit,
        or a class that is absent from the truth (IoU: and from the predictions). Names default to "0", "1", ...
    """
    names = [str(index) for index in range(len(matrix))] if class_names is None else list(class_names)
    if len(names) != len(matrix) or len(set(names)) != len(names):
        raise ValueError(
            f"class_names has {len(names)} names, {len(set(names))} of them different, for {len(matrix)} "
            "classes; give every class its own name."
        )
    counts = matrix.cpu().double().numpy()
    right, predicted, truth = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    columns = (right[:, None], predicted[:, None], truth[:, None])
    metrics = {key: float(of(*columns)[0]) if truth.any() else None for key, of in MEASURES[task].items()}
    pixels = task == "semantic-segmentation"
    of_class = zip(names, right, truth + predicted - right if pixels else truth, strict=True)
    per_class = {name: float(hit / units) if units else None for name, hit, units in of_class}
    wrong = matrix.cpu().clone().fill_diagonal_(0).flatten()
    most = [at for at in wrong.sort(descending=True, stable=True).indices[:10].tolist() if wrong[at] > 0]
    confusions = [[names[at // len(matrix)], names[at % len(matrix)], int(wrong[at])] for at in most]
    return {**metrics, "per_class_iou" if pixels else "per_class_accuracy": per_class, "confusions": confusions}
