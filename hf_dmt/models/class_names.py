"""The class names of a configuration: read, compared, and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from ..hub.config_file import MOST_CLASSES
from . import timm_members

_VOID = 255  # "no label" in masks: the default of transformers and of `--ignore_index`


def label_names(config: PretrainedConfig) -> list[str]:
    """Class names in the order of the logits, made unique.

    ImageNet has two classes called crane and two called maillot; with equal names, the second one could not be selected
    or read back.
    """
    given = config.id2label or {index: f"LABEL_{index}" for index in range(config.num_labels)}  # None in a new PVT
    names: list[str] = []
    for index, name in (_by_number(given) if given else {}).items():  # timm has models without a class
        names.append(name if name not in names else f"{name} ({index})")
    return names


def describe_classes(config: PretrainedConfig) -> None:
    """Adapt a configuration to what DMT trains: one class per image, with unique names.

    `multi_label_classification` or `regression` from the checkpoint's own training would make `pipeline` apply a
    sigmoid to scores that were trained with a softmax. A model that returns tuples has no `.logits`. And where 0 meant
    "no label", the model's own loss would leave out the first of our classes.
    """
    config.problem_type, config.return_dict = None, True
    set_classes(config, dict(enumerate(label_names(config))))
    for name in ("semantic_loss_ignore_index", "loss_ignore_index"):
        if getattr(config, name, None) in range(config.num_labels):
            setattr(config, name, _VOID)


def has_named_classes(config: PretrainedConfig) -> bool:
    """False for the placeholder map `LABEL_0, LABEL_1, ...` of a configuration without class names."""
    return any(name != f"LABEL_{index}" for index, name in enumerate(label_names(config)))


def set_classes(config: PretrainedConfig, id2label: dict[int, str]) -> None:
    """Set the classes of a configuration, in place, wherever they are stored."""
    config.num_labels = len(id2label)  # PVT stores it; others derive it from the names, which this replaces
    config.id2label, config.label2id = dict(id2label), {name: index for index, name in id2label.items()}
    if config.model_type == timm_members.MODEL_TYPE:
        timm_members.prepare_config(config)


def check_label_maps(a: PretrainedConfig, b: PretrainedConfig) -> None:
    """Raise a ValueError that names the first class in which the two members differ, or for a single class."""
    names_a, names_b = label_names(a), label_names(b)
    if len(names_a) == len(names_b) == 1:
        raise ValueError(
            f"The only class is {names_a[0]!r}, so every prediction is right and there is nothing to learn. Give a "
            "class for the other images, too."
        )
    if names_a == names_b:
        return
    if len(names_a) != len(names_b):
        difference = f"a has {len(names_a)} classes, b has {len(names_b)}"
    else:
        first = next(index for index, names in enumerate(zip(names_a, names_b, strict=True)) if names[0] != names[1])
        difference = f"class {first} is {names_a[first]!r} in a and {names_b[first]!r} in b"
    raise ValueError(
        f"The two models do not predict the same classes ({difference}), so they cannot learn from each other's "
        "labels. Give the classes with `id2label`; heads that do not match are then replaced."
    )


def in_order(id2label: Mapping[int, str] | Sequence[str]) -> dict[int, str]:
    """A class map sorted by id; in a list of names, the positions are the ids.

    Raises:
        ValueError: no classes, ids other than 0, 1, 2, ... (logits would stand for other classes), or a name that is
            missing or there twice.
    """
    if isinstance(id2label, (list, tuple)):
        id2label = dict(enumerate(id2label))
    if not isinstance(id2label, Mapping):
        raise ValueError(f"id2label is a {type(id2label).__name__}. Give a map such as {{0: 'cat', 1: 'dog'}}.")
    if nameless := [key for key, name in id2label.items() if name is None]:
        raise ValueError(f"Class {nameless[0]!r} has no name, but None. Give every class its name.")
    numbered = _by_number(id2label)
    if len(numbered) > MOST_CLASSES:
        raise ValueError(f"{len(numbered)} classes were given, but at most {MOST_CLASSES} can be stored. Give fewer.")
    names = list(numbered.values())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Two classes are called {twice!r} and could not be distinguished. Give each its own name.")
    return numbered


def _by_number(id2label: Mapping[Any, Any]) -> dict[int, str]:
    """A class map in the order of its ids, which JSON has as text, where "10" comes before "2".

    Raises ValueError unless they are 0, 1, 2, ...: logits would stand for other classes.
    """
    named = {int(key) if str(key).isdecimal() else key: str(name) for key, name in id2label.items()}
    if not named or set(named) != set(range(len(named))):
        ids = f"Class ids must be the integers 0, 1, 2, ..., got {list(id2label)[:10]}"
        raise ValueError(f"{ids}. Give a map such as {{0: 'cat', 1: 'dog'}}.")
    return {index: named[index] for index in range(len(named))}
