"""`hf-dmt check`: what `hf-dmt train` with the same flags would meet. Trains nothing, writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .launch import start
from .train import run


def main(argv: Sequence[str] | None = None) -> int:
    """Check; returns 0 if the run can be started, 1 if there is a problem, 2 for a mistake in what was given."""
    given = list(sys.argv[1:] if argv is None else argv)
    return start("train", [*given, "--check"], run)
