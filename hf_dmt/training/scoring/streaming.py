"""What the modules for the `evaluate` library share: a confusion matrix in place of their Arrow files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_dmt.training.scoring.confusion import ConfusionMatrix


class StreamingConfusion(ABC):
    """Mixed in before `evaluate.Metric`: batches are counted when they are added, nothing is stored.

    The stock class writes every prediction to an Arrow file and reads it back, which for masks takes longer
    than the mean IoU itself. A subclass has `_info` and `_compute(matrix)`.
    """

    def __init__(self, *, num_labels: int | None = None, ignore_index: int = -100, **kwargs: Any) -> None:
        if num_labels is None:
            raise ValueError(
                "num_labels is missing: batches are counted as they come, so the number of classes must be "
                "known first. Pass it when loading: evaluate.load(path, num_labels=21, ignore_index=255)."
            )
        if kwargs.get("num_process", 1) != 1:
            raise ValueError(
                f"num_process is {kwargs['num_process']}, but this metric writes no files for processes to "
                "exchange. Use hf_dmt.training.metrics.ConfusionMatrix, whose reduce() sums over processes."
            )
        self._confusion = ConfusionMatrix(num_labels, ignore_index)
        super().__init__(**kwargs)

    def add_batch(self, *, predictions: Any, references: Any) -> None:
        """Count class ids: one array or tensor of any shape, or a list of them (masks of different sizes)."""
        if not _is_list_of_arrays(predictions):
            self.add(prediction=predictions, reference=references)
            return
        if len(predictions) != len(references):
            raise ValueError(
                f"{len(predictions)} predictions were given for {len(references)} references; give one each."
            )
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def add(self, *, prediction: Any, reference: Any) -> None:
        """Count the class ids of one image."""
        self._confusion.update(_as_tensor(prediction), _as_tensor(reference))

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, Any]:
        """Scores of everything added, after adding what is given here; then starts anew."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        matrix = self._confusion.matrix
        self._confusion = ConfusionMatrix(self._confusion.num_classes, self._confusion.ignore_index)
        return self._compute(matrix)

    @abstractmethod
    def _compute(self, matrix: torch.Tensor) -> dict[str, Any]:
        """Scores from a (C, C) matrix, rows are the truth."""


def _is_list_of_arrays(values: Any) -> bool:
    return isinstance(values, Sequence) and len(values) > 0 and np.ndim(values[0]) > 0


def _as_tensor(values: Any) -> torch.Tensor:
    # A copy, because torch warns about the read-only arrays that images give.
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
