"""The result of a comparison of methods: tables, a figure and a summary, from the files that its runs wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from ...data.files import write_aside, write_json
from ...data.members import PEER, SCORED
from ...data.tasks import TASKS
from ...training.labeling.label_quality import calibration

REFERENCE = "dmt"  # whose passes are the budget of all
BASELINE = "labeled-only"
ORACLE = "oracle"
ALONE = "labels alone (phase 0)"
SCORES = ("weight", "disagreement", "confidence")


@dataclass(frozen=True)
class Run:
    """The file of one run, as written by `hf-dmt compare`. Scores are fractions by `a`, `b`, `ensemble`."""

    record: dict[str, Any]

    @property
    def results(self) -> dict[str, Any]:
        results: dict[str, Any] = self.record["results"]
        return results

    @property
    def seconds(self) -> float:
        return float(self.results["total_seconds"])

    @property
    def peak_memory(self) -> float | None:
        """In MiB; None if the run shared its process with others."""
        return self.results["peak_memory_bytes"] / 2**20 if self.record["own_process"] else None

    @property
    def passes(self) -> float:
        return float(sum(self.record["passes"]))

    def last(self) -> dict[str, float]:
        """Test scores of the last weights."""
        return self._scores(self.results["phases"][-1]["test"])

    def selected(self) -> dict[str, float]:
        """Test scores of the checkpoint that is best on the eval split."""
        return self._scores(self.results["test"])

    def alone(self) -> dict[str, float]:
        """Test scores after phase 0."""
        return self._scores(self.results["phases"][0]["test"])

    def eval_score(self) -> float:
        """Mean of a and b on the eval split, last weights."""
        return members(self._scores(self.results["phases"][-1]["eval"]))

    def _scores(self, figures: dict[str, Any] | None) -> dict[str, float]:
        if figures is None:
            raise ValueError(
                f"{self.record['arm']}, seed {self.record['seed']}, was not scored on all splits: add a test split "
                "(--test_split) and an eval split (--eval_split, or at least 10 labeled images, some of which are "
                "then held out)."
            )
        return {name: figures[name][TASKS[self.results["task"]].metric] for name in SCORED}


@dataclass(frozen=True)
class Interval:
    """A mean over splits and half the width of its 95 % interval (Student's t), which is None for a single split."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        count = len(values)
        half = student_t.ppf(0.975, count - 1) * stdev(values) / count**0.5 if count > 1 else None
        return cls(mean(values), None if half is None else float(half))

    def text(self, sign: str = "") -> str:
        return f"{100 * self.mean:{sign}.1f}" + (f" ± {100 * self.half:.1f}" if self.half is not None else "")


def members(scores: dict[str, float]) -> float:
    """The score of a pair: the mean of a and b."""
    return (scores["a"] + scores["b"]) / 2


def load(folder: Path) -> dict[str, dict[int, Run]]:
    """Runs by arm and seed.

    Raises:
        ValueError: runs with the same seed saw different labeled images. The oracle is exempt.
    """
    runs: dict[str, dict[int, Run]] = {}
    for file in sorted((folder / "runs").glob("*.json")):
        run = Run(json.loads(file.read_text()))
        runs.setdefault(run.record["arm"], {})[run.record["seed"]] = run
    for arm, of_arm in runs.items():
        for seed, run in of_arm.items():
            expected = runs[REFERENCE][seed].record["split"]
            parts = ("eval", "test") if arm == ORACLE else ("labeled", "unlabeled", "eval", "test")
            if changed := [part for part in parts if run.record["split"][part] != expected[part]]:
                # An oracle without its own eval split holds out more of its labels, so there is nothing to compare.
                if arm == ORACLE and changed == ["eval"]:
                    continue
                raise ValueError(
                    f"{arm} and {REFERENCE} with seed {seed} have different {', '.join(changed)} images; delete one "
                    f"of them from {folder / 'runs'} and run again."
                )
    return runs


def rows(runs: dict[str, dict[int, Run]]) -> list[dict[str, Any]]:
    """One row per method or setting, sorted by score, with labels alone first and the oracle last.

    A run is compared with its own phase 0; labels alone, in one phase, with the reference's.
    """
    reference = runs[REFERENCE]
    entries: list[tuple[str, dict[int, Run], Callable[[Run], dict[str, float]]]] = [
        (arm, of_arm, Run.last) for arm, of_arm in runs.items()
    ]
    base = None
    if all(run.results["phases"][0]["phase"] == 0 and len(run.record["passes"]) > 1 for run in reference.values()):
        entries.insert(0, (ALONE, reference, Run.alone))
        base = mean(run.record["passes"][0] for run in reference.values())
    found = []
    for arm, of_arm, scores in entries:
        alone = arm == ALONE
        own = {seed: run if len(run.record["passes"]) > 1 else reference[seed] for seed, run in of_arm.items()}
        paired = {
            name: Interval.of([members(scores(of_arm[seed])) - members(other(against[seed])) for seed in shared])
            for name, against, other in (
                ("over_labeled_only", runs.get(BASELINE, {}), Run.last),
                ("over_reference", reference, Run.last),
                ("over_phase_0", own if base else {}, Run.alone),
            )
            if (shared := sorted(of_arm.keys() & against.keys()))
        }
        memory = [run.peak_memory for run in of_arm.values() if run.peak_memory is not None]
        passes = mean(run.record["passes"][0] if alone else run.passes for run in of_arm.values())
        found.append(
            {
                "method": arm,
                "seeds": sorted(of_arm),
                "splits": len(of_arm),
                "members": Interval.of([members(scores(run)) for run in of_arm.values()]),
                "ensemble": Interval.of([scores(run)["ensemble"] for run in of_arm.values()]),
                **paired,
                "selected": None if alone else Interval.of([members(run.selected()) for run in of_arm.values()]),
                "passes": passes,
                "cost": passes / base if base else None,
                "seconds": None if alone else mean(run.seconds for run in of_arm.values()),
                "peak_memory_mib": max(memory) if memory and not alone else None,
            }
        )
    rank = {ALONE: -1, BASELINE: 0, ORACLE: 2}
    return sorted(found, key=lambda row: (rank.get(row["method"], 1), -row["members"].mean))


# Key in a row, heading, format.
COLUMNS = (
    ("members", "a and b, {metric}", ""),
    ("ensemble", "ensemble", ""),
    ("over_labeled_only", "over labeled-only", "+"),
    ("over_phase_0", "over phase 0", "+"),
    ("selected", "best on eval", ""),
    ("cost", "cost", ".2f"),
    ("seconds", "seconds", ".0f"),
    ("peak_memory_mib", "peak MiB", ".0f"),
    ("splits", "splits", ""),
)
_AGAINST_ITSELF = ((BASELINE, "over_labeled_only"), (REFERENCE, "over_reference"), (ALONE, "over_phase_0"))
SETTING_COLUMNS = (*COLUMNS[:2], ("over_reference", f"over {REFERENCE}", "+"), COLUMNS[3], COLUMNS[-1])


def table(found: list[dict[str, Any]], metric: str, columns: tuple[tuple[str, str, str], ...] = COLUMNS) -> str:
    """The rows as a Markdown table, in points."""

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        value = row.get(key)
        itself = (row["method"], key) in _AGAINST_ITSELF
        if value is None or itself:
            return ""
        return value.text(form) if isinstance(value, Interval) else format(value, form)

    head = ["", *(heading.format(metric=metric) for _, heading, _ in columns)]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in found:
        lines.append(" | ".join([row["method"], *(cell(row, key, form) for key, _, form in columns)]))
    return "\n".join(f"| {line} |" for line in lines)


def per_run(runs: dict[str, dict[int, Run]]) -> list[dict[str, Any]]:
    """The scores of every run, so that differences can be paired again without the runs' files."""
    return [
        {
            "arm": arm,
            "seed": seed,
            "phase_0": run.alone() if len(run.record["passes"]) > 1 else None,
            "last": run.last(),
            "best_on_eval": run.selected(),
            "right_labels": right_labels(run),
            "passes": run.passes,
            "seconds": run.seconds,
        }
        for arm, of_arm in runs.items()
        for seed, run in sorted(of_arm.items())
    ]


def right_labels(run: Run) -> list[dict[str, dict[str, float | None]]]:
    """For each phase with stored labels and each maker, the share that is right: `of_all`, and of the `kept` ones; None
    if the truth is unknown."""
    found = []
    for entry in run.results["phases"]:
        shares = {}
        for maker, made in (entry["pseudo_labels"] or {}).items():
            curve = (made["separation"] or {}).get("calibration")
            of_all = curve and np.average([p["accuracy"] for p in curve], weights=[p["count"] for p in curve])
            shares[maker] = {"of_all": None if of_all is None else float(of_all), "kept": made["accuracy"]}
        if shares:
            found.append(shares)
    return found


def separation(runs: dict[int, Run]) -> list[dict[str, Any]]:
    """For each phase and maker of labels, averaged over splits with known labels: AUROCs and the calibration curve.

    `right` is the share of right labels and `sure` the mean confidence, both over all labels before selection.
    """
    found = []
    phases = {entry["phase"] for run in runs.values() for entry in run.results["phases"] if entry["pseudo_labels"]}
    for phase in sorted(phases):
        for maker in ("a", "b"):
            known = [
                figures
                for run in runs.values()
                for entry in run.results["phases"]
                if entry["phase"] == phase and (figures := entry["pseudo_labels"][maker]["separation"])
            ]
            means = {
                score: mean(values) for score in SCORES if (values := [f[score] for f in known if f[score] is not None])
            }
            if means:
                curve = pooled([point for figures in known for point in figures["calibration"]])
                counts = [point["count"] for point in curve]
                shares = {
                    name: float(np.average([point[key] for point in curve], weights=counts))
                    for name, key in (("right", "accuracy"), ("sure", "confidence"))
                }
                found.append({"phase": phase, "maker": maker, **means, **shares, "calibration": curve})
    return found


def pooled(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One calibration curve from the points of several splits."""
    confidence, accuracy, counts = (
        np.array([point[key] for point in points], dtype=float) for key in ("confidence", "accuracy", "count")
    )
    values, place = np.unique(confidence, return_inverse=True)
    right, wrong = (np.bincount(place, counts * share) for share in (accuracy, 1 - accuracy))
    return calibration(values, right, wrong)


def separation_table(found: list[dict[str, Any]]) -> str:
    head = ["phase", "labels of", "judged by", *SCORES, "right", "mean confidence"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in found:
        figures = [f"{row[score]:.3f}" if score in row else "" for score in SCORES]
        figures += [f"{100 * row[share]:.1f}" for share in ("right", "sure")]
        lines.append(" | ".join([str(row["phase"]), row["maker"], PEER[row["maker"]], *figures]))
    return "\n".join(f"| {line} |" for line in lines)


def sentence(found: list[dict[str, Any]], name: str, metric: str) -> str:
    """How much the unlabeled images gained, and at what cost."""
    by_name = {row["method"]: row for row in found}
    ours = by_name[REFERENCE]
    parts = []
    if "over_labeled_only" in ours:
        parts.append(f"{ours['over_labeled_only'].text('+')} over labeled-only with the same image passes")
    if "over_phase_0" in ours:
        parts.append(f"{ours['over_phase_0'].text('+')} over phase 0 at {ours['cost']:.1f} times its image passes")
    others = [row for row in found if row["method"] not in (ALONE, ORACLE)]
    best = max(others, key=lambda row: row["members"].mean)
    end = f"; the best method was {best['method']} with {best['members'].text()}." if len(others) > 1 else "."
    if not parts:
        return f"{name}: {REFERENCE} scored {ours['members'].text()} points of {metric}{end}"
    return (
        f"{name}: with {REFERENCE} the unlabeled images were worth, in points of {metric}, {' and '.join(parts)}{end}"
    )


def write(folder: Path, name: str, settings: Collection[str] = ()) -> None:
    """Write `comparison.json`, `comparison.md` and `comparison.png` to the folder, and print the tables and summary.

    Args:
        settings: arms that are settings of the reference rather than methods; they get a table of their own.
    """
    runs = load(folder)
    first = next(iter(runs[REFERENCE].values())).results
    metric = TASKS[first["task"]].metric.replace("mean_iou", "mean IoU")
    found = rows({arm: of_arm for arm, of_arm in runs.items() if arm not in settings})
    varied = rows({arm: of_arm for arm, of_arm in runs.items() if arm in settings or arm == REFERENCE})
    varied = [row for row in varied if row["method"] != ALONE]
    judged = separation(runs[REFERENCE])
    facts = (f"{first['num_labeled']} labeled, {first['num_unlabeled']} unlabeled, {first['num_eval']} eval and "
             f"{first['num_test']} test images; {', '.join(f'{k} {v}' for k, v in first['environment'].items())}; "
             "intervals are 95 %, over splits")  # fmt: skip
    parts = [f"### {name}", facts, table(found, metric), sentence(found, name, metric)]
    if first["num_eval"] > first["num_labeled"]:
        parts.insert(2, (
            "The eval split is larger than the labeled set, which is unrealistic, so results chosen on it (best on "
            "eval, tuning) are optimistic."
        ))  # fmt: skip
    if len(varied) > 1:
        heading = (
            f"{REFERENCE} with one setting changed, compared with {REFERENCE} on the same splits and with its own "
            "phase 0:"
        )
        parts += [heading, table(varied, metric, SETTING_COLUMNS)]
    if judged:
        heading = (
            f"How well right labels are separated from wrong ones ({REFERENCE}, AUROC on the clean unlabeled images):"
        )
        parts += [heading, separation_table(judged)]
    text = "\n\n".join(parts) + "\n"
    write_aside(folder / "comparison.md", text.encode())

    def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: vars(of) if isinstance(of, Interval) else of for key, of in row.items()} for row in found]

    tables = {"methods": plain(found), "settings": plain(varied), "separation": judged, "runs": per_run(runs)}
    write_json(folder / "comparison.json", {"data": name, "metric": metric, **tables})
    write_aside(folder / "comparison.png", figure(found, judged, f"{name}: {metric}"))
    print(f"{text}\ncomparison: {folder / 'comparison.md'}", flush=True)  # last, for the reader of a pipe may be gone


def figure(found: list[dict[str, Any]], judged: list[dict[str, Any]], title: str) -> bytes:
    """A PNG with every method's score and interval, the AUROCs per phase, and the calibration in the first and last
    phase."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 0.9 + 0.28 * max(16 if judged else 8, len(found))), layout="constrained")
    grid = drawn.add_gridspec(2, 3 if judged else 1, width_ratios=[2, 1, 1] if judged else None)
    left = drawn.add_subplot(grid[:, 0])
    for place, row in enumerate(reversed(found)):
        for shift, key, color in ((0.12, "members", "#1f5fbf"), (-0.12, "ensemble", "#c4661f")):
            value = row[key]
            label = {"members": "mean of a and b", "ensemble": "ensemble"}[key] if place == 0 else None
            left.errorbar(100 * value.mean, place + shift, xerr=100 * (value.half or 0), fmt="o", markersize=4,
                          color=color, capsize=2, label=label)  # fmt: skip
    left.set_yticks(range(len(found)), [row["method"] for row in reversed(found)])
    left.set_title(f"{title}, test (95 % interval)", fontsize=10, loc="left")
    # Intervals over two splits can be very wide, but scores are between 0 and 100.
    left.set_xlim(max(left.get_xlim()[0], -1), min(left.get_xlim()[1], 101))
    left.grid(axis="x", linewidth=0.4)
    left.legend(fontsize=8)
    for column, maker in enumerate("ab" if judged else "", start=1):
        of_maker = [row for row in judged if row["maker"] == maker]
        separated, calibrated = (drawn.add_subplot(grid[line, column]) for line in (0, 1))
        for score, style in zip(SCORES, ("o-", "s--", "^:"), strict=True):
            points = [(row["phase"], row[score]) for row in of_maker if score in row]
            if points:
                separated.plot(*zip(*points, strict=True), style, markersize=4, label=score)
        separated.set(ylim=(0.4, 1.02), xlabel="phase", xticks=[row["phase"] for row in of_maker])
        separated.set_title(f"AUROC, labels of {maker}", fontsize=10, loc="left")
        for row in of_maker[:: max(1, len(of_maker) - 1)]:
            curve = [(100 * point["confidence"], 100 * point["accuracy"]) for point in row["calibration"]]
            calibrated.plot(*zip(*curve, strict=True), "o-", markersize=3, label=f"phase {row['phase']}")
        calibrated.axline((0, 0), slope=1, color="gray", linewidth=0.8, linestyle=":")
        calibrated.set(xlim=(0, 102), ylim=(0, 102), xlabel="confidence, %", ylabel="right, %" if column == 1 else None)
        calibrated.set_title(f"calibration, labels of {maker}", fontsize=10, loc="left")
        for axes in (separated, calibrated):
            axes.grid(linewidth=0.4)
            if column == 1 and axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8, loc="lower left" if axes is separated else "upper left")
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
