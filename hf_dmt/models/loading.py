"""Load one member and prove that every weight arrived.

`from_pretrained` only warns when a tensor of the checkpoint does not reach the model, and the stock Trainer's resume does
not even load most tensors of ViT, DINOv2, Swin and SegFormer: on disk they have other names than in the module. Here a
weight that stays unloaded is an error, unless it belongs to the head that the user's classes replace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)

AUTO_CLASSES: dict[str, Any] = {
    "image-classification": AutoModelForImageClassification,
    "semantic-segmentation": AutoModelForSemanticSegmentation,
}


class CheckpointError(ValueError):
    """A checkpoint that cannot serve as a member, and what to use instead."""


def label_names(config: PretrainedConfig) -> list[str]:
    """Class names in the order of the logits."""
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def has_named_classes(config: PretrainedConfig) -> bool:
    """False for the placeholder map `LABEL_0, LABEL_1, ...` that a configuration without classes carries."""
    return any(name != f"LABEL_{index}" for index, name in enumerate(label_names(config)))


def load_config(source: str, *, trust_remote_code: bool, **hub: Any) -> PretrainedConfig:
    """The configuration of a Hub id or folder, with an error that names what was given."""
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
    except (OSError, ValueError, KeyError) as problem:
        if "trust_remote_code" in str(problem):
            raise CheckpointError(
                f"{source!r} contains its own modelling code, which is not run unless you ask for it: read that code, "
                "then pass --trust_remote_code, or choose a model that transformers has built in."
            ) from problem
        raise CheckpointError(
            f"Cannot find a model at {source!r}: it is neither a folder with a config.json nor a model id that the Hub "
            f"or the local cache knows ({_first_line(problem)}). Check the spelling, the network and your token "
            "(`hf auth login`) for private models."
        ) from problem


def load_processor(source: str, *, trust_remote_code: bool = False, **hub: Any) -> BaseImageProcessor:
    """The image processor saved beside a checkpoint."""
    try:
        return AutoImageProcessor.from_pretrained(
            source, trust_remote_code=trust_remote_code, backend="torchvision", **hub
        )
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise CheckpointError(
            f"{source!r} has no usable image processor ({_first_line(problem)}). Save one beside the model: "
            "`AutoImageProcessor.from_pretrained(<the checkpoint it was trained from>).save_pretrained(folder)`."
        ) from problem


def build(config: PretrainedConfig, task: str, *, seed: int) -> PreTrainedModel:
    """A new model with weights drawn from `seed`; the caller's random state does not move."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AUTO_CLASSES[task].from_config(config, dtype=torch.float32)


def load_for_classes(
    source: str,
    task: str,
    id2label: dict[int, str],
    *,
    seed: int,
    trust_remote_code: bool = False,
    **hub: Any,
) -> tuple[PreTrainedModel, set[str]]:
    """A pretrained model whose head has exactly the given classes.

    The checkpoint's head is kept only if it has these names in this order; otherwise it is drawn anew from `seed`.

    Returns:
        The model in float32 and the names of the tensors that were not loaded but drawn.

    Raises:
        CheckpointError: no such model, a model of another task, pickled weights, or a backbone tensor that is missing.
    """
    config = load_config(source, trust_remote_code=trust_remote_code, **hub)
    keeps_head = label_names(config) == list(id2label.values()) and has_named_classes(config)
    auto = AUTO_CLASSES[task]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, info = auto.from_pretrained(
                source,
                num_labels=len(id2label),
                id2label=id2label,
                label2id={name: index for index, name in id2label.items()},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **hub,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        text = _first_line(problem)
        if "Unrecognized configuration class" in str(problem):
            raise CheckpointError(
                f"{source!r} is a {config.model_type!r} model, which transformers cannot use for {task}. "
                f"Choose a checkpoint that {auto.__name__} loads, or another --task."
            ) from problem
        if "safetensors" in text:
            raise CheckpointError(
                f"{source!r} has no safetensors weights ({text}). Pickled weights can run code when they are read and "
                "are refused: convert them once with `model.save_pretrained(folder)` in a place you trust."
            ) from problem
        raise CheckpointError(f"{source!r} could not be loaded for {task}: {text}") from problem
    fresh = set(info["missing_keys"]) | {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    prefix = f"{model.base_model_prefix}."
    lost = sorted(key for key in fresh if key.startswith(prefix) and not _is_pooler(key))
    if lost:
        raise CheckpointError(
            f"{source!r} does not fill the {config.model_type!r} backbone: {len(lost)} tensors stay unloaded, for example "
            f"{lost[0]!r}. The file is damaged or belongs to another architecture; download it again or choose another."
        )
    if not keeps_head:
        fresh |= _redraw(model, task, seed, only=class_tensors(model, task))
    if fresh:
        logger.warning(
            f"{source}: the head is new ({len(fresh)} tensors drawn from seed {seed}, {len(id2label)} classes); phase 0 "
            "trains it on the labeled images."
        )
    return model, fresh


def load_verified(source: str, like: PreTrainedModel | None = None, *, task: str, **hub: Any) -> PreTrainedModel:
    """A member as it was saved; any missing, unexpected or differently shaped tensor is an error.

    Args:
        like: take its configuration and class instead of the saved ones (resume into an existing member).
    """
    loader: Any = AUTO_CLASSES[task] if like is None else type(like)
    if like is not None:
        hub["config"] = like.config
    try:
        model, info = loader.from_pretrained(
            source, output_loading_info=True, dtype=torch.float32, use_safetensors=True, **hub
        )
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        where = f"{source}/{hub['subfolder']}" if hub.get("subfolder") else source
        raise CheckpointError(
            f"The member in {where!r} could not be loaded ({_first_line(problem)}). A pair needs config.json and "
            "safetensors weights for both members: copy or download the folder again."
        ) from problem
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "error_msgs"}
    if wrong:
        kinds = ", ".join(f"{len(keys)} {kind.replace('_', ' ')} (such as {keys[0]})" for kind, keys in wrong.items())
        raise CheckpointError(
            f"The weights in {source!r} do not match their configuration: {kinds}. Nothing was trained with them; "
            "copy or download the folder again."
        )
    return model


def restore(member: PreTrainedModel, folder: Path, task: str) -> None:
    """Load a saved member into the one that is being trained, every tensor strictly and in place.

    Through `from_pretrained`, because the names on disk differ from those in memory for many architectures.
    """
    member.load_state_dict(load_verified(str(folder), member, task=task).state_dict(), strict=True)


def class_tensors(model: PreTrainedModel, task: str) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes, found by building the model without memory."""

    def shapes(num_labels: int) -> dict[str, torch.Size]:
        config = type(model.config).from_dict({**model.config.to_dict(), "id2label": None, "label2id": None})
        config.num_labels = num_labels
        with torch.device("meta"):
            return {key: value.shape for key, value in AUTO_CLASSES[task].from_config(config).state_dict().items()}

    smaller, larger = shapes(model.config.num_labels + 1), shapes(model.config.num_labels + 2)
    return {key for key, shape in smaller.items() if shape != larger[key]}


def redraw(model: PreTrainedModel, task: str, seed: int, names: set[str]) -> None:
    """Give the named tensors new values from `seed`, in place; all others stay."""
    _redraw(model, task, seed, only=names)


def accepts_size(model: nn.Module, side: int) -> bool:
    """Whether a member takes square images of another size than its own (ViT does not, convolutions do)."""
    training = model.training
    model.eval()  # a pooled BatchNorm refuses one image in training mode, whatever its size
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
    except (ValueError, RuntimeError, AssertionError):
        return False
    finally:
        model.train(training)
    return True


def _redraw(model: PreTrainedModel, task: str, seed: int, *, only: set[str]) -> set[str]:
    new = build(model.config, task, seed=seed).state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in only:
                value.copy_(new[name])
    return only


def _is_pooler(key: str) -> bool:
    """Poolers differ between the pretraining and the fine-tuning class of several models and have no trained values."""
    return ".pooler." in key


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
