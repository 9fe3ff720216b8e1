"""The table at the end of a run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from hf_dmt.report import phase_table, print_summary
from hf_dmt.report.run import read_run
from tests.report.runs import write_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_text_where_output_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colour codes and box characters make a log file unreadable, and a file in ASCII cannot hold them."""
    print_summary(write_run(tmp_path))
    text = capsys.readouterr().out
    assert text.isascii() and "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["2", "0.4", "40", "89.0", "89.0", "65.0", "68.0", "71.0"] in rows
    assert ["5", "1", "40", "80.0", "80.0", "80.0", "83.0", "86.0", "78.0", "81.0", "84.0"] in rows
    assert text.splitlines()[-2:] == [
        "gain over labels alone, points of test accuracy:",
        "  a +25.0 (53.0 to 78.0), b +25.0 (56.0 to 81.0), ensemble +25.0 (59.0 to 84.0)",
    ]
    assert max(map(len, text.splitlines())) <= 80


def test_harm_is_said_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who reads no report takes a pair that the unlabeled images ruined for a finished one."""
    file = write_run(tmp_path) / "dmt_results.json"
    scores = {name: {"accuracy": 0.2} for name in ("a", "b", "ensemble")}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test": scores}))
    print_summary(tmp_path)
    text = capsys.readouterr().out
    assert "The unlabeled images did harm." in text and text.isascii()
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 50])
def test_a_narrow_terminal_shows_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Rich shortens what does not fit to dots, without a word."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    print_summary(write_run(tmp_path))
    table = screen.getvalue().split("gain over")[0]
    assert "…" not in table and "84.0" in table and "86.0" in table
    assert max(len(line) for line in table.splitlines() if "84.0" in line) <= 80


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, 11),
        ({"truth_known": False}, 9),
        ({"truth_known": False, "has_test": False}, 6),
        ({"has_eval": False, "has_test": False}, 5),
        ({"method": "supervised"}, 9),
        ({"method": "cps"}, 9),
        ({"phases": 0}, 3),
    ],
)
def test_columns_without_figures_are_left_out(tmp_path: Path, settings: dict, columns: int) -> None:
    results = read_run(write_run(tmp_path, **settings)).results
    table = phase_table(results)
    assert len(table.columns) == columns and table.row_count == len(results["phases"])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"has_test": False}, "there is no test split"),
        ({"method": "supervised"}, "labels alone"),
        ({"phases": 0}, "No phase has finished yet"),
    ],
)
def test_last_line_says_what_cannot_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict, line: str
) -> None:
    print_summary(write_run(tmp_path, **settings))
    assert line in capsys.readouterr().out.splitlines()[-1]
