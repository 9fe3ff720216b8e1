"""`hf-dmt COMMAND ...`, also `python -m hf_dmt COMMAND ...`.

Each command is a module of `hf_dmt/commands/` with `main(argv) -> exit code`. Only the one that is called is imported:
torch and transformers take seconds, which `hf-dmt --help` should not.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

COMMANDS = {
    "train": "train two models on few labels and many unlabeled images (no flags: embedded digits)",
    "check": "dry run of train: validate data and models, estimate time and memory",
    "predict": "label a folder or data set with a trained pair",
    "compare": "compare methods on one split, one pair of models and one budget",
    "queue": "export the images on which two models disagree most, for a person to label",
    "demo": "open a trained pair in the browser",
    "push": "publish a run's pair, or its pseudo labels, on the Hub",
    "env": "print versions and hardware, for a bug report",
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
        Its exit code; 2 where there is no such command, 130 after Ctrl-C.
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
        print(f"hf-dmt: error: There is no command {name!r}. {hint}", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(f"hf_dmt.commands.{name}")
        code: int = command.main(rest)
    except KeyboardInterrupt:
        print("\nhf-dmt: interrupted", file=sys.stderr)
        return 130
    return code


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{what}" for name, what in COMMANDS.items()]
    about = "Dynamic Mutual Training: two pretrained image models teach each other on unlabeled images."
    return "\n".join(["usage: hf-dmt COMMAND [ARGUMENTS]", "", about, "", "commands:", *lines, "", EXAMPLES])


if __name__ == "__main__":
    sys.exit(main())
