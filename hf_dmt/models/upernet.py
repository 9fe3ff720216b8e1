"""`backbone:<id or folder>` for segmentation: UperNet on any checkpoint that transformers can use as a backbone.

It is saved as a `UperNetForSemanticSegmentation` that includes the backbone's configuration, so transformers can load
it without this package.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoBackbone,
    BaseImageProcessor,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from ..data.messages import first_line
from ..data.pair_file import CheckpointError
from . import loading
from .preprocessing import native_size


def upernet_on(source: str, id2label: dict[int, str] | None = None, **hub: Any) -> UperNetForSemanticSegmentation:
    """UperNet on four evenly spaced feature maps of a backbone; the head is initialized from torch's random state.

    Args:
        id2label: the classes; None keeps the configuration's own.
        hub: `revision`, `token`, `trust_remote_code`.

    Raises:
        CheckpointError: not a transformers backbone, fewer than four stages, or an incomplete checkpoint.
    """
    hub.setdefault("trust_remote_code", False)
    config = loading.load_config(source, **hub)
    try:
        with torch.device("meta"):
            kind: Any = type(AutoBackbone.from_config(config))
    except ValueError as problem:
        raise CheckpointError(
            f"{source!r} is a {config.model_type!r} model, which transformers cannot use as a backbone. Choose a "
            "DINOv2, DINOv3, Swin, ConvNeXt, BEiT or ResNet checkpoint, for example."
        ) from problem
    stages = len(config.stage_names) - 1  # the first is the stem
    if stages < 4:
        raise CheckpointError(f"The backbone {source!r} has {stages} stages; UperNet needs four. Choose another.")
    config.out_features = [config.stage_names[round(stages * quarter / 4)] for quarter in (1, 2, 3, 4)]
    try:
        loaded, info = kind.from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **hub
        )
    except Exception as problem:  # transformers raises anything for a damaged file
        raise CheckpointError(
            f"The backbone {source!r} could not be loaded: {first_line(problem)}. Download it again."
        ) from problem
    # Norms of the intermediate maps, which a classifier does not have. They are initialized as the identity.
    lost = sorted(key for key in info["missing_keys"] if "hidden_states_norms" not in key)
    if lost:
        raise CheckpointError(
            f"The backbone {source!r} does not fill {len(lost)} tensors of {kind.__name__}, such as {lost[0]!r}. "
            "Download it again, or choose another."
        )
    labels: dict[str, Any] = {}
    if id2label is not None:
        labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, use_auxiliary_head=False, **labels))
    model.backbone.load_state_dict(loaded.state_dict(), strict=True)
    return model


def whole_image_processor(processor: BaseImageProcessor, side: int | None = None) -> SegformerImageProcessor:
    """A processor with the colors of a backbone's own that only resizes, for images of `side` pixels (default: its
    own).

    Raises:
        ValueError: a processor without mean and std.
    """
    side = side or native_size(processor)
    colors = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    return SegformerImageProcessor(size={"height": side, "width": side}, **colors)
