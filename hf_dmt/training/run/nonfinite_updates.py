"""Updates without finite gradients: skipped for both members, counted, and after too many in a row the end of the run.

One batch with an overflow would otherwise leave NaN in every weight it reaches, in Adam's moments, and in BatchNorm's
running statistics. Nothing is read from the device at each update: the verdict stays there, the fused optimizers take
it as they take the one of fp16's gradient scaler, and the log reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...data.files import write_json
from ...models.pair import ModelPair
from .runtime_errors import RunError
from .telemetry import Telemetry

SKIPPED_BATCHES_FILE = "skipped_batches.json"


class SkipNonFinite(TrainerCallback):
    """Judges every update by the members' gradient norms.

    With one of the fused optimizers (the default) nothing is read from the device; another one costs one read an
    update, because only the host can leave it out.

    Args:
        trained: the members in training. images: by member, the ids of the images of the last so many updates.
    """

    def __init__(
        self,
        pair: ModelPair,
        accelerator: Accelerator,
        telemetry: Telemetry,
        *,
        trained: Callable[[], tuple[str, ...]],
        images: Callable[[int], list[dict[str, list[str]]]],
    ) -> None:
        self.pair, self.accelerator, self.telemetry = pair, accelerator, telemetry
        self.trained, self.images = trained, images
        self._args: Any = None  # both are set when training begins
        self._state = TrainerState()
        self._verdicts: list[Tensor] = []  # not read yet; 0-dim bool, True where the update was skipped
        self._in_a_row = self._skipped = 0  # the second since the last log
        self._statistics: list[Tensor] = []  # running means and variances of every BatchNorm, each (channels,)
        self._kept = torch.empty(0)  # what they were before the update

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._args, self._state = args, state
        self._verdicts, self._in_a_row, self._skipped = [], 0, 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Anew in every phase: a buffer that was moved to another device and back is another tensor.
        self._statistics = [
            buffer
            for name in self.trained()
            for module in self.pair.member(name).modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._statistics:
            self._kept = torch.cat(self._statistics)  # in one piece: a kernel for each of hundreds costs milliseconds

    @torch.no_grad()
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trained = self.trained()
        norms = self.telemetry.take_norms() or {
            name: nn.utils.get_total_norm(
                [value.grad for value in self.pair.member(name).parameters() if value.grad is not None]
            )
            for name in trained
        }
        finite = torch.stack([norms[name].isfinite() for name in trained]).all()
        self._verdicts.append(~finite)
        if self._statistics:
            right = torch.where(finite, torch.cat(self._statistics), self._kept)
            torch._foreach_copy_(self._statistics, list(right.split([len(value) for value in self._statistics])))
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        if self.accelerator.scaler is not None:
            return  # fp16's scaler leaves the update out by itself
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = (~finite).float()
        elif not finite:
            for parameter in self.pair.parameters():
                parameter.grad = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Also where nothing is logged: a run that learns nothing must not go on to its end.
        if len(self._verdicts) >= self._args.max_skipped_updates:
            self._read()

    def drain(self) -> dict[str, float]:
        """The log's entry: updates skipped since the last log; nothing where there was none.

        Raises:
            RunError: too many in a row, with the ids of their images in `skipped_batches.json`.
        """
        self._read()
        skipped, self._skipped = self._skipped, 0
        return {"skipped_updates": float(skipped)} if skipped else {}

    def _read(self) -> None:
        """Ask the device for the verdicts since the last time."""
        verdicts = torch.stack(self._verdicts).tolist() if self._verdicts else []
        self._verdicts = []
        for skipped in verdicts:
            self._in_a_row = self._in_a_row + 1 if skipped else 0
        self._skipped += sum(verdicts)
        if self._in_a_row >= self._args.max_skipped_updates:
            raise self._give_up()

    def _give_up(self) -> RunError:
        file, step = Path(self._args.output_dir) / SKIPPED_BATCHES_FILE, self._state.global_step
        if self._args.should_save:
            drawn = self.images(self._in_a_row)
            first = step - len(drawn) + 1
            write_json(file, [{"update": first + number, **by_member} for number, by_member in enumerate(drawn)])
        return RunError(
            f"The last {self._in_a_row} updates, up to number {step}, had no finite gradients, so "
            f"nothing was learned from them and nothing more would be. The ids of their images are in {file}: look at "
            "these first. Then lower --learning_rate, add --warmup_steps, or use --bf16 or no mixed precision instead "
            "of --fp16. Checkpoints are kept."
        )
