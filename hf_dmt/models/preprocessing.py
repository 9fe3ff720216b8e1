"""What an image processor does to colours and to geometry, found by asking it.

Two members see the same image through two processors. Reading `image_mean` and `image_std` is not enough: some
processors normalise twice, shift after rescaling, or flip RGB to BGR. So the colour part is measured as the affine map
it is, verified on a random image, and then applied on the device to a whole batch.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor

_TOLERANCE = 1e-4  # of a normalised value; an 8-bit step is 0.017 after division by a std of 0.23


class ViewNormalizer(nn.Module):
    """Turn a shared view into the pixel values one member was pretrained on.

    A training view is `(B, 3, H, W)` float in [0, 1]. It is resized to `size` (bilinear, antialiased) if it has another
    size and mapped by `y = matrix @ x + offset` per pixel. Buffers are not persistent: they belong to the image
    processor, which is saved beside the member.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.size = size

    def forward(self, view: Tensor) -> Tensor:
        if view.ndim != 4 or view.shape[1] != 3:
            raise ValueError(
                f"A view must be (batch, 3, height, width) in [0, 1], got shape {tuple(view.shape)}: "
                "convert images to RGB and stack them first."
            )
        if view.shape[-2:] != self.size:
            view = F.interpolate(view, self.size, mode="bilinear", antialias=True, align_corners=False)
        return torch.einsum("oi,bihw->bohw", self.matrix, view) + self.offset[:, None, None]


def colour_map(processor: BaseImageProcessor) -> tuple[Tensor, Tensor]:
    """`(matrix (3, 3), offset (3,))` of a processor's colour part on images in [0, 1].

    Raises:
        ValueError: the processor is not an affine map of colours (for example patches of NaFlex or colour clusters).
    """

    def colours(images: Tensor) -> Tensor:  # (N, 3, 8, 8) uint8 -> float, geometry off
        off = {
            flag: False
            for flag in ("do_resize", "do_center_crop", "do_pad")
            if getattr(processor, flag, None) is not None
        }
        return torch.as_tensor(processor(list(images), return_tensors="pt", **off)["pixel_values"]).float()

    name = type(processor).__name__
    try:
        flat = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        for channel in range(3):
            flat[channel + 1, channel] = 255
        black, *pure = (value.mean(dim=(1, 2)) for value in colours(flat))
        matrix, offset = torch.stack([colour - black for colour in pure], dim=1), black
        noise = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        expected = torch.einsum("oi,bihw->bohw", matrix, noise / 255) + offset[:, None, None]
        error = (colours(noise) - expected).abs().max().item()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as problem:
        raise ValueError(
            f"{name} cannot be applied to a batch of RGB images on the device ({problem}). "
            "Use a checkpoint whose image processor resizes, rescales and normalises plain RGB images."
        ) from problem
    if not error < _TOLERANCE:
        raise ValueError(
            f"{name} is not an affine map of colours (a random image differs by {error:.3g} from the best fit), so views "
            "cannot be normalised on the device. Use a checkpoint whose processor only rescales, normalises or flips "
            "channels."
        )
    return matrix, offset


def output_size(processor: BaseImageProcessor, height: int, width: int) -> tuple[int, int]:
    """The `(height, width)` that a processor makes of an image of the given size."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    values = torch.as_tensor(processor([image], return_tensors="pt")["pixel_values"])
    return int(values.shape[-2]), int(values.shape[-1])


def native_size(processor: BaseImageProcessor) -> int:
    """The longer side of what a processor makes of a square image: the size a member wants by default."""
    return max(output_size(processor, 256, 256))


def with_size(processor: BaseImageProcessor, side: int, *, keep_aspect: bool) -> BaseImageProcessor:
    """A copy of `processor` for images of shorter side `side`.

    Args:
        keep_aspect: ask for the shorter side (segmentation: the clean image keeps the scale that crops were trained at);
            a processor class that cannot do that gets a square instead.
    """
    square = {"height": side, "width": side}

    def resized(size: dict[str, int]) -> BaseImageProcessor:
        settings: dict[str, Any] = copy.deepcopy(processor.to_dict())
        settings |= {"size": size, "do_resize": True}
        if settings.get("do_center_crop"):
            settings["crop_size"] = square
            if keep_aspect:
                settings["do_center_crop"] = False
        if settings.get("crop_pct") is not None:  # ConvNeXt: below 384 it resizes to size / crop_pct first, then crops
            settings["crop_pct"] = 1.0
        settings.pop("image_processor_type", None)
        return type(processor)(**settings)

    if keep_aspect:
        try:
            candidate = resized({"shortest_edge": side})
            if output_size(candidate, 2 * side, 3 * side) == (side, 3 * side // 2):
                return candidate
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            pass  # a class that knows only height and width: the question below decides
    asks_shorter_side = getattr(processor.size, "shortest_edge", None) is not None
    return resized({"shortest_edge": side} if asks_shorter_side else square)


def crops(processor: BaseImageProcessor) -> bool:
    """Whether a processor cuts the sides off a wide image: fine for one label an image, wrong for one label a pixel."""
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[:, :, :8] = image[:, :, -8:] = 255
    values = torch.as_tensor(processor([image], return_tensors="pt")["pixel_values"])[0].float().mean(dim=(0, 1))
    middle, edge = values[values.shape[0] // 2], min(values[0], values[-1])
    return not bool(edge > middle)


def clean_inputs(processor: BaseImageProcessor, images: list[Any]) -> list[Tensor]:
    """Images as this processor, and so `pipeline()`, hands them to its model: a list of `(3, h, w)` float32.

    Processors batch images of one size by themselves (80 us an image at 32 px against 1 ms one by one), and return a
    list where sizes differ; both come back as a list here.
    """
    values = processor(images, return_tensors=None)["pixel_values"]
    return [torch.as_tensor(value).float() for value in values]
