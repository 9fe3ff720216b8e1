"""Scores of a, b and their ensemble on clean images: every process its own share, one sum at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import EvalPrediction

from ...data.members import MEMBERS
from ...data.tasks import IGNORE_INDEX, TASKS
from ...models.pair import ModelPair
from ..labeling.inference import CleanPass
from .image_counts import ImageCounts
from .member_scores import MemberScores

# No single figures, so not among the logs.
_BY_CLASS = ("per_class_accuracy", "per_class_iou", "confusions")

Scores = dict[str, dict[str, Any]]


def evaluate_pair(
    pair: ModelPair,
    source: Any,
    clean_pass: CleanPass,
    accelerator: Accelerator,
    *,
    title: str,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
) -> tuple[Scores, ImageCounts]:
    """`{'a': {...}, 'b': {...}, 'ensemble': {...}}`, and what each image adds; masks are scored at their own size.

    Args:
        compute_metrics: classification only; called with the logits of a, of b, and the log of the ensemble's
            probabilities, and its figures are added to each.
    """
    scores = MemberScores(len(pair.class_names), pair.task, pair.class_names, device=accelerator.device)
    kept: list[tuple[list[int], dict[str, Tensor], list[int]]] = []
    rows: list[int] = []
    for part in clean_pass.run(
        pair, source, accelerator, title=title, at_mask_size=pair.task == "semantic-segmentation"
    ):
        truth = torch.from_numpy(np.stack([np.asarray(label, dtype=np.int64) for label in part.truth]))
        scores.update(part.logits, truth.to(accelerator.device))
        rows += part.index
        if compute_metrics is not None:
            kept.append((part.index, {name: part.logits[name].cpu() for name in MEMBERS}, truth.tolist()))
    counts = ImageCounts.joined(gather_object([(rows, scores.image_counts())]))
    scores.reduce(lambda tensor: _sum(tensor, accelerator))
    result: Scores = scores.compute()
    if compute_metrics is not None:
        for name, figures in _user_metrics(kept, compute_metrics).items():
            result[name] = {**result[name], **figures}
    return result, counts


def predict_pair(
    pair: ModelPair, source: Any, clean_pass: CleanPass, accelerator: Accelerator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits of both members and the labels (-100 where unknown) of an image set, on every process, in row order."""
    kept: list[tuple[list[int], dict[str, Tensor], list[int]]] = []
    for part in clean_pass.run(pair, source, accelerator, title="predicting"):
        labels = [IGNORE_INDEX if label is None else int(label) for label in part.truth]
        kept.append((part.index, {name: part.logits[name].cpu() for name in MEMBERS}, labels))
    return _in_row_order(kept)


def flat(scores: Scores, task: str, prefix: str) -> dict[str, float]:
    """Scores as log keys: `eval_a_accuracy`, ..., `eval_loss`, and `eval_accuracy`, the mean of a and b."""
    logs = {
        f"{prefix}_{name}_{key}": value
        for name, figures in scores.items()
        for key, value in figures.items()
        if isinstance(value, (int, float))
    }
    for key in ("loss", TASKS[task].metric):
        values = [value for name in MEMBERS if (value := scores[name].get(key)) is not None]
        if len(values) == len(MEMBERS):
            logs[f"{prefix}_{key}"] = sum(values) / len(values)
    return logs


def figures_of(task: str) -> list[str]:
    """What an evaluation logs for a task, without the prefix: `accuracy`, `loss`, `a_accuracy`, ..."""
    scores = MemberScores(2, task, ["0", "1"], device=torch.device("cpu")).compute()
    own = [f"{name}_{key}" for name, figures in scores.items() for key in figures if key not in _BY_CLASS]
    return [TASKS[task].metric, "loss", *own]


def without_loss(scores: Scores) -> Scores:
    """What the results file keeps: the figures of the task."""
    return {name: {key: value for key, value in figures.items() if key != "loss"} for name, figures in scores.items()}


def better_member(scores: Scores | None, task: str) -> str:
    """The member for the root of the published pair: the better one on the eval split; ties and no split give a."""
    if scores is None:
        return "a"
    a, b = (scores[name].get(TASKS[task].metric) or 0.0 for name in MEMBERS)
    return "b" if b > a else "a"


def _user_metrics(
    kept: list[tuple[list[int], dict[str, Tensor], list[int]]],
    compute_metrics: Callable[[EvalPrediction], dict[str, float]],
) -> dict[str, dict[str, float]]:
    logits, labels = _in_row_order(kept)
    probabilities = [torch.softmax(torch.from_numpy(logits[name]), dim=-1) for name in MEMBERS]
    predictions = {**logits, "ensemble": torch.stack(probabilities).mean(dim=0).clamp(min=1e-30).log().numpy()}
    return {name: dict(compute_metrics(EvalPrediction(values, labels))) for name, values in predictions.items()}


def _in_row_order(
    kept: list[tuple[list[int], dict[str, Tensor], list[int]]],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    gathered: list[Any] = gather_object(kept)
    rows = np.concatenate([part[0] for part in gathered])
    order = np.argsort(rows)
    logits = {name: torch.cat([part[1][name] for part in gathered]).numpy()[order] for name in MEMBERS}
    return logits, np.concatenate([part[2] for part in gathered])[order]


def _sum(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(tensor)
    return tensor
