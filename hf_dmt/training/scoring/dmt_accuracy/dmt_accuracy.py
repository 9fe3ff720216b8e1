"""Accuracy and balanced accuracy for `evaluate`, without network and without Arrow files.

evaluate.load("<this folder>", num_labels=10).compute(predictions=[0, 1], references=[0, 0])
"""

from typing import Any

# Each on its own line: `evaluate` reads a module's imports as text and fails on `import datasets, evaluate`.
import datasets
import evaluate
import torch

from hf_dmt.training.scoring.confusion import classification_scores
from hf_dmt.training.scoring.streaming import StreamingConfusion


class DmtAccuracy(StreamingConfusion, evaluate.Metric):
    """`accuracy` and `mean_accuracy` (the mean over classes of the share found), fractions in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and class-balanced accuracy from a streaming confusion matrix.",
            citation="",
            inputs_description="Class ids of any shape; references equal to ignore_index do not count.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, matrix: torch.Tensor) -> dict[str, Any]:
        return classification_scores(matrix)
