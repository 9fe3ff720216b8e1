"""Updates without finite gradients: skipped for both members, counted, and after too many in a row the end of the run.

One batch with an overflow would otherwise leave NaN in every weight it reaches, in Adam's moments, and in BatchNorm's
running statistics. Nothing is read from the device at each update: the verdict stays there, the fused optimizers take
it as they take the one of fp16's gradient scaler, and the log reads it.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...data.drawing.sampler import Draw
from ...data.files import write_json
from ..labeling.label_pass import unlabeled_ids
from .runtime_errors import RunError

if TYPE_CHECKING:
    from ..trainer import DMTTrainer

SKIPPED_BATCHES_FILE = "skipped_batches.json"


class SkipNonFinite(TrainerCallback):
    """Judges every update by the members' gradient norms.

    With one of the fused optimizers (the default) nothing is read from the device; another one costs one read an
    update, because only the host can leave it out.
    """

    def __init__(self, trainer: DMTTrainer) -> None:
        self.trainer = trainer
        self._verdicts: list[Tensor] = []  # since the last log; 0-dim bool, True where the update was skipped
        self._in_a_row = 0
        self._statistics: list[Tensor] = []  # running means and variances of every BatchNorm, each (channels,)
        self._kept = torch.empty(0)  # what they were before the update

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._verdicts, self._in_a_row = [], 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Anew in every phase: a buffer that was moved to another device and back is another tensor.
        self._statistics = [
            buffer
            for name in self.trainer.course.trained
            for module in self.trainer.model.member(name).modules()
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
        trained = self.trainer.course.trained
        norms = self.trainer.telemetry.take_norms() or {
            name: nn.utils.get_total_norm(
                [value.grad for value in self.trainer.model.member(name).parameters() if value.grad is not None]
            )
            for name in trained
        }
        finite = torch.stack([norms[name].isfinite() for name in trained]).all()
        self._verdicts.append(~finite)
        if self._statistics:
            right = torch.where(finite, torch.cat(self._statistics), self._kept)
            torch._foreach_copy_(self._statistics, list(right.split([len(value) for value in self._statistics])))
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
        if self.trainer.accelerator.scaler is not None:
            return  # fp16's scaler leaves the update out by itself
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = (~finite).float()
        elif not finite:
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def drain(self) -> dict[str, float]:
        """The log's entry: updates skipped since the last log; nothing where there was none.

        Raises:
            RunError: too many in a row, with the ids of their images in `skipped_batches.json`.
        """
        verdicts = torch.stack(self._verdicts).tolist() if self._verdicts else []
        self._verdicts = []
        for skipped in verdicts:
            self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= self.trainer.args.max_skipped_updates:
            raise self._give_up()
        return {"skipped_updates": float(sum(verdicts))} if any(verdicts) else {}

    def _give_up(self) -> RunError:
        trainer, file = self.trainer, Path(self.trainer.args.output_dir) / SKIPPED_BATCHES_FILE
        if trainer.args.should_save:
            write_json(file, self._images())
        return RunError(
            f"The last {self._in_a_row} updates, up to number {trainer.state.global_step}, had no finite gradients, so "
            f"nothing was learned from them and nothing more would be. The ids of their images are in {file}: look at "
            "these first. Then lower --learning_rate, add --warmup_steps, or use --bf16 or no mixed precision instead "
            "of --fp16. Checkpoints are kept."
        )

    def _images(self) -> list[dict[str, Any]]:
        """The images of the skipped updates of this phase. Draws are a function of the seed: none need be kept."""
        trainer, parts = self.trainer, self.trainer.args.gradient_accumulation_steps
        done = trainer.course.done
        first = max(0, done - self._in_a_row)
        ids = {False: unlabeled_ids(trainer.train_dataset.labeled)}
        if trainer.unlabeled_dataset is not None:
            ids[True] = unlabeled_ids(trainer.unlabeled_dataset)

        def name(draw: Draw) -> str:
            return f"{'unlabeled' if draw.is_pseudo else 'labeled'} {ids[draw.is_pseudo][draw.row]}"

        batches = list(islice(iter(trainer.sampler), first * parts, done * parts))
        listed = []
        for number in range(done - first):
            drawn = [draws for batch in batches[number * parts : (number + 1) * parts] for draws in batch]
            images = {
                member: [name(draw) for draws in drawn for draw in draws if draw.member == member]
                for member in trainer.course.trained
            }
            listed.append({"update": trainer.state.global_step - done + first + number + 1, **images})
        return listed
