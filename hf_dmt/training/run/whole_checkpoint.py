"""Whether a checkpoint is complete: everything a resume needs is there, and no file is truncated.

`trainer_state.json` is written last, but rank 0 writes it without waiting for the other ranks, and the stock
`get_last_checkpoint` only looks at the number. A checkpoint that was cut off by a kill would then fail to resume or,
worse, resume without its optimizer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ...data.files import read_json
from ...models.pair import PAIR_FILE, PEER_FOLDER

CHECKPOINT_RECORD = "run.json"
"""What a checkpoint says of its run: what fixes it (`identity.py`), how many processes wrote it, which files it has
beside the usual ones."""

_SHARDED_OPTIMIZER = "optimizer.bin"  # what accelerate writes in the place of the Trainer's file under FSDP
_NUMBERED = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def step_of(checkpoint: str | Path) -> int | None:
    """The number in a checkpoint's name; None for other names, such as `last-checkpoint`."""
    found = _NUMBERED.fullmatch(Path(checkpoint).name)
    return int(found[1]) if found else None


def steps_done(checkpoint: str | Path) -> int:
    """The number of updates before a checkpoint, from its state.

    Raises:
        OSError, ValueError: the state is missing or damaged, or does not match the folder's name.
    """
    state = read_json(Path(checkpoint) / TRAINER_STATE_NAME)
    step = state.get("global_step") if isinstance(state, dict) else None
    if not isinstance(step, int) or step_of(checkpoint) not in (None, step):
        raise ValueError(f"{TRAINER_STATE_NAME} does not belong to {Path(checkpoint).name}")
    return step


def read_record(checkpoint: str | Path) -> dict[str, Any]:
    """The record of the run that is stored in a checkpoint.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    record: dict[str, Any] = read_json(Path(checkpoint) / CHECKPOINT_RECORD)
    if not (
        isinstance(record, dict)
        and isinstance(record.get("world_size"), int)
        and isinstance(record.get("files"), list)
        and isinstance(record.get("identity"), dict)
    ):
        raise ValueError("it does not describe a run")
    return record


def faults(checkpoint: str | Path) -> list[str]:
    """What is missing or truncated in a checkpoint; empty if it is complete.

    Checks both models, optimizer, scheduler, the state, the random state of every process that took part, and the
    weight averages if the run has any. For weights, the header is compared with the file size; for PyTorch archives,
    the directory at the end of the file is read.
    """
    folder = Path(checkpoint)
    found: list[str] = []
    ranks, further = ["rng_state.pth"], []
    try:
        record = read_record(folder)
        further = [str(name) for name in record["files"]]
        if record["world_size"] > 1:
            ranks = [f"rng_state_{rank}.pth" for rank in range(record["world_size"])]
    except (OSError, ValueError):
        found.append(CHECKPOINT_RECORD)
    optimizer = _SHARDED_OPTIMIZER if (folder / _SHARDED_OPTIMIZER).is_file() else OPTIMIZER_NAME
    needed = [PAIR_FILE, "config.json", f"{PEER_FOLDER}/config.json", optimizer, SCHEDULER_NAME, *ranks, *further]
    found += [name for name in needed if not _is_whole(folder / name)]
    for member in (".", PEER_FOLDER):
        found += _faults_of_weights(folder, member)
    try:
        steps_done(folder)
    except (OSError, ValueError):
        found.append(TRAINER_STATE_NAME)
    return list(dict.fromkeys(found))


def _faults_of_weights(folder: Path, member: str) -> list[str]:
    place = folder / member
    files = {path.name for path in place.glob("model*.safetensors")} or {"model.safetensors"}
    if (index := place / SAFE_WEIGHTS_INDEX_NAME).is_file():
        try:
            files |= set(map(str, read_json(index)["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return [f"{member}/{index.name}"]
    inside = {name for name in files if Path(name).name == name}
    return [f"{member}/{name}" for name in sorted(files) if name not in inside or not _is_whole(place / name)]


def _is_whole(file: Path) -> bool:
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):  # compares the header with the file size
                return True
        if file.suffix in (".pt", ".pth", ".bin"):
            with ZipFile(file):
                return True
        if file.suffix == ".json":
            return isinstance(read_json(file), dict)
        return file.is_file()
    except (OSError, ValueError, BadZipFile, SafetensorError):
        return False
