"""`hf-dmt check`: dry run of `hf-dmt train` with the same flags. It trains nothing and writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .launch import start
from .train import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; returns 0 if the run can start, 1 if there is a problem, 2 for invalid arguments."""
    given = list(sys.argv[1:] if argv is None else argv)
    return start("train", [*given, "--check"], run)
