"""The one figure that people quote from a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_dmt.report.gain import advice, chance_points, gain_of, headline, signed, why_no_gain
from hf_dmt.report.html import write_report
from hf_dmt.report.run import read_run
from tests.report.runs import write_run


def change_results(folder: Path, change: dict) -> None:
    file = folder / "dmt_results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_gain_is_test_minus_phase_0s_test(tmp_path: Path) -> None:
    """On eval, which chooses among phases, the gain would look larger than it is."""
    run = read_run(write_run(tmp_path))
    gain = gain_of(run)
    assert gain is not None and (gain.split, gain.images) == ("test", 400)
    for name in ("a", "b", "ensemble"):
        before, after = (run.phases[number]["test"][name]["accuracy"] for number in (0, -1))
        assert gain.points(name) == pytest.approx(100 * (after - before))


def test_exported_pair_is_scored_not_the_last_phase(tmp_path: Path) -> None:
    """With load_best_model_at_end the published pair is an earlier one: its test score is the published one."""
    write_run(tmp_path)
    change_results(tmp_path, {"test": {name: {"accuracy": 0.5} for name in ("a", "b", "ensemble")}})
    run = read_run(tmp_path)
    gain = gain_of(run)
    assert gain is not None and gain.after == {"a": 0.5, "b": 0.5, "ensemble": 0.5}
    assert "worth −3.0 to a, −6.0 to b and −9.0 to the ensemble" in headline(run)


@pytest.mark.parametrize(("score", "harmed"), [(0.3, True), (0.52, False), (0.99, False)])
def test_harm_is_said_with_what_to_try(tmp_path: Path, score: float, harmed: bool) -> None:
    """A pair that lost everything ends like one that gained; a loss that may be chance sends people tuning noise."""
    write_run(tmp_path)
    change_results(tmp_path, {"test": {name: {"accuracy": score} for name in ("a", "b", "ensemble")}})
    run = read_run(tmp_path)
    gain = gain_of(run)
    assert gain is not None
    said = advice(gain, run)
    assert (said is not None) == harmed
    if said:
        assert "--supervised_epochs" in said and "--strategy" not in said
        knobs = run.results["knobs"] | {"strategy": "online"}
        change_results(tmp_path, {"knobs": knobs})
        assert "--strategy phases" in str(advice(gain, read_run(tmp_path)))
        assert said.split(".")[0] in write_report(tmp_path).read_text()


def test_without_test_split_the_gain_is_on_eval_and_says_so(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, has_test=False))
    gain = gain_of(run)
    assert gain is not None and gain.split == "eval"
    assert "points of eval accuracy" in headline(run)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "supervised"}, "labels alone"),
        ({"phases": 1}, "No phase on unlabeled images has finished"),
        ({"phases": 0}, "No phase has finished"),
        ({"has_eval": False, "has_test": False}, "No labeled images were held out"),
    ],
)
def test_no_gain_is_claimed_where_nothing_can_be_compared(tmp_path: Path, settings: dict, reason: str) -> None:
    """A zero or an invented figure would read as a result."""
    run = read_run(write_run(tmp_path, **settings))
    assert gain_of(run) is None
    assert reason in why_no_gain(run) and headline(run) == why_no_gain(run)


def test_no_gain_without_phase_0(tmp_path: Path) -> None:
    """Phase 1 is no labeled-only baseline."""
    write_run(tmp_path)
    change_results(tmp_path, {"phases": read_run(tmp_path).phases[1:]})
    assert gain_of(read_run(tmp_path)) is None
    assert "supervised_epochs 0" in why_no_gain(read_run(tmp_path))


def test_scores_that_are_null_or_nan_are_no_scores(tmp_path: Path) -> None:
    """A split without valid pixels has null scores; NaN would spread into the headline."""
    write_run(tmp_path)
    phases = read_run(tmp_path).phases
    phases[0]["test"] = {"a": {"accuracy": None}, "b": {"accuracy": float("nan")}, "ensemble": {"accuracy": 0.5}}
    change_results(tmp_path, {"phases": phases})
    gain = gain_of(read_run(tmp_path))
    assert gain is not None and gain.names == ["ensemble"]


def test_chance_is_two_standard_errors(tmp_path: Path) -> None:
    """By hand: 0.53 to 0.78 on 400 images is 2 * sqrt((0.2491 + 0.1716) / 400) = 0.0649, more than for the others."""
    run = read_run(write_run(tmp_path))
    gain = gain_of(run)
    assert gain is not None
    assert chance_points(gain, run) == pytest.approx(6.486, abs=1e-3)


def test_no_chance_is_stated_for_pixels(tmp_path: Path) -> None:
    """Pixels of one image are not independent: the formula would promise far too much."""
    run = read_run(write_run(tmp_path, pixels=True))
    gain = gain_of(run)
    assert gain is not None and chance_points(gain, run) is None


@pytest.mark.parametrize(("points", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (-0.3, "−0.3"), (12.34, "+12.3")])
def test_a_rounded_zero_has_no_sign(points: float, text: str) -> None:
    """'-0.0 points' reads as a loss."""
    assert signed(points) == text


@pytest.mark.parametrize("content", [None, "{", "[]", '{"phases": []}'])
def test_a_folder_without_a_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "dmt_results.json").write_text(content)
    with pytest.raises(ValueError, match=r"dmt_results\.json.*Give the output folder"):
        read_run(tmp_path)
