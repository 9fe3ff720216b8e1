"""Streams of unlabeled images, saved to disk once: labels and random draws need images by number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
from torch.utils.data import IterableDataset

from ...data.reading.rows import DataError


def is_stream(source: Any) -> bool:
    """Whether a data set can only be read from its beginning: an `IterableDataset` of `datasets` or of torch."""
    return isinstance(source, (datasets.IterableDataset, IterableDataset)) or (
        hasattr(source, "__iter__") and not hasattr(source, "__getitem__")
    )


def saved_stream(stream: Any, role: str) -> datasets.Dataset:
    """The stream as a table in the cache of `datasets`, with a progress bar; read from there at the next start.

    Only the image travels, and the label or mask where the stream has one (it is scored and never trained on). A stream
    without an end never gets here: cut it with `.take(n)`.

    Args:
        stream: items `{'image': PIL, ...}`. role: what errors call it.

    Raises:
        DataError: items without an image, or a stream that holds none.
    """
    first = next(iter(stream), None)
    if not isinstance(first, dict) or first.get("image") is None:
        found = "is empty" if first is None else f"has items {list(first) if isinstance(first, dict) else type(first)}"
        raise DataError(
            f"{role} is a stream that {found}; items {{'image': PIL}} are needed. rename_column(...) renames a column."
        )
    features = {"image": datasets.Image()}
    if isinstance(first.get("label"), int):
        features["label"] = datasets.Value("int64")
    if first.get("mask") is not None:
        features["mask"] = datasets.Image()
    table: datasets.Dataset = datasets.Dataset.from_generator(
        # A list in gen_kwargs would be taken for shards, and the stream read once for each of them.
        _items,
        features=datasets.Features(features),
        gen_kwargs={"stream": stream, "columns": tuple(features)},
    )
    return table


def _items(stream: Any, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for item in stream:
        yield {column: item.get(column) for column in columns}
