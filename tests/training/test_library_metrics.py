"""`--metrics`: the figures of `evaluate` metrics are those of scikit-learn, and a wrong one is refused at the start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from hf_dmt.training.scoring.library_metrics import LibraryMetrics, MetricSpec
from tests.training.metric_modules import write_metric

IMAGES, MASKS = "image-classification", "semantic-segmentation"


def test_a_metric_is_written_with_its_arguments() -> None:
    """Guards against reading `average=macro` as part of the name, and against `None` as a string."""
    read = MetricSpec.parse("f1:average=macro,labels=None,beta=2")
    assert read == MetricSpec("f1", {"average": "macro", "labels": None, "beta": 2})
    assert str(MetricSpec.parse("f1:average=macro")) == "f1:average=macro"
    assert MetricSpec.parse(r"C:\metrics\mine").source == r"C:\metrics\mine"
    for wrong in ("f1:average=macro,beta", "f1:=2", ":a=1"):
        with pytest.raises(ValueError, match="metrics has"):
            MetricSpec.parse(wrong)


@pytest.fixture(scope="module")
def classified() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Logits of 60 images in 3 classes, and their labels; ten images have none."""
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(60, 3, generator=generator) for name in "ab"}
    truth = torch.randint(0, 3, (60,), generator=generator)
    truth[:10] = -100
    return logits, truth


def figures(metrics: LibraryMetrics, logits: dict[str, torch.Tensor], truth: torch.Tensor) -> dict[str, dict[str, Any]]:
    """Scores two batches, and adds the result to a score that the run already has."""
    collected = metrics.start()
    for part in (slice(0, 25), slice(25, None)):
        collected.add({name: values[part] for name, values in logits.items()}, truth[part])
    scores: dict[str, dict[str, Any]] = {name: {"accuracy": 0.5} for name in ("a", "b", "ensemble")}
    metrics.add_to(scores, collected.gathered())
    return scores


def test_figures_are_those_of_scikit_learn(classified: Any, tmp_path: Path) -> None:
    """Guards against scoring images without a label, an ensemble by votes, and a metric that overwrites another."""
    logits, truth = classified
    f1 = write_metric(tmp_path, "f1")
    metrics = LibraryMetrics(
        [f"{f1}:average=macro", f"{f1}:average=None", write_metric(tmp_path, "accuracy")], 3, IMAGES
    )
    scores = figures(metrics, logits, truth)
    known = truth >= 0
    mean = (logits["a"].softmax(1) + logits["b"].softmax(1)) / 2
    for name, values in {**logits, "ensemble": mean}.items():
        guess, right = values.argmax(1)[known].numpy(), truth[known].numpy()
        assert scores[name]["f1"] == pytest.approx(f1_score(right, guess, average="macro"))
        assert scores[name]["f1_average_None"] == pytest.approx(f1_score(right, guess, average=None).tolist())
        assert scores[name]["accuracy"] == 0.5
        assert scores[name]["accuracy_library"] == pytest.approx((guess == right).mean())


def test_an_average_that_is_missing_is_chosen_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against `--metrics f1` failing on three classes after phase 0, because scikit-learn needs an average."""
    f1 = write_metric(tmp_path, "f1")
    with caplog.at_level(logging.WARNING):
        chosen = LibraryMetrics([f1], 3, IMAGES)
    assert "f1:average=macro, because there are 3 classes" in caplog.text
    truth = torch.tensor([0, 1, 2, 2])
    logits = dict.fromkeys("ab", torch.eye(3)[[0, 1, 2, 1]])
    assert figures(chosen, logits, truth)["a"]["f1"] == pytest.approx(f1_score(truth, [0, 1, 2, 1], average="macro"))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_metrics_of_scores_get_probabilities(num_classes: int, tmp_path: Path) -> None:
    """Guards against an AUROC that is computed from class ids and looks valid."""
    generator = torch.Generator().manual_seed(1)
    logits = {name: torch.randn(40, num_classes, generator=generator) for name in "ab"}
    truth = torch.arange(40) % num_classes
    scores = figures(LibraryMetrics([write_metric(tmp_path, "roc_auc")], num_classes, IMAGES), logits, truth)
    p = logits["a"].softmax(1).numpy()
    expected = roc_auc_score(truth, p[:, 1] if num_classes == 2 else p, multi_class="ovr")
    assert scores["a"]["roc_auc"] == pytest.approx(expected, abs=1e-6)


def test_masks_are_scored_by_pixel_or_whole(tmp_path: Path) -> None:
    """Guards against void pixels in a score, and against flattening masks for a metric that compares whole masks."""
    generator = torch.Generator().manual_seed(2)
    logits = {name: torch.randn(30, 3, 4, 5, generator=generator) for name in "ab"}
    truth = torch.randint(0, 3, (30, 4, 5), generator=generator)
    truth[:, 0] = -100
    f1, shapes = write_metric(tmp_path, "f1"), write_metric(tmp_path, "mask_count")
    scores = figures(LibraryMetrics([f"{f1}:average=micro", shapes], 3, MASKS), logits, truth)
    known = truth >= 0
    guess = logits["b"].argmax(1)[known]
    assert scores["b"]["f1"] == pytest.approx(f1_score(truth[known], guess, average="micro"))
    assert scores["b"]["masks"] == 30 and scores["b"]["ignore_index"] == -100


@pytest.mark.parametrize(
    ("name", "task", "arguments", "message"),
    [
        ("f1", IMAGES, ":average=wrong", "which fails for 3 classes"),
        ("f1", IMAGES, ":nothing=1", "which fails for 3 classes"),
        ("mask_count", IMAGES, "", "compares masks, but the task is image-classification"),
        ("roc_auc", MASKS, "", "needs the scores of every class"),
        ("sources", IMAGES, "", "Only metrics of predictions"),
        ("text", IMAGES, "", "returns a str"),
    ],
)
def test_a_metric_that_cannot_work_is_refused_at_once(
    name: str, task: str, arguments: str, message: str, tmp_path: Path
) -> None:
    """Guards against a run that ends at its first evaluation with a traceback from another library."""
    with pytest.raises(ValueError, match=message):
        LibraryMetrics([write_metric(tmp_path, name) + arguments], 3, task)
    with pytest.raises(ValueError, match=r"a float\. Give names"):
        LibraryMetrics([np.pi], 3, task)
