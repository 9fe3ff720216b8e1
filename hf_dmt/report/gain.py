"""What the unlabeled images were worth: the pair at the end against the same pair after the labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .run import NAMES, Run, score_of


@dataclass(frozen=True)
class Gain:
    """Scores before and after the unlabeled images, as fractions.

    Attributes:
        split: `test`, or `eval` where there is no test split. images: its size, None where not recorded.
        before, after: by `a`, `b`, `ensemble`; only those with both figures.
    """

    split: str
    images: int | None
    before: dict[str, float]
    after: dict[str, float]

    def points(self, name: str) -> float:
        """Gain in percentage points."""
        return 100 * (self.after[name] - self.before[name])

    @property
    def names(self) -> list[str]:
        return [name for name in NAMES if name in self.before]


def gain_of(run: Run) -> Gain | None:
    """The gain on the test split, else on eval; None where nothing can be compared (see `why_no_gain`)."""
    phases = run.phases
    if len(phases) < 2 or phases[0]["phase"] != 0 or run.continued:
        return None
    for split in ("test", "eval"):
        last = phases[-1].get(split)
        if split == "test":
            last = run.results.get("test") or last  # of the exported pair, which may not be the last phase's
        pairs = {
            name: (before, after)
            for name in NAMES
            if (before := run.score(phases[0], split, name)) is not None
            and (after := score_of(last, name, run.metric)) is not None
        }
        if pairs:
            return Gain(
                split,
                run.results.get(f"num_{split}") or None,
                before={name: pair[0] for name, pair in pairs.items()},
                after={name: pair[1] for name, pair in pairs.items()},
            )
    return None


def why_no_gain(run: Run) -> str:
    """Why `gain_of` is None, as a sentence."""
    if not run.phases:
        return "No phase has finished yet, so there is nothing to compare."
    if not run.uses_unlabeled:
        return "This run used the labels alone: it is what other runs are compared with."
    if run.continued:
        return "The pair had been trained before this run started, so nothing here compares it with labels alone."
    if run.phases[0]["phase"] != 0:
        return "There was no phase on the labels alone (supervised_epochs 0), so there is nothing to compare with."
    if len(run.phases) < 2:
        return "No phase on unlabeled images has finished yet."
    return "No labeled images were held out for evaluation, so what the unlabeled images were worth was not measured."


def chance_points(gain: Gain, run: Run) -> float | None:
    """Points up to which a difference between two accuracies on this many images may be chance, or None for pixels.

    Two standard errors of a difference of independent proportions, the widest over the members. Both scores come from
    the same images, so the true figure is somewhat smaller. Pixels of one image are not independent, so nothing is said
    there.
    """
    if run.is_pixels or not gain.images:
        return None
    return max(
        200 * math.sqrt(sum(p * (1 - p) for p in (gain.before[name], gain.after[name])) / gain.images)
        for name in gain.names
    )


def advice(gain: Gain, run: Run) -> str | None:
    """What to try where all figures fell by more than chance, or, for pixels, fell at all; None elsewhere.

    The order is that of docs/troubleshooting.md. Labels made at every update are not selected per class: `cps` turned
    all of digit-scenes into background where the methods with phases gained (scripts/benchmarks/EVIDENCE.md).
    """
    if any(gain.points(name) >= -(chance_points(gain, run) or 0.0) for name in gain.names):
        return None
    when = ", --strategy phases" if run.results.get("knobs", {}).get("strategy") == "online" else ""
    return (
        "The unlabeled images did harm. Keep the labels alone (--method supervised), or try a longer phase 0 "
        f"(--supervised_epochs), ratios that end earlier (--label_ratios), half the --learning_rate{when}."
    )


def headline(run: Run) -> str:
    """The result of the run in one sentence."""
    gain = gain_of(run)
    if gain is None:
        return why_no_gain(run)
    parts = [f"{signed(gain.points(name))} to {'the ensemble' if name == 'ensemble' else name}" for name in gain.names]
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"The unlabeled images were worth {listed}, in points of {gain.split} {run.metric_name}."


def signed(points: float) -> str:
    """`+1.2` or `−0.3`, with the sign that a figure of this rounding has; zero has none."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
