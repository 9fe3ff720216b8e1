"""The Trainer's conversation with the Hub: whole pairs in one commit each, while training goes on and at its end."""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy, TrainOutput
from transformers.utils import logging

from ..hub.card import write_card
from ..hub.push import BackgroundPushes, CommitInfo, Staging
from ..hub.repository import LAST_CHECKPOINT, PAIR_FILE, PAIR_FILES, fetch_checkpoint, open_target
from .pair_trainer import PairTrainer
from .scoring import evaluation

logger = logging.get_logger(__name__)


class PublishingTrainer(PairTrainer):
    """What the stock Trainer's pushes do not do right for two models.

    Stock pushes during training leave `peer/` out, send `training_args.bin` with the token in clear, read files that
    training is about to overwrite, and swallow their failures.

    Attributes:
        pushes: on the main process, once the repository is open.
    """

    pushes: BackgroundPushes | None = None
    hub_model_id: str | None

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        if not resume_from_checkpoint and "phase" in self.model.metadata:
            # Trained before: its first phase is not one on labels alone, and the card must not call it that.
            self.model.metadata["continued"] = True
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository unless it exists, and find out before training whether pushes will be accepted.

        Raises:
            HubError: they will not.
        """
        if not self.is_world_process_zero():
            return
        self.hub_model_id = open_target(
            self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=self.args.hub_revision,
        )
        self.pushes = BackgroundPushes(Path(self.args.output_dir))

    def create_model_card(self, **facts: Any) -> None:
        """Write the pair and its card into the output folder.

        Args:
            facts: `license`, `language`, `tags`, `model_name`, `dataset`, `dataset_tags`.
        """
        self._write_card(self.export(), **facts)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tag: str | None = None,
        **card_facts: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Write the pair and its card into the output folder and publish them in one commit.

        Args:
            blocking: wait for the push; otherwise its future is returned.
            revision: branch, made if there is none. tag: a name for the commit.
            card_facts: as for `create_model_card`.

        Returns:
            What was committed, on the main process.

        Raises:
            HubError: the push failed. Everything is in the output folder, and the message says how to push it later.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        folder = self.export()
        if not self.is_world_process_zero():
            return None
        token = token or self.args.hub_token
        if self.pushes is None:
            self.init_hf_repo(token, private)
        assert self.pushes is not None and self.hub_model_id is not None
        self._write_card(folder, token=token, **card_facts)
        staging = Staging(folder)
        staging.add(folder, PAIR_FILES)
        staging.add_run()
        how: dict[str, Any] = {"revision": revision or self.args.hub_revision, "token": token, "tag": tag}
        if blocking:
            return staging.send(self.hub_model_id, message=commit_message, **how)
        return self.pushes.send(staging, self.hub_model_id, message=commit_message, **how)

    def _write_card(self, folder: Path, *, token: str | None = None, **facts: Any) -> None:
        if not self.is_world_process_zero():
            return
        tags = facts.pop("tags", None) or []
        facts["tags"] = [*([tags] if isinstance(tags, str) else tags), *self.model.model_tags]
        write_card(folder, repo_id=self.hub_model_id, token=token or self.args.hub_token, **facts)

    # ---- pushes during training ------------------------------------------------------------------------------------

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the pair of a checkpoint and, where the strategy says so, the checkpoint.

        `last-checkpoint/` is always the end of a phase: weights from the middle of one cannot make its labels again.
        """
        strategy = self.args.hub_strategy
        if strategy == HubStrategy.END:
            return
        self.accelerator.wait_for_everyone()  # every rank's random state is part of the checkpoint
        if self.pushes is None:
            return
        self._report_failed_pushes()
        at_phase_end = not self.course.begun
        if self.pushes.busy and not at_phase_end and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        assert self.hub_model_id is not None
        checkpoint = Path(checkpoint_folder)
        staging = Staging(Path(self.args.output_dir))
        try:
            staging.add_run()
            self._stage_pair(staging, checkpoint)
            if at_phase_end and strategy != HubStrategy.EVERY_SAVE:
                staging.add_checkpoint(checkpoint, LAST_CHECKPOINT)
            if strategy == HubStrategy.ALL_CHECKPOINTS:
                staging.add_checkpoint(checkpoint, checkpoint.name)
            self._write_card(staging.folder)
        except OSError as problem:  # a full disk must not end the training
            staging.discard()
            logger.warning(f"The pair of step {self.state.global_step} is not pushed: {problem}")
            return
        message = f"Training in progress, step {self.state.global_step}"
        how = {"token": self.args.hub_token, "revision": self.args.hub_revision}
        self.pushes.send(staging, self.hub_model_id, message=message, **how)

    def _stage_pair(self, staging: Staging, checkpoint: Path) -> None:
        """The better member at the root; averaged weights, which are no files yet, where the run keeps them."""
        primary = evaluation.better_member(self.last_scores, self.model.task)
        if self.ema is None:
            staging.add_pair(checkpoint, primary)
            return
        with self.ema.applied():
            self.model.save_pretrained(staging.folder, primary=primary)  # type: ignore[arg-type]

    def _finish_current_push(self) -> None:
        self._report_failed_pushes(wait=True)

    def _report_failed_pushes(self, *, wait: bool = False) -> None:
        if self.pushes is not None:
            for message in self.pushes.failures(wait=wait):
                logger.warning(f"A push during training failed; training goes on. {message}")

    # ---- taking up a run from the Hub ------------------------------------------------------------------------------

    def checkpoint_to_resume(self, asked: str | bool | None) -> str | None:
        """The folder to resume from, or None for a new run.

        Args:
            asked: a folder; True for the last complete checkpoint of the output folder; or a repository on the Hub,
                whose `last-checkpoint` is downloaded. True may arrive as a word from a command line.

        Raises:
            ValueError: an incomplete checkpoint. HubError: a repository that holds none.
        """
        words = ("true", "false", "none", "")
        if isinstance(asked, str) and asked.lower() not in words and not Path(asked).exists():
            asked = str(self._download_run(asked))
        return super().checkpoint_to_resume(asked)

    def _download_run(self, repo_id: str) -> Path:
        """The last checkpoint of a run on the Hub; its records and first weights go into the output folder."""
        revision = self.args.hub_revision if repo_id == self.args.hub_model_id else None
        snapshot = fetch_checkpoint(repo_id, revision=revision, token=self.args.hub_token)
        checkpoint, output_dir = snapshot / LAST_CHECKPOINT, Path(self.args.output_dir)
        if self.args.should_save:
            output_dir.mkdir(parents=True, exist_ok=True)
            if (snapshot / "dmt_results.json").is_file() and not (output_dir / "dmt_results.json").exists():
                shutil.copyfile(snapshot / "dmt_results.json", output_dir / "dmt_results.json")
            if (checkpoint / "initial" / PAIR_FILE).is_file() and not (output_dir / "initial").exists():
                shutil.copytree(checkpoint / "initial", output_dir / "initial")
        self.accelerator.wait_for_everyone()
        return checkpoint

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():
            logger.warning(
                f"The best pair's checkpoint {best} is not on this machine (the run was taken up from another one), so "
                "the last pair is kept."
            )
            return
        super()._load_best_model()
