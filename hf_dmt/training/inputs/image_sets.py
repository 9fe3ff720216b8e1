"""Check the image sets that `DMTTrainer` is given, before minutes of loading find the mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...data.labels.items import check_item_labels
from ...data.tasks import TASKS
from ...models.pair import ModelPair
from .streams import is_stream


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
    keys = list(item) if isinstance(item, Mapping) else None
    missing = [key for key in ("image", target)[: 1 + with_target] if keys is None or item.get(key) is None]
    if missing:
        what = f"has the keys {keys}" if keys is not None else f"is a {type(item).__name__}"
        raise ValueError(
            f"Item 0 of {role} {what}, but no {missing[0]!r}, which {model.task} needs. Give map-style items {form}: "
            "dataset.rename_column(...) renames a column."
        )
    if target == "label" and "label" in item:
        check_item_labels(source, role, model.class_names, optional=not with_target)


def _check_map_style(source: Any, role: str) -> None:
    if isinstance(source, Mapping):
        first = next(iter(source), "train")
        raise ValueError(
            f"{role} is a {type(source).__name__} of {', '.join(map(str, source)) or 'nothing'}, and one set of images "
            f"is needed. Give one of them: dataset[{first!r}]."
        )
    if is_stream(source):
        raise ValueError(
            f"{role} is a {type(source).__name__}, which can only be read sequentially, but labeled images are "
            "accessed by index. Save it once: datasets.Dataset.from_generator(lambda: iter(stream), "
            "features=stream.features), or use load_dataset(...) without streaming=True."
        )
    if source is not None and not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise ValueError(
            f"{role} is a {type(source).__name__}, and no set of images. Give map-style items, such as a list or "
            "datasets.Dataset of {'image': PIL, ...}."
        )
