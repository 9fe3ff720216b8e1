"""The weights of a run: the live ones, their averages, each member's best ones, and the device each member is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.members import MEMBERS
from ..method.selection import DivergedError
from ..models.pair import ModelPair
from ..models.weights.best_weights import BEST_FILE, BestMembers
from ..models.weights.ema import EMA_FILE, ExponentialAverage
from ..models.weights.finite import described, nonfinite_tensors
from .labeling.inference import broadcast_buffers
from .settings.methods import Knobs


class RunWeights:
    """Which weights the pair carries when it is trained, judged and saved.

    Args:
        pair: holds the live weights. device: where training happens.

    Attributes:
        ema: averaged weights, where the run keeps them.
        best: each member's best weights of a phase, where a phase ends with them.
        away: the member that waits on the CPU while the other one trains (`member_schedule alternate`).
    """

    def __init__(self, pair: ModelPair, device: torch.device, accelerator: Accelerator) -> None:
        self.pair, self.device, self.accelerator = pair, device, accelerator
        self.ema: ExponentialAverage | None = None
        self.best: BestMembers | None = None
        self.away: str | None = None

    def keep_what_is_asked_for(self, knobs: Knobs, *, members_in_turn: bool) -> None:
        """Begin the averages and the look-out for best weights, where the settings ask for them."""
        if knobs.ema_decay:
            official, spare = knobs.official, torch.device("cpu") if members_in_turn else None
            self.ema = ExponentialAverage(self.pair, knobs.ema_decay, official=official, spare=spare)
        self.best = BestMembers() if knobs.phase_weights == "best" else None

    def offload(self, away: str | None) -> None:
        """Let a member wait on the CPU, with its averages, and bring the other one to the device; None: both there.

        Parameters stay the same objects, so the optimizer keeps its hold on them. It has nothing of the waiting member:
        each turn starts it anew.
        """
        if away == self.away:
            return
        self.away = away
        for name in sorted(MEMBERS, key=lambda name: name != away):  # it leaves before the other one comes
            device = torch.device("cpu") if name == away else self.device
            self.pair.member(name).to(device)
            if self.ema is not None:
                self.ema.move(f"model_{name}.", device)

    def averaged(self) -> AbstractContextManager[None]:
        """The pair carries the averages inside the block, where there are any."""
        return self.ema.applied() if self.ema else nullcontext()

    def check_finite(self, *, together: bool = True) -> None:
        """At every door that weights go through; `together`: every process calls it, and all raise where one does.

        Raises:
            DivergedError: a weight is an infinity or no number, so every prediction would be the first class.
        """
        with self.averaged():
            self._check_what_is_carried(together)

    def _check_what_is_carried(self, together: bool = True) -> None:
        found = nonfinite_tensors(self.pair)
        count = torch.tensor(len(found), device=self.accelerator.device)
        if together and self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(count)
        if int(count):
            where = described(found) if found else "tensors of another process"
            raise DivergedError(
                f"The training has diverged: weights are no finite numbers any more ({where}), so nothing is labeled, "
                "scored or saved with them. Go on from a checkpoint before that with a new run (--pair) and a lower "
                "--learning_rate, or add --warmup_steps"
            )

    @contextmanager
    def judging(self, *, averaged: bool = True) -> Iterator[None]:
        """The pair as it labels and is scored, on every process: the averaged weights where there are any and they are
        asked for, and the main process's BatchNorm statistics, which differ between processes after a step.

        A member that waits elsewhere joins in: without gradients both take no more memory than one in training.
        """
        away = self.away
        self.offload(None)
        broadcast_buffers(self.pair, self.accelerator)
        with self.averaged() if averaged else nullcontext():
            broadcast_buffers(self.pair, self.accelerator)  # each process has averaged its own
            self._check_what_is_carried()
            yield
        self.offload(away)

    def updated(self, names: tuple[str, ...]) -> None:
        """After an optimizer step of the named members: their averages follow."""
        if self.ema is not None:
            self.ema.update(tuple(f"model_{name}." for name in names))

    def restart_average(self) -> None:
        """The averages begin anew from the live weights."""
        if self.ema is not None:
            self.ema.restart()

    def keep_best(self, scores: Mapping[str, float], *, give_back: bool) -> bool:
        """Keep the weights of the members whose score (a fraction on the eval split) is their best so far.

        Args:
            give_back: put the best weights of each member back, and begin anew.

        Returns:
            Whether the members are now others than those just scored.
        """
        if self.best is None:
            return False
        with self.judging():
            self.best.see(self.pair, dict(scores))
        if not give_back:
            return False
        changed = self.best.scores != scores
        self.best.restore(self.pair)
        self.restart_average()
        return changed

    def save(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> list[str]:
        """Write a checkpoint's part: the live weights as a pair with a at its root, averages and best weights beside
        them.

        Args:
            state_dict: the pair's whole state where the parameters are divided over processes.

        Returns:
            The files beside the pair's.
        """
        self.pair.save_pretrained(folder, primary="a", state_dict=state_dict)
        for kept in (self.ema, self.best):
            if kept is not None:
                kept.save(folder)
        return [name for name in (EMA_FILE, BEST_FILE) if (folder / name).is_file()]

    def load(self, folder: str | Path) -> None:
        """Take up what `save` wrote."""
        self.pair.load_weights(folder)
        for kept in (self.ema, self.best):
            if kept is not None:
                kept.load(folder)
