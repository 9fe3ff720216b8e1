"""Check a `config.json` before anything is built from it: an untrusted file must not exhaust the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

from ..data.files import read_json

MOST_CLASSES = 65_536
"""Labels are stored with 16 bits; every data set in use has fewer."""


def fault_of_config(source: str, *, revision: str | None = None, token: str | None = None, **_: Any) -> str | None:
    """Why no model can be built from the configuration of `source` (a folder or a Hub id); None if it looks valid, or
    if there is no such file, which the loader reports.

    Checks the number and names of the classes, from which a configuration builds a table when it is loaded, and whether
    the list of weight files stays inside the folder.
    """
    try:
        file = cached_file(source, "config.json", revision=revision, token=token)
    except (OSError, ValueError):
        return None
    if file is None:
        return None
    try:
        config = read_json(Path(file))
    except ValueError as problem:
        return f"its config.json is not valid JSON: {problem}"
    except OSError:
        return None
    fault = _fault_of_settings(config)
    return fault or (_fault_of_index(Path(source)) if Path(source).is_dir() else None)


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a member of a saved pair.

    Raises:
        ValueError: it is missing or damaged, or does not name every class: unlike that of a checkpoint whose head is
            replaced, its map must fit the logits.
    """
    file = folder / "config.json"
    try:
        config: Any = read_json(file)
        fault = _fault_of_settings(config) or _fault_of_classes(config)
    except (OSError, ValueError) as problem:
        fault = f"it cannot be read: {problem}"
    if fault:
        raise ValueError(f"{str(file)!r} is damaged: {fault}. Copy or download the folder again.")
    settings: dict[str, Any] = config
    return settings


def class_names_of(config: dict[str, Any]) -> list[str]:
    """The names of the classes in a configuration, in the order of the logits."""
    id2label = config.get("id2label") or dict(enumerate(config.get("label_names") or ()))  # timm's key
    id2label = id2label or {0: "LABEL_0", 1: "LABEL_1"}  # the default of transformers, which it leaves out of the file
    return [str(id2label[key]) for key in sorted(id2label, key=int)]


def _fault_of_settings(config: Any) -> str | None:
    if not isinstance(config, dict):
        return f"its config.json contains a {type(config).__name__} instead of settings"
    kind, names, count = config.get("model_type"), config.get("id2label"), config.get("num_labels")
    if kind is not None and not isinstance(kind, str):
        return f"its model_type is {kind!r}, but must be a name such as 'vit'"
    if names is not None and not (isinstance(names, dict) and all(str(key).isdecimal() for key in names)):
        return 'its id2label is not a map from class numbers to names, such as {"0": "cat", "1": "dog"}'
    if not isinstance(config.get("label_names") or [], list):
        return f"its label_names is {config['label_names']!r:.80}, but must be a list of class names"
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        return f"its num_labels is {count!r}, but must be a number of classes"
    of_timm = config.get("num_classes") or 0, len(config.get("label_names") or ())
    if not isinstance(of_timm[0], int):
        return f"its num_classes is {of_timm[0]!r}, but must be a number of classes"
    classes = max(count or 0, len(names or ()), *of_timm)
    if classes > MOST_CLASSES:
        return f"it has {classes} classes, but at most {MOST_CLASSES} can be stored"
    return None


def _fault_of_classes(config: dict[str, Any]) -> str | None:
    """Whether the class map has a gap, which would shift the names of all logits behind it, or an entry without a
    name."""
    names = config.get("id2label") or {}
    if {int(key) for key in names} != set(range(len(names))):
        return f"its id2label has the classes {', '.join(list(names)[:10])}, but must count from 0 without a gap"
    wrong = [name for name in (*names.values(), *(config.get("label_names") or ())) if not isinstance(name, (str, int))]
    return f"one of its classes is called {wrong[0]!r}, which is not a name" if wrong else None


def _fault_of_index(folder: Path) -> str | None:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return None
    try:
        files = {str(name) for name in read_json(index)["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        return f"its {index.name} cannot be read: {problem!r}"
    outside = sorted(name for name in files if Path(name).name != name or name in ("", ".", ".."))
    return f"its {index.name} names {outside[0]!r}, which is outside the folder" if outside else None
