"""Stage the files of a push as hard links in a separate folder, then upload them in one commit.

Training continues during a push: it overwrites the pair and deletes old checkpoints. The links preserve the files as
they were.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from ..data.files import read_json, write_aside, write_json
from ..data.members import MEMBERS
from ..data.pair_file import PAIR_FILE, PEER_FOLDER, CheckpointError, member_folder, read_pair_file
from ..report.html import has_pictures, write_report
from ..report.results_file import RESULTS_FILE
from ..report.run import read_run
from .card import CARD_FILE, write_card
from .config_file import read_config
from .repository import LAST_CHECKPOINT, PAIR_FILES, PUBLISHED, open_target, publish

logger = logging.get_logger(__name__)

STAGING = "_push-"
# What a resume needs and nothing else: the stock training_args.bin contains local paths and settings.
_CHECKPOINT_FILES = (
    *PAIR_FILES,
    *("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "ema.safetensors", "trainer_state.json"),
    "run.json",
)


class Staging:
    """A folder with the files of one push, deleted after the upload. It is in the run's folder, where links take no
    space, unless nothing can be written there.
    """

    def __init__(self, output_dir: Path) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        self.output_dir = output_dir
        self.folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=if_writable(output_dir)))

    def add(self, source: Path, patterns: Iterable[str], place: str = ".") -> None:
        """Link the files of `source` that match, under `place`."""
        for pattern in patterns:
            for path in source.glob(pattern):
                if path.is_file():
                    _link(path, self.folder / place / path.relative_to(source))

    def add_run(self) -> None:
        """Add results, split, report and figures of a run in their current state.

        The report is pushed without images, because the unlabeled images may be private.
        """
        self.add(self.output_dir, [name for name in PUBLISHED if name not in PAIR_FILES])
        if has_pictures(self.folder):
            write_report(self.output_dir, to=self.folder, pictures=False)

    def add_pair(self, saved: Path, primary: str) -> None:
        """Add a saved pair with `primary` at the root, wherever it is in `saved`."""
        description: dict[str, Any] = read_json(saved / PAIR_FILE)
        if description["primary"] == primary:
            self.add(saved, PAIR_FILES)
            return
        at_root = [name for name in PAIR_FILES if "/" not in name and name != PAIR_FILE]
        self.add(saved, at_root, PEER_FOLDER)
        self.add(saved / PEER_FOLDER, at_root)
        write_json(self.folder / PAIR_FILE, {**description, "primary": primary})

    def add_checkpoint(self, checkpoint: Path, name: str = LAST_CHECKPOINT) -> None:
        """Add a complete checkpoint as `name`, with what a run keeps beside it: the initial weights and the counts of
        phase 0 that later scores are compared with."""
        self.add(checkpoint, _CHECKPOINT_FILES, name)
        self.add(self.output_dir / "initial", PAIR_FILES, f"{name}/initial")
        self.add(self.output_dir / "scored", ("*.npz",), f"{name}/scored")
        # The path of the best checkpoint is local: useless elsewhere, and private.
        state = self.folder / name / "trainer_state.json"
        content: dict[str, Any] = read_json(state)
        if best := content.get("best_model_checkpoint"):
            write_json(state, {**content, "best_model_checkpoint": Path(best).name})

    def send(self, repo_id: str, **how: Any) -> CommitInfo:
        """Publish in one commit and delete the folder in any case.

        Raises:
            HubError: the push failed.
        """
        replaces = [*PUBLISHED]
        if (self.folder / LAST_CHECKPOINT).exists():
            replaces.append(f"{LAST_CHECKPOINT}/*")
        try:
            return publish(self.folder, repo_id, replaces=replaces, **how)
        finally:
            self.discard()

    def discard(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def delete_leftovers(output_dir: Path) -> None:
    """Delete what a killed run had staged."""
    for left in output_dir.glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)


def check_folder(folder: str | Path) -> None:
    """Raise a ValueError for a folder without a pair, or with one that nobody could load: a damaged description,
    configuration or file of weights, or results that a card would repeat."""
    folder = Path(folder)
    pair = read_pair_file(folder, str(folder))
    for name in MEMBERS:
        place = member_folder(folder, pair, name)
        read_config(place)
        for file in place.glob("*.safetensors"):
            try:
                with safe_open(file, framework="np"):  # reads the header, which says how long the file must be
                    pass
            except (OSError, SafetensorError) as problem:
                raise CheckpointError(
                    f"{str(file)!r} is damaged ({problem}). Copy or export the pair again."
                ) from problem
    if (folder / RESULTS_FILE).is_file():
        read_run(folder)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    message: str = "Upload pair",
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    card: dict[str, Any] | None = None,
) -> CommitInfo:
    """Publish the pair in a folder, with its card and results, in one commit; the repository is created if necessary.

    Args:
        card: facts for a new card, see `write_card`; None publishes the card in the folder. If that is one that nobody
            edited, its examples name the repository instead of the folder.

    Raises:
        ValueError: see `check_folder`. HubError: the push failed.
    """
    folder = Path(folder)
    check_folder(folder)
    name = open_target(repo_id, token=token, private=private, revision=revision)
    if card is not None:
        write_card(folder, repo_id=name, token=token, **card)
    staging = stage_finished(folder)
    if (folder / CARD_FILE).is_file():
        try:
            _name_repository(folder, staging.folder, name, token)
        except BaseException:
            staging.discard()
            raise
    return staging.send(name, message=message, token=token, revision=revision, tag=tag)


def _name_repository(folder: Path, staged: Path, name: str, token: str | None) -> None:
    """Let the staged card name the repository instead of the folder, unless somebody edited it."""
    written = (folder / CARD_FILE).read_bytes()
    if written == write_card(folder, to=staged).read_bytes():
        write_card(folder, repo_id=name, token=token, to=staged)
        return
    write_aside(staged / CARD_FILE, written)
    if name.encode() not in written:
        logger.warning(
            f"{CARD_FILE} does not mention {name!r}, so its examples may only work on this machine. Edit it, or write "
            f"it anew without your changes: {shlex.join(['hf-dmt', 'push', str(folder), name, '--card'])}"
        )


def stage_finished(folder: Path) -> Staging:
    """A staging of the pair in a folder with its card and results."""
    staging = Staging(folder)
    staging.add(folder, PAIR_FILES)
    staging.add_run()
    return staging


def if_writable(folder: Path) -> Path | None:
    """The folder; None, which is the system's folder for temporary files, if nothing can be written there."""
    return folder if os.access(folder, os.W_OK) else None


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # a different file system, or one without links
        shutil.copy2(source, target)
