"""The dynamic mutual loss: weighted cross-entropy against labels and another model's pseudo labels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_dmt.method.weighting import PositiveDisagree, Top, check_rule, check_units, judge, top_class


@dataclass(frozen=True)
class MutualLoss:
    """The loss of one batch and what it was made of. Everything but `loss` is detached.

    Attributes:
        loss: 0-dim float32, sum of weight x cross-entropy over valid units / number of valid units.
        unweighted_loss: 0-dim float32, mean cross-entropy over valid units, after flips.
        mean_weight: 0-dim float32, mean weight over valid units, labeled ones (weight 1) included: the official code's
            avg_weights. Over pseudo-labeled units alone it is (mean_weight * valid - L) / P with P = agree +
            negative_disagree + positive_disagree and L = valid - P.
        agree, negative_disagree, positive_disagree: 0-dim int64, counts over valid pseudo-labeled units.
        valid: 0-dim int64, number of valid units, labeled and pseudo-labeled; where it is 0 the loss is 0.
        weights: (N, *) float32, per unit; 1 where labeled, 0 where ignored.
        targets: (N, *) int64, the labels after flips.
    """

    loss: Tensor
    unweighted_loss: Tensor
    mean_weight: Tensor
    agree: Tensor
    negative_disagree: Tensor
    positive_disagree: Tensor
    valid: Tensor
    weights: Tensor
    targets: Tensor


def dynamic_mutual_loss(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    is_pseudo: Tensor,
    *,
    gamma1: float | Tensor,
    gamma2: float | Tensor,
    positive_disagree: PositiveDisagree = "drop",
    ignore_index: int = -100,
    pseudo_weight: float = 1.0,
) -> MutualLoss:
    """One rule for images, (N, C) logits, and pixels, (N, C, H, W) logits.

    Follows the official code's segmentation loss (segmentation/utils/losses.py): the denominator counts every
    valid unit, zero-weighted ones too, so down-weighting shrinks the gradient; weights carry no gradient. The
    classification file's division by N x C when both exponents are 0 is not followed (it is 1/C of the mean).

    Args:
        logits: (N, C, *) of any floating dtype; the arithmetic and the loss are float32.
        labels: (N, *) integers in 0..C-1 or `ignore_index`: true labels or another model's pseudo labels.
        confidence: (N, *) floating in [0, 1]; read for pseudo-labeled units only.
        is_pseudo: (N,) bool, True for samples whose labels are pseudo labels; the others weigh 1.
        gamma1, gamma2, positive_disagree, ignore_index: as in `dynamic_weights`. With "flip" the target of a
            positive disagreement becomes the student's own argmax.
        pseudo_weight: multiplies the weight of every pseudo-labeled unit (online training ramps it up to 1).

    Returns:
        MutualLoss. With several processes each divides by its own number of valid units; scale by `valid` for
        the mean over all.

    Raises:
        ValueError: as `dynamic_weights`; also an `is_pseudo` that is not (N,) bool.
    """
    logits, labels = check_units(logits, labels, ignore_index, confidence=confidence)
    check_rule(gamma1, gamma2, positive_disagree)
    if is_pseudo.dtype != torch.bool or tuple(is_pseudo.shape) != (logits.shape[0],):
        raise ValueError(
            f"is_pseudo must be bool of shape ({logits.shape[0]},), one flag per sample, "
            f"got {is_pseudo.dtype} {tuple(is_pseudo.shape)}"
        )
    top = top_class(logits.detach())
    units = judge(
        logits.detach(),
        top,
        labels,
        confidence,
        is_pseudo,
        gamma1=gamma1,
        gamma2=gamma2,
        positive_disagree=positive_disagree,
        ignore_index=ignore_index,
        pseudo_weight=pseudo_weight,
    )
    valid = units.valid.sum()
    scale = 1.0 / valid.clamp(min=1).float()
    index = torch.where(units.valid, units.targets, 0)
    return MutualLoss(
        loss=weighted_cross_entropy(logits, top, index, units.cross_entropy, units.weights * scale),
        unweighted_loss=units.cross_entropy.sum() * scale,
        mean_weight=units.weights.sum() * scale,
        agree=units.agree.sum(),
        negative_disagree=units.negative_disagree.sum(),
        positive_disagree=units.positive_disagree.sum(),
        valid=valid,
        weights=units.weights,
        targets=units.targets,
    )


def weighted_cross_entropy(
    logits: Tensor, top: Top, targets: Tensor, cross_entropy: Tensor, coefficients: Tensor
) -> Tensor:
    """Sum of coefficient x cross-entropy as a 0-dim float32 with the gradient for `logits` alone.

    Args:
        logits: (N, C, *) with the autograd history.
        top: `top_class(logits)`.
        targets: (N, *) int64 in 0..C-1; any class where the coefficient is 0.
        cross_entropy: (N, *) float32, of the targets.
        coefficients: (N, *) float32, constants for the gradient.
    """
    loss: Tensor = _WeightedCrossEntropy.apply(logits, top.logit, top.confidence, targets, cross_entropy, coefficients)
    return loss


class _WeightedCrossEntropy(torch.autograd.Function):
    """d loss / d logits = coefficient * (p - onehot(target)), built in one buffer.

    Autograd through `cross_entropy` keeps the log-probabilities from forward to backward and needs two more
    buffers of the size of the logits in backward. This keeps the logits, which exist anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        top_logit: Tensor,
        confidence: Tensor,
        targets: Tensor,
        cross_entropy: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        # p[target] - 1 as expm1 of the cross-entropy: the subtraction would lose everything at p near 1.
        target_gradient = torch.expm1(-cross_entropy) * coefficients
        ctx.save_for_backward(logits, top_logit, confidence * coefficients, targets, target_gradient)
        # A class masked with -inf has an infinite cross-entropy; where it weighs nothing it must add nothing.
        return torch.where(coefficients == 0, 0.0, cross_entropy * coefficients).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        logits, top_logit, scale, targets, target_gradient = ctx.saved_tensors
        gradient = torch.sub(logits, top_logit.unsqueeze(1)).exp_()
        gradient.mul_((scale * grad_output).unsqueeze(1))
        gradient.scatter_(1, targets.unsqueeze(1), (target_gradient * grad_output).unsqueeze(1))
        return gradient.to(logits.dtype), None, None, None, None, None
