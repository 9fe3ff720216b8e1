"""The scripts behind the tables of EVIDENCE.md that `hf-dmt compare` does not make."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest

from scripts.benchmarks.evidence import when_weights_pay
from scripts.benchmarks.evidence.heads_on_features import ARMS, Splits, figures, table


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """Features of four classes that heads can tell apart, for both models; the heads have no dropout."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {"dropout_a": np.asarray(0.0), "dropout_b": np.asarray(0.0)}
    centers = {name: rng.normal(size=(4, 12)) for name in "ab"}
    for split, count in (("train", 160), ("test", 80)):
        found[f"{split}_labels"] = np.arange(count) % 4
        for name in "ab":
            noise = rng.normal(scale=0.6, size=(count, 12))
            found[f"{split}_{name}"] = (centers[name][np.arange(count) % 4] + noise).astype(np.float32)
    return found


@pytest.mark.parametrize("arm", ["labels alone", "dmt", "graph", "dmt, one phase"])
def test_splits_side_by_side_are_splits_alone(data: dict[str, np.ndarray], arm: str) -> None:
    """Guards against splits that share a gradient, a clipping norm or a batch when trained together: the intervals
    would be too narrow."""
    together = Splits(data, 20, [0, 1, 2], 3e-3).run(arm)[1]
    alone = Splits(data, 20, [1], 3e-3).run(arm)[0]
    assert together["seed"] == alone["seed"] == 1
    for one, other in zip(together["phases"], alone["phases"], strict=True):
        assert one["test"] == pytest.approx(other["test"], abs=0.02)
    assert mean(alone["phases"][-1]["test"].values()) > 0.7


def test_every_arm_has_the_same_image_passes(data: dict[str, np.ndarray]) -> None:
    """Guards against a method that wins because it is trained longer."""
    splits = Splits(data, 20, [0], 3e-3)
    unlabeled, passes = 140, {}
    for arm in ("labels alone", "dmt", "mutual", "dmt, one phase"):
        phases = splits.run(arm)[0]["phases"]
        labelings = sum(entry["pseudo_labels"] is not None for entry in phases)
        passes[arm] = sum(entry["steps"] for entry in phases) * 64 + labelings * 2 / 3 * unlabeled
    assert max(passes.values()) - min(passes.values()) <= 64, passes


def test_tables_and_figures_of_runs(data: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Guards against a gain over the labels-alone run of another split."""
    splits = Splits(data, 20, [3, 4], 3e-3)
    for arm in ("labels alone", "dmt"):
        (tmp_path / f"20-{arm.replace(' ', '-')}.json").write_text(json.dumps(splits.run(arm)))
    kept: dict[Any, Any] = {(run["arm"], run["seed"]): run for run in figures(tmp_path)}
    gains = [np.mean([kept["dmt", s]["last"][n] - kept["labels alone", s]["last"][n] for n in "ab"]) for s in (3, 4)]
    rows = table(tmp_path, 20).splitlines()
    assert len(rows) == 4 and rows[3].startswith("| dmt |")
    assert float(rows[3].split("|")[4].split("±")[0]) == pytest.approx(100 * np.mean(gains), abs=0.06)


def test_the_figure_is_of_the_kept_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against mixing points of different label counts, and against the gain over the wrong method."""
    runs = {(r["labels"], r["seed"], r["arm"]): r
            for r in json.loads((when_weights_pay.EVIDENCE / "heads-TrashNet.json").read_text())}  # fmt: skip
    assert {arm for *_, arm in runs} <= set(ARMS)
    points = [p for p in when_weights_pay.points() if p.data == "TrashNet, heads, 30 labels"]
    members = {arm: [mean(runs[30, s, arm]["last"][n] for n in "ab") for s in range(10)]
               for arm in ("dmt, per class", "mutual, per class", "labels alone")}  # fmt: skip
    for key, arm in (("over_mutual", "mutual, per class"), ("over_alone", "labels alone")):
        expected = [one - other for one, other in zip(members["dmt, per class"], members[arm], strict=True)]
        assert [getattr(point, key) for point in points] == pytest.approx(expected)
    when_weights_pay.draw(points, str(tmp_path / "figure.png"))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
