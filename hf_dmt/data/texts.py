"""Sequences of ids and paths that keep all their text in one block of memory.

A set may have millions of images. A list of strings takes 100 to 200 bytes each, and every worker process ends up with
its own copy, page by page, because Python updates reference counts even when it only reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np


class Texts(Sequence[str]):
    """An immutable sequence of strings; equal to any sequence of the same strings."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._values = np.array(list(texts), dtype=np.dtypes.StringDType())

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found: Any = self._values[index]
        return found.tolist() if isinstance(index, slice) else str(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values.tolist())

    def at(self, positions: np.ndarray) -> list[str]:
        return self._values[positions].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({self[:3]}, {len(self)} in total)"


class Paths(Sequence[Path]):
    """Files, given by their names inside a folder."""

    def __init__(self, root: Path, names: Texts) -> None:
        self.root, self.names, self._folder = root, names, str(root)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self.root / name for name in self.names[index]]
        return self.root / self.names[index]

    def text(self, index: int) -> str:
        """One file's path; making a `Path` takes as long as asking for the file's size and times."""
        return os.path.join(self._folder, self.names[index])

    def __iter__(self) -> Iterator[Path]:
        return (self.root / name for name in self.names)
