"""A run as stored on disk: the source of every table and figure in this package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.members import MEMBERS
from ..data.pair_file import PAIR_FILE, read_pair_file
from ..data.splitting.splits import SPLIT_FILE
from .results_file import RESULTS_FILE, TELEMETRY_FILE, read_events, read_results, read_split

# The metrics shown for each task, the main one first, with their names.
MEASURES = {
    "image-classification": {"accuracy": "accuracy", "mean_accuracy": "mean per-class accuracy"},
    "semantic-segmentation": {
        "mean_iou": "mean IoU",
        "mean_accuracy": "mean per-class accuracy",
        "overall_accuracy": "pixel accuracy",
    },
}
# The metrics that must all rise for a gain. Mean IoU is already an average over classes.
_DECISIVE = {"image-classification": ("accuracy", "mean_accuracy"), "semantic-segmentation": ("mean_iou",)}


@dataclass(frozen=True)
class Run:
    """The files of a run's folder, finished or not.

    Attributes:
        events: the training log events of `telemetry.jsonl`, in order of steps.
        split: `split.json`, or {}.
        base_models: what a and b started from, {} if not recorded.
        continued: the pair had been trained before, so its phase 0 is not a labels-only baseline.
    """

    folder: Path
    results: dict[str, Any]
    events: list[dict[str, Any]]
    split: dict[str, Any]
    base_models: dict[str, str]
    continued: bool = False

    @property
    def phases(self) -> list[dict[str, Any]]:
        phases: list[dict[str, Any]] = self.results.get("phases", [])
        return phases

    @property
    def is_pixels(self) -> bool:
        return bool(self.results["task"] == "semantic-segmentation")

    @property
    def measures(self) -> dict[str, str]:
        """The metrics that are shown, by key in the results, with their names; the main one first."""
        return MEASURES[self.results["task"]]

    @property
    def decisive(self) -> tuple[str, ...]:
        """The metrics that must all rise for a gain; the first is the main one."""
        return _DECISIVE[self.results["task"]]

    @property
    def metric(self) -> str:
        """Key of the main metric."""
        return self.decisive[0]

    @property
    def metric_name(self) -> str:
        return self.measures[self.metric]

    @cached_property
    def class_names(self) -> list[str]:
        given = self.results.get("class_names") or range(self.results["num_labels"])
        return [str(name) for name in given]

    @property
    def knobs(self) -> dict[str, Any]:
        knobs: dict[str, Any] = self.results.get("knobs") or {}
        return knobs

    @property
    def uses_unlabeled(self) -> bool:
        """Whether the method has a phase on unlabeled images at all."""
        return bool(self.knobs.get("label_ratios", True))

    @property
    def finished(self) -> bool:
        """Whether all planned phases are there."""
        planned = self.results.get("num_phases")
        return planned is None or any(entry["phase"] >= planned - 1 for entry in self.phases)

    def score(self, entry: dict[str, Any] | None, split: str, name: str) -> float | None:
        """The main metric of a, b or ensemble on `eval` or `test` in a phase's entry; None if there is none."""
        return score_of((entry or {}).get(split), name, self.metric)

    def exported(self, split: str) -> dict[str, Any] | None:
        """The scores of the exported pair on `eval` or `test`; None if it was not scored there. They are those of the
        last phase, unless the best pair was loaded after it or training stopped within a phase."""
        last = self.phases[-1].get(split) if self.phases else None
        return self.results.get(split) or last

    @property
    def going_on(self) -> bool:
        """Whether the files were read during training, when the latest weights may be later than the latest scores."""
        return not self.finished and "eval" not in self.results

    @property
    def makers(self) -> tuple[str, ...]:
        """The makers of pseudo labels that are scored: both models, and the graph if it labels."""
        return (*MEMBERS, "graph") if self.knobs.get("labeler") == "graph" else MEMBERS

    def label_fact(self, entry: dict[str, Any], member: str, key: str) -> Any:
        """`selected`, `accuracy` or `class_counts` of the labels that a maker made for a phase, or None."""
        return ((entry.get("pseudo_labels") or {}).get(member) or {}).get(key)

    @property
    def labeled_phases(self) -> list[dict[str, Any]]:
        """Phases that trained on stored pseudo labels."""
        return [entry for entry in self.phases if entry.get("pseudo_labels")]


def score_of(scores: dict[str, Any] | None, name: str, metric: str) -> float | None:
    """One finite score from `{'a': {...}, 'b': {...}, 'ensemble': {...}}`, else None."""
    value = ((scores or {}).get(name) or {}).get(metric)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: there is no `dmt_results.json`, or one of the files is damaged.
    """
    folder = Path(folder)
    try:
        results = read_results(folder / RESULTS_FILE)
    except FileNotFoundError as problem:
        raise ValueError(
            f"{str(folder)!r} has no {RESULTS_FILE}, so it is not the folder of a run. Give the output folder of a run."
        ) from problem
    except ValueError as problem:
        raise ValueError(f"{problem}. Give the output folder of a run, or restore the file.") from problem
    events = [event for event in read_events(folder / TELEMETRY_FILE) if "a/loss" in event or "b/loss" in event]
    # While a run is going on, there is no pair yet.
    pair = read_pair_file(folder, str(folder)) if (folder / PAIR_FILE).is_file() else {}
    bases = pair.get("base_models") or {}
    split = read_split(folder / SPLIT_FILE)
    return Run(folder, results, events, split, bases, continued=bool(pair.get("continued")))
