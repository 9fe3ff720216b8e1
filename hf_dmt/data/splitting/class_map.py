"""The file for `--id2label`: class names, and their values in labels or mask files; and names that look the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from ..reading.rows import DataError, same_letters


@dataclass(frozen=True)
class ClassMap:
    """A class map.

    Attributes:
        file: its path.
        names: the classes in order, each once.
        values: their values in labels or mask files, ascending; in masks, several may belong to one class.
    """

    file: str
    names: list[str]
    values: dict[int, str]

    @property
    def is_plain(self) -> bool:
        """Whether class k is stored as k."""
        return list(self.values) == list(range(len(self.names)))

    @property
    def class_of(self) -> dict[int, int]:
        return {value: self.names.index(name) for value, name in self.values.items()}


def read_class_map(file: str, *, merges: bool = False) -> ClassMap:
    """Class names from a JSON list, an `{"0": name}` map like `id2label.json` files on the Hub, `{name: 0}`, or the
    `config.json` of a model.

    Ids may have gaps, in which case they are values in the data: `{"0": "background", "100": "water"}`.

    Args:
        merges: several ids may have the same name.

    Raises:
        DataError: unreadable, or not such a map.
    """
    try:
        values = dict(sorted(_pairs(read_json(Path(file)))))
        names = list(dict.fromkeys(values.values()))
        if not names:
            raise ValueError("it is empty")
        if len(names) < len(values) and not merges:
            raise ValueError("it names a class twice")
        if min(values) < 0:
            raise ValueError(f"its id {min(values)} is below 0")
    except (OSError, ValueError, TypeError) as problem:
        raise DataError(
            f"`id2label` {file!r} is not a class map ({problem}). Give a JSON file like "
            '{"0": "cat", "1": "dog"} or ["cat", "dog"].'
        ) from problem
    return ClassMap(file, names, values)


def _pairs(content: Any) -> list[tuple[int, str]]:
    if isinstance(content, list):
        names = [_name(name) for name in content]
        if len(set(names)) < len(names):
            raise ValueError("it names a class twice")
        return list(enumerate(names))
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]  # the config.json of a model
    if not isinstance(content, dict):
        raise ValueError(f"it contains a {type(content).__name__}")
    if content and all(isinstance(value, int) and not isinstance(value, bool) for value in content.values()):
        ids = list(content.values())  # label2id, the inverse map
        if len(set(ids)) < len(ids):
            raise ValueError("it gives an id to two classes")
        return [(value, _name(name)) for name, value in content.items()]
    pairs = [(int(key), _name(name)) for key, name in content.items()]
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("it names an id twice")
    return pairs


def _name(value: Any) -> str:
    if isinstance(value, (dict, list)) or value is None or not str(value).strip():
        raise ValueError(f"{value!r} is not a class name")
    return same_letters(str(value).strip())


def look_alikes(words: Sequence[str]) -> list[str]:
    """A warning for each group of labels that look the same but for case, width or spaces, most likely one class."""
    groups: dict[str, list[str]] = {}
    for word in words:
        seen = "".join(sign for sign in unicodedata.normalize("NFKC", word) if unicodedata.category(sign) != "Cf")
        groups.setdefault(" ".join(seen.casefold().split()), []).append(word)
    return [
        f"Warning: the labels {', '.join(map(repr, same))} differ only in case, spaces or invisible characters, and "
        "are used as separate classes. If they mean the same, correct them in the data."
        for same in groups.values()
        if len(same) > 1
    ]
