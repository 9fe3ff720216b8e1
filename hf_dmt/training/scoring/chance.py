"""How large a difference between two scorings of the same images can be by chance.

This is a paired permutation test. If the unlabeled images had no effect, the two scores of each test image would be
interchangeable. So for each image, before and after are swapped with probability 1/2, the difference of the scores is
recomputed, and this is repeated `DRAWS` times; 95 % of these differences are below the returned figure. For accuracy
this is McNemar's test. For mean per-class accuracy and mean IoU, whole images are swapped, because the pixels of an
image are not independent. No distribution of scores is assumed, so the test is valid even for ten images: five
differences in one direction do not pass, six do.

It only accounts for the choice of test images. Another seed or other labeled images can change a result by more.
"""

from __future__ import annotations

import numpy as np

from ...data.members import SCORED
from .confusion import MEASURES, Measure
from .image_counts import ImageCounts

DRAWS = 2000
LEVEL = 0.95
_AT_A_TIME = 250


def chance_of(task: str, before: ImageCounts, after: ImageCounts) -> dict[str, dict[str, float]] | None:
    """For a, b and ensemble, the difference of each metric up to which chance is an explanation; fractions.

    None if the two are not scorings of the same images, or if no image has a label.
    """
    if before.table.shape != after.table.shape or (before.truth != after.truth).nnz or not before.truth.sum():
        return None
    return {name: _chance(MEASURES[task], before, after, name) for name in SCORED}


def _chance(measures: dict[str, Measure], before: ImageCounts, after: ImageCounts, name: str) -> dict[str, float]:
    truth = np.asarray(before.truth.sum(axis=0), dtype=float)[:, None]
    pairs = [(part.right(name), part.predicted(name)) for part in (before, after)]
    total = [np.asarray((pairs[0][at] + pairs[1][at]).sum(axis=0), dtype=float)[:, None] for at in (0, 1)]
    change = [(pairs[1][at] - pairs[0][at]).astype(float) for at in (0, 1)]
    coin = np.random.default_rng(0)  # equal counts always give the same figure
    found: dict[str, list[np.ndarray]] = {key: [] for key in measures}
    for _ in range(0, DRAWS, _AT_A_TIME):
        signs = coin.choice((-1.0, 1.0), size=(change[0].shape[0], _AT_A_TIME))
        moved = [part.T @ signs for part in change]
        one, other = ([(t + sign * m) / 2 for t, m in zip(total, moved, strict=True)] for sign in (1, -1))
        for key, measure in measures.items():
            found[key].append(np.abs(measure(one[0], one[1], truth) - measure(other[0], other[1], truth)))
    return {key: float(np.quantile(np.concatenate(values), LEVEL, method="higher")) for key, values in found.items()}
