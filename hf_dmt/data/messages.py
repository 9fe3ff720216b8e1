"""Parts of messages: the first of many names or lines, and the text of an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any


def listed(names: Iterable[Any], most: int = 5, separator: str = ", ") -> str:
    """`cat, dog, ...`: the first `most` names, and `...` if there are more."""
    first = list(map(str, islice(names, most + 1)))
    return separator.join([*first[:most], *(["..."] if len(first) > most else [])])


def listed_lines(lines: Sequence[str], what: str = "more", most: int = 10) -> str:
    """The first `most` lines, indented, and `... and 7 more` if there are more."""
    rest = [f"... and {len(lines) - most} {what}"] if len(lines) > most else []
    return "\n".join(f"  {line}" for line in [*lines[:most], *rest])


def first_line(problem: BaseException) -> str:
    """The beginning of an error's text, at most two lines, with its type if the text means nothing without it."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or ["no message"]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    named = isinstance(problem, (LookupError, ArithmeticError, AttributeError)) or lines[0] == "no message"
    return f"{type(problem).__name__}: {text}" if named else text
