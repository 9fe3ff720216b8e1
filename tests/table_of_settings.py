"""The table of all settings in docs/settings.md, generated from their declarations.

`python -m tests.table_of_settings docs/settings.md` rewrites it between its two markers.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from hf_dmt.training.settings.declaration import Setting
from hf_dmt.training.settings.knobs import KNOBS, RUN_SETTINGS

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    """A heading and a Markdown table for each group of settings."""
    every = [*KNOBS.values(), *RUN_SETTINGS.values()]
    return "\n".join(_part(group, list(found)) for group, found in groupby(every, key=lambda one: one.group))


def with_table(page: str) -> str:
    """The page with an updated table.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The page has no place for the table. Add the lines {BEGIN} and {END} where it should go.")
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def _part(group: str, settings: list[Setting]) -> str:
    rows = [f"| `--{one.name}` | {one.values_text} | {one.default_text or '-'} | {one.help} |" for one in settings]
    heading = ["| flag | values | default | what it does |", "|---|---|---|---|"]
    return "\n".join([f"### {group[0].upper()}{group[1:]}", "", *heading, *rows, ""])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        file.write_text(with_table(file.read_text(encoding="utf-8")), encoding="utf-8")
