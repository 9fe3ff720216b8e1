"""The end of a run in a terminal: one table of phases and what the unlabeled images were worth."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ..data.members import MEMBERS
from .gain import advice, gain_of, signed, why_no_gain
from .run import NAMES, Run, read_run


def phase_table(results: dict[str, Any]) -> Table:
    """One row per phase: ratio, steps, right pseudo labels of a and b, scores of a, b and ensemble on eval and test.

    Args:
        results: the contents of `dmt_results.json`.
    """
    run = Run(Path(), results, [], {}, {})
    # Two blanks between columns: with the usual three, eleven of them are wider than 80 letters.
    table = Table(title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    has = {split: any(entry.get(split) for entry in run.phases) for split in ("eval", "test")}
    for title in ("phase", "ratio", "steps"):
        table.add_column(title, justify="right")
    truth_known = any(run.label_fact(entry, name, "accuracy") is not None for entry in run.phases for name in MEMBERS)
    if truth_known:
        for member in run.makers:
            table.add_column(f"labels\nby {member}", justify="right")
    table.title = f"{run.metric_name} and right pseudo labels, %" if truth_known else f"{run.metric_name}, %"
    for split in ("eval", "test"):
        for name in NAMES if has[split] else ():
            table.add_column(f"{split}\n{'a+b' if name == 'ensemble' else name}", justify="right")
    for entry in run.phases:
        ratio = entry.get("label_ratio")
        row = [str(entry["phase"]), "" if ratio is None else f"{ratio:g}", str(entry["steps"])]
        if truth_known:
            row += [_percent(run.label_fact(entry, member, "accuracy")) for member in run.makers]
        row += [_percent(run.score(entry, split, name)) for split in ("eval", "test") if has[split] for name in NAMES]
        table.add_row(*row)
    return table


def print_summary(folder: str | Path) -> None:
    """Print the table of phases and the gain over labels alone; plain text unless stdout is a terminal.

    Raises:
        ValueError: the folder holds no run.
    """
    run = read_run(folder)
    table = phase_table(run.results)
    in_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, markup=False, no_color=not in_terminal, soft_wrap=True)
    table.box = box.SIMPLE_HEAD if in_terminal else None
    # A log file has no width, and a terminal breaks lines by itself; rich would cut figures to dots.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    if run.phases:
        console.print(table)
    console.print(_gain_lines(run).replace("−", "-"))  # a log file may be ASCII


def _gain_lines(run: Run) -> str:
    gain = gain_of(run)
    if gain is None:
        return why_no_gain(run)
    figures = ", ".join(
        f"{'ensemble' if name == 'ensemble' else name} {signed(gain.points(name))} "
        f"({100 * gain.before[name]:.1f} to {100 * gain.after[name]:.1f})"
        for name in gain.names
    )
    note = (
        ""
        if gain.split == "test"
        else "\n  (there is no test split, so this is the split that phases were compared on)"
    )
    harm = advice(gain, run)
    tried = "\n" + textwrap.fill(harm, 80, initial_indent="  ", subsequent_indent="  ") if harm else ""
    return f"gain over labels alone, points of {gain.split} {run.metric_name}:\n  {figures}{note}{tried}"


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f}"
