"""Pseudo labels, the confidence of their maker, and which of them are kept.

Images are ranked over the whole set, pixels within their predicted class. Pixels are too many to sort, so their
confidences are coded to 16 bits and counted: one pass over the images serves every label ratio, and memory does not
depend on the number of pixels. `rule="official"` reproduces the index arithmetic of the official code
(classification/utils/common.py, segmentation/utils/common.py), including degenerate cases.
"""

from typing import Literal

import torch
from torch import Tensor

from hf_dmt.method.weighting import top_class

SelectionRule = Literal["exact", "official"]

CONFIDENCE_CODES = 1 << 16
# A code is the leading 16 of the 30 bits that a float32 in [0, 1] can use: 512 steps per power of two.
_DROPPED_BITS = 14


@torch.no_grad()
def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Label every unit by its most probable class.

    Args:
        logits: (N, C, *) of any floating dtype; the arithmetic is float32.

    Returns:
        labels (N, *) int64; confidence (N, *) float32, max softmax; doubt (N, *) float32, 1 - confidence as
        the sum of the other classes' probabilities. Doubt still tells units apart where confidence is rounded
        to 1.
    """
    top = top_class(logits.float() if logits.dtype == torch.float64 else logits)
    return top.label, top.confidence, top.rest / (1.0 + top.rest)


class DivergedError(ValueError):
    """Predictions that are NaN, so they cannot be ranked."""


def selected_count(ratio: float, count: int) -> int:
    """How many of `count` units a label ratio in (0, 1] selects: max(1, round(ratio * count)), or 0 of none."""
    _check_ratio(ratio)
    return max(1, round(ratio * count)) if count > 0 else 0


def select_top_ratio(confidence: Tensor, ratio: float, *, rule: SelectionRule = "exact") -> Tensor:
    """Select the most confident fraction of all images.

    Args:
        confidence: (N,) floating, or whatever orders like it: -doubt and codes also rank images whose confidence is
            rounded to 1, which would otherwise be taken in the order of the data set.
        ratio: label ratio in (0, 1].
        rule: "exact" keeps exactly `selected_count(ratio, N)`, ties broken by the lower index. "official" keeps what is
            strictly above the value at index int(1 - ratio * N) of the ascending sort: two fewer than ratio * N as a
            rule, none when that many tie at the top, all at ratio 1.

    Returns:
        (N,) bool.

    Raises:
        ValueError: a ratio outside (0, 1], a NaN confidence, a shape other than (N,), an unknown rule.
    """
    _check_ratio(ratio)
    _check_rule(rule)
    if confidence.dim() != 1:
        raise ValueError(f"confidence must be (N,), one value per image, got {tuple(confidence.shape)}")
    _check_no_nan(confidence)
    count = confidence.numel()
    if count == 0 or (rule == "official" and ratio == 1):
        return torch.ones_like(confidence, dtype=torch.bool)
    if rule == "official":
        return confidence > confidence.sort().values[int(1 - ratio * count)]
    order = torch.sort(confidence, descending=True, stable=True).indices
    mask = torch.zeros_like(confidence, dtype=torch.bool)
    mask[order[: selected_count(ratio, count)]] = True
    return mask


def class_balanced_thresholds(
    confidence: Tensor, labels: Tensor, num_classes: int, ratio: float, *, rule: SelectionRule = "exact"
) -> Tensor:
    """Threshold of every class that keeps its most confident fraction; a unit is kept when confidence >= it.

    Args:
        confidence, labels: same shape, the (sampled) units' confidences and predicted classes 0..num_classes-1.
        ratio: label ratio in (0, 1].
        rule: "exact" takes the max(1, round(n * ratio))-th largest of a class's n values. A class without
            units and, at ratio 1, every class get 0.0, which keeps all: a class that the sample missed is
            rare, and what the sample's minimum is says nothing about the units outside the sample. "official"
            takes the (int(n * ratio) + 1)-th largest, 1e-5 where n * ratio < 1, and the smallest at ratio 1.

    Returns:
        (num_classes,) float32.

    Raises:
        ValueError: a ratio outside (0, 1]; shapes that differ; NaN; a label outside the classes; and for
            rule="official" at ratio 1 a class without units, where the official code stops with an IndexError.
    """
    _check_ratio(ratio)
    _check_rule(rule)
    if confidence.shape != labels.shape:
        raise ValueError(f"confidence {tuple(confidence.shape)} and labels {tuple(labels.shape)} must have one shape")
    _check_no_nan(confidence)
    values, classes = confidence.flatten().float(), labels.flatten().long()
    _check_classes(classes, num_classes)

    counts = torch.bincount(classes, minlength=num_classes)
    exact_share = counts.double() * ratio
    if rule == "exact":
        if ratio == 1:
            return values.new_zeros(num_classes)
        rank, fallback, fixed = exact_share.round().long().clamp(min=1), 0.0, counts == 0
    else:
        if ratio == 1 and bool((counts == 0).any()):
            unseen = (counts == 0).nonzero().flatten().tolist()
            raise ValueError(
                f"rule='official' has no threshold at ratio 1 for classes that are never predicted: "
                f"{unseen}; use rule='exact' or a ratio below 1"
            )
        rank = counts if ratio == 1 else exact_share.long() + 1
        fallback, fixed = 1e-5, exact_share < 1
    if values.numel() == 0:
        return values.new_full((num_classes,), fallback)

    # All units sorted by class, and within a class by falling confidence: two stable sorts.
    order = torch.sort(values, descending=True, stable=True).indices
    order = order[torch.sort(classes[order], stable=True).indices]
    starts = counts.cumsum(0) - counts
    position = (starts + rank - 1).clamp(max=values.numel() - 1)
    return torch.where(fixed, fallback, values[order[position]])


def encode_confidence(confidence: Tensor | None = None, *, doubt: Tensor | None = None) -> Tensor:
    """Code confidences to 16 bits so that their order near 1 survives.

    A linear or float16 code calls everything above 0.9998 equal, and a trained model puts most units there.
    The code is the leading bits of doubt = 1 - confidence: a step is at most 1/512 of it, down to 1e-38.

    Args:
        confidence: any shape, in [0, 1]; differences below 6e-8 are already lost in it.
        doubt: 1 - confidence, from `pseudo_label`; give exactly one of the two.

    Returns:
        int32 of the same shape in 0..65535 (fits uint16), non-decreasing in confidence. NaN becomes 0.

    Raises:
        ValueError: both or neither argument given.
    """
    if (confidence is None) == (doubt is None):
        raise ValueError("give either confidence or doubt=1 - confidence, exactly one of them")
    if doubt is None:
        assert confidence is not None
        doubt = 1.0 - confidence.float()
    bits = doubt.float().clamp(0.0, 1.0).view(torch.int32)
    return (CONFIDENCE_CODES - 1 - (bits >> _DROPPED_BITS)).clamp(min=0)


def decode_confidence(codes: Tensor) -> Tensor:
    """Confidence float32 in [0, 1] at the middle of each code's step; takes any integer dtype."""
    bits = (CONFIDENCE_CODES - 1 - codes.to(torch.int32)) << _DROPPED_BITS
    return 1.0 - (bits | 1 << (_DROPPED_BITS - 1)).view(torch.float32).clamp(max=1.0)


def confidence_histogram(codes: Tensor, labels: Tensor, num_classes: int, *, out: Tensor | None = None) -> Tensor:
    """Count codes per class. Histograms add: over images by `out`, over processes by a sum.

    Args:
        codes, labels: same shape, from `encode_confidence` and `pseudo_label`.
        out: a histogram to add to, in place; None starts a new one.

    Returns:
        (num_classes, 65536) int64.

    Raises:
        ValueError: shapes that differ, a label outside 0..num_classes-1, an `out` of another shape or dtype.
    """
    if codes.shape != labels.shape:
        raise ValueError(f"codes {tuple(codes.shape)} and labels {tuple(labels.shape)} must have one shape")
    labels = labels.flatten().long()
    if labels.device.type == "cpu":
        _check_classes(labels, num_classes)
    shape = (num_classes, CONFIDENCE_CODES)
    if out is None:
        out = torch.zeros(shape, dtype=torch.int64, device=labels.device)
    elif tuple(out.shape) != shape or out.dtype != torch.int64:
        raise ValueError(f"out must be int64 {shape}, got {out.dtype} {tuple(out.shape)}")
    index = labels * CONFIDENCE_CODES + codes.flatten().long()
    out.view(-1).scatter_add_(0, index, torch.ones_like(index))
    return out


def thresholds_from_histogram(histogram: Tensor, ratio: float) -> Tensor:
    """Code threshold of every class; a unit is kept when its code >= the threshold of its class.

    Keeps the smallest number of whole bins that holds max(1, round(n * ratio)) of a class's n units: the rule
    "exact" of `class_balanced_thresholds` up to one bin. At ratio 1, and for a class without units, it is 0.

    Args:
        histogram: (num_classes, 65536) from `confidence_histogram`.
        ratio: label ratio in (0, 1].

    Returns:
        (num_classes,) int64.
    """
    _check_ratio(ratio)
    counts = histogram.sum(dim=1)
    if ratio == 1:
        return torch.zeros_like(counts)
    wanted = (counts.double() * ratio).round().long().clamp(min=1)
    from_the_top = histogram.flip(1).cumsum(dim=1)
    bins = torch.searchsorted(from_the_top, wanted.unsqueeze(1)).squeeze(1)
    # A class without units never reaches 1: its index is one past the end.
    return (histogram.shape[1] - 1 - bins).clamp(min=0)


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise ValueError(f"a label ratio must be in (0, 1], got {ratio}: 0.2 keeps the most confident 20 %")


def _check_rule(rule: str) -> None:
    if rule not in ("exact", "official"):
        raise ValueError(f"rule must be 'exact' or 'official', got {rule!r}")


def _check_no_nan(confidence: Tensor) -> None:
    missing = int(confidence.isnan().sum())
    if missing:
        raise DivergedError(
            f"{missing} of {confidence.numel()} confidences are NaN, which no order can rank: the model that "
            "made them has diverged, lower its learning rate or train it in float32"
        )


def _check_classes(classes: Tensor, num_classes: int) -> None:
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        raise ValueError(
            f"predicted class {classes[outside][0].item()} is outside 0..{num_classes - 1}: "
            "leave ignored units out, only predictions are ranked"
        )
