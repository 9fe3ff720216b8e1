"""Common names of splits, in folders and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

ROLES = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "val", "valid", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "testset"),
    "unlabeled": ("unlabeled", "unlabelled", "unlabel"),  # both spellings: users name their folders as they speak
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_YEAR = re.compile(r"[-_ ]?(?:19|20)\d\d$")  # train2017, val_2012


def role_of(name: str) -> str | None:
    """`validation` for `val`, `Valid` or `val2017`; None for a name that is not a split's."""
    return _ROLE_OF.get(_YEAR.sub("", name.strip().lower()))


def with_role(names: Iterable[str], role: str) -> list[str]:
    """The names that mean a role; the role's own name first, then as in the table above."""
    found = [name for name in names if role_of(name) == role]
    return sorted(found, key=lambda name: (name != role, ROLES[role].index(_YEAR.sub("", name.strip().lower()))))
