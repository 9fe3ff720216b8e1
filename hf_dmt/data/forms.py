"""Check the values in a JSON file that may be damaged, edited, or from a repository of others.

A form is one of: a `Test` such as `count`; `Each` of a form; or a dict of forms by key, in which other keys are ignored
and absent ones allowed, unless it is a `Needs` that names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .tasks import TASKS

Form = Any


class Each:
    """All entries of a list (`kind=list`) or of a map with any keys (`kind=dict`)."""

    def __init__(self, form: Form, kind: Any) -> None:
        self.form, self.kind = form, kind


class Needs(dict[str, Form]):
    """A dict of forms by key, of which some must be there."""

    def __init__(self, *needed: str, **forms: Form) -> None:
        super().__init__(forms)
        self.needed = needed


@dataclass(frozen=True)
class Test:
    """A condition on a single value; `what` completes "but must be ..."."""

    what: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; booleans do not count."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_share(value: Any) -> bool:
    return value is None or value != value or (is_number(value) and -1e-6 <= value <= 1 + 1e-6)  # NaN: no score


count = Test("a whole number of at least 0", is_count)
share = Test("a number from 0 to 1, or null", _is_share)
number = Test("a number, or null", lambda value: value is None or is_number(value))
amount = Test("a number of at least 0, or null", lambda value: value is None or (is_number(value) and value >= 0))
text = Test("a text, or null", lambda value: value is None or isinstance(value, str))
name = Test("a text", lambda value: isinstance(value, str))
task = Test(f"one of: {', '.join(TASKS)}", lambda value: value in TASKS)


def fault_of(value: Any, form: Form, place: str = "") -> str | None:
    """What is wrong with the first entry of `value` that does not have the given form, such as `phases[1].steps is 'x',
    but must be a whole number of at least 0`; None if all have. Whole parts may be null, but not entries of a list."""
    if isinstance(form, Test):
        try:
            fine = form.holds(value)
        except (TypeError, OverflowError):  # unhashable, or too large for a float
            fine = False
        return None if fine else f"{place or 'it'} is {value!r:.60}, but must be {form.what}"
    if value is None and place:
        return None
    kind = form.kind if isinstance(form, Each) else dict
    if not isinstance(value, kind):
        return f"{place or 'it'} is {value!r:.60}, but must be a {'map' if kind is dict else 'list'}"
    parts: list[tuple[Any, Any, Form]]
    if isinstance(form, Each):
        entries: Any = enumerate(value) if isinstance(value, list) else value.items()
        parts = [(key, entry, form.form) for key, entry in entries]
    else:
        if missing := [key for key in getattr(form, "needed", ()) if value.get(key) is None]:
            return f"{place or 'it'} has no {missing[0]}"
        parts = [(key, value[key], form[key]) for key in form if key in value]
    for key, entry, inner in parts:
        inside = f"{place}[{key!r}]" if isinstance(form, Each) else f"{place}.{key}".lstrip(".")
        if entry is None and isinstance(value, list) and not isinstance(inner, Test):
            return f"{inside} is null"
        if found := fault_of(entry, inner, inside):
            return found
    return None
