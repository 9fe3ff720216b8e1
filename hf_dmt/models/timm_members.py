"""timm models as members, through transformers' `TimmWrapper`.

A timm checkpoint has no `preprocessor_config.json`: size, mean, std, interpolation, crop and class names are in
`pretrained_cfg` of its `config.json`. Both must be kept consistent with what is trained. Classes are identified by name
here, because importing them imports timm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PretrainedConfig
from transformers.utils import IMAGE_PROCESSOR_NAME, is_timm_available

MODEL_TYPE = "timm_wrapper"
MISSING = (
    "{source!r} is a timm model, but timm is not installed. Install it (pip install 'hf-dmt[timm]'), or choose a "
    "transformers model."
)


def id_of_architecture(source: str) -> str:
    """A hint for the name of an architecture of timm, such as resnet18: its id on the Hub. Empty for other names."""
    name = source.partition(".")[0]
    if "/" in source or not is_timm_available():
        return ""
    import timm  # takes a second, which other models do not need

    return f" A model of timm has its owner in its id: timm/{source}." if timm.is_model(name) else ""


def architecture(config: PretrainedConfig) -> str:
    """What people call a model: its type, or the name that timm has for it."""
    return f"timm {config.architecture}" if config.model_type == MODEL_TYPE else str(config.model_type)


def is_timm_processor(processor: BaseImageProcessor) -> bool:
    return type(processor).__name__ == "TimmWrapperImageProcessor"


def prepare_config(config: PretrainedConfig) -> None:
    """Make the fields that timm reads consistent with `id2label`, in place.

    transformers saves an existing `label_names` unchanged: with ImageNet's thousand names beside six classes, a model
    would be loaded with `LABEL_0`, `LABEL_1`, .... A `num_classes` among the arguments of the architecture would be
    passed to timm twice.
    """
    config.label_names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    config.model_args = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"} or None


def resized(processor: Any, side: int) -> BaseImageProcessor:
    """The same processor for images of `side` x `side` pixels; the crop ratio stays the same."""
    settings = {**processor.data_config, "input_size": (3, side, side)}
    found: BaseImageProcessor = type(processor)(pretrained_cfg=settings, architecture=processor.architecture)
    return found


def keep_processor_settings(config: PretrainedConfig, processor: Any) -> None:
    """Write a timm processor's settings to the configuration of its model, from where they are loaded.

    Raises:
        ValueError: only one of the two is from timm, so the saved member would be loaded with another processor.
    """
    if is_timm_processor(processor) != (config.model_type == MODEL_TYPE):
        raise ValueError(
            f"A {config.model_type!r} model cannot use a {type(processor).__name__}: a timm model always uses the "
            "settings in its own configuration, and other models never do. Give each model the image processor of "
            "its own checkpoint: AutoImageProcessor.from_pretrained(...)."
        )
    if not is_timm_processor(processor):
        return
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in processor.data_config.items()}
    config.pretrained_cfg = {**(getattr(config, "pretrained_cfg", None) or {}), **settings}


def save_processor(processor: BaseImageProcessor, folder: Path) -> None:
    """Save an image processor with its model.

    timm's own `save_pretrained` writes nothing. Its settings are also written to `preprocessor_config.json`, so that an
    older file in the folder or repository is not mistaken for this model's.
    """
    if not is_timm_processor(processor):
        processor.save_pretrained(folder)
        return
    settings = processor.to_dict()
    settings["pretrained_cfg"] = settings.pop("data_config")
    (folder / IMAGE_PROCESSOR_NAME).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def name_of(source: str, config: PretrainedConfig) -> str | None:
    """The timm checkpoint with the weights of one of Meta's DINOv3 models, by its id on the Hub."""
    if not config.model_type.startswith("dinov3"):
        return None
    name = source.rsplit("/", 1)[-1].removeprefix("dinov3-").split("-pretrain-")[0]
    known = {
        "vits16": "vit_small_patch16_dinov3",
        "vits16plus": "vit_small_plus_patch16_dinov3",
        "vitb16": "vit_base_patch16_dinov3",
        "vitl16": "vit_large_patch16_dinov3",
        "vith16plus": "vit_huge_plus_patch16_dinov3",
        "vit7b16": "vit_7b_patch16_dinov3",
        **{f"convnext-{size}": f"convnext_{size}.dinov3_lvd1689m" for size in ("tiny", "small", "base", "large")},
    }
    found = known.get(name, "vit_small_patch16_dinov3")
    return f"timm/{found}" if "." in found else f"timm/{found}.lvd1689m"
