"""Sequences of ids and paths that keep all their text in one block of memory.

A set may have millions of images. A list of strings takes 100 to 200 bytes each, and every worker process ends up with
its own copy, page by page, because Python updates reference counts even when it only reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np


def texts(strings: Iterable[str]) -> np.ndarray:
    """The strings as an array, whose items are ordinary strings."""
    return np.array(list(strings), dtype=np.dtypes.StringDType())


class Paths(Sequence[Path]):
    """Files, given by their names inside a folder."""

    def __init__(self, root: Path, names: np.ndarray) -> None:
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
        return (self.root / name for name in self.names.tolist())
