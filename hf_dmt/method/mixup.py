"""Mixup of a batch of labeled and pseudo-labeled samples, as the official classification code has it.

One step: weights from a forward pass on the clean batch (no gradient; `dynamic_mutual_loss(...).weights` and
`.targets`), one ratio and one permutation for the whole batch (labeled and pseudo-labeled samples mix freely), a second
forward pass on the mixed inputs, the loss below.
"""

import random
from typing import Literal

import torch
from torch import Tensor

from hf_dmt.method.loss import weighted_cross_entropy
from hf_dmt.method.weighting import check_units, top_class, unit_cross_entropy

MixupWeighting = Literal["mixed", "per_term"]


def draw_mixup(n: int, alpha: float, *, generator: torch.Generator, keep_max: bool = True) -> tuple[float, Tensor]:
    """Draw the ratio lam ~ Beta(alpha, alpha) and a permutation of n samples.

    Args:
        n: samples in the batch.
        alpha: > 0; the official runs use 0.75.
        generator: a CPU generator; the draw is a function of its state alone.
        keep_max: take max(lam, 1 - lam), so that a sample dominates its own mixture.

    Returns:
        lam in [0, 1] as a Python number and the permutation (n,) int64 on the CPU; bring it to the
        batch's device once.
    """
    if not alpha > 0:
        raise ValueError(f"alpha of mixup must be above 0, got {alpha}: to train without mixup, do not draw")
    # torch's Beta takes no generator; the standard library's, seeded from ours, is as reproducible.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    lam = random.Random(seed).betavariate(alpha, alpha)
    return (max(lam, 1.0 - lam) if keep_max else lam), torch.randperm(n, generator=generator)


def mix(x: Tensor, lam: float | Tensor, permutation: Tensor) -> Tensor:
    """lam * x + (1 - lam) * x[permutation] along the first axis, in the dtype of x (N, *)."""
    return x * lam + x[permutation] * (1.0 - lam)


def mixup_loss(
    logits_mixed: Tensor,
    labels: Tensor,
    weights: Tensor,
    lam: float | Tensor,
    permutation: Tensor,
    *,
    weighting: MixupWeighting = "mixed",
    ignore_index: int = -100,
) -> Tensor:
    """Weighted cross-entropy of mixed samples against both of their labels.

    With y, w of a sample, y', w' of its partner, and v = lam w + (1 - lam) w':

        mixed      v * (lam CE(y) + (1 - lam) CE(y'))
        per_term   lam w CE(y) + (1 - lam) w' CE(y')

    "mixed" is the official training loss. In it a label of weight 0 (a positive disagreement) still pulls as
    soon as the partner weighs something; "per_term" gives every label its own weight. The sum over units is
    divided by the number of valid labels; an ignored label adds no term.

    Args:
        logits_mixed: (N, C, *) of the mixed inputs.
        labels: (N, *) of the clean batch, int64 in 0..C-1 or `ignore_index`.
        weights: (N, *) of the clean batch, 0 where ignored.
        lam, permutation: from `draw_mixup`.

    Returns:
        0-dim float32 with gradient for the logits alone; 0 when every label is ignored.

    Raises:
        ValueError: as `dynamic_mutual_loss`; an unknown `weighting`; a permutation that is not (N,).
    """
    if weighting not in ("mixed", "per_term"):
        raise ValueError(f"weighting must be 'mixed' or 'per_term', got {weighting!r}")
    logits, labels = check_units(logits_mixed, labels, ignore_index, weights=weights)
    if tuple(permutation.shape) != (logits.shape[0],):
        raise ValueError(f"permutation must be ({logits.shape[0]},), got {tuple(permutation.shape)}")
    valid = labels != ignore_index
    scale = 1.0 / valid.sum().clamp(min=1).float()
    classes = torch.where(valid, labels, 0)
    weights = weights.detach().float()
    mixed_weights = mix(weights, lam, permutation)

    top = top_class(logits.detach())
    loss = logits.new_zeros((), dtype=torch.float32)
    for share, partner in ((lam, slice(None)), (1.0 - lam, permutation)):
        unit_weights = mixed_weights if weighting == "mixed" else weights[partner]
        cross_entropy = unit_cross_entropy(logits.detach(), top, classes[partner])
        coefficients = torch.where(valid[partner], share * unit_weights * scale, 0.0)
        loss = loss + weighted_cross_entropy(logits, top, classes[partner], cross_entropy, coefficients)
    return loss
