"""Undecoded images and targets by row: of a table, of a folder, of a builtin set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

NO_LABEL = -1  # what data sets on the Hub write where an image has no label


class DataError(ValueError):
    """Data that cannot be used as given, and what to do."""


class Rows(Protocol):
    """Undecoded images and targets by row, with an id for each."""

    @property
    def ids(self) -> Sequence[str]: ...

    def raw(self, row: int) -> tuple[Any, Any]:
        """`(image, target)` before decoding; target None where there is none."""
        ...

    def targets(self) -> Sequence[Any] | None:
        """All targets without touching an image (class labels only), else None."""
        ...


class TableRows:
    """Rows of a `datasets.Dataset`; images stay encoded until they are asked for, so a bad file can be named.

    Args:
        folder: the local folder that the table was made from: where its images lie inside, their paths are the ids.
        recode: what replaces each target; targets that are not in it are unknown. None takes targets as they are.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        image: str,
        target: str | None,
        *,
        folder: Path | None = None,
        recode: Mapping[Any, int] | None = None,
    ) -> None:
        self.table = table.select_columns([image, target] if target else [image])
        for column in self.table.column_names:
            if isinstance(self.table.features[column], datasets.Image):
                self.table = self.table.cast_column(column, datasets.Image(decode=False))
        self.image, self.target, self.recode = image, target, recode
        self.ids = (_paths_inside(folder, self.table, image) if folder else None) or [str(n) for n in range(len(table))]

    def raw(self, row: int) -> tuple[Any, Any]:
        item = self.table[row]
        return item[self.image], self._label(item[self.target]) if self.target else None

    def targets(self) -> Sequence[Any] | None:
        if self.target is None or not holds_labels(self.table.features[self.target]):
            return None
        column = [self._label(target) for target in self.table[self.target][:]]
        return column if any(is_label(target) for target in column) else None

    def _label(self, target: Any) -> Any:
        if isinstance(target, float):  # a column of integers with gaps, as pandas writes it
            target = None if math.isnan(target) else int(target) if target.is_integer() else target
        return self.recode.get(target) if self.recode is not None else target


class FileRows:
    """Image files. Ids are paths inside `root`.

    Args:
        masks, labels: a mask file or a label for each image, or neither.
    """

    def __init__(
        self,
        images: Sequence[Path],
        root: Path,
        *,
        masks: Sequence[Path] | None = None,
        labels: Sequence[Any] | None = None,
    ) -> None:
        self.images, self.masks, self.labels = images, masks, labels
        self.ids = [path.relative_to(root).as_posix() for path in images]

    def raw(self, row: int) -> tuple[Any, Any]:
        found = self.masks or self.labels
        return self.images[row], found[row] if found else None

    def targets(self) -> Sequence[Any] | None:
        return self.labels if any(is_label(label) for label in self.labels or ()) else None


class BuiltinRows:
    """A builtin set, whose images need no decoding."""

    def __init__(self, items: Any) -> None:
        self.items, self.ids = items, items.ids

    def raw(self, row: int) -> tuple[Any, Any]:
        item = self.items[row]
        return item["image"], item.get("label", item.get("mask"))

    def targets(self) -> Sequence[Any] | None:
        return getattr(self.items, "labels", None)


class WithoutTargets:
    """Rows whose targets are never read."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.ids = rows, rows.ids

    def raw(self, row: int) -> tuple[Any, Any]:
        return self.rows.raw(row)[0], None

    def targets(self) -> Sequence[Any] | None:
        return None


def holds_labels(feature: Any) -> bool:
    """Whether a column can hold one label an image: a class, a number or a word."""
    if isinstance(feature, datasets.ClassLabel):
        return True
    return isinstance(feature, datasets.Value) and not feature.dtype.endswith("binary")  # the bytes of a file


def is_label(target: Any) -> bool:
    """Whether a target says something: neither null nor the -1 that marks an image without a label."""
    return target is not None and not (isinstance(target, (int, np.integer)) and target == NO_LABEL)


def _paths_inside(folder: Path, table: datasets.Dataset, image: str) -> list[str] | None:
    """Each image's path inside `folder`; None unless all of them lie there."""
    roots = (folder.absolute(), folder.resolve())
    found: list[str] = []
    for item in table[image]:
        path = Path(item.get("path") or "") if isinstance(item, Mapping) else Path()
        root = next((root for root in roots if path.is_absolute() and path.is_relative_to(root)), None)
        if root is None:
            return None
        found.append(path.relative_to(root).as_posix())
    return found
