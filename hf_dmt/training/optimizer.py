"""What one optimizer over two members needs: groups by member, and each member clipped by its own norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.pair import ModelPair
from ..models.weights.sharding import whole


def divide_by_member(optimizer: torch.optim.Optimizer, pair: ModelPair, *, learning_rate_b: float) -> None:
    """Split every parameter group of `optimizer` in place: a's part keeps its learning rate, b's gets its own."""
    of_b = {id(parameter) for parameter in pair.model_b.parameters()}
    for group in list(optimizer.param_groups):
        parameters_b = [parameter for parameter in group["params"] if id(parameter) in of_b]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_b]
        rest = {key: value for key, value in group.items() if key not in ("params", "lr")}
        optimizer.add_param_group({**rest, "params": parameters_b, "lr": learning_rate_b})


def clip_by_member(pair: ModelPair, names: tuple[str, ...], max_norm: float) -> dict[str, Tensor]:
    """Clip the gradients of each named member by its own norm, and return these norms (0-dim) from before.

    Clipped jointly, the larger gradient would decide how far the other model moves.
    """
    return {name: whole(nn.utils.clip_grad_norm_(pair.member(name).parameters(), max_norm)) for name in names}
