"""Small models to train from scratch without a download: `tiny:vit`, `tiny:resnet` and so on.

Each is a stock transformers architecture with a small configuration, or one of the paper's two networks
(`paper:wrn-28-2`, `paper:deeplab-v2`), so they behave like any checkpoint (saving, `pipeline()`, the Hub).
"""

from __future__ import annotations

import torch
import transformers
from transformers import (
    BaseImageProcessor,
    BitImageProcessor,
    MobileNetV2Config,
    MobileNetV2ImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    SegformerConfig,
    SegformerImageProcessor,
    UperNetConfig,
    ViTConfig,
    ViTImageProcessor,
)

from ...data.pair_file import CheckpointError
from ...data.seeds import seeded
from ...data.tasks import TASKS
from .deeplab_v2 import DeepLabV2Config
from .wide_resnet import WideResNetConfig

PREFIX = ("tiny:", "paper:")
TASK_OF = {
    "paper:wrn-28-2": "image-classification",
    "paper:deeplab-v2": "semantic-segmentation",
    "tiny:vit": "image-classification",
    "tiny:resnet": "image-classification",
    "tiny:segformer": "semantic-segmentation",
    "tiny:mobilenet-deeplab": "semantic-segmentation",
    "tiny:upernet": "semantic-segmentation",
}

DEFAULT_SIDE = 32

# Statistics of the training images, as in the official classification code.
CIFAR_MEAN, CIFAR_STD = (0.49137, 0.48235, 0.44667), (0.24706, 0.24353, 0.26157)


def tiny_member(
    name: str, task: str, id2label: dict[int, str], *, side: int, seed: int
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """An embedded model for square images of `side` pixels with weights initialized from `seed`, and its image
    processor.

    Raises:
        CheckpointError: as `check_name`.
    """
    check_name(name, task)
    config, processor = _configuration(name, id2label, side)
    with seeded(seed):
        return getattr(transformers, TASKS[task].auto_class).from_config(config, dtype=torch.float32), processor


def check_name(name: str, task: str) -> None:
    """Raise unless `name` is an embedded model for the task.

    Raises:
        CheckpointError: an unknown name, or a model for the other task.
    """
    fitting = ", ".join(other for other, kind in TASK_OF.items() if kind == task)
    if name not in TASK_OF:
        raise CheckpointError(f"Unknown embedded model {name!r}. For {task} there are: {fitting}.")
    if TASK_OF[name] != task:
        raise CheckpointError(
            f"{name!r} is an embedded model for {TASK_OF[name]}, not for {task}. Use one of: {fitting}."
        )


def _configuration(name: str, id2label: dict[int, str], side: int) -> tuple[PretrainedConfig, BaseImageProcessor]:
    labels = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
    square = {"height": side, "width": side}
    match name:
        case "paper:wrn-28-2":
            return WideResNetConfig(**labels), BitImageProcessor(
                size={"shortest_edge": side}, crop_size=square, image_mean=CIFAR_MEAN, image_std=CIFAR_STD
            )
        case "paper:deeplab-v2":
            return DeepLabV2Config(**labels), SegformerImageProcessor(size=square)
        case "tiny:vit":
            config: PretrainedConfig = ViTConfig(
                image_size=side,
                patch_size=max(2, side // 4),
                hidden_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=128,
                **labels,
            )
            return config, ViTImageProcessor(size=square)
        case "tiny:resnet":
            config = ResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 64, 96],
                depths=[1, 1, 1],
                layer_type="basic",
                downsample_in_first_stage=False,
                **labels,
            )
            return config, BitImageProcessor(size={"shortest_edge": side}, crop_size=square)
        case "tiny:segformer":
            config = SegformerConfig(
                hidden_sizes=[24, 40, 64, 96],
                depths=[1, 1, 1, 1],
                num_attention_heads=[1, 2, 4, 4],
                # Half the usual strides: objects of ten pixels would disappear at a quarter of the resolution.
                patch_sizes=[3, 3, 3, 3],
                strides=[2, 2, 2, 2],
                decoder_hidden_size=64,
                **labels,
            )
            return config, SegformerImageProcessor(size=square)
        case "tiny:mobilenet-deeplab":
            config = MobileNetV2Config(
                depth_multiplier=0.35, output_stride=8, finegrained_output=True, tf_padding=False, **labels
            )
            return config, MobileNetV2ImageProcessor(size={"shortest_edge": side}, do_center_crop=False)
        case _:  # tiny:upernet
            # Basic ResNet blocks, because ConvNeXt's depthwise 7x7 convolutions train three times slower on a CPU.
            backbone = ResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 48, 64, 96],
                depths=[1, 1, 1, 1],
                layer_type="basic",
                out_features=["stage1", "stage2", "stage3", "stage4"],
            )
            config = UperNetConfig(backbone_config=backbone, hidden_size=32, use_auxiliary_head=False, **labels)
            return config, SegformerImageProcessor(size=square)
