"""FSDP: each process holds a shard of every parameter. Full parameters are gathered here.

FSDP gathers a module's parameters in that module's forward, on all processes at once. Labeling and evaluation call
`clean_logits`, but not equally often on every process. So the parameters are gathered once before the first image and
stay whole until the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has sharded the parameters."""
    return isinstance(module, FSDPModule)


@contextmanager
def whole_parameters(pair: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Inside the block every process has all parameters, and forward passes need no communication.

    Memory: both members' weights on each device; gradients and optimizer state stay sharded.
    """
    if not is_sharded(pair):
        yield
        return
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    reshard = plugin.reshard_after_forward if plugin else True
    if "clean_logits" not in vars(pair):
        register_fsdp_forward_method(pair, "clean_logits")
    parts: list[Any] = [module for module in pair.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            if part is not pair:  # FSDP keeps the outermost module whole between forward and backward
                part.set_reshard_after_forward(reshard, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(pair: nn.Module) -> dict[str, Tensor] | None:
    """The full state of sharded parameters for saving, on the main process; None if they are not sharded. Every process
    must call this."""
    if not is_sharded(pair):
        return None
    state: dict[str, Any] = get_model_state_dict(pair, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return state
