"""Scores of a, b and their ensemble in one streaming pass over the evaluation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.members import MEMBERS, SCORED
from ...data.tasks import IGNORE_INDEX
from .confusion import ConfusionMatrix, scores_of
from .image_counts import ImageCounts

# Logits per model handled at a time: two float32 copies of this many numbers bound the memory of an update.
CHUNK = 1 << 22


class MemberScores:
    """Confusion matrices of "a", "b" and "ensemble", and the cross-entropy of each model, on the device.

    The ensemble predicts the argmax of the mean of the models' softmax probabilities. Nothing is gathered per batch:
    every process updates with its own images, `reduce` sums once, `compute` reads.

    Args:
        num_classes: number of classes C of both models.
        task: "image-classification" or "semantic-segmentation"; decides which scores are computed.
        class_names: C different names, for the scores per class.
        device: where the counts are kept: that of the logits.
    """

    def __init__(
        self,
        num_classes: int,
        task: str,
        class_names: Sequence[str] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.task = task
        self.class_names = class_names
        self._matrices = {name: ConfusionMatrix(num_classes, device) for name in SCORED}
        self._of_images: list[Tensor] = []  # per batch (4, n) class ids, or per image (7, C) counts of pixels
        counts_device = self._matrices["ensemble"].device
        # Apple's accelerator has no float64.
        loss_dtype = torch.float32 if counts_device.type == "mps" else torch.float64
        self._loss_sums = torch.zeros(len(MEMBERS), dtype=loss_dtype, device=counts_device)

    @torch.no_grad()
    def update(self, logits: Mapping[str, Tensor], labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: "a" and "b", each (N, C, *) of any floating dtype; pixels at the labels' resolution.
            labels: (N, *) integers, class ids, or -100 for ignored units.
        """
        c = self._matrices["ensemble"].num_classes
        expected = (len(labels), c, *labels.shape[1:])
        for member in MEMBERS:
            if logits[member].shape != expected:
                raise ValueError(
                    f"logits of {member} have shape {tuple(logits[member].shape)}, but labels of shape "
                    f"{tuple(labels.shape)} and {c} classes need {expected}; resize the logits first."
                )
        if labels.numel() == 0:
            return
        images = max(1, CHUNK // logits["a"][0].numel())
        for z_a, z_b, truth in zip(
            logits["a"].split(images), logits["b"].split(images), labels.split(images), strict=True
        ):
            said = {name: _most_likely(z) for name, z in zip(MEMBERS, (z_a, z_b), strict=True)}
            probabilities = self._add_loss(0, z_a, truth).add_(self._add_loss(1, z_b, truth))
            said["ensemble"] = _most_likely(probabilities)
            if self.task == "semantic-segmentation":
                for at in range(len(truth)):
                    before = self._totals()
                    self._count({name: ids[at] for name, ids in said.items()}, truth[at])
                    self._of_images.append(self._totals() - before)
            else:
                self._count(said, truth)
                self._of_images.append(torch.stack([truth.to(said["a"]), *said.values()]))

    def _count(self, said: Mapping[str, Tensor], truth: Tensor) -> None:
        for name in SCORED:
            self._matrices[name].update(said[name], truth)

    def _totals(self) -> Tensor:
        """(7, C), the blocks of `ImageCounts`, of everything counted so far."""
        truth, right, predicted = torch.stack([self._matrices[name].totals for name in SCORED], dim=1)
        return torch.cat([truth[:1], right, predicted])

    def image_counts(self) -> ImageCounts:
        """The contributions of this process's images, in the order they were counted; call it before `reduce`."""
        c = self._matrices["ensemble"].num_classes
        if self.task == "semantic-segmentation":
            return ImageCounts.of_totals(self._of_images, c)
        empty = torch.empty(1 + len(SCORED), 0, dtype=torch.int64)
        truth, *said = torch.cat(self._of_images, dim=1) if self._of_images else empty
        return ImageCounts.of_images(truth, dict(zip(SCORED, said, strict=True)), c)

    def _add_loss(self, index: int, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the loss of one model; returns its probabilities (N, C, *) in float32."""
        log_probabilities = torch.log_softmax(logits, dim=1, dtype=torch.float32)
        # The clamp keeps gather from failing for ignored units, which are masked below.
        targets = labels.to(torch.int64).clamp(min=0).unsqueeze(1)
        log_likelihood = log_probabilities.gather(1, targets).squeeze(1)
        log_likelihood.masked_fill_(labels == IGNORE_INDEX, 0.0)
        self._loss_sums[index] -= log_likelihood.sum(dtype=self._loss_sums.dtype)
        return log_probabilities.exp_()

    def reduce(self, reduce_fn: Callable[[Tensor], Tensor]) -> MemberScores:
        """Sum over the processes, in place and once; see `ConfusionMatrix.reduce`. Returns itself."""
        for matrix in self._matrices.values():
            matrix.reduce(reduce_fn)
        self._loss_sums = reduce_fn(self._loss_sums)
        return self

    def compute(self) -> dict[str, dict[str, Any]]:
        """Scores of a, b and ensemble; a and b also have `loss`, the mean cross-entropy per valid unit.

        Fractions in [0, 1]; None if there is nothing to score. See `scores_of`.
        """
        scores: dict[str, dict[str, Any]] = {}
        for name, confusion in self._matrices.items():
            matrix = confusion.matrix
            scores[name] = scores_of(matrix, self.task, self.class_names)
            if name in MEMBERS:
                valid = int(matrix.sum())
                loss_sum = float(self._loss_sums[MEMBERS.index(name)])
                scores[name]["loss"] = loss_sum / valid if valid else None
        return scores


def _most_likely(scores: Tensor) -> Tensor:
    """Argmax over dimension 1, using `max`: on the CPU `argmax` takes 3 times as long for (1, 21, 512, 512)."""
    return scores.max(dim=1).indices
