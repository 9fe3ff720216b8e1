"""Scores of a, b and their ensemble on clean images: every process scores its share, with one sum at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import EvalPrediction
from transformers.utils import logging

from ...data.labels.items import check_label
from ...data.members import MEMBERS
from ...data.reading.image_set import name_of
from ...data.tasks import IGNORE_INDEX, TASKS
from ...models.pair import ModelPair
from ...report.results_file import FIGURES
from ..labeling.inference import CleanPass
from .image_counts import ImageCounts
from .library_metrics import LibraryMetrics
from .member_scores import MemberScores

logger = logging.get_logger(__name__)

# Not single numbers, so not logged.
_BY_CLASS = ("per_class_accuracy", "per_class_iou", "confusions")

Scores = dict[str, dict[str, Any]]
Kept = tuple[list[int], dict[str, Tensor], list[int]]  # rows, logits of a and b, labels of one batch


def evaluate_pair(
    clean_pass: CleanPass,
    source: Any,
    *,
    title: str,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    library_metrics: LibraryMetrics | None = None,
) -> tuple[Scores, ImageCounts]:
    """`{'a': {...}, 'b': {...}, 'ensemble': {...}}`, and the contribution of each image; masks are scored at their own
    size.

    Args:
        compute_metrics: classification only; called with the logits of a and b, and the log of the ensemble's
            probabilities; its results are added to each.
    """
    pair, accelerator = clean_pass.pair, clean_pass.accelerator
    scores = MemberScores(len(pair.class_names), pair.task, pair.class_names, device=accelerator.device)
    kept: list[Kept] = []
    rows: list[int] = []
    collected = library_metrics.start() if library_metrics is not None else None
    for part in clean_pass.run(source, title=title, to_score=True):
        truth = torch.from_numpy(np.stack([np.asarray(label, dtype=np.int64) for label in part.truth]))
        scores.update(part.logits, truth.to(accelerator.device))
        rows += part.index
        if compute_metrics is not None:
            kept.append((part.index, {name: part.logits[name].cpu() for name in MEMBERS}, truth.tolist()))
        if collected is not None:
            collected.add(part.logits, truth)
    counts = ImageCounts.joined(gather_object([(rows, scores.image_counts())]))
    scores.reduce(accelerator.reduce)
    result: Scores = scores.compute()
    if compute_metrics is not None:
        _add_user_metrics(result, *_in_row_order(kept), compute_metrics)
    if library_metrics is not None and collected is not None:
        library_metrics.add_to(result, collected.gathered())
    return result, counts


def predict_pair(clean_pass: CleanPass, source: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits `(N, C)` of both models and the labels of an image set, -100 if unknown (None or below 0), on every
    process and in row order."""
    kept: list[Kept] = []
    names = clean_pass.pair.class_names
    for part in clean_pass.run(source, title="predicting"):
        labels = [
            IGNORE_INDEX
            if label is None or label < 0
            else check_label(label, f"Image {name_of(source, row)}", len(names), names)
            for row, label in zip(part.index, part.truth, strict=True)
        ]
        kept.append((part.index, {name: part.logits[name].cpu() for name in MEMBERS}, labels))
    return _in_row_order(kept)


def score_logits(
    pair: ModelPair,
    logits: dict[str, np.ndarray],
    labels: np.ndarray,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    library_metrics: LibraryMetrics | None = None,
) -> Scores | None:
    """The scores of `evaluate_pair` from the output of `predict_pair`, without another forward pass.

    Returns:
        The scores on images with a label; None if there are none.
    """
    known = labels != IGNORE_INDEX
    if not known.any():
        return None
    logits, labels = {name: values[known] for name, values in logits.items()}, labels[known]
    tensors, truth = {name: torch.from_numpy(values) for name, values in logits.items()}, torch.from_numpy(labels)
    scores = MemberScores(len(pair.class_names), pair.task, pair.class_names)
    scores.update(tensors, truth)
    result: Scores = scores.compute()
    if compute_metrics is not None:
        _add_user_metrics(result, logits, labels, compute_metrics)
    if library_metrics is not None:
        collected = library_metrics.start()
        collected.add(tensors, truth)
        library_metrics.add_to(result, collected)
    return result


def flat(scores: Scores, prefix: str) -> dict[str, float]:
    """Scores as log keys: `eval_a_accuracy`, ..., and the mean of a and b for every metric that both have: `eval_loss`,
    `eval_accuracy`, `eval_f1`."""
    logs = {
        f"{prefix}_{name}_{key}": value
        for name, figures in scores.items()
        for key, value in figures.items()
        if isinstance(value, (int, float))
    }
    for key in scores["a"]:
        values = [value for name in MEMBERS if isinstance(value := scores[name].get(key), (int, float))]
        if len(values) == len(MEMBERS):
            logs[f"{prefix}_{key}"] = sum(values) / len(values)
    return logs


def figures_of(task: str) -> list[str]:
    """The names that an evaluation logs for a task, without prefix: `accuracy`, `loss`, `a_accuracy`, ..."""
    scores = MemberScores(2, task, ["0", "1"], device=torch.device("cpu")).compute()
    keys = {name: [key for key in figures if key not in _BY_CLASS] for name, figures in scores.items()}
    return [*keys["a"], *(f"{name}_{key}" for name in keys for key in keys[name])]


def without_loss(scores: Scores) -> Scores:
    """What the results file keeps: the metrics of the task. A metric that is not finite is None, as in any JSON."""
    return {
        name: {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in figures.items()
            if key != "loss"
        }
        for name, figures in scores.items()
    }


def primary_scores(scores: Scores, task: str) -> dict[str, float]:
    """Each model's main metric, a fraction; 0 if unknown."""
    return {name: float(scores[name].get(TASKS[task].metric) or 0.0) for name in MEMBERS}


def better_member(scores: Scores | None, task: str) -> str:
    """The model for the root of the published pair: the better one on the eval split; a for ties or without a split."""
    if scores is None:
        return "a"
    figures = primary_scores(scores, task)
    return "b" if figures["b"] > figures["a"] else "a"


def _add_user_metrics(
    scores: Scores,
    logits: dict[str, np.ndarray],
    labels: np.ndarray,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]],
) -> None:
    own = {*FIGURES, *scores["a"]}  # reports read these, as fractions; a script may return percent
    probabilities = [torch.softmax(torch.from_numpy(logits[name]), dim=-1) for name in MEMBERS]
    predictions = {**logits, "ensemble": torch.stack(probabilities).mean(dim=0).clamp(min=1e-30).log().numpy()}
    for name, values in predictions.items():
        figures = compute_metrics(EvalPrediction(values, labels))
        if not isinstance(figures, Mapping) or not all(np.ndim(one) == 0 for one in figures.values()):
            raise ValueError(
                f"compute_metrics returned {figures!r}, but must return a dictionary of numbers, such as {{'f1': 0.5}}."
            )
        if taken := figures.keys() & own:
            logger.warning_once(
                f"compute_metrics returned {', '.join(sorted(taken))}: names of the run's own figures, which are kept. "
                "Return yours under other names."
            )
        scores[name] |= {key: np.asarray(one).item() for key, one in figures.items() if key not in taken}


def _in_row_order(kept: list[Kept]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    gathered: list[Any] = gather_object(kept)
    rows = np.concatenate([part[0] for part in gathered])
    order = np.argsort(rows)
    logits = {name: torch.cat([part[1][name] for part in gathered]).numpy()[order] for name in MEMBERS}
    return logits, np.concatenate([part[2] for part in gathered])[order]
