"""Whether weights are numbers. One that is not makes every prediction the first class, with a figure like any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def nonfinite_tensors(module: nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold an infinity or no number; the device is asked once.

    Of parameters that are divided over processes, this process's part is looked at.
    """
    named = [(name, _here(value)) for name, value in module.state_dict().items() if value.is_floating_point()]
    named = [(name, value) for name, value in named if value.numel()]
    if not named:
        return []
    # The sum is finite where all of them are, save for an overflow, which the second look below finds to be none.
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
