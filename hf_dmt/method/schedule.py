"""The length of each phase, its label ratio, and the ramp of the exponents within a phase."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hf_dmt.method.selection import selected_count


@dataclass(frozen=True)
class Phase:
    """One phase: `index` 0 trains on labeled images alone, the others on labeled and pseudo-labeled ones.

    `label_ratio` is the fraction of pseudo labels that is selected, None if there is none (phase 0, online). `steps`
    are optimizer updates. `trains` is the only member that is trained, None if both are.
    """

    index: int
    label_ratio: float | None
    steps: int
    trains: str | None = None


def plan_phases(
    *,
    num_labeled: int,
    num_unlabeled: int,
    label_ratios: Sequence[float],
    supervised_epochs: float,
    phase_epochs: float,
    labeled_batch_size: int,
    pseudo_batch_size: int,
    select_units: Literal["images", "pixels"],
) -> list[Phase]:
    """Lay out a run. Steps follow from counts alone, never from predictions, so every process agrees on them.

    Phase 0 has ceil(supervised_epochs * num_labeled / (labeled_batch_size + pseudo_batch_size)) steps, phase k has
    ceil(phase_epochs * n_k / pseudo_batch_size) with n_k = max(1, round(r_k * num_unlabeled)) for images and all
    unlabeled images for pixels, of which every image has some.

    Args:
        label_ratios: r_1..r_K, each in (0, 1]; empty for labeled-only runs.
        supervised_epochs: passes over the labeled images in phase 0; 0 leaves phase 0 out.
        phase_epochs: passes over the selected images in each further phase.
        labeled_batch_size, pseudo_batch_size: images per optimizer update, over all processes and micro-batches.

    Raises:
        ValueError: a ratio outside (0, 1], a count, batch size or number of epochs below its minimum.
    """
    _check_at_least("num_labeled", num_labeled, 1)
    _check_at_least("labeled_batch_size", labeled_batch_size, 1)
    _check_at_least("supervised_epochs", supervised_epochs, 0)
    if select_units not in ("images", "pixels"):
        raise ValueError(f"select_units must be 'images' or 'pixels', got {select_units!r}")
    if label_ratios:
        _check_at_least("num_unlabeled", num_unlabeled, 1)
        _check_at_least("pseudo_batch_size", pseudo_batch_size, 1)
        if not phase_epochs > 0:
            raise ValueError(f"phase_epochs must be above 0 when there are label ratios, got {phase_epochs}")
    else:
        _check_at_least("pseudo_batch_size", pseudo_batch_size, 0)

    def steps(epochs: float, images: int, batch: int) -> int:
        # The slack removes the rounding error of a product that should be an integer: 2.2 * 100 / 4 is 55 steps.
        return max(1, math.ceil(epochs * images / batch - 1e-9))

    phases = []
    if supervised_epochs > 0:
        phases.append(Phase(0, None, steps(supervised_epochs, num_labeled, labeled_batch_size + pseudo_batch_size)))
    for index, ratio in enumerate(label_ratios, start=1):
        selected = selected_count(ratio, num_unlabeled)
        images = selected if select_units == "images" else num_unlabeled
        phases.append(Phase(index, ratio, steps(phase_epochs, images, pseudo_batch_size)))
    return phases


def gaussian_ramp(step: int, total_steps: int, *, official: bool = False) -> float:
    """Multiplier exp(-5 (1 - t/T)^2) of the exponents, with t = step + 1 and T = total_steps.

    It rises from about exp(-5) = 0.007 to 1, so that early in a phase every weight but that of dropped positive
    disagreements is about 1.

    Args:
        step: optimizer update within the phase, from 0; past the end the ramp stays at 1.
        total_steps: updates of the phase, at least 1.
        official: reproduce the official code, which uses the full exponents at step 0 because it first applies the
            formula after that step (classification/utils/losses.py).
    """
    _check_at_least("total_steps", total_steps, 1)
    _check_at_least("step", step, 0)
    if official and step == 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(step + 1, total_steps) / total_steps) ** 2)


def _check_at_least(name: str, value: float, minimum: int) -> None:
    if not value >= minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
