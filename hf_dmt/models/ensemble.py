"""Both members of a pair behind one call, with the inputs and outputs of the standard pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.image_utils import load_image

from ..data.members import MEMBERS
from ..data.reading.decoding import to_rgb
from .preprocessing import clean_inputs

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
Prediction = list[dict[str, Any]]


class EnsemblePipeline:
    """Predicts with the mean of the members' probabilities and reports where they disagree.

    Images are read as in training. For classification, entries are those of the `image-classification` pipeline, best
    first; for segmentation those of the `image-segmentation` pipeline, one per class found. Each has the additional key
    `disagreement` in [0, 1]:

    - classification: the difference between the two members' probabilities for that label;
    - segmentation: the part of that mask on which the two members predict different classes.

    Args:
        pair: the `ModelPair`, whose file imports this one; it stays on its device.
        batch_size: images per forward pass.
    """

    def __init__(self, pair: Any, batch_size: int = 1) -> None:
        self.pair, self.batch_size = pair, batch_size

    def __call__(self, inputs: Any, *, top_k: int | None = 5, timeout: float | None = None) -> Any:
        """Predict one image or many.

        Args:
            inputs: a path, a URL or a PIL image, for classification also an array (H, W, 3) or (3, H, W), uint8; a list
                of these; or an iterable of them, read as it is consumed.
            top_k: classification only: number of labels to return; None returns all.
            timeout: seconds to wait for an image from the web.

        Returns:
            A list of entries for one image, a list of such lists for a list, an iterator of them for an iterable.

        Raises:
            ValueError: an input that is not an image.
        """
        if isinstance(inputs, (str, Path, Image.Image, np.ndarray, Tensor)):
            return next(self._predict([inputs], top_k, timeout))
        if isinstance(inputs, (list, tuple)):
            return list(self._predict(inputs, top_k, timeout))
        if not isinstance(inputs, Iterable):
            raise ValueError(f"Give a path, a URL, a PIL image, or several of them; got {type(inputs).__name__}.")
        return self._predict(inputs, top_k, timeout)

    def members(self, image: ImageLike, *, timeout: float | None = None) -> dict[str, Tensor]:
        """The predictions of both members for one image: probabilities of a and b, on the CPU.

        Returns:
            By `a` and `b`, float32: (C,); for segmentation (C, H, W) at the size of the image.
        """
        return self._probabilities([self._loaded(image, timeout)])[0]

    def _predict(self, inputs: Iterable[ImageLike], top_k: int | None, timeout: float | None) -> Iterator[Prediction]:
        entries = self._pixels if self.pair.task == "semantic-segmentation" else self._labels
        waiting = iter(inputs)
        while batch := list(islice(waiting, self.batch_size)):
            images = [self._loaded(image, timeout) for image in batch]
            for found in self._probabilities(images):
                yield entries(found, top_k)

    def _loaded(self, image: ImageLike, timeout: float | None) -> Any:
        if isinstance(image, (np.ndarray, Tensor)) and self.pair.task == "image-classification":
            return image
        # `load_image` clips 16-bit images to white, and shows what is stored under transparent pixels.
        if isinstance(image, (Image.Image, Path)) or (isinstance(image, str) and Path(image).is_file()):
            return to_rgb(image)
        return load_image(image, timeout=timeout)

    def _logits(self, name: str, images: list[Any]) -> list[Tensor]:
        """Logits of every image on the CPU; images that are processed to the same size share a forward pass."""
        inputs = clean_inputs(self.pair.processor(name), images)
        found: dict[int, Tensor] = {}
        member = self.pair.member(name)
        was_training = member.training
        member.eval()
        with torch.no_grad():
            for shape in {tuple(values.shape) for values in inputs}:
                rows = [row for row, values in enumerate(inputs) if tuple(values.shape) == shape]
                logits = self.pair.clean_logits(name, torch.stack([inputs[row] for row in rows])).float().cpu()
                found |= dict(zip(rows, logits, strict=True))
        member.train(was_training)
        return [found[row] for row in range(len(images))]

    def _probabilities(self, images: list[Any]) -> list[dict[str, Tensor]]:
        logits = {name: self._logits(name, images) for name in MEMBERS}
        if self.pair.task == "semantic-segmentation":
            logits = {
                name: [
                    interpolate(row[None], (image.height, image.width), mode="bilinear", align_corners=False)[0]
                    for row, image in zip(rows, images, strict=True)
                ]
                for name, rows in logits.items()
            }
        return [{name: rows[index].softmax(dim=0) for name, rows in logits.items()} for index in range(len(images))]

    def _labels(self, found: dict[str, Tensor], top_k: int | None) -> Prediction:
        a, b = found["a"], found["b"]
        mean, difference = (a + b) / 2, (a - b).abs()
        return [
            {
                "label": self.pair.class_names[index],
                "score": mean[index].item(),
                "disagreement": difference[index].item(),
            }
            for index in mean.argsort(descending=True)[:top_k].tolist()
        ]

    def _pixels(self, found: dict[str, Tensor], top_k: int | None) -> Prediction:
        a, b = found["a"], found["b"]
        labels, differ = (a + b).argmax(dim=0), a.argmax(dim=0) != b.argmax(dim=0)
        entries = []
        for index in labels.unique().tolist():
            mask = labels == index
            entries.append(
                {
                    "score": None,
                    "label": self.pair.class_names[index],
                    "mask": Image.fromarray(mask.to(torch.uint8).mul(255).numpy()),
                    "disagreement": differ[mask].float().mean().item(),
                }
            )
        return entries
