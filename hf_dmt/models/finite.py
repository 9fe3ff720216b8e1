"""Detect infinite and NaN weights, with which every prediction is the first class at an ordinary-looking score."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def nonfinite_tensors(module: nn.Module) -> list[str]:
    """Names of the parameters and buffers with infinities or NaNs; needs one device synchronization.

    Of sharded parameters, only this process's part is checked.
    """
    named = [(name, _here(value)) for name, value in module.state_dict().items() if value.is_floating_point()]
    named = [(name, value) for name, value in named if value.numel()]
    if not named:
        return []
    # The sum is finite if all values are, except for an overflow, which the second check below rules out.
    sums = torch.stack([value.detach().sum(dtype=torch.float32).to(named[0][1].device) for _, value in named])
    suspects = (~sums.isfinite()).tolist()
    return [
        name for (name, value), odd in zip(named, suspects, strict=True) if odd and not bool(value.isfinite().all())
    ]


def described(names: list[str]) -> str:
    """`3 tensors, such as 'vit.embeddings.cls_token'`."""
    return f"{len(names)} tensor{'s' * (len(names) > 1)}, such as {names[0]!r}"


def _here(value: Tensor) -> Tensor:
    local: Tensor = value.to_local() if hasattr(value, "to_local") else value  # type: ignore[operator]
    return local
