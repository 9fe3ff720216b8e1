"""What commands share: their parser, and what they print. In messages, settings are named by their flags, and tokens
are removed."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from functools import cache

from ...data.escaping import without_tokens
from .command_line import Parser

_FIRST_SPEAKS_S = 3.0
_NAMED = re.compile(r"`([\w.]+)(?:=([^`]+))?`")
# Names in messages for Python callers whose flags have other names.
_FLAG_OF = {"unlabeled_dataset": "unlabeled_dir", "ModelPair.from_pretrained": "pair"}


def as_flags(message: str) -> str:
    """A message for a terminal: `` `learning_rate` `` becomes `--learning_rate`, and `` `train='head'` ``
    becomes `--train head`.

    Messages name a setting once, as a Python caller writes it: the same errors are raised by `DMTTrainer(...)` and by
    `hf-dmt train`. Other words in backticks stay as they are.
    """
    if "`" not in message:
        return message

    def flag(found: re.Match[str]) -> str:
        name = _FLAG_OF.get(found[1], found[1])
        return f"--{name}{_typed(found[2] or '')}" if name in _flags() else found[0]

    return _NAMED.sub(flag, message)


@cache
def _flags() -> set[str]:
    """The names of all flags of a run."""
    return {action.dest for action in Parser()._actions}


def _typed(value: str) -> str:
    """A value as it follows a flag: no quotes or brackets, `true` and `false`; `=` before a word that starts with a
    dash, which would be read as the next flag."""
    bare = re.sub(r"['\[\],]", "", value)
    bare = bare.lower() if bare in ("True", "False") else bare
    return f"={bare}" if bare.startswith("-") else f" {bare}".rstrip()


class _Terminal(logging.Formatter):
    """Formats what is logged, with flags for settings."""

    def format(self, record: logging.LogRecord) -> str:
        return as_flags(super().format(record))


def speak_in_flags() -> None:
    """From now on, log messages name settings by their flags, as errors on the command line do."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Terminal())


def command_parser(command: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of `hf-dmt COMMAND`; `about` is the docstring of its module."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(f"hf-dmt {command}", description=about, formatter_class=form, allow_abbrev=False)


def print_error(message: str) -> None:
    """Print an error message to stderr, with anything that looks like a token removed, since it may quote user input.

    With several processes, the first one prints at once, and the launcher then ends the others. A process that is still
    running after a while has a different problem and prints it, too.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank > 0:
        time.sleep(_FIRST_SPEAKS_S)
    by = f" (process {rank})" if rank > 0 else ""
    print(f"hf-dmt: error{by}: {without_tokens(as_flags(message))}", file=sys.stderr, flush=True)
