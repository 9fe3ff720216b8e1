"""Save a stream of unlabeled images to disk, because labeling and sampling access images by index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from torch import Tensor
from torch.utils.data import IterableDataset

from ...data.labels.items import check_label
from ...data.reading.decoding import to_rgb
from ...data.reading.rows import DataError, is_label


def is_stream(source: Any) -> bool:
    """Whether a data set can only be read sequentially: an `IterableDataset` of `datasets` or torch."""
    return isinstance(source, (datasets.IterableDataset, IterableDataset)) or (
        hasattr(source, "__iter__") and not hasattr(source, "__getitem__")
    )


def saved_stream(stream: Any, role: str) -> datasets.Dataset:
    """The stream as a data set in the cache of `datasets`, with a progress bar; the next start reads it from there.

    Only the image is kept, and the label or mask if there is one (it is scored, never trained on). An infinite stream
    must be limited with `.take(n)`.

    Args:
        stream: items `{'image': PIL, ...}`.

    Raises:
        DataError: items without an image, or an empty stream.
    """
    if isinstance(stream, Iterator):
        raise DataError(
            f"{role} is a {type(stream).__name__}, which can be read once only. Give list({role}), or "
            "datasets.IterableDataset.from_generator(function)."
        )
    first = next(iter(stream), None)
    if not isinstance(first, dict) or first.get("image") is None:
        found = "is empty" if first is None else f"has items {list(first) if isinstance(first, dict) else type(first)}"
        raise DataError(
            f"{role} is a stream that {found}, but its items must be {{'image': PIL}}. rename_column(...) renames a "
            "column."
        )
    features = {"image": datasets.Image()}
    if "label" in first:
        kind = (getattr(stream, "features", None) or {}).get("label")
        # Its names show whether it numbers the classes as the pair does.
        features["label"] = kind if isinstance(kind, datasets.ClassLabel) else datasets.Value("int64")
    if first.get("mask") is not None:
        features["mask"] = datasets.Image()
    try:
        table: datasets.Dataset = datasets.Dataset.from_generator(
            # `datasets` would interpret a list in gen_kwargs as shards, and read the stream once for each of them.
            _items,
            features=datasets.Features(features),
            gen_kwargs={"stream": stream, "columns": tuple(features), "role": role},
        )
    except DatasetGenerationError as problem:  # which says only that there was an error
        raise DataError(f"{role} cannot be saved: {problem.__cause__}") from problem
    return table


def _items(stream: Any, columns: tuple[str, ...], role: str) -> Iterator[dict[str, Any]]:
    for position, item in enumerate(stream):
        name, kept = f"Item {position} of {role}", {column: item.get(column) for column in columns}
        if isinstance(kept["image"], (Tensor, np.ndarray)):  # `datasets` stores neither tensors nor fractions
            kept["image"] = to_rgb(kept["image"], name)
        if "label" in kept:
            kept["label"] = check_label(kept["label"], name, None) if is_label(kept["label"]) else None
        yield kept
