"""The differences between the two tasks."""

from __future__ import annotations

from dataclasses import dataclass

IGNORE_INDEX = -100  # the label of void pixels and padding


@dataclass(frozen=True)
class Task:
    """What differs between the tasks.

    Attributes:
        target: the key of an item's truth: `label`, one class id, or `mask`, (H, W) class ids.
        units: what is labeled, selected, weighted and counted: `images` or `pixels`.
        metric: the main metric, a fraction in [0, 1]; it chooses the exported root and the best weights.
        auto_class: the transformers class that loads a member.
        pipeline: the name of the task in transformers' pipelines and on the Hub.
    """

    target: str
    units: str
    metric: str
    auto_class: str
    pipeline: str


TASKS = {
    "image-classification": Task(
        target="label",
        units="images",
        metric="accuracy",
        auto_class="AutoModelForImageClassification",
        pipeline="image-classification",
    ),
    "semantic-segmentation": Task(
        target="mask",
        units="pixels",
        metric="mean_iou",
        auto_class="AutoModelForSemanticSegmentation",
        pipeline="image-segmentation",
    ),
}
"""By the name that `--task` takes."""
