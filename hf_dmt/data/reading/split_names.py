"""Common names of splits, in folders, tables and parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .rows import DataError, Rows

ROLES = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "val", "valid", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "testset"),
    "unlabeled": ("unlabeled", "unlabelled", "unlabel"),  # both spellings: users name their folders as they speak
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_ENDINGS = re.compile(r"[-_ ]?(?:19|20)\d\d$|[-_ ](?:set|data|images|split)$")  # train2017, test_set


def role_of(name: str) -> str | None:
    """`validation` for `val`, `Valid` or `val2017`; None for a name that is not a split's."""
    return _ROLE_OF.get(_ENDINGS.sub("", name.strip().lower()))


def with_role(names: Iterable[str], role: str) -> list[str]:
    """The names that mean a role: the role's own name first, then as in the table above, then by name."""

    def rank(name: str) -> tuple[bool, int, str]:
        return name != role, ROLES[role].index(_ENDINGS.sub("", name.strip().lower())), name

    return sorted((name for name in names if role_of(name) == role), key=rank)


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
