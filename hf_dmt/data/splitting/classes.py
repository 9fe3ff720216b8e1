"""Determine the class names, and check that labels and masks contain only these classes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..arguments import DataArguments
from ..messages import listed, listed_lines
from ..reading.image_set import ImageSet
from ..reading.rows import DataError, is_label
from .class_map import ClassMap, look_alikes, read_class_map
from .scan import ScannedImages, listing

ModelClasses = Callable[[int], list[str] | None]
"""The class names of the models for data with this number of classes, if they fit."""

_OF_IDS = ("ignore_index", "reduce_labels", "mask_band")
_LOOK_MISSING = re.compile(r"none|n/?a|nan|null|nil|-+|\?+|unlabell?(ed)?( .*)?|no label|not labell?ed|to label|to ?do")


def with_classes(
    scanned: ScannedImages,
    names: list[str] | None,
    args: DataArguments,
    model_classes: ModelClasses | None,
    notes: list[str],
) -> tuple[ScannedImages, list[str]]:
    """The class names, and the class of each label or mask value if it is not its number.

    Names come from `--id2label`, or else from the data set, or else from the two models if they have as many classes;
    otherwise they are the values found. If the data has names, `--id2label` is matched by name: it sets the order and
    changes no label.

    Args:
        names: the class names in the data set, if any.

    Raises:
        DataError: a class map that cannot be read or lacks a label; labels that are not classes; no labels at all.
    """
    if scanned.images.task == "semantic-segmentation":
        given = read_class_map(args.id2label, merges=True) if args.id2label else None
        return _mask_classes(scanned, given, names, args, model_classes, notes)
    _refuse(
        args,
        (*_OF_IDS, "mask_colors", "mask_suffix"),
        "masks, but classification has one label per image. Omit it, or add `task='semantic-segmentation'`",
    )
    given = read_class_map(args.id2label) if args.id2label else None
    distinct = _distinct_labels(scanned.images, args)
    class_of: dict[Any, int] | None = None
    if isinstance(distinct[0], str):
        class_of, classes = _classes_of_words(distinct, scanned, given, names, args, notes)
    elif given:
        classes, class_of = given.names, None if given.is_plain else given.class_of
    else:
        classes = names or _names_of_numbers([int(value) for value in distinct], args, model_classes, notes)
    if class_of is not None:
        scanned = replace(scanned, images=replace(scanned.images, class_of=class_of))
    if len(classes) == 1:  # for masks, see `check_labeled`
        raise DataError(
            f"{args.dataset_name!r} has a single class, {classes[0]!r}, so there is nothing to learn. Put the images "
            "of each class into a separate folder, or name the column with `label_column`." + _deeper_classes(scanned)
        )
    return scanned, classes


def _distinct_labels(images: ImageSet, args: DataArguments) -> list[Any]:
    """The labels of the training images, sorted: words, or whole numbers.

    Raises:
        DataError: there are none, or they are something else.
    """
    targets = images.rows.targets()
    assert targets is not None
    labels = [target for row in images.chosen if is_label(target := targets[int(row)])]
    if strange := next((one for one in labels if not isinstance(one, (str, int, float, np.number))), None):
        raise DataError(
            f"The labels of {args.dataset_name!r} are of the type {type(strange).__name__}, such as {strange!r:.60}, "
            "but a class is a whole number or a word. Name another column with `label_column`, or store the labels as "
            "words."
        )
    distinct = sorted(set(labels))
    if not distinct:
        raise DataError(
            f"No training image of {args.dataset_name!r} has a label: all are null, empty or -1. Name another column "
            "with `label_column`."
        )
    if isinstance(distinct[0], float) or isinstance(distinct[-1], float):
        raise DataError(
            f"The labels of {args.dataset_name!r} are fractions such as {distinct[-1]:g}, but a class is a whole "
            "number or a word. Name another column with `label_column`."
        )
    return distinct


def _refuse(args: DataArguments, names: Sequence[str], what_for: str) -> None:
    """Raises DataError for a setting that would have no effect."""
    for field in fields(args):
        value = getattr(args, field.name)
        if field.name in names and value != field.default:
            raise DataError(f"`{field.name}={value}` is for {what_for}.")


def _classes_of_words(
    distinct: list[str],
    scanned: ScannedImages,
    given: ClassMap | None,
    names: list[str] | None,
    args: DataArguments,
    notes: list[str],
) -> tuple[dict[Any, int], list[str]]:
    own = names or distinct
    for word in filter(_looks_missing, distinct):
        notes.append(
            f"{'Warning: t' if 'label' in word.lower() else 'T'}he label {word!r} is used as a class. If it means that "
            "an image is not labeled, leave the label empty instead, or pass the folder of this name as "
            "`unlabeled_dir`."
        )
    if given is None:
        notes += look_alikes(own)
        return {word: index for index, word in enumerate(own)}, own
    unknown = [word for word in distinct if word not in given.names]
    if not unknown:
        if [name for name in given.names if name in own] != own:
            notes.append(f"Classes are in the order of {args.id2label!r}; labels are matched to them by name.")
        return {word: index for index, word in enumerate(given.names)}, given.names
    by_number = {str(value): given.names.index(name) for value, name in given.values.items()}
    if all(word in by_number for word in distinct):  # class folders called 0, 1, 2
        notes.append(f"Labels are the numbers of the classes in {args.id2label!r}.")
        return by_number, given.names
    numbered = getattr(scanned.images.rows, "class_names", None)
    if numbered and len(numbered) == len(given.names) and not set(numbered) & set(given.names) and given.is_plain:
        pairs = listed((f"{old} = {new}" for old, new in zip(numbered, given.names, strict=True)), 10)
        notes.append(f"Classes are renamed by {args.id2label!r}, in the order of their numbers: {pairs}.")
        return {word: index for index, word in enumerate(numbered)}, given.names
    raise DataError(
        f"Labels {unknown[:10]} of {args.dataset_name!r} are not among the {len(given.names)} classes of "
        f"{args.id2label!r}. Add them there, or correct them in the data."
    )


def _looks_missing(word: str) -> bool:
    return _LOOK_MISSING.fullmatch(re.sub(r"(?<=\w)[\s_-]+", " ", word.strip().lower())) is not None


def _deeper_classes(scanned: ScannedImages) -> str:
    """A hint if the class folders are one level deeper than expected."""
    deeper = sorted({id.split("/")[1] for id in scanned.images.ids if id.count("/") == 2})
    if len(deeper) < 2:
        return ""
    above = scanned.images.ids[0].split("/")[0]
    return f" If the classes are {listed(deeper, 10)}, pass the folder {above!r} inside it as `dataset_name`."


def _mask_classes(
    scanned: ScannedImages,
    given: ClassMap | None,
    names: list[str] | None,
    args: DataArguments,
    model_classes: ModelClasses | None,
    notes: list[str],
) -> tuple[ScannedImages, list[str]]:
    reading = scanned.images.reading
    if reading.colors:
        if given:
            raise DataError(
                "`id2label` and `mask_colors` both name the classes of the masks. Give only `mask_colors`: its table "
                "has the names."
            )
        _refuse(
            args,
            _OF_IDS,
            "masks of ids, but `mask_colors` reads colors. Omit it; a row called void in the table means 'no label'",
        )
        return scanned, reading.names
    if given is None:
        if args.ignore_index == 0 and not args.reduce_labels:
            raise DataError(
                "`ignore_index=0` leaves class 0 without a pixel, so it could not be learned. If 0 means 'no label' "
                "and the classes are 1, 2, 3, ..., pass `reduce_labels` instead."
            )
        return scanned, names or _names_of_masks(scanned, args, model_classes, notes)
    values = given.values
    if args.reduce_labels:
        if min(values) == 1:
            values = {value - 1: name for value, name in values.items()}  # ids as in the files
        if list(values) != list(range(len(given.names))):
            raise DataError(
                f"`reduce_labels` stores class k as k + 1, but {args.id2label!r} has the ids "
                f"{listed(given.values, 10)}. Omit `reduce_labels`: ids in a map are values in the masks."
            )
        return scanned, given.names
    if args.ignore_index in values:
        way = (
            "If 0 means 'no label', pass `reduce_labels` and name the others 0, 1, 2, ..."
            if args.ignore_index == 0
            else "Remove it from the map, or pass another `ignore_index` (-1 for none)."
        )
        raise DataError(
            f"The value {args.ignore_index} is the class {values[args.ignore_index]!r} in {args.id2label!r}, but "
            f"`ignore_index={args.ignore_index}` means 'no label', so the class would have no pixels. {way}"
        )
    if given.is_plain:
        return scanned, given.names
    if len(values) > len(given.names):
        notes.append(f"{len(values)} mask values are mapped to {len(given.names)} classes by {args.id2label!r}.")
    return replace(scanned, images=replace(scanned.images, class_of=given.class_of)), given.names


def check_targets(scanned: ScannedImages, role: str, names: list[str], args: DataArguments) -> list[int]:
    """For each class, the number of images that show it: in their label, or somewhere in their mask.

    Raises:
        DataError: labels or mask values that are not classes, by file, with the likely fix; only void in the masks that
            a run needs.
    """
    if scanned.images.task == "image-classification":
        labels = scanned.images.labels
        assert labels is not None
        outside = np.flatnonzero(labels >= len(names))
        if len(outside):
            raise DataError(
                f"Label {int(labels[outside[0]])} of {len(outside)} {role} images ({listing(scanned.images, outside)}) "
                f"is outside the {len(names)} classes (0 to {len(names) - 1}). Name all classes with `id2label`, or "
                "correct the labels."
            )
        return np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
    class_of = scanned.images.classes_of_values(len(names))
    wrong = {
        scanned.images.id_of(position): bad
        for position, values in enumerate(scanned.values)
        if (bad := [value for value in values or () if value not in class_of])
    }
    if wrong:
        lines = [f"{name}: {', '.join(map(str, values))}" for name, values in wrong.items()]
        strange = sorted({value for values in wrong.values() for value in values})
        known = f"{min(class_of)} to {max(class_of)}" if scanned.images.class_of is None else listed(class_of, 10)
        raise DataError(
            f"{len(wrong)} {role} masks contain values that are not among the {len(names)} classes ({known}):\n"
            f"{listed_lines(lines, 'more masks')}\n{_remedy(strange, args)}"
        )
    counts = np.zeros(len(names), dtype=np.int64)
    for values in scanned.values:
        for index in {class_of[value] for value in values or ()}:
            counts[index] += 1
    # The masks of a test split may be kept secret, and nothing depends on them.
    if len(scanned) and not counts.any() and role != "test":
        raise DataError(
            f"The masks of the {len(scanned)} {role} images are entirely void, so there is nothing to "
            f"{'learn' if role == 'labeled' else 'score'}. Choose other {role} images, or check `ignore_index` and "
            "`reduce_labels`."
        )
    return counts.tolist()


def check_labeled(scanned: ScannedImages, names: list[str], args: DataArguments, notes: list[str]) -> list[int]:
    """Like `check_targets` for the images to learn from, with warnings about what they cannot teach.

    Raises:
        DataError: also if all show the same class.
    """
    per_class = check_targets(scanned, "labeled", names, args)
    if scanned.images.task == "semantic-segmentation":
        _check_contrast(scanned, names, args)
    elif sum(map(bool, per_class)) == 1:
        raise DataError(
            f"All {sum(per_class)} labeled images are {names[np.argmax(per_class)]!r}, so there is nothing to learn. "
            "Label images of other classes, too; a label of -1 and an empty one mean 'no label'."
        )
    void = [position for position, values in enumerate(scanned.values) if values == ()]
    if void:
        notes.append(
            f"Warning: {len(void)} of {len(scanned)} labeled masks are entirely void: "
            f"{listing(scanned.images, void)}. Use these images as unlabeled ones."
        )
    missing = [name for name, count in zip(names, per_class, strict=True) if not count]
    if missing:
        notes.append(
            f"Warning: {len(missing)} of {len(names)} classes have no labeled image and cannot be learned: "
            f"{listed(missing, 10)}. Label a few of each, or remove these classes."
            + (' If the first class is 1, give it a name: `id2label=FILE`, with {"1": ...}.' * (missing == ["0"]))
        )
    return per_class


def _check_contrast(scanned: ScannedImages, names: list[str], args: DataArguments) -> None:
    """Refuse masks with a single class. Masks of 0 and 255 are a common way to draw one object, and 255 usually means
    void, which leaves one class.

    Raises:
        DataError: all labeled pixels have the same class, so that a constant prediction would be right.
    """
    class_of = scanned.images.classes_of_values(len(names))
    shown = {value for values in scanned.values for value in values or ()}
    if len({class_of[value] for value in shown}) > 1:
        return
    only = min(shown)
    void = f"0 and {args.ignore_index} mean" if args.reduce_labels else f"{args.ignore_index} means"
    object_on_black = (
        f" If {args.ignore_index} marks an object, name both values with `id2label=FILE`, which contains "
        f'{{"{only}": "background", "{args.ignore_index}": "object"}}, and pass `ignore_index=-1`.'
        if not args.reduce_labels and scanned.images.class_of is None
        else ""
    )
    raise DataError(
        f"Every labeled pixel of the {len(scanned)} labeled masks is {only} ({names[class_of[only]]}); {void} 'no "
        f"label'. There is nothing to learn. Label other classes, too.{object_on_black}"
    )


def _names_of_masks(
    scanned: ScannedImages, args: DataArguments, model_classes: ModelClasses | None, notes: list[str]
) -> list[str]:
    values = sorted({value for found in scanned.values for value in found or ()})
    if not values:
        raise DataError(
            "The training masks contain no labeled pixel: every value is the ignore value "
            f"({args.ignore_index}{' or 0' if args.reduce_labels else ''}). Check `ignore_index` and `reduce_labels`."
        )
    first, last = int(args.reduce_labels), values[-1]
    count = last + 1 - first
    if names := model_classes(count) if model_classes else None:
        notes.append(_of_models(names))
        return names
    alone = len(values) > 1 and last > values[-2] + 1
    ignore = f" If {last} means 'no label', pass `ignore_index={last}`." if alone else ""
    if count > 2 * len(values) + 1:
        is_void = alone and last in {255, 65535, 2**31 - 1, 2**32 - 1}  # all bits set, as tools write it
        kept = values[:-1] if is_void else values
        example = json.dumps({str(value): f"name of {value}" for value in kept[:10]})
        raise DataError(
            f"The training masks contain {len(values)} values up to {last} ({listed(values, 10)}): as class "
            f"ids they would make {count} classes, most of them without a pixel.{ignore} Otherwise name the values "
            f"with `id2label=FILE`; the file contains: {example[:-1]}{', ...' if len(kept) > 10 else ''}}}"
        )
    less_one = ", less 1" if first else ""
    notes.append(
        f"Classes are the values in the training masks{less_one}: 0 to {count - 1}. Name them with `id2label=FILE`."
    )
    if alone:
        notes.append(f"Warning: no training mask contains a value between {values[-2]} and {last}.{ignore}")
    return [str(index) for index in range(count)]


def _names_of_numbers(
    values: list[int], args: DataArguments, model_classes: ModelClasses | None, notes: list[str]
) -> list[str]:
    highest = values[-1]
    if values[0] < 0:
        raise DataError(
            f"The label {values[0]} of {args.dataset_name!r} is below 0. Classes start at 0; -1 marks an image "
            "without a label. Correct the labels."
        )
    if highest >= 10 * len(values) + 100:
        raise DataError(
            f"The labels of {args.dataset_name!r} are {len(values)} different numbers up to {highest}, which look "
            "like ids rather than classes 0, 1, 2, ... Number the classes from 0, or store the labels as words."
        )
    if names := model_classes(highest + 1) if model_classes else None:
        notes.append(_of_models(names))
        return names
    notes.append(f"Classes are the label values 0 to {highest}. Name them with `id2label=FILE`.")
    return [str(value) for value in range(highest + 1)]


def _of_models(names: list[str]) -> str:
    return (
        f"The data names no classes, so label values are taken for the {len(names)} classes of the models: "
        f"{listed(names, 10)}. If they are other classes, name them with `id2label=FILE`."
    )


def _remedy(strange: list[int], args: DataArguments) -> str:
    ways = []
    if len(strange) == 1:
        ways.append(
            f"If {strange[0]} means 'no label', pass `ignore_index={strange[0]}` (it is {args.ignore_index} now)."
        )
    ways.append("If these are classes, name all of them with `id2label=FILE`.")
    if not args.reduce_labels and 0 not in strange:
        ways.append("If 0 means 'no label' and classes start at 1, pass `reduce_labels`.")
    return " ".join(ways)
