"""Scores of a, b and their ensemble, from one confusion matrix each, for both tasks.

`dmt_accuracy/` and `dmt_mean_iou/` are modules for `evaluate.load(<folder>)`. Nothing here imports `evaluate`:
that takes seconds.
"""

from hf_dmt.training.metrics.confusion import (
    ConfusionMatrix,
    accuracy,
    classification_scores,
    mean_accuracy,
    mean_iou,
    per_class_iou,
    segmentation_scores,
)
from hf_dmt.training.metrics.members import MemberScores

__all__ = [
    "ConfusionMatrix",
    "MemberScores",
    "accuracy",
    "classification_scores",
    "mean_accuracy",
    "mean_iou",
    "per_class_iou",
    "segmentation_scores",
]
