"""Members whose pretrained backbones stay as they are: only the heads learn.

A frozen backbone keeps no activations for a backward pass and no optimizer state, so a pair of large models fits where
fine-tuning one of them would not. What it costs in accuracy depends on how well the pretrained features fit the images.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from ...data.members import MEMBERS
from ..loading import class_tensors
from ..pair import ModelPair


def freeze_backbones(pair: ModelPair) -> None:
    """Take both members' backbones out of training, in place.

    Their parameters get no gradient, and they stay in eval mode when the pair is set to train, so that dropout and
    BatchNorm's statistics rest as well. Tensors that were drawn and not loaded, and those that depend on the classes,
    keep learning wherever they stand.

    Raises:
        ValueError: a member without a backbone of its own, or one whose backbone was never pretrained.
    """
    frozen = {}
    for name in MEMBERS:
        frozen[name] = _pretrained_backbone(pair, name)
    for name, (backbone, parameters) in frozen.items():
        for parameter in parameters:
            parameter.requires_grad_(False)
        pair.frozen_backbones[name] = backbone
    pair.train(pair.training)


def _pretrained_backbone(pair: ModelPair, name: str) -> tuple[nn.Module, list[nn.Parameter]]:
    """A member's backbone and the parameters in it that were loaded."""
    model = pair.member(name)
    prefix = backbone_prefix(model)
    if prefix is None:
        raise ValueError(
            f"--freeze_backbone: model {name} ({model.config.model_type!r}) has no backbone apart from its head. "
            "Choose another model, or leave the flag out."
        )
    learning = class_tensors(model) | pair.fresh[name]
    parameters = [
        parameter for key, parameter in model.named_parameters() if key.startswith(f"{prefix}.") and key not in learning
    ]
    if not parameters:
        raise ValueError(
            f"--freeze_backbone: the backbone of model {name} ({model.config.model_type!r}) was drawn at random, so "
            "there is nothing in it worth keeping. Give a pretrained checkpoint, or leave the flag out."
        )
    return getattr(model, prefix), parameters


def backbone_prefix(model: PreTrainedModel) -> str | None:
    """The attribute that holds what comes before the head, if there is one."""
    for prefix in (model.base_model_prefix, "backbone"):
        if prefix and isinstance(getattr(model, prefix, None), nn.Module):
            return str(prefix)
    return None
