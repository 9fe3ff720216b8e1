"""What an image processor does to colors and geometry, found by running it.

Two members see the same image through two processors. Reading `image_mean` and `image_std` is not enough: some
processors normalize twice, shift after rescaling, or flip RGB to BGR. So the color part is measured as an affine map,
verified on a random image, and then applied on the device to a whole batch.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor

from ..data.pair_file import LONGEST_SIDE
from . import timm_members
from .timm_members import is_timm_processor

_SHORTEST_SIDE = 8  # of a training view; strided convolutions cannot process smaller ones
_WHITE = 0.01  # of a normalized value; interpolation leaves white as it is
_TOLERANCE = 1e-4  # of a normalized value; an 8-bit step is 0.017 after division by a std of 0.23


class ViewNormalizer(nn.Module):
    """Converts a shared view to the pixel values one member was pretrained on.

    A training view is `(B, 3, H, W)` float in [0, 1]. It is resized to `size` (bilinear, antialiased) if necessary and
    mapped by `y = matrix @ x + offset` per pixel. Buffers are not persistent: they belong to the image processor, which
    is saved with the member.

    Args:
        border: black columns and rows (left, right, top, bottom) within `size`: a processor whose crop is larger than
            what it resizes images to pads them.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(
        self, matrix: Tensor, offset: Tensor, size: tuple[int, int], border: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.size, self.border = size, border
        left, right, top, bottom = border
        self.inner = (size[0] - top - bottom, size[1] - left - right)

    def forward(self, view: Tensor) -> Tensor:
        if view.ndim != 4 or view.shape[1] != 3 or not view.is_floating_point():
            raise ValueError(
                f"A view must be (batch, 3, height, width), float in [0, 1], got {view.dtype} of shape "
                f"{tuple(view.shape)}: convert images to RGB, divide by 255 and stack them first."
            )
        if view.shape[-2:] != self.inner:
            view = F.interpolate(view, self.inner, mode="bilinear", antialias=True, align_corners=False)
        view = F.pad(view, self.border) if any(self.border) else view
        # Autocast would round mean and std to bfloat16 here, while clean images are normalized in float32.
        with torch.autocast(view.device.type, enabled=False):
            matrix, offset = self.matrix.float(), self.offset.float()
            return torch.einsum("oi,bihw->bohw", matrix, view.float()) + offset[:, None, None]


def view_normalizer(processor: BaseImageProcessor, side: int, *, pixels: bool) -> ViewNormalizer:
    """What a processor does to a square view of `side` pixels, on a device.

    Args:
        pixels: for segmentation, where the whole view must reach the model.

    Raises:
        ValueError: it crops or pads images (with `pixels`), pads some only, or is not an affine map of colors.
    """
    if pixels and not shows_whole_image(processor):
        raise ValueError(
            f"{type(processor).__name__} crops or pads images, so pixels and labels would not be aligned. Use a "
            "processor that only resizes, such as SegformerImageProcessor (do_center_crop=False, do_pad=False)."
        )
    matrix, offset = color_map(processor)
    white = [
        _processed(processor, torch.full((1, 3, size, size), 255, dtype=torch.uint8)) for size in (side, side // 2)
    ]
    inside = ((white[0][0] - (matrix.sum(dim=1) + offset)[:, None, None]).abs() < _WHITE).all(dim=0)
    (top, bottom), (left, right) = (_ends(inside.any(dim=other)) for other in (1, 0))
    height, width = inside.shape
    normalizer = ViewNormalizer(matrix, offset, (height, width), (left, right, top, bottom))
    expected = normalizer(torch.ones(1, 3, side, side))
    if any(values.shape == expected.shape and (values - expected).abs().max() > _WHITE for values in white):
        raise ValueError(
            f"{type(processor).__name__} pads images of some sizes, or not with black, so clean images would look "
            'unlike training views. Set "do_resize" to true and "size" to at least "crop_size" in '
            "preprocessor_config.json."
        )
    return normalizer


def _ends(inside: Tensor) -> tuple[int, int]:
    """How many entries before the first true one and after the last one are false; zeros if all are."""
    places = inside.nonzero()[:, 0].tolist()
    return (places[0], len(inside) - 1 - places[-1]) if places else (0, 0)


def color_map(processor: BaseImageProcessor) -> tuple[Tensor, Tensor]:
    """`(matrix (3, 3), offset (3,))` of a processor's color map on images in [0, 1].

    Raises:
        ValueError: the processor is not an affine map of colors (for example NaFlex patches or color clusters).
    """
    geometry = ("do_resize", "do_center_crop", "do_pad")
    off = {flag: False for flag in geometry if getattr(processor, flag, None) is not None}
    flat = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for channel in range(3):
        flat[channel + 1, channel] = 255
    generator = torch.Generator().manual_seed(0)
    black, *pure = (value.mean(dim=(1, 2)) for value in _processed(processor, flat, **off))
    matrix = torch.stack([color - black for color in pure], dim=1)
    if is_timm_processor(processor):  # it always resizes and crops, which does not change an image of a single color
        colors = torch.randint(0, 256, (16, 3, 1, 1), dtype=torch.uint8, generator=generator)
        noise = colors.expand(16, 3, 8, 8)
        values = _processed(processor, noise)[..., :8, :8]
    else:
        noise = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=generator)
        values = _processed(processor, noise, **off)
    expected = torch.einsum("oi,bihw->bohw", matrix, noise / 255) + black[:, None, None]
    error = (values - expected).abs().max().item() if values.shape == expected.shape else float("inf")
    if not error < _TOLERANCE:  # also refuses NaN
        raise ValueError(
            f"{type(processor).__name__} is not an affine map of colors (a random image differs by {error:.3g} from "
            "the best fit), so views cannot be normalized on the device. Use a checkpoint whose processor only "
            "rescales, normalizes or flips channels."
        )
    return matrix, black


def output_size(processor: BaseImageProcessor, height: int, width: int) -> tuple[int, int]:
    """The `(height, width)` of a processor's output for an image of the given size."""
    values = _processed(processor, torch.zeros(1, 3, height, width, dtype=torch.uint8))
    return int(values.shape[-2]), int(values.shape[-1])


def native_size(processor: BaseImageProcessor) -> int:
    """The longer side of a processor's output for a square image: the member's default size."""
    return max(output_size(processor, 256, 256))


def check_side(side: int | None) -> None:
    """Raise a ValueError for a side of the shared view that no network can use."""
    if side is not None and not (isinstance(side, int) and _SHORTEST_SIDE <= side <= LONGEST_SIDE):
        raise ValueError(
            f"`image_size` {side!r} is not a size that a network can use: the view needs a side of {_SHORTEST_SIDE} to "
            f"{LONGEST_SIDE} pixels. Give the size that the models were trained at, such as 224, or omit it."
        )


def fitted(processor: BaseImageProcessor, model: nn.Module, side: int | None, *, pixels: bool) -> BaseImageProcessor:
    """The processor for clean images at `side`; if the model or processor does not support that, `processor` itself.

    Args:
        side: the requested side; None keeps the processor's own.
        pixels: images must not be cropped. The shorter side becomes `side`, which matches the scale of the training
            views; a model that only accepts squares (DPT) gets the whole image as a square.
    """
    side = side or native_size(processor)
    square = {"height": side, "width": side}
    if not pixels:
        if native_size(processor) == side or not _accepts(model, side, side):
            return processor
        if is_timm_processor(processor):
            return timm_members.resized(processor, side)
        asks_shorter_side = getattr(processor.size, "shortest_edge", None) is not None
        return _resized(processor, {"shortest_edge": side} if asks_shorter_side else square, crop_size=square)
    for size, width in (({"shortest_edge": side}, 2 * side + 1), (square, side)):
        if _accepts(model, side, width):
            try:
                candidate = _resized(processor, size, crop_size=None)
                if output_size(candidate, 2 * side, 4 * side + 2) == (side, width):
                    return candidate
            except (AttributeError, KeyError, TypeError, ValueError):
                continue  # a class without this setting: try the next shape, or keep its own
    return processor


def shows_whole_image(processor: BaseImageProcessor) -> bool:
    """Whether the complete image, and nothing else, reaches the model: no crop and no padding.

    Measured on a ramp from black to white: a crop cuts off its ends, and padding replaces them.
    """
    ramp = torch.arange(0, 256, 2, dtype=torch.uint8)
    columns = _processed(processor, ramp.expand(1, 3, 64, 128)).mean(dim=(0, 1, 2))
    matrix, offset = color_map(processor)
    measured = (columns - offset.mean()) / (matrix.sum() / 3)
    width = columns.shape[0]
    position = (torch.arange(width) + 0.5) * 128 / width - 0.5
    expected = position.clamp(0, 127) * 2 / 255
    one_column = 2 / 255 * 128 / width
    # Interpolation changes the ramp's ends by less than half a column; 0.02 is 2.5 of 128 pixels.
    return bool(((measured - expected).abs() < 0.02 + one_column / 2).all())


def clean_inputs(processor: BaseImageProcessor, images: list[Any]) -> list[Tensor]:
    """Images as this processor, and therefore `pipeline()`, passes them to its model: a list of `(3, h, w)` float32.

    Processors batch images of one size themselves (80 us per image at 32 px, compared with 1 ms one by one), and return
    a list if sizes differ; here both are returned as a list.
    """
    # timm's processor only makes torch tensors, all of one size.
    tensors = "pt" if is_timm_processor(processor) else None
    values = processor(images, return_tensors=tensors)["pixel_values"]
    return [torch.as_tensor(value).float() for value in values]


def _processed(processor: BaseImageProcessor, images: Tensor, **options: bool) -> Tensor:
    """`(N, 3, h, w)` float32 from images `(N, 3, H, W)` uint8; the only place that calls an unknown processor."""
    try:
        values = torch.stack([torch.as_tensor(v) for v in processor(list(images), **options)["pixel_values"]]).float()
    except Exception as problem:  # third-party classes may raise anything; the meaning is the same
        raise _not_images(processor, f"{type(problem).__name__}: {problem}") from problem
    if values.ndim == 3:
        raise ValueError(
            f"{type(processor).__name__} cuts an image into patches of any number (NaFlex), and the members of a pair "
            "take whole images. Choose a checkpoint of one size, such as google/siglip2-base-patch16-224."
        )
    if values.ndim != 4 or values.shape[:2] != images.shape[:2]:
        raise _not_images(processor, f"it returns {tuple(values.shape)} for {tuple(images.shape)}")
    return values


def _not_images(processor: BaseImageProcessor, what: str) -> ValueError:
    return ValueError(
        f"{type(processor).__name__} cannot be applied to a batch of RGB images ({what}). Use a checkpoint whose image "
        "processor resizes, rescales and normalizes plain RGB images."
    )


def _resized(
    processor: BaseImageProcessor, size: dict[str, int], *, crop_size: dict[str, int] | None
) -> BaseImageProcessor:
    """A copy that resizes to `size`; if it crops, it then crops to `crop_size`, or no more (None)."""
    settings: dict[str, Any] = copy.deepcopy(processor.to_dict()) | {"size": size, "do_resize": True}
    if settings.get("do_center_crop"):
        settings |= {"crop_size": crop_size} if crop_size else {"do_center_crop": False}
    if settings.get("keep_aspect_ratio") and "height" in size:  # DPT, which would turn a square into a wide image
        settings |= {"keep_aspect_ratio": False, "ensure_multiple_of": 1}
    if settings.get("crop_pct") is not None:  # ConvNeXt: below 384 it resizes to size / crop_pct first, then crops
        settings["crop_pct"] = 1.0
    settings.pop("image_processor_type", None)
    return type(processor)(**settings)


def _accepts(model: nn.Module, height: int, width: int) -> bool:
    """Whether a model accepts images of a size other than its own (ViT does not, convolutional networks do).

    The logit map must also have the image's shape: DPT silently folds 4 x 9 patches into 6 x 6.
    """
    training = model.training
    model.eval()  # BatchNorm on pooled features refuses a single image in training mode
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, 3, height, width, device=next(model.parameters()).device)).logits
    except (ValueError, RuntimeError, AssertionError, IndexError):
        return False
    finally:
        model.train(training)
    return logits.ndim == 2 or (logits.shape[-1] > logits.shape[-2]) == (width > height)
