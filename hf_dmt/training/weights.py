"""The weights of a run: the live ones, their averages, each model's best ones, and the device of each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.members import MEMBERS
from ..hub.push import Staging
from ..method.selection import DivergedError
from ..models.finite import described, nonfinite_tensors
from ..models.pair import ModelPair
from ..models.weights.best_weights import BestMembers
from ..models.weights.ema import ExponentialAverage
from ..models.weights.sharding import whole_state
from .labeling.inference import broadcast_buffers
from .settings.methods import Knobs


class RunWeights:
    """Which weights the pair has when it is trained, evaluated and saved.

    Attributes:
        ema: averaged weights, if enabled.
        best: each model's best weights of a phase, if phases end with them.
        away: the model that waits on the CPU while the other one trains (`member_schedule alternate`).
    """

    def __init__(self, pair: ModelPair, device: torch.device, accelerator: Accelerator) -> None:
        self.pair, self.device, self.accelerator = pair, device, accelerator
        self.ema: ExponentialAverage | None = None
        self.best: BestMembers | None = None
        self.away: str | None = None

    def start_tracking(self, knobs: Knobs, *, members_in_turn: bool) -> None:
        """Start averaging and tracking best weights, if the settings ask for it."""
        if knobs.ema_decay:
            official, spare = knobs.official, torch.device("cpu") if members_in_turn else None
            self.ema = ExponentialAverage(self.pair, knobs.ema_decay, official=official, spare=spare)
        self.best = BestMembers() if knobs.phase_weights == "best" else None

    def offload(self, away: str | None) -> None:
        """Move a model with its averages to the CPU and the other one to the device; None: both to the device.

        Parameters stay the same objects, so the optimizer still refers to them. It has no state for the waiting model,
        because each turn resets it.
        """
        if away == self.away:
            return
        self.away = away
        for name in sorted(MEMBERS, key=lambda name: name != away):  # move one away before loading the other
            device = torch.device("cpu") if name == away else self.device
            self.pair.member(name).to(device)
            if self.ema is not None:
                self.ema.move(f"model_{name}.", device)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the pair has the averaged weights, if there are any."""
        return self.ema.applied() if self.ema else nullcontext()

    def check_finite(self, *, together: bool = True) -> None:
        """Check the weights before they are used or stored; with `together`, every process calls it, and all raise if
        one does.

        Raises:
            DivergedError: a weight is infinite or NaN, so every prediction would be the first class.
        """
        with self.averaged():
            self._check_current(together)

    def _check_current(self, together: bool = True) -> None:
        found = nonfinite_tensors(self.pair)
        count = torch.tensor(len(found), device=self.accelerator.device)
        if int(self.accelerator.reduce(count) if together else count):
            where = described(found) if found else "tensors of another process"
            raise DivergedError(
                f"Training has diverged: weights are infinite or NaN ({where}), so nothing is labeled, scored or "
                "saved with them. Start a new run from an earlier checkpoint (`ModelPair.from_pretrained`) with a "
                "lower `learning_rate`, or add `warmup_steps`"
            )

    @contextmanager
    def for_inference(self, *, averaged: bool = True) -> Iterator[None]:
        """The pair as it labels and is evaluated, on every process: the averaged weights, if there are any and they are
        requested, and the main process's BatchNorm statistics, which differ between processes after a step.

        A model that waits on the CPU is included: without gradients, both need no more memory than one in training.
        """
        away = self.away
        self.offload(None)
        broadcast_buffers(self.pair, self.accelerator)
        with self.averaged() if averaged else nullcontext():
            broadcast_buffers(self.pair, self.accelerator)  # each process has averaged its own
            self._check_current()
            yield
        self.offload(away)

    def updated(self, names: tuple[str, ...]) -> None:
        """Update the averages of the named models after an optimizer step."""
        if self.ema is not None:
            self.ema.update(tuple(f"model_{name}." for name in names))

    def restart_average(self) -> None:
        """Restart the averages from the live weights."""
        if self.ema is not None:
            self.ema.restart()

    def keep_best(self, scores: Mapping[str, float], *, give_back: bool) -> bool:
        """Keep the weights of the models whose score (a fraction on the eval split) is their best so far.

        Args:
            give_back: restore the best weights of each model, and start over.

        Returns:
            Whether the models now differ from those that were just scored.
        """
        if self.best is None:
            return False
        with self.for_inference():
            self.best.update(self.pair, dict(scores))
        if not give_back:
            return False
        changed = self.best.scores != scores
        self.best.restore(self.pair)
        self.restart_average()
        return changed

    def save(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the pair's part of a checkpoint: the live weights with a at the root, plus averages and best weights.

        Args:
            state_dict: the pair's full state if the parameters are sharded.
        """
        self.pair.save_pretrained(folder, primary="a", state_dict=state_dict)
        for kept in (self.ema, self.best):
            if kept is not None:
                kept.save(folder)

    def export(self, folder: Path, primary: str, *, writes: bool, together: bool) -> None:
        """Write the pair as it was scored, with the averaged weights if there are any and `primary` at the root;
        `together` is as for `check_finite`."""
        self.check_finite(together=together)
        with self.averaged():
            state = whole_state(self.pair)
            if writes:
                self.pair.save_pretrained(folder, primary=primary, state_dict=state)

    def stage(self, staging: Staging, *, checkpoint: Path, primary: str) -> None:
        """Prepare the pair of a checkpoint for a push: the averages, which are not yet files, if there are any."""
        if self.ema is None:
            staging.add_pair(checkpoint, primary)
            return
        with self.averaged():
            self.pair.save_pretrained(staging.folder, primary=primary)

    def load(self, folder: str | Path) -> None:
        """Load what `save` wrote."""
        self.pair.load_weights(folder)
        for kept in (self.ema, self.best):
            if kept is not None:
                kept.load(folder)
