"""The dynamic weight of a pseudo-labeled unit (an image or a pixel).

Notation of the DMT figure (Feng et al., Pattern Recognition 2022, arXiv 2004.08514; the three cases follow the official
code): y and c are the pseudo label and the confidence that the teacher gave; p = softmax(logits) is the student's
prediction on the augmented view, q = p[y] its probability for the teacher's label.

    agree               argmax p = y                    q ** gamma1
    negative disagree   argmax p != y, max p <= c       q ** gamma2
    positive disagree   argmax p != y, max p >  c       0 (drop), q ** gamma2 (keep), (1 - c) ** gamma2 (flip)
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

PositiveDisagree = Literal["drop", "keep", "flip"]


class Top(NamedTuple):
    """The winning class of every unit and what is needed of the log-sum-exp; each tensor is (N, *).

    `rest` is the sum of exp(z - logit) over the other classes, so that p = exp(z - logit) / (1 + rest). Leaving the
    winner's own 1 out of the sum preserves precision near certainty: 1 - max p = rest / (1 + rest) is accurate even
    where float32 can no longer distinguish max p from 1.
    """

    logit: Tensor
    label: Tensor
    rest: Tensor

    @property
    def confidence(self) -> Tensor:
        """max p, float32."""
        return 1.0 / (1.0 + self.rest)


def top_class(logits: Tensor) -> Top:
    """Find the winning class of logits (N, C, *) and its log-sum-exp, in float32 for any input dtype."""
    logit, label = logits.max(dim=1)
    logit = logit.float()
    # The subtraction promotes half precision to float32 without a separate float32 copy of the logits.
    exponentials = torch.sub(logits, logit.unsqueeze(1)).exp_()
    exponentials.scatter_(1, label.unsqueeze(1), 0.0)
    return Top(logit, label, exponentials.sum(dim=1))


def unit_cross_entropy(logits: Tensor, top: Top, classes: Tensor) -> Tensor:
    """-log softmax(logits)[classes] as (N, *) float32, for `classes` (N, *) int64 in 0..C-1."""
    class_logit = logits.gather(1, classes.unsqueeze(1)).squeeze(1).float()
    # Subtracting the maximum first keeps small cross-entropies exact for logits of any size.
    return (top.logit - class_logit) + torch.log1p(top.rest)


class Judgment(NamedTuple):
    """How the student judges each label; each tensor is (N, *).

    weights are float32 (1 for labeled units, 0 if ignored), targets int64 (`labels`, after flips), cross_entropy
    float32 (against the targets, 0 if ignored); the three cases and `valid` are bool. The cases are True for valid
    pseudo-labeled units only.
    """

    weights: Tensor
    targets: Tensor
    cross_entropy: Tensor
    agree: Tensor
    negative_disagree: Tensor
    positive_disagree: Tensor
    valid: Tensor


@torch.no_grad()
def judge(
    logits: Tensor,
    top: Top,
    labels: Tensor,
    confidence: Tensor,
    is_pseudo: Tensor | None,
    *,
    gamma1: float | Tensor,
    gamma2: float | Tensor,
    positive_disagree: PositiveDisagree,
    ignore_index: int,
    pseudo_weight: float = 1.0,
) -> Judgment:
    """Apply the table above; `is_pseudo` (N,) bool is True for pseudo-labeled samples, None means all are.

    `pseudo_weight` multiplies the weights of pseudo-labeled units.

    Branches depend on shapes and options only, never on tensor values, so there is no device synchronization.
    """
    confidence = confidence.float()
    valid = labels != ignore_index
    pseudo = valid if is_pseudo is None else valid & is_pseudo.view(-1, *[1] * (labels.dim() - 1))
    index = torch.where(valid, labels, 0)
    cross_entropy = unit_cross_entropy(logits, top, index)

    same = top.label == labels
    wins = top.confidence > confidence
    agree = pseudo & same
    positive = pseudo & ~same & wins
    negative = pseudo & ~same & ~wins

    gamma1, gamma2 = _exponent(gamma1, logits), _exponent(gamma2, logits)
    weights = torch.exp(-cross_entropy) ** torch.where(agree, gamma1, gamma2)
    targets = labels
    if positive_disagree == "drop":
        weights = torch.where(positive, 0.0, weights)
    elif positive_disagree == "flip":
        weights = torch.where(positive, (1.0 - confidence) ** gamma2, weights)
        targets = torch.where(positive, top.label, labels)
        cross_entropy = torch.where(positive, torch.log1p(top.rest), cross_entropy)
    weights = torch.where(pseudo, weights * pseudo_weight, valid.float())
    cross_entropy = torch.where(valid, cross_entropy, 0.0)
    return Judgment(weights, targets, cross_entropy, agree, negative, positive, valid)


def dynamic_weights(
    logits: Tensor,
    pseudo_labels: Tensor,
    confidence: Tensor,
    *,
    gamma1: float | Tensor,
    gamma2: float | Tensor,
    positive_disagree: PositiveDisagree = "drop",
    ignore_index: int = -100,
) -> Tensor:
    """Weight of every pseudo-labeled unit (module docstring has the table).

    Args:
        logits: (N, C, *) of any floating dtype, from the model that is being trained.
        pseudo_labels: (N, *) integers in 0..C-1 or `ignore_index`.
        confidence: (N, *) floating, the teacher's probability for its label, in [0, 1].
        gamma1: exponent for agree; >= 0, a number or a 0-dim tensor on the logits' device.
        gamma2: exponent for both disagreements; likewise.
        positive_disagree: "drop" (weight 0), "keep" (q ** gamma2) or "flip" ((1 - c) ** gamma2, for the target argmax p
            that `dynamic_mutual_loss` sets). With gamma 0 a power is 1, even that of 0.
        ignore_index: label of units that get weight 0.

    Returns:
        (N, *) float32 in [0, 1], without gradient.

    Raises:
        ValueError: shapes or dtypes that do not fit, a negative exponent, an unknown `positive_disagree`, or
            (for CPU tensors only: reading values elsewhere would wait for the device) a label outside 0..C-1.
    """
    logits, labels = check_units(logits, pseudo_labels, ignore_index, confidence=confidence)
    check_rule(gamma1, gamma2, positive_disagree)
    logits = logits.detach()
    return judge(
        logits,
        top_class(logits),
        labels,
        confidence,
        None,
        gamma1=gamma1,
        gamma2=gamma2,
        positive_disagree=positive_disagree,
        ignore_index=ignore_index,
    ).weights


def check_units(logits: Tensor, labels: Tensor, ignore_index: int, **per_unit: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse inputs that would silently broadcast or index wrongly; return logits and int64 labels.

    `per_unit` are further tensors with the shape of the labels, by their names for errors. float64 logits are returned
    as float32, in which the method is defined; half precision is promoted where it is used.
    """
    if logits.dim() < 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating (N, C, *), got {logits.dtype} {tuple(logits.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}: pass class ids, not probabilities")
    expected = (logits.shape[0], *logits.shape[2:])
    for name, tensor in {"labels": labels, **per_unit}.items():
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but logits {tuple(logits.shape)} need {expected}: "
                "one value per unit, nothing is broadcast; bring both to the same resolution first"
            )
    labels = labels.long()
    # Off the CPU, reading the labels would synchronize with the device.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        check_label_range(labels, logits.shape[1], ignore_index)
    return (logits.float() if logits.dtype == torch.float64 else logits), labels


def check_label_range(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise a ValueError that names the first label that is neither a class nor `ignore_index`."""
    outside = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if outside.any():
        raise ValueError(
            f"label {labels[outside][0].item()} is outside 0..{num_classes - 1} (the logits have "
            f"{num_classes} classes) and is not ignore_index={ignore_index}: map it to a class or to "
            f"{ignore_index}, or give the model a head with more classes"
        )


def check_rule(gamma1: float | Tensor, gamma2: float | Tensor, positive_disagree: str) -> None:
    """Raise ValueError for an exponent below 0 (numbers only) or an unknown `positive_disagree`."""
    for name, gamma in (("gamma1", gamma1), ("gamma2", gamma2)):
        if isinstance(gamma, Tensor):
            if gamma.dim() != 0:
                raise ValueError(f"{name} must be a number or a 0-dim tensor, got shape {tuple(gamma.shape)}")
        elif not gamma >= 0:
            raise ValueError(f"{name} must be >= 0, got {gamma}: below 0 the least certain units weigh most")
    if positive_disagree not in ("drop", "keep", "flip"):
        raise ValueError(f"positive_disagree must be 'drop', 'keep' or 'flip', got {positive_disagree!r}")


def _exponent(gamma: float | Tensor, like: Tensor) -> Tensor:
    # A fill rather than torch.tensor(): copying a Python number to a device would synchronize.
    if isinstance(gamma, Tensor):
        return gamma.to(device=like.device, dtype=torch.float32, non_blocking=True)
    return torch.full((), gamma, dtype=torch.float32, device=like.device)
