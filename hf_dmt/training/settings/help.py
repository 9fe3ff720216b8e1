"""`hf-dmt train --help` on two screens, and `--help_all` with every flag there is.

Full texts and defaults come from where a flag is declared. The two screens have a shorter line for each of their flags,
with the same default behind it.
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

# The flags of `--help`. Defaults in brackets are added, unless the line has some: what is found at run time.
FIRST: dict[str, dict[str, str]] = {
    "models: two checkpoints of any architecture, or a saved pair": {
        "task": "image-classification or semantic-segmentation",
        "model_a": "Hub id, folder, or tiny:vit, tiny:resnet, ...",
        "model_b": "The other model; any architecture of the same task",
        "pair": "Hub id or folder of a saved pair, instead of both",
        "image_size": "Side of training views [as the models were trained]",
        "train": "What learns: all, head, norms, last:N blocks",
        "trust_remote_code": "Run modeling code that a checkpoint brings along",
    },
    "images: without --dataset_name the embedded digits": {
        "dataset_name": "Hub id, folder, or embedded: digits, digit-scenes",
        "unlabeled_dir": "Folder of unlabeled images, flat or nested",
        "unlabeled_dataset_name": "Hub id or folder of unlabeled images",
        "num_labeled": "Labels to use; the other images become unlabeled",
        "labeled_ids": "File with the ids of the labeled images",
        "extra_labels": "Answers to a labeling queue, or a CSV of id, label",
        "train_split": "Split to train on [train]",
        "eval_split": "Split to evaluate on [validation, or 20 % of labels]",
        "test_split": "Split that is only scored [test]",
        "label_column": "Column with the labels or masks [found]",
        "id2label": "JSON file with the class names",
        "skip_corrupt_images": "Leave out images that cannot be read",
        "augmentation": "none, weak, strong, or scale-crop-flip for masks",
        "horizontal_flip": "Mirror half of the views; false for text and digits",
    },
    "method: see docs/methods.md and docs/settings.md": {
        "method": f"{', '.join(PRESETS)}",
        "label_ratios": "Labels kept, a phase each",
        "supervised_epochs": "Passes over the labeled images in phase 0",
        "phase_epochs": "Passes over the kept images in later phases",
        "labeled_batch_size": "Labeled images per update",
        "pseudo_batch_size": "Pseudo-labeled images per update",
        "gamma1": "Exponent of the weight where a and b agree",
        "gamma2": "Exponent of the weight where they disagree",
        "labeler": "Who labels: peer, self, or graph for images",
        "strategy": "Make labels between phases, or online",
        "class_balanced": "Keep labels class by class",
        "ema_decay": "Decay of averaged weights; 0 is off",
    },
    "training": {
        "learning_rate": "Of both models",
        "learning_rate_b": "Of model b [the same]",
        "max_steps": "Cut every phase to N updates, for a quick try",
        "seed": "Of weights drawn anew, and of training",
        "bf16": "Compute in bfloat16, for half the memory",
        "gradient_accumulation_steps": "Parts of an update, for less memory",
        "member_schedule": "together, or alternate for the memory of one model",
        "dataloader_num_workers": "Processes that load images",
        "use_cpu": "Do not use a GPU",
        "num_processes": "One per GPU [`accelerate config`, or all GPUs]",
        "accelerate_config": "File of settings for Accelerate",
    },
    "output": {
        "output_dir": "Where all is written [runs/<data>-<n>, a new folder]",
        "resume_from_checkpoint": "True, a checkpoint, or a Hub id",
        "logging_steps": "Updates between two log entries",
        "report_to": "tensorboard, wandb, trackio, ...",
        "check": "Dry run, as `hf-dmt check`; --json for programs",
    },
    "hub": {
        "push_to_hub": "Publish the pair, its card and report at the end",
        "hub_model_id": "Repository, owner/name [the name of --output_dir]",
        "hub_private_repo": "Make the repository private when it is made",
    },
}

# Where the stock text speaks of something else than a run of phases.
_STOCK = {
    "learning_rate": "Learning rate of both models, or of a with --learning_rate_b.",
    "max_steps": "Cut every phase to so many updates, to try a run to its end.",
    "seed": "Seed of weights drawn anew, and of what is drawn in training.",
    "output_dir": "Where everything is written; default: runs/<data>-<n>, a new folder.",
    "resume_from_checkpoint": "True goes on from the last checkpoint in --output_dir; or a path, or a Hub id.",
    "push_to_hub": "Publish the pair, its card and report at the end.",
    "hub_model_id": "Repository, owner/name; default: the name of --output_dir.",
    "warmup_steps": "Updates of each phase over which the learning rate rises; below 1: share of the phase.",
}

# Stock flags that do nothing in a run of images and phases.
_MEANINGLESS = (
    *("do_train", "do_eval", "do_predict", "prediction_loss_only", "remove_unused_columns", "label_names"),
    *("length_column_name", "neftune_noise_alpha", "include_num_input_tokens_seen", "include_tokens_per_second"),
    *("use_liger_kernel", "liger_kernel_config", "include_for_metrics", "batch_eval_metrics", "deepspeed"),
    *("eval_do_concat_batches", "eval_accumulation_steps", "average_tokens_across_devices", "group_by_length"),
    *("use_cache", "local_rank"),
)
_OTHERS = "stock flags of transformers.TrainingArguments"
_WIDEST = 100


def screens(parser: argparse.ArgumentParser, launcher: argparse.ArgumentParser, width: int | None = None) -> str:
    """The two screens of `--help`.

    Args:
        launcher: knows the flags that start processes. width: of the terminal, if it is not to be asked.
    """
    actions = _actions(launcher) | _actions(parser)
    groups = {
        group: {name: line if "[" in line else line + _in_brackets(actions[name]) for name, line in lines.items()}
        for group, lines in FIRST.items()
    }
    last = "--help_all lists every flag. Switches take true or false; given alone they are true."
    return _page(parser, groups, width, last)


def everything(parser: argparse.ArgumentParser, launcher: argparse.ArgumentParser, width: int | None = None) -> str:
    """Every flag that does something: the ones of `--help` first in their groups."""
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
    return _page(parser, groups, width, "Switches take true or false; given alone they are true.")


def _page(parser: argparse.ArgumentParser, groups: dict[str, dict[str, str]], width: int | None, last: str) -> str:
    width = width or min(_WIDEST, shutil.get_terminal_size((_WIDEST, 50)).columns)
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
    first = " ".join(told.split()).split(". ")[0].rstrip(".")  # the stock texts go on for paragraphs
    return first if "default" in first.lower() else first + _in_brackets(action)


def _in_brackets(action: argparse.Action) -> str:
    """` [default]`; nothing for a switch that is off, and for what has none."""
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
    """By name, in their order. `--no_x`, which the stock parser adds for a switch that is on, has the name of `--x`."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            found.setdefault(action.dest, action)
    return found
