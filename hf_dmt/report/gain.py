"""The value of the unlabeled images: the final pair compared with the same pair after the labels alone.

A gain is claimed only if chance and the majority class do not explain it and the labels did not collapse. In
classification, accuracy and mean per-class accuracy must both rise by more than chance, because a model that learned to
predict the most frequent class only gains the former.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.members import SCORED
from .run import Run, score_of

# training/scoring/chance.py measures chance and stores it with the scores.
_EXACT = 1e-9  # differences below this are rounding


@dataclass(frozen=True)
class Change:
    """One score before and after training on unlabeled images, as fractions.

    Attributes:
        chance: the largest difference that chance alone explains; None if not measured.
    """

    before: float
    after: float
    chance: float | None

    @property
    def points(self) -> float:
        """After minus before, in percentage points."""
        return 100 * (self.after - self.before)

    @property
    def beyond_chance(self) -> bool | None:
        return None if self.chance is None else abs(self.after - self.before) > self.chance + _EXACT


@dataclass(frozen=True)
class Gain:
    """All scores before and after.

    Attributes:
        split: `test`, or `eval` if there is no test split.
        images: its size, None if not recorded.
        changes: by metric, then by `a`, `b`, `ensemble`; only what was scored both times.
        decisive: the metrics that must all rise for a gain.
        collapsed: phases whose pseudo labels showed signs of collapse.
    """

    split: str
    images: int | None
    changes: dict[str, dict[str, Change]]
    decisive: tuple[str, ...]
    collapsed: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        return [name for name in SCORED if name in self.changes[self.decisive[0]]]

    def points(self, name: str) -> float:
        """Of the first decisive metric, in percentage points."""
        return self.changes[self.decisive[0]][name].points

    def verdict(self, name: str) -> str:
        """`gain`, `loss`, `unclear` (chance explains it, or the metrics disagree), or `unknown` (chance not
        measured)."""
        seen = [self.changes[key][name] for key in self.decisive if name in self.changes.get(key, {})]
        if any(change.beyond_chance is None for change in seen):
            return "unknown"
        signs = [0 if not change.beyond_chance else 1 if change.points > 0 else -1 for change in seen]
        return "gain" if min(signs) == 1 else "loss" if min(signs) == -1 and max(signs) < 1 else "unclear"

    def distinct(self) -> dict[str, dict[str, Change]]:
        """`changes` without metrics that equal an earlier one, which happens if all classes are equally frequent."""
        kept: dict[str, dict[str, Change]] = {}
        for key, of in self.changes.items():
            if not any(_same(of, other) for other in kept.values()):
                kept[key] = of
        return kept

    def having(self, verdict: str) -> list[str]:
        return [name for name in self.names if self.verdict(name) == verdict]


def _same(one: dict[str, Change], other: dict[str, Change]) -> bool:
    return one.keys() == other.keys() and all(
        max(abs(one[name].before - other[name].before), abs(one[name].after - other[name].after)) < _EXACT
        for name in one
    )


def gain_of(run: Run) -> Gain | None:
    """The gain on the test split, or else on eval; None if nothing can be compared (see `why_no_gain`)."""
    phases = run.phases
    if len(phases) < 2 or phases[0]["phase"] != 0 or run.continued:
        return None
    for split in ("test", "eval"):
        first, last = phases[0].get(split), run.exported(split)
        changes = {key: found for key in run.measures if (found := _changes(first, last, key))}
        if run.metric in changes:
            decisive = tuple(key for key in run.decisive if key in changes)
            collapsed = tuple(entry["phase"] for entry in phases if entry.get("alarms"))
            return Gain(split, run.results.get(f"num_{split}") or None, changes, decisive, collapsed)
    return None


def _changes(first: Any, last: Any, key: str) -> dict[str, Change]:
    found = {}
    for name in SCORED:
        before, after = score_of(first, name, key), score_of(last, name, key)
        if before is not None and after is not None:
            found[name] = Change(before, after, ((last[name].get("chance") or {}).get(key)))
    return found


def why_no_gain(run: Run) -> str:
    """The reason for `gain_of` being None, as a sentence."""
    if not run.phases:
        return "No phase has finished yet, so there is nothing to compare."
    if not run.uses_unlabeled:
        return "This run used the labels alone: it is the baseline for other runs."
    if run.continued:
        return "The pair was already trained when this run started, so there is no labels-only baseline."
    if run.phases[0]["phase"] != 0:
        return "Phase 0 was skipped (--supervised_epochs 0), so there is no labels-only baseline."
    if len(run.phases) < 2:
        return "No phase on unlabeled images has finished yet."
    return "No labeled images were held out, so the value of the unlabeled images was not measured."


def headline(run: Run) -> str:
    """The result of the run in one sentence."""
    gain = gain_of(run)
    if gain is None:
        return why_no_gain(run)
    what = f"points of {gain.split} {run.metric_name}"
    listed = {verdict: gain.having(verdict) for verdict in ("gain", "loss", "unclear", "unknown")}
    if gain.collapsed and not listed["loss"]:
        return f"The pseudo labels show signs of collapse ({_phases(gain.collapsed)}), so no gain is claimed."
    if listed["unknown"]:
        return f"Change over the labels alone: {_figures(gain, gain.names)} {what} (chance was not measured)."
    if listed["gain"]:
        rest = f"; no clear change for {_and(listed['unclear'])}" if listed["unclear"] else ""
        lost = f", but cost {_figures(gain, listed['loss'])}" if listed["loss"] else ""
        return f"The unlabeled images were worth {_figures(gain, listed['gain'])} {what}{lost}{rest}."
    if listed["loss"]:
        rest = f"; no clear change for {_and(listed['unclear'])}" if listed["unclear"] else ""
        return f"The unlabeled images did harm: {_figures(gain, listed['loss'])} {what}{rest}."
    return f"No clear gain or loss: {_figures(gain, gain.names)} {what} may be chance."


def _figures(gain: Gain, names: list[str]) -> str:
    return _and([f"{signed(gain.points(name))} ({name})" for name in names], named=True)


def _and(parts: list[str], *, named: bool = False) -> str:
    parts = parts if named else ["the ensemble" if part == "ensemble" else part for part in parts]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _phases(numbers: tuple[int, ...]) -> str:
    return f"phase{'s' if len(numbers) > 1 else ''} {_and([str(number) for number in numbers])}"


def signed(points: float) -> str:
    """`+1.2` or `−0.3`, with the sign after rounding; zero has none."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
