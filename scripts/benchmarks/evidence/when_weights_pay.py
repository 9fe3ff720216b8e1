"""When do dynamic weights pay? One point per split: how many of the first labels are right, against what `dmt` gains.

    python scripts/benchmarks/evidence/when_weights_pay.py --output docs/when_weights_pay.png

Reads the runs in `scripts/benchmarks/evidence/`: `heads-*.json` of `heads_on_features.py`, and the comparisons of
`hf-dmt compare`. It draws, and prints per data set, the gain over `mutual` (every weight 1) and over the labels alone
at as many image passes, mean of a and b. All methods select per class.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import spearmanr

from hf_dmt.commands.comparing.comparison import Interval, members

EVIDENCE = Path(__file__).parent
ALONE = {"labels alone", "labeled-only"}


@dataclass(frozen=True)
class Point:
    """One split: the share of right labels before selection, at the first phase, and gains as fractions."""

    data: str
    right: float
    over_mutual: float
    over_alone: float


def points(folder: Path = EVIDENCE) -> list[Point]:
    """All splits that have dmt, mutual and the labels alone."""
    found = []
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        found += _of_heads(content, file.stem) if file.stem.startswith("heads") else _of_comparison(content)
    return found


def _of_heads(runs: list[dict[str, Any]], name: str) -> list[Point]:
    by_split: dict[tuple[int, int], dict[str, Any]] = {}
    for run in runs:
        by_split.setdefault((run["labels"], run["seed"]), {})[run["arm"]] = run
    return [
        Point(
            f"{name.removeprefix('heads-')}, heads, {labels} labels",
            mean(of["dmt, per class"]["right"].values()),
            members(of["dmt, per class"]["last"]) - members(of["mutual, per class"]["last"]),
            members(of["dmt, per class"]["last"]) - members(of["labels alone"]["last"]),
        )
        for (labels, _), of in sorted(by_split.items())
    ]


def _of_comparison(content: dict[str, Any]) -> list[Point]:
    right = {
        run["seed"]: mean(shares["of_all"] for shares in run["right_labels"][0].values())
        for run in content["runs"]
        if run["arm"] == "dmt"
    }
    last = {(run["arm"], run["seed"]): members(run["last"]) for run in content["runs"]}
    return [
        Point(
            content["data"],
            right[seed],
            score - last["mutual", seed],
            score - last["labeled-only", seed],
        )
        for (arm, seed), score in sorted(last.items())
        if arm == "dmt" and ("mutual", seed) in last and ("labeled-only", seed) in last
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="docs/when_weights_pay.png")
    found = points()
    draw(found, parser.parse_args().output)
    for name in dict.fromkeys(point.data for point in found):
        own = [point for point in found if point.data == name]
        gains = (Interval.of([getattr(point, key) for point in own]) for key in ("over_mutual", "over_alone"))
        shown = " ".join(f"{gain.text('+'):>14}" for gain in gains)
        print(f"{name:32s} {len(own):2d} splits  {100 * mean(point.right for point in own):5.1f} % right  {shown}")
    for key in ("over_mutual", "over_alone"):
        rank = spearmanr([point.right for point in found], [getattr(point, key) for point in found]).statistic
        print(f"rank correlation of right labels with the gain {key.replace('_', ' ')}: {rank:+.2f}")


def _kind(point: Point) -> str:
    """The data and what is trained, without the number of labels."""
    return ", ".join(part for part in point.data.split(", ") if not part.endswith("labels"))


def draw(found: list[Point], file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    kinds = list(dict.fromkeys(_kind(point) for point in found))
    for place, (key, title) in enumerate((("over_mutual", "dmt over mutual"), ("over_alone", "dmt over labels alone"))):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.axhline(0, color="#6b7280", linewidth=0.8)
        for kind in kinds:
            own = [point for point in found if _kind(point) == kind]
            axes.scatter([100 * p.right for p in own], [100 * getattr(p, key) for p in own], s=18, label=kind)
        axes.set(xlabel="right pseudo labels at the first phase, %", ylabel="points, mean of a and b")
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(linewidth=0.4)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=150, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
