"""Flags and config files of `hf-dmt train`."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ...data.arguments import DataArguments
from ...data.escaping import is_text
from ...data.files import Ambiguous, read_json, read_yaml
from ...data.tasks import TASKS
from .arguments import REPLACED, DMTTrainingArguments

RECIPES = {"image-classification": "digits.yaml", "semantic-segmentation": "digit-scenes.yaml"}

# For each setting, those that it replaces in a config file or recipe if it is given closer to the user.
_REPLACES: dict[str, set[str]] = {
    "num_labeled": {"labeled_fraction", "labeled_ids"},
    "labeled_fraction": {"num_labeled", "labeled_ids"},
    "labeled_ids": {"num_labeled", "labeled_fraction"},
    "unlabeled_dir": {"unlabeled_dataset_name", "unlabeled_split"},
    "unlabeled_dataset_name": {"unlabeled_dir"},
    "unlabeled_split": {"unlabeled_dir"},
    "pair": {"model_a", "model_b", "image_size"},
    "model_a": {"pair"},
    "model_b": {"pair"},
    "train": {"freeze_backbone"},
    "freeze_backbone": {"train"},
    "id2label": {"mask_colors"},
    "mask_colors": {"id2label"},
}

_OFFICIAL = "--official true now sets everything that follows the official code where it has bugs"

# Flags of other training scripts, whose nearest names here mean something else.
_ELSEWHERE = {
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs"), "Use --supervised_epochs and --phase_epochs."),
    **dict.fromkeys(("batch_size", "train_batch_size"), "Use --labeled_batch_size and --pseudo_batch_size."),
    **dict.fromkeys(("lr", "rate"), "Use --learning_rate."),
    **dict.fromkeys(("model", "model_name_or_path"), "Use --model_a and --model_b."),
    **dict.fromkeys(("data", "data_dir", "dataset", "train_dir"), "Use --dataset_name."),
    **{"output": "Use --output_dir.", "num_workers": "Use --dataloader_num_workers."},
    **dict.fromkeys(("config", "config_file"), "Put the config file first: hf-dmt train FILE."),
}
# Flags of earlier versions, and their replacements.
REPLACED_FLAGS = {
    "difference_maximised_sampling": "It is spelled --difference_maximized_sampling now.",
    "ema_rule": f"{_OFFICIAL}; without it --ema_decay is a true average.",
    "selection_rule": f"{_OFFICIAL}; without it the count is exact.",
    "mixup_weighting": f"{_OFFICIAL}; without it each of the two labels has its own weight.",
    "weight_decay_everywhere": f"{_OFFICIAL}; without it biases and norms do not decay.",
    "rollback_on_collapse": "Collapsing labels are reported with suggestions; nothing is rolled back.",
}


@dataclass
class ModelArguments:
    """Flags that choose the task and the models, or request a dry run."""

    task: str = field(
        default="image-classification",
        metadata={"help": "image-classification or semantic-segmentation.", "choices": list(TASKS)},
    )
    model_a: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder, or a small network to train from scratch: tiny:vit, tiny:resnet, ..."},
    )
    model_b: str | None = field(
        default=None, metadata={"help": "The other model, of any architecture for the same task."}
    )
    pair: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a saved pair, instead of two models."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the training views in pixels (default: taken from the models)."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that comes with a checkpoint."})
    check: bool = field(
        default=False,
        metadata={"help": "Dry run: validate images and models, try a few updates, estimate time and memory."},
    )
    json: bool = field(default=False, metadata={"help": "With --check: print the findings as JSON."})


class UsageError(ValueError):
    """Invalid flags or config files."""


def _true_false_or_auto(word: str) -> bool | None:
    if word.lower() == "auto":
        return None
    try:
        value: bool = string_to_bool(word)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{word!r} is not one of: auto, true, false") from None
    return value


class Parser(HfArgumentParser):
    """`HfArgumentParser` without abbreviated flags, and with one line per mistake instead of 150 lines of usage."""

    def __init__(self) -> None:
        super().__init__(
            [ModelArguments, DataArguments, DMTTrainingArguments],  # type: ignore[arg-type]
            allow_abbrev=False,
            prog="hf-dmt train",
            description="Two models learn from few labels, many unlabeled images and each other. Flags override the "
            "config file (YAML or JSON, or the name of an embedded recipe: digits, digit-scenes).",
        )
        # argparse takes -1e-3 and -inf for flags, and would not say which value is wrong.
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf$|nan$)", re.IGNORECASE)
        for action in self._actions:  # `auto` means that a knob is not set
            if action.type is string_to_bool and action.default is None:
                action.type = _true_false_or_auto

    def error(self, message: str) -> NoReturn:
        hint = " Separate several values by spaces." if re.search(r"invalid \w+ value: '[^']*,", message) else ""
        raise UsageError(f"{message}.{hint} All flags: hf-dmt train --help")


def parse(argv: Sequence[str], recipes: Path) -> tuple[ModelArguments, DataArguments, DMTTrainingArguments]:
    """Combine flags, config file and, if no data set is named, the embedded default of the task.

    Flags override the config file, which overrides the default, also if two settings exclude each other:
    `--labeled_ids` on the command line replaces a config file's `num_labeled`.

    Raises:
        ValueError: unknown flags or keys (with the nearest known one), wrong types, invalid settings.
    """
    parser = Parser()
    # The stock default is a fixed folder; here each run without --output_dir gets its own. Progress bars are for
    # terminals: in a log file they are thousands of lines.
    parser.set_defaults(output_dir=None, disable_tqdm=not sys.stderr.isatty())
    config, flags = _config_and_flags(parser, argv, recipes)
    given = _given(parser, flags)
    for name in replaced(config, given):
        del config[name]
    parser.set_defaults(**config)
    # These are refused in the arguments, too, but there a value that was given cannot be told from an equal default.
    for name in ("num_train_epochs", "per_device_train_batch_size"):
        if name in config | given:
            raise UsageError(f"`{name}` {(config | given)[name]} is not supported: {REPLACED[name]}.")
    first = _namespace(parser, flags)
    if first.dataset_name is None and first.task in RECIPES:
        recipe = _read_config(recipes / RECIPES[first.task], parser)
        closer = config | given
        kept = recipe.keys() - closer.keys() - replaced(recipe, closer) - _tied_to_the_default(closer)
        parser.set_defaults(**{key: recipe[key] for key in kept})
        first = _namespace(parser, flags)
    _check_text(first)
    if first.output_dir is None:
        again = str(first.resume_from_checkpoint).lower() == "true"
        parser.set_defaults(output_dir=own_folder(first.dataset_name, first.use_cpu, again=again))
    try:
        model, data, training = parser.parse_args_into_dataclasses(args=flags, look_for_args_file=False)
    except TypeError as problem:  # of a setting inside of a setting, such as --accelerator_config '{"no_such": 1}'
        raise UsageError(f"A flag cannot be used as it is given ({problem}). Correct it, or leave it out.") from problem
    _check_models(model)
    return model, data, training


def settings_given(argv: Sequence[str], recipes: Path) -> dict[str, Any]:
    """The settings in the flags and the config file, without those of an embedded default.

    Raises:
        UsageError: a config file that cannot be read, or flags without values.
    """
    parser = Parser()
    config, flags = _config_and_flags(parser, argv, recipes)
    return config | _given(parser, flags)


def _config_and_flags(parser: Parser, argv: Sequence[str], recipes: Path) -> tuple[dict[str, Any], list[str]]:
    """The settings in the config file, if there is one, and the flags."""
    if argv and not argv[0].startswith("-"):
        return _read_config(_config_file(argv[0], recipes), parser), list(argv[1:])
    return {}, list(argv)


def own_folder(dataset_name: str, use_cpu: bool, *, again: bool = False) -> str:
    """`runs/<data>-<n>`, the same on every process: a new folder, or the last one to continue in it."""
    stem = (Path(dataset_name).stem if Path(dataset_name).is_file() else Path(dataset_name).name) or "data"
    taken = [path.name.rpartition("-")[2] for path in Path("runs").glob(f"{stem}-*")]
    last = max([int(number) for number in taken if number.isdigit()], default=0)
    folder = [str(Path("runs") / f"{stem}-{last if again and last else last + 1}")]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        PartialState(cpu=use_cpu)
        broadcast_object_list(folder)
    return folder[0]


def _namespace(parser: Parser, flags: list[str]) -> argparse.Namespace:
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        if Path(unknown[0]).exists():
            what = (
                f"Pass labeled images as --dataset_name {unknown[0]}"
                if Path(unknown[0]).is_dir()
                else "Put a config file first"
            )
            raise UsageError(f"{unknown[0]!r} does not follow a flag. {what}. All flags: hf-dmt train --help")
        known = [option for action in parser._actions for option in action.option_strings]
        hint = _instead(unknown[0].partition("=")[0], known, "All flags")
        raise UsageError(f"Unknown argument {unknown[0].partition('=')[0]!r}. {hint}")
    return namespace


def _config_file(given: str, recipes: Path) -> Path:
    """The config file: a path, or the name of an embedded recipe."""
    if Path(given).is_dir():
        raise UsageError(f"{given!r} is a folder, not a config file. Pass labeled images as --dataset_name {given}.")
    if Path(given).exists() or "/" in given:
        return Path(given)
    embedded = {file.stem: file for file in recipes.glob("*.yaml")}
    if given not in embedded and not Path(given).suffix:
        near = difflib.get_close_matches(given, embedded, n=1) or sorted(embedded)
        raise UsageError(
            f"{given!r} is neither a config file nor an embedded recipe. Did you mean {' or '.join(near)}? Flags "
            "start with --."
        )
    return embedded.get(given, Path(given))


def _instead(given: str, known: Sequence[str], all_of_them: str) -> str:
    """A suggestion for a flag or config key that does not exist."""
    name = given.lstrip("-").replace("-", "_")
    if instead := REPLACED_FLAGS.get(name) or _ELSEWHERE.get(name):
        return instead
    near = difflib.get_close_matches(given, known, n=1)
    quoted = near and (near[0] if near[0].startswith("-") else repr(near[0]))
    return f"Did you mean {quoted}?" if near else f"{all_of_them}: hf-dmt train --help"


def _given(parser: Parser, flags: list[str]) -> dict[str, Any]:
    """The settings that flags set, with their values."""
    no_default = object()  # the parser fills in its defaults only where a namespace has nothing
    empty = argparse.Namespace(**{action.dest: no_default for action in parser._actions})
    found = parser.parse_known_args(flags, empty)[0]
    return {name: value for name, value in vars(found).items() if value is not no_default}


def replaced(settings: Iterable[str], closer: Mapping[str, Any]) -> set[str]:
    """Names of settings that exclude one that is given closer to the user (by name, with its value)."""
    given = {name for name, value in closer.items() if value is not None and value is not False}
    excluded = {other for name in given for other in _REPLACES.get(name, ())}
    return {name for name in settings if name in excluded and name not in closer}


def _tied_to_the_default(given: Mapping[str, Any]) -> set[str]:
    """Settings of the embedded default that only fit its own learning rate and exchange."""
    changed = {"learning_rate_b"} if "learning_rate" in given else set()
    return changed | ({"ema_decay"} if "sequential" in str(given.get("exchange")) else set())


def _check_text(given: argparse.Namespace) -> None:
    """Raises UsageError for a value that is not valid text, which no table, report or card could contain."""
    for name, value in vars(given).items():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and not is_text(word):
                raise UsageError(f"--{name} {word!a} is not UTF-8. Rename the file or folder.")


def _read_config(file: Path, parser: Parser) -> dict[str, Any]:
    try:
        content = read_json(file) if file.suffix == ".json" else read_yaml(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as problem:
        reason = " ".join(str(problem).split())
        why = f": {reason}." if isinstance(problem, Ambiguous) else f" ({reason}). Give a YAML or JSON file."
        raise UsageError(f"The config file {str(file)!r} cannot be read{why}") from problem
    if not isinstance(content, dict):
        raise UsageError(
            f"The config file {str(file)!r} contains {'nothing' if content is None else f'a {type(content).__name__}'} "
            "instead of settings. Write `name: value` lines."
        )
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    settings = {}
    for key, value in content.items():
        if key not in actions:
            hint = _instead(str(key), list(actions), "All names")
            raise UsageError(f"The config file {str(file)!r} sets {key!r}, which does not exist. {hint}")
        settings[key] = _as_meant(actions[key], value, file)
    return settings


def _as_meant(action: argparse.Action, value: Any, file: Path) -> Any:
    """A config value parsed like the flag: YAML reads 6e-5 as a string, and choices named no and true as booleans."""
    if value is None and action.default is None:
        return None
    if value in (None, ""):
        raise UsageError(
            f"The config file {str(file)!r} sets {action.dest} to nothing, but it needs a value. Give one, or "
            "delete the line."
        )
    convert = action.type if callable(action.type) else str
    if value is False and "no" in (action.choices or ()):  # `eval_strategy: no`
        value = "no"
    try:
        if action.dest == "report_to" and isinstance(value, list):  # its flag takes one word, the setting also a list
            return [_word(item) for item in value]
        if action.nargs in ("+", "*"):
            if not isinstance(value, list):
                value = [value]
            return [convert(_word(item)) for item in value]
        if isinstance(value, (list, dict)) and convert is str:
            return json.dumps(value)
        converted = convert(_word(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as problem:
        raise UsageError(
            f"The config file {str(file)!r} sets {action.dest} to {value!r}, which cannot be read: {problem}. Write "
            "it as the flag takes it (hf-dmt train --help)."
        ) from problem
    if action.choices and converted not in action.choices:
        raise UsageError(
            f"The config file {str(file)!r} sets {action.dest} to {value!r}, which does not exist. Choose one of: "
            f"{', '.join(map(str, action.choices))}."
        )
    return converted


def _word(value: Any) -> str:
    word = str(value).lower() if isinstance(value, bool) else os.path.expandvars(str(value))
    return os.path.expanduser(word) if word.startswith("~/") else word


def _check_models(model: ModelArguments) -> None:
    if model.json and not model.check:
        raise UsageError("--json prints the findings of --check, which is not given. Add it, or omit --json.")
    if model.pair is not None:
        if model.model_a or model.model_b:
            raise UsageError(
                f"--pair {model.pair!r} contains both models; omit --model_a and --model_b, or omit --pair."
            )
        return
    missing = [flag for flag in ("model_a", "model_b") if getattr(model, flag) is None]
    if missing:
        raise UsageError(
            f"--{missing[0]} is missing, but mutual training needs two models. Give --model_a and --model_b (Hub ids, "
            "folders or tiny:vit, tiny:resnet, ...), or --pair."
        )
