"""The figures, one small panel each, so that they fit a phone as well as a card. Drawing only, no files.

A panel function draws on the given axes and returns whether the run has data for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.members import MEMBERS, SCORED
from .run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Each color has the same meaning in every figure. Models also differ in line style, for black-and-white print.
COLORS = {
    "a": "#0069b4",
    "b": "#c84e00",
    "ensemble": "#00765e",
    "agree": "#8fa3bf",
    "negative": "#dfae3c",
    "positive": "#a63a50",
    "weight": "#6b3fa0",
    "ink": "#1c2128",
    "muted": "#5a6572",
    "grid": "#d3dae2",
}
_LINES = {"a": "-", "b": (0, (5, 2)), "ensemble": (0, (1, 1.2))}
# The scores that may separate right from wrong pseudo labels, as named in the results.
_SEPARATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "weight": ("weight", {"color": COLORS["weight"], "linestyle": "-"}),
    "disagreement": ("agreement", {"color": COLORS["negative"], "linestyle": (0, (5, 2))}),
    "confidence": ("confidence", {"color": COLORS["muted"], "linestyle": (0, (1, 1.2))}),
}
_CASES = {"agree": "agree", "negative_disagree": "negative", "positive_disagree": "positive"}

MOST_POINTS = 200  # per curve; more would only make the file larger
MOST_BARS = 24  # class names that are still readable as rows


@dataclass(frozen=True)
class Panel:
    """A figure with its name, title and a one-sentence description.

    Attributes:
        draw: draws on the axes, and returns whether there was something to draw.
        on_card: the model card shows it, too; the report shows all.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Axes, Run], bool]
    on_card: bool = False


def scores(axes: Axes, run: Run) -> bool:
    named: set[str] = set()
    hollow = {"marker": "D", "markersize": 5, "markerfacecolor": "none", "linestyle": "none"}
    styles: dict[str, dict[str, Any]] = {"eval": {}, "test": hollow}
    for split, style in styles.items():
        for name in SCORED:
            points = [(entry["phase"], run.score(entry, split, name)) for entry in run.phases]
            label = {"label": name} if name not in named else {}
            if _plot(axes, points, 100, **{**_line(name), **style, **label}):
                named.add(name)
    axes.set_ylabel(f"{run.metric_name}, %")
    _phase_axis(axes, [entry["phase"] for entry in run.phases])
    return _legend(axes)


def label_accuracy(axes: Axes, run: Run) -> bool:
    entries = run.labeled_phases
    for member in run.makers:
        points = [(entry["phase"], run.label_fact(entry, member, "accuracy")) for entry in entries]
        _plot(axes, points, 100, label=f"by {member}", **_line(member))
    axes.set_ylabel("right, %")
    axes.set_ylim(0, 103)
    _phase_axis(axes, [entry["phase"] for entry in entries])
    return _legend(axes)


def classes_covered(axes: Axes, run: Run) -> bool:
    from matplotlib.ticker import MaxNLocator

    entries = [entry for entry in run.labeled_phases if run.label_fact(entry, "a", "class_counts") is not None]
    for member in MEMBERS:
        counts = [sum(count > 0 for count in run.label_fact(entry, member, "class_counts") or []) for entry in entries]
        points = [(entry["phase"], count) for entry, count in zip(entries, counts, strict=True)]
        _plot(axes, points, label=f"by {member}", **_line(member))
    classes = len(run.class_names)
    axes.axhline(classes, color=COLORS["muted"], linewidth=0.8, linestyle=":")
    axes.set_ylim(0, classes * 1.06)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("classes with labels")
    _phase_axis(axes, [entry["phase"] for entry in entries])
    return _legend(axes)


def labels_per_class(axes: Axes, run: Run) -> bool:
    entries = [entry for entry in run.labeled_phases if run.label_fact(entry, "a", "class_counts") is not None]
    if not entries:
        return False
    shares = {}
    for member in MEMBERS:
        counts = np.asarray(run.label_fact(entries[-1], member, "class_counts") or [0] * len(run.class_names), float)
        shares[member] = 100 * counts / max(1.0, counts.sum())
    classes = len(run.class_names)
    if classes <= MOST_BARS:
        rows = np.arange(classes)
        for offset, member in zip((-0.2, 0.2), MEMBERS, strict=True):
            axes.barh(rows + offset, shares[member], height=0.38, color=COLORS[member], label=f"by {member}")
        axes.set_yticks(rows, [_short(name) for name in run.class_names])
        axes.set_ylim(classes - 0.4, -0.6)
        axes.set_xlabel("share of the labels, %")
        axes.grid(axis="y", visible=False)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)  # a name with dollar signs is not a formula
    else:
        for member in MEMBERS:
            ranked = np.sort(shares[member])[::-1]
            axes.plot(np.arange(1, classes + 1), ranked, label=f"by {member}", drawstyle="steps-mid", **_line(member))
        axes.set_xlabel("classes, the most frequent first")
        axes.set_ylabel("share of the labels, %")
        axes.set_ylim(bottom=0)
    return _legend(axes)


def separation(axes: Axes, run: Run, member: str) -> bool:
    entries, lowest = run.labeled_phases, 0.5
    for key, (title, style) in _SEPARATORS.items():
        points = [(entry["phase"], (run.label_fact(entry, member, "separation") or {}).get(key)) for entry in entries]
        lowest = min([lowest, *(value for _, value in points if value is not None)])
        _plot(axes, points, label=title, **style)
    axes.axhline(0.5, color=COLORS["muted"], linewidth=0.8, linestyle=":")
    axes.set_ylim(max(0.0, lowest - 0.05), 1.02)
    axes.set_ylabel("AUROC")
    _phase_axis(axes, [entry["phase"] for entry in entries])
    return _legend(axes)


def calibration(axes: Axes, run: Run) -> bool:
    entry = run.labeled_phases[-1] if run.labeled_phases else {}
    for member in MEMBERS:
        bins = (run.label_fact(entry, member, "separation") or {}).get("calibration") or []
        points = [(100 * part["confidence"], part["accuracy"]) for part in bins]
        _plot(axes, points, 100, label=f"by {member}", **_line(member))
    axes.plot([0, 100], [0, 100], color=COLORS["muted"], linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 102)
    axes.set_ylim(0, 102)
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("right, %")
    return _legend(axes)


def loss(axes: Axes, run: Run) -> bool:
    return _curves(axes, run, "loss", "loss")


def mean_weight(axes: Axes, run: Run) -> bool:
    found = _curves(axes, run, "mean_weight", "mean weight", since=_first_pseudo_step(run))
    axes.set_ylim(0, max(0.05, axes.get_ylim()[1]) if found else None)
    return found


def grad_norm(axes: Axes, run: Run) -> bool:
    from matplotlib.ticker import LogLocator, NullFormatter

    found = _curves(axes, run, "grad_norm", "gradient norm")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    return found


def cases(axes: Axes, run: Run, member: str) -> bool:
    points = _points(run, [f"{member}/{case}" for case in _CASES])
    if not len(points):
        return False
    # Each log event covers the steps since the previous one of either model, because they may train in turn.
    first = _first_pseudo_step(run)
    rest = np.asarray([event["step"] for event in run.events if f"{member}/agree" not in event], dtype=float)
    start = np.concatenate([[first], points[:-1, 0]])
    start = np.maximum(start, [rest[rest < end].max(initial=first) for end in points[:, 0]])
    bottom = np.zeros(len(points))
    for column, (case, color) in enumerate(_CASES.items(), start=1):
        share = 100 * points[:, column]
        bar: Any = {"color": COLORS[color], "linewidth": 0, "antialiased": False, "label": case.replace("_", " ")}
        axes.bar(start, share, points[:, 0] - start, bottom, align="edge", **bar)
        bottom += share
    axes.set_ylim(0, 100)
    axes.set_ylabel("share, %")
    _step_axis(axes, run, since=first, over_bars=True)
    return _legend(axes)


def seconds(axes: Axes, run: Run) -> bool:
    phases = run.phases
    if not phases:
        return False
    labeling = np.asarray([entry.get("labeling_seconds") or 0.0 for entry in phases])
    rest = np.maximum(0.0, np.asarray([entry.get("seconds") or 0.0 for entry in phases]) - labeling)
    divisor, unit = (60, "minutes") if (labeling + rest).max() > 300 else (1, "seconds")
    numbers = [entry["phase"] for entry in phases]
    axes.bar(numbers, rest / divisor, color=COLORS["agree"], label="training and scoring", width=0.7)
    axes.bar(numbers, labeling / divisor, bottom=rest / divisor, color=COLORS["positive"], label="labeling", width=0.7)
    axes.set_ylabel(unit)
    axes.grid(axis="x", visible=False)
    _phase_axis(axes, numbers)
    return bool((labeling + rest).max() > 0) and _legend(axes)


PANELS = [
    Panel(
        "scores",
        "Scores after each phase",
        "Phase 0: labels alone. Lines: eval split. Hollow diamonds: test split.",
        scores,
        on_card=True,
    ),
    Panel(
        "label_accuracy",
        "Share of right pseudo labels",
        "Of the labels made by each model that were selected for training.",
        label_accuracy,
        on_card=True,
    ),
    Panel(
        "classes_covered",
        "Classes with pseudo labels",
        "Number of classes among each model's selected labels; the dotted line is the total.",
        classes_covered,
    ),
    Panel(
        "labels_per_class",
        "Labels per class, last phase",
        "Compare with what you expect: a class without labels is not learned from the unlabeled images.",
        labels_per_class,
    ),
    *(
        Panel(
            f"separation_{member}",
            f"Finding the wrong labels by {member}",
            "1: every right label scores above every wrong one. 0.5 (dotted): no better than chance.",
            partial(separation, member=member),
        )
        for member in MEMBERS
    ),
    Panel(
        "calibration",
        "Calibration: confidence and accuracy",
        "All labels of the last phase in ten groups by confidence. Below the dotted line a model is overconfident.",
        calibration,
    ),
    Panel("loss", "Loss", "Weighted cross-entropy of each model per labeled or pseudo-labeled unit.", loss),
    Panel(
        "mean_weight",
        "Mean weight of the pseudo labels",
        "0: pseudo labels have no effect. 1: all have full weight.",
        mean_weight,
    ),
    *(
        Panel(
            f"cases_{member}",
            f"Pseudo labels seen by {member}",
            f"Shares of the pseudo labels that {member} trains on: those it agrees with, and those it contradicts.",
            partial(cases, member=member),
            on_card=True,
        )
        for member in MEMBERS
    ),
    Panel("grad_norm", "Gradient norm", "Before clipping, at the logged updates.", grad_norm),
    Panel("seconds", "Time per phase", "Labeling is one pass of both models over the unlabeled images.", seconds),
]


def _plot(axes: Axes, points: Iterable[tuple[float, Any]], factor: float = 1, **style: Any) -> bool:
    """Draw the points whose value is known, times a factor; whether there are any."""
    known = [(place, factor * value) for place, value in points if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), **{"marker": "o", "markersize": 3.5, **style})
    return bool(known)


def _line(name: str) -> dict[str, Any]:
    # the two are never drawn together, and the graph combines both models, too
    name = "ensemble" if name == "graph" else name
    return {"color": COLORS[name], "linestyle": _LINES[name]}


def _curves(axes: Axes, run: Run, key: str, title: str, *, since: int = 0) -> bool:
    for member in MEMBERS:
        points = _points(run, [f"{member}/{key}"])
        _plot(axes, points, label=member, markersize=2.5 if len(points) < 30 else 0, **_line(member))
    axes.set_ylabel(title)
    _step_axis(axes, run, since=since)
    return _legend(axes)


def _first_pseudo_step(run: Run) -> int:
    return int(run.phases[0]["steps"]) if run.phases and run.phases[0]["phase"] == 0 else 0


def _points(run: Run, keys: list[str]) -> np.ndarray:
    """(events, 1 + keys) of step and values, if all are finite; averaged in bins if there are many."""
    rows = [[event["step"], *(event.get(key) for key in keys)] for event in run.events]
    kept = [row for row in rows if all(value is not None and math.isfinite(value) for value in row)]
    points = np.asarray(kept, dtype=float).reshape(-1, 1 + len(keys))
    if len(points) <= MOST_POINTS:
        return points
    bins = np.array_split(points, MOST_POINTS)
    return np.stack([np.concatenate([part[-1:, 0], part[:, 1:].mean(axis=0)]) for part in bins])


def _phase_axis(axes: Axes, phases: list[int]) -> None:
    axes.set_xlabel("phase")
    if phases:
        axes.set_xticks(phases[:: 1 + len(phases) // 12])
        axes.set_xlim(min(phases) - 0.5, max(phases) + 0.5)


def _step_axis(axes: Axes, run: Run, *, since: int = 0, over_bars: bool = False) -> None:
    """Steps from `since` on, with a line at the start of each phase and its number above."""
    axes.set_xlabel("update")
    start, end = 0, sum(entry["steps"] for entry in run.phases)
    total = end - since
    last_shown = -math.inf
    for entry in run.phases:
        color = COLORS["ink" if over_bars else "grid"]
        axes.axvline(start, color=color, linewidth=0.5 if over_bars else 0.9, zorder=3 if over_bars else 0.5)
        middle = start + entry["steps"] / 2
        if total and start >= since and (middle - last_shown) / total > 0.06:
            how: Any = {"ha": "center", "va": "bottom", "fontsize": 7, "color": COLORS["muted"]}
            axes.text(middle, 1.015, f"{entry['phase']}", transform=axes.get_xaxis_transform(), **how)
            last_shown = middle
        start += entry["steps"]
    axes.grid(axis="x", visible=False)
    if total:
        axes.set_xlim(since, end + total * 0.01)


def _legend(axes: Axes) -> bool:
    """Add the legend, if something was drawn that has a label; whether there was."""
    if not axes.get_legend_handles_labels()[0]:
        return False
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1.07), "borderaxespad": 0, "frameon": False}
    length = 1.0 if axes.patches or axes.collections else 2.2
    axes.legend(ncols=3, handlelength=length, columnspacing=1.2, handletextpad=0.5, **place)
    return True


def _short(name: str) -> str:
    """A name that fits beside an axis; unprintable characters (which XML forbids) become blanks."""
    name = "".join(letter if letter.isprintable() else " " for letter in name).strip()
    return name if len(name) <= 18 else name[:17] + "…"
