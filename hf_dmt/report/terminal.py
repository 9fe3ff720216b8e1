"""The summary of a run for the terminal: phases, the value of the unlabeled images, weak classes, next steps."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.escaping import printable
from ..data.members import SCORED
from .by_class import by_class
from .gain import Gain, gain_of, headline, signed, why_no_gain
from .next_steps import Given, next_steps
from .run import Run, read_run

WIDTH = 80
_WORST = 3  # number of listed classes


def print_summary(folder: str | Path, given: Given | None = None) -> None:
    """Print the summary of a run, in ASCII and at most 80 columns wide unless class names are longer.

    Args:
        given: the flags of the run, for the commands of the next steps.

    Raises:
        ValueError: the folder contains no run.
    """
    print(summary(read_run(folder), given))


def summary(run: Run, given: Given | None = None) -> str:
    gain = gain_of(run)
    parts = [phase_table(run), _filled(headline(run) if gain else why_no_gain(run))]
    if gain:
        parts.append(_worth(run, gain))
    parts += [_failures(run), _steps(run, given)]
    # A log file may be ASCII; names in other scripts are kept.
    return "\n\n".join(filter(None, parts)).replace("−", "-").replace("–", "-")


def phase_table(run: Run) -> str:
    """One line per phase: ratio, updates, right pseudo labels of a and b, scores of a, b and ensemble."""
    if not run.phases:
        return ""
    columns: list[tuple[str, str, list[str]]] = [
        ("", "phase", [str(entry["phase"]) for entry in run.phases]),
        ("", "ratio", ["-" if (ratio := entry.get("label_ratio")) is None else f"{ratio:g}" for entry in run.phases]),
        ("", "updates", [str(entry["steps"]) for entry in run.phases]),
    ]
    right = {name: [run.label_fact(entry, name, "accuracy") for entry in run.phases] for name in run.makers}
    if any(value is not None for values in right.values() for value in values):
        columns += [("right labels, %", f"by {name}", list(map(_percent, values))) for name, values in right.items()]
    for split in ("eval", "test"):
        for name in SCORED if any(entry.get(split) for entry in run.phases) else ():
            scores = [_percent(run.score(entry, split, name)) for entry in run.phases]
            columns.append((f"{split} {run.metric_name}, %", name, scores))
    return _table(columns)


def _worth(run: Run, gain: Gain) -> str:
    """Every metric before and after, with a mark if it may be chance."""
    images = f" on {gain.images:,} {gain.split} images" if gain.images else f" on the {gain.split} split"
    lines = [f"{'in %' + images:32}{'labels alone':>14}{'with unlabeled':>16}{'change':>9}"]
    for key, changes in gain.distinct().items():
        for name, change in changes.items():
            title = run.measures[key] if name == next(iter(changes)) else ""
            chance = "" if change.beyond_chance is not False else "  chance?"
            figures = f"{_percent(change.before):>14}{_percent(change.after):>16}{signed(change.points):>9}{chance}"
            lines.append(f"{title:24}{name:8}{figures}".rstrip())
    lines += [_filled(note) for note in notes(run, gain)]
    return "\n".join(lines)


def notes(run: Run, gain: Gain) -> list[str]:
    """What a reader must know about the figures: whose they are, the majority's score, chance, a missing test split."""
    found = []
    classes = by_class(run)
    if classes is not None and classes.majority is not None:
        name, share = classes.majority
        mean = 1 / max(1, classes.present)
        more = "" if abs(share - mean) < 0.001 else f", and {_percent(mean)} % mean per-class accuracy"
        found.append(f"Always predicting {printable(name)!r} would score {_percent(share)} % accuracy{more}.")
    if len(gain.distinct()) < len(gain.changes) and not run.is_pixels:
        found.append("Classes are equally frequent, so mean per-class accuracy equals accuracy.")
    if any(change.beyond_chance is not None for of in gain.changes.values() for change in of.values()):
        found.append(
            f"Chance is judged by a paired permutation test over the {gain.split} images (95 %). Other seeds and other "
            "labeled images vary more."
        )
    scores = {name: change.after for name, change in gain.changes[run.metric].items()}
    if any(run.score(run.phases[-1], gain.split, name) not in (None, score) for name, score in scores.items()):
        found.append(
            "The exported pair is not the one at the end of the last phase, but the checkpoint that was best on the "
            "eval split."
            if run.finished
            else "Training stopped within a phase: the exported pair is later than the last finished phase."
        )
    if gain.split == "eval":
        found.append(
            "There is no test split. The eval split also chose the exported model, so these figures are optimistic."
        )
    return found


def _failures(run: Run) -> str:
    classes = by_class(run)
    if classes is None:
        return ""
    rows = [row for row in classes.rows if row.occurs][:_WORST]
    measure = "IoU" if run.is_pixels else "accuracy"
    table: list[tuple[str, str, list[str]]] = [
        ("", "weakest classes", [_short(row.name) for row in rows]),
        ("", "pixels" if run.is_pixels else "images", [f"{row.units:,}" if row.units else "-" for row in rows]),
        ("", f"{measure}, %", [_percent(row.after["ensemble"]) for row in rows]),
    ]
    if classes.compared:
        table.append(("", "change", ["" if row.change is None else signed(row.change) for row in rows]))
    text = _table(table, left=(0,), beside=["" if not (m := row.mistaken_for) else _short(m[0]) for row in rows])
    if classes.never_found and len(classes.never_found) > _WORST:
        text += f"\n{len(classes.never_found)} of {classes.present} classes are never found."
    return text


def _steps(run: Run, given: Given | None) -> str:
    lines = ["what to do next"]
    for number, step in enumerate(next_steps(run, str(run.folder), given), start=1):
        lines.append(textwrap.fill(step.why, WIDTH, initial_indent=f"  {number}. ", subsequent_indent="     "))
        lines += [command_lines(step.command, "     ")] if step.command else []
    return "\n".join(lines)


def command_lines(command: str, indent: str) -> str:
    """A command that can be copied, broken before flags if it is longer than a line."""
    groups: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if groups and not word.startswith("--"):
            groups[-1] += f" {word}"
        else:
            groups.append(word)
    lines = [indent + groups[0]]
    for group in groups[1:]:
        if len(lines[-1]) + len(group) + 1 <= WIDTH - len(" \\"):
            lines[-1] += f" {group}"
        else:
            lines.append(f"{indent}    {group}")
    return " \\\n".join(lines)


def _table(
    columns: Sequence[tuple[str, str, list[str]]], *, left: tuple[int, ...] = (), beside: list[str] | None = None
) -> str:
    """Columns under their titles, and groups of columns under a common title. `beside`: an unaligned last column."""
    widths = [max(len(title), *map(len, cells)) for _, title, cells in columns]
    groups: list[tuple[str, list[int]]] = []
    for at, (group, *_) in enumerate(columns):
        if groups and groups[-1][0] == group:
            groups[-1][1].append(at)
        else:
            groups.append((group, [at]))
    for title, members in groups:  # a group is at least as wide as its title
        short = len(title) - (sum(widths[at] for at in members) + len(members) - 1)
        widths[members[0]] += max(0, short)

    def line(cells: Sequence[str]) -> str:
        sized = enumerate(zip(cells, widths, strict=True))
        placed = [cell.ljust(width) if at in left else cell.rjust(width) for at, (cell, width) in sized]
        return "  ".join(" ".join(placed[at] for at in members) for _, members in groups)

    spans = [sum(widths[at] for at in members) + len(members) - 1 for _, members in groups]
    lines = ["  ".join(title.rjust(span) for (title, _), span in zip(groups, spans, strict=True)).rstrip()]
    lines += [line([title for _, title, _ in columns])]
    lines += [line([cells[row] for *_, cells in columns]) for row in range(len(columns[0][2]))]
    if beside is not None and any(beside):
        lines[1] += "  most often confused with"
        lines[2:] = [f"{text}  {extra}" for text, extra in zip(lines[2:], beside, strict=True)]
    return "\n".join(text.rstrip() for text in lines if text.strip())


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


def _short(name: Any) -> str:
    text = printable(name)
    return text if len(text) <= 24 else text[:23] + "~"


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f}"
