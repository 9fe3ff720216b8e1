"""The summary at the end of a run in a terminal or log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_dmt.report import print_summary
from hf_dmt.report.run import read_run
from hf_dmt.report.terminal import phase_table, summary
from tests.report.runs import write_run


def test_what_a_log_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a number in the wrong column, an escape code, and a line that a terminal of 80 columns breaks."""
    print_summary(write_run(tmp_path))
    text = capsys.readouterr().out
    assert text.isascii() and "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["2", "0.4", "40", "89.0", "89.0", "65.0", "68.0", "71.0"] in rows
    assert ["5", "1", "40", "80.0", "80.0", "80.0", "83.0", "86.0", "78.0", "81.0", "84.0"] in rows
    assert ["accuracy", "a", "53.0", "78.0", "+25.0"] in rows and ["ensemble", "59.0", "84.0", "+25.0"] in rows
    flowing = " ".join(text.split())
    assert "The unlabeled images were worth +25.0 (a), +25.0 (b) and +25.0 (ensemble) points of test acc" in flowing
    assert "weakest classes images accuracy, % change" in flowing
    paths = [line for line in text.splitlines() if str(tmp_path) in line]
    assert max(len(line) for line in text.splitlines() if line not in paths) <= 80


def test_headings_say_what_is_below_them(tmp_path: Path) -> None:
    """Each heading must stand over its columns: `eval eval eval` over `a b a+b` is of no use."""
    groups, names, *_ = phase_table(read_run(write_run(tmp_path))).splitlines()
    assert names.split() == [*("phase", "ratio", "updates", "by", "a", "by", "b"), *("a", "b", "ensemble") * 2]
    for title in ("right labels, %", "eval accuracy, %", "test accuracy, %"):
        end = groups.index(title) + len(title)
        assert names[:end].endswith(("b", "ensemble"))


def test_names_of_strangers_stay_in_their_line(tmp_path: Path) -> None:
    """Guards against a class name that clears the screen, or writes a line of its own, at the end of a run."""
    run = read_run(write_run(tmp_path, classes=["\x1b[2Jcat\nGAIN +99", "b" * 90]))
    text = summary(run)
    assert "\x1b" not in text and "\\x1b[2Jcat\\nGAIN +99" in text
    assert not [line for line in text.splitlines() if line.startswith("GAIN")]


def test_chance_is_marked(tmp_path: Path) -> None:
    file = write_run(tmp_path) / "dmt_results.json"
    results = json.loads(file.read_text())
    results["test"]["a"]["chance"] = {"accuracy": 0.3, "mean_accuracy": 0.3}
    file.write_text(json.dumps(results))
    lines = summary(read_run(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("  chance?")] == ["accuracy", "mean"]


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, 11),
        ({"truth_known": False}, 9),
        ({"truth_known": False, "has_test": False}, 6),
        ({"has_eval": False, "has_test": False}, 5),
        ({"method": "supervised"}, 9),
        ({"method": "cps"}, 9),
    ],
)
def test_columns_without_figures_are_left_out(tmp_path: Path, settings: dict, columns: int) -> None:
    run = read_run(write_run(tmp_path, **settings))
    lines = phase_table(run).splitlines()[-len(run.phases) - 1 :]
    assert len(lines[0].replace("by ", "by").split()) == columns and len(lines) == 1 + len(run.phases)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"has_test": False}, "There is no test split"),
        ({"method": "supervised"}, "labels alone"),
        ({"phases": 0}, "No phase has finished yet"),
    ],
)
def test_what_cannot_be_said_is_said(tmp_path: Path, settings: dict, line: str) -> None:
    assert line in summary(read_run(write_run(tmp_path, **settings)))
