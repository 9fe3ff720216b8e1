"""Phases are planned from counts alone; one step too many or too few shifts the schedule of every later phase."""

import math
from typing import Any

import pytest

from hf_dmt.method import Phase, gaussian_ramp, plan_phases

COUNTS: dict[str, Any] = {
    "num_labeled": 100,
    "num_unlabeled": 1337,
    "label_ratios": (0.2, 0.4, 0.6, 0.8, 1.0),
    "supervised_epochs": 20,
    "phase_epochs": 3,
    "labeled_batch_size": 16,
    "pseudo_batch_size": 48,
    "select_units": "images",
}


def plan(**changes: Any) -> list[Phase]:
    return plan_phases(**{**COUNTS, **changes})


def test_image_phases_grow_with_the_ratio() -> None:
    """A phase must have ceil(epochs x max(1, round(ratio x unlabeled)) / pseudo batch) steps; phase 0 has labeled
    batches only."""
    assert plan() == [
        Phase(0, None, 32),
        Phase(1, 0.2, 17),
        Phase(2, 0.4, 34),
        Phase(3, 0.6, 51),
        Phase(4, 0.8, 67),
        Phase(5, 1.0, 84),
    ]


def test_pixel_phases_use_every_image() -> None:
    """Guards against also shortening a phase by a label ratio of pixels: it would train on only a fifth of the
    images."""
    assert [phase.steps for phase in plan(select_units="pixels")] == [32, 84, 84, 84, 84, 84]


@pytest.mark.parametrize(
    ("unlabeled", "epochs", "ratio", "batch", "steps"),
    [
        (48800, 750, 0.2, 496, 14759),
        (10052, 4, 1.0, 7, 5744),
        (10482, 4, 1.0, 7, 5990),
        (2604, 10, 1.0, 6, 4340),
    ],
)
def test_published_sizes(unlabeled: int, epochs: int, ratio: float, batch: int, steps: int) -> None:
    """The steps of the published runs are close to the official counts, which round up per epoch and select two images
    fewer."""
    phases = plan(num_unlabeled=unlabeled, phase_epochs=epochs, label_ratios=[ratio], pseudo_batch_size=batch)
    assert phases[1].steps == steps


def test_degenerate_runs() -> None:
    """At least one image must be selected, and at least one step made."""
    assert plan(num_unlabeled=1, phase_epochs=0.01)[1] == Phase(1, 0.2, 1)
    assert plan(label_ratios=(), num_unlabeled=0) == [Phase(0, None, 32)]
    assert plan(supervised_epochs=0, label_ratios=[1.0]) == [Phase(1, 1.0, 84)]


def test_whole_products_are_not_rounded_up() -> None:
    """Guards against a naive ceil that adds a step: 2.2 * 100 is 220.00000000000003 in floats."""
    assert plan(label_ratios=[1.0], num_unlabeled=100, phase_epochs=2.2, pseudo_batch_size=4)[1].steps == 55


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_ratios": [0.2, 0.0]}, r"\(0, 1\], got 0.0"),
        ({"label_ratios": [1.2]}, r"\(0, 1\], got 1.2"),
        ({"label_ratios": [float("nan")]}, r"\(0, 1\], got nan"),
        ({"num_unlabeled": 0}, "num_unlabeled must be at least 1, got 0"),
        ({"num_labeled": 0}, "num_labeled must be at least 1"),
        ({"pseudo_batch_size": 0}, "pseudo_batch_size must be at least 1"),
        ({"labeled_batch_size": 0}, "labeled_batch_size must be at least 1"),
        ({"supervised_epochs": -1}, "supervised_epochs must be at least 0"),
        ({"phase_epochs": 0}, "phase_epochs must be above 0"),
        ({"select_units": "image"}, "'images' or 'pixels', got 'image'"),
    ],
)
def test_refuses_impossible_runs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**change)


def test_ramp_rises_to_one_and_stays() -> None:
    """Guards against a ramp that ends below 1 and never uses the requested exponents."""
    values = [gaussian_ramp(step, 100) for step in range(100)]
    assert values == sorted(values) and values[-1] == 1.0
    assert values[0] == pytest.approx(math.exp(-5 * 0.99**2)) and values[49] == pytest.approx(math.exp(-1.25))
    assert gaussian_ramp(100, 100) == gaussian_ramp(0, 1) == 1.0


def test_official_ramp_differs_in_its_first_step_only() -> None:
    assert gaussian_ramp(0, 50, official=True) == 1.0
    assert all(gaussian_ramp(i, 50, official=True) == gaussian_ramp(i, 50) for i in range(1, 50))


def test_ramp_refuses_what_is_no_step() -> None:
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        gaussian_ramp(0, 0)
    with pytest.raises(ValueError, match="step must be at least 0"):
        gaussian_ramp(-1, 10)
