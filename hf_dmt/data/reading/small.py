"""Images decoded no larger than their use needs: a photo of 12 megapixels for a view of 224 pixels.

JPEG files can be decoded at 1/2, 1/4 or 1/8 of their size, which takes a fraction of the time and memory; others are
averaged down by a whole factor after decoding, which makes the later resize cheap. Twice the side of the view is left
in both cases, so that the antialiased resize that follows has something to average. Masks are never made small here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from .decoding import ImageSource, contained, to_rgb, upright_size

JPEG_FORMATS = {"JPEG", "MPO"}  # MPO: a photo with a second picture behind it, as many phones write
MARGIN = 2  # the shorter side keeps this many times the side of the view


def to_small_rgb(image: ImageSource, side: int | None, name: str | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """As `to_rgb`, but possibly smaller, and the upright image's full `(width, height)`.

    Args:
        side: of the view that is made of it, in pixels; None decodes every pixel.

    Raises:
        CorruptImage, ValueError, TypeError: as `to_rgb`.
    """
    if side is None:
        whole = to_rgb(image, name)
        return whole, whole.size
    full: tuple[int, int] | None = None
    if isinstance(image, (bytes, str, Path, Mapping)):  # a file; an opened image is its owner's and stays as it is
        image, full = _drafted(image, MARGIN * side)
    decoded = to_rgb(image, name)
    factor = min(decoded.size) // (MARGIN * side)
    return (decoded.reduce(factor) if factor > 1 else decoded), full or decoded.size


def _drafted(
    image: bytes | str | Path | Mapping[str, object], least: int
) -> tuple[ImageSource, tuple[int, int] | None]:
    """A JPEG file opened to be decoded small, and its full upright size; anything else as it was, and None."""
    try:
        opened = Image.open(io.BytesIO(contained(image)))
    except Exception:  # `to_rgb` meets the same error, and names the image
        return image, None
    (width, height), limit = opened.size, Image.MAX_IMAGE_PIXELS
    shorter = min(width, height)
    if opened.format not in JPEG_FORMATS or shorter < 2 * least or (limit and width * height > limit):
        return image, None
    full = upright_size(opened)
    # Pillow takes the smallest of its sizes that is not below the one asked for.
    opened.draft(opened.mode, (width * least // shorter, height * least // shorter))
    return opened, full
