"""Check the image sets that `DMTTrainer` is given, before minutes of loading find the mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from torch.utils.data import DataLoader

from ...data.labels.items import check_item_labels, labels_at_hand
from ...data.reading.decoding import to_rgb
from ...data.reading.image_set import ImageSet, check_mask_size, check_mask_values, reading_an_item
from ...data.reading.masks import to_mask
from ...data.reading.rows import is_label
from ...data.tasks import IGNORE_INDEX, TASKS
from ...models.pair import ModelPair
from .streams import is_stream


def by_name(eval_dataset: Any) -> dict[str, Any]:
    """Eval sets by their names; a single set has the name "", and None gives no sets."""
    if isinstance(eval_dataset, Mapping):
        return dict(eval_dataset)
    return {} if eval_dataset is None else {"": eval_dataset}


def first_set(eval_dataset: Any) -> Any:
    """The eval set that chooses the exported root: the first of several; None if there is none."""
    return next(iter(by_name(eval_dataset).values()), None)


def title_of(name: str, single: str = "eval_dataset") -> str:
    """What an error calls the eval set of a name; `single` is for a set without one."""
    return f"eval_dataset[{name!r}]" if name else single


def check_image_set(source: Any, role: str, model: ModelPair, *, with_target: bool = True) -> None:
    """Check that a set can be read by index, its first item, and all labels that need no decoding.

    Args:
        source: None and an empty set pass. with_target: every item needs a label or mask; without it, one that is there
            is checked all the same, because it is scored.

    Raises:
        ValueError: what it is instead, and what to pass.
    """
    _check_map_style(source, role)
    if source is None or not len(source):
        return
    target = TASKS[model.task].target
    form = (
        f"{{'image': PIL, '{target}': {'int' if target == 'label' else '(H, W)'}}}" if with_target else "{'image': PIL}"
    )
    try:
        item = source[0]
    except (KeyError, IndexError, TypeError) as problem:
        raise ValueError(
            f"{role} is a {type(source).__name__} that has no item 0 ({type(problem).__name__}: {problem}). Give "
            f"map-style items {form}, such as a list or datasets.Dataset."
        ) from problem
    # The items of a list are there already; those of other sets may have to be decoded.
    for position, one in enumerate(source if isinstance(source, (list, tuple)) else [item]):
        keys = list(one) if isinstance(one, Mapping) else None
        missing = [key for key in ("image", target)[: 1 + with_target] if keys is None or one.get(key) is None]
        if missing:
            lack = _lack(one, missing[0], model.task)
            raise ValueError(f"Item {position} of {role} {lack} Give map-style items {form}.")
    if not isinstance(source, ImageSet):  # whose files were all read before
        has_mask = target == "mask" and item.get("mask") is not None
        _try_to_read(item, f"Item 0 of {role}", len(model.class_names) if has_mask else None)
        if target == "mask" and with_target:
            _check_not_void(source, role)
    if target == "label" and (isinstance(source, (list, tuple)) or "label" in item):
        _check_class_order(source, role, model.class_names)
        check_item_labels(source, role, model.class_names, optional=not with_target)


def _lack(item: Any, key: str, task: str) -> str:
    """What is wrong with an item that lacks a key, and how to correct it, as the end of a sentence."""
    target = TASKS[task].target
    if not isinstance(item, Mapping):
        pair = isinstance(item, (list, tuple)) and len(item) == 2
        convert = f"[{{'image': image, '{target}': {target}}} for image, {target} in dataset]"
        how = f" Convert it: {convert}." if pair else ""
        return f"is a {type(item).__name__}, but a dictionary with {key!r} is needed.{how}"
    if key in item:
        unlabeled = " Move images without one to unlabeled_dataset." if key != "image" else ""
        return f"has None as its {key!r}, which {task} needs.{unlabeled}"
    others = [other for other in item if other not in ("image", target)]
    renamed = f"{others[0]!r}, {key!r}" if len(others) == 1 else "..."
    how = f"dataset.rename_column({renamed}) renames a column."
    if key == "image" and "pixel_values" in item:
        how = (
            "The pair makes pixel_values itself, differently for each model: omit the transform (for a "
            "datasets.Dataset: dataset.reset_format()), and give the images."
        )
    return f"has the keys {list(item)}, but no {key!r}, which {task} needs. {how}"


def check_one_order(sets: Mapping[str, Any]) -> None:
    """Raise a ValueError if two sets number their classes differently. The names of the pair do not show it if they are
    only LABEL_0, LABEL_1, ...

    Args:
        sets: by the name that the error uses.
    """
    named = [(role, names) for role, images in sets.items() for names in _class_orders(images)]
    first, known = next(iter(named), ("", []))
    for role, names in named:
        for number, name in enumerate(names):
            if name in known and known.index(name) != number:
                raise ValueError(
                    f"{role} calls class {number} {name!r}, but in {first} {name!r} is class {known.index(name)}. "
                    "Give both the same order: dataset.align_labels_with_mapping({name: number, ...}, 'label')."
                )


def _try_to_read(item: Mapping[str, Any], name: str, mask_classes: int | None) -> None:
    """Raise a ValueError for an image, or a mask of so many classes, that training could not use."""
    try:
        image = to_rgb(item["image"], name)
        if mask_classes is not None:
            mask = to_mask(item["mask"], name)
            check_mask_size(mask.shape, image.size, name)
            check_mask_values(mask, mask_classes, name)
    except TypeError as problem:
        raise ValueError(f"{problem} Correct the data set.") from problem


def _check_not_void(source: Any, role: str) -> None:
    """Raise a ValueError if all masks are void; usually, only the first one is read."""
    for row in range(len(source)):
        name = f"Item {row} of {role}"
        with reading_an_item(name):
            mask = source[row].get("mask")
        if is_label(mask) and (to_mask(mask, name) != IGNORE_INDEX).any():
            return
    raise ValueError(
        f"The masks of all {len(source)} items of {role} are entirely void ({IGNORE_INDEX}), so there is nothing to "
        "learn or to score. Give masks with class ids, or omit these images."
    )


def class_label_names(source: Any) -> list[str] | None:
    """The names of a `ClassLabel` column `label`, also inside torch's `Subset` and `ConcatDataset`."""
    return next(iter(_class_orders(source)), None)


def _class_orders(source: Any) -> list[list[str]]:
    """As `class_label_names`, of every set that a set is made of: each may number its classes in its own way."""
    if not hasattr(source, "features"):
        inside = [source.dataset] if hasattr(source, "dataset") else getattr(source, "datasets", ())
        return [names for part in inside for names in _class_orders(part)] if isinstance(inside, (list, tuple)) else []
    features = source.features  # of another library, it may be anything
    names = getattr(features.get("label"), "names", None) if isinstance(features, Mapping) else None
    return [list(names)] if names else []


def _check_class_order(source: Any, role: str, classes: Sequence[str]) -> None:
    """Raise a ValueError if a set numbers the classes of the pair in another order: each image would be learned, or
    scored, under the name of another class."""
    for names in _class_orders(source):
        for number, name in enumerate(names):
            if name in classes and classes.index(name) != number:
                raise ValueError(
                    f"{role} calls class {number} {name!r}, but in the pair {name!r} is class {classes.index(name)}. "
                    f"Give the pair the order of the data, id2label={names[:5]}{' + ...' if len(names) > 5 else ''}, "
                    "or bring the labels to its order: "
                    "dataset.align_labels_with_mapping(pair.config.label2id, 'label')."
                )


def check_several_classes(source: Any, role: str, model: ModelPair) -> None:
    """Raises a ValueError if all labels that need no decoding are the same, so that there is nothing to learn."""
    labels = labels_at_hand(source) if TASKS[model.task].target == "label" and len(source) > 1 else None
    if labels and all(label == labels[0] for label in labels):
        raise ValueError(
            f"All {len(labels)} items of {role} have the label {labels[0]} ({model.class_names[int(labels[0])]!r}), so "
            "there is nothing to learn. Give images of other classes, too."
        )


def check_filled(source: Any, role: str, model: ModelPair, *, with_target: bool = True) -> None:
    """As `check_image_set`, and raises a ValueError for a set without images, too."""
    check_image_set(source, role, model, with_target=with_target)
    if source is None or not len(source):
        raise ValueError(f"{role} contains no images. Omit it, or give some.")


def sets_to_score(model: ModelPair, own: Any, asked: Any) -> dict[str, Any]:
    """Image sets by name: those of an evaluation's argument, else the trainer's own; a single set has the name "".

    Args:
        own: the trainer's `eval_dataset`, checked already. asked: a set, several by name, the name of one of the
            trainer's own, or None.

    Raises:
        ValueError: an unknown name, or a set that cannot be scored.
    """
    if isinstance(asked, str):
        if not isinstance(own, Mapping) or asked not in own:
            known = f"one of {', '.join(own)}" if isinstance(own, Mapping) else "a set of images"
            raise ValueError(f"There is no eval_dataset with the name {asked!r}. Give {known}.")
        return {asked: own[asked]}
    sets = by_name(own if asked is None else asked)
    if asked is not None:
        for name, images in sets.items():
            check_filled(images, title_of(name, "the data set to evaluate"), model)
    return sets


def _check_map_style(source: Any, role: str) -> None:
    if isinstance(source, Mapping):
        first = next(iter(source), "train")
        way = f"Give one of them: dataset[{first!r}]."
        if "image" in source:  # columns, and not sets
            way = "Give a list with such a dictionary for each image; datasets.Dataset.from_dict(...) takes columns."
        raise ValueError(
            f"{role} is a {type(source).__name__} of {', '.join(map(str, source)) or 'nothing'}, but one set of images "
            f"is needed. {way}"
        )
    if is_stream(source):
        raise ValueError(
            f"{role} is a {type(source).__name__}, which can only be read sequentially, but labeled images are "
            f"accessed by index. {_how_to_keep(source, role)}"
        )
    if source is not None and not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise ValueError(
            f"{role} is a {type(source).__name__}, not a set of images. Give map-style items, such as a list or "
            "datasets.Dataset of {'image': PIL, ...}."
        )


def _how_to_keep(stream: Any, role: str) -> str:
    """How to make a set that can be read by index of one that cannot, as a sentence."""
    if isinstance(stream, DataLoader):
        return "Give the data set inside it: loader.dataset."
    if not isinstance(stream, datasets.IterableDataset):
        return f"Read it once: list({role})."
    return (
        "Save it once: datasets.Dataset.from_generator(lambda: iter(stream), features=stream.features), or use "
        "load_dataset(...) without streaming=True."
    )
