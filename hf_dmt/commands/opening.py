"""Load what the flags of a run refer to: the class names of its models, and the pair."""

from __future__ import annotations

from ..models import loading
from ..models.networks import tiny
from ..models.pair import ModelPair
from ..models.sources import config_of
from ..training.settings.arguments import DMTTrainingArguments
from ..training.settings.command_line import ModelArguments


def common_classes(model_args: ModelArguments, args: DMTTrainingArguments, count: int) -> list[str] | None:
    """The class names for data with `count` unnamed classes: those of both checkpoints if they agree and have as many.

    Six classes of one's own are not the first six of ImageNet. A pair that is trained further knows the classes, some
    of which may have no label this time.
    """
    if model_args.pair is not None:
        code = model_args.trust_remote_code
        names = ModelPair.from_pretrained(model_args.pair, token=args.hub_token, trust_remote_code=code).class_names
        return names if count <= len(names) else None
    sources = [model_args.model_a or "", model_args.model_b or ""]
    if any(source.startswith(tiny.PREFIX) for source in sources):
        return None
    configs = [
        config_of(source, trust_remote_code=model_args.trust_remote_code, token=args.hub_token) for source in sources
    ]
    of_a, of_b = (loading.label_names(config) if loading.has_named_classes(config) else None for config in configs)
    return of_a if of_a and of_a == of_b and len(of_a) == count else None


def describe_masks(pair: ModelPair, reduce_labels: bool) -> None:
    """Record in processors that can read masks how the masks of this run are stored, so that further training reads
    them the same way."""
    for processor in (pair.processor_a, pair.processor_b):
        if hasattr(processor, "do_reduce_labels"):
            processor.do_reduce_labels = reduce_labels


def build_pair(model_args: ModelArguments, args: DMTTrainingArguments, class_names: list[str]) -> ModelPair:
    """Load the saved pair, or build a new one whose heads have exactly the classes of the data."""
    if model_args.pair is not None:
        pair = ModelPair.from_pretrained(
            model_args.pair, token=args.hub_token, trust_remote_code=model_args.trust_remote_code
        )
        if pair.class_names != class_names:
            raise ValueError(
                f"The pair {model_args.pair!r} predicts {len(pair.class_names)} classes "
                f"({', '.join(pair.class_names[:3])}, ...), but the data has {len(class_names)} "
                f"({', '.join(class_names[:3])}, ...). Use data with the same classes, or start from two models with "
                "--model_a and --model_b."
            )
        if model_args.image_size not in (None, pair.image_size):
            raise ValueError(
                f"--image_size {model_args.image_size} is for two models, and the pair {model_args.pair!r} is trained "
                f"at {pair.image_size}. Leave it out, or start from two models with --model_a and --model_b."
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
