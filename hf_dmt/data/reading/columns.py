"""Which columns of a `datasets.Dataset` contain the images, and their labels or masks."""

from __future__ import annotations

from pathlib import Path

import datasets

from ..arguments import DataArguments
from ..messages import listed
from .finding import left_out_in
from .rows import DataError, holds_labels
from .split_names import role_of
from .tables import SPLIT_COLUMNS

_USUAL_LABELS = ("label", "labels", "fine_label")
_USUAL_MASKS = ("annotation", "mask", "label", "labels", "annotations", "segmentation_mask")


def _named_column(table: datasets.Dataset, name: str, column: str, flag: str) -> str:
    if column not in table.column_names:
        raise DataError(
            f"{flag} {column!r} is not in {name!r}, which has: {', '.join(table.column_names)}. Name one of these."
        )
    return column


def image_column_of(table: datasets.Dataset, args: DataArguments, notes: list[str]) -> str:
    """The column of images: the one that was asked for, or else the usual or the only one."""
    name = args.dataset_name or ""
    if args.image_column is not None:
        return _named_column(table, name, args.image_column, "`image_column`")
    images = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
    for column in ("image", "img", "pixel_values"):
        # Plain bytes of files, as written by other tools, have no feature type that says so.
        if column in images or (column in table.column_names and not (images and holds_labels(table.features[column]))):
            return column
    if images:
        return _first_of(images, "images", "`image_column`", notes)
    raise DataError(
        f"{name!r} has no image column; it has: {', '.join(table.column_names)}. Name it with `image_column`."
        + left_out_in(Path(name).expanduser(), read=True)
    )


def target_column_of(
    table: datasets.Dataset, args: DataArguments, image: str, task: str, notes: list[str]
) -> str | None:
    """The column of labels (one value per image) or of masks; None if there is none."""
    name, asked = args.dataset_name or "", args.label_column
    labels = [key for key, kind in table.features.items() if holds_labels(kind)]
    fitting = labels if task == "image-classification" else [key for key in table.column_names if key not in labels]
    if asked is not None:
        if _named_column(table, name, asked, "`label_column`") not in fitting:
            raise not_a_target(table, name, asked, task)
        return asked
    usual = _USUAL_LABELS if task == "image-classification" else _USUAL_MASKS
    found = next((key for key in usual if key in fitting and key != image), None)
    if found is None and task == "image-classification":
        classes = [key for key in labels if isinstance(table.features[key], datasets.ClassLabel) and key != image]
        return _first_of(classes, "classes", "`label_column`", notes) if classes else None
    return found


def not_a_target(table: datasets.Dataset, name: str, column: str, task: str) -> DataError:
    """The error for a column that contains neither labels nor masks, as the task needs them."""
    return DataError(
        f"`label_column` {column!r} of {name!r} contains {table.features[column]}, but {task} needs "
        f"{'one label per image' if task == 'image-classification' else 'masks'}. Name another column, or use another "
        "`task`."
    )


def _first_of(columns: list[str], what: str, flag: str, notes: list[str]) -> str:
    """The first of the columns that could be meant, with a message if there are others."""
    first, *others = columns
    if others:
        notes.append(
            f"The {what} are those in the column {first!r}; {', '.join(map(repr, others))} could also be used ({flag})."
        )
    return first


def note_on_split_column(table: datasets.Dataset, name: str) -> list[str]:
    """A warning if rows name another split than the only one that the data set has."""
    for column in table.column_names:
        if column.lower() in SPLIT_COLUMNS and getattr(table.features[column], "dtype", None) == "string":
            words = [word for word in table.unique(column) if word]
            if {role_of(word) for word in words} - {None, "train"}:
                return [
                    f"Warning: the column {column!r} of {name!r} ({listed(sorted(words), 10)}) is not used; "
                    "all rows are training images. Save the rows of each split apart: train.parquet, test.parquet."
                ]
    return []
