"""Handle SIGTERM, which a cluster sends before it reclaims a machine: finish the update, save a checkpoint, stop. On
the command line, the first Ctrl-C does the same.

If a launcher dies without forwarding the signal, its processes do the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)

# All processes must stop at the same update, and agreeing on it costs a collective operation.
_AGREE_EVERY = 5


class StopOnSigterm(TrainerCallback):
    """Saves a checkpoint after the update in which SIGTERM arrives or the launcher dies, and stops training.

    A second SIGTERM acts as if there were no handler.

    Attributes:
        signals: those that stop the run.
        received: the signal that did.
        stopped: the run ended before its last phase did, with a checkpoint of its state.
    """

    def __init__(self) -> None:
        self.signals = {signal.SIGTERM}
        self.received = signal.SIGTERM
        self.asked = self.stopped = False
        self._launcher: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; only possible in the main thread."""
        self.asked = self.stopped = False
        self._launcher = _launcher()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in self.signals}

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked, self.received = True, signal.Signals(number)
            signal.signal(number, before[self.received])
            if number == signal.SIGINT:  # print() in a handler fails if it interrupts another print()
                os.write(2, b"\nStopping after this update, with a checkpoint. Ctrl-C again stops at once.\n")

        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # as with nohup
                signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        self.asked = self.asked or orphaned
        if args.world_size > 1:
            if state.global_step % _AGREE_EVERY:
                return
            anyone = torch.tensor(int(self.asked), device=args.device)
            torch.distributed.all_reduce(anyone)
            self.asked = bool(anyone)
        if self.asked and state.global_step < state.max_steps:
            logger.warning(
                f"{'The launcher has died' if orphaned else f'Received {self.received.name}'}: saving a checkpoint at "
                f"update {state.global_step} and stopping. Continue with `output_dir={args.output_dir!r}` "
                "`resume_from_checkpoint=True`."
            )
            self.stopped = control.should_save = control.should_log = control.should_training_stop = True


def _launcher() -> int | None:
    """The process id of the launcher that started this process; None if it was a shell or a scheduler, which may end
    before the run (`nohup`)."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.getppid()
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return None
    try:
        command = ["ps", "-o", "args=", "-p", str(os.getppid())]
        parent = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):  # no such program on Windows
        return None
    return os.getppid() if "accelerate" in parent else None
