"""Open the splits of a data set: on the Hub, in a folder, in parquet files, or embedded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets

from ..tasks import TASKS
from ..texts import Texts
from .builtin import BUILTIN_SETS, load_builtin
from .columns import image_column_of, not_a_target, note_on_split_column, target_column_of
from .finding import find_images, left_out_in
from .folders import class_folders, mask_folders, note_on_images_beside
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
from .split_names import check_class_orders, parquet_files, role_of, with_role
from .tables import (
    columns_there,
    metadata_tables,
    named_tables,
    note_on_tables_beside,
    open_file_tables,
    open_table_alone,
)

_ARCHIVES = {".arrow", ".zip", ".tar", ".gz", ".parquet"}  # formats that `datasets` reads besides tables
_SHOWN = 10


def open_splits(
    name: str,
    *,
    task: str,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    mask_suffix: str = "",
    apart: str | None = None,
    token: str | None = None,
    notes: list[str],
) -> tuple[dict[str, Rows], list[str] | None]:
    """All splits of a data set by name, and its class names, if it has any.

    Args:
        name: an embedded set, a folder (class folders, tables, or `images/` beside `masks/`), a table, or a Hub id.
        apart: the folder of the unlabeled images. If it is inside the data set's folder, it is not read here.
        notes: receives messages about everything that is skipped.

    Raises:
        DataError: nothing there, missing columns, images without masks, or data for the other task.
    """
    if name in BUILTIN_SETS:
        _check_configuration(config_name, name)
        builtin = load_builtin(name)
        kind = TASKS[task].target
        if kind not in builtin["train"][0]:
            fitting = [key for key in BUILTIN_SETS if kind in load_builtin(key)["train"][0]]
            raise DataError(
                f"The embedded set {name!r} has no {kind}s, but {task} needs them. Use {', '.join(fitting)}."
            )
        return {split: BuiltinRows(items) for split, items in builtin.items()}, list(builtin["train"].class_names)
    root = Path(name).expanduser()
    elsewhere = Path(apart).expanduser() if apart else None
    if root.exists() and (found := _local_files(root, task, image_column, label_column, mask_suffix, notes, elsewhere)):
        _check_configuration(config_name, name)
        return found
    tables, folder = _load_tables(name, config_name, token, notes)
    first = tables[(with_role(tables, "train") or list(tables))[0]]
    image = image_column_of(first, name, image_column, notes)
    if image == label_column:
        raise DataError(
            f"`image_column` and `label_column` are both {image!r}, but they must be different columns. Name two of: "
            f"{', '.join(first.column_names)}."
        )
    target = target_column_of(first, name, image, label_column, task, notes)
    if target is None and "label" in first.column_names and image != "label":
        raise not_a_target(first, name, "label", task)
    classes = class_names_of(first.features.get(target))
    if task == "semantic-segmentation" and target is None:
        raise DataError(
            f"{name!r} has no column with masks; it has: {', '.join(first.column_names)}. Name it with `label_column`, "
            "or put the files into images/ and masks/ under the same names."
        )
    notes += note_on_split_column(first, name) if len(tables) == 1 else []
    splits: dict[str, Rows] = {}
    embedded = True
    for split, table in tables.items():
        if image not in table.column_names:
            raise DataError(
                f"Split {split!r} of {name!r} has no column {image!r}; it has: {', '.join(table.column_names)}."
            )
        rows = TableRows(table, image, target if target in table.column_names else None, folder=folder)
        splits[split] = rows
        embedded &= rows.images.paths is None
    if folder and embedded and not _is_saved(folder):
        notes += note_on_images_beside(folder, elsewhere)
    return splits, classes


def open_unlabeled_table(
    name: str,
    split: str | None,
    *,
    task: str,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] = (),
    token: str | None = None,
    notes: list[str],
) -> Rows:
    """The images of a data set: of the given split, else `unlabeled`, else the only one.

    Labels or masks in the data set are kept, to score pseudo labels.

    Args:
        image_column, label_column: used if the data set has them.
        class_names: the run's classes; labels are matched to them by name, and other names are unknown.

    Raises:
        DataError: no such data set or split, or several splits to choose from.
    """
    if name in BUILTIN_SETS:
        builtin = load_builtin(name)
        chosen = builtin[_unlabeled_split(name, split, list(builtin))]
        scored = TASKS[task].target in chosen[0] and list(class_names) == list(chosen.class_names)
        return BuiltinRows(chosen) if scored else WithoutTargets(BuiltinRows(chosen))
    root = Path(name).expanduser()
    position = {word: index for index, word in enumerate(class_names)}
    if root.exists():
        inside = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        wanted = [split, *with_role(inside, role_of(split) or "")] if split else with_role(inside, "unlabeled")
        for folder in [root / part for part in wanted if part in inside]:
            found = find_images(folder)
            if found.images:
                notes += found.notes()
                return FileRows(found.images, root)
        own_image, own_label = columns_there(root, image_column, label_column)
        if opened := _local_files(root, task, own_image, own_label, "", notes, unlabeled=True):
            files = opened[0][_unlabeled_split(name, split, list(opened[0]))]
            assert isinstance(files, FileRows)
            words = {label: str(label) for label in files.labels or () if is_label(label)}
            notes += note_on_unknown(words.values(), class_names)
            labels = [position.get(words.get(label, "")) for label in files.labels] if files.labels else None
            return FileRows(files.images, root if root.is_dir() else root.parent, labels=labels, masks=files.masks)
    tables, local = _load_tables(name, config_name, token, notes)
    table = tables[_unlabeled_split(name, split, list(tables))]
    image = image_column_of(table, name, image_column if image_column in table.column_names else None, notes)
    fitting = label_column in table.column_names and holds_labels(table.features[label_column]) == _has_labels(task)
    target = target_column_of(table, name, image, label_column if fitting else None, task, notes)
    recode = None
    if target and _has_labels(task):
        own = class_names_of(table.features[target])
        words = dict(enumerate(own)) if own else {word: str(word) for word in table.unique(target)}
        notes += note_on_unknown((text for word, text in words.items() if is_label(word)), class_names)
        recode = {word: position[text] for word, text in words.items() if text in position}
    return TableRows(table, image, target, folder=local, recode=recode)


def _unlabeled_split(name: str, asked: str | None, splits: list[str]) -> str:
    if asked is None:
        chosen = next(iter(with_role(splits, "unlabeled")), splits[0] if len(splits) == 1 else None)
    else:
        chosen = asked if asked in splits else next(iter(with_role(splits, role_of(asked) or "")), asked)
    if chosen is None or chosen not in splits:
        given = f"no split {asked!r}" if asked else "several splits"
        raise DataError(
            f"The unlabeled data set {name!r} has {given}; it has: {', '.join(splits)}. Name one with "
            "`unlabeled_split`."
        )
    return chosen


def _local_files(
    root: Path,
    task: str,
    image_column: str | None,
    label_column: str | None,
    mask_suffix: str,
    notes: list[str],
    apart: Path | None = None,
    *,
    unlabeled: bool = False,
) -> tuple[dict[str, Rows], list[str] | None] | None:
    """Splits and class names of a folder of files, or of one table; None if `datasets` has to open it.

    Args:
        apart: a folder inside that is not read.
        unlabeled: labels and masks may be missing.
    """
    if root.is_file():
        return open_table_alone(root, task, image_column, label_column, notes)
    if _is_saved(root):
        return None
    splits: dict[str, FileRows] | None = None
    classes = None
    metadata, masks = metadata_tables(root), not _has_labels(task)
    if masks and not metadata:
        try:
            splits = mask_folders(root, notes, mask_suffix) or None
        except DataError:
            if not unlabeled:
                raise
    if splits is None and not metadata and any(root.glob("*.parquet")) + any(root.glob("*/*.parquet")):
        check_class_orders(root)
        return None
    if splits is None and not metadata and not masks:
        said: list[str] = []
        splits, classes = class_folders(root, said, apart) or (None, None)
        if classes and len(classes) == 1 and named_tables(root):
            splits = classes = None  # one folder of images with a table beside it
        else:
            notes += [*said, *(note_on_tables_beside(root, classes) if classes else ())]
    tables = metadata or (named_tables(root) if splits is None else {})
    if splits is None and tables:
        splits = open_file_tables(
            root, tables, task=task, image_column=image_column, label_column=label_column, apart=apart, notes=notes
        )
        if masks and not unlabeled and not all(rows.masks for rows in splits.values()):
            raise DataError(f"The table in {str(root)!r} has no column with masks. Name it with `label_column`.")
    elif splits is None and not any(path.suffix.lower() in _ARCHIVES for path in root.iterdir()):
        if masks and not unlabeled:
            raise DataError(
                f"{str(root)!r} has no folders images/ and masks/, and no table with a column of masks. Put the "
                "files into images/ and masks/ under the same names."
            )
        found = find_images(root, apart)
        if found.names:
            notes += found.notes()
            splits = {"train": FileRows(Texts(found.names), root)}
    if splits is not None and not tables and not unlabeled:
        own = {
            "`image_column`": (image_column, "image"),
            "`label_column`": (label_column, "mask" if masks else "label"),
        }
        for flag, (asked, column) in own.items():
            if asked not in (None, column):
                raise DataError(
                    f"{flag} {asked!r} is not in {str(root)!r}: in a folder of files, the columns are called image "
                    f"and {own['`label_column`'][1]}. Name one of these, or omit {flag}."
                )
    return None if splits is None else ({**splits}, classes)


def _is_saved(root: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _check_configuration(config_name: str | None, name: str) -> None:
    """Raises DataError for a configuration of images that have none."""
    if config_name is not None:
        raise DataError(f"`dataset_config_name` {config_name!r} is for data sets on the Hub, not {name!r}. Omit it.")


def _has_labels(task: str) -> bool:
    return task == "image-classification"


def _load_tables(
    name: str, config_name: str | None, token: str | None, notes: list[str]
) -> tuple[dict[str, datasets.Dataset], Path | None]:
    """The splits, and the local folder they come from, if any."""
    folder = Path(name).expanduser()
    if (folder.is_absolute() or name.startswith(".")) and not folder.exists():
        raise DataError(f"There is no folder {name!r}. Check the path, or give the id of a data set on the Hub.")
    if _is_saved(folder):
        _check_configuration(config_name, name)
    try:
        if _is_saved(folder):
            saved = datasets.load_from_disk(str(folder))
            return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}, folder
        own_files = parquet_files(folder, notes) if config_name is None and folder.is_dir() else None
        if own_files:
            loaded = datasets.load_dataset("parquet", data_files=own_files)
        else:
            loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config_name, token=token)
    except Exception as problem:  # for damaged archives and tables, their readers raise almost anything
        raise _cannot_open(name, folder, problem) from problem
    return dict(loaded), folder if folder.is_dir() else None


def _cannot_open(name: str, folder: Path, problem: Exception) -> DataError:
    """The error for what `datasets` said, with what to do."""
    # the outer message, "An error occurred while generating the dataset", is not informative
    reason = problem.__cause__ or problem
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    text = lines[0].rstrip(".")
    if folder.exists():
        return DataError(
            f"Cannot open the data set in {name!r}: {text}. Give one folder per class, a table with the columns "
            f"file_name and label, or parquet files.{left_out_in(folder, read=True)}"
        )
    if isinstance(problem, (OSError, datasets.exceptions.DatasetNotFoundError)):
        return DataError(
            f"Cannot open the data set {name!r}: there is no such folder here, no embedded set of this name "
            f"({', '.join(BUILTIN_SETS)}), and none that can be read on the Hub or in the local cache ({text}). Check "
            "the spelling, the network and, for a private or gated data set, your token (`hf auth login`)."
        )
    if "scripts are no longer supported" in text:
        return DataError(
            f"The data set {name!r} is made by its own code, which `datasets` does not run ({text}). If its page on "
            f"the Hub shows the images, save them once: datasets.load_dataset({name!r}, "
            "revision='refs/convert/parquet').save_to_disk('folder'). Then give that folder."
        )
    return DataError(
        f"Cannot open the data set {name!r}: {' '.join(lines[:2]).rstrip('.')}. `dataset_config_name` selects one of "
        "several configurations; otherwise choose a data set that datasets.load_dataset can open."
    )
