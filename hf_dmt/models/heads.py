"""The head of a member: which of its tensors depend on the classes, and its inputs, the penultimate features."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, initialization

from ..data.seeds import seeded


def class_tensors(model: PreTrainedModel) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    smaller, larger = (shapes(model, model.config.num_labels + more) for more in (1, 2))
    return {key for key, shape in smaller.items() if shape != larger[key]}


def shapes(model: PreTrainedModel, num_labels: int) -> Mapping[str, torch.Size]:
    """The shapes of the tensors that the configuration of a model describes, with another number of classes."""
    config = copy.deepcopy(model.config)
    config.num_labels = num_labels
    return _shapes(_Described(type(model), repr(config.to_dict()), config))


@dataclass(frozen=True)
class _Described:
    """Equal for equal classes and configurations; transformers' configurations cannot be hashed."""

    kind: type[PreTrainedModel]
    text: str
    config: PretrainedConfig = field(compare=False)


@lru_cache(maxsize=64)  # a pair is asked a dozen times, and each time means building a model of hundreds of layers
def _shapes(described: _Described) -> Mapping[str, torch.Size]:
    # As from_pretrained does: without it, a model that computes Python numbers while it is built would fail.
    with torch.device("meta"), initialization.meta_device_safe_creation_ops():
        made = described.kind(described.config)
    return MappingProxyType({key: value.shape for key, value in made.state_dict().items()})


def backbone_prefixes(model: PreTrainedModel, head: set[str]) -> tuple[str, ...]:
    """The prefixes of the names of all tensors before the head.

    transformers names that attribute, except for CLIP-like models and HGNetV2; for those it is every part without a
    tensor of `head`, the tensors that depend on the classes.
    """
    for attribute in (model.base_model_prefix, "backbone"):
        if attribute and isinstance(getattr(model, attribute, None), torch.nn.Module):
            return (f"{attribute}.",)
    children = {key.split(".")[0] for key, _ in model.named_parameters()}
    return tuple(f"{child}." for child in children - {key.split(".")[0] for key in head})


def redraw(model: PreTrainedModel, seed: int, names: set[str]) -> None:
    """Re-initialize the named tensors from `seed`, in place; all others are unchanged."""
    with seeded(seed):
        new = type(model)(copy.deepcopy(model.config)).state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in names:
                value.copy_(new[name])


@contextmanager
def recorded_head_inputs(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside the block, every forward pass of a classifier appends its features, float32 `(N, D)`, to the list.

    They are the inputs of the first layer whose weights depend on the number of classes, averaged over positions or
    tokens.

    Raises:
        ValueError: the classes depend on a bare parameter instead of a layer.
    """
    owners = sorted({key.rpartition(".")[0] for key in class_tensors(model)})
    if not owners or owners[0] == "":
        raise ValueError(
            f"A {model.config.model_type!r} model has no layer that maps features to classes, so there are no "
            "features to compare images by. Choose another model, or another `labeler`."
        )
    found: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        features = inputs[0].detach().float()
        if features.ndim == 4:
            features = features.mean(dim=(2, 3))
        elif features.ndim == 3:
            features = features.mean(dim=1)
        # A copy, because the original may later be overwritten in place.
        found.append(torch.clone(features))

    handle = model.get_submodule(owners[0]).register_forward_pre_hook(record)
    try:
        yield found
    finally:
        handle.remove()
