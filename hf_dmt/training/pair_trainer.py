"""A `transformers.Trainer` whose one model is a pair: optimizer, clipping, scoring, saving and loading for two members.

Nothing here knows of phases or pseudo labels; `DMTTrainer` adds them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Trainer, TrainerControl
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, TrainOutput
from transformers.utils import logging

from ..data.members import MEMBERS
from ..data.tasks import IGNORE_INDEX
from ..models.pair import ModelPair
from ..models.weights.best_weights import BestMembers
from ..models.weights.ema import ExponentialAverage
from ..models.weights.frozen_backbones import freeze_backbones
from . import phases
from .labeling.inference import CleanPass, broadcast_buffers
from .run import checkpoints, folder
from .run.preemption import StopOnSigterm
from .run.runtime_errors import TrackersMayFail, explained
from .run.telemetry import Telemetry
from .scoring import evaluation
from .scoring.image_counts import ImageCounts
from .settings.arguments import DMTTrainingArguments
from .settings.checks import without_token
from .settings.methods import Knobs
from .sharding import whole, whole_state

logger = logging.get_logger(__name__)


class PairTrainer(Trainer):
    """What the stock Trainer does not do right for two models.

    Attributes:
        course: says which members are in training.
        away: the member that waits on the CPU while the other one trains (`member_schedule alternate`).
        telemetry: sums per member, drained into the logs.
        last_scores: figures of the latest evaluation of `eval_dataset`; they choose the exported root.
        last_counts: what each image added to them.
        ema: averaged weights, where the run keeps them.
        best: each member's best weights of a phase, where a phase ends with them.
        preemption: answers SIGTERM.
    """

    model: ModelPair
    knobs: Knobs
    course: phases.Course
    away: str | None = None
    callback_handler: Any
    args: DMTTrainingArguments
    telemetry: Telemetry
    preemption: StopOnSigterm
    last_scores: evaluation.Scores | None = None
    last_counts: ImageCounts | None = None
    ema: ExponentialAverage | None = None
    best: BestMembers | None = None
    new_optimizer_state: dict[str, Any]
    optimizer: Any  # the stock annotation is None until the optimizer is made

    def __init__(self, model: ModelPair, args: DMTTrainingArguments, **stock: Any) -> None:
        if args.freeze_backbone:
            freeze_backbones(model)  # before the stock constructor, which may compile or wrap what it is given
        super().__init__(model=model, args=args, **stock)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """One run at a time writes into the output folder, and SIGTERM ends it with a checkpoint.

        Raises:
            ValueError: another process trains in this folder.
            RunError: memory, workers, images or a tracker ended the run; the message says what to do.
            SystemExit: SIGTERM came (code 143), so that no caller takes a run cut short for a finished one.
        """
        self.callback_handler = TrackersMayFail.over(self.callback_handler)
        try:
            with (
                folder.locked(self.args.output_dir, writes=self.args.should_save),
                self.preemption.listening(),
                explained(self.args, self.knobs),
            ):
                output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.offload(None)
        if self.preemption.stopped:
            raise SystemExit(StopOnSigterm.EXIT_CODE)
        return output

    # ---- optimizer -------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimizer; with `learning_rate_b` its groups are divided by member."""
        first = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if not first:
            return optimizer
        if self.args.learning_rate_b is not None:
            of_b = {id(parameter) for parameter in self.model.model_b.parameters()}
            for group in list(optimizer.param_groups):
                parameters_b = [parameter for parameter in group["params"] if id(parameter) in of_b]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_b]
                rest = {key: value for key, value in group.items() if key not in ("params", "lr")}
                optimizer.add_param_group({**rest, "params": parameters_b, "lr": self.args.learning_rate_b})
        self.new_optimizer_state = copy.deepcopy(optimizer.state_dict())
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if self.args.weight_decay_everywhere:
            return [name for name, _ in model.named_parameters()]
        names: list[str] = super().get_decay_parameter_names(model)
        return names

    def restart_optimizer(self, steps: int, checkpoint: str | None, *, learning_rate: float | None = None) -> None:
        """A new optimizer state and a schedule of `steps` updates, or where a checkpoint stood in it.

        `learning_rate` takes the place of the run's; b's own is brought to the same proportion.

        The optimizer object stays: an old one would remain with accelerate, and fp16 would unscale its gradients twice.
        """
        self.optimizer.load_state_dict(copy.deepcopy(self.new_optimizer_state))
        if learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] *= learning_rate / self.args.learning_rate
        self.lr_scheduler = None
        self.create_scheduler(num_training_steps=steps)
        # After the scheduler, whose construction sets every learning rate to that of its first step.
        self._load_optimizer_and_scheduler(checkpoint)
        self.callback_handler.lr_scheduler = self.lr_scheduler

    def offload(self, away: str | None) -> None:
        """Let a member wait on the CPU, with its averages, and bring the other one to the device; None: both there.

        Parameters stay the same objects, so the optimizer keeps its hold on them. It has nothing of the waiting member:
        each turn starts it anew.
        """
        if away == self.away:
            return
        self.away = away
        for name in sorted(MEMBERS, key=lambda name: name != away):  # it leaves before the other one comes
            device = torch.device("cpu") if name == away else self.args.device
            self.model.member(name).to(device)
            if self.ema is not None:
                self.ema.move(f"model_{name}.", device)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float:
        """Clip each member by its own norm: jointly, the larger gradient would decide how far the other model moves."""
        if self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()  # once: a second unscaling of the same gradients raises under fp16
        norms = {
            name: whole(nn.utils.clip_grad_norm_(self.model.member(name).parameters(), self.args.max_grad_norm))
            for name in self.course.trained
        }
        self.telemetry.norms(norms)
        return torch.stack(list(norms.values())).max()

    # ---- scores ----------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score a, b and their ensemble; each process sees its own share once.

        Returns:
            `eval_loss`, `eval_a_accuracy`, `eval_b_accuracy`, `eval_ensemble_accuracy`, `eval_accuracy` (the mean of a
            and b), for pixels `..._mean_iou` and more; fractions in [0, 1]. Empty without an image set.
        """
        source = self.eval_dataset if eval_dataset is None else eval_dataset
        if source is None:
            return {}
        start = time.monotonic()
        scores, counts = self.scores(source, title="evaluating")
        metrics = evaluation.flat(scores, self.model.task, metric_key_prefix)
        metrics[f"{metric_key_prefix}_runtime"] = round(time.monotonic() - start, 3)
        if eval_dataset is None:
            self.last_scores, self.last_counts = scores, counts
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scores(self, source: Any, *, title: str) -> tuple[evaluation.Scores, ImageCounts]:
        """The figures of a, b and ensemble on an image set, with the averaged weights where there are any; and what
        each image adds to them."""
        with phases.preserved_rng(), self.judging():
            return evaluation.evaluate_pair(
                self.model,
                source,
                self.clean_pass(),
                self.accelerator,
                title=title,
                compute_metrics=self.compute_metrics,
            )

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Logits of both members for whole images: `predictions` is `{'a': (N, C), 'b': (N, C)}`.

        Raises:
            ValueError: for segmentation, whose logits of a whole set do not fit in memory.
        """
        if self.model.task != "image-classification":
            raise ValueError(
                "predict() would hold the logits of every pixel of the set in memory. Use pair(...) image by image, or "
                "evaluate(dataset) for scores."
            )
        with phases.preserved_rng(), self.judging():
            logits, labels = evaluation.predict_pair(self.model, test_dataset, self.clean_pass(), self.accelerator)
        known = bool((labels != IGNORE_INDEX).all())
        metrics = self.evaluate(test_dataset, metric_key_prefix=metric_key_prefix) if known else {}
        return PredictionOutput(predictions=logits, label_ids=labels if known else None, metrics=metrics)  # type: ignore[arg-type]

    def remember_best(self, *, give_back: bool) -> bool:
        """Keep what is best on the eval split, where the run asks for it, and at the end of a phase give it back.

        Within a phase that is of the members in training: another one has not learned from it yet.

        Returns:
            Whether the members are now others than those just scored.
        """
        if self.best is None:
            return False
        assert self.last_scores is not None
        metric = evaluation.PRIMARY_METRIC[self.model.task]
        looked_at = MEMBERS if give_back else self.course.trained
        now = {name: float(self.last_scores[name][metric] or 0.0) for name in looked_at}
        with self.judging():
            self.best.see(self.model, now)
        changed = give_back and self.best.scores != now
        if give_back:
            self.best.restore(self.model)
            if self.ema is not None:
                self.ema.restart()
        return changed

    @contextmanager
    def judging(self, *, averaged: bool = True) -> Iterator[None]:
        """The pair as it labels and is scored, on every process: the averaged weights where there are any and they are
        asked for, and the main process's BatchNorm statistics, which differ between processes after a step.

        A member that waits elsewhere joins in: without gradients both take no more memory than one in training.
        """
        away = self.away
        self.offload(None)
        broadcast_buffers(self.model, self.accelerator)
        with self.ema.applied() if self.ema and averaged else nullcontext():
            broadcast_buffers(self.model, self.accelerator)  # each process has averaged its own
            yield
        self.offload(away)

    def clean_pass(self) -> CleanPass:
        return CleanPass(
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            progress=not self.args.disable_tqdm and self.args.local_process_index == 0,
            exact_decoding=self.args.exact_decoding,
        )

    # ---- saving and loading ----------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """An older checkpoint of this step loses its mark of completeness before its files are replaced, and old ones
        go by their number: the stock order by time deletes the newest one after the clock was set back."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as problem:  # torch and safetensors raise their own
            raise checkpoints.not_written(folder, self.args.world_size, problem) from problem
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit:
            checkpoints.delete_old(folder, limit, best=self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """A checkpoint holds the live weights as a pair with a at the root, and the averages in `ema.safetensors`."""
        if not self.args.should_save:  # transformers from 5.23 calls this on every process, 5.17 on the main one
            return
        folder = Path(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder, primary="a", state_dict=state_dict)
        if self.ema is not None:
            self.ema.save(folder)
        if self.best is not None:
            self.best.save(folder)
        torch.save(without_token(self.args), folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The stock version loads raw files without strictness, which leaves most weights of ViT, Swin, DINOv2 and
        SegFormer as they were."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self.model.load_weights(resume_from_checkpoint)
        if self.ema is not None:
            self.ema.load(resume_from_checkpoint)
        if self.best is not None:
            self.best.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
            return
        best = self.state.best_model_checkpoint
        assert best is not None
        logger.info(f"Loading the best pair from {best} ({self.args.metric_for_best_model} {self.state.best_metric}).")
        self.model.load_weights(best)
        if self.ema is not None:
            self.ema.load(best)
        if self.eval_dataset is not None:
            self.last_scores, self.last_counts = self.scores(self.eval_dataset, title="evaluating the best pair")

    def export(self, folder: str | Path | None = None) -> Path:
        """Write the finished pair: averaged weights where there are any, the better member on the eval split at the
        root."""
        target = Path(folder or self.args.output_dir)
        primary = evaluation.better_member(self.last_scores, self.model.task)
        with self.ema.applied() if self.ema else nullcontext():
            state = whole_state(self.model)
            if self.args.should_save:
                self.model.save_pretrained(target, primary=primary, state_dict=state)
        self.accelerator.wait_for_everyone()
        return target

    def checkpoint_to_resume(self, asked: str | bool | None) -> str | None:
        """The folder to resume from, or None; `True` may arrive as a word from a command line."""
        if asked is None or asked is False or (isinstance(asked, str) and asked.lower() in ("false", "none", "")):
            return None
        if asked is True or (isinstance(asked, str) and asked.lower() == "true"):
            # One process looks, after all have finished writing: the others could find a checkpoint whole that it did
            # not, and train another phase.
            self.accelerator.wait_for_everyone()
            found = [checkpoints.last_complete_checkpoint(self.args.output_dir, self.args.world_size)]
            last = broadcast_object_list(found)[0]
            if last is None:
                logger.warning(f"No complete checkpoint in {self.args.output_dir}: starting from the beginning.")
            return str(last) if last else None
        missing = checkpoints.missing_files(asked, self.args.world_size)
        if missing:
            raise ValueError(
                f"{asked!r} is not a complete checkpoint of a run with {self.args.world_size} process(es): "
                f"{', '.join(missing)} missing or unreadable. Give --resume_from_checkpoint True for the last "
                "complete one."
            )
        return str(asked)
