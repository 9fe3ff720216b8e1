"""What the classes are called, and whether labels and masks hold these and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arguments import DataArguments
from ..files import read_json
from ..reading.rows import DataError, is_label
from .scan import SHOWN, ScannedImages, listing

ModelClasses = Callable[[], list[str] | None]


def read_class_names(file: str) -> list[str]:
    """Class names from a JSON list or an `{"0": name}` map, as `id2label.json` files on the Hub are.

    Raises:
        DataError: unreadable, or ids that are not 0..n-1.
    """
    try:
        content = read_json(Path(file))
        if isinstance(content, dict):
            by_id = {int(key): str(name) for key, name in content.items()}
            if sorted(by_id) != list(range(len(by_id))):
                raise ValueError(f"its ids are {sorted(by_id)[:5]}..., not 0 to {len(by_id) - 1}")
            content = [by_id[index] for index in range(len(by_id))]
        if not isinstance(content, list):
            raise ValueError(f"it holds a {type(content).__name__}")
        names = [str(name) for name in content]
        if not names or len(set(names)) < len(names):
            raise ValueError("it is empty or names a class twice")
    except (OSError, ValueError, TypeError) as problem:
        raise DataError(
            f"--id2label {file!r} is not a class map ({problem}). Give a JSON file like "
            '{"0": "cat", "1": "dog"} or ["cat", "dog"].'
        ) from problem
    return names


def with_classes(
    scanned: ScannedImages,
    names: list[str] | None,
    args: DataArguments,
    model_classes: ModelClasses | None,
    notes: list[str],
) -> tuple[ScannedImages, list[str]]:
    """The class names, and for labels that are words the index of each.

    Names come from `--id2label`, else from the data set, else from the two models if all values fit, else they are the
    values found.

    Args:
        names: what the data set calls its classes, if it does.

    Raises:
        DataError: a class map that cannot be read or leaves out a label; labels that are not classes; none at all.
    """
    given = read_class_names(args.id2label) if args.id2label else None
    if scanned.images.task == "semantic-segmentation":
        return scanned, given or names or _names_of_masks(scanned, args, model_classes, notes)
    targets = scanned.images.rows.targets()
    assert targets is not None
    distinct = sorted({target for row in scanned.images.chosen if is_label(target := targets[int(row)])})
    if not distinct:
        raise DataError(
            f"No training image of {args.dataset_name!r} has a label: all are null or -1. Name another column with "
            "--label_column."
        )
    if isinstance(distinct[0], float) or isinstance(distinct[-1], float):
        raise DataError(
            f"The labels of {args.dataset_name!r} are fractions such as {distinct[-1]:g}, and a class is a whole "
            "number or a word. Name another column with --label_column."
        )
    if isinstance(distinct[0], str):
        classes = given or names or [str(target) for target in distinct]
        unknown = [str(target) for target in distinct if str(target) not in classes]
        if unknown:
            raise DataError(
                f"Labels {unknown[:SHOWN]} of {args.dataset_name!r} are not among the {len(classes)} classes of "
                f"{args.id2label!r}. Add them there, or correct them in the data."
            )
        class_of = {target: classes.index(str(target)) for target in distinct}
        scanned = replace(scanned, images=replace(scanned.images, class_of=class_of))
    else:
        numbers = [int(value) for value in distinct]
        classes = given or names or _names_of_numbers(numbers, args, model_classes, notes)
    if len(classes) == 1:  # of masks: see `check_labeled`
        raise DataError(
            f"{args.dataset_name!r} has one class, {classes[0]!r}: there is nothing to tell it from, so nothing to "
            "learn. Put the images of each class into a folder of its own, or name the column with --label_column."
        )
    return scanned, classes


def check_targets(scanned: ScannedImages, role: str, names: list[str], args: DataArguments) -> list[int]:
    """In the order of the classes, how many of these images show each: in their label, or somewhere in their mask.

    Raises:
        DataError: labels or mask values that are no class, per file, with the likely remedy.
    """
    if scanned.images.task == "image-classification":
        labels = scanned.images.labels
        assert labels is not None
        outside = np.flatnonzero(labels >= len(names))
        if len(outside):
            raise DataError(
                f"Label {int(labels[outside[0]])} of {len(outside)} {role} images ({listing(scanned.images, outside)}) "
                f"is outside the {len(names)} classes (0 to {len(names) - 1}). Name all classes with --id2label, or "
                "correct the labels."
            )
        return np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
    wrong = {
        scanned.images.id_of(position): bad
        for position, values in enumerate(scanned.values)
        if (bad := [_in_file(value, args) for value in values or () if not 0 <= value < len(names)])
    }
    if wrong:
        lines = [f"  {name}: {', '.join(map(str, values))}" for name, values in list(wrong.items())[:SHOWN]]
        lines += [f"  ... and {len(wrong) - SHOWN} more masks"] if len(wrong) > SHOWN else []
        strange = sorted({value for values in wrong.values() for value in values})
        first = _in_file(0, args)
        raise DataError(
            f"{len(wrong)} {role} masks hold values that are none of the {len(names)} classes ({first} to "
            f"{_in_file(len(names) - 1, args)}):\n" + "\n".join(lines) + f"\n{_remedy(strange, args)}"
        )
    shown = [value for values in scanned.values for value in values or ()]
    return np.bincount(np.array(shown, dtype=np.int64), minlength=len(names)).tolist()


def check_labeled(scanned: ScannedImages, names: list[str], args: DataArguments, notes: list[str]) -> list[int]:
    """As `check_targets` for the images to learn from, with warnings about what they cannot teach.

    Raises:
        DataError: also where all masks are void.
    """
    per_class = check_targets(scanned, "labeled", names, args)
    if not any(per_class):
        raise DataError(
            f"The masks of the {len(scanned)} labeled images hold nothing but void: there is nothing to learn from. "
            "Choose other labeled images, or check --ignore_index and --reduce_labels."
        )
    if scanned.images.task == "semantic-segmentation":
        _check_contrast(scanned, names, args)
    void = [position for position, values in enumerate(scanned.values) if values == ()]
    if void:
        notes.append(
            f"Warning: {len(void)} of {len(scanned)} labeled masks are void all over and teach nothing: "
            f"{listing(scanned.images, void)}. Leave these images unlabeled."
        )
    missing = [name for name, count in zip(names, per_class, strict=True) if not count]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
        notes.append(
            f"Warning: {len(missing)} of {len(names)} classes have no labeled image and cannot be learned: {shown}. "
            "Label a few of each, or leave these classes out."
        )
    return per_class


def _check_contrast(scanned: ScannedImages, names: list[str], args: DataArguments) -> None:
    """Masks of 0 and 255 are the usual way to draw one object, and 255 is the usual void: together, one class is left.

    Raises:
        DataError: every labeled pixel is of one class, and any model that says it everywhere is right.
    """
    shown = {value for values in scanned.values for value in values or ()}
    if len(shown) > 1:
        return
    (only,) = shown
    void = f"0 and {args.ignore_index} mean" if args.reduce_labels else f"{args.ignore_index} means"
    raise DataError(
        f"Every labeled pixel of the {len(scanned)} labeled masks is {_in_file(only, args)} ({names[only]}); {void} "
        "'no label'. There is nothing to tell apart. If that value marks an object, save the masks again with a class "
        "id in its place: 0, 1, 2, ... Or label other classes, too."
    )


def _names_of_masks(
    scanned: ScannedImages, args: DataArguments, model_classes: ModelClasses | None, notes: list[str]
) -> list[str]:
    values = sorted({value for found in scanned.values for value in found or ()})
    if not values:
        raise DataError(
            "The training masks hold no labeled pixel: every value is the ignore value "
            f"({args.ignore_index}{' or 0' if args.reduce_labels else ''}). Check --ignore_index and --reduce_labels."
        )
    names = model_classes() if model_classes else None
    if names and values[-1] < len(names):
        return names
    notes.append(f"Classes are the values in the training masks: 0 to {values[-1]}. Name them with --id2label FILE.")
    if len(values) > 1 and values[-1] > values[-2] + 1:
        last = _in_file(values[-1], args)
        notes.append(
            f"Warning: no training mask holds a value between {_in_file(values[-2], args)} and {last}. If {last} means "
            f"'no label', pass --ignore_index {last}."
        )
    return [str(value) for value in range(values[-1] + 1)]


def _names_of_numbers(
    values: list[int], args: DataArguments, model_classes: ModelClasses | None, notes: list[str]
) -> list[str]:
    highest = values[-1]
    if values[0] < 0:
        raise DataError(
            f"The label {values[0]} of {args.dataset_name!r} is below 0. Classes count from 0; -1 marks an image "
            "without a label. Correct the labels."
        )
    if highest >= 10 * len(values) + 100:
        raise DataError(
            f"The labels of {args.dataset_name!r} are {len(values)} different numbers up to {highest}, which look like "
            "ids and not like classes 0, 1, 2, ... Number the classes from 0, or store the labels as words."
        )
    names = model_classes() if model_classes else None
    if names and highest < len(names):
        return names
    notes.append(f"Classes are the label values 0 to {highest}. Name them with --id2label FILE.")
    return [str(value) for value in range(highest + 1)]


def _in_file(value: int, args: DataArguments) -> int:
    """A class id as the mask file has it."""
    return value + 1 if args.reduce_labels else value


def _remedy(strange: list[int], args: DataArguments) -> str:
    ways = []
    if len(strange) == 1:
        ways.append(
            f"If {strange[0]} means 'no label', pass --ignore_index {strange[0]} (it is {args.ignore_index} now)."
        )
    ways.append("If these are classes, name all of them with --id2label FILE.")
    if not args.reduce_labels:
        ways.append("If 0 means 'no label' and classes start at 1, pass --reduce_labels.")
    return " ".join(ways)
