"""Tiny checkpoints under the ids of the real ones that recipes and pages name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2ImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from scripts import prepare_model
from tests.models.timm_checkpoints import save_timm


def save_checkpoints(root: Path) -> None:
    """`root/google/vit-base-patch16-224-in21k` and so on: the same architectures with hardly any weights."""
    square = {"height": 32, "width": 32}
    vit: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    stages: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
    dinov2 = Dinov2Config(image_size=32, patch_size=8, **vit)
    mit = SegformerConfig(num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, **stages)
    tiny: dict[str, tuple[PreTrainedModel, Any]] = {
        "google/vit-base-patch16-224-in21k": (
            ViTModel(ViTConfig(image_size=32, patch_size=8, intermediate_size=16, **vit)),
            ViTImageProcessor(size=square),
        ),
        "facebook/dinov2-base": (
            Dinov2ForImageClassification(dinov2),
            BitImageProcessor(size={"shortest_edge": 36}, crop_size=square),
        ),
        "nvidia/mit-b2": (SegformerForImageClassification(mit), SegformerImageProcessor(size=square)),
        "microsoft/resnet-101": (
            ResNetForImageClassification(ResNetConfig(embedding_size=8, **stages)),
            BitImageProcessor(size={"shortest_edge": 36}, crop_size=square),
        ),
    }
    tiny["google/mobilenet_v2_1.0_224"] = (
        MobileNetV2ForImageClassification(MobileNetV2Config(image_size=32, depth_multiplier=0.25)),
        MobileNetV2ImageProcessor(size={"shortest_edge": 36}, crop_size=square),
    )
    save_timm("efficientnet", root / "timm" / "tf_efficientnet_lite2.in1k")
    for name, (model, processor) in tiny.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)


def prepare_networks() -> None:
    """`models/...` in the working folder, made by `prepare_model.py` from the checkpoints beside it."""
    for command in (
        "deeplab-v2 --branches 2 --backbone microsoft/resnet-101 --bgr --output models/deeplab-v2-coco",
        "deeplab-v2 --branches 2 --backbone microsoft/resnet-101 --output models/deeplab-v2-imagenet",
        "upernet --backbone facebook/dinov2-base --output models/upernet-dinov2",
    ):
        assert prepare_model.main(command.split()) == 0
    make_upernet_narrow(Path("models/upernet-dinov2"))


def make_upernet_narrow(folder: Path) -> None:
    """The head is not among the weights, so a smaller one is only another number in the configuration."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 512', '"hidden_size": 16'))
