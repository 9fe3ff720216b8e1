"""Which checkpoints can be resumed from.

`trainer_state.json` is written last, but rank 0 writes it without waiting for the other ranks, and stock
`get_last_checkpoint` looks at nothing but the number. A checkpoint cut by a kill would then fail on resume or, worse,
resume without its optimizer.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from zipfile import is_zipfile

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...models.pair import PAIR_FILE, PEER_FOLDER

logger = logging.get_logger(__name__)

# Words of a command line.
_YES, _NO = ("true",), ("false", "none", "")

SHARDED_OPTIMIZER = "optimizer.bin"  # what accelerate writes in the place of the Trainer's file under FSDP


def last_complete_checkpoint(output_dir: str | Path, world_size: int) -> Path | None:
    """The newest `checkpoint-N` that holds everything a resume needs, else None."""
    for path in sorted(_numbered(output_dir), key=_number, reverse=True):
        if not missing_files(path, world_size):
            return path
    return None


def names_a_repository(asked: str | bool | None) -> bool:
    """Whether `resume_from_checkpoint` is neither a folder nor one of the words for yes and no."""
    return isinstance(asked, str) and asked.lower() not in (*_YES, *_NO) and not Path(asked).exists()


def to_resume(asked: str | bool | None, output_dir: str | Path, accelerator: Accelerator) -> str | None:
    """The checkpoint that `resume_from_checkpoint` asks for, or None for a new run; every process must ask.

    Args:
        asked: a folder, or True for the last complete one of `output_dir`. True may arrive as a word.

    Raises:
        ValueError: the folder is no complete checkpoint.
    """
    world_size = accelerator.num_processes
    word = asked.lower() if isinstance(asked, str) else str(asked).lower()
    if word in _NO:
        return None
    if word in _YES:
        # One process looks, after all have finished writing: the others could find a checkpoint whole that it did not,
        # and train another phase.
        accelerator.wait_for_everyone()
        last = broadcast_object_list([last_complete_checkpoint(output_dir, world_size)])[0]
        if last is None:
            logger.warning(f"No complete checkpoint in {output_dir}: starting from the beginning.")
        return str(last) if last else None
    if missing := missing_files(str(asked), world_size):
        raise ValueError(
            f"{asked!r} is not a complete checkpoint of a run with {world_size} process(es): {', '.join(missing)} "
            "missing or unreadable. Give --resume_from_checkpoint True for the last complete one."
        )
    return str(asked)


def not_written(checkpoint: Path, world_size: int, problem: Exception) -> OSError:
    """The error for a checkpoint that could not be written: where, why, and what is still there to go on from."""
    last = last_complete_checkpoint(checkpoint.parent, world_size)
    usable = f"{last.name} is complete: go on from it" if last else "there is no earlier one: start again"
    reason = getattr(problem, "strerror", None) or (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return OSError(
        getattr(problem, "errno", None),
        f"{checkpoint.name} cannot be written in {checkpoint.parent} ({reason}). Free space or change the folder's "
        f"rights; {usable} with --resume_from_checkpoint True. --save_total_limit 2 keeps fewer checkpoints",
    )


def delete_old(newest: Path, limit: int, *, best: str | None) -> None:
    """Keep `limit` checkpoints: the newest, the best, and then those of the highest numbers."""
    kept = {newest.name, Path(best).name} if best else {newest.name}
    others = sorted((path for path in _numbered(newest.parent) if path.name not in kept), key=_number)
    for path in others[: max(0, len(others) + len(kept) - limit)]:
        (path / TRAINER_STATE_NAME).unlink(missing_ok=True)  # half deleted, it must not pass for a whole one
        shutil.rmtree(path, ignore_errors=True)


def _numbered(output_dir: str | Path) -> list[Path]:
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return [path for path in found if path.is_dir() and path.name.rpartition("-")[2].isdigit()]


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def missing_files(checkpoint: str | Path, world_size: int) -> list[str]:
    """What a checkpoint lacks: both members, optimizer, scheduler, a readable state, every rank's random state."""
    folder = Path(checkpoint)
    optimizer = SHARDED_OPTIMIZER if (folder / SHARDED_OPTIMIZER).is_file() else OPTIMIZER_NAME
    needed = [PAIR_FILE, "config.json", f"{PEER_FOLDER}/config.json", optimizer, SCHEDULER_NAME]
    ranks = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [name for name in [*needed, *ranks] if not (folder / name).is_file()]
    # torch.save writes a zip archive, whose directory comes last: a file cut anywhere is none.
    missing += [path.name for path in folder.glob("*.pt*") if not is_zipfile(path)]
    for member in (".", PEER_FOLDER):
        if not any((folder / member).glob("model*.safetensors")):
            missing.append(f"{member}/model.safetensors")
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        missing.append(TRAINER_STATE_NAME)
    return missing
