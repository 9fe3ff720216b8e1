"""`PairTrainer`: a `transformers.Trainer` whose model is a pair.

Optimizer, clipping, scoring, saving, loading and publishing for two models; `DMTTrainer` adds phases and the loss.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Trainer, TrainerControl
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, PredictionOutput, TrainOutput, speed_metrics
from transformers.utils import logging

from ..data.members import MEMBERS
from ..hub.push import CommitInfo
from ..models.pair import ModelPair
from ..models.weights.trained_parts import choose_trained, learning_rate_scales
from .inputs.image_sets import check_filled, first_set, sets_to_score
from .labeling.inference import CleanPass
from .optimizer import clip_by_member, divide_by_rate, new_state, start_over
from .publishing import Publisher
from .random_state import preserved_rng
from .run import checkpoints, folder
from .run.allocator import freed_memory_is_kept
from .run.origin import RunOrigin
from .run.preemption import StopOnSigterm
from .run.runtime_errors import TrackersMayFail, explained
from .run.telemetry import Telemetry
from .scoring import evaluation
from .scoring.image_counts import ImageCounts
from .scoring.library_metrics import LibraryMetrics
from .settings.arguments import DMTTrainingArguments
from .settings.declaration import without_word
from .settings.knobs import Knobs
from .weights import RunWeights

logger = logging.get_logger(__name__)


class PairTrainer(Trainer):
    """Overrides what the stock Trainer does not handle for two models.

    Attributes:
        knobs: the resolved knobs of the method; set by a subclass, before this constructor.
        telemetry: sums per model, drained into the logs.
        last_scores: scores of the latest evaluation of `eval_dataset` (the first of several); the better model is
            exported at the root. last_counts: the contribution of each image. other_scores: those of its other sets.
        library_metrics: metrics of the `evaluate` library, computed in every evaluation.
        preemption: handles SIGTERM.
        weights: the live weights, their averages and best ones, and the device of each model.
        publisher: the run's repository on the Hub.
        origin: the identity of the run; set when training begins.
    """

    model: ModelPair
    knobs: Knobs
    args: DMTTrainingArguments
    callback_handler: Any
    origin: RunOrigin
    last_scores: evaluation.Scores | None = None
    last_counts: ImageCounts | None = None
    other_scores: dict[str, evaluation.Scores]
    library_metrics: LibraryMetrics | None = None
    hub_model_id: str | None
    new_optimizer_state: dict[str, Any] | None = None
    optimizer: Any  # the stock annotation is None until the optimizer is created

    def __init__(self, model: ModelPair, args: DMTTrainingArguments, **stock: Any) -> None:
        # Before the stock constructor, which may compile or wrap the model.
        choose_trained(
            model, {"a": args.train, "b": args.train_b or args.train}, freeze_batch_norm=args.freeze_batch_norm
        )
        self.rate_scales = learning_rate_scales(model, args.layer_decay) if args.layer_decay else {}
        self.other_scores = {}
        self.publisher = Publisher(args, model)  # the stock constructor opens the repository
        super().__init__(model=model, args=args, **stock)
        self.weights = RunWeights(model, args.device, self.accelerator)
        self.preemption, self.telemetry = StopOnSigterm(), Telemetry(args.device)
        self.add_callback(self.preemption)

    @property
    def trained_members(self) -> tuple[str, ...]:
        """The models that the current update trains."""
        return MEMBERS

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """The stock version lets two processes write to one folder, dies on SIGTERM without a checkpoint, and fails if
        a tracker's service is down. Here the first is refused, and the others are handled.

        Raises:
            ValueError: another process trains in this folder.
            RunError: memory, workers, images or a tracker ended the run; the message says what to do.
            SystemExit: SIGTERM arrived (code 143), so that no caller mistakes a stopped run for a finished one.
        """
        self.callback_handler = TrackersMayFail.over(self.callback_handler)
        with (
            freed_memory_is_kept() if self.args.device.type == "cpu" else nullcontext(),
            folder.locked(self.args.output_dir, writes=self.args.should_save),
            self.preemption.listening(),
            explained(self.args, self.knobs),  # also what the cleanup meets: several workers may be killed at once
        ):
            try:
                if self.args.should_save:
                    checkpoints.begin(self.args.output_dir, self.origin, anew=not resume_from_checkpoint)
                output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            finally:
                self.weights.offload(None)
        if self.preemption.stopped:
            raise SystemExit(128 + self.preemption.received)
        return output

    # ---- updates ---------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The stock version calls backward once, when the activations of both models are in memory. Their losses are
        independent, so in one process each model's backward pass follows its own forward pass. DDP and FSDP support one
        pass per step."""
        step, together = super().training_step, self.accelerator.distributed_type != DistributedType.NO
        parts = [inputs] if together else [{name: batch} for name, batch in inputs.items()]
        losses = torch.stack([step(model, part, num_items_in_batch) for part in parts])
        # An update with a non-finite loss is skipped and must not hide the others in the logs.
        return losses.sum().nan_to_num(0, 0, 0)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimizer with its groups divided by model and by learning rate."""
        first, optimizer = self.optimizer is None, super().create_optimizer(model)
        if first:
            divide_by_rate(optimizer, self.model, self.args, self.rate_scales)
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Later: every phase begins with `restart_optimizer`, which first needs the state of the new optimizer."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The stock version excludes biases and norms from weight decay; the official code does not."""
        everything = [name for name, _ in model.named_parameters()]
        return everything if self.args.official else super().get_decay_parameter_names(model)

    def restart_optimizer(self, steps: int, checkpoint: str | None, *, learning_rate: float | None = None) -> None:
        """Reset the optimizer state and start a schedule of `steps` updates, or restore both from a checkpoint.

        `learning_rate` replaces the run's; b's own rate is scaled by the same factor.

        The optimizer object is reused: accelerate would keep the old one, and fp16 would unscale its gradients twice.
        """
        # Not in `create_optimizer`, of which a subclass may have its own.
        self.new_optimizer_state = self.new_optimizer_state or new_state(self.optimizer)
        factor = 1.0 if learning_rate is None else learning_rate / self.args.learning_rate
        start_over(self.optimizer, self.new_optimizer_state, factor)
        self.lr_scheduler = None
        self.create_scheduler(num_training_steps=steps)
        # After the scheduler, whose constructor sets every learning rate to that of its first step.
        super()._load_optimizer_and_scheduler(checkpoint)
        self.callback_handler.lr_scheduler = self.lr_scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float:
        """The stock version clips both models by their joint norm."""
        self.accelerator.unscale_gradients()  # only once: under fp16, unscaling the same gradients twice raises
        self.telemetry.norms = clip_by_member(self.model, self.trained_members, self.args.max_grad_norm or math.inf)
        return torch.stack(list(self.telemetry.norms.values())).max()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Without clipping, the stock version returns the joint norm of both models."""
        return super()._get_grad_norm(model, self._clip_grad_norm(model) if grad_norm is None else grad_norm)

    # ---- scores ----------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score a, b and their ensemble; each process scores its own share.

        The stock loop marks the unwrapped pair as prepared, so that a later `train()` silently runs without DDP (seen
        with transformers 5.17 and 5.23). It also keeps the logits of the whole set.

        Returns:
            `eval_loss`, `eval_a_accuracy`, `eval_b_accuracy`, `eval_ensemble_accuracy`, `eval_accuracy` (the mean of a
            and b), for segmentation `..._mean_iou` and more; fractions in [0, 1]. For several sets, `{name: set}`, the
            keys are `eval_<name>_...` as in the stock Trainer, and the first set chooses the root.
        """
        if not (sets := sets_to_score(self.model, self.eval_dataset, eval_dataset)):
            if self.is_in_train:  # a phase ends with an evaluation, even if there is nothing to score
                return {}
            raise ValueError("There are no images to score. Give some: trainer.evaluate(images).")
        prefixes = {name: f"{metric_key_prefix}_{name}" if name else metric_key_prefix for name in sets}
        every = {name: self._evaluate_set(images, prefixes[name]) for name, images in sets.items()}
        if eval_dataset is None:
            (self.last_scores, self.last_counts, _), *_ = every.values()
            self.other_scores = {name: scores for name, (scores, *_) in list(every.items())[1:]}
        return {key: value for *_, metrics in every.values() for key, value in metrics.items()}

    def _evaluate_set(self, source: Any, prefix: str) -> tuple[evaluation.Scores, ImageCounts, dict[str, float]]:
        start = time.time()
        scores, counts = self.scores(source, title="evaluating")
        speed = speed_metrics(prefix, start, num_samples=counts.table.shape[0])
        metrics = {**evaluation.flat(scores, prefix), **speed}
        self.log(dict(metrics))
        asked = self.control.should_evaluate
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_evaluate = asked  # off by now, as if an evaluation in a callback were the loop's own
        return scores, counts, metrics

    def scores(self, source: Any, *, title: str) -> tuple[evaluation.Scores, ImageCounts]:
        """The scores of a, b and the ensemble on an image set, using averaged weights if there are any, and the
        contribution of each image."""
        with preserved_rng(), self.weights.for_inference():
            metrics = {"compute_metrics": self.compute_metrics, "library_metrics": self.library_metrics}
            return evaluation.evaluate_pair(self.clean_pass(), source, title=title, **metrics)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Logits of both models for whole images: `predictions` is `{'a': (N, C), 'b': (N, C)}`. `metrics` covers the
        images with a label (not None, -1 or -100), from the same forward pass.

        Raises:
            ValueError: for segmentation, where the logits of a whole set do not fit in memory.
        """
        if self.model.task != "image-classification":
            raise ValueError(
                "predict() would hold the logits of every pixel of the set in memory. Use pair(...) image by image, "
                "or evaluate(dataset) for scores."
            )
        check_filled(test_dataset, "the data set to predict", self.model, with_target=False)
        with preserved_rng(), self.weights.for_inference():
            logits, labels = evaluation.predict_pair(self.clean_pass(), test_dataset)
        scores = evaluation.score_logits(self.model, logits, labels, self.compute_metrics, self.library_metrics)
        metrics = evaluation.flat(scores, metric_key_prefix) if scores is not None else {}
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        truth = labels if scores is not None else None
        return PredictionOutput(predictions=logits, label_ids=truth, metrics=metrics)  # type: ignore[arg-type]

    def clean_pass(self) -> CleanPass:
        return CleanPass.of(self.model, self.accelerator, self.args)

    # ---- saving and loading ----------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """An older checkpoint of this step is marked incomplete before its files are replaced, and old checkpoints are
        deleted by number: the stock order by time deletes the newest one if the clock was set back."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.weights.check_finite()
        try:
            if self.args.should_save:
                (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                checkpoints.complete(folder, limit, best=self.state.best_model_checkpoint)
        except (OSError, RuntimeError, SafetensorError) as problem:  # torch and safetensors raise their own errors
            raise checkpoints.not_written(folder, problem) from problem
        finally:
            self.args.save_total_limit = limit

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The stock version would write one file with the tensors of both models, which no Auto class can load."""
        if not self.args.should_save:  # transformers 5.23 calls this on every process, 5.17 only on the main one
            return
        folder = Path(output_dir or self.args.output_dir)
        self.weights.save(folder, state_dict)
        self.origin.save(folder)
        torch.save(self.args.without_token(), folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The stock version loads files with strict=False, which silently leaves most weights of ViT, Swin, DINOv2 and
        SegFormer unloaded."""
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.weights.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """The stock version loads files with strict=False, as for a resume, and ignores the averages."""
        best = self.state.best_model_checkpoint
        assert best is not None
        if not Path(best).is_dir():
            logger.warning(
                f"The best pair's checkpoint {best} is not on this machine (the run was resumed from another one), so "
                "the last pair is kept."
            )
            return
        if self.is_fsdp_enabled:
            return super()._load_best_model()
        logger.info(f"Loading the best pair from {best} ({self.args.metric_for_best_model} {self.state.best_metric}).")
        self.weights.load(best)
        if self.eval_dataset is not None:
            self.last_scores, self.last_counts = self.scores(first_set(self.eval_dataset), title="the best pair")

    @property
    def primary(self) -> str:
        """The model at the root of an exported pair: the better one on the eval split."""
        return evaluation.better_member(self.last_scores, self.model.task)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the pair as it was scored, like `export`; the stock version saves the live weights, as for checkpoints.
        A single process may call it, as is common after `is_world_process_zero()`."""
        if _internal_call:
            return super().save_model(output_dir, _internal_call)
        target = checkpoints.place_for_pair(output_dir, self.args.output_dir, trained=self.state.global_step > 0)
        self.weights.export(target, self.primary, writes=self.args.should_save, together=False)
        if self.args.push_to_hub:
            saved = None if output_dir else target  # `export`, which waits for every process, would be too much
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision, exported=saved)

    def export(self, folder: str | Path | None = None) -> Path:
        """Write the finished pair, with the better model on the eval split at the root; every process must call it."""
        target = checkpoints.place_for_pair(folder, self.args.output_dir, trained=self.state.global_step > 0)
        self.weights.export(target, self.primary, writes=self.args.should_save, together=True)
        self.accelerator.wait_for_everyone()
        return target

    def checkpoint_to_resume(self, asked: str | bool | None) -> str | None:
        """The folder to resume from, or None for a new run. `asked` is a folder, True for the last complete checkpoint
        of the output folder, or a repository on the Hub, whose `last-checkpoint` is downloaded. None means the
        argument `resume_from_checkpoint` of the settings, which the stock Trainer ignores.

        Raises ValueError for an incomplete checkpoint, and HubError if the repository contains none.
        """
        asked = without_word(self.args.resume_from_checkpoint if asked is None else asked)
        if checkpoints.names_a_repository(asked):
            asked = str(self.publisher.fetch_run(str(asked)))
            self.accelerator.wait_for_everyone()
        return checkpoints.to_resume(asked, self.args.output_dir, self.accelerator, self.args.overwrite_output_dir)

    # ---- the Hub ---------------------------------------------------------------------------------------------------

    @property
    def resumable_elsewhere(self) -> bool:
        """Whether a checkpoint saved now can be resumed without the rest of the output folder."""
        return True

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """The stock version only finds out that the Hub refuses a push when the push fails, after training."""
        if self.is_world_process_zero():
            self.hub_model_id = self.publisher.open(token, private)

    def create_model_card(self, language: str | None = None, license: str | None = None, **facts: Any) -> None:
        """Write the pair and its card; `facts` are `tags`, `model_name`, `dataset`, ..."""
        folder = self.export()
        if self.is_world_process_zero():
            self.publisher.write_card(folder, language=language, license=license, **facts)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tag: str | None = None,
        exported: Path | None = None,
        **card_facts: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Write the pair (unless `exported` is where that was just done) and its card, and publish them in one commit.

        The stock version uploads everything in the folder, including `training_args.bin` with the token.

        Raises HubError if the push failed; the message says how to push the output folder later.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        folder = exported or self.export()
        if not self.is_world_process_zero():
            return None
        if self.publisher.repo_id is None:
            self.hub_model_id = self.publisher.open(token, private, revision)
        self.publisher.write_card(folder, token=token, **card_facts)
        return self.publisher.push(folder, commit_message, blocking=blocking, token=token, revision=revision, tag=tag)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The stock version omits `peer/` and reads files that training is about to overwrite."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        self.accelerator.wait_for_everyone()  # the random state of every rank is part of the checkpoint
        resumable, checkpoint = self.resumable_elsewhere, Path(checkpoint_folder)
        if self.publisher.has_time(urgent=resumable):
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            stage = partial(self.weights.stage, checkpoint=checkpoint, primary=self.primary)
            self.publisher.push_checkpoint(checkpoint, self.state.global_step, resumable=resumable, stage_pair=stage)

    def _finish_current_push(self) -> None:
        """The stock version waits without checking whether the push succeeded."""
        self.publisher.report_failures(wait=True)
