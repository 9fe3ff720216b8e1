"""`hf-dmt train --help` on two screens, and `--help_all` with every flag.

`--help_all` shows the full help texts from the declarations; `--help` has a shorter line for each of its flags,
followed by the same default.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from dataclasses import fields

from ...data.arguments import DataArguments
from .arguments import REPLACED
from .knobs import KNOBS, RUN_SETTINGS
from .methods import PRESETS

# The flags of `--help`. A default in brackets is added unless the line has its own, for defaults found at run time.
FIRST: dict[str, dict[str, str]] = {
    "models (two checkpoints of any architecture, or a saved pair)": {
        "task": "image-classification or semantic-segmentation",
        "model_a": "Hub id, folder, or tiny:vit, tiny:resnet, ...",
        "model_b": "The other model, of any architecture for the same task",
        "pair": "Hub id or folder of a saved pair, instead of two models",
        "image_size": "Side of the training views [from the models]",
        "train": "Weights to train: all, head, norms or last:N blocks",
        "trust_remote_code": "Run model code that comes with a checkpoint",
    },
    "images (default: the embedded digits)": {
        "dataset_name": "Hub id, folder, or embedded: digits, digit-scenes",
        "unlabeled_dir": "Folder of unlabeled images, searched recursively",
        "unlabeled_dataset_name": "Hub id or folder of unlabeled images",
        "num_labeled": "Number of labels to use; other images become unlabeled",
        "labeled_ids": "File with the ids of the labeled images",
        "extra_labels": "Answered labeling queue, or a CSV with id, label",
        "train_split": "Split to train on [train]",
        "eval_split": "Split to evaluate on [validation, or 20 % of labels]",
        "test_split": "Split for final scores only [test]",
        "test_fraction": "Without one, hold out this fraction of the labels",
        "label_column": "Column with the labels or masks [detected]",
        "id2label": "JSON file with the class names",
        "skip_corrupt_images": "Skip images that cannot be read",
        "augmentation": "none, weak, strong, or scale-crop-flip for masks",
        "horizontal_flip": "Flip half of the views; false for text and digits",
    },
    "method (see docs/methods.md and docs/settings.md)": {
        "method": f"{', '.join(PRESETS)}",
        "label_ratios": "Fractions of pseudo labels to keep, one phase each",
        "supervised_epochs": "Epochs over the labeled images in phase 0",
        "phase_epochs": "Epochs over the selected images in later phases",
        "labeled_batch_size": "Labeled images per update",
        "pseudo_batch_size": "Pseudo-labeled images per update",
        "gamma1": "Exponent of the weight if a and b agree",
        "gamma2": "Exponent of the weight if they disagree",
        "labeler": "Where pseudo labels come from: peer, self or graph",
        "strategy": "When labels are made: between phases, or online",
        "class_balanced": "Select labels separately for each predicted class",
        "ema_decay": "Decay of the weight average; 0 turns it off",
    },
    "training": {
        "learning_rate": "Learning rate of both models",
        "learning_rate_b": "Learning rate of model b [the same]",
        "max_steps": "Limit every phase to N updates, for a quick try",
        "seed": "Seed for new weights and for training",
        "bf16": "Compute in bfloat16; halves activation memory",
        "gradient_accumulation_steps": "Split each update into N parts, to save memory",
        "member_schedule": "Train a and b together, or alternate to save memory",
        "dataloader_num_workers": "Number of processes that load images",
        "use_cpu": "Do not use a GPU",
        "num_processes": "Training processes [`accelerate config`, or one per GPU]",
        "accelerate_config": "Accelerate config file",
    },
    "output": {
        "output_dir": "Output folder [a new folder runs/<data>-<n>]",
        "resume_from_checkpoint": "true (the latest), a checkpoint, or a Hub id",
        "logging_steps": "Updates between log entries",
        "report_to": "tensorboard, wandb, trackio, ...",
        "check": "Dry run, as with `hf-dmt check`; --json for programs",
    },
    "hub": {
        "push_to_hub": "Push the pair with its card and report to the Hub",
        "hub_model_id": "Repository, owner/name [the name of --output_dir]",
        "hub_private_repo": "Create the repository as private",
    },
}

# Replaces stock help texts that do not fit a run in phases.
_STOCK = {
    "learning_rate": "Learning rate of both models, or of a with --learning_rate_b.",
    "max_steps": "Limit every phase to this many updates, to try out a whole run.",
    "seed": "Seed for newly initialized weights and for all randomness in training.",
    "output_dir": "Output folder; default: a new folder runs/<data>-<n>.",
    "resume_from_checkpoint": "true continues from the last checkpoint in --output_dir; or give a path or a Hub id.",
    "push_to_hub": "Push the pair with its card and report to the Hub.",
    "hub_model_id": "Repository, owner/name; default: the name of --output_dir.",
    "warmup_steps": "Warmup updates at the start of each phase; below 1: as a fraction of the phase.",
}

# Stock flags without effect here, besides those that are refused.
_MEANINGLESS = (
    *("do_train", "do_eval", "do_predict", "remove_unused_columns", "length_column_name", "liger_kernel_config"),
    *("average_tokens_across_devices", "use_cache", "local_rank", "deepspeed"),
)
_OTHERS = "stock flags of transformers.TrainingArguments"
_WIDEST = 100


def terminal_width() -> int:
    """Columns of the terminal, at most 100; 100 if there is no terminal."""
    return min(_WIDEST, shutil.get_terminal_size((_WIDEST, 50)).columns)


def screens(parser: argparse.ArgumentParser, launcher: argparse.ArgumentParser, width: int | None = None) -> str:
    """The two screens of `--help`.

    Args:
        launcher: the parser of the flags that start processes.
    """
    actions = _actions(launcher) | _actions(parser)
    groups = {
        group: {name: line if "[" in line else line + _in_brackets(actions[name]) for name, line in lines.items()}
        for group, lines in FIRST.items()
    }
    last = "--help_all lists every flag. A boolean flag takes true or false; without a value it means true."
    return _page(parser, groups, width, last)


def everything(parser: argparse.ArgumentParser, launcher: argparse.ArgumentParser, width: int | None = None) -> str:
    """Every flag that has an effect; in each group, those of `--help` come first."""
    actions = _actions(launcher) | _actions(parser)
    groups = {group: {name: _full(actions[name]) for name in lines} for group, lines in FIRST.items()}
    shown = {name for lines in groups.values() for name in lines}
    groups |= {_OTHERS: {}, "processes": {}}
    _, images, method, training, output, hub, *_ = groups
    own = {
        **{field.name: images for field in fields(DataArguments)},
        **dict.fromkeys(KNOBS, method),
        **dict.fromkeys(RUN_SETTINGS, training),
        **dict.fromkeys(_actions(launcher), "processes"),
        "json": output,
    }
    for name, action in actions.items():
        if name not in shown and name not in REPLACED and name not in _MEANINGLESS:
            groups[own.get(name, hub if name.startswith("hub_") else _OTHERS)][name] = _full(action)
    return _page(parser, groups, width, "A boolean flag takes true or false; without a value it means true.")


def _page(parser: argparse.ArgumentParser, groups: dict[str, dict[str, str]], width: int | None, last: str) -> str:
    width = width or terminal_width()
    lines = [f"usage: {parser.prog} [CONFIG.yaml] [--flag VALUE ...]", ""]
    lines += textwrap.wrap(parser.description or "", width)
    for group, entries in groups.items():
        lines += ["", group]
        for name, text in entries.items():
            lines += _entry(name, text, width)
    return "\n".join([*lines, "", *textwrap.wrap(last, width)])


def _entry(name: str, text: str, width: int) -> list[str]:
    column = 28
    flag = f"  --{name}"
    wrapped = textwrap.wrap(text, width - column, break_on_hyphens=False) or [""]
    if len(flag) > column - 2:
        return [flag, *(" " * column + line for line in wrapped)]
    first, *others = wrapped
    return [flag.ljust(column) + first, *(" " * column + line for line in others)]


def _full(action: argparse.Action) -> str:
    name = action.dest
    declared = KNOBS.get(name) or RUN_SETTINGS.get(name)
    if declared is not None:
        return f"{declared.help.rstrip('.')}{'' if 'default:' in declared.help else _in_brackets(action)}"
    told = _STOCK.get(name) or (action.help or "").replace("%%", "%")
    first = " ".join(told.split()).split(". ")[0].rstrip(".")  # stock texts can be several paragraphs long
    return first if "default" in first.lower() else first + _in_brackets(action)


def _in_brackets(action: argparse.Action) -> str:
    """` [default]`; an empty string for flags that are off by default or have no default."""
    name = action.dest
    if name in KNOBS:
        return f" [{KNOBS[name].default_text.replace(' (masks: ', '; masks: ').rstrip(')')}]"
    value = getattr(action.default, "value", action.default)  # of an enumeration
    if value is None or value is False or value in ("", argparse.SUPPRESS) or name == "max_steps":
        return ""
    if isinstance(value, (list, tuple)):
        return f" [{' '.join(map(str, value))}]" if value else ""
    return f" [{value:g}]" if isinstance(value, float) else f" [{str(value).lower() if value is True else value}]"


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Actions by name, in order. `--no_x`, which the stock parser adds for flags that are on, shares the name
    of `--x`."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            found.setdefault(action.dest, action)
    return found
