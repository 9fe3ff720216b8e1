"""`strategy=online`: labels are made at every step by the live teacher, on a weakly augmented view; there is no
store."""

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
    """A micro-batch whose pseudo-labeled samples carry the teacher's labels of their weak views.

    The teacher looks at the image as the student will see it, before the colors are changed, in eval mode, so that its
    BatchNorm statistics do not move. Labels up to `online_threshold` confidence are ignored, as is padding.

    Args:
        batch: per member `pixel_values`, `weak`, `labels` (-100 in padding), `confidence`, `is_pseudo`.
    """
    # A member's forward takes the images of the student it labels for: the peer's, or its own.
    student_of = TEACHERS[knobs.labeler]  # peer and self read the same the other way round
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
