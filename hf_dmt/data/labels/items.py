"""Check labels of images passed from Python: before training, and again when each is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch import Tensor

from ..reading.image_set import ImageSet, reading_an_item
from ..reading.rows import is_label

_LOOKED_AT = 32  # items to check in a set that decodes an image to read its label


def check_item_labels(source: Any, role: str, class_names: Sequence[str], *, optional: bool = False) -> None:
    """Check the labels of a set, without decoding images if possible.

    Args:
        optional: of unlabeled images, which may lack a label, or be of a class that the pair does not know. Labels that
            are there are scored, never trained on.

    Raises:
        ValueError: the first item with an invalid label, and why.
    """
    for position, label in _labels(source, role):
        if not (optional and not is_label(label)):
            check_label(label, f"Item {position} of {role}", None if optional else len(class_names), class_names)


def labels_at_hand(source: Any) -> list[Any] | None:
    """The labels of a list or a `datasets.Dataset`, None where there is none; None for a set that has to decode images
    or run a transform for them."""
    if isinstance(source, datasets.Dataset):
        if source.format["type"] == "custom" or "label" not in source.column_names:
            return None
        # As an Arrow table: iterating over the column takes 17 s for a million labels, this 0.02 s.
        labels: list[Any] = source.with_format("arrow").select_columns(["label"])[:]["label"].to_pylist()
        return labels
    if isinstance(source, (list, tuple)):
        return [item.get("label") if isinstance(item, Mapping) else None for item in source]
    return None


def _labels(source: Any, role: str) -> Iterable[tuple[int, Any]]:
    """Positions and labels: all labels if no image has to be decoded, otherwise a few."""
    if isinstance(source, ImageSet):
        return []  # checked when the run's image sets were built
    if (labels := labels_at_hand(source)) is not None:
        return enumerate(labels)
    return ((place, _item(source, place, role).get("label")) for place in evenly_spread(len(source), _LOOKED_AT))


def evenly_spread(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0..count-1, with the first and the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most)).tolist()})


def _item(source: Any, position: int, role: str) -> Mapping[str, Any]:
    """An item of a set that may be anything with a length.

    Raises:
        ValueError: it cannot be read, or is not a dictionary.
    """
    with reading_an_item(f"Item {position} of {role}, which has {len(source)},"):
        item: Any = source[position]
    if not isinstance(item, Mapping):
        raise ValueError(
            f"Item {position} of {role} is a {type(item).__name__}, but item 0 is a dictionary. Remove it."
        )
    return item


def check_label(label: Any, where: str, num_classes: int | None, class_names: Sequence[str] = ()) -> int:
    """Convert the label of an image to an int in 0..num_classes-1.

    Args:
        where: the start of the error message.
        num_classes: None accepts any whole number: an unlabeled image may be of a class that the pair does not know.
        class_names: if known, to explain a name given as a label.

    Raises:
        ValueError: the label is not a class: what it is, and what to give instead.
    """
    if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
        label = label.item()
    if fault := _fault(label, num_classes, class_names):
        raise ValueError(f"{where} {fault}")
    return int(label)


def _fault(label: Any, count: int | None, names: Sequence[str]) -> str | None:
    """What is wrong with a label, as the end of a sentence."""
    if label is None:
        return "has no label. Move images without one to unlabeled_dataset."
    if isinstance(label, str):
        known = "0, 1, 2, ..." if count is None else f"0 to {count - 1}"
        if names:
            known = f"{label!r} is number {names.index(label)}" if label in names else f"the order is {list(names[:5])}"
        return f"has the label {label!r}, but a label must be the number of a class: {known}."
    if isinstance(label, (list, tuple, np.ndarray, Tensor)):
        if len(label) == 1:
            return "has its label inside a list or an array, but a label must be one number: give label[0]."
        return (
            f"has a label with {len(label)} values, but a label must be one number. Convert one-hot labels to the "
            "position of the 1 (int(np.argmax(label))). Several classes per image are not supported."
        )
    if not isinstance(label, (int, float, np.integer, np.floating)):
        return f"has a {type(label).__name__} as its label, but a label must be the number of a class, an int."
    if isinstance(label, (float, np.floating)) and not float(label).is_integer():
        return f"has the label {label}, but the number of a class must be a whole number."
    if count is not None and not 0 <= label < count:
        remedy = "Build it with id2label for all classes, or correct the labels."
        if label == -1:
            remedy = "-1 usually marks an image without a label: move it to unlabeled_dataset."
        return f"has label {int(label)}, but the pair has {count} classes, 0 to {count - 1}. {remedy}"
    return None
