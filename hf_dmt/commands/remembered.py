"""Frozen backbones that look at every image once: many runs of heads on the same images, in one process.

A backbone that rests says the same of the same pixels, in every phase, run and method; with `--augmentation none` a
training view is the same pixels too. Inside `remembered()` decoded images, views, inputs and features are kept in
memory and looked up by content. What is trained is the product's own code on the same numbers, but for the last bits
that depend on how images are put into batches; a test holds the two side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..data.drawing.transforms import PlainView
from ..data.members import MEMBERS
from ..data.reading.sources import ImageSet
from ..models.pair import ModelPair
from ..training.labeling import inference

_FEATURES: dict[Any, Tensor] = {}
_ITEMS: dict[Any, dict[str, Any]] = {}
_VIEWS: dict[Any, Tensor] = {}
_INPUTS: dict[Any, Tensor] = {}


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, every run of this process shares what it has read and what frozen backbones have said."""
    read, view, prepare, build = ImageSet.__getitem__, PlainView.__call__, inference.clean_inputs, ModelPair.train

    def item(self: ImageSet, index: int) -> dict[str, Any]:
        # Data sets of one process differ in their rows' ids and in their first row's content.
        key = (type(self.rows).__name__, len(self.rows.ids), self.id_of(index), self.class_of is None, self.side)
        if key not in _ITEMS:
            _ITEMS[key] = read(self, index)
        return dict(_ITEMS[key])

    def plain(self: PlainView, image: Any) -> Tensor:
        key = (_content(image), self.size)
        if key not in _VIEWS:
            _VIEWS[key] = view(self, image)
        return _VIEWS[key]

    def inputs(processor: Any, images: list[Any]) -> list[Tensor]:
        keys = [(_content(image), repr(processor)) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in _INPUTS}
        if new:
            for key, made in zip(new, prepare(processor, list(new.values())), strict=True):
                _INPUTS[key] = made
        return [_INPUTS[key] for key in keys]

    def train(self: ModelPair, mode: bool = True) -> ModelPair:
        for name in MEMBERS:
            if not next(self.member(name).parameters()).requires_grad:  # of the stem: the backbone rests
                _remember(self.member(name))
        return build(self, mode)

    with ExitStack() as stack:
        for owner, name, replacement in (
            (ImageSet, "__getitem__", item),
            (PlainView, "__call__", plain),
            (inference, "clean_inputs", inputs),
            (ModelPair, "train", train),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def _digest(*parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=16).digest()


def _content(image: Any) -> tuple[tuple[int, int], bytes]:
    return image.size, _digest(image.tobytes())


def _remember(model: Any) -> None:
    """Let a member's frozen backbone answer from memory what it has answered before."""
    if getattr(model, "_remembers", False):
        return
    model._remembers = True
    if hasattr(model, "timm_model"):
        network = model.timm_model
        network.forward_features = _looked_up(network, network.forward_features)
    else:
        backbone = model.base_model
        answer = backbone.forward
        pooled = _looked_up(backbone, lambda pixels: answer(pixels).pooler_output)

        def forward(pixel_values: Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(pooler_output=pooled(pixel_values), hidden_states=None)

        backbone.forward = forward


def _looked_up(network: nn.Module, answer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`answer` with a memory: features `(N, ...)` of images `(N, 3, H, W)`, each from the first time it came."""
    resting = [value for value in network.parameters() if not value.requires_grad] + list(network.buffers())
    weights = _digest(*(value.detach().cpu().contiguous().numpy().tobytes() for value in resting))

    def looked_up(pixels: Tensor) -> Tensor:
        if any(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            raise RuntimeError("Features are remembered of backbones that rest (--train head), and this one learns.")
        keys = [(weights, _digest(image.cpu().numpy().tobytes())) for image in pixels]
        new = {key: row for row, key in enumerate(keys) if key not in _FEATURES}
        if new:
            with torch.no_grad():
                for key, features in zip(new, answer(pixels[list(new.values())]), strict=True):
                    _FEATURES[key] = features.clone()
        return torch.stack([_FEATURES[key] for key in keys])

    return looked_up
