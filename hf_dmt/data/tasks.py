"""The differences between the two tasks."""

from __future__ import annotations

from dataclasses import dataclass

IGNORE_INDEX = -100  # the label of void pixels and padding


@dataclass(frozen=True)
class Task:
    """Attributes:
    name: as in `--task` and in transformers' pipelines.
    target: the key of an item's truth: `label`, one class id, or `mask`, (H, W) class ids.
    units: what is labeled, selected, weighted and counted: `images` or `pixels`.
    metric: the main metric, a fraction in [0, 1]; it chooses the exported root and the best weights.
    auto_class: the transformers class that loads a member."""

    name: str
    target: str
    units: str
    metric: str
    auto_class: str


TASKS = {
    task.name: task
    for task in (
        Task("image-classification", "label", "images", "accuracy", "AutoModelForImageClassification"),
        Task("semantic-segmentation", "mask", "pixels", "mean_iou", "AutoModelForSemanticSegmentation"),
    )
}
