"""Frozen backbones: which tensors rest, which keep learning, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ViTImageProcessor

from hf_dmt import ModelPair
from hf_dmt.data.members import MEMBERS
from hf_dmt.models.loading import class_tensors
from hf_dmt.models.networks.wide_resnet import WideResNetConfig, WideResNetForImageClassification
from hf_dmt.models.weights.frozen_backbones import backbone_prefix, freeze_backbones

NAMES = {0: "x", 1: "y", 2: "z"}
PIXELS = "semantic-segmentation"


def resting(pair: ModelPair, name: str) -> set[str]:
    return {key for key, parameter in pair.member(name).named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("families", [("vit", "resnet"), ("dinov2", "swin"), ("segformer", "upernet")])
def test_backbone_rests_and_head_learns(checkpoint, families):
    """Silent: a head that rests with its backbone, or a backbone that moves because its name was not found."""
    task = PIXELS if "segformer" in families else "image-classification"
    pair = ModelPair.from_models(*(checkpoint(family) for family in families), task=task, id2label=NAMES)
    freeze_backbones(pair)
    for name in MEMBERS:
        model = pair.member(name)
        backbone = {key for key, _ in model.named_parameters() if key.startswith(f"{backbone_prefix(model)}.")}
        assert resting(pair, name) == backbone - pair.fresh[name] and backbone
        assert not class_tensors(model) & resting(pair, name)
    assert 0 < pair.num_parameters(only_trainable=True) < pair.num_parameters()


def test_train_leaves_the_backbone_in_eval_mode(checkpoint):
    """Silent: BatchNorm statistics of a frozen backbone drift, or dropout makes its features noisy."""
    pair = ModelPair.from_models(checkpoint("vit"), checkpoint("resnet"), id2label=NAMES)
    freeze_backbones(pair)
    assert not pair.training, "freezing alone does not set a pair to train"
    nn.Sequential(pair).train()  # as a wrapper does it
    assert pair.training and pair.model_b.classifier.training and pair.model_a.classifier.training
    assert not any(module.training for name in MEMBERS for module in pair.frozen_backbones[name].modules())
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    views = torch.rand(4, 3, pair.image_size, pair.image_size)
    sum(logits.square().mean() for logits in pair(a=views, b=views).values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items()), "running statistics"
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in pair.parameters())
    assert not pair.eval().model_b.classifier.training


def test_a_copied_pair_freezes_its_own_backbone(checkpoint):
    """Silent: the copy sets the original's backbone to eval mode and leaves its own in training."""
    pair = ModelPair.from_models(checkpoint("vit"), checkpoint("resnet"), id2label=NAMES)
    freeze_backbones(pair)
    twin = copy.deepcopy(pair).train()
    assert not twin.model_b.resnet.training and twin.frozen_backbones["b"] is twin.model_b.resnet


@pytest.mark.parametrize(("model", "reason"), [("tiny:vit", "drawn at random"), ("wide-resnet", "apart from its head")])
def test_what_cannot_be_frozen_is_refused_before_anything_is(checkpoint, tmp_path, model, reason):
    """Silent: training a head on random features, or a flag without effect."""
    if model == "wide-resnet":
        model = str(tmp_path)
        WideResNetForImageClassification(WideResNetConfig(depth=10, widen_factor=1)).save_pretrained(model)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(model)
    pair = ModelPair.from_models(checkpoint("vit"), model, id2label=NAMES)
    with pytest.raises(ValueError, match=f"--freeze_backbone.*model b .*{reason}.*leave the flag out"):
        freeze_backbones(pair)
    assert all(parameter.requires_grad for parameter in pair.parameters()) and not pair.frozen_backbones
