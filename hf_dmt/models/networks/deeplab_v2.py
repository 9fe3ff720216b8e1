"""DeepLab-v2 on ResNet-101, the segmentation network of the paper, as a transformers model.

Importing this module registers `model_type` "hf_dmt_deeplab_v2" with `AutoConfig`, `AutoModelForSemanticSegmentation`
and `AutoImageProcessor`, so that a saved folder can be loaded and used in a pair like any other.

Structure: Chen et al., "DeepLab" (2018), as in the official code. The backbone is the standard ResNet V1.5 (stride in
the 3x3 convolution); its last two stages replace stride by dilation, so logits are 1/8 of the input (41x41 for
321x321). The head sums parallel 3x3 convolutions with dilation 6, 12, 18 and 24. The official forward returns after the
first two branches and leaves the other two without gradient. We use all four by default; with `aspp_branches=2` the
unused ones do not exist, because parameters without gradient stop DistributedDataParallel. Parameters: 44,048,532 for
21 classes with four branches, the official count.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    SegformerImageProcessor,
)
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.generic import can_return_tuple

ASPP_DILATIONS = (6, 12, 18, 24)


class DeepLabV2Config(PreTrainedConfig):
    """Configuration of DeepLab-v2; the defaults are the paper's ResNet-101.

    num_channels, embedding_size, hidden_sizes, depths: as in `ResNetConfig`; four stages of bottlenecks. aspp_branches:
    4 uses all dilations, 2 is what the official code computes (dilations 6 and 12). semantic_loss_ignore_index: ignored
    label when `forward` computes a loss.

    Raises ValueError for another number of branches or stages.
    """

    model_type = "hf_dmt_deeplab_v2"

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 2048)
    depths: list[int] | tuple[int, ...] = (3, 4, 23, 3)
    aspp_branches: int = 4
    semantic_loss_ignore_index: int = 255

    def __post_init__(self, **kwargs: Any) -> None:
        if self.aspp_branches not in (2, 4):
            raise ValueError(
                f"aspp_branches={self.aspp_branches}: the head sums either all 4 branches or, as the "
                "official code does, the first 2. Use 4 or 2."
            )
        if len(self.depths) != 4 or len(self.hidden_sizes) != 4:
            raise ValueError(
                f"depths={self.depths}, hidden_sizes={self.hidden_sizes}: output stride 8 comes from "
                "dilating stages 3 and 4 of four. Give four numbers each."
            )
        # Tuples are read from JSON as lists; with one form, a loaded configuration equals the saved one.
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        super().__post_init__(**kwargs)


class DeepLabV2ForSemanticSegmentation(PreTrainedModel):
    """Dilated ResNet with a sum of dilated 3x3 convolutions."""

    config_class = DeepLabV2Config
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules: ClassVar[list[str]] = ["ResNetBottleNeckLayer"]
    # forward takes **kwargs and its loss is a plain mean: without this, the Trainer assumes that the loss is divided by
    # num_items_in_batch, and does not divide by the gradient accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: DeepLabV2Config) -> None:
        super().__init__(config)
        self.backbone = ResNetModel(
            ResNetConfig(
                num_channels=config.num_channels,
                embedding_size=config.embedding_size,
                hidden_sizes=config.hidden_sizes,
                depths=config.depths,
            )
        )
        _dilate(self.backbone)
        self.branches = nn.ModuleList(
            nn.Conv2d(config.hidden_sizes[-1], config.num_labels, 3, padding=dilation, dilation=dilation)
            for dilation in ASPP_DILATIONS[: config.aspp_branches]
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The head uses PyTorch's default initialization, as in the official code (the base class would use std 0.02).

        The backbone is a model of its own and initializes itself: He normal, fan-out.
        """
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """pixel_values (N, num_channels, H, W) float -> logits (N, num_labels, ceil(H / 8), ceil(W / 8)).

        labels (N, H', W') int64: logits are upsampled to them (bilinear, align_corners=True, as officially);
        `loss` is the mean cross-entropy of the pixels that are not ignored, 0 when all are.
        """
        features = self.backbone(pixel_values, return_dict=True).last_hidden_state
        logits = torch.stack([branch(features) for branch in self.branches]).sum(dim=0)
        loss = None
        if labels is not None:
            upsampled = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=True)
            ignore_index = self.config.semantic_loss_ignore_index
            loss = F.cross_entropy(upsampled, labels, ignore_index=ignore_index, reduction="sum")
            loss = loss / (labels != ignore_index).sum().clamp(min=1)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


def _dilate(backbone: ResNetModel) -> None:
    """Output stride 32 -> 8 in place: stages 3 and 4 keep their resolution and dilate their 3x3 convolutions.

    A stage's first block keeps the dilation of the previous stage (1, 2), the others have 2 and 4, as in torchvision's
    `replace_stride_with_dilation`. No tensor changes its name or shape, so ResNet checkpoints fit.
    """
    for stage, dilation in zip(backbone.encoder.stages[2:], (2, 4), strict=True):
        for index, block in enumerate(stage.layers):
            for conv in block.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.stride = (1, 1)
                    if conv.kernel_size == (3, 3):
                        own = dilation // 2 if index == 0 else dilation
                        conv.dilation = conv.padding = (own, own)


class CaffeImageProcessor(SegformerImageProcessor):
    """Preprocessing for weights converted from Caffe: BGR, 0 to 255, mean subtracted, no division.

    No processor of transformers supports this: those that flip channels either do not subtract a mean or lack
    `post_process_semantic_segmentation`, which `pipeline("image-segmentation")` needs. `image_mean` and `image_std` are
    in BGR order. `scripts/prepare_model.py` saves it.
    """

    do_rescale = False
    image_mean = (104.008, 116.669, 122.675)
    image_std = (1.0, 1.0, 1.0)

    def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(N, C, H, W) -> the same shape; flips channels first. A mask has one channel and stays as it is."""
        return super().rescale_and_normalize(images.flip(-3), *args, **kwargs)


AutoConfig.register(DeepLabV2Config.model_type, DeepLabV2Config, exist_ok=True)
AutoModelForSemanticSegmentation.register(DeepLabV2Config, DeepLabV2ForSemanticSegmentation, exist_ok=True)
AutoImageProcessor.register(
    DeepLabV2Config, image_processor_classes={"torchvision": CaffeImageProcessor}, exist_ok=True
)
