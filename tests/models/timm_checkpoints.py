"""Small timm models of six families, saved as timm itself saves them for the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_for_hf

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("test_resnet", {}),
    "efficientnet": ("test_efficientnet", {}),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}),
    "convnext": ("test_convnext", {}),
    "vit": ("test_vit", {"img_size": 64}),
    "dinov3": ("vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
}


def save_timm(family: str, folder: Path, names: Sequence[str] = ("ant", "bee", "cat"), seed: int = 0) -> Path:
    """Save a checkpoint with weights from `seed` for images of 64 pixels; without names it has no head, like
    DINOv3's."""
    architecture, arguments = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, num_classes=len(names), **arguments)
        if names:  # some initialize a head so small that all images score alike
            torch.nn.init.normal_(model.get_classifier().weight)
        for module in model.modules():  # statistics of real activations, not the initial ones
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(4, 3, 64, 64))
    model.pretrained_cfg["input_size"] = (3, 64, 64)
    save_for_hf(model, folder, model_config={"label_names": list(names)} if names else None, safe_serialization=True)
    return folder
