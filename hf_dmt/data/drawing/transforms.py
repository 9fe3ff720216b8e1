"""Training views: how a decoded image becomes one random training sample.

Two callables, one per task, built from `torchvision.transforms.v2`:

- `ImageView` (image classification) takes an image;
- `PixelView` (semantic segmentation) takes an image, its class ids and their confidences, and transforms the
  three together.

Both return images as float32 in [0, 1]. Normalizing, and resizing to what each member expects, happen later, on the
device and per member.

All randomness comes from torch's global CPU generator, so inside `seeded(seed)` a view is a pure function of
the seed and its input. With `seed_for(run_seed, member, draw, index)` as the seed, no two processes or workers share a
stream, and a resumed run draws what the uninterrupted run would have drawn.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..tasks import IGNORE_INDEX

GRAY = 128  # fills padding, rotation and Cutout: close to the mean of natural images

SCALE_RANGE = (0.5, 1.5)


class ImageView:
    """A random view of one image for classification: RGB PIL image -> float32 (3, size, size) in [0, 1].

    An image whose shorter side exceeds `size` is cropped to 50..100 % of its area (aspect ratio 3/4..4/3) and
    resized, as fine-tuning scripts do. A smaller or equal one is resized to (size, size), padded by size // 8
    on every side by reflection and cropped back, as is usual on CIFAR; a crop by area would cost it detail it
    does not have. Then, if `hflip`, a horizontal flip with probability 1/2.

    `strong=True` adds RandAugment (arXiv:1909.13719; 2 operations, magnitude 9 of 30) and Cutout (arXiv:1708.04552; one
    gray square of 2..15 % of the area). In torchvision, RandAugment's shifts are fractions of the image. The official
    code shifts by up to 100 pixels whatever the size, which leaves about one in ten images of 32x32 a single flat
    color.

    Args:
        size: Side of the view in pixels.
        strong: Add RandAugment and Cutout.
        hflip: Mirror half of the views. Disable for text and digits.
    """

    def __init__(self, size: int, *, strong: bool = False, hflip: bool = True) -> None:
        self.size = size
        self.hflip = hflip
        self.shrink = v2.RandomResizedCrop(size, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), antialias=True)
        # PIL operations: RandAugment on uint8 tensors takes twice as long, for small and large images.
        bilinear = v2.InterpolationMode.BILINEAR
        self.colors = _RandAugment(num_ops=2, magnitude=9, interpolation=bilinear, fill=GRAY) if strong else None

    def __call__(self, image: Image.Image) -> Tensor:
        """Raises ValueError if the image is not in RGB mode."""
        check_rgb(image)
        image = self.shrink(image) if min(image.size) > self.size else self._shifted(image)
        if self.hflip and torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colors is not None:
            image = self.colors(image)
        view = F.pil_to_tensor(image)
        if self.colors is not None:
            self._cut_out(view)
        return view / 255.0

    def _shifted(self, image: Image.Image) -> Image.Image:
        """Pad by reflection and crop back, as one look-up: `v2.RandomCrop` takes five times as long at 32 pixels."""
        size = self.size
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        reach = size // 8
        if not reach:
            return image
        left, top = (torch.randint(2 * reach + 1, (2,)) - reach).tolist()
        columns, rows = (np.abs(np.arange(size) + start) for start in (left, top))
        columns, rows = (np.where(places < size, places, 2 * (size - 1) - places) for places in (columns, rows))
        return Image.fromarray(np.asarray(image)[rows[:, None], columns])

    def _cut_out(self, view: Tensor) -> None:
        """Gray over one square of 2..15 % of the area, in place."""
        share = torch.empty(()).uniform_(0.02, 0.15).item()
        side = max(1, round(self.size * share**0.5))
        top, left = torch.randint(self.size - side + 1, (2,)).tolist()
        view[:, top : top + side, left : left + side] = GRAY


class _RandAugment(v2.RandAugment):  # type: ignore[misc]
    """torchvision's RandAugment, in less time.

    It shifts by whole pixels, but interpolates between them all the same, which in PIL takes twenty times as long as
    copying them and changes nothing. Should torchvision rename this private method, the views stay as they are.
    """

    def _apply_image_or_video_transform(
        self, image: Image.Image, transform_id: str, magnitude: float, interpolation: Any, fill: Any
    ) -> Image.Image:
        if transform_id in ("TranslateX", "TranslateY"):
            interpolation = v2.InterpolationMode.NEAREST
        changed: Image.Image = super()._apply_image_or_video_transform(
            image, transform_id, magnitude, interpolation, fill
        )
        return changed


class PixelView:
    """A random view of an image with its class ids and confidences; the three are always moved together.

    In this order: one random factor scales both sides; what is then smaller than the crop is padded at the bottom and
    at the right; a random size x size window is cut; half of the windows are mirrored. Padding is gray with class -100
    and confidence 0, so it never becomes a class. The image is scaled bilinearly with antialiasing, ids and confidences
    to the nearest pixel, counted from pixel centers as the bilinear rule does: torchvision's default for masks would
    shift them by up to half a pixel against the image.

    Args:
        size: Side of the view in pixels.
        scale: Draw the factor from 0.5..1.5, as the official code does; otherwise it is 1.
        photometric: Then change the colors of the image only: jitter, grayscale, blur.
        hflip: Mirror half of the views.
    """

    def __init__(self, size: int, *, scale: bool = True, photometric: bool = False, hflip: bool = True) -> None:
        self.size = size
        self.scale = scale
        self.hflip = hflip
        self.photometric: v2.Transform | None = None
        if photometric:
            # Jitter as PIL (half the time), blur as a tensor (time grows with the kernel's area).
            kernel = min(9, max(3, size // 16 | 1))
            self.photometric = v2.Compose(
                [
                    v2.ToPILImage(),
                    v2.RandomApply([v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)], p=0.8),
                    v2.RandomGrayscale(p=0.2),
                    v2.PILToTensor(),
                    v2.RandomApply([v2.GaussianBlur(kernel, sigma=(0.1, 2.0))], p=0.5),
                ]
            )

    def __call__(
        self, image: Image.Image, mask: np.ndarray, confidence: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image: RGB, H x W.
            mask: (H, W) integer class ids, -100 where there is no label.
            confidence: (H, W) float in [0, 1]; None for labeled images, whose confidence is 1.

        Returns:
            The image, float32 (3, size, size) in [0, 1]; class ids, int64 (size, size); confidences, float32
            (size, size).

        Raises:
            ValueError: the image is not RGB, or the sizes of the three differ.
        """
        check_rgb(image)
        if confidence is None:
            confidence = np.ones(mask.shape, dtype=np.float32)
        if not image.size[::-1] == mask.shape == confidence.shape:
            raise ValueError(
                f"An image of height x width {image.size[::-1]} came with a mask of shape {mask.shape} and "
                f"confidences of shape {confidence.shape}. Every pixel needs one class and one confidence: "
                "check that the mask belongs to this image and was not resized."
            )
        pixels = F.pil_to_tensor(image)
        # One tensor, so that the two always move together. float32 represents every id below 2**24 exactly.
        target = torch.from_numpy(np.stack([mask, confidence]).astype(np.float32))
        pixels, target = self._move(pixels, target)
        if self.photometric is not None:
            pixels = self.photometric(pixels)
        return F.to_dtype(pixels, torch.float32, scale=True), target[0].long(), target[1].contiguous()

    def _move(self, pixels: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, pad, crop and flip (3, H, W) uint8 and (2, H, W) float32 by the same random numbers."""
        height, width = pixels.shape[-2:]
        if self.scale:
            factor = torch.empty(()).uniform_(*SCALE_RANGE).item()
            height, width = max(1, round(height * factor)), max(1, round(width * factor))
            pixels = F.resize(pixels, [height, width], antialias=True)
            target = F.resize(target, [height, width], interpolation=v2.InterpolationMode.NEAREST_EXACT)
        padding = [0, 0, max(0, self.size - width), max(0, self.size - height)]
        if any(padding):
            pixels = F.pad(pixels, padding, fill=GRAY)
            target = F.pad(target, padding, fill=[float(IGNORE_INDEX), 0.0])
        top = int(torch.randint(pixels.shape[-2] - self.size + 1, ()))
        left = int(torch.randint(pixels.shape[-1] - self.size + 1, ()))
        pixels = F.crop(pixels, top, left, self.size, self.size)
        target = F.crop(target, top, left, self.size, self.size)
        if self.hflip and torch.rand(()) < 0.5:
            pixels, target = F.horizontal_flip(pixels), F.horizontal_flip(target)
        return pixels, target


def train_view(name: str, size: int, task: str, *, hflip: bool = True) -> Callable[..., Any]:
    """The view that `--augmentation name` means for a task.

    - none: for images, the central square, always the same: the shorter side becomes `size`, as in most processors;
    - weak: crop and flip;
    - strong: for images crop, flip, RandAugment and Cutout; for masks scale, crop, flip and colors;
    - scale-crop-flip: for masks, scale, crop and flip.

    Raises:
        ValueError: a name that the task does not have, an unknown task, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"A view of {size}x{size} pixels has no pixels: image_size must be at least 1.")
    if task == "image-classification":
        if name == "none":
            to_float = v2.ToDtype(torch.float32, scale=True)
            return v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size), v2.PILToTensor(), to_float])
        if name in ("weak", "strong"):
            return ImageView(size, strong=name == "strong", hflip=hflip)
        choices = "none, weak, strong"
    elif task == "semantic-segmentation":
        if name in ("weak", "strong", "scale-crop-flip"):
            return PixelView(size, scale=name != "weak", photometric=name == "strong", hflip=hflip)
        choices = "weak, strong, scale-crop-flip"
    else:
        raise ValueError(f"Unknown task {task!r}: use image-classification or semantic-segmentation.")
    raise ValueError(f"There is no augmentation {name!r} for {task}: choose one of {choices}.")


def check_rgb(image: Image.Image) -> None:
    """Raises ValueError unless the image is RGB: v2 transforms accept other modes, but treat them differently."""
    if image.mode != "RGB":
        raise ValueError(f"A training view needs an RGB image, got mode {image.mode!r}: call to_rgb on it first.")
