"""Small members trained from scratch: `tiny:vit`, `tiny:resnet` and so on, for trying things without a download.

Each is a stock transformers architecture with a small configuration, so everything that holds for a checkpoint (saving,
`pipeline()`, the Hub) holds for them.
"""

from __future__ import annotations

from transformers import (
    BaseImageProcessor,
    BitImageProcessor,
    ConvNextConfig,
    MobileNetV2Config,
    MobileNetV2ImageProcessor,
    PretrainedConfig,
    ResNetConfig,
    SegformerConfig,
    SegformerImageProcessor,
    UperNetConfig,
    ViTConfig,
    ViTImageProcessor,
)

TASK_OF = {
    "tiny:vit": "image-classification",
    "tiny:resnet": "image-classification",
    "tiny:segformer": "semantic-segmentation",
    "tiny:mobilenet-deeplab": "semantic-segmentation",
    "tiny:upernet": "semantic-segmentation",
}

DEFAULT_SIDE = 32


def tiny_member(name: str, id2label: dict[int, str], side: int) -> tuple[PretrainedConfig, BaseImageProcessor]:
    """Configuration and image processor of a builtin member for square images of `side` pixels.

    Raises:
        ValueError: an unknown name.
    """
    labels = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
    square = {"height": side, "width": side}
    match name:
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
                hidden_sizes=[32, 48, 80, 128],
                depths=[1, 1, 1, 1],
                num_attention_heads=[1, 2, 4, 4],
                decoder_hidden_size=64,
                **labels,
            )
            return config, SegformerImageProcessor(size=square)
        case "tiny:mobilenet-deeplab":
            config = MobileNetV2Config(
                depth_multiplier=0.35, output_stride=8, finegrained_output=True, tf_padding=False, **labels
            )
            return config, MobileNetV2ImageProcessor(size={"shortest_edge": side}, do_center_crop=False)
        case "tiny:upernet":
            backbone = ConvNextConfig(
                hidden_sizes=[32, 48, 64, 96],
                depths=[1, 1, 1, 1],
                patch_size=2,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            )
            config = UperNetConfig(backbone_config=backbone, hidden_size=64, use_auxiliary_head=False, **labels)
            return config, SegformerImageProcessor(size=square)
        case _:
            raise ValueError(f"Unknown builtin member {name!r}. There are: {', '.join(TASK_OF)}.")
