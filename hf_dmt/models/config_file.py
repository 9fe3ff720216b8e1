"""Check a `config.json` before anything is built from it: an untrusted file must not exhaust the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

from ..data.files import read_json

MOST_CLASSES = 65_536
"""Labels are stored with 16 bits; every data set in use has fewer."""
LONGEST_SIDE = 16_384
"""Of the training view, in pixels."""


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
    if not isinstance(config, dict):
        return f"its config.json contains a {type(config).__name__} instead of settings"
    names, count = config.get("id2label"), config.get("num_labels")
    if names is not None and not (isinstance(names, dict) and all(str(key).isdigit() for key in names)):
        return 'its id2label is not a map from class numbers to names, such as {"0": "cat", "1": "dog"}'
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        return f"its num_labels is {count!r}, but must be a number of classes"
    of_timm = config.get("num_classes") or 0, len(config.get("label_names") or ())
    if not isinstance(of_timm[0], int):
        return f"its num_classes is {of_timm[0]!r}, but must be a number of classes"
    classes = max(count or 0, len(names or ()), *of_timm)
    if classes > MOST_CLASSES:
        return f"it has {classes} classes, but at most {MOST_CLASSES} can be stored"
    return _fault_of_index(Path(source)) if Path(source).is_dir() else None


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
