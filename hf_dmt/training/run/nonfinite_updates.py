"""Updates with non-finite gradients: skip them for both models, count them, and stop the run after too many in a row.

Without this, one overflowing batch would put NaN into every weight it reaches, into Adam's moments and into the running
statistics of BatchNorm. The check does not synchronize with the device at each update: the result stays on the device,
where fused optimizers read it just like fp16's found-inf flag, and the log reads it later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ...data.files import write_json
from .runtime_errors import RunError

SKIPPED_BATCHES_FILE = "skipped_batches.json"


class SkipNonFinite(TrainerCallback):
    """Judges every update by the gradient norms of the models.

    With a fused optimizer (the default) there is no device synchronization; with others there is one per update,
    because only the host can skip the step.

    Args:
        trainer: a `DMTTrainer`, whose class imports this file.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._verdicts: list[Tensor] = []  # not read yet; 0-dim bool, True if the update was skipped
        self._in_a_row = self._skipped = 0  # the second counts since the last log
        self._statistics: list[Tensor] = []  # running means and variances of all BatchNorms, each (channels,)
        self._kept = torch.empty(0)  # their values before the update

    def on_train_begin(self, *event: Any, **kwargs: Any) -> None:
        self._verdicts, self._in_a_row, self._skipped = [], 0, 0

    def on_epoch_begin(self, *event: Any, **kwargs: Any) -> None:
        # Collected again in every phase: a buffer that was moved to another device and back is a different tensor.
        self._statistics = [
            buffer
            for name in self.trainer.trained_members
            for module in self.trainer.model.member(name).modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]

    def on_step_begin(self, *event: Any, **kwargs: Any) -> None:
        if self._statistics:
            # concatenated, because hundreds of small kernels cost milliseconds
            self._kept = torch.cat(self._statistics)

    @torch.no_grad()
    def on_pre_optimizer_step(self, *event: Any, optimizer: Any, **kwargs: Any) -> None:
        norms = self.trainer.telemetry.norms
        finite = torch.stack([norms[name].isfinite() for name in self.trainer.trained_members]).all()
        self._verdicts.append(~finite)
        if self._statistics:
            right = torch.where(finite, torch.cat(self._statistics), self._kept)
            torch._foreach_copy_(self._statistics, list(right.split([len(value) for value in self._statistics])))
        inner = getattr(optimizer, "optimizer", optimizer)  # without the wrapper of accelerate
        if self.trainer.accelerator.scaler is not None:
            return  # fp16's scaler skips the update itself
        if getattr(inner, "_step_supports_amp_scaling", False):
            inner.found_inf = (~finite).float()
        elif not finite:
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def on_step_end(self, *event: Any, **kwargs: Any) -> None:
        # Also without logging, so that a run that learns nothing does not continue to its end.
        if len(self._verdicts) >= self.trainer.args.max_skipped_updates:
            self._read()

    def drain(self) -> dict[str, float]:
        """The log entry: updates skipped since the last log, if any.

        Raises:
            RunError: too many in a row; the ids of their images are in `skipped_batches.json`.
        """
        self._read()
        skipped, self._skipped = self._skipped, 0
        return {"skipped_updates": float(skipped)} if skipped else {}

    def _read(self) -> None:
        """Read the results since the last time from the device."""
        verdicts = torch.stack(self._verdicts).tolist() if self._verdicts else []
        self._verdicts = []
        for skipped in verdicts:
            self._in_a_row = self._in_a_row + 1 if skipped else 0
        self._skipped += sum(verdicts)
        if self._in_a_row >= self.trainer.args.max_skipped_updates:
            raise self._give_up()

    def _give_up(self) -> RunError:
        args, step = self.trainer.args, self.trainer.state.global_step
        file = Path(args.output_dir) / SKIPPED_BATCHES_FILE
        if args.should_save:
            drawn = self.trainer.images_of_last_updates(self._in_a_row)
            first = step - len(drawn) + 1
            write_json(file, [{"update": first + number, **by_member} for number, by_member in enumerate(drawn)])
        return RunError(
            f"The last {self._in_a_row} updates, up to number {step}, had non-finite gradients and were skipped, so "
            f"the run has stopped learning. The ids of their images are in {file}: check these first. Then lower "
            "`learning_rate`, add `warmup_steps`, or replace `fp16` by `bf16` or full precision. Earlier "
            "checkpoints, if there are any, are kept."
        )
