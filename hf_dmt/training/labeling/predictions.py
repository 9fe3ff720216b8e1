"""Convert both models' logits to predictions for an image: labels, confidence, and disagreement.

The values match `ModelPair.pipeline()`: the ensemble is the mean of the models' probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.members import MEMBERS, SCORED

_BAND = 2**24  # logits per band of rows: 64 MiB in float32, whatever the image size and number of classes


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of the pair for one image.

    Attributes:
        labels, confidence: by a, b, ensemble: the class with the largest probability, and that probability.
        disagreement: the difference between the models' probabilities for the ensemble's label, in [0, 1].
    """

    labels: dict[str, int]
    confidence: dict[str, float]
    disagreement: float


@dataclass(frozen=True)
class LabelMaps:
    """The prediction of the pair for the pixels of one image.

    Attributes:
        labels: by a, b, ensemble, (H, W) uint8, or uint16 for more than 256 classes.
        confidence: of the ensemble, averaged over the pixels.
        disagreement: share of the pixels that a and b label differently.
    """

    labels: dict[str, np.ndarray]
    confidence: float
    disagreement: float


def image_predictions(logits: dict[str, Tensor]) -> list[ImagePrediction]:
    """For images: logits by model, (N, C)."""
    probabilities = {name: logits[name].float().softmax(dim=1) for name in MEMBERS}
    a, b = (probabilities[name] for name in MEMBERS)
    probabilities["ensemble"] = (a + b) / 2
    best = {name: values.max(dim=1) for name, values in probabilities.items()}
    of_ensemble = best["ensemble"].indices[:, None]
    apart = (a.gather(1, of_ensemble) - b.gather(1, of_ensemble)).abs()[:, 0].tolist()
    labels = {name: values.indices.tolist() for name, values in best.items()}
    confidence = {name: values.values.tolist() for name, values in best.items()}
    return [
        ImagePrediction(
            {name: labels[name][n] for name in labels}, {name: confidence[name][n] for name in labels}, apart[n]
        )
        for n in range(len(apart))
    ]


def label_maps(logits: dict[str, Tensor], size: tuple[int, int]) -> LabelMaps:
    """For pixels: one image's logits by model, (C, h, w), resized to `size` (H, W) in bands of rows."""
    kind = torch.uint8 if logits["a"].shape[0] <= 256 else torch.int32
    found: dict[str, list[Tensor]] = {name: [] for name in SCORED}
    sure, differ = 0.0, 0
    for bands in zip(*(_bands(logits[name], size) for name in MEMBERS), strict=True):
        a, b = (band.softmax(dim=0) for band in bands)
        ensemble = (a + b).max(dim=0)
        labels = {"a": a.argmax(dim=0), "b": b.argmax(dim=0), "ensemble": ensemble.indices}
        sure += ensemble.values.double().sum().item() / 2
        differ += int((labels["a"] != labels["b"]).sum())
        for name, band in labels.items():
            found[name].append(band.to(kind).cpu())
    maps = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    if kind is torch.int32:
        maps = {name: values.astype(np.uint16) for name, values in maps.items()}
    pixels = size[0] * size[1]
    return LabelMaps(maps, sure / pixels, differ / pixels)


def _bands(logits: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """`F.interpolate(logits, size, mode="bilinear", align_corners=False)`, a few rows at a time: (C, rows, W) each.

    At once, a photo of 12 million pixels with 20 classes would take a gigabyte for each model.
    """
    classes, height, _ = logits.shape
    step = max(1, _BAND // (classes * size[1]))
    for start in range(0, size[0], step):
        rows = torch.arange(start, min(size[0], start + step), device=logits.device)
        # Pixel centers are aligned; beyond the first and last row of logits there is no extrapolation.
        place = ((rows + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
        above = place.long()
        share = (place - above)[:, None]
        below = (above + 1).clamp(max=height - 1)
        band = logits[:, above] * (1 - share) + logits[:, below] * share
        yield F.interpolate(band[None], (len(rows), size[1]), mode="bilinear", align_corners=False)[0]
