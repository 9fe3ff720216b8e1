"""Export a pair, and push it to the Hub during training and at the end; fetch a run to resume it.

The stock Trainer's pushes omit `peer/`, upload `training_args.bin` with the token in plain text, read files that
training is about to overwrite, and hide failures. `PublishingTrainer` replaces them; its `Publisher` makes one commit
of each complete pair.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..hub.card import write_card
from ..hub.push import BackgroundPushes, CommitInfo, Staging, stage_finished
from ..hub.repository import LAST_CHECKPOINT, fetch_checkpoint, open_target
from ..models.pair import ModelPair
from .scoring.evaluation import Scores, better_member
from .settings.arguments import DMTTrainingArguments
from .weights import RunWeights

logger = logging.get_logger(__name__)

# Scripts for the stock Trainer pass these to `push_to_hub` and `create_model_card`.
_KNOWN = ("finetuned_from", "tasks", "dataset_args")


def repository_of(args: DMTTrainingArguments) -> str:
    """What `hub_model_id` says, or else the name of the output folder."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


class Publisher:
    """The repository of one run.

    Args:
        args: the run's settings; those that start with `hub_` are used.
        pair: its tags are added to the card.

    Attributes:
        repo_id, pushes: on the main process, once the repository is open.
    """

    def __init__(self, args: DMTTrainingArguments, pair: ModelPair) -> None:
        self.args, self.pair = args, pair
        self.output_dir = Path(args.output_dir)
        self.repo_id: str | None = None
        self.pushes: BackgroundPushes | None = None

    def open(self, token: str | None = None, private: bool | None = None, revision: str | None = None) -> str:
        """Create the repository if necessary, and check before training whether pushes will be accepted.

        Raises:
            HubError: they will not be.
        """
        self.repo_id = open_target(
            repository_of(self.args),
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
        )
        self.pushes = BackgroundPushes(self.output_dir)
        return self.repo_id

    def write_card(self, folder: Path, *, token: str | None = None, **facts: Any) -> None:
        """Write the model card into `folder`. Facts of the stock Trainer's card that the pair knows itself, such as
        `finetuned_from`, are not taken from the caller."""
        if known := [name for name in _KNOWN if facts.pop(name, None)]:
            logger.warning(f"The card takes {', '.join(known)} from the pair and its run, not from what was given.")
        tags = facts.pop("tags", None) or []
        facts["tags"] = [*([tags] if isinstance(tags, str) else tags), *self.pair.model_tags]
        write_card(folder, repo_id=self.repo_id, token=token or self.args.hub_token, **facts)

    def push(
        self, folder: Path, message: str, *, blocking: bool, token: str | None, revision: str | None, tag: str | None
    ) -> CommitInfo | Future[CommitInfo]:
        """Upload the finished pair in `folder`, its card and the run's records in one commit.

        Raises:
            HubError: the push failed.
        """
        assert self.pushes is not None and self.repo_id is not None
        staging = stage_finished(folder)
        how: dict[str, Any] = {
            "revision": revision or self.args.hub_revision,
            "token": token or self.args.hub_token,
            "tag": tag,
        }
        if blocking:
            return staging.send(self.repo_id, message=message, **how)
        return self.pushes.send(staging, self.repo_id, message=message, **how)

    def has_time(self, *, urgent: bool) -> bool:
        """Whether a push during training should start now; also reports failures of earlier ones.

        Only one push runs at a time: one that is not `urgent` is skipped while another is in progress.
        """
        if self.pushes is None:
            return False
        self.report_failures()
        return urgent or self.args.hub_always_push or not self.pushes.busy

    def push_checkpoint(
        self, checkpoint: Path, step: int, *, resumable: bool, stage_pair: Callable[[Staging], None]
    ) -> None:
        """Push the pair of a checkpoint in the background and, if `hub_strategy` asks for it, the checkpoint.

        Args:
            resumable: the checkpoint does not need other files of the output folder, so it may be `last-checkpoint/`.
            stage_pair: writes the pair to be published to the staging folder.
        """
        assert self.pushes is not None and self.repo_id is not None
        strategy = self.args.hub_strategy
        staging = Staging(self.output_dir)
        try:
            staging.add_run()
            stage_pair(staging)
            if resumable and strategy != HubStrategy.EVERY_SAVE:
                staging.add_checkpoint(checkpoint, LAST_CHECKPOINT)
            if strategy == HubStrategy.ALL_CHECKPOINTS:
                staging.add_checkpoint(checkpoint, checkpoint.name)
            self.write_card(staging.folder)
        except OSError as problem:  # a full disk must not end the training
            staging.discard()
            logger.warning(f"The pair of update {step} was not pushed: {problem}")
            return
        how = {"token": self.args.hub_token, "revision": self.args.hub_revision}
        self.pushes.send(staging, self.repo_id, message=f"Training in progress, step {step}", **how)

    def report_failures(self, *, wait: bool = False) -> None:
        """Warn about failed pushes; with `wait`, after those in progress have finished."""
        if self.pushes is not None:
            for message in self.pushes.failures(wait=wait):
                logger.warning(f"A push during training failed; training continues. {message}")

    def fetch_run(self, repo_id: str) -> Path:
        """Download the last checkpoint of a run on the Hub; its records and initial weights go to the output folder.

        Raises:
            HubError: the repository contains none.
        """
        revision = self.args.hub_revision if repo_id == self.args.hub_model_id else None
        snapshot = fetch_checkpoint(repo_id, revision=revision, token=self.args.hub_token)
        checkpoint = snapshot / LAST_CHECKPOINT
        if self.args.should_save:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            if (snapshot / "dmt_results.json").is_file() and not (self.output_dir / "dmt_results.json").exists():
                shutil.copyfile(snapshot / "dmt_results.json", self.output_dir / "dmt_results.json")
            for kept in ("initial", "scored"):
                if (checkpoint / kept).is_dir() and not (self.output_dir / kept).exists():
                    shutil.copytree(checkpoint / kept, self.output_dir / kept)
        return checkpoint


class PublishingTrainer(Trainer):
    """A Trainer that exports pairs, and whose pushes are complete and checked; `PairTrainer` trains them.

    Attributes:
        publisher: the run's repository on the Hub.
        weights: the live weights, their averages and best ones, and the device of each model.
        last_scores: scores of the latest evaluation; the better model is exported at the root.
    """

    model: ModelPair
    args: DMTTrainingArguments
    callback_handler: Any
    hub_model_id: str | None
    weights: RunWeights
    last_scores: Scores | None = None

    def __init__(self, model: ModelPair, args: DMTTrainingArguments, **stock: Any) -> None:
        self.publisher = Publisher(args, model)  # the stock constructor opens the repository
        super().__init__(model=model, args=args, **stock)

    @property
    def primary(self) -> str:
        """The model at the root of an exported pair: the better one on the eval split."""
        return better_member(self.last_scores, self.model.task)

    @property
    def resumable_elsewhere(self) -> bool:
        """Whether a checkpoint saved now can be resumed without the rest of the output folder."""
        return True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the pair as it was scored, like `export`; the stock version saves the live weights, as for checkpoints.
        A single process may call it, as is common after `is_world_process_zero()`."""
        if _internal_call:
            return super().save_model(output_dir, _internal_call)
        target = Path(output_dir or self.args.output_dir)
        self.weights.export(target, self.primary, writes=self.args.should_save, together=False)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def export(self, folder: str | Path | None = None) -> Path:
        """Write the finished pair, with the better model on the eval split at the root; every process must call it."""
        target = Path(folder or self.args.output_dir)
        self.weights.export(target, self.primary, writes=self.args.should_save, together=True)
        self.accelerator.wait_for_everyone()
        return target

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """The stock version only finds out that the Hub refuses a push when the push fails, after training."""
        if self.is_world_process_zero():
            self.hub_model_id = self.publisher.open(token, private)

    def create_model_card(self, **facts: Any) -> None:
        """Write the pair and its card; `facts` are `license`, `language`, `tags`, `model_name`, `dataset`, ..."""
        folder = self.export()
        if self.is_world_process_zero():
            self.publisher.write_card(folder, **facts)

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
        if self.publisher.pushes is None:
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
