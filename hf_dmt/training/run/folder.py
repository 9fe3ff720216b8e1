"""The output folder of a run: used by one run at a time, without unrelated files, and always with the same images."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.utils import logging

from ...data.files import read_json, write_json
from ...data.pair_file import PAIR_FILE
from ...data.splitting.splits import SPLIT_FILE
from ..settings.arguments import DMTTrainingArguments
from .checkpoints import check_room
from .origin import IDENTITY_FILE

LOCK_FILE = ".run.lock"
OWNER_FILE = ".run.owner"

logger = logging.get_logger(__name__)


def check_place(output_dir: str) -> None:
    """Raises ValueError if there can be no folder of this name, or nothing can be written to it."""
    if not str(output_dir).strip():
        raise ValueError("`output_dir` is empty, but a run needs a folder. Give its name, or omit it.")
    folder = Path(output_dir)
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        where = "is" if nearest == folder else f"cannot be created: {str(nearest)!r} is"
        raise ValueError(f"`output_dir` {str(folder)!r} {where} a file, but a run needs a folder. Choose another name.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"`output_dir` {str(folder)!r} cannot be written: there is no permission to write to {str(nearest)!r}. "
            "Change its permissions, or choose another folder."
        )


def check_output_folder(args: DMTTrainingArguments) -> None:
    """Refuse a folder with unrelated contents, or with a run unless it is to be resumed or overwritten."""
    check_place(args.output_dir)
    folder = Path(args.output_dir)
    if not folder.exists() or not any(path for path in folder.iterdir() if not _is_leftover(path)):
        return
    if not any((folder / name).is_file() for name in (SPLIT_FILE, IDENTITY_FILE, PAIR_FILE)):
        raise ValueError(
            f"`output_dir` {str(folder)!r} is not empty and is not the folder of a run. Choose another folder."
        )
    if not args.resume_from_checkpoint:
        check_room(folder, overwrite=args.overwrite_output_dir)


@contextlib.contextmanager
def locked(folder: str | Path, *, writes: bool) -> Iterator[None]:
    """Lock the folder for this process, because two runs in one folder would mix their checkpoints and records.

    This is a lock of the operating system. It ends with the process, so the lock of a dead run can be taken over. It is
    reentrant within a process.

    Args:
        writes: whether this process writes to the folder; other processes of a run take no lock.

    Raises:
        ValueError: another process holds the lock.
        OSError: the folder cannot be written.
    """
    if not writes:
        yield
        return
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE, timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as problem:
        raise ValueError(
            f"Another run is training in `output_dir` {str(folder)!r}{_owner(folder)}, and two runs would overwrite "
            "each other's checkpoints. Wait for it, stop it, or choose another folder."
        ) from problem
    except NotImplementedError:  # a file system without locks
        logger.warning(f"{folder} is on a file system without locks: make sure that only one run at a time uses it.")
        yield
        return
    except OSError as problem:
        raise OSError(
            problem.errno,
            f"`output_dir` {str(folder)!r} cannot be written ({problem.strerror or problem}). Free disk space, change "
            "its permissions, or choose another folder",
        ) from problem
    try:
        if lock.lock_counter == 1:
            # Temporary files of a killed run: only the lock holder writes here.
            for place in ("", "checkpoint-*/", "pseudo_labels/*/*/", "pseudo_labels/*/*/*/"):
                for path in folder.glob(f"{place}.*.partial"):
                    path.unlink(missing_ok=True)
            write_json(folder / OWNER_FILE, {"pid": os.getpid(), "host": platform.node()})
        yield
    finally:
        # The lock file itself stays: if it were deleted, one waiting process could lock it while another creates it
        # again.
        if lock.lock_counter == 1:
            (folder / OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def check_split(folder: str | Path, split: Mapping[str, Any]) -> None:
    """Refuse to resume a run whose images have changed.

    Pseudo labels, stream positions and scores refer to images by index, so a different set would silently be trained on
    wrong labels.

    Args:
        split: what `split.json` would contain now.

    Raises:
        ValueError: `split.json` is damaged, or names the role and the first image that is missing or new.
    """
    file = Path(folder) / SPLIT_FILE
    if not file.is_file():
        return
    try:
        before: dict[str, Any] = read_json(file)
        hashes: dict[str, str] = dict(before["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ValueError(
            f"{str(file)!r} is damaged ({problem!r}), so it is unknown whether the images are still the same. Restore "
            "it, or start a new run in another folder."
        ) from problem
    for role, digest in split["sha256"].items():
        if hashes.get(role) == digest:
            continue
        old, new = ({str(name) for name in record.get(role) or ()} for record in (before, split))
        gone, added = sorted(old - new), sorted(new - old)
        changes = [f"{len(gone)} missing, such as {gone[0]!r}"] if gone else []
        changes += [f"{len(added)} new, such as {added[0]!r}"] if added else []
        raise ValueError(
            f"The {role} images have changed since the run in {str(folder)!r} started "
            f"({'; '.join(changes) or 'other contents or another order'}), so its pseudo labels and positions no "
            "longer fit. Restore the images and flags of the first start, or start a new run in another folder."
        )


def _is_leftover(path: Path) -> bool:
    return path.name in (LOCK_FILE, OWNER_FILE) or (path.name.startswith(".") and path.suffix == ".partial")


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER_FILE).read_text())
        return f" (process {owner['pid']} on {owner['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
