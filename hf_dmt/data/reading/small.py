"""Decode images no larger than necessary: a 12-megapixel photo for a view of 224 pixels.

JPEG files can be decoded at 1/2, 1/4 or 1/8 of their size in a fraction of the time and memory. Other images are
averaged down by an integer factor after decoding, which makes the later resize cheap. In both cases at least twice the
side of the view remains, so that the antialiased resize can average. Masks are never reduced here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from .decoding import ImageSource, contained, to_rgb, upright_size

JPEG_FORMATS = {"JPEG", "MPO"}  # MPO: a photo followed by a second picture, as written by many phones
MARGIN = 2  # the shorter side keeps this multiple of the side of the view


def to_small_rgb(image: ImageSource, side: int | None, name: str | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Like `to_rgb`, but possibly smaller, and with the full `(width, height)` of the upright image.

    Args:
        side: of the view made from it, in pixels; None decodes every pixel.

    Raises:
        CorruptImage, ValueError, TypeError: as `to_rgb`.
    """
    if side is None:
        whole = to_rgb(image, name)
        return whole, whole.size
    full: tuple[int, int] | None = None
    if isinstance(image, (bytes, str, Path, Mapping)):  # a file; an image that is already open is not modified
        image, full = _drafted(image, MARGIN * side)
    decoded = to_rgb(image, name)
    factor = min(decoded.size) // (MARGIN * side)
    return (decoded.reduce(factor) if factor > 1 else decoded), full or decoded.size


def _drafted(
    image: bytes | str | Path | Mapping[str, object], least: int
) -> tuple[ImageSource, tuple[int, int] | None]:
    """A JPEG file prepared for reduced decoding, and its full upright size; anything else unchanged, and None."""
    try:
        opened = Image.open(io.BytesIO(contained(image)))
    except Exception:  # `to_rgb` raises the same error with the image's name
        return image, None
    (width, height), limit = opened.size, Image.MAX_IMAGE_PIXELS
    shorter = min(width, height)
    if opened.format not in JPEG_FORMATS or shorter < 2 * least or (limit and width * height > limit):
        return image, None
    full = upright_size(opened)
    # Pillow chooses the smallest size that is not below the requested one.
    opened.draft(opened.mode, (width * least // shorter, height * least // shorter))
    return opened, full
