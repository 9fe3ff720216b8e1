"""Whether a checkpoint is complete: everything a resume needs is there, and no file is truncated.

`trainer_state.json` is written last, but rank 0 writes it without waiting for the other ranks, and the stock
`get_last_checkpoint` only looks at the number. A checkpoint that was cut off by a kill would then fail to resume or,
worse, resume without its optimizer.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...data.files import read_json, write_json
from ...data.pair_file import PAIR_FILE, PEER_FOLDER, CheckpointError, read_pair_file

CHECKPOINT_RECORD = "run.json"
"""Describes the run that a checkpoint belongs to: its identity (`identity.py`), the number of processes that wrote it,
and the checksums of its weights and other files."""

_SHARDED_OPTIMIZER = "optimizer.bin"  # what accelerate writes in the place of the Trainer's file under FSDP
# What the first process writes besides weights. Others may still be writing their random states.
_STATES = (OPTIMIZER_NAME, _SHARDED_OPTIMIZER, SCHEDULER_NAME, "scaler.pt", "rng_state.pth", "rng_state_0.pth")
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
    for name, default in vars(TrainerState()).items():  # the Trainer loads any values and fails at their first use
        kind = (int, float) if isinstance(default, (int, float)) else type(default)
        if default is not None and not isinstance(state.get(name, default), kind):
            raise ValueError(f"{TRAINER_STATE_NAME} has an invalid {name}: {state[name]!r}")
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
        and isinstance(record.get("weights"), dict)
        and isinstance(record.get("identity"), dict)
        and isinstance(record.get("files", {}), dict)
    ):
        raise ValueError("it does not describe a run")
    return record


def checksums(folder: str | Path) -> dict[str, int]:
    """CRC-32 of every file of weights in a checkpoint, by its name inside."""
    files = sorted(Path(folder).glob("**/*.safetensors"))
    return {file.relative_to(folder).as_posix(): _checksum(file) for file in files}


def seal(checkpoint: str | Path) -> None:
    """Add the checksums of all other files to the record of a checkpoint that is written completely.

    A file from another checkpoint may be whole, but it does not belong to these weights. Checkpoints of earlier
    versions, and those of a run that was killed before this, have no such checksums.
    """
    folder = Path(checkpoint)
    names = [*_STATES, *(file.relative_to(folder).as_posix() for file in sorted(folder.glob("**/*.json")))]
    found = {name: _fingerprint(folder / name) for name in names if name != CHECKPOINT_RECORD}
    files = {name: checksum for name, checksum in found.items() if checksum is not None}
    write_json(folder / CHECKPOINT_RECORD, {**read_record(folder), "files": files})


def faults(checkpoint: str | Path) -> list[str]:
    """What is missing, damaged or from another checkpoint; empty if the checkpoint is complete.

    Checks both models, optimizer, scheduler, the state, the random state of every process that took part, and the
    weight averages if the run has any. Weights and PyTorch archives are read and compared with their checksums: nothing
    else shows a flipped bit.
    """
    folder = Path(checkpoint)
    found: list[str] = []
    ranks = ["rng_state.pth"]
    try:
        record = read_record(folder)
        found += [str(name) for name, crc in record["weights"].items() if not _is_as_written(folder / str(name), crc)]
        found += [str(name) for name, crc in record.get("files", {}).items() if _fingerprint(folder / str(name)) != crc]
        if record["world_size"] > 1:
            ranks = [f"rng_state_{rank}.pth" for rank in range(record["world_size"])]
    except (OSError, ValueError):
        found.append(CHECKPOINT_RECORD)
    optimizer = _SHARDED_OPTIMIZER if (folder / _SHARDED_OPTIMIZER).is_file() else OPTIMIZER_NAME
    needed = ["config.json", f"{PEER_FOLDER}/config.json", optimizer, SCHEDULER_NAME, *ranks]
    found += [name for name in needed if not _is_whole(folder / name)]
    try:
        read_pair_file(folder, str(folder))
    except CheckpointError:
        found.append(PAIR_FILE)
    try:
        steps_done(folder)
    except (OSError, ValueError):
        found.append(TRAINER_STATE_NAME)
    return list(dict.fromkeys(found))


def _is_as_written(file: Path, crc: int) -> bool:
    try:
        return _checksum(file) == crc
    except OSError:
        return False


def _checksum(file: Path) -> int:
    crc = 0
    with open(file, "rb") as content:
        while part := content.read(1 << 20):
            crc = zlib.crc32(part, crc)
    return crc


def _fingerprint(file: Path) -> int | None:
    """A checksum of the contents of a state or JSON file; None if there is none, or it is damaged."""
    try:
        if file.suffix == ".json":
            content = read_json(file)
            if file.name == TRAINER_STATE_NAME and isinstance(content, dict):
                content.pop("best_model_checkpoint", None)  # a path, which a push shortens
            return zlib.crc32(json.dumps(content, sort_keys=True).encode())
        with ZipFile(file) as archive:  # it has the checksums of its parts
            return zlib.crc32(repr([(part.filename, part.CRC) for part in archive.infolist()]).encode())
    except (OSError, ValueError, BadZipFile):
        return None


def _is_whole(file: Path) -> bool:
    try:
        if file.suffix in (".pt", ".pth", ".bin"):
            with ZipFile(file) as archive:
                return archive.testzip() is None
        if file.suffix == ".json":
            return isinstance(read_json(file), dict)
        return file.is_file()
    except (OSError, ValueError, BadZipFile, zlib.error):
        return False
