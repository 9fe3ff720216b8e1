"""Mean IoU for `evaluate`, without network and without Arrow files.

metric = evaluate.load("<this folder>", num_labels=21, ignore_index=255)
metric.add_batch(predictions=masks, references=true_masks)  # arrays, or a list of them in different sizes
metric.compute()["mean_iou"]
"""

from typing import Any

# Each on its own line: `evaluate` reads a module's imports as text and fails on `import datasets, evaluate`.
import datasets
import evaluate
import torch

from hf_dmt.training.scoring.confusion import segmentation_scores
from hf_dmt.training.scoring.streaming import StreamingConfusion


class DmtMeanIou(StreamingConfusion, evaluate.Metric):
    """`mean_iou`, `overall_accuracy`, `mean_accuracy`, `per_class_iou`: in [0, 1], None if absent."""

    def _info(self) -> evaluate.MetricInfo:
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description="Mean intersection over union from a streaming confusion matrix.",
            citation="",
            inputs_description="Class ids of any shape; references equal to ignore_index do not count.",
            features=datasets.Features({"predictions": mask, "references": mask}),
        )

    def _compute(self, matrix: torch.Tensor) -> dict[str, Any]:
        return segmentation_scores(matrix)
