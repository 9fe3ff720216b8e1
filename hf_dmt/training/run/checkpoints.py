"""Which checkpoint a run resumes from, which old ones are deleted, and what a new run must not overwrite."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...data.files import read_json, with_number_of
from ...data.messages import first_line
from ...data.pair_file import PAIR_FILE, PEER_FOLDER
from .origin import IDENTITY_FILE, RunOrigin
from .results import RESULTS_FILE, TELEMETRY_FILE
from .whole_checkpoint import faults, read_record, seal, step_of

logger = logging.get_logger(__name__)

# What a finished run leaves in its folder under names that files of others may have.
_WRITTEN = ("README.md", "config.json", "model.safetensors", "preprocessor_config.json", "report.html", PEER_FOLDER)


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest `checkpoint-N` that is complete, else None; skipped ones are logged."""
    for path in reversed(numbered(output_dir)):
        if not (found := faults(path)):
            return path
        logger.warning(f"{path.name} is incomplete ({', '.join(found)} missing, damaged or replaced); skipping it.")
    return None


def names_a_repository(asked: str | bool | None) -> bool:
    """Whether `resume_from_checkpoint` can only mean a repository on the Hub: it is neither a file or folder here, nor
    the path of one."""
    if not isinstance(asked, str) or not asked or Path(asked).exists():
        return False
    return not Path(asked).is_absolute() and step_of(asked) is None


def to_resume(
    asked: str | bool | None, output_dir: str | Path, accelerator: Accelerator, overwrite: bool = False
) -> str | None:
    """The checkpoint that `resume_from_checkpoint` asks for, or None for a new run; must be called on every process.

    Args:
        asked: a folder, or True for the last complete checkpoint in `output_dir`.
        overwrite: start over if there is no complete checkpoint, although `output_dir` contains work of a run.

    Raises:
        ValueError: the folder is not a complete checkpoint, or there is none and work would be overwritten.
    """
    if not asked:
        return None
    if asked is True:
        # One process looks, after all have finished writing; otherwise processes could choose different checkpoints.
        accelerator.wait_for_everyone()
        last = broadcast_object_list([last_complete_checkpoint(output_dir) if accelerator.is_main_process else None])[0]
        if last is None:
            check_room(output_dir, overwrite=overwrite)
            logger.warning(f"No complete checkpoint in {output_dir}; starting from the beginning.")
        return str(last) if last else None
    if not Path(str(asked)).is_dir():
        there = ", ".join(path.name for path in numbered(output_dir)) or "no checkpoints"
        raise ValueError(
            f"There is no folder {str(asked)!r} to resume from. `output_dir` {str(output_dir)!r} has {there}. Give the "
            "path of one, or `resume_from_checkpoint=True` for the last complete one."
        )
    if found := faults(str(asked)):
        raise ValueError(
            f"{asked!r} is not a complete checkpoint: {', '.join(found)} missing, unreadable or replaced. Use "
            "`resume_from_checkpoint=True` for the last complete one."
        )
    return str(asked)


def best_of(checkpoint: str | Path) -> str | None:
    """The best checkpoint according to the state of another one, as a folder of the same run that exists; else None.

    The state contains a path. If the run's folder was moved, nothing is there any more; if it was copied, another run
    may be there by now. So the folder with that name beside the checkpoint comes first.
    """
    if not (recorded := read_json(Path(checkpoint) / TRAINER_STATE_NAME).get("best_model_checkpoint")):
        return None
    run = read_record(checkpoint).get("run_id")
    for folder in (Path(checkpoint).parent / Path(recorded).name, Path(recorded)):
        try:
            if read_record(folder).get("run_id") == run:
                return str(folder)
        except (OSError, ValueError):  # none there, or not from a run
            continue
    return None


def not_written(checkpoint: Path, problem: Exception) -> OSError:
    """The error for a checkpoint that could not be written: where, why, and what is left to resume from."""
    last = last_complete_checkpoint(checkpoint.parent)
    usable = f"{last.name} is complete: resume from it" if last else "there is no earlier one: start again"
    cause = problem.__cause__ or problem  # an error of our own says what to do, too
    reason = getattr(cause, "strerror", None) or first_line(cause)
    if "inline_container" in reason:  # torch's own check of the size of its file
        reason = "the file was cut off"
    return with_number_of(
        cause,
        f"{checkpoint.name} cannot be written in {checkpoint.parent} ({reason}). Free disk space or change the "
        f"permissions of the folder; {usable} with `resume_from_checkpoint=True`. `save_total_limit=2` keeps fewer "
        "checkpoints",
    )


def complete(newest: Path, limit: int | None, *, best: str | None) -> None:
    """Seal a checkpoint whose files have been written, and delete those beyond the limit."""
    seal(newest)
    if limit:
        delete_old(newest, limit, best=best)


def delete_old(newest: Path, limit: int, *, best: str | None) -> None:
    """Keep `limit` checkpoints: the newest, the best, and then those with the highest numbers."""
    kept = {newest.name, Path(best).name} if best else {newest.name}
    others = [path for path in numbered(newest.parent) if path.name not in kept]
    for path in others[: max(0, len(others) + len(kept) - limit)]:
        (path / TRAINER_STATE_NAME).unlink(missing_ok=True)  # a half-deleted checkpoint must not look complete
        shutil.rmtree(path, ignore_errors=True)


def numbered(output_dir: str | Path) -> list[Path]:
    """The checkpoint folders of a run in order, complete or not."""
    found = {path: step_of(path) for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()}
    return sorted((path for path, step in found.items() if step is not None), key=lambda path: found[path] or 0)


def check_room(folder: str | Path, *, overwrite: bool) -> None:
    """Refuse to start a new run in a folder where another one has finished a phase, saved a checkpoint or exported its
    pair, or where other files have the names of those that the run will write.

    Leftovers of a run that failed before that are ignored.

    Raises:
        ValueError: lists what would be lost.
    """
    folder = Path(folder)
    if overwrite:
        return
    # The state is written last: without it, a checkpoint was never finished, or is being deleted.
    work = [path.name for path in numbered(folder) if (path / TRAINER_STATE_NAME).is_file()]
    try:
        phases = len(read_json(folder / RESULTS_FILE)["phases"])
    except FileNotFoundError:
        phases = 0
    except (OSError, ValueError, KeyError, TypeError):  # damaged, so there may have been some
        phases = 1
    work += [f"{phases} finished phase(s)"] if phases else []
    work += ["a pair"] if (folder / PAIR_FILE).is_file() else []
    if work:
        raise ValueError(
            f"`output_dir` {str(folder)!r} already contains a run ({', '.join(work[-3:])}), which a new one would "
            "overwrite. Continue it with `resume_from_checkpoint=True`, if it has a complete checkpoint; choose "
            "another folder; or pass `overwrite_output_dir=True` to delete what is there."
        )
    files = [name for name in _WRITTEN if (folder / name).exists()]
    if files and not (folder / IDENTITY_FILE).exists():
        raise ValueError(
            f"`output_dir` {str(folder)!r} contains {', '.join(files)}, which no run of hf_dmt wrote and this one "
            "would replace. Choose another folder, or pass `overwrite_output_dir=True`."
        )


def place_for_pair(asked: str | Path | None, output_dir: str | Path, *, trained: bool) -> Path:
    """The folder to write a pair to: the one that was asked for, or the output folder.

    Raises:
        ValueError: the output folder has the models of a run, but the pair has not been `trained`.
    """
    if not asked and not trained and (Path(output_dir) / RESULTS_FILE).is_file():
        raise ValueError(
            f"`output_dir` {str(output_dir)!r} contains a run, but this trainer has not trained: its pair would "
            "replace the trained models. Name another folder, or publish the trained ones: "
            "ModelPair.from_pretrained(folder).push_to_hub('me/my-pair')."
        )
    return Path(asked or output_dir)


def begin(folder: str | Path, origin: RunOrigin, *, anew: bool) -> None:
    """Record the identity of the run. With `anew`, the files of a previous run are deleted, so that none is mistaken
    for a file of this run."""
    folder = Path(folder)
    if anew:
        _make_room(folder)
    origin.write(folder)


def _make_room(folder: Path) -> None:
    old = [*numbered(folder), *(folder / name for name in ("pseudo_labels", "gallery", "initial", "scored"))]
    if (folder / PAIR_FILE).is_file():  # then these are the models and card of the old run, not other files of a user
        old += [folder / PEER_FOLDER, folder / "figures"]
        for path in (*folder.glob("model*.safetensors*"), folder / "config.json", folder / "README.md"):
            path.unlink(missing_ok=True)
    for path in (folder / name for name in (PAIR_FILE, RESULTS_FILE, TELEMETRY_FILE, IDENTITY_FILE, "report.html")):
        path.unlink(missing_ok=True)
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
