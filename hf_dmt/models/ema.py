"""A running average of both members' weights, swapped in where they label, are evaluated and are exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

EMA_FILE = "ema.safetensors"


class ExponentialAverage:
    """`average = decay * average + (1 - decay) * weight` over floating-point parameters; everything else is copied.

    Integer tensors must not be averaged: rounding them moves, for example, BEiT's relative-position index to wrong rows
    and costs up to 20 points of mIoU. BatchNorm's running statistics are copied, as in the paper's code.

    Args:
        module: the module to follow; `official=True` follows the official code's update, whose factor is inverted
            (`paper` table B1), so that its average is the last weights.
    """

    def __init__(self, module: nn.Module, decay: float, *, official: bool = False) -> None:
        self.module = module
        self.decay = 1.0 - decay if official else decay
        self._averaged = {name for name, value in module.named_parameters() if value.is_floating_point()}
        self.state: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin again from the live weights (at the start of a phase)."""
        self.state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """One step, after the optimizer's."""
        live = self.module.state_dict()
        names = [name for name in live if name in self._averaged]
        # One fused call instead of a Python loop with a clone for every tensor.
        torch._foreach_lerp_(
            [self.state[name] for name in names], [live[name].detach() for name in names], 1.0 - self.decay
        )
        for name, value in live.items():
            if name not in self._averaged:
                self.state[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module carries the averages inside the block and its live weights again afterwards."""
        live = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.state, strict=True)
        try:
            yield
        finally:
            self.module.load_state_dict(live, strict=True)

    def save(self, folder: str | Path) -> None:
        save_file({name: value.contiguous().clone() for name, value in self.state.items()}, Path(folder) / EMA_FILE)

    def load(self, folder: str | Path) -> None:
        """Continue from a checkpoint's averages.

        Raises:
            ValueError: the file holds other tensors than the module.
        """
        saved = load_file(Path(folder) / EMA_FILE)
        if saved.keys() != self.state.keys():
            raise ValueError(
                f"{Path(folder) / EMA_FILE} belongs to another pair. Resume with the models it was written by."
            )
        for name, value in saved.items():
            self.state[name].copy_(value)
