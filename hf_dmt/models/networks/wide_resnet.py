"""WRN-28-2, the CIFAR network of the paper, as a transformers model.

Importing this module registers `model_type` "hf_dmt_wide_resnet" with `AutoConfig` and
`AutoModelForImageClassification`, so that a saved folder can be loaded and used in a pair like any other.

Structure: Zagoruyko and Komodakis, "Wide Residual Networks" (2016): pre-activation basic blocks, no dropout. The
details are those of the WRN-28-2 commonly used to compare semi-supervised methods (Oliver et al. 2018, MixMatch,
FixMatch): leaky ReLU with slope 0.1; in the first block the shortcut sees the activated input, in the two later blocks
that change width the raw input; a shortcut is a bare 1x1 convolution. Parameters: 1,467,610 in 80 tensors for 10
classes, as in the official code. The count does not reveal the activation, batch normalization momentum or classifier
initialization of that code; the first two are configuration fields.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple


class WideResNetConfig(PreTrainedConfig):
    """Configuration of a wide residual network; the defaults are WRN-28-2.

    depth: number of weighted layers, 6 n + 4 for n blocks in each of the three stages. widen_factor: the stages have
    16, 32 and 64 times this many channels. num_channels: channels of the input image. negative_slope: slope of the
    leaky ReLU below zero; 0 is the plain ReLU of the original network. batch_norm_momentum: weight of a batch in the
    running statistics. Ports of MixMatch and FixMatch use 0.001, which
        still contains 37 % of the initial value after 1,000 updates: only for runs with tens of thousands of updates.

    Raises ValueError for a depth that is not 6 n + 4.
    """

    model_type = "hf_dmt_wide_resnet"

    depth: int = 28
    widen_factor: int = 2
    num_channels: int = 3
    negative_slope: float = 0.1
    batch_norm_momentum: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(
                f"depth={self.depth}: a wide ResNet has three stages of n blocks of two convolutions, so its "
                "depth is 6 n + 4. Use 10, 16, 22, 28, 34, 40, ..."
            )
        super().__post_init__(**kwargs)


class WideResNetBlock(nn.Module):
    """Two 3x3 convolutions, each after batch normalization and leaky ReLU, beside a shortcut."""

    def __init__(
        self, config: WideResNetConfig, in_channels: int, out_channels: int, stride: int, activate_shortcut: bool
    ) -> None:
        super().__init__()
        self.negative_slope = config.negative_slope
        self.activate_shortcut = activate_shortcut
        self.norm1 = nn.BatchNorm2d(in_channels, momentum=config.batch_norm_momentum)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels, momentum=config.batch_norm_momentum)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if in_channels != out_channels else None
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        activated = F.leaky_relu(self.norm1(hidden), self.negative_slope)
        if self.shortcut is not None:
            hidden = self.shortcut(activated if self.activate_shortcut else hidden)
        residual = self.conv1(activated)
        residual = self.conv2(F.leaky_relu(self.norm2(residual), self.negative_slope))
        return hidden + residual


class WideResNetForImageClassification(PreTrainedModel):
    """Wide ResNet with global average pooling and a linear classifier; takes images of any size."""

    config_class = WideResNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules: ClassVar[list[str]] = ["WideResNetBlock"]
    # forward takes **kwargs and its loss is a plain mean: without this, the Trainer assumes that the loss is divided by
    # num_items_in_batch, and does not divide by the gradient accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__(config)
        widths = [16 * config.widen_factor * 2**stage for stage in range(3)]
        self.stem = nn.Conv2d(config.num_channels, 16, 3, padding=1, bias=False)
        blocks: list[WideResNetBlock] = []
        channels = 16
        for stage, width in enumerate(widths):
            for index in range((config.depth - 4) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(WideResNetBlock(config, channels, width, stride, activate_shortcut=stage == 0))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels, momentum=config.batch_norm_momentum)
        self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al. (2015), fan-out: std = sqrt(2 / (k k out_channels)); Glorot normal for the classifier.

        The base class would initialize every convolution with std 0.02.
        """
        super()._init_weights(module)  # batch normalization to the identity, biases to 0
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """pixel_values (N, num_channels, H, W) float -> logits (N, num_labels).

        labels (N,) int64 add the mean cross-entropy as `loss`.
        """
        hidden = self.blocks(self.stem(pixel_values))
        hidden = F.leaky_relu(self.norm(hidden), self.config.negative_slope)
        logits = self.classifier(hidden.mean(dim=(2, 3)))
        loss = F.cross_entropy(logits, labels) if labels is not None else None
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register(WideResNetConfig.model_type, WideResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(WideResNetConfig, WideResNetForImageClassification, exist_ok=True)
