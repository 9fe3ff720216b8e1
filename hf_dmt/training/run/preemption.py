"""Answer SIGTERM, which a cluster sends before it takes a machine: finish the update, save a checkpoint, stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)

# With several processes all must stop at the same update, and asking each other costs a collective.
_AGREE_EVERY = 5


class StopOnSigterm(TrainerCallback):
    """Saves a checkpoint after the update in which SIGTERM arrives, and ends the training there.

    A second SIGTERM acts as if there were no handler.

    Attributes:
        stopped: the run ended before its last phase did, with a checkpoint of where it stood.
    """

    EXIT_CODE = 128 + signal.SIGTERM

    def __init__(self) -> None:
        self.asked = self.stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM inside the block; only a process's main thread may."""
        self.asked = self.stopped = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGTERM)

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(signal.SIGTERM, before)

        signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size > 1:
            if state.global_step % _AGREE_EVERY:
                return
            anyone = torch.tensor(int(self.asked), device=args.device)
            torch.distributed.all_reduce(anyone)
            self.asked = bool(anyone)
        if self.asked and state.global_step < state.max_steps:
            logger.warning(
                f"SIGTERM: saving a checkpoint of update {state.global_step} and stopping. Go on from there with "
                "--resume_from_checkpoint True."
            )
            self.stopped = control.should_save = control.should_log = control.should_training_stop = True
