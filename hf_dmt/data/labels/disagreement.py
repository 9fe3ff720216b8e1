"""Find the unlabeled images, and the parts of them, on which two members disagree, from the label store.

The strength of a disagreement is the confidence of the less confident member: a guess hardly contradicts anything.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .pseudo_labels import ImageLabels, PixelLabels


def contradicting_images(a: ImageLabels, b: ImageLabels) -> np.ndarray:
    """Rows of the images that a and b label differently, strongest disagreement first."""
    differ = np.flatnonzero(a.labels != b.labels)
    strength = np.minimum(a.confidence, b.confidence)[differ]
    return differ[np.argsort(-strength, kind="stable")]


def contradiction(a: PixelLabels, b: PixelLabels, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image's labels by a and by b, and the strength of their disagreement.

    Returns:
        labels of a and of b, (H, W) unsigned; strength, (H, W) float32: 0 if the labels are equal, otherwise the
        confidence of the less confident member.
    """
    (labels_a, codes_a), (labels_b, codes_b) = a.codes(row), b.codes(row)
    strength = np.where(labels_a == labels_b, np.float32(0), a.confidence_of(np.minimum(codes_a, codes_b)))
    return labels_a, labels_b, strength


def contradicting_masks(a: PixelLabels, b: PixelLabels, rows: Iterable[int]) -> np.ndarray:
    """For each image, (N, 2): mean strength of its disagreements, and fraction of its pixels with different labels."""
    found = [
        (strength.mean(), (left != right).mean()) for left, right, strength in (contradiction(a, b, r) for r in rows)
    ]
    return np.asarray(found, dtype=np.float64).reshape(-1, 2)
