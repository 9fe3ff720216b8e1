"""Clean images for labeling and evaluation: unaugmented, prepared by each member's own processor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..labels.items import check_label
from ..reading.image_set import at_side, check_mask_size, check_mask_values, decoded_item, name_of
from ..reading.masks import to_mask
from ..reading.rows import is_label
from ..tasks import TASKS


class CleanDataset(Dataset[dict[str, Any]]):
    """Unaugmented images for labeling and evaluation; `rows` are one process's share of `source`.

    Args:
        shorter_side: images are resized to it, never enlarged.
        view_side: of the final input; images may be decoded smaller. None decodes every pixel.
        scored_as: the names of the classes, if the images are to be scored: each needs a label or mask of these.
    """

    def __init__(
        self,
        source: Any,
        rows: Sequence[int] | np.ndarray,
        *,
        task: str,
        shorter_side: int | None = None,
        view_side: int | None = None,
        scored_as: Sequence[str] | None = None,
    ) -> None:
        self.source, self.rows = at_side(source, view_side), rows
        self.task, self.shorter_side, self.view_side = task, shorter_side, view_side
        self.scored_as = scored_as

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        name = name_of(self.source, row)
        item, image, full_size = decoded_item(self.source, row, self.view_side)
        size = full_size
        if self.shorter_side is not None:
            image = fit_shorter_side(image, self.shorter_side, size)
            size = image.size
        truth = item.get(TASKS[self.task].target)
        if not is_label(truth):
            truth = None
        # Of a set that decodes an image to read its label, only some were checked before.
        classes, who = self.scored_as, f"{name}, which is to be scored," if self.scored_as else name
        if self.task == "semantic-segmentation" and truth is not None:
            truth = to_mask(truth, name).astype(np.int64)
            check_mask_size(truth.shape, full_size, name)
            if classes:
                check_mask_values(truth, len(classes), f"the mask of image {who}")
        elif truth is not None or classes:
            truth = check_label(truth, f"Image {who}", len(classes) if classes else None, classes or ())
        return {"image": image, "labels": truth, "index": row, "size": size[::-1]}


@dataclass(frozen=True)
class CleanBatch:
    """Images that share their shapes, ready for both members.

    Attributes:
        inputs: per member, `(n, 3, h, w)` float32; one tensor for both if their processors are equal.
        labels: n labels or masks, None if unknown.
        index: n rows of the source.
        sizes: `(H, W)` that logits of pixels are resized to.
    """

    inputs: dict[str, Tensor]
    labels: list[Any]
    index: list[int]
    sizes: list[tuple[int, int]]


class CleanCollator:
    """Batches of clean images: each member's processor runs here, in the worker, on all images of the batch at once.

    Images are returned stacked, one tensor per shape: a worker sends every tensor as a separate open file, and 256
    single images for two members could exceed the limit of open files.

    Args:
        prepare: per member, a function from a list of images to a list of `(3, h, w)` tensors (the processor). A
            function shared by both runs once.
        by_size: segmentation: images of different sizes are separate batches.
        at_mask_size: the size is that of the mask.
    """

    def __init__(
        self,
        prepare: dict[str, Callable[[list[Any]], list[Tensor]]],
        *,
        by_size: bool = False,
        at_mask_size: bool = False,
    ) -> None:
        self.prepare, self.by_size, self.at_mask_size = prepare, by_size, at_mask_size

    def __call__(self, items: list[dict[str, Any]]) -> list[CleanBatch]:
        images = [item["image"] for item in items]
        functions = {id(function): function for function in self.prepare.values()}
        made = {key: function(images) for key, function in functions.items()}
        at_mask = [self.at_mask_size and item["labels"] is not None for item in items]
        sizes = [item["labels"].shape if there else item["size"] for item, there in zip(items, at_mask, strict=True)]
        groups: dict[Any, list[int]] = defaultdict(list)
        for position, size in enumerate(sizes):
            shapes = tuple(tensors[position].shape for tensors in made.values())
            groups[shapes, size if self.by_size else None].append(position)
        batches = []
        for positions in groups.values():
            stacked = {key: torch.stack([tensors[place] for place in positions]) for key, tensors in made.items()}
            batches.append(
                CleanBatch(
                    inputs={member: stacked[id(function)] for member, function in self.prepare.items()},
                    labels=[items[place]["labels"] for place in positions],
                    index=[items[place]["index"] for place in positions],
                    sizes=[sizes[place] for place in positions],
                )
            )
        return batches


def fit_shorter_side(image: Image.Image, side: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Resize an image to the given shorter side, keeping its aspect ratio; smaller images are unchanged.

    Args:
        size: the full `(width, height)` of an image that was decoded smaller, which determines the aspect ratio.
    """
    size = size or image.size
    shorter = min(size)
    if shorter <= side:
        return image
    width, height = (max(side, round(length * side / shorter)) for length in size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask to `(H, W)`; each pixel gets the class at its center."""
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
