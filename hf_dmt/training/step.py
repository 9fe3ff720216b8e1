"""One training step of the pair: forward passes of both models and the loss of each, with or without mixup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.members import MEMBERS
from ..data.tasks import IGNORE_INDEX
from ..method import MutualLoss, draw_mixup, dynamic_mutual_loss, gaussian_ramp, mix, mixup_loss
from .settings.knobs import Knobs


@dataclass(frozen=True)
class MemberStep:
    """The result of a step for one model.

    Attributes:
        loss: 0-dim float32 with gradient, per valid unit of this micro-batch.
        cases: the three cases and the weights used.
    """

    loss: Tensor
    cases: MutualLoss


def exponent_ramp(knobs: Knobs, done: int, steps: int) -> float:
    """Multiplier of both exponents after `done` of the `steps` updates of a phase."""
    if knobs.gamma_schedule == "constant":
        return 1.0
    return gaussian_ramp(done, steps, official=knobs.official)


def pseudo_weight(knobs: Knobs, done: int, steps: int) -> float:
    """Multiplier of the weight of every pseudo-labeled unit: 1, or ramping up at the start of an online phase."""
    rising = round(knobs.unlabeled_ramp * steps)
    return gaussian_ramp(done, rising) if rising else 1.0


def member_steps(
    model: nn.Module,
    inputs: Mapping[str, Any],
    knobs: Knobs,
    *,
    ramp: float,
    pseudo_weight: float,
    mixup_seeds: Sequence[int],
    labels_only: bool = False,
    run_idle: bool = False,
) -> tuple[dict[str, MemberStep], dict[str, Tensor]]:
    """The losses of the training models on one micro-batch, and the logits of all models that were run.

    Args:
        model: the pair, possibly wrapped; one call runs all models that have a view.
        inputs: `pixel_values`, `labels`, `confidence`, `is_pseudo` for each training model.
        ramp: multiplier of both exponents.
        pseudo_weight: multiplier of the weight of every pseudo-labeled unit.
        mixup_seeds: one per model; they determine ratio and permutation.
        labels_only: no sample is pseudo-labeled, so all weights are 1 and need no extra pass.
        run_idle: run a model that is not training on one view, without a loss; otherwise DDP waits for its gradients.
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

    views = {name: batch["pixel_values"] for name, batch in inputs.items()}
    if run_idle:
        views = {name: views[name] if name in views else next(iter(views.values()))[:1] for name in MEMBERS}
    if not knobs.mixup_alpha:
        logits: dict[str, Tensor] = model(**views)
        outcomes = {name: judge(name, logits[name]) for name in inputs}
        return {name: MemberStep(outcome.loss, outcome) for name, outcome in outcomes.items()}, logits
    if not labels_only:
        # The weights come from a first pass over the unmixed views, in train mode as in the official code, so BatchNorm
        # sees both.
        with torch.no_grad():
            unmixed = model(**views)
    draws = {}
    for name, view in views.items():
        seed = mixup_seeds[MEMBERS.index(name)]
        lam, order = draw_mixup(len(view), knobs.mixup_alpha, generator=torch.Generator().manual_seed(seed))
        draws[name] = lam, order.to(view.device)
    logits = model(**{name: mix(view, *draws[name]) for name, view in views.items()})
    with torch.no_grad():
        cases = {name: judge(name, (logits if labels_only else unmixed)[name]) for name in inputs}
    mixed = {
        name: mixup_loss(
            logits[name],
            cases[name].targets,
            cases[name].weights,
            *draws[name],
            weighting="mixed" if knobs.official else "per_term",
            ignore_index=IGNORE_INDEX,
        )
        for name in inputs
    }
    return {name: MemberStep(mixed[name], cases[name]) for name in inputs}, logits


def total_loss(
    steps: Mapping[str, MemberStep], logits: Mapping[str, Tensor], counts: Tensor | None, scale: int
) -> Tensor:
    """The sum of the models' losses, each a sum over units divided by the valid units of the whole update.

    Args:
        steps: of the training models.
        logits: of all models that were run; the others contribute with factor 0.
        counts: (2,) valid units of a and b over all processes and micro-batches; None: those of this micro-batch.
        scale: what DDP and the Trainer divide the loss by: processes x accumulation steps.
    """
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for name in logits.keys() - steps.keys():
        total = total + 0.0 * logits[name].float().sum()
    for name, result in steps.items():
        share = result.cases.valid.clamp(min=1)
        count = share if counts is None else counts[MEMBERS.index(name)]
        total = total + result.loss * share * (scale / count)
    return total


def valid_units(batches: Sequence[Mapping[str, Any]], world_size: int, device: torch.device) -> Tensor:
    """For each model, the units with a label in the micro-batches of one update, over all processes: `(2,)` int64, at
    least 1."""
    counts = torch.zeros(len(MEMBERS), dtype=torch.int64, device=device)
    for number, name in enumerate(MEMBERS):
        counts[number] = sum((batch[name]["labels"] != IGNORE_INDEX).sum() for batch in batches if name in batch)
    if world_size > 1:
        torch.distributed.all_reduce(counts)
    return counts.clamp(min=1)
