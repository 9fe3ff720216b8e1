"""A color for every class, the same in all label maps."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

VOID = (128, 128, 128)
_GOLDEN = 0.618033988749895  # steps of the golden ratio spread any number of hues
_TONES = ((0.85, 0.95), (0.60, 0.65), (0.45, 1.0))  # saturation and value, alternating


def class_colors(count: int) -> np.ndarray:
    """`(count, 3)` uint8 RGB: black for class 0, which is the background in most data sets; none is the gray used for
    void."""
    tones = [(number * _GOLDEN % 1, *_TONES[number % len(_TONES)]) for number in range(1, count)]
    colors = [(0, 0, 0), *([round(255 * part) for part in colorsys.hsv_to_rgb(*tone)] for tone in tones)][:count]
    return np.asarray(colors, dtype=np.uint8).reshape(count, 3)


def paint(labels: np.ndarray, count: int) -> Image.Image:
    """A label map `(H, W)` as an RGB image; anything that is not a class (void is -100) is gray."""
    colors = np.concatenate([class_colors(count), np.asarray([VOID], dtype=np.uint8)])
    inside = (labels >= 0) & (labels < count)
    return Image.fromarray(colors[np.where(inside, labels, count).astype(np.int64)])
