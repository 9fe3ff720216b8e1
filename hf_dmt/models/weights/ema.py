"""A running average of both members' weights, used for labeling, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...data.pair_file import CheckpointError

EMA_FILE = "ema.safetensors"


class ExponentialAverage:
    """`average = decay * average + (1 - decay) * weight` for floating-point tensors; everything else is copied.

    BatchNorm's running statistics are averaged like the weights they belong to. Integers must not be: rounding shifts,
    for example, BEiT's relative-position index to wrong rows and costs up to 20 points of mIoU.

    Args:
        decay: in [0, 1); 0 keeps the last weights.
        official: follow the official code, which swaps the two factors (`average -= decay * (average - weight)`), so
            that its average is nearly the last weights.
        spare: the device for the live weights while the averages replace them; None leaves them on their device.
    """

    def __init__(
        self, module: nn.Module, decay: float, *, official: bool = False, spare: torch.device | None = None
    ) -> None:
        self.module, self.spare = module, spare
        self.step = decay if official else 1.0 - decay
        self.state: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Start over from the live weights (at the start of a phase)."""
        self.state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self, prefixes: tuple[str, ...] = ("",)) -> None:
        """Update the averages of tensors whose names start with one of `prefixes`, after an optimizer step."""
        live = {name: value for name, value in self.module.state_dict().items() if name.startswith(prefixes)}
        averaged = [name for name, value in live.items() if value.is_floating_point()]
        # One fused call instead of a Python loop with a clone per tensor.
        torch._foreach_lerp_([self.state[name] for name in averaged], [live[name] for name in averaged], self.step)
        for name in live.keys() - set(averaged):
            self.state[name].copy_(live[name])

    def move(self, prefix: str, device: torch.device) -> None:
        """Move the averages whose names start with `prefix` to another device."""
        self.state |= {name: value.to(device) for name, value in self.state.items() if name.startswith(prefix)}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the module has the averages, and afterwards its live weights again."""
        live = {
            name: value.detach().to(self.spare or value.device, copy=True)
            for name, value in self.module.state_dict().items()
        }
        self.module.load_state_dict(self.state, strict=True)
        try:
            yield
        finally:
            self.module.load_state_dict(live, strict=True)

    def save(self, folder: str | Path) -> None:
        save_file({name: value.contiguous().clone() for name, value in self.state.items()}, Path(folder) / EMA_FILE)

    def load(self, folder: str | Path) -> None:
        """Load the averages of a checkpoint.

        Raises:
            CheckpointError: no readable file, or one with tensors of another module.
        """
        file = Path(folder) / EMA_FILE
        try:
            saved = load_file(file)
        except (OSError, SafetensorError) as problem:
            raise CheckpointError(f"{file} cannot be read ({problem}). Resume from another checkpoint.") from problem
        of_file, ours = ({name: value.shape for name, value in state.items()} for state in (saved, self.state))
        if of_file != ours:
            raise CheckpointError(f"{file} belongs to another pair. Resume with the models that wrote it.")
        for name, value in saved.items():
            self.state[name].copy_(value)
