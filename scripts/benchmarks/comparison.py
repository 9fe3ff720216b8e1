"""What a comparison of methods came to: tables, a figure and a sentence, from the files that its runs left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any


@dataclass(frozen=True)
class Run:
    """One run's file, as `compare_methods.py` wrote it."""

    record: dict[str, Any]

    @property
    def results(self) -> dict[str, Any]:
        results: dict[str, Any] = self.record["results"]
        return results

    def last(self) -> dict[str, float]:
        metric = {"image-classification": "accuracy", "semantic-segmentation": "mean_iou"}[self.results["task"]]
        return {name: self.results["phases"][-1]["test"][name][metric] for name in ("a", "b", "ensemble")}
