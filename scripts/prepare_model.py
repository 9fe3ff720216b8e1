#!/usr/bin/env python
"""Put a segmentation head on a pretrained backbone and save it as a folder for `--model_a` and `--model_b`.

    prepare_model.py deeplab-v2 --backbone microsoft/resnet-101 --output models/deeplab-v2 [--branches 2]
    prepare_model.py upernet    --backbone facebook/dinov2-base --output models/upernet-dinov2

`deeplab-v2` is the network of the paper and takes a ResNet; `upernet` takes whatever transformers can use as a backbone
(DINOv2, Swin, ConvNeXt, BEiT, ResNet, ...). Only the backbone's weights are saved: `run_dmt.py` draws the head from the
run's seed and the member, so that a and b start from one folder with different heads, each for the data's own classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoBackbone,
    PreTrainedModel,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hf_dmt.models.deeplab_v2 import DeepLabV2Config, DeepLabV2ForSemanticSegmentation, load_imagenet_backbone
from hf_dmt.models.loading import CheckpointError, load_config, load_processor
from hf_dmt.models.preprocessing import native_size


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare one model; returns 0, or 2 for a mistake in what was given."""
    args = _parser().parse_args(argv)
    output = Path(args.output)
    try:
        if output.exists() and any(output.iterdir()):
            raise CheckpointError(f"--output {args.output!r} is not empty. Choose another folder.")
        processor = load_processor(args.backbone)
        if args.model == "deeplab-v2":
            model: PreTrainedModel = deeplab_v2(args.backbone, args.branches)
        else:
            model = upernet(args.backbone)
        side = args.side or native_size(processor)
        colours = {"image_mean": processor.image_mean, "image_std": processor.image_std}
        kept = {key: value for key, value in model.state_dict().items() if key.startswith("backbone.")}
        model.save_pretrained(output, state_dict=kept)
        SegformerImageProcessor(size={"height": side, "width": side}, **colours).save_pretrained(output)
    except (ValueError, OSError) as problem:
        print(f"prepare_model.py: error: {problem}", file=sys.stderr)
        return 2
    print(f"{args.model} on {args.backbone} ({model.num_parameters() / 1e6:.1f} M parameters) in {output}")
    return 0


def deeplab_v2(backbone: str, branches: int) -> DeepLabV2ForSemanticSegmentation:
    """DeepLab-v2 on a ResNet of bottlenecks, output stride 8.

    Raises:
        ValueError: not a ResNet, or one that does not fit.
    """
    config = load_config(backbone, trust_remote_code=False)
    if config.model_type != "resnet":
        raise CheckpointError(
            f"--backbone {backbone!r} is a {config.model_type!r}; DeepLab-v2 stands on a ResNet such as "
            "microsoft/resnet-101. Choose one, or prepare `upernet`."
        )
    size = {name: getattr(config, name) for name in ("num_channels", "embedding_size", "hidden_sizes", "depths")}
    model = DeepLabV2ForSemanticSegmentation(DeepLabV2Config(**size, aspp_branches=branches))
    load_imagenet_backbone(model, backbone)
    return model


def upernet(backbone: str) -> UperNetForSemanticSegmentation:
    """UperNet on four evenly spaced feature maps of a backbone.

    Raises:
        ValueError: no backbone of transformers, fewer than four stages, or a checkpoint that does not fill it.
    """
    config = load_config(backbone, trust_remote_code=False)
    try:
        with torch.device("meta"):
            kind = type(AutoBackbone.from_config(config))
    except ValueError as problem:
        raise CheckpointError(
            f"--backbone {backbone!r} is a {config.model_type!r}, which transformers cannot use as a backbone. Choose "
            "a DINOv2, Swin, ConvNeXt, BEiT or ResNet checkpoint, for example."
        ) from problem
    stages = len(config.stage_names) - 1  # the first is the stem
    if stages < 4:
        raise CheckpointError(f"--backbone {backbone!r} has {stages} stages; UperNet needs four. Choose another.")
    config.out_features = [config.stage_names[round(stages * quarter / 4)] for quarter in (1, 2, 3, 4)]
    loaded, info = kind.from_pretrained(
        backbone, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    # What a classifier does not have: norms of the maps in between. They start as the identity.
    lost = sorted(key for key in info["missing_keys"] if "hidden_states_norms" not in key)
    if lost:
        raise CheckpointError(
            f"--backbone {backbone!r} leaves {len(lost)} tensors of {kind.__name__} unloaded, such as {lost[0]!r}. "
            "Download it again, or choose another."
        )
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, use_auxiliary_head=False))
    model.backbone.load_state_dict(loaded.state_dict(), strict=True)
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", choices=("deeplab-v2", "upernet"))
    parser.add_argument("--backbone", required=True, help="Hub id or folder of a pretrained model")
    parser.add_argument("--output", required=True, help="a new folder")
    parser.add_argument(
        "--branches", type=int, default=4, choices=(2, 4), help="deeplab-v2: 2 is what the official code computes"
    )
    parser.add_argument("--side", type=int, help="image size that is saved with it (default: the backbone's own)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
