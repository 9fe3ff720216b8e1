"""Check `dmt_results.json` and `split.json` before a figure is taken from them.

They may be damaged, edited, or from a repository of others, and a card must not print what was never measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.files import from_json, read_json
from ..data.members import MEMBERS

RESULTS_FILE = "dmt_results.json"
TELEMETRY_FILE = "telemetry.jsonl"

Form = Any
"""A test with a description, `_Each` of a form, or a dict of forms by key: other keys are ignored, absent ones are
allowed unless `_Needs` names them."""


class _Each:
    """All entries of a list (`kind=list`) or of a map with any keys (`kind=dict`)."""

    def __init__(self, form: Form, kind: Any) -> None:
        self.form, self.kind = form, kind


class _Needs(dict[str, Form]):
    """A dict of forms by key, of which some must be there."""

    def __init__(self, *needed: str, **forms: Form) -> None:
        super().__init__(forms)
        self.needed = needed


def _test(what: str) -> Callable[[Callable[[Any], bool]], tuple[str, Callable[[Any], bool]]]:
    return lambda holds: (what, holds)


@_test("a whole number of at least 0")
def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


@_test("a number from 0 to 1, or null")
def _share(value: Any) -> bool:
    return value is None or value != value or (_is_number(value) and -1e-6 <= value <= 1 + 1e-6)  # NaN is no score


@_test("a number, or null")
def _number(value: Any) -> bool:
    return value is None or _is_number(value)


@_test("a number of at least 0, or null")
def _amount(value: Any) -> bool:
    return value is None or (_is_number(value) and value >= 0)


@_test("a text, or null")
def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


@_test("a text")
def _name(value: Any) -> bool:
    return isinstance(value, str)


@_test("one of two tasks")
def _task(value: Any) -> bool:
    return value in ("image-classification", "semantic-segmentation")


@_test("a list of [true class, predicted class, count]")
def _confusions(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(entry, list)
            and len(entry) == 3
            and all(isinstance(name, str) for name in entry[:2])
            and _count[1](entry[2])
            for entry in value
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RATES = ("accuracy", "mean_accuracy", "overall_accuracy", "mean_iou")
_SCORES = _Each(
    {
        **dict.fromkeys(_RATES, _share),
        "per_class_accuracy": _Each(_share, dict),
        "per_class_iou": _Each(_share, dict),
        "confusions": _confusions,
        "chance": _Each(_share, dict),
    },
    dict,
)
_SEPARATION = {
    **dict.fromkeys(("weight", "disagreement", "confidence"), _share),
    "calibration": _Each({"confidence": _share, "accuracy": _share, "count": _count}, list),
}
_LABELS = {
    "selected": _share,
    "accuracy": _share,
    "class_counts": _Each(_count, list),
    "predicted": _Each(_count, list),
    "separation": _SEPARATION,
}
_PHASE = _Needs(
    "phase",
    "steps",
    phase=_count,
    steps=_count,
    label_ratio=_share,
    labeling_seconds=_amount,
    seconds=_amount,
    pseudo_labels=_Each(_LABELS, dict),
    eval=_SCORES,
    test=_SCORES,
    classes=_Each(_Each(_count, dict), dict),
    overruled=_Each(_share, dict),
    alarms=_Each(_name, list),
    skipped_updates=_count,
)
RESULTS: Form = _Needs(
    "task",
    "num_labels",
    "phases",
    task=_task,
    method=_text,
    knobs={
        "strategy": _text,
        "labeler": _text,
        "positive_disagree": _text,
        "supervised_epochs": _amount,
        "label_ratios": _Each(_share, list),
    },
    num_labels=_count,
    class_names=_Each(_name, list),
    **{f"num_{role}": _count for role in ("labeled", "unlabeled", "eval", "test", "phases")},
    world_size=_count,
    seed=_number,
    settings={"learning_rate": _amount, "image_size": _count, "member_schedule": _text},
    environment=_Each(_text, dict),
    phases=_Each(_PHASE, list),
    test=_SCORES,
    total_seconds=_amount,
    peak_memory_bytes=_amount,
)
SPLIT: Form = {
    "split_seed": _number,
    **dict.fromkeys(("dataset", "dataset_id", "unlabeled_from", "unlabeled_from_id"), _text),
    **dict.fromkeys(("class_names", "labeled", "unlabeled", "eval", "test"), _Each(_name, list)),
    "sha256": _Each(_name, dict),
    "contents": _Each(_text, dict),
}
# Of `telemetry.jsonl`. A loss may be NaN.
_figure = ("a number, or null", lambda value: value is None or isinstance(value, (int, float)))
_LOGGED = ("loss", "mean_weight", "pseudo_units", "agree", "negative_disagree", "positive_disagree", "grad_norm")
EVENT: Form = _Needs(
    "step",
    "phase",
    step=_count,
    phase=_count,
    learning_rate=_figure,
    skipped_updates=_figure,
    **{f"{name}/{key}": _figure for name in MEMBERS for key in _LOGGED},
)


def fault_of(value: Any, form: Form, place: str = "") -> str | None:
    """The first entry of `value` that has not the given form, such as `phases[1].steps is 'x', but must be a whole
    number of at least 0`; None if there is none. Whole parts may be null, but not entries of a list."""
    if isinstance(form, tuple):
        what, holds = form
        try:
            fine = holds(value)
        except (TypeError, OverflowError):  # unhashable, or too large for a float
            fine = False
        return None if fine else f"{place or 'it'} is {value!r:.60}, but must be {what}"
    if value is None and place:
        return None
    kind = form.kind if isinstance(form, _Each) else dict
    if not isinstance(value, kind):
        return f"{place or 'it'} is {value!r:.60}, but must be a {'map' if kind is dict else 'list'}"
    parts: list[tuple[Any, Any, Form]]
    if isinstance(form, _Each):
        entries: Any = enumerate(value) if isinstance(value, list) else value.items()
        parts = [(name, entry, form.form) for name, entry in entries]
    else:
        if missing := [name for name in getattr(form, "needed", ()) if value.get(name) is None]:
            return f"{place or 'it'} has no {missing[0]}"
        parts = [(name, value[name], form[name]) for name in form if name in value]
    for name, entry, inner in parts:
        inside = f"{place}[{name!r}]" if isinstance(form, _Each) else f"{place}.{name}".lstrip(".")
        if entry is None and isinstance(value, list) and not isinstance(inner, tuple):
            return f"{inside} is null"
        if found := fault_of(entry, inner, inside):
            return found
    return None


def read_results(file: Path) -> dict[str, Any]:
    """The contents of a results file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, with the entry that shows it.
    """
    try:
        results: dict[str, Any] = read_json(file)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:
        raise ValueError(f"{str(file)!r} is damaged: {problem}") from problem
    if fault := fault_of(results, RESULTS) or _contradiction(results):
        raise ValueError(f"{str(file)!r} is damaged: {fault}")
    return results


def read_split(file: Path) -> dict[str, Any]:
    """The contents of a split file; empty if there is none, as in a run that was started from Python.

    Raises:
        ValueError: it is damaged, with the entry that shows it.
    """
    if not file.is_file():
        return {}
    try:
        split: dict[str, Any] = read_json(file)
        fault = fault_of(split, SPLIT)
    except (OSError, ValueError) as problem:
        fault = str(problem)
    if fault:
        raise ValueError(f"{str(file)!r} is damaged: {fault}. Restore it: it says which images the run used.")
    return split


def read_events(file: Path) -> list[dict[str, Any]]:
    """All log events of a run up to the first unreadable line, which a killed run may leave at the end."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    events = []
    for line in text.splitlines():
        try:
            event = from_json(line)
        except ValueError:
            break
        if fault_of(event, EVENT):
            break
        events.append(event)
    return events


def _contradiction(results: dict[str, Any]) -> str | None:
    """Entries that have a valid form each, but not together."""
    names, count = results.get("class_names"), results["num_labels"]
    if names is not None and len(names) != count:
        return f"class_names has {len(names)} names, but num_labels is {count}"
    numbers = [entry["phase"] for entry in results["phases"]]
    if numbers != sorted(set(numbers)):
        return f"phases has the numbers {numbers[:10]}, but each must be higher than the one before"
    for entry in results["phases"]:
        for member, made in (entry.get("pseudo_labels") or {}).items():
            counts = (made or {}).get("class_counts")
            if counts is not None and len(counts) != count:
                return f"phase {entry['phase']} counts the labels of {member} in {len(counts)} classes of {count}"
    return None
