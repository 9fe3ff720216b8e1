"""Tiny checkpoints of many architectures, built from configurations and saved as a user's would be.

The models are stock architectures with small configurations. A renamed tensor, a channel order or a stride that breaks
one of them breaks its pretrained checkpoints in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BaseImageProcessor,
    BeitConfig,
    BeitForSemanticSegmentation,
    BeitImageProcessor,
    BitImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    DPTConfig,
    DPTForSemanticSegmentation,
    DPTImageProcessor,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2ImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    SwinForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_dmt.models.pair import ModelPair
from hf_dmt.models.preprocessing import fitted

CLASSES = ["ant", "bee", "cat"]
SIDE = 32

Build = Callable[..., tuple[PreTrainedModel, BaseImageProcessor]]


def class_map(names: Sequence[str]) -> dict[str, dict]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def build_member(
    family: str, names: Sequence[str] = CLASSES, seed: int = 0
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A member of a family with weights from `seed`, BatchNorm statistics other than the initial ones, in eval mode."""
    labels, square = class_map(names), {"height": SIDE, "width": SIDE}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        member: tuple[PreTrainedModel, BaseImageProcessor]
        match family:
            case "vit":
                config = ViTConfig(
                    image_size=SIDE, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=24, **labels,
                )  # fmt: skip
                member = ViTForImageClassification(config), ViTImageProcessor(size=square)
            case "swin":
                config = SwinConfig(
                    image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, **labels
                )
                member = SwinForImageClassification(config), ViTImageProcessor(size=square)
            case "dinov2":
                config = Dinov2Config(
                    image_size=SIDE, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **labels
                )
                processor = BitImageProcessor(size={"shortest_edge": 40}, crop_size=square)
                member = Dinov2ForImageClassification(config), processor
            case "resnet":
                config = ResNetConfig(
                    embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels
                )
                # As microsoft/resnet-50: resized to size / crop_pct, then cropped.
                processor = ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.875)
                member = ResNetForImageClassification(config), processor
            case "convnext":
                config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **labels)
                processor = ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.875)
                member = ConvNextForImageClassification(config), processor
            case "segformer":
                config = SegformerConfig(
                    hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
                    decoder_hidden_size=16, **labels,
                )  # fmt: skip
                member = SegformerForSemanticSegmentation(config), SegformerImageProcessor(size=square)
            case "upernet":
                backbone = ConvNextConfig(
                    hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
                    out_features=["stage1", "stage2", "stage3", "stage4"],
                )  # fmt: skip
                config = UperNetConfig(
                    backbone_config=backbone, hidden_size=16, use_auxiliary_head=True, auxiliary_in_channels=16,
                    auxiliary_channels=8, **labels,
                )  # fmt: skip
                member = UperNetForSemanticSegmentation(config), SegformerImageProcessor(size=square)
            case "dpt":
                config = DPTConfig(
                    image_size=SIDE, patch_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
                    intermediate_size=24, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
                    fusion_hidden_size=16, is_hybrid=False, use_auxiliary_head=True, **labels,
                )  # fmt: skip
                member = DPTForSemanticSegmentation(config), DPTImageProcessor(size=square)
            case "mobilenet":
                config = MobileNetV2Config(
                    depth_multiplier=0.25, output_stride=8, finegrained_output=True, tf_padding=False, **labels
                )
                processor = MobileNetV2ImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)
                member = MobileNetV2ForSemanticSegmentation(config), processor
            case "beit":
                config = BeitConfig(
                    image_size=SIDE, patch_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
                    intermediate_size=24, out_indices=[1, 2, 3, 4], use_relative_position_bias=True,
                    use_auxiliary_head=True, auxiliary_channels=8, **labels,
                )  # fmt: skip
                processor = BeitImageProcessor(size={"height": 40, "width": 40}, crop_size=square, do_center_crop=True)
                member = BeitForSemanticSegmentation(config), processor
            case _:
                raise AssertionError(family)
        # BatchNorm statistics of real activations: with the initial ones, a deep random network gives every image the
        # same scores.
        norms = [module for module in member[0].modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            with torch.no_grad():
                member[0].train()(pixel_values=torch.randn(4, 3, SIDE, SIDE))
        for norm in norms:
            norm.momentum = 0.1
    return member[0].eval(), member[1]


@pytest.fixture
def build() -> Build:
    return build_member


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., str]:
    """Save a member as a checkpoint folder and return its path."""

    def save(family: str, names: Sequence[str] = CLASSES, seed: int = 0, folder: str | None = None) -> str:
        model, processor = build_member(family, names, seed)
        where = tmp_path / "checkpoints" / (folder or f"{family}-{seed}")
        model.save_pretrained(where)
        processor.save_pretrained(where)
        return str(where)

    return save


@pytest.fixture
def photographs() -> list[Image.Image]:
    """32 smooth color images of several sizes, wide, tall, square, small and large."""
    generator = np.random.default_rng(0)
    sizes = [(32, 32), (48, 32), (31, 57), (20, 20), (90, 64), (200, 150), (33, 32), (64, 64)]
    images = []
    for index in range(32):
        coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        images.append(Image.fromarray(coarse).resize(sizes[index % len(sizes)], Image.Resampling.BICUBIC))
    return images


@pytest.fixture
def make_pair() -> Callable[..., ModelPair]:
    """A pair of two architectures: model a has weights from `seed` (1 if not given), model b from `seed + 1`."""

    def make(family_a: str, family_b: str, *, task: str = "image-classification", seed: int = 1) -> ModelPair:
        (model_a, processor_a), (model_b, processor_b) = (
            build_member(family, CLASSES, seed + position) for position, family in enumerate((family_a, family_b))
        )
        if task == "semantic-segmentation":
            pixels = {"side": SIDE, "pixels": True}
            processor_a, processor_b = (
                fitted(processor_a, model_a, **pixels),
                fitted(processor_b, model_b, **pixels),
            )
        return ModelPair(model_a, model_b, processor_a, processor_b, task=task)

    return make
