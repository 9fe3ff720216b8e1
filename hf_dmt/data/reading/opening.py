"""Open the splits of a data set: embedded, in a folder of files, in a table, or loaded with `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..arguments import DataArguments
from ..builtin import BUILTIN_SETS, load_builtin
from ..tasks import TASKS
from ..texts import texts
from .columns import image_column_of, not_a_target, note_on_split_column, target_column_of
from .finding import find_images, polygons_in
from .folders import class_folders, mask_folders, only_folder_with_splits, without_masks
from .loading import (
    check_class_orders,
    check_no_configuration,
    find_parquet,
    is_saved,
    load_tables,
    note_on_images_beside,
)
from .rows import (
    BuiltinRows,
    DataError,
    FileRows,
    Rows,
    TableRows,
    WithoutTargets,
    class_names_of,
    holds_labels,
    is_label,
    note_on_unknown,
)
from .split_names import role_of, with_role
from .tables import (
    check_is_table,
    columns_there,
    have_labels,
    metadata_tables,
    named_tables,
    note_on_tables_beside,
    open_file_tables,
)

_ARCHIVES = {".arrow", ".zip", ".tar", ".gz", ".parquet"}  # formats that `datasets` reads besides tables

FilesAndClasses = tuple[dict[str, FileRows], list[str] | None]
"""Splits by name, and the names of the classes if these are folders."""


def open_splits(
    args: DataArguments, task: str, notes: list[str], token: str | None = None
) -> tuple[dict[str, Rows], list[str] | None]:
    """All splits of a data set by name, and its class names, if it has any.

    Args:
        args: `dataset_name` is an embedded set, a folder (class folders, tables, or `images/` beside `masks/`), a
            table, or a Hub id.

    Raises:
        DataError: nothing there, missing columns, images without masks, or data for the other task.
    """
    name = args.dataset_name or ""
    if name in BUILTIN_SETS:
        check_no_configuration(args.dataset_config_name, name)
        return _embedded(name, task)
    root, apart = Path(name).expanduser(), _folder_apart(args)
    if root.exists() and (found := _local_files(root, args, task, notes, apart)):
        check_no_configuration(args.dataset_config_name, name)
        splits, classes = found
        return {**splits}, classes
    tables, folder = load_tables(name, args.dataset_config_name, token, notes)
    first = tables[(with_role(tables, "train") or list(tables))[0]]
    image = image_column_of(first, args, notes)
    if image == args.label_column:
        raise DataError(
            f"`image_column` and `label_column` are both {image!r}, but they must be different columns. Name two of: "
            f"{', '.join(first.column_names)}."
        )
    target = target_column_of(first, args, image, task, notes)
    unfit = [column for column in ("label", "labels") if column in first.column_names and column != image]
    if target is None and unfit:
        raise not_a_target(first, name, unfit[0], task)
    if target is None and task == "semantic-segmentation":
        raise DataError(
            f"{name!r} has no column with masks; it has: {', '.join(first.column_names)}. Name it with `label_column`, "
            "or put the files into images/ and masks/ under the same names."
        )
    notes += note_on_split_column(first, name) if len(tables) == 1 else []
    rows_of: dict[str, TableRows] = {}
    for split, table in tables.items():
        if image not in table.column_names:
            raise DataError(
                f"Split {split!r} of {name!r} has no column {image!r}; it has: {', '.join(table.column_names)}."
            )
        rows_of[split] = TableRows(table, image, target if target in table.column_names else None, folder=folder)
    in_tables = all(rows.images.paths is None for rows in rows_of.values())
    if folder and in_tables and not is_saved(folder):
        notes += note_on_images_beside(folder, apart)
    return {**rows_of}, class_names_of(first.features.get(target))


def _folder_apart(args: DataArguments) -> Path | None:
    """The folder of the unlabeled images, which is not searched for labeled ones."""
    if args.unlabeled_split is not None and args.unlabeled_dataset_name is None:
        own = only_folder_with_splits(Path(args.dataset_name or "").expanduser()) / args.unlabeled_split
        if role_of(own.name) is None and own.is_dir():
            return own
    return Path(args.unlabeled_dir).expanduser() if args.unlabeled_dir else None


def open_unlabeled_table(
    args: DataArguments, task: str, notes: list[str], token: str | None = None, *, class_names: Sequence[str] = ()
) -> Rows:
    """The images of a data set: of `unlabeled_split`, else of the split `unlabeled`, else of the only one.

    Labels or masks in the data set are kept, to score pseudo labels.

    Args:
        args: the data set is `dataset_name`; `image_column` and `label_column` are used if it has them.
        class_names: the run's classes; labels are matched to them by name, and other names are unknown.

    Raises:
        DataError: no such data set or split, or several splits to choose from.
    """
    name, split = args.dataset_name or "", args.unlabeled_split
    if name in BUILTIN_SETS:
        builtin = load_builtin(name)
        chosen = builtin[_unlabeled_split(name, split, list(builtin))]
        scored = TASKS[task].target in chosen[0] and list(class_names) == list(chosen.class_names)
        return BuiltinRows(chosen) if scored else WithoutTargets(BuiltinRows(chosen))
    root = only_folder_with_splits(Path(name).expanduser())
    if root.exists() and (files := _unlabeled_files(root, args, task, notes, class_names)):
        return files
    tables, local = load_tables(name, args.dataset_config_name, token, notes)
    table = tables[_unlabeled_split(name, split, list(tables))]
    is_class = task == "image-classification"
    there = {column: holds_labels(feature) for column, feature in table.features.items()}
    own = replace(
        args,
        image_column=args.image_column if args.image_column in there else None,
        label_column=args.label_column if there.get(args.label_column or "") == is_class else None,
    )
    image = image_column_of(table, own, notes)
    target = target_column_of(table, own, image, task, notes)
    recode = None
    if target and is_class:
        names = class_names_of(table.features[target])
        words = dict(enumerate(names)) if names else {word: str(word) for word in table.unique(target)}
        notes += note_on_unknown((text for word, text in words.items() if is_label(word)), class_names)
        position = {word: index for index, word in enumerate(class_names)}
        recode = {word: position[text] for word, text in words.items() if text in position}
    return TableRows(table, image, target, folder=local, recode=recode)


def _unlabeled_files(
    root: Path, args: DataArguments, task: str, notes: list[str], class_names: Sequence[str]
) -> FileRows | None:
    """The images of a folder that is called like the split, or else of class folders or tables; None if `datasets` has
    to open them."""
    split = args.unlabeled_split
    inside = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    wanted = [split, *with_role(inside, role_of(split) or "")] if split else with_role(inside, "unlabeled")
    for folder in [root / part for part in wanted if part in inside]:
        found = find_images(folder)
        if found.images:
            return FileRows([folder / name for name in without_masks(found, notes)], root)
    image, label = columns_there(root, args.image_column, args.label_column)
    own = replace(args, image_column=image, label_column=label)
    opened = _local_files(root, own, task, notes, unlabeled=True)
    if not opened:
        return None
    files = opened[0][_unlabeled_split(args.dataset_name or "", split, list(opened[0]))]
    words = {label: str(label) for label in files.labels or () if is_label(label)}
    notes += note_on_unknown(words.values(), class_names)
    position = {word: index for index, word in enumerate(class_names)}
    labels = [position.get(words.get(label, "")) for label in files.labels] if files.labels else None
    return FileRows(files.images, root if root.is_dir() else root.parent, labels=labels, masks=files.masks)


def _embedded(name: str, task: str) -> tuple[dict[str, Rows], list[str]]:
    builtin = load_builtin(name)
    kind = TASKS[task].target
    if kind not in builtin["train"][0]:
        fitting = [key for key in BUILTIN_SETS if kind in load_builtin(key)["train"][0]]
        raise DataError(f"The embedded set {name!r} has no {kind}s, but {task} needs them. Use {', '.join(fitting)}.")
    return {split: BuiltinRows(items) for split, items in builtin.items()}, list(builtin["train"].class_names)


def _unlabeled_split(name: str, asked: str | None, splits: list[str]) -> str:
    if asked is not None and asked in splits:
        return asked
    fitting = with_role(splits, role_of(asked) or "" if asked else "unlabeled")
    if not fitting and asked is None and len(splits) == 1:
        return splits[0]
    if not fitting:
        given = f"no split {asked!r}" if asked else "several splits"
        raise DataError(
            f"The unlabeled data set {name!r} has {given}; it has: {', '.join(splits)}. Name one with "
            "`unlabeled_split`."
        )
    return fitting[0]


def _local_files(
    root: Path, args: DataArguments, task: str, notes: list[str], apart: Path | None = None, *, unlabeled: bool = False
) -> FilesAndClasses | None:
    """Splits and class names of a folder of files, or of one table; None if `datasets` has to open it.

    Args:
        apart: a folder inside that is not read.
        unlabeled: labels and masks may be missing.
    """
    if root.is_file():
        check_is_table(root)
        folder, tables = root.parent, {"train": root}
    elif is_saved(root):
        return None
    else:
        folder, tables = root, metadata_tables(root)
        if task == "image-classification" and not args.label_column and not have_labels(tables.values()):
            tables = {} if class_folders(root, [], apart) else tables  # `metadata.csv` describes labeled images
    needs_masks = task == "semantic-segmentation" and not unlabeled
    if not tables:
        found: FilesAndClasses | None = None
        if task == "semantic-segmentation":
            found = _mask_folders(root, args, notes, unlabeled, apart)
        if not found and find_parquet(root):
            check_class_orders(root)
            return None
        if task == "image-classification":
            found = _class_folders(root, apart, notes)
        if found:
            if not unlabeled:
                _check_columns(root, args, task)
            return found
        tables = named_tables(root, to_read=True)
    if tables:
        listed = open_file_tables(folder, tables, args, task, notes, apart=apart, alone=root.is_file())
        if needs_masks and not all(rows.masks for rows in listed.values()):
            raise DataError(f"The table in {str(root)!r} has no column with masks. Name it with `label_column`.")
        return listed, None
    if any(path.suffix.lower() in _ARCHIVES for path in root.iterdir()):
        return None
    if needs_masks:
        raise DataError(
            f"{str(root)!r} has no folders images/ and masks/, and no table with a column of masks. Put the "
            f"files into images/ and masks/ under the same names.{polygons_in(root)}"
        )
    images = find_images(root, apart)
    if not images.names:
        return None
    if not unlabeled:
        _check_columns(root, args, task)
    return {"train": FileRows(texts(without_masks(images, notes)), root)}, None


def _mask_folders(
    root: Path, args: DataArguments, notes: list[str], unlabeled: bool, apart: Path | None
) -> FilesAndClasses | None:
    try:
        splits = mask_folders(root, notes, args.mask_suffix or "", apart)
    except DataError:
        if not unlabeled:
            raise
        return None
    notes += note_on_tables_beside(root, (), splits)
    return (splits, None) if splits else None


def _class_folders(root: Path, apart: Path | None, notes: list[str]) -> FilesAndClasses | None:
    said: list[str] = []
    found = class_folders(root, said, apart)
    if not found:
        return None
    splits, classes = found
    if len(classes) == 1 and named_tables(root):
        return None  # one folder of images with a table beside it
    notes += [*said, *note_on_tables_beside(root, classes, splits)]
    return found


def _check_columns(root: Path, args: DataArguments, task: str) -> None:
    """Raises DataError for the name of a column that a folder of files does not have."""
    target = TASKS[task].target
    for flag, asked, column in (
        ("image_column", args.image_column, "image"),
        ("label_column", args.label_column, target),
    ):
        if asked not in (None, column):
            tables = [file for file in named_tables(root).values() if columns_there(file, asked) == [asked]]
            hint = f" To use the table that has it, pass `dataset_name={tables[0]}`." if tables else ""
            raise DataError(
                f"`{flag}` {asked!r} is not in {str(root)!r}: in a folder of files, the columns are called image and "
                f"{target}. Name one of these, or omit `{flag}`.{hint}"
            )
