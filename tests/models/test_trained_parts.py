"""Which parameters are trained and how fast, what stays in eval mode, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import MobileNetV1Config, MobileNetV1ForImageClassification, MobileNetV1ImageProcessor

from hf_dmt import ModelPair
from hf_dmt.data.members import MEMBERS
from hf_dmt.models.heads import class_tensors
from hf_dmt.models.other_conventions import correct_conventions
from hf_dmt.models.weights.trained_parts import _blocks, backbone, choose_trained, learning_rate_scales

from .timm_checkpoints import save_timm

NAMES = {0: "x", 1: "y", 2: "z"}
PIXELS = "semantic-segmentation"
HEADS = {"a": "head", "b": "head"}


def resting(pair: ModelPair, name: str) -> set[str]:
    return {key for key, parameter in pair.member(name).named_parameters() if not parameter.requires_grad}


@pytest.fixture
def pair_of(checkpoint, tmp_path):
    """A pair from checkpoints of two families; `timm:...` is one of timm's."""

    def build(*families: str, task: str = "image-classification") -> ModelPair:
        sources = [
            str(save_timm(family.removeprefix("timm:"), tmp_path / family[5:]))
            if family.startswith("timm:")
            else checkpoint(family)
            for family in families
        ]
        return ModelPair.from_models(*sources, task=task, id2label=NAMES)

    return build


@pytest.mark.parametrize(
    "families", [("vit", "resnet"), ("dinov2", "swin"), ("segformer", "upernet"), ("timm:efficientnet", "timm:vit")]
)
def test_backbone_rests_and_head_learns(pair_of, families):
    """Guards against a head that is frozen with its backbone, and against a backbone that trains because its name was
    not found."""
    pair = pair_of(*families, task=PIXELS if "segformer" in families else "image-classification")
    choose_trained(pair, HEADS)
    for name in MEMBERS:
        model = pair.member(name)
        assert resting(pair, name) == backbone(pair, name)
        assert 0 < len(resting(pair, name)) < len(list(model.parameters()))
        assert not class_tensors(model) & resting(pair, name) and not pair.fresh[name] & resting(pair, name)
    assert 0 < pair.num_parameters(only_trainable=True) < pair.num_parameters()


def test_train_leaves_the_backbone_in_eval_mode(pair_of):
    """Guards against drifting BatchNorm statistics in a frozen backbone, and against dropout that makes its features
    noisy."""
    pair = pair_of("vit", "resnet")
    choose_trained(pair, HEADS)
    assert not pair.training, "freezing alone does not set a pair to train"
    nn.Sequential(pair).train()  # as a wrapper does it
    assert pair.training and pair.model_b.classifier.training and pair.model_a.classifier.training
    assert not pair.model_a.vit.training and not any(module.training for module in pair.model_b.resnet.modules())
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    views = torch.rand(4, 3, pair.image_size, pair.image_size)
    sum(logits.square().mean() for logits in pair(a=views, b=views).values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items()), "running statistics"
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in pair.parameters())
    assert not pair.eval().model_b.classifier.training


def test_a_copied_pair_freezes_its_own_backbone(pair_of):
    """Guards against a copy that sets the original's backbone to eval mode and leaves its own in training mode."""
    pair = pair_of("vit", "resnet")
    choose_trained(pair, HEADS)
    twin = copy.deepcopy(pair).train()
    assert not twin.model_b.resnet.training and twin.resting[-1] is twin.model_b.resnet


def test_another_choice_gives_back_what_the_first_one_took(pair_of):
    """Guards against a second trainer that trains only the heads because the pair's first run had `--train head`, and
    against training a part that its owner froze."""
    pair = pair_of("vit", "resnet")
    pair.model_b.resnet.embedder.requires_grad_(False)
    choose_trained(pair, HEADS)
    choose_trained(pair, {"a": "all", "b": "all"})
    assert not resting(pair, "a") and not pair.resting
    assert resting(pair, "b") == {
        key for key, _ in pair.model_b.named_parameters() if key.startswith("resnet.embedder")
    }
    pair.model_a.requires_grad_(False)
    with pytest.raises(ValueError, match="Model a has no parameter that requires a gradient"):
        choose_trained(pair, {"a": "all", "b": "all"})


def test_weights_in_half_precision_are_not_trained(pair_of):
    """Guards against a run in which most updates are rounded away, because a model was loaded as it is stored."""
    pair = pair_of("vit", "resnet")
    pair.model_b.bfloat16()
    with pytest.raises(ValueError, match=r"Model b has weights in torch.bfloat16.*model\.float\(\)"):
        choose_trained(pair, {"a": "all", "b": "all"})
    pair.model_b.requires_grad_(False)
    pair.model_b.classifier.float().requires_grad_(True)
    choose_trained(pair, {"a": "all", "b": "all"})


def test_members_are_chosen_one_by_one(pair_of):
    """Guards against `--train_b` that also changes model a, and against `all` that means `head`."""
    pair = pair_of("vit", "resnet")
    choose_trained(pair, {"a": "all", "b": "norms"})
    assert not resting(pair, "a")
    learning = {key for key, parameter in pair.model_b.named_parameters() if parameter.requires_grad}
    norms = {key for key, _ in pair.model_b.named_parameters() if ".normalization." in key}
    assert learning == norms | class_tensors(pair.model_b)
    pair.train()
    assert pair.model_b.resnet.embedder.embedder.normalization.training, "norms that learn measure batches too"


@pytest.mark.parametrize(
    ("family", "blocks", "in_last"),
    [
        ("vit", 2, ("vit.encoder.layer.1.", "vit.layers.1.", "vit.layernorm.")),
        ("resnet", 2, ("resnet.encoder.stages.1.layers.0.",)),
        ("swin", 2, ("swin.encoder.layers.1.blocks.0.", "swin.layernorm.")),
        ("convnext", 2, ("convnext.encoder.stages.1.layers.0.", "convnext.layernorm.")),
        ("timm:vit", 6, ("timm_model.blocks.5.", "timm_model.norm.")),
        ("timm:resnet", 4, ("timm_model.layer4.0.",)),
        ("timm:convnext", 9, ("timm_model.stages.3.blocks.", "timm_model.head.norm.")),
        ("timm:dinov3", 2, ("timm_model.blocks.1.", "timm_model.norm.", "timm_model.fc_norm.")),
    ],
)
def test_blocks_are_counted_as_people_count_them(pair_of, family, blocks, in_last):
    """Guards against `last:N` that counts stages or convolutions instead of blocks, takes the first blocks, or always
    takes one block."""
    pair = pair_of(family, "resnet")
    stem, *found = _blocks(pair, "a")
    assert len(found) == blocks and stem
    assert {key for group in (stem, *found) for key in group} == backbone(pair, "a"), "every tensor is in one"
    for count in (1, 2):
        choose_trained(pair, {"a": f"last:{count}", "b": "all"})
        learning = {key for key, parameter in pair.model_a.named_parameters() if parameter.requires_grad}
        assert learning - pair.fresh["a"] == set().union(*found[-count:])
    assert all(key.startswith(in_last) for key in found[-1]), found[-1]


def test_layers_learn_the_slower_the_earlier_they_are(pair_of):
    """Guards against a decay in the wrong direction, from the head to the stem, and against a head that decays too."""
    pair = pair_of("vit", "timm:efficientnet")
    scales = learning_rate_scales(pair, 0.5)
    (stem, first, last), of_a = _blocks(pair, "a"), scales["a"]
    assert {of_a[key] for key in stem} == {0.125} and {of_a[key] for key in first} == {0.25}
    assert {of_a[key] for key in last} == {0.5}
    assert not set(of_a) & pair.fresh["a"], "a head learns at the full rate"
    assert min(scales["b"].values()) == scales["b"]["timm_model.conv_stem.weight"]


def test_batch_norm_at_rest_keeps_its_statistics_and_learns_its_weights(pair_of):
    """Guards against BatchNorm statistics of batches of four images, and against a new layer frozen at statistics that
    it never had."""
    pair = pair_of("resnet", "timm:efficientnet")
    choose_trained(pair, {"a": "all", "b": "all"}, freeze_batch_norm=True)
    pair.train()
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    views = torch.rand(4, 3, pair.image_size, pair.image_size)
    sum(logits.square().mean() for logits in pair(a=views, b=views).values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items() if "running" in key)
    assert pair.model_a.resnet.embedder.embedder.normalization.weight.grad.abs().sum() > 0
    new = pair_of("segformer", "upernet", task=PIXELS)
    norm = "decode_head.batch_norm"
    new.fresh["a"] |= {f"{norm}.weight", f"{norm}.running_mean"}
    choose_trained(new, {"a": "all", "b": "all"}, freeze_batch_norm=True)
    assert new.train().model_a.decode_head.batch_norm.training


def test_numbers_of_the_other_convention_are_lowered_and_said(build, checkpoint, tmp_path, caplog):
    """Guards against MobileNets of transformers that label with the statistics of the last batch, 10 points worse, and
    whose heads learn from a thousandth of the features. Other models must not be changed, even if they drop 60 %."""
    model = MobileNetV1ForImageClassification(MobileNetV1Config(depth_multiplier=0.25, num_labels=3))
    model.save_pretrained(tmp_path / "mobilenet")
    processor = MobileNetV1ImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "mobilenet")
    pair = ModelPair.from_models(tmp_path / "mobilenet", checkpoint("resnet"), id2label=NAMES)
    assert "model a: BatchNorm momentum lowered from 0.9997 to 0.1" in caplog.text and "model b" not in caplog.text
    assert "model a: head dropout lowered from 0.999 to 0.001" in caplog.text
    pair.save_pretrained(tmp_path / "pair")
    for one in (pair, ModelPair.from_pretrained(tmp_path / "pair")):
        assert {module.momentum for module in one.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
        assert one.model_a.dropout.p == 0.001
    assert caplog.text.count("lowered") == 2, "once: the pair that is opened again is as it was made"
    assert len(_blocks(pair, "a")) > 20, "blocks of one convolution each"
    vit, _ = build("vit")
    dropouts = [module for module in vit.modules() if isinstance(module, nn.Dropout)]
    for module in dropouts:
        module.p = 0.6
    assert dropouts and correct_conventions(vit) == [] and {module.p for module in dropouts} == {0.6}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("head", r"`train='head'`: the backbone of model b \('vit'\) is randomly initialized.*omit it"),
        ("last:9", r"`train='last:9'`: the backbone of model a \('vit'\) has 2 blocks\. Give fewer"),
    ],
)
def test_what_cannot_rest_is_refused_before_anything_does(checkpoint, choice, message):
    """Guards against training a head on random features, and against a flag without effect."""
    pair = ModelPair.from_models(checkpoint("vit"), "tiny:vit", id2label=NAMES)
    with pytest.raises(ValueError, match=message):
        choose_trained(pair, {"a": choice, "b": choice})
    assert all(parameter.requires_grad for parameter in pair.parameters()) and not pair.resting
    with pytest.raises(ValueError, match="`freeze_batch_norm`: neither model"):
        choose_trained(pair, {"a": "all", "b": "all"}, freeze_batch_norm=True)


def test_nothing_pretrained_has_no_layers_to_slow_down():
    """Guards against `layer_decay` without effect: both models are randomly initialized."""
    with pytest.raises(ValueError, match="`layer_decay`: both models are randomly initialized"):
        learning_rate_scales(ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=NAMES), 0.5)
