"""Undecoded images and targets by row, from a table, a folder or an embedded set."""

from __future__ import annotations

import hashlib
import math
import os
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import datasets
import numpy as np

from ..escaping import is_text
from ..messages import listed
from ..texts import Paths, texts
from .decoding import CorruptImage

_SETTLED = 2.0  # seconds; a more recent change may be followed by another one with the same time stamp
NO_FILE = Path()  # in place of the mask of an image without one
NO_LABEL = -1  # marks an image without a label in data sets on the Hub


class DataError(ValueError):
    """Data that cannot be used as given, and what to do."""


class Place(NamedTuple):
    """The location of an image or mask, stable between runs; `stamp` changes whenever its content may have."""

    folder: str
    name: str
    stamp: str


def place_of(path: str | Path) -> Place | None:
    """A file with its size and times. None if it does not exist or is still being written."""
    full = os.path.abspath(path)
    try:
        found = os.stat(full)
    except OSError:
        return None
    if abs(time.time() - found.st_ctime) < _SETTLED:
        return None
    # A copy that preserves the old time, or a tool that resets it, still changes the ctime.
    return Place(*os.path.split(full), f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}")


class TablePlaces:
    """Locations for one column of a table: the files that its cells name, or else the rows of the table's own files.

    Args:
        folder: paths may be relative to it, or else to the current directory.
    """

    def __init__(self, table: datasets.Dataset, column: str, folder: Path | None = None) -> None:
        cells = table.select_columns([column]).with_format("arrow")[:].column(column)
        self.paths: np.ndarray | None = None
        self.folder: str | None = None
        kind = table.features[column]
        paths: list[str | None] | None = None
        if isinstance(kind, datasets.Value) and "string" in kind.dtype:
            paths = cells.to_pylist()
        # Without the metadata of `datasets`, its images are structures of bytes and a path.
        stored = isinstance(kind, datasets.Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"})
        if stored and sum(chunk.field("bytes").null_count for chunk in cells.chunks) == len(cells):
            paths = [path for chunk in cells.chunks for path in chunk.field("path").to_pylist()]
        if paths is not None:
            self.paths = texts(_beside(folder, path) if path else "" for path in paths)
        elif table.cache_files:
            stamps = [place_of(entry["filename"]) for entry in table.cache_files]
            # A table's fingerprint identifies the rows it contains and their order.
            told = repr((stamps, table._fingerprint, column)).encode()
            if all(stamps):
                self.folder = f"table {hashlib.blake2b(told, digest_size=16).hexdigest()}"
        self.empty = {row for row, missing in enumerate(cells.is_null().to_pylist()) if missing}

    def __getitem__(self, row: int) -> Place | None:
        if row in self.empty:
            return None
        if self.paths is not None:
            path = self.paths[row]
            return place_of(path) if path else None
        return Place(self.folder, str(row), "") if self.folder else None

    def opened_from(self, row: int, cell: Any) -> Any:
        """The file that a cell names, or the cell itself."""
        return Path(path) if cell is not None and self.paths is not None and (path := self.paths[row]) else cell


class Rows(Protocol):
    """Undecoded images and targets by row, each with an id."""

    ids: np.ndarray  # of strings

    def raw(self, row: int) -> tuple[Any, Any]:
        """`(image, target)` before decoding; target None if there is none."""
        ...

    def targets(self) -> Sequence[Any] | None:
        """All targets without reading an image (class labels only), or None."""
        return None

    def places(self, row: int) -> tuple[Place | None, Place | None]:
        """The locations of image and target, stable between runs; None if there is none, and for labels."""
        return None, None


class TableRows:
    """Rows of a `datasets.Dataset`; images are decoded on access, so that a bad file can be named.

    Args:
        folder: the local folder that the table was made from: if its images are inside, their paths are the ids.
        recode: replaces each target; targets that are not in it are unknown. None keeps targets as they are, and uses
            the names of a `ClassLabel`, because its numbers mean nothing in another table.

    Attributes:
        class_names: those of a `ClassLabel`, in the order of its numbers.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        image: str,
        target: str | None,
        *,
        folder: Path | None = None,
        recode: Mapping[Any, Any] | None = None,
    ) -> None:
        self.columns = table.column_names
        self.table = table.select_columns([image, target] if target else [image])
        for column in self.table.column_names:
            if isinstance(self.table.features[column], datasets.Image):
                self.table = self.table.cast_column(column, datasets.Image(decode=False))
        self.class_names = class_names_of(self.table.features.get(target))
        if recode is None and self.class_names is not None:
            recode = dict(enumerate(self.class_names))
        self.image, self.target, self.recode = image, target, recode
        self.images = TablePlaces(self.table, image, folder)
        is_mask = target is not None and not holds_labels(table.features[target])
        self.masks = TablePlaces(self.table, target, folder) if target and is_mask else None
        inside = _paths_inside(folder, self.images.paths) if folder else None
        self.ids = texts(inside or map(str, range(len(table))))

    def raw(self, row: int) -> tuple[Any, Any]:
        item = self.table[row]
        if item[self.image] is None:
            raise CorruptImage(f"row {row} cannot be read as an image: its cell in the table is empty.")
        target = self._label(item[self.target]) if self.target else None
        if self.masks:
            target = self.masks.opened_from(row, target)
        return self.images.opened_from(row, item[self.image]), target

    def targets(self) -> Sequence[Any] | None:
        if self.target is None or not holds_labels(self.table.features[self.target]):
            return None
        column = [self._label(target) for target in self.table[self.target][:]]
        return column if any(is_label(target) for target in column) else None

    def places(self, row: int) -> tuple[Place | None, Place | None]:
        return self.images[row], self.masks[row] if self.masks else None

    def _label(self, target: Any) -> Any:
        if isinstance(target, float):  # pandas writes an integer column with gaps as floats
            target = None if math.isnan(target) else int(target) if target.is_integer() else target
        if isinstance(target, str):
            target = same_letters(target)
        return self.recode.get(target) if self.recode is not None else target


class FileRows:
    """Image files. Ids are paths relative to `root`.

    Args:
        images: files, or their paths inside `root` as text.
        masks, labels: a mask file (or `NO_FILE`) or a label for each image, or neither.
        columns: of the table that lists the files.

    Raises:
        DataError: a name that is not valid text.
    """

    def __init__(
        self,
        images: Sequence[Path] | np.ndarray,
        root: Path,
        *,
        masks: Sequence[Path] | None = None,
        labels: Sequence[Any] | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        if not isinstance(images, np.ndarray):
            names = ["/".join(_parts_inside(path, root)) for path in images]
            check_names([*names, *(str(path) for path in masks or ())], root)
            images = texts(names)
        for targets in (masks, labels):
            assert targets is None or len(targets) == len(images), "a target of another image"
        self.ids, self.columns = images, columns
        self.images = Paths(root, self.ids)
        self.masks = None if masks is None else Paths(Path(), texts(str(path) for path in masks))
        self.labels = labels

    def raw(self, row: int) -> tuple[Any, Any]:
        found = self.masks or self.labels
        target = found[row] if found else None
        return self.images[row], None if target == NO_FILE else target

    def targets(self) -> Sequence[Any] | None:
        return self.labels if any(is_label(label) for label in self.labels or ()) else None

    def places(self, row: int) -> tuple[Place | None, Place | None]:
        has_mask = self.masks is not None and self.masks.names[row] != str(NO_FILE)
        return place_of(self.images.text(row)), place_of(self.masks.text(row)) if self.masks and has_mask else None


class BuiltinRows(Rows):
    """An embedded set, whose images need no decoding."""

    def __init__(self, items: Any) -> None:
        self.items, self.ids = items, texts(items.ids)

    def raw(self, row: int) -> tuple[Any, Any]:
        item = self.items[row]
        return item["image"], item.get("label", item.get("mask"))

    def targets(self) -> Sequence[Any] | None:
        return getattr(self.items, "labels", None)


class WithoutTargets(Rows):
    """Rows without their targets."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.ids = rows, rows.ids

    def raw(self, row: int) -> tuple[Any, Any]:
        return self.rows.raw(row)[0], None

    def places(self, row: int) -> tuple[Place | None, Place | None]:
        return self.rows.places(row)[0], None


def holds_labels(feature: Any) -> bool:
    """Whether a column can contain one label per image: a class, a number or a word."""
    if isinstance(feature, datasets.ClassLabel):
        return True
    return isinstance(feature, datasets.Value) and not feature.dtype.endswith("binary")  # the content of a file


def class_names_of(feature: Any) -> list[str] | None:
    """The names of a `ClassLabel`; None for another column."""
    return [same_letters(name) for name in feature.names] if isinstance(feature, datasets.ClassLabel) else None


def is_label(target: Any) -> bool:
    """Whether a target is a label: null, NaN, an empty cell and -1 mark an image without one.

    Words such as None and NA are labels, because they can be class names.
    """
    if isinstance(target, str):
        return target.strip() not in {"", str(NO_LABEL)}
    if getattr(target, "ndim", None) == 0:  # of a data set in the format of NumPy or torch
        target = target.item()
    if isinstance(target, float) and math.isnan(target):  # null, as json.dumps writes it for pandas
        return False
    return target is not None and not (isinstance(target, int) and target == NO_LABEL)


def note_on_unknown(labels: Iterable[str], class_names: Sequence[str]) -> list[str]:
    """A message about labels of unlabeled images that are not among the classes."""
    unknown = [label for label in labels if label not in class_names]
    if not unknown or not class_names:
        return []
    shown = listed(map(repr, unknown))
    return [f"Pseudo labels are not scored where the label of the unlabeled image is not among the classes: {shown}."]


def check_names(names: Sequence[str], root: Path) -> None:
    """Raises DataError for names that are not valid text, which no list, table or report could contain."""
    if strange := [name for name in names if not is_text(name)]:
        shown = listed(os.fsencode(name).decode("utf-8", "backslashreplace") for name in strange)
        raise DataError(
            f"{len(strange)} file names in {str(root)!r} are not UTF-8: {shown}. Rename them, for example with "
            "`convmv -r -f latin1 -t utf8 --notest FOLDER`."
        )


def _parts_inside(path: Path, root: Path) -> list[str]:
    """The names of the folders below `root` and of the file; `Path.relative_to` takes ten times as long."""
    start = f"{root}{os.sep}"
    text = str(path)
    return (text[len(start) :] if text.startswith(start) else os.path.relpath(path, root)).split(os.sep)


def same_letters(text: str) -> str:
    """Normalize accented letters: macOS writes them differently in file names than keyboards do."""
    return unicodedata.normalize("NFC", text)


def _paths_inside(folder: Path, paths: Iterable[str | None] | None) -> list[str] | None:
    """Each image's path relative to `folder`; None unless all of them are inside, and different."""
    roots = [f"{root}{os.sep}" for root in (folder.absolute(), folder.resolve())]
    found: list[str] = []
    for path in () if paths is None else paths:
        root = next((root for root in roots if path and path.startswith(root)), None)
        if path is None or root is None:
            return None
        found.append(Path(path[len(root) :]).as_posix())
    return found if found and len(set(found)) == len(found) else None


def _beside(folder: Path | None, path: str) -> str:
    for written in (path, path.replace("\\", "/")):  # Windows separates folders with backslashes
        inside = os.path.join(folder.absolute(), written) if folder else written
        if os.path.exists(inside):
            return inside
    return path
