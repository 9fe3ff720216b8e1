"""The inputs of a member's head: its penultimate features, recorded during normal forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .loading import class_tensors


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
