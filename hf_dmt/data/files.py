"""Read JSON that anybody may have touched, and write files so that nobody ever reads half of one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_aside(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, then rename: a reader sees the old file or the new one, never a part.

    One process at a time writes a path. What a kill leaves beside it is overwritten by the next attempt.

    Raises:
        OSError: with the folder's name, when it is full or not writable; the old file is untouched.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
        aside.replace(path)
    except OSError as problem:
        with suppress(OSError):
            aside.unlink()
        raise OSError(
            problem.errno,
            f"Cannot write {path.name} in {path.parent} ({problem.strerror}). Free space or choose another folder",
        ) from problem


def read_json(path: Path) -> Any:
    """The contents of a JSON file that anybody may have written.

    Raises:
        OSError: it cannot be read. ValueError: it is no JSON text, or too deeply nested for the reader's stack.
    """
    text = path.read_text(encoding="utf-8-sig")  # Windows editors write a byte order mark
    try:
        return json.loads(text)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem


def write_json(path: Path, value: Any) -> None:
    """`write_aside` for JSON."""
    write_aside(path, (json.dumps(value, indent=2) + "\n").encode())
