"""Check `dmt_results.json` and `split.json` before a figure is taken from them.

They may be damaged, edited, or from a repository of others, and a card must not print what was never measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import forms
from ..data.files import from_json, read_json
from ..data.forms import Each, Form, Needs, Test, fault_of
from ..data.members import MEMBERS

RESULTS_FILE = "dmt_results.json"
TELEMETRY_FILE = "telemetry.jsonl"


def _are_confusions(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(entry, list)
            and len(entry) == 3
            and all(isinstance(name, str) for name in entry[:2])
            and forms.is_count(entry[2])
            for entry in value
        )
    )


_RATES = ("accuracy", "mean_accuracy", "overall_accuracy", "mean_iou")
FIGURES: Form = {
    **dict.fromkeys(_RATES, forms.share),
    "per_class_accuracy": Each(forms.share, dict),
    "per_class_iou": Each(forms.share, dict),
    "confusions": Test("a list of [true class, predicted class, count]", _are_confusions),
    "chance": Each(forms.share, dict),
}
"""The scores whose form is checked; those with other names may have any."""
_SCORES = Each(FIGURES, dict)
_SEPARATION = {
    **dict.fromkeys(("weight", "disagreement", "confidence"), forms.share),
    "calibration": Each({"confidence": forms.share, "accuracy": forms.share, "count": forms.count}, list),
}
_LABELS = {
    "selected": forms.share,
    "accuracy": forms.share,
    "class_counts": Each(forms.count, list),
    "predicted": Each(forms.count, list),
    "separation": _SEPARATION,
}
_PHASE = Needs(
    "phase",
    "steps",
    phase=forms.count,
    steps=forms.count,
    label_ratio=forms.share,
    labeling_seconds=forms.amount,
    seconds=forms.amount,
    pseudo_labels=Each(_LABELS, dict),
    eval=_SCORES,
    test=_SCORES,
    classes=Each(Each(forms.count, dict), dict),
    overruled=Each(forms.share, dict),
    alarms=Each(forms.name, list),
    skipped_updates=forms.count,
)
RESULTS: Form = Needs(
    "task",
    "num_labels",
    "phases",
    task=forms.task,
    method=forms.text,
    knobs={
        "strategy": forms.text,
        "labeler": forms.text,
        "positive_disagree": forms.text,
        "supervised_epochs": forms.amount,
        "label_ratios": Each(forms.share, list),
    },
    num_labels=forms.count,
    class_names=Each(forms.name, list),
    **{f"num_{role}": forms.count for role in ("labeled", "unlabeled", "eval", "test", "phases")},
    world_size=forms.count,
    seed=forms.number,
    settings={"learning_rate": forms.amount, "image_size": forms.count, "member_schedule": forms.text},
    environment=Each(forms.text, dict),
    phases=Each(_PHASE, list),
    eval=_SCORES,
    test=_SCORES,
    total_seconds=forms.amount,
    peak_memory_bytes=forms.amount,
)
SPLIT: Form = {
    "split_seed": forms.number,
    **dict.fromkeys(("dataset", "dataset_id", "unlabeled_from", "unlabeled_from_id"), forms.text),
    **dict.fromkeys(
        ("class_names", "labeled", "extra_labeled", "unlabeled", "eval", "test", "held_out"), Each(forms.name, list)
    ),
    "sha256": Each(forms.name, dict),
    "contents": Each(forms.text, dict),
    "splits": Each(forms.text, dict),
}
# Of `telemetry.jsonl`. A loss may be NaN.
_figure = Test("a number, or null", lambda value: value is None or isinstance(value, (int, float)))
_LOGGED = ("loss", "mean_weight", "pseudo_units", "agree", "negative_disagree", "positive_disagree", "grad_norm")
EVENT: Form = Needs(
    "step",
    "phase",
    step=forms.count,
    phase=forms.count,
    learning_rate=_figure,
    skipped_updates=_figure,
    **{f"{name}/{key}": _figure for name in MEMBERS for key in _LOGGED},
)


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
