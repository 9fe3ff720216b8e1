"""One training step of the pair: both members' views forward, each member's loss, with or without mixup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.transforms import IGNORE_INDEX
from ..method import MutualLoss, draw_mixup, dynamic_mutual_loss, mix, mixup_loss
from ..models.pair import MEMBERS
from .methods import Knobs


@dataclass(frozen=True)
class MemberStep:
    """What a step came to for one member.

    Attributes:
        loss: 0-dim float32 with gradient, per valid unit of this micro-batch.
        cases: the three cases and the weights behind it.
    """

    loss: Tensor
    cases: MutualLoss


def member_steps(
    model: nn.Module,
    inputs: Mapping[str, Any],
    knobs: Knobs,
    *,
    ramp: float,
    pseudo_weight: float,
    mixup_seeds: Sequence[int],
) -> tuple[dict[str, MemberStep], dict[str, Tensor]]:
    """Both members' losses on one micro-batch, and their logits.

    Args:
        model: the pair or what wraps it; one call runs both members.
        inputs: per member `pixel_values`, `labels`, `confidence`, `is_pseudo`.
        ramp: multiplier of both exponents. pseudo_weight: multiplier of every pseudo-labeled unit's weight.
        mixup_seeds: one per member; ratio and permutation are a function of them.
    """
    loss = partial(
        dynamic_mutual_loss,
        gamma1=knobs.gamma1 * ramp,
        gamma2=knobs.gamma2 * ramp,
        positive_disagree=knobs.positive_disagree,  # type: ignore[arg-type]
        ignore_index=IGNORE_INDEX,
        pseudo_weight=pseudo_weight,
    )

    def judge(name: str, logits: Tensor) -> MutualLoss:
        batch = inputs[name]
        return loss(logits, batch["labels"], batch["confidence"], batch["is_pseudo"])

    views = {name: inputs[name]["pixel_values"] for name in MEMBERS}
    if not knobs.mixup_alpha:
        logits: dict[str, Tensor] = model(**views)
        outcomes = {name: judge(name, logits[name]) for name in MEMBERS}
        return {name: MemberStep(outcome.loss, outcome) for name, outcome in outcomes.items()}, logits
    # The weights come from a first pass over the clean views, in train mode as in the official code: BatchNorm sees both.
    with torch.no_grad():
        clean = model(**views)
    cases = {name: judge(name, clean[name]) for name in MEMBERS}
    draws = {}
    for name, seed in zip(MEMBERS, mixup_seeds, strict=True):
        lam, order = draw_mixup(len(views[name]), knobs.mixup_alpha, generator=torch.Generator().manual_seed(seed))
        draws[name] = lam, order.to(views[name].device)
    logits = model(**{name: mix(views[name], *draws[name]) for name in MEMBERS})
    weighting: Any = knobs.mixup_weighting
    mixed = {
        name: mixup_loss(
            logits[name],
            cases[name].targets,
            cases[name].weights,
            *draws[name],
            weighting=weighting,
            ignore_index=IGNORE_INDEX,
        )
        for name in MEMBERS
    }
    return {name: MemberStep(mixed[name], cases[name]) for name in MEMBERS}, logits
