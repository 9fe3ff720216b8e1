#!/usr/bin/env python
"""Add a segmentation head to a pretrained backbone and save it as a folder for `--model_a` and `--model_b`.

    prepare_model.py deeplab-v2 --backbone microsoft/resnet-101 --output models/deeplab-v2 [--branches 2]
    prepare_model.py upernet    --backbone facebook/dinov2-base --output models/upernet-dinov2

`deeplab-v2` is the paper's network and needs a ResNet; `--weights` loads a file with torchvision's tensor names, and
`--bgr` sets the preprocessing for weights converted from Caffe. `upernet` accepts any backbone that transformers
supports (DINOv2, Swin, ConvNeXt, BEiT, ResNet, ...). Only the backbone's weights are saved: `hf-dmt train` initializes
the head from the run's seed and the member, so that a and b can start from one folder with different heads for the
data's classes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, BaseImageProcessor, PreTrainedModel

from hf_dmt.models.loading import CheckpointError, load_config, load_processor
from hf_dmt.models.networks.deeplab_v2 import CaffeImageProcessor, DeepLabV2Config, DeepLabV2ForSemanticSegmentation
from hf_dmt.models.preprocessing import native_size
from hf_dmt.models.upernet import upernet_on, whole_image_processor


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare one model; returns 0, or 2 for invalid arguments."""
    args = _parser().parse_args(argv)
    output = Path(args.output)
    try:
        if args.model != "deeplab-v2" and (args.weights or args.bgr or args.branches):
            raise CheckpointError("--weights, --bgr and --branches only apply to deeplab-v2. Omit them for upernet.")
        if output.exists() and any(output.iterdir()):
            raise CheckpointError(f"--output {args.output!r} is not empty. Choose another folder.")
        processor = load_processor(args.backbone, load_config(args.backbone, trust_remote_code=False))
        if args.model == "deeplab-v2":
            model: PreTrainedModel = deeplab_v2(args.backbone, args.branches or 4)
            if args.weights:
                load_torchvision_names(model.backbone, Path(args.weights))
        else:
            model = upernet_on(args.backbone)
        side = args.side or native_size(processor)
        if args.bgr:
            saved: BaseImageProcessor = CaffeImageProcessor(size={"height": side, "width": side})
        else:
            saved = whole_image_processor(processor, side)
        kept = {key: value for key, value in model.state_dict().items() if key.startswith("backbone.")}
        model.save_pretrained(output, state_dict=kept)
        saved.save_pretrained(output)
    except (ValueError, OSError) as problem:
        print(f"prepare_model.py: error: {problem}", file=sys.stderr)
        return 2
    print(f"{args.model} on {args.backbone} ({model.num_parameters() / 1e6:.1f} M parameters) in {output}")
    return 0


def deeplab_v2(backbone: str, branches: int) -> DeepLabV2ForSemanticSegmentation:
    """DeepLab-v2 on a ResNet with bottleneck blocks, output stride 8.

    Raises:
        ValueError: not a ResNet, or one that does not fit.
    """
    config = load_config(backbone, trust_remote_code=False)
    if config.model_type != "resnet":
        raise CheckpointError(
            f"--backbone {backbone!r} is a {config.model_type!r}, but DeepLab-v2 needs a ResNet such as "
            "microsoft/resnet-101. Choose one, or prepare `upernet`."
        )
    size = {name: getattr(config, name) for name in ("num_channels", "embedding_size", "hidden_sizes", "depths")}
    model = DeepLabV2ForSemanticSegmentation(DeepLabV2Config(**size, aspp_branches=branches))
    load_imagenet_backbone(model, backbone)
    return model


def load_imagenet_backbone(model: DeepLabV2ForSemanticSegmentation, source: str) -> None:
    """Copy every weight and running statistic of a transformers ResNet to the backbone, in place; its classifier is
    ignored.

    Args:
        source: a Hub id or folder, such as "microsoft/resnet-101".

    Raises:
        ValueError: `source` lacks tensors, or computes something other than the backbone.
    """
    resnet, info = AutoModel.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    unexpected = [key for key in info["unexpected_keys"] if not key.startswith("classifier.")]
    if lost := sorted(info["missing_keys"]) + sorted(unexpected):
        raise ValueError(
            f"{source}: {len(lost)} tensors do not match {type(resnet).__name__} ({', '.join(lost[:3])}), so part of "
            "the backbone would stay random. Give a complete ResNet checkpoint of transformers."
        )
    fields = (
        *("num_channels", "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act"),
        *("downsample_in_first_stage", "downsample_in_bottleneck"),  # same tensors, other strides
    )
    for field in fields:
        ours, theirs = getattr(model.backbone.config, field), getattr(resnet.config, field)
        if ours != theirs:
            raise ValueError(
                f"The ResNet has {field}={theirs}, but the backbone has {ours}, so its weights would not fit or would "
                "compute something else. Build the model from a matching DeepLabV2Config, or give another ResNet."
            )
    model.backbone.load_state_dict(resnet.state_dict(), strict=True)


def load_torchvision_names(backbone: nn.Module, file: Path) -> None:
    """Load a safetensors file with torchvision's names into a transformers ResNet, in place.

    Converted Caffe weights have these names, too, some with a common prefix such as `module.`. Tensors that are not
    part of the backbone (a classifier, a head) are ignored.

    Raises:
        ValueError: not a safetensors file, or one that leaves part of the backbone unset.
    """
    try:
        given = load_file(file)
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"--weights {str(file)!r} cannot be read ({problem}). It must be a safetensors file; convert a .pth file "
            "once with safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'x.safetensors')."
        ) from problem
    stem = next((key for key in given if key.endswith("conv1.weight") and "layer" not in key), "conv1.weight")
    prefix = stem.removesuffix("conv1.weight")
    state = {torchvision_name(key): f"{prefix}{torchvision_name(key)}" for key in backbone.state_dict()}
    unset = sorted(name for name, key in state.items() if key not in given and not name.endswith("num_batches_tracked"))
    if unset:
        raise CheckpointError(
            f"--weights {str(file)!r} leaves {len(unset)} tensors of the backbone unset, such as {unset[0]!r}. "
            "Its names must be those of torchvision's ResNet of the same depth."
        )
    own = backbone.state_dict()
    backbone.load_state_dict({key: given.get(state[torchvision_name(key)], value) for key, value in own.items()})


def torchvision_name(key: str) -> str:
    """The torchvision name of a tensor in transformers' ResNet."""
    key = key.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    key = key.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    key = re.sub(r"\.layer\.(\d)\.convolution", lambda found: f".conv{int(found[1]) + 1}", key)
    key = re.sub(r"\.layer\.(\d)\.normalization", lambda found: f".bn{int(found[1]) + 1}", key)
    return re.sub(r"encoder\.stages\.(\d)\.layers", lambda found: f"layer{int(found[1]) + 1}", key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", choices=("deeplab-v2", "upernet"))
    parser.add_argument("--backbone", required=True, help="Hub id or folder of a pretrained model")
    parser.add_argument("--output", required=True, help="a new folder")
    parser.add_argument(
        "--branches", type=int, choices=(2, 4), help="deeplab-v2: 4 by default; 2 is what the official code computes"
    )
    parser.add_argument("--weights", help="deeplab-v2: a safetensors file in torchvision's names, for other weights")
    parser.add_argument("--bgr", action="store_true", help="deeplab-v2: the weights were converted from Caffe")
    parser.add_argument("--side", type=int, help="image size to save with it (default: the backbone's own) ")
    return parser


if __name__ == "__main__":
    sys.exit(main())
