"""Choose the labeled, unlabeled and held-out images, and describe the choice in a file.

Every random order here is a pure function of (labels, seed), and smaller labeled sets are prefixes of larger ones, so
that different numbers of labels are compared on nested sets.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..builtin import BUILTIN_SETS
from ..files import read_json

Item = TypeVar("Item")

SPLIT_FILE = "split.json"
EVAL_FRACTION = 0.2
SMALLEST_SET_WITH_EVAL = 10
_KEPT_PER_CLASS = 2  # holding images out never takes one of a class's last two labels


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """All rows in an order in which every prefix is stratified: first one of each class, then in proportion.

    Args:
        labels: `(N,)` integer classes.

    Returns:
        A permutation of `0..N-1`.
    """
    generator = np.random.default_rng([seed, 0])
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        position = np.empty(len(rows))
        position[generator.permutation(len(rows))] = np.arange(len(rows))
        rank[rows] = np.where(position == 0, 0.0, (position + 0.5) / len(rows))
    return np.lexsort((generator.random(len(labels)), rank))


def choose_labeled(count: int, total: int, *, seed: int, labels: np.ndarray | None) -> np.ndarray:
    """The rows of `count` labeled images, sorted: stratified by class, or random if `labels` is None (pixels).

    Raises:
        ValueError: fewer than one or more than there are.
    """
    if not 1 <= count <= total:
        raise ValueError(
            f"{count} labeled images were requested, but the training split has {total}: choose 1 to {total} "
            "(`num_labeled`, `labeled_fraction`)."
        )
    order = (
        stratified_order(labels, seed) if labels is not None else np.random.default_rng([seed, 0]).permutation(total)
    )
    return np.sort(order[:count])


def hold_out(
    labeled: np.ndarray, labels: np.ndarray | None, *, seed: int, fraction: float = EVAL_FRACTION, draw: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a fraction of the labeled rows to score on: `(still labeled, held out)`, both sorted.

    Stratified, never one of a class's last two labels; with fewer than 10 labeled images, none.

    Args:
        draw: 1 for the eval images, 2 for the test images, so that they are chosen independently.
    """
    if len(labeled) < SMALLEST_SET_WITH_EVAL:
        return labeled, np.empty(0, dtype=np.int64)
    wanted = round(fraction * len(labeled))
    if labels is None:
        taken = np.random.default_rng([seed, draw]).permutation(labeled)[:wanted]
        return np.setdiff1d(labeled, taken), np.sort(taken)
    left = {int(label): int((labels[labeled] == label).sum()) for label in np.unique(labels[labeled])}
    chosen: list[int] = []
    for row in labeled[stratified_order(labels[labeled], seed + draw)]:
        label = int(labels[row])
        if len(chosen) < wanted and left[label] > _KEPT_PER_CLASS:
            chosen.append(int(row))
            left[label] -= 1
    held = np.asarray(sorted(chosen), dtype=np.int64)
    return np.setdiff1d(labeled, held), held


def read_ids(file: Path) -> list[str]:
    """Ids of labeled images from a text file (one per line) or the `labeled` list of a `split.json`.

    Raises:
        ValueError: not readable, empty, or an id twice.
    """
    try:
        if file.suffix == ".json":
            ids = read_json(file)["labeled"]
            if not isinstance(ids, list) or not all(isinstance(name, (str, int)) for name in ids):
                raise TypeError("'labeled' is not a list of ids")
            ids = [str(name) for name in ids]
        else:
            text = file.read_text(encoding="utf-8-sig")
            ids = [line.strip() for line in text.split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(
            f"The id file {str(file)!r} cannot be read ({problem}). Give a text file with one id per line."
        ) from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{str(file)!r} is not a split file ({problem!r}). Give the split.json of a run.") from problem
    if not ids:
        raise ValueError(f"The id file {str(file)!r} contains no ids. Write one id per line.")
    name, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise ValueError(f"The id file {str(file)!r} lists {name!r} {times} times. Remove the repetition.")
    return ids


def rows_of(ids: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Rows of the given ids among the `known` ids, sorted.

    Raises:
        ValueError: an id that is not in the training split.
    """
    row_of = {name: row for row, name in enumerate(known)}
    missing = [name for name in ids if name not in row_of]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} labeled ids are not in the training split, for example {missing[0]!r}; its "
            f"ids look like {known[0]!r}. An id is the row number or the path inside the folder."
        )
    return np.sort(np.asarray([row_of[name] for name in ids], dtype=np.int64))


def difference_maximized(names: Sequence[Item], generator: random.Random) -> tuple[list[Item], list[Item]]:
    """Two different 80 % of the labeled images that share 60 %: the first and the last of one random order."""
    order = list(names)
    generator.shuffle(order)
    left_out = math.ceil((1 - 0.6) / 2 * len(order))
    return order[: len(order) - left_out], order[left_out:]


def member_rows(setting: str, ids: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Labeled rows on which each member trains in phase 0.

    Args:
        setting: `false` (all rows for both), `true` (drawn with `seed`), or a JSON file `{"a": [ids], "b": [ids]}`,
            such as `scripts/prepare_data.py` writes for the official subsets.
        ids: the ids of the labeled images, in row order.

    Raises:
        ValueError: a file that cannot be read, or ids that are not among the labeled images.
    """
    if setting == "false":
        return {"a": np.arange(len(ids)), "b": np.arange(len(ids))}
    if setting == "true":
        left, right = difference_maximized(range(len(ids)), random.Random(seed))
        return {"a": np.sort(left), "b": np.sort(right)}
    try:
        lists = read_json(Path(setting))
        subsets = {name: rows_of([str(item) for item in lists[name]], ids) for name in ("a", "b")}
        if not all(len(rows) for rows in subsets.values()):
            raise ValueError("a list is empty")
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ValueError(
            f"`difference_maximized_sampling` {setting!r} cannot be used ({problem}). Give true, false, or a JSON file "
            '{"a": [ids], "b": [ids]} with ids of labeled images.'
        ) from problem
    return subsets


def origin(key: str, given: str | None) -> dict[str, str | None]:
    """A source by name and, if it has one, by its id on the Hub. `split.json` is published, so a folder is recorded by
    its name only."""
    given = str(Path(given).expanduser()) if given else None
    local = given is not None and Path(given).exists()
    on_hub = given is not None and not local and given not in BUILTIN_SETS
    return {key: Path(given).resolve().name if given and local else given, f"{key}_id": given if on_hub else None}


def earlier_split(labeled_ids: str | None) -> Mapping[str, Any]:
    """The content of a `split.json` given as `labeled_ids`, whose held-out images stay held out; otherwise {}.

    Raises:
        ValueError: it is not a split file.
    """
    if labeled_ids is None or not labeled_ids.endswith(".json"):
        return {}
    read_ids(Path(labeled_ids))
    earlier: Mapping[str, Any] = read_json(Path(labeled_ids))
    return earlier


def held_out_before(role: str, earlier: Mapping[str, Any], known: Sequence[str]) -> np.ndarray | None:
    """Rows of the training images that an earlier run held out for this role, as far as they still exist; None if
    there are none, or if its images for this role were a split of their own.

    Args:
        earlier: the `split.json` of that run, or {}.
    """
    ids = earlier.get(role)
    kept = {str(name) for name in ids} if isinstance(ids, list) else set()
    rows = [row for row, name in enumerate(known) if name in kept]
    taken = earlier.get("held_out")  # without it, row numbers may be those of another split
    was_training = role in taken if isinstance(taken, list) else len(rows) == len(kept)
    return np.array(rows, dtype=np.int64) if rows and was_training else None


def image_ids(images: Any) -> list[str]:
    """Ids of an image set, or row numbers for a plain sequence."""
    return [str(name) for name in getattr(images, "ids", range(len(images)))]


def sha256_of_ids(ids: Sequence[str]) -> str:
    """Hex digest of the ids, one per line, in order."""
    return hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest()


def describe(roles: dict[str, Sequence[str]], **facts: Any) -> dict[str, Any]:
    """The contents of `split.json`: ids by role, their hashes, and where they came from."""
    lists = {role: list(ids) for role, ids in roles.items()}
    return {**facts, **lists, "sha256": {role: sha256_of_ids(ids) for role, ids in lists.items()}}
