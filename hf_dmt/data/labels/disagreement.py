"""On which unlabeled images, and on which parts of them, two members contradict each other, from the label store.

A contradiction counts as much as the less sure member is sure: one that only guesses contradicts nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .pseudo_labels import ImageLabels, PixelLabels


def contradicting_images(a: ImageLabels, b: ImageLabels) -> np.ndarray:
    """Rows of the images that a and b label differently, the strongest contradiction first."""
    differ = np.flatnonzero(a.labels != b.labels)
    strength = np.minimum(a.confidence, b.confidence)[differ]
    return differ[np.argsort(-strength, kind="stable")]


def contradiction(a: PixelLabels, b: PixelLabels, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image's labels by a and by b, and how strongly they contradict each other.

    Returns:
        labels of a and of b, (H, W) unsigned; strength, (H, W) float32: 0 where the labels are the same, else the
        confidence of the less sure member.
    """
    (labels_a, codes_a), (labels_b, codes_b) = a.codes(row), b.codes(row)
    strength = np.where(labels_a == labels_b, np.float32(0), a.confidence_of(np.minimum(codes_a, codes_b)))
    return labels_a, labels_b, strength


def contradicting_masks(a: PixelLabels, b: PixelLabels, rows: Iterable[int]) -> np.ndarray:
    """Per image, (N, 2): mean strength of its contradictions, and fraction of its pixels with different labels."""
    found = [
        (strength.mean(), (left != right).mean()) for left, right, strength in (contradiction(a, b, r) for r in rows)
    ]
    return np.asarray(found, dtype=np.float64).reshape(-1, 2)
