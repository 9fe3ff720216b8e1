"""What the benchmarks measure: pairs of usual architectures with random weights, and images made from their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_dmt import ModelPair

IMAGES, PIXELS = "image-classification", "semantic-segmentation"

# ViT and SegFormer as published: hidden size, depth(s), heads, MLP.
VIT = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "demo": (192, 6, 3), "toy": (16, 1, 2)}
SEGFORMER: dict[str, tuple[list[int], list[int], int]] = {
    "toy": ([8, 16], [1, 1], 16),
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
}


def image_pair(side: int, size: str = "demo", *, classes: int = 10, both: bool = False) -> ModelPair:
    """A ViT with a ResNet of about its cost, or two ViTs (`both`); 32x32 images get patches of 4, 224x224 of 16."""
    torch.manual_seed(0)
    labels: dict[str, Any] = {"num_labels": classes}
    hidden, layers, heads = VIT[size]
    vit = ViTConfig(
        image_size=side,
        patch_size=16 if side >= 112 else max(1, side // 8),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        **labels,
    )
    square = {"height": side, "width": side}
    a, processor = ViTForImageClassification(vit), ViTImageProcessor(size=square)
    if both:
        return ModelPair(a, ViTForImageClassification(vit), processor, processor, image_size=side)
    widths = [8, 16] if size == "toy" else [64, 128, 256, 512] if side >= 112 else [64, 128, 256]
    depths = [1, 1] if size == "toy" else [2] * len(widths)
    resnet = ResNetConfig(embedding_size=widths[0], hidden_sizes=widths, depths=depths, layer_type="basic", **labels)
    crop = BitImageProcessor(size={"shortest_edge": side}, crop_size=square)
    return ModelPair(a, ResNetForImageClassification(resnet), processor, crop, image_size=side)


def pixel_pair(side: int, size: str = "b0", *, classes: int = 21) -> ModelPair:
    """Two SegFormers."""
    torch.manual_seed(0)
    widths, depths, decoder = SEGFORMER[size]
    few = {"num_encoder_blocks": 2, "num_attention_heads": [1, 2], "sr_ratios": [2, 1], "strides": [4, 2]}
    shape: dict[str, Any] = {"patch_sizes": [7, 3], "mlp_ratios": [2, 2], **few} if size == "toy" else {}
    config = SegformerConfig(
        hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder, num_labels=classes, **shape
    )
    members = [SegformerForSemanticSegmentation(config) for _ in range(2)]
    processors = [SegformerImageProcessor(size={"height": side, "width": side}) for _ in range(2)]
    return ModelPair(*members, *processors, task=PIXELS, image_size=side)


class Pictures:
    """`count` images of `side` pixels, made when they are asked for and never kept: smooth colors with some noise.

    Args:
        task: gives each a label or a mask; None leaves them unlabeled.
    """

    def __init__(self, count: int, side: int, task: str | None = None, *, classes: int = 10) -> None:
        self.count, self.side, self.task, self.classes = count, side, task, classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < self.count:
            raise IndexError(row)
        draw = np.random.default_rng(row)
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((self.side, self.side), Image.Resampling.BICUBIC))
        noise = draw.integers(0, 32, smooth.shape, dtype=np.uint8)
        item: dict[str, Any] = {"image": Image.fromarray((smooth // 2 + noise + 32).astype(np.uint8))}
        if self.task == IMAGES:
            item["label"] = row % self.classes
        elif self.task == PIXELS:
            blocks = draw.integers(0, self.classes, (8, 8), dtype=np.uint8)
            item["mask"] = np.asarray(
                Image.fromarray(blocks).resize((self.side, self.side), Image.Resampling.NEAREST), dtype=np.int64
            )
        return item


def decoded(pictures: Pictures) -> list[dict[str, Any]]:
    """The images in memory, where making them must not count."""
    return [pictures[row] for row in range(len(pictures))]
