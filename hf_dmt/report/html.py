"""`report.html`: a self-contained report of a run."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..data.escaping import printable
from ..data.files import write_aside
from ..data.members import MEMBERS, SCORED
from .by_class import by_class
from .disagreement import class_thresholds, last_disagreement
from .figures import svg_figures
from .gain import gain_of, headline, signed
from .gallery import last_gallery
from .next_steps import next_steps
from .panels import COLORS, PANELS
from .run import Run, read_run, score_of
from .terminal import notes

REPORT_FILE = "report.html"

# The figures in each section of the page.
_SECTIONS = {
    "scores": ("scores",),
    "labels": ("label_accuracy", "classes_covered", "labels_per_class"),
    "separation": ("separation_a", "separation_b", "calibration"),
    "training": ("cases_a", "cases_b", "mean_weight", "loss", "grad_norm"),
    "time": ("seconds",),
}


def write_report(folder: str | Path, *, to: str | Path | None = None, pictures: bool = True) -> Path:
    """Write `report.html` from a run's results and telemetry, and its label store and gallery if they exist.

    Also works for an unfinished run.

    Args:
        to: the folder for the report, by default the run's.
        pictures: False leaves out the images, which may be private.

    Raises:
        ValueError: the folder contains no run.
    """
    run = read_run(folder)
    page = _environment().get_template("report.html.jinja").render(**_context(run, pictures))
    path = Path(to or run.folder) / REPORT_FILE
    # File names may be invalid Unicode; characters that UTF-8 cannot encode become question marks.
    write_aside(path, page.encode("utf-8", errors="replace"))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # Class names and ids come from untrusted data: control codes become visible, and autoescape does the rest.
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "sure": _sure, "duration": _duration, "signed": signed}
    return environment


def has_pictures(folder: str | Path) -> bool:
    """Whether the report in a folder shows images of the run."""
    report = Path(folder) / REPORT_FILE
    return report.is_file() and b"data:image/" in report.read_bytes()


def _context(run: Run, pictures: bool) -> dict[str, Any]:
    gain = gain_of(run)
    figures = svg_figures(run)
    titles = {panel.name: panel for panel in PANELS}
    return {
        "run": run,
        "results": run.results,
        "members": MEMBERS,
        "names": SCORED,
        "colors": COLORS,
        "headline": headline(run),
        "gain": gain,
        "notes": notes(run, gain) if gain else [],
        "classes": by_class(run),
        # Without pictures the page is for others, so local paths are left out.
        "steps": next_steps(run, str(run.folder) if pictures else "RUN"),
        "latest": _latest_scores(run),
        "has": {split: any(entry.get(split) for entry in run.phases) for split in ("eval", "test")},
        "sections": {
            section: [(titles[name], figures[name]) for name in names if name in figures]
            for section, names in _SECTIONS.items()
        },
        "truth_known": any(
            run.label_fact(entry, member, "accuracy") is not None for entry in run.labeled_phases for member in MEMBERS
        ),
        "class_counts": _class_counts(run),
        "never_labeled": {member: _never_labeled(run, member) for member in MEMBERS},
        "disagreement": last_disagreement(run),
        "gallery": last_gallery(run) if pictures else None,
        "separation": _separation(run),
        "time": _time(run),
        "protocol": _protocol(run),
    }


def _latest_scores(run: Run) -> dict[str, Any] | None:
    """Scores to show if there is no gain to show."""
    split = "test" if run.exported("test") else "eval"
    figures = {name: score_of(run.exported(split), name, run.metric) for name in SCORED}
    known = {name: value for name, value in figures.items() if value is not None}
    return {"split": split, "scores": known} if known else None


def _class_counts(run: Run) -> list[dict[str, Any]]:
    """For each class, how many selected labels of it each model made in the first and the last labeled phase."""
    entries = [entry for entry in run.labeled_phases if run.label_fact(entry, "a", "class_counts")]
    if not entries:
        return []
    shown = [entries[0], entries[-1]] if len(entries) > 1 else entries
    thresholds = class_thresholds(run, entries[-1])
    rows: list[dict[str, Any]] = [{"name": name, "cells": [], "thresholds": []} for name in run.class_names]
    for member in MEMBERS:
        for entry in shown:
            counts = run.label_fact(entry, member, "class_counts") or [0] * len(run.class_names)
            most = max(1, *counts)
            for row, count in zip(rows, counts, strict=True):
                width = round(100 * count / most, 1)
                row["cells"].append({"member": member, "phase": entry["phase"], "count": count, "width": width})
        for row, threshold in zip(rows, thresholds[member] if thresholds else (), strict=False):
            row["thresholds"].append(threshold)
    return rows


def _separation(run: Run) -> list[dict[str, Any]]:
    """For each model, how well each score separated right from wrong labels in the last phase, if known."""
    found = []
    for member in MEMBERS if run.labeled_phases else ():
        figures = run.label_fact(run.labeled_phases[-1], member, "separation") or {}
        if None not in (figures.get("weight"), figures.get("confidence")):
            change = figures["weight"] - figures["confidence"]
            verdict = "as well as" if abs(change) < 0.005 else "better than" if change > 0 else "less well than"
            found.append({"member": member, "verdict": verdict, **figures})
    return found


def _never_labeled(run: Run, member: str) -> list[str]:
    """Classes that do not occur among a model's selected labels in the last phase."""
    counts = run.label_fact(run.labeled_phases[-1], member, "class_counts") if run.labeled_phases else None
    return [name for name, count in zip(run.class_names, counts or [], strict=False) if not count]


def _time(run: Run) -> dict[str, float] | None:
    phases = run.phases
    if not phases:
        return None
    labeling = sum(entry.get("labeling_seconds") or 0.0 for entry in phases)
    in_phases = sum(entry.get("seconds") or 0.0 for entry in phases)
    total = run.results.get("total_seconds") or in_phases
    return {
        "total": total,
        "labeling": labeling,
        "training": max(0.0, in_phases - labeling),
        "rest": max(0.0, total - in_phases),
    }


def _protocol(run: Run) -> list[tuple[str, str]]:
    results, split = run.results, run.split
    rows = [("Task", results["task"]), ("Method", str(results.get("method", "")))]
    rows += [(f"Model {name} started from", base) for name in MEMBERS if (base := run.base_models.get(name))]
    if split.get("dataset"):
        rows.append(("Data", str(split["dataset"])))
    if split.get("unlabeled_from"):
        rows.append(("Unlabeled images from", str(split["unlabeled_from"])))
    for key, title in (
        ("num_labeled", "Labeled images trained on"),
        ("num_unlabeled", "Unlabeled images"),
        ("num_eval", "Eval images"),
        ("num_test", "Test images"),
        ("num_labels", "Classes"),
        ("seed", "Seed"),
        ("world_size", "Processes"),
    ):
        if results.get(key) is not None:
            rows.append((title, f"{results[key]:,}" if key != "seed" else str(results[key])))
    if split.get("extra_labeled"):
        rows.append(("Of these, labeled since the first run", f"{len(split['extra_labeled']):,}"))
    if "split_seed" in split:
        rows.append(("Split seed", str(split["split_seed"])))
    if results.get("peak_memory_bytes"):
        rows.append(("Peak memory", f"{results['peak_memory_bytes'] / 2**30:.2f} GiB"))
    rows += [(f"SHA-256 of the {role} ids", str(value)) for role, value in (split.get("sha256") or {}).items()]
    return rows


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _sure(confidence: float | None) -> str:
    """A confidence in %, with more decimals the closer it is to 100, where small differences matter."""
    if confidence is None or not 0 < confidence < 1:
        return _percent(confidence)
    return f"{100 * confidence:.{max(1, -math.floor(math.log10(100 - 100 * confidence)))}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
