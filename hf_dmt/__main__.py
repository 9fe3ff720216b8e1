"""The `hf-dmt COMMAND ...` command line, also `python -m hf_dmt COMMAND ...`.

Each command is a module in `hf_dmt/commands/` with `main(argv) -> exit code`. Only the requested one is imported,
because torch and transformers take seconds to load and `hf-dmt --help` should not.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

COMMANDS = {
    "train": "train two models on few labels and many unlabeled images (no flags: embedded digits)",
    "check": "dry run of train: validate data and models, estimate time and memory",
    "predict": "label a folder or data set with a trained pair",
    "compare": "compare methods on the same splits, models and number of image passes",
    "queue": "export the images on which the two models disagree most, for labeling",
    "demo": "try a trained pair in the browser",
    "push": "publish a trained pair, or its pseudo labels, on the Hub",
    "env": "print versions and hardware for a bug report",
}

EXAMPLES = """\
examples:
  hf-dmt train
  hf-dmt train --model_a google/vit-base-patch16-224-in21k --model_b facebook/dinov2-base \\
      --dataset_name my_images/ --unlabeled_dir my_unlabeled_images/ --output_dir runs/mine
  hf-dmt predict runs/mine my_unlabeled_images/ --to labels.csv

hf-dmt COMMAND --help explains a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Its exit code; 2 for an unknown command, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = given
    if name in ("-V", "--version"):
        print(f"hf-dmt {metadata.version('hf-dmt')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean `hf-dmt {near[0]}`?" if near else f"Choose one of: {', '.join(COMMANDS)}."
        print(f"hf-dmt: error: Unknown command {name!r}. {hint}", file=sys.stderr)
        return 2
    return called(lambda given: _run(name, given), rest)


def _run(name: str, given: list[str]) -> int:
    instead = {"-h", "--help", "--help_all", "--json"} & {word.partition("=")[0] for word in given}
    if name in ("train", "check") and "RANK" not in os.environ and not instead:
        from .hub.model_ids import not_found

        if problem := not_found(given):
            print(f"hf-dmt: error: {problem}", file=sys.stderr)
            return 2 if name == "train" else 1
    code: int = importlib.import_module(f"hf_dmt.commands.{name}").main(given)
    return code


def called(command: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command for a terminal: Ctrl-C ends it without a traceback, a name that the terminal's encoding cannot show
    is escaped where it would have been an error, and paths may start with ~.

    Returns:
        Its exit code; 2 for an empty argument, 130 after Ctrl-C, 141 if nobody reads the output anymore.
    """
    words = [_from_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    for place, word in enumerate(words):
        if not word or (word.startswith("--") and word.endswith("=")):  # an empty path would be the current folder
            name = word[:-1] or (words[place - 1] if place and words[place - 1].startswith("-") else "An argument")
            print(f"hf-dmt: error: {name} is empty. Give a value; a shell variable may not be set.", file=sys.stderr)
            return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command(words)
    except KeyboardInterrupt:
        print("\nhf-dmt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough: `hf-dmt check ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would flush once more at exit
        return 141


def _from_home(word: str) -> str:
    """`--to=~/labels.csv` with the home folder in full, which a shell only writes at the start of a word."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + (os.path.expanduser(value) if value.startswith("~/") else value)


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{what}" for name, what in COMMANDS.items()]
    about = "Dynamic Mutual Training: two pretrained image models teach each other on unlabeled images."
    return "\n".join(["usage: hf-dmt COMMAND [ARGUMENTS]", "", about, "", "commands:", *lines, "", EXAMPLES])


if __name__ == "__main__":
    sys.exit(main())
