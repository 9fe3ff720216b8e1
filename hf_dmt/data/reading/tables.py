"""Local tables that list image files: `metadata.csv`, `metadata.jsonl`, or `train.csv` with paths and labels.

`datasets` silently reads a class called None, NA or null in a CSV file as a missing value. Here only empty cells are
missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..arguments import DataArguments
from ..files import from_json, read_csv
from ..messages import listed
from .finding import PACKED, files_of, find_images, polygons_in
from .rows import NO_FILE, NO_LABEL, DataError, FileRows, is_label, same_letters
from .split_names import role_of, with_role

_KINDS = (".csv", ".tsv", ".jsonl")
_OTHER_KINDS = (".json", ".xlsx", ".xls", ".ods")
FILE_COLUMNS = (
    *("file_name", "filename", "file", "image", "image_path", "path", "img"),
    *("file_path", "filepath", "image_name", "image_id", "id"),
)
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")
MASK_COLUMNS = (
    *("mask_file_name", "annotation_file_name", "mask", "annotation", "label"),
    *("mask_path", "segmentation_mask"),
)
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)([.][0-9]*)?")  # 007, 1e5, nan and inf are words
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "dataset_split", "fold")


def is_table(file: Path) -> bool:
    return file.suffix.lower() in _KINDS


@dataclass(frozen=True)
class _Table:
    """A table that lists images, one per row."""

    file: Path
    columns: list[str]
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, file: Path) -> _Table:
        try:
            if file.suffix.lower() != ".jsonl":
                return cls(file, *read_csv(file))
            rows = [from_json(line) for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("one of its lines is not an object")
            return cls(file, list(dict.fromkeys(key for row in rows for key in row)), rows)
        except (OSError, ValueError) as problem:
            raise DataError(
                f"The table {str(file)!r} cannot be read ({problem}). Save it as UTF-8, with the columns file_name, "
                "label."
            ) from problem

    def cells(self, column: str) -> list[Any]:
        return [row.get(column) for row in self.rows]

    def usual(self, names: Sequence[str], *others: str | None) -> str | None:
        """The first column with a usual name, except `others`; people also write `Label`, `File name` and `ImageId`."""
        free = [column for column in reversed(self.columns) if column not in others]
        named = {re.sub(r"[ _-]", "", column.lower()): column for column in free}
        return next((named[name] for one in names if (name := one.replace("_", "")) in named), None)

    def checked(self, column: str | None, flag: str, what: str) -> str:
        """Raises DataError unless the table has this column; None: no column looks like one with `what`."""
        if column is None or column not in self.columns:
            given = f"no column with {what}" if column is None else f"no column {column!r}"
            raise DataError(
                f"{str(self.file)!r} has {given}; its first row names the columns: {', '.join(self.columns)}. Name one "
                f"of them with {flag}, or add a first row: file_name,label."
            )
        return column

    def splits(self, *others: str | None, notes: list[str]) -> list[str]:
        """The split that each row names in a column called `split` (or `subset`, ...), except `others`; [] if there is
        no such column."""
        column = self.usual(SPLIT_COLUMNS, *others)
        words = [str(cell or "").strip() for cell in self.cells(column)] if column else []
        roles = [role_of(word) for word in words]
        known = [role for role in roles if role is not None]
        if column and (len(known) < len(words) or "train" not in known):
            shown = listed(map(repr, dict.fromkeys(words)))
            notes.append(
                f"{'Warning: t' if known else 'T'}he column {column!r} of {str(self.file)!r} is not used, because not "
                f"every row names a split and one of them 'train': {shown}."
            )
            return []
        return known


def metadata_tables(root: Path) -> dict[str, Path]:
    """The `metadata` file of each split: one at the root, or one in each split folder."""
    if file := _metadata_in(root):
        return {"train": file}
    inside: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if (role := role_of(folder.name)) and (file := _metadata_in(folder)):
            inside.setdefault(role, file)
    return inside


def _metadata_in(folder: Path) -> Path | None:
    return next((file for kind in _KINDS if (file := folder / f"metadata{kind}").is_file()), None)


def named_tables(root: Path, *, to_read: bool = False) -> dict[str, Path]:
    """`train.csv`, `val.csv`, ...; or else the only table of a folder. Tables written by `hf-dmt predict` are skipped,
    because they contain predictions.

    Raises:
        DataError: two tables list the images of one split, and they are `to_read`.
    """
    files = [
        path
        for path in sorted(root.iterdir())
        if is_table(path) and not path.name.startswith(".") and not path.with_name(f"{path.name}.about.json").exists()
    ]
    by_role: dict[str, Path] = {}
    for path in files:
        role = role_of(path.stem)
        if role is None or (before := by_role.setdefault(role, path)) == path:
            continue
        if not _lists_images(before):
            by_role[role] = path
        elif to_read and _lists_images(path):
            raise DataError(
                f"{str(before)!r} and {path.name!r} both list images for the split {role!r}. Keep one of them, or give "
                f"one as `dataset_name={before}`."
            )
    return by_role or ({"train": files[0]} if len(files) == 1 else {})


def _lists_images(file: Path) -> bool:
    with suppress(DataError):
        table = _Table.read(file)
        image = table.usual(FILE_COLUMNS)
        return image is not None and bool(files_of(file, table.cells(image)[:1], [])[0])
    return False


def have_labels(files: Iterable[Path]) -> bool:
    """Whether tables have a column with a usual name for labels; True if one cannot be read, which is reported."""
    with suppress(DataError):
        return any(_Table.read(file).usual(LABEL_COLUMNS) for file in files)
    return True


def columns_there(root: Path, *asked: str | None) -> list[str | None]:
    """Each of the columns if the tables of a folder, or a table itself, have it; else None."""
    if not any(asked):
        return [None] * len(asked)
    files = [root] if root.is_file() else [*metadata_tables(root).values(), *named_tables(root).values()]
    found: set[str] = set()
    for file in filter(is_table, files):
        with suppress(DataError):  # it is reported if it is used
            found.update(_Table.read(file).columns)
    return [column if column in found else None for column in asked]


def tables_not_read(root: Path) -> str:
    """A hint about tables in a folder of images that have no labels; empty if there are none."""
    files = [path.name for path in root.iterdir() if path.suffix.lower() in (*_KINDS, *_OTHER_KINDS)]
    shown = listed(sorted(files))
    return f" If one of these has the labels, give it as `dataset_name`, saved as CSV: {shown}." if files else ""


def note_on_tables_beside(root: Path, classes: Sequence[str], splits: Mapping[str, FileRows]) -> list[str]:
    """A warning if a table beside class folders or masks tells more about their images: other labels, or splits.

    Args:
        classes: the class folders; none if these are masks.
    """
    for file in named_tables(root).values():
        try:
            table = _Table.read(file)
        except DataError:
            continue  # a file for something else
        image = table.usual(FILE_COLUMNS)
        label = table.usual(LABEL_COLUMNS, image)
        paths = [Path(name) for found in splits.values() for name in found.ids.tolist()]
        known = {*(path.name for path in paths), *(path.stem for path in paths)}
        if image is None or known.isdisjoint(Path(str(cell)).name for cell in table.cells(image)):
            continue  # it lists other files
        if classes and label and any(str(row.get(label)) not in Path(str(row.get(image))).parts for row in table.rows):
            unused = "labels"
        elif {*table.splits(image, label, notes=[])} - {"train"}:
            unused = "splits"
        elif classes and label is None and len(table.columns) > 1:
            unused = f"columns {listed(repr(column) for column in table.columns if column != image)}"
        else:
            continue
        return [
            f"Warning: the {unused} in {file.name!r} are not used; "
            + (f"the classes are the folders: {listed(classes)}" if classes else "the masks are those of the folders")
            + f". To use the table, give it as `dataset_name={file}`."
        ]
    return []


def check_is_table(file: Path) -> None:
    """Raises DataError for any other file."""
    if file.suffix.lower() in PACKED:
        raise DataError(f"{str(file)!r} is an archive. Unpack it and give the folder of its content.")
    if file.suffix.lower() in (".parquet", ".arrow"):
        raise DataError(f"{str(file)!r} is a file of a data set. Give the folder that contains it.")
    if not is_table(file):
        raise DataError(
            f"{str(file)!r} is a file. Give a folder of images, or a table (.csv, .tsv, .jsonl) with the columns "
            f"file_name and label.{polygons_in(file)}"
        )


def open_file_tables(
    root: Path,
    tables: dict[str, Path],
    args: DataArguments,
    task: str,
    notes: list[str],
    *,
    apart: Path | None = None,
    alone: bool = False,
) -> dict[str, FileRows]:
    """Splits of a folder whose images are listed in tables.

    Args:
        apart: a folder inside, which the tables need not list.
        alone: the user named the table and not its folder, which may be full of other things.

    Raises:
        DataError: missing columns or files, or a file that is listed twice.
    """
    splits: dict[str, FileRows] = {}
    for role, file in tables.items():
        rows, own_splits = _open(_Table.read(file), root, args, task, notes)
        if len(tables) > 1:
            splits[role] = rows
        else:
            splits = _by_split(rows, own_splits) or _by_folder(rows, root, role)
    if not alone:
        notes += _notes_on_unlisted(root, tables, splits, apart)
    return splits


def _notes_on_unlisted(
    root: Path, tables: dict[str, Path], splits: dict[str, FileRows], apart: Path | None
) -> list[str]:
    """Messages about files that are in no table. Images in a folder called `unlabeled` need not be."""
    found = find_images(root, apart, tables=tables.values())
    notes = found.notes()
    in_tables = {path for rows in splits.values() for path in [*rows.images, *(rows.masks or ())]}
    aside = [root / name for name in with_role((path.name for path in root.iterdir() if path.is_dir()), "unlabeled")]
    unlisted = [path for path in found.images if path not in in_tables]
    if others := [path for path in unlisted if not any(path.is_relative_to(folder) for folder in aside)]:
        notes.append(
            f"Warning: skipped {len(others)} images in {str(root)!r} that are in no table, such as "
            f"{others[0].relative_to(root).as_posix()!r}. To use them as unlabeled images, add rows with empty labels, "
            "or pass their folder as `unlabeled_dir`."
        )
    return notes


def _open(table: _Table, root: Path, args: DataArguments, task: str, notes: list[str]) -> tuple[FileRows, list[str]]:
    """The rows of a table, and the split of each if a column tells; [] if none does."""
    file = table.file
    image = table.checked(args.image_column or table.usual(FILE_COLUMNS), "`image_column`", "file names")
    table = replace(table, rows=[row for row in table.rows if any(not _is_empty(cell) for cell in row.values())])
    if nameless := sum(map(_is_empty, table.cells(image))):
        raise DataError(
            f"{nameless} of {len(table.rows)} rows of {str(file)!r} have no file name in the column {image!r}. Add the "
            "names, or remove these rows."
        )
    usual = LABEL_COLUMNS if task == "image-classification" else MASK_COLUMNS
    target = args.label_column or table.usual(usual, image)
    if target is not None:
        table.checked(target, "`label_column`", "labels")
    paths = _listed_files(file, table.cells(image), image, notes)
    splits = table.splits(image, target, notes=notes)
    if target is None:
        return FileRows(paths, root, columns=table.columns), splits
    cells = table.cells(target)
    if several := next((cell for cell in cells if isinstance(cell, (list, dict))), None):
        raise DataError(
            f"The column {target!r} of {str(file)!r} contains {several!r}, but an image has one label: a word or a "
            "number. Write one per image, or name another column with `label_column`."
        )
    if task == "image-classification":
        return FileRows(paths, root, labels=_labels(cells)), splits
    return FileRows(paths, root, masks=_listed_masks(file, cells, target, notes)), splits


def _listed_files(file: Path, cells: Sequence[Any], column: str, notes: list[str]) -> list[Path]:
    paths, missing = files_of(file, cells, notes)
    if missing:
        shown = listed(map(repr, missing))
        raise DataError(
            f"{len(missing)} of {len(cells)} files in {str(file)!r} do not exist: {shown}. Paths are"
            f" relative to {str(file.parent)!r}, or to one folder in it. Correct the column {column!r}, or "
            "remove these rows."
        )
    name, times = Counter(paths).most_common(1)[0] if paths else (file, 1)
    if times > 1:
        raise DataError(
            f"{str(file)!r} lists {name.name!r} {times} times, but an image can only have one row. Remove the others."
        )
    return paths


def _listed_masks(file: Path, cells: Sequence[Any], column: str, notes: list[str]) -> list[Path]:
    named = [cell for cell in cells if is_label(cell)]
    masks, missing = files_of(file, named, notes)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(named)} masks in {str(file)!r} do not exist, such as {missing[0]!r}. Correct the "
            f"column {column!r}, or leave the cells of unlabeled images empty."
        )
    found = iter(masks)
    return [next(found) if is_label(cell) else NO_FILE for cell in cells]


def _by_folder(rows: FileRows, root: Path, role: str) -> dict[str, FileRows]:
    """One table for several split folders: `train/1.png`, `val/2.png`."""
    tops = [path.relative_to(root).parts[0] if path.is_relative_to(root) else "" for path in rows.images]
    if not with_role(set(tops), "train"):
        return {role: rows}
    roles = [role_of(top) for top in tops]
    if strange := [path for path, found in zip(rows.images, roles, strict=True) if found is None]:
        raise DataError(
            f"{len(strange)} images of the table in {str(root)!r} are in no split folder, such as "
            f"{str(strange[0])!r}, but the others are. Move them into train/, or all images out of the split folders."
        )
    return _by_split(rows, [str(role) for role in roles])


def _by_split(rows: FileRows, names: Sequence[str]) -> dict[str, FileRows]:
    """The rows of each split; {} if no row names one."""
    splits = {}
    for found in dict.fromkeys(names):
        positions = [position for position, other in enumerate(names) if other == found]
        images, masks, labels = (
            [values[position] for position in positions] if values else None
            for values in (rows.images, rows.masks, rows.labels)
        )
        splits[found] = FileRows(images or [], rows.images.root, masks=masks, labels=labels, columns=rows.columns)
    return splits


def _is_empty(cell: Any) -> bool:
    return cell is None or not str(cell).strip()


def _labels(cells: Sequence[Any]) -> list[Any]:
    """Numbers if all of them are; otherwise words, as written."""
    words = [same_letters(str(cell).strip()) if is_label(cell) else None for cell in cells]
    if all(_NUMBER.fullmatch(word) for word in words if word is not None):
        return [_number(word) if word is not None else None for word in words]
    return words


def _number(word: str) -> int | float | None:
    whole, _, fraction = word.partition(".")  # spreadsheets write a column with gaps as 1.0
    value = float(word) if fraction.strip("0") else int(whole)
    return None if value == NO_LABEL else value
