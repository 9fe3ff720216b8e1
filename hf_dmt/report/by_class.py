"""Where a pair fails: scores by class, and the classes that it confuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.members import SCORED
from .gain import gain_of
from .run import Run, score_of


@dataclass(frozen=True)
class ClassRow:
    """One class of a split.

    Attributes:
        units: its images in the split, or valid pixels; None if not recorded.
        before, after: recall, or IoU, by `a`, `b`, `ensemble`; None if the class does not occur. `before` is after the
            labels alone, all None if there is no such comparison.
        mistaken_for: the class with which the ensemble most often confuses it, and how often; None if that is rare.
    """

    name: str
    units: int | None
    before: dict[str, float | None]
    after: dict[str, float | None]
    mistaken_for: tuple[str, int] | None

    @property
    def occurs(self) -> bool:
        """In the truth. A class that is only predicted has an IoU of 0, but there is nothing of it to find."""
        return self.units != 0 and self.after["ensemble"] is not None

    @property
    def change(self) -> float | None:
        """Of the ensemble, in percentage points."""
        before, after = self.before["ensemble"], self.after["ensemble"]
        return None if before is None or after is None else 100 * (after - before)


@dataclass(frozen=True)
class ByClass:
    """The classes of a split, the ensemble's worst first, those that do not occur last.

    Attributes:
        split: `test` or `eval`.
        compared: whether there is a labels-only baseline.
        majority: the most frequent class of the split and its share; None if not recorded.
        mistakes: the ensemble's most frequent ones, `(class, taken for, units)`.
    """

    split: str
    rows: list[ClassRow]
    compared: bool
    majority: tuple[str, float] | None
    mistakes: list[tuple[str, str, int]]

    @property
    def present(self) -> int:
        return sum(row.occurs for row in self.rows)

    @property
    def never_found(self) -> list[str]:
        return [row.name for row in self.rows if row.occurs and row.after["ensemble"] == 0.0]


def by_class(run: Run) -> ByClass | None:
    """For the split that the gain is measured on, or else for the last scores; None without any."""
    if not run.phases:
        return None
    gain = gain_of(run)
    split = gain.split if gain else "test" if run.exported("test") else "eval"
    last = run.exported(split)
    first = run.phases[0].get(split) if gain else None
    key = "per_class_iou" if run.is_pixels else "per_class_accuracy"
    units = (run.phases[0].get("classes") or {}).get(split) or {}
    ensemble = (last or {}).get("ensemble") or {}
    mistakes = [(truth, said, count) for truth, said, count in ensemble.get("confusions") or []]
    rows = [
        ClassRow(name, units.get(name), _of(first, key, name), _of(last, key, name), _first(mistakes, name))
        for name in run.class_names
    ]
    rows.sort(key=lambda row: (not row.occurs, row.after["ensemble"] or 0.0))
    majority = None
    if total := sum(units.values()):
        top = max(units, key=lambda name: units[name])
        majority = (top, units[top] / total)
    found = ByClass(split, rows, gain is not None, majority, mistakes)
    return found if found.present else None


def _of(scores: dict[str, Any] | None, key: str, class_name: str) -> dict[str, float | None]:
    return {who: score_of({who: ((scores or {}).get(who) or {}).get(key)}, who, class_name) for who in SCORED}


def _first(mistakes: list[tuple[str, str, int]], name: str) -> tuple[str, int] | None:
    return next(((said, count) for truth, said, count in mistakes if truth == name), None)
