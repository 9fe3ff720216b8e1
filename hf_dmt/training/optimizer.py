"""One optimizer for two models: parameter groups by model and learning rate, new starts, and gradient clipping per
model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..data.members import MEMBERS
from ..models.pair import ModelPair
from ..models.weights.sharding import whole
from .settings.arguments import DMTTrainingArguments


def divide_by_rate(
    optimizer: torch.optim.Optimizer, pair: ModelPair, args: DMTTrainingArguments, scales: dict[str, dict[str, float]]
) -> None:
    """Split every parameter group of `optimizer` in place, by model and learning rate, if there is more than one rate.

    The groups of a with the full rate come first, because the Trainer logs the rate of the first group.

    Args:
        scales: by model and parameter, the factor on the rate if it is not 1.
    """
    if args.learning_rate_b is None and not scales:
        return
    rates = {"a": args.learning_rate, "b": args.learning_rate if args.learning_rate_b is None else args.learning_rate_b}
    places = {
        id(parameter): (name, rates[name] * scales.get(name, {}).get(key, 1.0))
        for name in MEMBERS
        for key, parameter in pair.member(name).named_parameters()
    }
    for group in list(optimizer.param_groups):
        parts: dict[tuple[str, float], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(places[id(parameter)], []).append(parameter)
        rest = {key: value for key, value in group.items() if key not in ("params", "lr")}
        for number, part in enumerate(sorted(parts, key=lambda part: (part[0], -part[1]))):
            if number == 0:
                group |= {"params": parts[part], "lr": part[1]}
            else:
                optimizer.add_param_group({**rest, "params": parts[part], "lr": part[1]})


def new_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of the state of an optimizer that has made no update, without what a scheduler has changed."""
    state: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group["lr"] = group.pop("initial_lr", group["lr"])
    return state


def start_over(optimizer: torch.optim.Optimizer, state: dict[str, Any], factor: float) -> None:
    """Give an optimizer a `new_state` with its learning rates multiplied."""
    optimizer.load_state_dict(copy.deepcopy(state))
    for group in optimizer.param_groups:
        group["lr"] *= factor


def clip_by_member(pair: ModelPair, names: tuple[str, ...], max_norm: float) -> dict[str, Tensor]:
    """Clip the gradients of each named model by its own norm, and return the norms before clipping (0-dim).

    With joint clipping, the larger gradient would limit the update of the other model.
    """
    return {name: whole(nn.utils.clip_grad_norm_(pair.member(name).parameters(), max_norm)) for name in names}
