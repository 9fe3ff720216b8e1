"""Build the pair for `DMTTrainer(model=("id a", "id b"), ...)`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...data.tasks import TASKS
from ...models.pair import ModelPair
from ..settings.arguments import DMTTrainingArguments
from .image_sets import class_label_names


def opened_pair(model: Any, args: DMTTrainingArguments, train_dataset: Any) -> Any:
    """The pair that `model` refers to; anything else is returned unchanged, for the checks to refuse.

    Args:
        model: a pair; the id or folder of a saved one; or two models, as `ModelPair.from_models` takes them. Their
            heads get the classes of the data set's `ClassLabel` column, or keep their own if both models agree.

    Raises:
        ValueError, CheckpointError: as `ModelPair.from_models` and `ModelPair.from_pretrained`.
    """
    if isinstance(model, (str, os.PathLike)):
        return ModelPair.from_pretrained(model, token=args.hub_token)
    if not isinstance(model, (tuple, list)):
        return model
    if len(model) != 2:
        raise ValueError(
            f"DMTTrainer trains two models, but {len(model)} were given. Give a pair, or two: model=('id a', 'id b')."
        )
    return ModelPair.from_models(
        model[0],
        model[1],
        task=_task(train_dataset),
        id2label=class_label_names(train_dataset),
        seed=args.seed,
        token=args.hub_token,
    )


def _task(train_dataset: Any) -> str:
    """The task, from the target of the first labeled item; other problems are left to the data checks."""
    first = train_dataset[0] if train_dataset is not None and len(train_dataset) else {}
    keys = set(first) if isinstance(first, Mapping) else set()
    fitting = [name for name, task in TASKS.items() if task.target in keys]
    return fitting[0] if len(fitting) == 1 else "image-classification"
