"""What differs between the two tasks, each fact once."""

from __future__ import annotations

from dataclasses import dataclass

IGNORE_INDEX = -100  # the label of what has none: void pixels, padding


@dataclass(frozen=True)
class Task:
    """Attributes:
    name: as in `--task` and in transformers' pipelines.
    target: the key of an item's truth: `label`, one class id, or `mask`, (H, W) class ids.
    units: what is labeled, selected, weighted and counted: `images` or `pixels`.
    metric: what members are compared by, a fraction in [0, 1]; it chooses the exported root and the best weights.
    auto_class: the class of transformers that opens a member.
    """

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
