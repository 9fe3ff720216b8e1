"""How well right pseudo labels are separated from wrong ones, if the true labels are known.

Compares three scores by the area under their ROC curve (AUROC): the dynamic weight, the maker's confidence, and whether
the student agrees. The figures are for the results only and do not affect training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.members import PEER
from ...data.tasks import IGNORE_INDEX
from ...method import CONFIDENCE_CODES, decode_confidence, dynamic_weights
from ..settings.knobs import Knobs

CALIBRATION_BINS = 10


def auroc(right: np.ndarray, wrong: np.ndarray) -> float | None:
    """Area under the ROC curve of a score: the probability that a right label scores higher than a wrong one, ties
    half.

    Args:
        right, wrong: `(K,)` counts of right and wrong labels at each value of the score, in increasing order.

    Returns:
        In [0, 1], 0.5 for an uninformative score; None if all labels are right, all are wrong, or none is known.
    """
    pairs = float(right.sum()) * float(wrong.sum())
    lower = np.cumsum(wrong) - wrong / 2
    return float((right * lower).sum() / pairs) if pairs else None


def calibration(
    confidence: np.ndarray, right: np.ndarray, wrong: np.ndarray, bins: int = CALIBRATION_BINS
) -> list[dict[str, Any]]:
    """The calibration curve: bins of about equal count, by increasing confidence; equal confidences share a bin.

    Args:
        confidence: `(K,)` distinct values, increasing.
        right, wrong: `(K,)` counts of labels at each.

    Returns:
        For every non-empty bin `confidence` (mean), `accuracy` (fraction right) and `count`.
    """
    counts = right + wrong
    middle = np.cumsum(counts) - counts / 2
    place = np.minimum((middle * bins / max(1, counts.sum())).astype(int), bins - 1)
    total, hits, mass = (
        np.bincount(place, weights=values, minlength=bins) for values in (counts, right, counts * confidence)
    )
    return [
        {"confidence": mass[bin] / total[bin], "accuracy": hits[bin] / total[bin], "count": int(total[bin])}
        for bin in np.flatnonzero(total)
    ]


def student_scores(
    logits: dict[str, Tensor], maker: str, labels: Tensor, confidence: Tensor, knobs: Knobs
) -> tuple[Tensor, Tensor]:
    """How the student of `maker` judges its labels, on the same clean images.

    Args:
        logits: for each model, `(N, C, *)`.
        labels, confidence: `(N, *)`, made by `maker`.

    Returns:
        The dynamic weight with the full exponents and positive disagreement dropped, float32, and whether the student
        agrees, bool; both `(N, *)`.
    """
    student = maker if knobs.labeler == "self" else PEER[maker]
    return judgment(logits[student], labels, confidence, knobs)


def judgment(logits: Tensor, labels: Tensor, confidence: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """A student's weights and agreement, as in `student_scores`, from its own logits `(N, C, *)`."""
    weights = dynamic_weights(logits, labels, confidence, gamma1=knobs.gamma1, gamma2=knobs.gamma2)
    return weights, logits.argmax(dim=1) == labels


def of_images(weight: np.ndarray, confidence: np.ndarray, agree: np.ndarray, hit: np.ndarray) -> dict[str, Any] | None:
    """The figures for `(N,)` labels; `hit` (bool) says which are right. None without labels.

    Args:
        weight, agree: `(N,)`, or `(S, N)` for several students, which are counted together.
    """
    if not len(hit):
        return None
    students = weight.size // len(hit)
    weight, agree = weight.ravel(), agree.ravel()
    confidence, hit = (np.tile(column, students) for column in (confidence, hit))
    scores = {"weight": weight, "confidence": confidence, "disagreement": agree}
    distinct = {name: np.unique(values, return_inverse=True) for name, values in scores.items()}
    counts = {
        name: (np.bincount(place[hit], minlength=len(values)), np.bincount(place[~hit], minlength=len(values)))
        for name, (values, place) in distinct.items()
    }
    return {
        **{name: auroc(*both) for name, both in counts.items()},
        "calibration": calibration(distinct["confidence"][0].astype(np.float64), *counts["confidence"]),
    }


class PixelSeparation:
    """Counts of right and wrong pixels by weight and by agreement; their size does not depend on the number of
    images."""

    def __init__(self) -> None:
        # By the code of the weight, then by disagree and agree; right ones first, then wrong ones.
        self.counts = torch.zeros(2, CONFIDENCE_CODES + 2, dtype=torch.int64)

    def add(self, weight: Tensor, agree: Tensor, labels: Tensor, truth: Tensor) -> None:
        """Add pixels of one image, all of the same shape; those whose truth is -100 are ignored."""
        known = truth != IGNORE_INDEX
        row = (labels != truth)[known] * self.counts.shape[1]
        for place in (_code(weight[known]), CONFIDENCE_CODES + agree[known].long()):
            place = row + place
            self.counts.view(-1).scatter_add_(0, place, torch.ones_like(place))

    def figures(self, right: Tensor, known: Tensor, total: Callable[[Tensor], Tensor]) -> dict[str, Any] | None:
        """The figures over all processes, None without known pixels.

        Args:
            right, known: `(65536,)` right and known pixels by the code of their confidence, over all processes.
            total: sums a tensor over the processes.
        """
        counts = total(self.counts).numpy()
        if not known.any():
            return None
        by_confidence = right.numpy(), (known - right).numpy()
        values = decode_confidence(torch.arange(CONFIDENCE_CODES)).double().numpy()
        return {
            "weight": auroc(*counts[:, :-2]),
            "confidence": auroc(*by_confidence),
            "disagreement": auroc(*counts[:, -2:]),
            "calibration": calibration(values, *by_confidence),
        }


def _code(weight: Tensor) -> Tensor:
    """16 bits that keep the order of weights near 0 and near 1: 256 steps per power of two at both ends."""
    bits = torch.minimum(weight, 1.0 - weight).view(torch.int32) >> 15
    return torch.where(weight < 0.5, bits, CONFIDENCE_CODES - 1 - bits)
