"""`strategy=online`: labels are made at every update by the current teacher, on a weakly augmented view, and not
stored."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from ...data.members import MEMBERS, TEACHERS
from ...data.tasks import IGNORE_INDEX
from ...method import pseudo_label
from ...models.pair import ModelPair
from ..settings.knobs import Knobs


@torch.no_grad()
def label_online(pair: ModelPair, batch: dict[str, Any], knobs: Knobs, accelerator: Accelerator) -> dict[str, Any]:
    """Label the pseudo-labeled samples of a micro-batch with the teacher's predictions on their weak views.

    The teacher sees the image as the student will, but before color changes, and in eval mode, so that its BatchNorm
    statistics do not change. Labels with confidence up to `online_threshold` and padding are ignored.

    Args:
        batch: for each model `pixel_values`, `weak`, `labels` (-100 in padding), `confidence`, `is_pseudo`.
    """
    # A model's forward pass takes the images of the student it labels for: the peer's, or its own.
    student_of = TEACHERS[knobs.labeler]  # the mapping is the same in both directions
    training = pair.training
    pair.eval()
    with accelerator.autocast():
        logits = pair(**{teacher: batch[student]["weak"] for teacher, student in student_of.items()})
    pair.train(training)
    labeled: dict[str, Any] = {}
    for teacher, student in student_of.items():
        sample = {key: value for key, value in batch[student].items() if key != "weak"}
        labels, confidence, _ = pseudo_label(logits[teacher])
        sure = (confidence > knobs.online_threshold) & (sample["labels"] != IGNORE_INDEX)
        is_pseudo = sample["is_pseudo"].view(-1, *[1] * (labels.ndim - 1))
        sample["labels"] = torch.where(is_pseudo, torch.where(sure, labels, IGNORE_INDEX), sample["labels"])
        sample["confidence"] = torch.where(is_pseudo, confidence, sample["confidence"])
        labeled[student] = sample
    return {name: labeled[name] for name in MEMBERS}
