"""`DMTTrainer`: a `PairTrainer` that trains each model on the other's pseudo labels, phase by phase: one
`super().train()` runs all phases, one epoch each. Added here: the start and end of a phase, and the loss."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..data.drawing.sampler import BatchShape, PhaseBatchSampler
from ..data.members import MEMBERS
from ..data.seeds import seed_for
from ..data.splitting.splits import image_ids, member_rows
from ..method import Phase
from ..models.pair import ModelPair
from ..models.weights.initial_weights import InitialWeights
from . import phases
from .finishing import finish, record_phase, record_scores
from .inputs import search
from .inputs.checks import check_sharding, check_wrapped
from .inputs.given import Inputs
from .inputs.image_sets import first_set
from .labeling import phase_labels
from .labeling.collapse_signs import warn_of_collapse
from .labeling.online import label_online
from .pair_trainer import PairTrainer
from .random_state import preserved_rng
from .run.checkpoints import best_of, check_room
from .run.nonfinite_updates import SkipNonFinite
from .run.progress import PhaseLines, PhaseProgress, without_stock_display
from .run.results import RunRecords
from .scoring import evaluation
from .scoring.splits import ScoredSplits
from .settings.arguments import DMTTrainingArguments
from .starting import RunStart, begin_records
from .step import exponent_ramp, member_steps, pseudo_weight, total_loss, valid_units
from .training_set import phase_loader, training_set

logger = logging.get_logger(__name__)


class DMTTrainer(PairTrainer):
    """Dynamic mutual training of a `ModelPair`.

    Args:
        model: a pair, the place of a saved one, or two models as `ModelPair.from_models` takes them.
        args: settings; every field of `TrainingArguments` and the knobs of the method.
        train_dataset: labeled images, map-style: `{'image': PIL, 'label': int}`, or `{'image': PIL, 'mask': (H, W)}`
            with class ids and -100 for "no label".
        unlabeled_dataset: map-style `{'image': PIL}`. A label or mask in it is never trained on, only scored.
        eval_dataset: like `train_dataset`; scored at the end of every phase, and chooses the exported root. Several
            sets, `{name: set}`, are all scored; the first one chooses.
        test_dataset: scored after phase 0 and after the last phase, and never used to choose anything.
        compute_metrics: classification only; called with the logits of a, b and their ensemble.
        metrics: `evaluate` metrics beside `args.metrics`: `f1:average=macro`, paths, or results of `evaluate.load`.
        model_init: a function that creates a new pair, instead of `model`, for `hyperparameter_search`.
        stock: other arguments of the stock Trainer; refused with a hint what to use instead.

    Raises ValueError for invalid combinations, before training.
    """

    def __init__(
        self,
        model: ModelPair | str | tuple[Any, Any] | None = None,
        args: DMTTrainingArguments | None = None,
        train_dataset: Any = None,
        unlabeled_dataset: Any | None = None,
        eval_dataset: Any | None = None,
        test_dataset: Any | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        metrics: Sequence[Any] = (),
        model_init: Callable[..., ModelPair] | None = None,
        **stock: Any,
    ) -> None:
        images = {"train_dataset": train_dataset, "unlabeled_dataset": unlabeled_dataset, "eval_dataset": eval_dataset}
        scored = {"test_dataset": test_dataset, "compute_metrics": compute_metrics, "metrics": metrics}
        self.inputs = inputs = Inputs.checked(model, args, model_init, stock, callbacks=callbacks, **images, **scored)
        args, model, self.knobs, self.library_metrics = inputs.args, inputs.pair, inputs.knobs, inputs.library_metrics
        halves = str(self.knobs.difference_maximized_sampling)
        self.supervised_rows = member_rows(halves, image_ids(train_dataset), args.seed)
        self.phases: list[Phase] = phases.plan(
            self.knobs,
            model.task,
            num_labeled=len(self.supervised_rows["a"]),
            num_unlabeled=inputs.num_unlabeled,
            max_steps=args.max_steps,
            alternate=args.member_schedule == "alternate",
        )
        per_update = (self.knobs.labeled_batch_size, self.knobs.pseudo_batch_size)
        shape = BatchShape(*per_update, args.world_size, args.gradient_accumulation_steps)
        self.unlabeled_dataset, self.test_dataset = inputs.unlabeled_dataset, test_dataset
        samples, self.weak_views = training_set(model, args, self.knobs, train_dataset, inputs.unlabeled_dataset)
        stock = {"eval_dataset": eval_dataset, "compute_metrics": compute_metrics, "callbacks": callbacks}
        super().__init__(model, args, data_collator=default_collate, train_dataset=samples, **stock)
        self.model_init = model_init  # the stock constructor would use it to create a second pair
        check_sharding(args, self.knobs, getattr(self.accelerator.state, "fsdp_plugin", None), os.environ)
        self.callback_handler.callbacks = without_stock_display(self.callback_handler.callbacks)
        self.add_callback((PhaseLines if args.disable_tqdm else PhaseProgress)(self.phases[-1].index))
        self.course = phases.Course(self.phases)
        self.sampler = PhaseBatchSampler(shape, rank=args.process_index, seed=args.seed)
        self._begin_draws()  # so that batches can be looked at before training
        self.nonfinite = SkipNonFinite(self)
        self.add_callback(phases.PhaseCallback(self))
        self.add_callback(self.nonfinite)
        self.records = RunRecords(args.output_dir, writes=args.should_save)
        self.scored = ScoredSplits(args.output_dir, model.task, model.class_names, writes=args.should_save)
        self._resumed_from: str | None = None
        self.train_seconds, self._parts = 0.0, dict.fromkeys(MEMBERS, 0)  # micro-batches of the update so far
        sets = {"unlabeled": inputs.unlabeled_dataset, "eval": first_set(eval_dataset), "test": test_dataset}
        self.start = RunStart({"labeled": train_dataset, **sets})
        self.initial: InitialWeights | None = None

    # ---- the run ---------------------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Run all phases; `resume_from_checkpoint` as for `checkpoint_to_resume`."""
        if trial is not None:
            return search.train_trial(self, trial)
        started = time.monotonic()
        self.inputs.check_unchanged(self)
        if self.checkpoint_to_resume(resume_from_checkpoint) is None:
            check_room(self.args.output_dir, overwrite=self.args.overwrite_output_dir)
            if "phase" in self.model.metadata:  # trained before: the card says that phase 0 is no baseline
                self.model.metadata["continued"] = True
        # An evaluation before training marks the unwrapped module as prepared, which would silently disable DDP.
        self.model.__dict__.pop("_is_accelerate_prepared", None)
        self.model_wrapped = self.model
        self.weights.start_tracking(self.knobs, members_in_turn=self.args.member_schedule == "alternate")
        try:
            output = super().train(self._resumed_from, trial, ignore_keys_for_eval)
            record_scores(self)
            return output
        finally:
            self.train_seconds, self._resumed_from = time.monotonic() - started, None

    def finish(self) -> Path:
        """Write what the command line writes into the output folder and return it; every process must call it."""
        return finish(self)

    def checkpoint_to_resume(self, asked: str | bool | None) -> str | None:
        """Also refuses a checkpoint of another run (ValueError). `train` reads one that was returned here only once."""
        if asked is not None and asked == self._resumed_from:
            return self._resumed_from
        checkpoint = super().checkpoint_to_resume(asked)
        self.origin = self.start.origin(self)
        if checkpoint is not None:
            self.origin.continue_from(checkpoint, self.args.output_dir)
        self._resumed_from = checkpoint
        return checkpoint

    def hyperparameter_search(self, hp_space: Any = None, compute_objective: Any = None, **options: Any) -> Any:
        """The stock search with Optuna; each trial is a full run in `run-<number>`, and by default
        `metric_for_best_model` is maximized, or minimized if it is a loss. Raises ValueError without `hp_space` (what
        varies, such as `learning_rate`), `model_init` or `eval_dataset`, or with another backend."""
        metric, direction = search.default_objective(self.args, compute_objective)
        options = {"direction": direction, "backend": "optuna", **options}
        search.check_search(self.args, hp_space, self.model_init, self.eval_dataset, options["backend"])
        return super().hyperparameter_search(hp_space, compute_objective or (lambda of: of[metric]), **options)

    def call_model_init(self, trial: Any = None) -> ModelPair:
        """The stock version makes a second pair when training begins, of which nothing here would know."""
        return self.model

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The stock loader shows every image once per epoch; a phase draws both kinds of images in fixed proportion."""
        return phase_loader(self.train_dataset, self.sampler, self.args)

    def set_initial_training_values(
        self, args: Any, dataloader: Any
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """The stock version counts passes over the data set. Here one epoch is one phase, with the length of the
        longest phase: the stock loop accepts epochs with fewer batches."""
        longest, total = max(phase.steps for phase in self.phases), sum(phase.steps for phase in self.phases)
        images = self.knobs.labeled_batch_size + self.knobs.pseudo_batch_size
        steps_in_epoch = longest * args.gradient_accumulation_steps
        return len(self.phases), longest, len(self.train_dataset), total * images, images, steps_in_epoch, total

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: Any, trial: Any
    ) -> tuple[int, int]:
        """The stock version computes the epoch of a resumed step by division, but phases differ in length.

        This is also the first place that knows the restored step, so the records are truncated to it here.
        """
        if self.knobs.restart == "initial":
            folder, resumed = Path(self.args.output_dir) / "initial", self._resumed_from is not None
            self.initial = InitialWeights(self.model, folder, resumed=resumed, writes=self.args.should_save)
        super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, resume, trial)
        self.state.best_model_checkpoint = best_of(resume) if resume else None
        self.course.seek(self.state.global_step)
        begin_records(self)
        self.accelerator.wait_for_everyone()
        return self.course.entry, self.course.done * self.args.gradient_accumulation_steps

    @property
    def trained_members(self) -> tuple[str, ...]:
        return self.course.trained

    @property
    def resumable_elsewhere(self) -> bool:
        return not self.course.begun  # weights from the middle of a phase cannot make its labels again

    # ---- phases ----------------------------------------------------------------------------------------------------

    def begin_phase(self) -> None:
        """Make labels, choose what is drawn, and reset optimizer and schedule; or continue a phase in the middle or
        with the other model's turn."""
        check_wrapped(self.args.world_size, self.model, self.model_wrapped)
        if self.course.turn_is_over:
            self.course.advance()
        phase, begun, in_the_middle = self.course.current, self.course.begun, self.course.done > 0
        with preserved_rng():
            if not self.records.phase_is_open:
                self._open_phase(phase, begun=begun)
            self._begin_draws()
            if not begun:
                if self.initial is not None and phase.index > 0:
                    seeds = [seed_for(self.args.seed, phase.index, number) for number in range(len(MEMBERS))]
                    self.initial.restore(self.model, seeds)
                self.weights.restart_average()
            if self.args.member_schedule == "alternate":
                self.weights.offload(self.course.waiting)
            rate = self.args.supervised_learning_rate if phase.index == 0 else None
            self.restart_optimizer(phase.steps, self._resumed_from if in_the_middle else None, learning_rate=rate)

    def _begin_draws(self) -> None:
        """Set what the loader draws in the current phase."""
        phase, everything = self.course.current, np.arange(len(self.train_dataset.labeled))
        rows = self.supervised_rows if phase.index == 0 else dict.fromkeys(MEMBERS, everything)
        rows = {name: rows[name] for name in self.trained_members}
        self.train_dataset.weak_views = self.weak_views if self._is_online() else None
        drawn = {name: self.train_dataset.pseudo_rows(name) if phase.index else everything[:0] for name in rows}
        self.sampler.begin(phase.index, phase.steps, rows, drawn, done=self.course.done)

    def _open_phase(self, phase: Phase, *, begun: bool) -> None:
        """Start the phase's record, and get its labels: new ones, or the stored ones if it has `begun`."""
        steps = sum(turn.steps for turn in self.phases if turn.index == phase.index)
        self.records.open_phase(phase.index, label_ratio=phase.label_ratio, steps=steps)
        if phase.label_ratio is None:
            return
        made_by = (self.clean_pass(), self.unlabeled_dataset, self.knobs)
        how: Any = {"labeled": self.train_dataset.labeled, "keep_earlier": self.args.keep_pseudo_labels == "all"}
        how |= {"in_the_middle": begun, "made_by": self.origin.labels_made_by}
        with self.weights.for_inference(averaged=not begun):
            labels = phase_labels.provide(phase, *made_by, self.args.output_dir, **how)
        self.train_dataset.pseudo, self.origin.labels_made_by = labels.stores, labels.made_by
        self.records.note(pseudo_labels=labels.summary, labeling_seconds=labels.seconds)
        if begun:
            alarms = self.records.alarms(phase.index)
        else:
            past, images = self.records.results["phases"], len(self.unlabeled_dataset or ())
            alarms = warn_of_collapse(labels, past, images, self.model.class_names)
            self.log(labels.shares())
            self.records.log(self.state.global_step, phase.index, labels.class_counts() | alarms)
        self.records.note(**alarms)

    def _is_online(self) -> bool:
        return self.knobs.strategy == "online" and self.course.current.index > 0

    # ---- the loss --------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of one update and, for each model, their valid units over all processes.

        The stock version counts top-level `labels`, which do not exist here, and would compute a mean of means:
        units would weigh more in micro-batches with few of them.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        if self._is_online():
            with self.weights.averaged():
                batches = [label_online(self.model, batch, self.knobs, self.accelerator) for batch in batches]
        self._parts = dict.fromkeys(MEMBERS, 0)
        return batches, valid_units(batches, self.args.world_size, device)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the losses of the training models; no gradient flows between the models.

        The stock version supports one loss and one count. Here each loss is a sum over units divided by the valid
        units of the whole update. DDP averages over processes and the Trainer divides by the accumulation steps, so
        the loss is multiplied by both.
        """
        if not inputs.keys() <= set(MEMBERS):
            raise ValueError(
                f"compute_loss takes a batch of get_train_dataloader(), {{'a': ..., 'b': ...}}, got one of "
                f"{', '.join(map(repr, inputs))}. Call trainer.evaluate(images) for the loss on other images, or "
                "pair(images) for logits."
            )
        phase, done = self.course.current, self.course.done
        if waiting := self.course.waiting:
            self.model.member(waiting).eval()  # the Trainer has just switched everything to training mode
        place = (self.args.seed, phase.index, done, self.args.process_index)
        steps, logits = member_steps(
            model,
            inputs,
            self.knobs,
            ramp=exponent_ramp(self.knobs, done, phase.steps),
            pseudo_weight=pseudo_weight(self.knobs, done, phase.steps) if phase.index else 1.0,
            mixup_seeds=[seed_for(*place, self._parts[name], number) for number, name in enumerate(MEMBERS)],
            labels_only=phase.index == 0,
            run_idle=self.args.world_size > 1,
        )
        for name, result in steps.items():
            self._parts[name] += 1  # every micro-batch of an update has its own mixup
            self.telemetry.add(MEMBERS.index(name), result.cases, inputs[name]["is_pseudo"])
        scale = self.accelerator.num_processes * getattr(self, "current_gradient_accumulation_steps", 1)
        total = total_loss(steps, logits, num_items_in_batch if torch.is_tensor(num_items_in_batch) else None, scale)
        return (total, logits) if return_outputs else total

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
    ) -> dict[str, float]:
        """The training loop's own evaluation; `evaluate` may be called by a callback at any time. At the end of a phase
        it completes the phase's record, before its checkpoint."""
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        over = self.course.phase_is_over
        if self.weights.best is not None and self.last_scores:
            looked_at = MEMBERS if over else self.trained_members  # a waiting model has not trained in this phase yet
            scores = evaluation.primary_scores(self.last_scores, self.model.task)
            if self.weights.keep_best({name: scores[name] for name in looked_at}, give_back=over):
                metrics = self.evaluate(ignore_keys=ignore_keys_for_eval)
        if over:
            record_phase(self)
            self.course.advance()
        self.control.should_evaluate = False
        return metrics

    def evaluation_loop(self, *given: Any, **named: Any) -> Any:
        """The stock loop and its loaders give both models the same inputs."""
        raise ValueError(
            "The stock loaders and loop for evaluation do not know that each model of a pair has its own image "
            "processor. Call trainer.evaluate(images) for scores, or trainer.predict(images) for logits."
        )

    _get_dataloader = evaluation_loop  # behind `get_eval_dataloader` and `get_test_dataloader`

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """With `save_strategy best` the stock version saves improvements only; a phase must be resumable at its end."""
        return super()._determine_best_metric(metrics, trial) or not self.course.begun

    # ---- logs and records ------------------------------------------------------------------------------------------

    def images_of_last_updates(self, count: int) -> list[dict[str, list[str]]]:
        """For each model, the images drawn in the last `count` updates of this phase."""
        updates = self.sampler.draws_of_updates(max(0, self.course.done - count), self.course.done)
        return [self.train_dataset.names(drawn) for drawn in updates]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The stock log knows neither models nor phases, and after a resume it keeps what was logged after the
        checkpoint; here the records are truncated."""
        number, asked = self.course.current.index, self.control.should_log
        if "loss" in logs:  # a training log, on every process
            asked = False
            logs = {**logs, **self.telemetry.drain(self.accelerator), **self.nonfinite.drain()}
        logs = {**logs, "phase": number}
        super().log(logs, start_time)
        self.control.should_log = asked  # off by now, as if what a callback logs were the training log
        if self.is_in_train:  # else the output folder may have the records of a finished run
            self.records.log(
                self.state.global_step, number, {key: value for key, value in logs.items() if key != "phase"}
            )
