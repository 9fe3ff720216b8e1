"""Write files so that nobody ever reads half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_aside(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, then rename: a reader sees the old file or the new one, never a part.

    Raises:
        OSError: with the folder's name, when it is full or not writable; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(aside, "wb") as file:
            file.write(content)
        aside.replace(path)
    except OSError as problem:
        aside.unlink(missing_ok=True)
        raise OSError(
            problem.errno,
            f"Cannot write {path.name} in {path.parent} ({problem.strerror}). Free space or choose another folder",
        ) from problem


def write_json(path: Path, value: Any) -> None:
    """`write_aside` for JSON."""
    write_aside(path, (json.dumps(value, indent=2) + "\n").encode())
