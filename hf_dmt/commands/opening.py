"""Load what the flags of a run refer to: the class names of its models, and the pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.pair_file import member_folder, read_pair_file
from ..data.splitting.classes import ModelClasses
from ..data.splitting.splits import SPLIT_FILE
from ..hub.config_file import class_names_of, read_config
from ..hub.repository import fetch_pair
from ..models.class_names import has_named_classes, label_names
from ..models.networks import tiny
from ..models.pair import ModelPair
from ..models.sources import config_of
from ..report.results_file import read_split
from ..training.settings.arguments import DMTTrainingArguments
from ..training.settings.command_line import ModelArguments


@dataclass(frozen=True)
class FoundModels:
    """The models that the flags of a run name, before their weights are loaded.

    Attributes:
        classes: the class names for data with a given number of unnamed classes. Of two models, those of both
            checkpoints if they agree and have as many, else None: six classes of one's own are not the first six of
            ImageNet. A pair that is trained further knows the classes, some of which may have no label this time.
        folder: the files of a saved pair, all from one commit; None for two models.
        split: the `split.json` of the run that left the pair; {} for two models, or a pair without that file.
    """

    classes: ModelClasses
    folder: Path | None = None
    split: dict[str, Any] = field(default_factory=dict)


def look_up_models(model_args: ModelArguments, args: DMTTrainingArguments) -> FoundModels:
    """Look up the models before the images are opened: a mistyped id should not wait for the scan of a million files.

    Raises:
        ValueError: no such model or pair, or a configuration or `split.json` that cannot be read.
    """
    if model_args.pair is not None:
        folder = fetch_pair(model_args.pair, token=args.hub_token, with_code=model_args.trust_remote_code)
        facts = read_pair_file(folder, model_args.pair)
        if facts["task"] != model_args.task:
            raise ValueError(
                f"The pair {model_args.pair!r} is for {facts['task']}, and `task` is {model_args.task}. Pass "
                f"`task={facts['task']}`, or choose another pair."
            )
        of_pair = class_names_of(read_config(member_folder(folder, facts, "a")))
        split = read_split(folder / SPLIT_FILE)
        return FoundModels(lambda count: of_pair if count <= len(of_pair) else None, folder, split)
    of_a, of_b = (_class_names(source or "", model_args, args) for source in (model_args.model_a, model_args.model_b))
    return FoundModels(lambda count: of_a if of_a and of_a == of_b and len(of_a) == count else None)


def _class_names(source: str, model_args: ModelArguments, args: DMTTrainingArguments) -> list[str] | None:
    if source.startswith(tiny.PREFIX):
        tiny.check_name(source, model_args.task)
        return None
    config = config_of(source, trust_remote_code=model_args.trust_remote_code, token=args.hub_token)
    return label_names(config) if has_named_classes(config) else None


def describe_masks(pair: ModelPair, reduce_labels: bool) -> list[str]:
    """Record in processors that can read masks how the masks of this run are stored.

    Returns:
        A warning if the pair that is trained further was trained on masks that are stored in another way: if their
        highest class does not occur, all others would be taken for the class below.
    """
    processors = [found for found in (pair.processor_a, pair.processor_b) if hasattr(found, "do_reduce_labels")]
    reduced_before = any(processor.do_reduce_labels for processor in processors)
    for processor in processors:
        processor.do_reduce_labels = reduce_labels
    if not reduced_before or reduce_labels:
        return []
    return [
        "Warning: in the masks that the pair was trained on, 0 means 'no label'; now it means "
        f"{pair.class_names[0]!r}. If these masks are stored in the same way, pass `reduce_labels`."
    ]


def build_pair(
    model_args: ModelArguments, args: DMTTrainingArguments, class_names: list[str], folder: Path | None = None
) -> ModelPair:
    """Load the saved pair, or build a new one whose heads have exactly the classes of the data.

    Args:
        folder: the files of the saved pair, if they were looked up before.
    """
    if model_args.pair is not None:
        with_code = model_args.trust_remote_code
        folder = folder or fetch_pair(model_args.pair, token=args.hub_token, with_code=with_code)
        pair = ModelPair.from_folder(folder, model_args.pair, trust_remote_code=with_code)
        if pair.class_names != class_names:
            raise ValueError(
                f"The pair {model_args.pair!r} predicts {len(pair.class_names)} classes "
                f"({', '.join(pair.class_names[:3])}, ...), but the data has {len(class_names)} "
                f"({', '.join(class_names[:3])}, ...). Use data with the same classes, or start from two models with "
                "`model_a` and `model_b`."
            )
        if model_args.image_size not in (None, pair.image_size):
            raise ValueError(
                f"`image_size={model_args.image_size}` is for two models, and the pair {model_args.pair!r} is trained "
                f"at {pair.image_size}. Leave it out, or start from two models with `model_a` and `model_b`."
            )
        return pair
    return ModelPair.from_models(
        model_args.model_a or "",
        model_args.model_b or "",
        task=model_args.task,
        id2label=dict(enumerate(class_names)),
        image_size=model_args.image_size,
        seed=args.seed,
        trust_remote_code=model_args.trust_remote_code,
        token=args.hub_token,
    )
