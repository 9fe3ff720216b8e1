"""timm models as members, through transformers' `TimmWrapper`.

A timm checkpoint has no `preprocessor_config.json`: size, mean, std, interpolation and crop stand in `pretrained_cfg`
of its `config.json`, and so do the names of its classes. Both have to be kept in step with what is trained.
Classes are told by name here, because importing them imports timm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PretrainedConfig
from transformers.utils import IMAGE_PROCESSOR_NAME, is_timm_available

MODEL_TYPE = "timm_wrapper"
MISSING = (
    "{source!r} is a timm model, and timm is not installed. Install it (pip install 'hf-dmt[timm]'), or choose a model "
    "that transformers has built in."
)


def id_of_architecture(source: str) -> str:
    """What to write in place of a name as `timm.create_model` takes it; empty for another name."""
    name = source.partition(".")[0]
    if "/" in source or not is_timm_available():
        return ""
    import timm  # takes a second, which other models do not need

    return f" A model of timm has its owner in its id: timm/{source}." if timm.is_model(name) else ""


def is_timm_processor(processor: BaseImageProcessor) -> bool:
    return type(processor).__name__ == "TimmWrapperImageProcessor"


def prepare_config(config: PretrainedConfig) -> None:
    """Bring what timm reads in line with `id2label`, in place.

    transformers saves a `label_names` that is there as it is: with ImageNet's thousand names beside six classes a model
    comes back with `LABEL_0`, `LABEL_1`, ... . A `num_classes` among the arguments of the architecture would be given
    to timm twice.
    """
    config.label_names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    config.model_args = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"} or None


def resized(processor: Any, side: int) -> BaseImageProcessor:
    """The same processor for images of `side` x `side` pixels; its crop keeps its share."""
    settings = {**processor.data_config, "input_size": (3, side, side)}
    found: BaseImageProcessor = type(processor)(pretrained_cfg=settings, architecture=processor.architecture)
    return found


def keep_processor_settings(config: PretrainedConfig, processor: Any) -> None:
    """Write a timm processor's settings where they are read from again: into the configuration of its model.

    Raises:
        ValueError: only one of the two is from timm, so that a saved member would open with another processor.
    """
    if is_timm_processor(processor) != (config.model_type == MODEL_TYPE):
        raise ValueError(
            f"A {config.model_type!r} model cannot keep a {type(processor).__name__}: a timm model is always opened "
            "with the settings in its own configuration, and any other model never is. Give each model the image "
            "processor of its own checkpoint: AutoImageProcessor.from_pretrained(...)."
        )
    if not is_timm_processor(processor):
        return
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in processor.data_config.items()}
    config.pretrained_cfg = {**(getattr(config, "pretrained_cfg", None) or {}), **settings}


def save_processor(processor: BaseImageProcessor, folder: Path) -> None:
    """Save an image processor beside its model.

    timm's own `save_pretrained` writes nothing. So that no older `preprocessor_config.json` of the folder, or of a
    repository, is taken for this model's, its settings are written as well as standing in the configuration.
    """
    if not is_timm_processor(processor):
        processor.save_pretrained(folder)
        return
    settings = processor.to_dict()
    settings["pretrained_cfg"] = settings.pop("data_config")
    (folder / IMAGE_PROCESSOR_NAME).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def name_of(source: str, config: PretrainedConfig) -> str | None:
    """The checkpoint of timm with the weights of a DINOv3 of Meta's, by its id on the Hub."""
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
