"""Backbones with new segmentation heads: what is kept, what is drawn, and what cannot be used as a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.resnet import Bottleneck, ResNet
from transformers import (
    AutoModel,
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from hf_dmt import ModelPair
from scripts.prepare_model import main, torchvision_name
from tests.small_checkpoints import make_upernet_narrow

CLASSES = {0: "sky", 1: "road", 2: "tree"}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny stand-ins for commonly used checkpoints, with an image mean of their own."""
    root = tmp_path_factory.mktemp("hub")
    stages = {"depths": [1, 1, 1, 1]}
    vit = {"num_hidden_layers": 4, "num_attention_heads": 2}
    for name, model in {
        "resnet": ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 40], **stages)),
        "dinov2": Dinov2Model(Dinov2Config(image_size=28, patch_size=7, hidden_size=16, **vit)),
        "swin": SwinModel(SwinConfig(image_size=32, embed_dim=8, num_heads=[1, 1, 2, 2], window_size=4, **stages)),
        "vit": ViTModel(ViTConfig(image_size=32, patch_size=8, hidden_size=16, intermediate_size=16, **vit)),
    }.items():
        model.save_pretrained(root / name)
        processor = BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        processor.image_mean = [0.1, 0.2, 0.3]
        processor.save_pretrained(root / name)
    return root


@pytest.mark.parametrize(
    ("model", "backbone"),
    [("deeplab-v2", "resnet"), ("upernet", "dinov2"), ("upernet", "swin")],
)
def test_a_pair_of_one_folder_has_one_backbone_and_two_heads(
    backbones: Path, tmp_path: Path, model: str, backbone: str
) -> None:
    """Guards against random backbones, the image mean of another network, and equal heads in a and b."""
    out = tmp_path / "model"
    assert main([model, "--backbone", str(backbones / backbone), "--output", str(out)]) == 0
    if model == "upernet":
        make_upernet_narrow(out)
    pair = ModelPair.from_models(out, out, task="semantic-segmentation", id2label=CLASSES, image_size=32)
    assert list(pair.processor_a.image_mean) == [0.1, 0.2, 0.3]
    source = AutoModel.from_pretrained(backbones / backbone).state_dict()
    found = {key.removeprefix(f"{backbone}."): value for key, value in pair.model_a.backbone.state_dict().items()}
    shared = found.keys() & source.keys()
    assert shared and all(torch.equal(found[key], source[key]) for key in shared)
    assert all("hidden_states_norms" in key for key in found.keys() - shared)
    a, b = (dict(pair.member(name).named_parameters()) for name in "ab")
    heads = {key for key in a if not key.startswith("backbone.") and a[key].ndim > 1}
    assert heads and not any(torch.equal(a[key], b[key]) for key in heads)
    assert all(torch.equal(a[key], b[key]) for key in a if key.startswith("backbone."))
    assert pair(torch.rand(1, 3, 40, 70))["a"].shape == (1, 3, 40, 70)


def test_branches_are_those_that_were_asked_for(backbones: Path, tmp_path: Path) -> None:
    """Guards against a network with twice the official head."""
    source = str(backbones / "resnet")
    assert main(["deeplab-v2", "--backbone", source, "--output", str(tmp_path / "two"), "--branches", "2"]) == 0
    pair = ModelPair.from_models(tmp_path / "two", tmp_path / "two", task="semantic-segmentation", id2label=CLASSES)
    assert len(pair.model_a.branches) == 2


def test_weights_in_torchvisions_names_fill_the_backbone(backbones: Path, tmp_path: Path) -> None:
    """Guards against Caffe weights used with RGB images, and against a tensor that keeps the value of the other
    checkpoint."""
    torch.manual_seed(1)
    theirs = ResNet(Bottleneck, [1, 1, 1, 1])
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean), torch.nn.init.uniform_(module.weight)
    state = {f"Scale.{key}": value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "coco.safetensors")
    wide = ResNetForImageClassification(ResNetConfig(depths=[1, 1, 1, 1]))
    wide.save_pretrained(tmp_path / "resnet")
    BitImageProcessor(size={"shortest_edge": 28}).save_pretrained(tmp_path / "resnet")
    given = ["deeplab-v2", "--backbone", str(tmp_path / "resnet"), "--weights", str(tmp_path / "coco.safetensors")]
    assert main([*given, "--bgr", "--output", str(tmp_path / "out")]) == 0
    pair = ModelPair.from_models(tmp_path / "out", tmp_path / "out", task="semantic-segmentation", id2label=CLASSES)
    assert type(pair.processor_a).__name__ == "CaffeImageProcessor"
    found = pair.model_a.backbone.state_dict()
    assert sorted(f"Scale.{torchvision_name(key)}" for key in found if "num_batches" not in key) == sorted(
        key for key in state if ".fc." not in key
    )
    assert all(
        torch.equal(value, state[f"Scale.{torchvision_name(key)}"])
        for key, value in found.items()
        if "num_batches" not in key
    )


def test_weights_that_do_not_fill_it_are_refused(
    backbones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a backbone that is half of one checkpoint and half of another."""
    save_file({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "part.safetensors")
    given = ["deeplab-v2", "--backbone", str(backbones / "resnet"), "--output", str(tmp_path / "out")]
    assert main([*given, "--weights", str(tmp_path / "part.safetensors")]) == 2
    assert "of the backbone unset, such as 'bn1.bias'" in capsys.readouterr().err
    (tmp_path / "x.pth").write_bytes(b"pickle")
    assert main([*given, "--weights", str(tmp_path / "x.pth")]) == 2
    assert "must be a safetensors file" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["deeplab-v2", "--backbone", "{hub}/swin"], "'swin', but DeepLab-v2 needs a ResNet"),
        (["upernet", "--backbone", "{hub}/vit"], "'vit' model, which transformers cannot use as a backbone"),
        (["upernet", "--backbone", "/no/such/folder"], "/no/such/folder"),
        (["upernet", "--backbone", "{hub}/swin", "--output", "{hub}"], "not empty"),
        (["upernet", "--backbone", "{hub}/swin", "--bgr"], "--bgr and --branches only apply to deeplab-v2"),
        (["upernet", "--backbone", "{hub}/swin", "--branches", "4"], "--branches only apply to deeplab-v2"),
    ],
)
def test_what_cannot_be_a_backbone_is_named(
    backbones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    """Guards against a traceback, and against an output folder that exists although nothing was prepared."""
    given = [argument.replace("{hub}", str(backbones)) for argument in arguments]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "out")]
    assert main(given) == 2
    message = capsys.readouterr().err
    assert message.startswith("prepare_model.py: error: ") and named in message
    assert not (tmp_path / "out").exists()
