"""Common names of splits, in folders, tables and parquet files; and the parquet files of a folder."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet

from .rows import DataError, Rows

ROLES = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "val", "valid", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "testset"),
    "unlabeled": ("unlabeled", "unlabelled", "unlabel"),  # both spellings: users name their folders as they speak
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_ENDINGS = re.compile(r"[-_ ]?(?:19|20)\d\d$|[-_ ](?:set|data|images|split)$")  # train2017, test_set
_SHARD = re.compile(r"(.*?)-?(\d+)-of-(\d+)$")
_SHOWN = 10


def role_of(name: str) -> str | None:
    """`validation` for `val`, `Valid` or `val2017`; None for a name that is not a split's."""
    return _ROLE_OF.get(_ENDINGS.sub("", name.strip().lower()))


def with_role(names: Iterable[str], role: str) -> list[str]:
    """The names that mean a role; the role's own name first, then as in the table above."""
    found = [name for name in names if role_of(name) == role]
    return sorted(found, key=lambda name: (name != role, ROLES[role].index(_ENDINGS.sub("", name.strip().lower()))))


def split_for(splits: dict[str, Rows], asked: str | None, role: str, name: str, flag: str) -> Rows | None:
    """The requested split, by its name or a synonym, or else the one that usually has this role."""
    if asked is not None:
        found = [asked] if asked in splits else with_role(splits, role_of(asked) or "")
        if not found:
            raise DataError(
                f"{flag} {asked!r} does not exist in {name!r}, which has: {', '.join(splits)}. Name one of these."
            )
        return splits[found[0]]
    usual = with_role(splits, role)
    if usual:
        return splits[usual[0]]
    if role == "train":
        if len(splits) == 1:
            return next(iter(splits.values()))
        raise DataError(f"{name!r} has no split 'train', but {', '.join(splits)}. Name the training split with {flag}.")
    return None


def names_of(splits: Mapping[str, Rows], used: Mapping[str, Rows]) -> dict[str, str]:
    """What the data set calls the split that is used in each role."""
    return {role: name for role, rows in used.items() for name, other in splits.items() if other is rows}


def parquet_files(folder: Path, notes: list[str]) -> dict[str, list[str]] | None:
    """The parquet files of a local folder by split, from the words in their paths (`data/val-0.parquet`).

    `datasets` uses an `eval` file as the test split and ignores files without a split in their name. None if there are
    no such files, or if the folder itself defines the splits.
    """
    card = folder / "README.md"
    if card.is_file() and "data_files" in card.read_text(encoding="utf-8", errors="replace"):
        return None
    files = sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])
    notes += _missing_shards(files, folder)
    order = list(ROLES)
    named: dict[str, list[str]] = {}
    others = []
    for file in files:
        words = re.split(r"[^a-zA-Z0-9]+", file.relative_to(folder).with_suffix("").as_posix())
        word = next((word for word in words if role_of(word)), None)
        if word:
            named.setdefault(word, []).append(str(file))
        else:
            others.append(file)
    named = dict(sorted(named.items(), key=lambda entry: order.index(role_of(entry[0]) or "train")))
    if not named:
        return {"train": [str(file) for file in files]} if files else None
    if others:
        notes.append(
            f"Warning: skipped {len(others)} parquet files in {str(folder)!r} without a split in their names: "
            f"{', '.join(file.relative_to(folder).as_posix() for file in others[:_SHOWN])}."
        )
    roles = [role_of(word) for word in named]
    names = [role if role and roles.count(role) == 1 else word for word, role in zip(named, roles, strict=True)]
    return dict(zip(names, named.values(), strict=True))


def _missing_shards(files: Sequence[Path], folder: Path) -> list[str]:
    """A warning for each data set of which a part is missing, as after an interrupted download."""
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for file in files:
        if part := _SHARD.match(file.relative_to(folder).with_suffix("").as_posix()):
            found[part[1], int(part[3])].add(int(part[2]))
    return [
        f"Warning: {count - len(numbers)} of the {count} parquet files {name}-*-of-{count} are missing in "
        f"{str(folder)!r}, and with them their images. If this is not intended, download them again."
        for (name, count), numbers in found.items()
        if len(numbers) < count
    ]


def check_class_orders(root: Path) -> None:
    """Raises DataError if the files of one set number their classes in different orders: `datasets` uses the first
    order for all, so that numbers in the other files would mean other classes."""
    first: dict[str, tuple[Path, list[str]]] = {}
    for file in sorted(root.rglob("*.parquet")):
        try:
            written = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}")
        except (OSError, pyarrow.ArrowException):
            continue  # a damaged file, which `datasets` reports
        features = (json.loads(written).get("info") or {}).get("features") or {}
        for column, feature in features.items():
            if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
                continue
            other, names = first.setdefault(column, (file, feature["names"]))
            if names != feature["names"]:
                raise DataError(
                    f"The column {column!r} numbers its classes in a different order in {str(file)!r} "
                    f"({', '.join(feature['names'][:_SHOWN])}) than in {str(other)!r} ({', '.join(names[:_SHOWN])}). "
                    "Write both with the same order, for example with `dataset.cast_column(...)` after "
                    "`dataset.align_labels_with_mapping(...)`."
                )
