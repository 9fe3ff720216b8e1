"""Push a pair to the Hub during training and at the end; fetch a run to resume it.

The stock Trainer's pushes omit `peer/`, upload `training_args.bin` with the token in plain text, read files that
training is about to overwrite, and hide failures. `PairTrainer` uses a `Publisher` instead, which makes one commit of
each complete pair.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..hub.card import write_card
from ..hub.push import CommitInfo, Staging, delete_leftovers, stage_finished
from ..hub.repository import LAST_CHECKPOINT, fetch_checkpoint, open_target
from ..models.pair import ModelPair
from .settings.arguments import DMTTrainingArguments

logger = logging.get_logger(__name__)

# Scripts for the stock Trainer pass these to `push_to_hub` and `create_model_card`.
_KNOWN = ("finetuned_from", "tasks", "dataset_args")


def repository_of(args: DMTTrainingArguments) -> str:
    """What `hub_model_id` says, or else the name of the output folder."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


class Publisher:
    """The repository of one run.

    Attributes:
        repo_id: on the main process, once the repository is open.
    """

    def __init__(self, args: DMTTrainingArguments, pair: ModelPair) -> None:
        self.args, self.pair = args, pair
        self.output_dir = Path(args.output_dir)
        self.repo_id: str | None = None
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._pushes: list[Future[CommitInfo]] = []  # whose outcome was not reported yet

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
        delete_leftovers(self.output_dir)
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
        staging = stage_finished(folder)
        revision, token = revision or self.args.hub_revision, token or self.args.hub_token
        how: dict[str, Any] = {"message": message, "revision": revision, "token": token, "tag": tag}
        if not blocking:
            return self._send_later(staging, **how)
        assert self.repo_id is not None
        return staging.send(self.repo_id, **how)

    def _send_later(self, staging: Staging, **how: Any) -> Future[CommitInfo]:
        """Start a push in the background, or queue it behind the current one."""
        assert self.repo_id is not None
        self._pushes.append(self._sender.submit(staging.send, self.repo_id, **how))
        return self._pushes[-1]

    def has_time(self, *, urgent: bool) -> bool:
        """Whether a push during training should start now; also reports failures of earlier ones.

        Only one push runs at a time: one that is not `urgent` is skipped while another is in progress.
        """
        if self.repo_id is None:
            return False
        self.report_failures()
        return urgent or self.args.hub_always_push or all(push.done() for push in self._pushes)

    def push_checkpoint(
        self, checkpoint: Path, step: int, *, resumable: bool, stage_pair: Callable[[Staging], None]
    ) -> None:
        """Push the pair of a checkpoint in the background and, if `hub_strategy` asks for it, the checkpoint.

        Args:
            resumable: the checkpoint does not need other files of the output folder, so it may be `last-checkpoint/`.
            stage_pair: writes the pair to be published to the staging folder.
        """
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
        self._send_later(staging, message=f"Training in progress, step {step}", **how)

    def report_failures(self, *, wait: bool = False) -> None:
        """Warn about failed pushes; with `wait`, after those in progress have finished."""
        for push in [push for push in self._pushes if wait or push.done()]:
            self._pushes.remove(push)
            if (problem := push.exception()) is not None:
                logger.warning(f"A push during training failed; training continues. {problem}")

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
