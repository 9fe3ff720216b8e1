"""Clean images for labeling and evaluation: as they are, through each member's own processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..reading.decoding import to_mask, to_rgb
from ..reading.sources import name_of


class CleanDataset(Dataset[dict[str, Any]]):
    """Images as they are, for labeling and evaluation; `rows` are one process's share of `source`."""

    def __init__(
        self, source: Any, rows: Sequence[int] | np.ndarray, *, task: str, shorter_side: int | None = None
    ) -> None:
        self.source, self.rows = source, rows
        self.task, self.shorter_side = task, shorter_side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        item, name = self.source[row], name_of(self.source, row)
        image = to_rgb(item["image"], f"image {name}")
        if self.shorter_side is not None:
            image = fit_shorter_side(image, self.shorter_side)
        truth = item.get("label" if self.task == "image-classification" else "mask")
        if self.task == "semantic-segmentation" and truth is not None:
            truth = to_mask(truth, name).astype(np.int64)
        return {"image": image, "labels": truth, "index": row}


class CleanCollator:
    """Batches of clean images: each member's processor runs here, in the worker, over all images of the batch at once.

    Args:
        prepare: per member, a function from a list of images to a list of `(3, h, w)` tensors (the processor).

    Returns:
        `{'a': [tensors], 'b': [tensors], 'labels': list, 'index': (B,) int64, 'sizes': [(H, W)]}`.
    """

    def __init__(self, prepare: dict[str, Callable[[list[Any]], list[Tensor]]]) -> None:
        self.prepare = prepare

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        images = [item["image"] for item in items]
        return {
            **{member: prepare(images) for member, prepare in self.prepare.items()},
            "labels": [item["labels"] for item in items],
            "index": torch.tensor([item["index"] for item in items]),
            "sizes": [image.size[::-1] for image in images],
        }


def fit_shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Bring an image to the given shorter side, keeping its shape; smaller images stay as they are."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(side, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at `(H, W)`, each pixel the class at its centre."""
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
