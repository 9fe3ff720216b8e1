"""Scores: exact by the field's definition, the same in pieces as in one, and never in need of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_dmt.training.scoring.confusion import ConfusionMatrix, scores_of
from hf_dmt.training.scoring.member_scores import MemberScores


def classification_scores(matrix: Tensor, names: list[str] | None = None) -> dict[str, Any]:
    return scores_of(matrix, "image-classification", names)


def segmentation_scores(matrix: Tensor, names: list[str] | None = None) -> dict[str, Any]:
    return scores_of(matrix, "semantic-segmentation", names)


def numpy_mean_iou(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[float, list[float | None]]:
    """The definition, class by class, with sets of pixels."""
    valid = labels != -100
    ious: list[float | None] = []
    for index in range(num_classes):
        predicted, truth = (predictions == index) & valid, (labels == index) & valid
        union = int((predicted | truth).sum())
        ious.append(int((predicted & truth).sum()) / union if union else None)
    present = [iou for iou in ious if iou is not None]
    return sum(present) / len(present), ious


def random_masks(seed: int, shape: tuple[int, ...], num_classes: int) -> tuple[Tensor, Tensor]:
    """Predictions, and labels of which about a tenth is void."""
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, num_classes, shape, generator=generator)
    labels = torch.randint(0, num_classes, shape, generator=generator)
    return predictions, labels.masked_fill(torch.rand(shape, generator=generator) < 0.1, -100)


def filled(predictions: Tensor, labels: Tensor, num_classes: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes)
    confusion.update(predictions, labels)
    return confusion


def summed_with(others: list[ConfusionMatrix]) -> Callable[[Tensor], Tensor]:
    """An all-reduce as one process sees it: its own counts plus those of the others."""
    raw: list[Tensor] = []

    def send(counts: Tensor) -> Tensor:
        raw.append(counts)
        return counts

    for other in others:
        other.reduce(send)
    return lambda counts: counts + sum(raw)


def test_scores_of_the_official_code_on_its_own_kind_of_input() -> None:
    """Guards against another definition of IoU than the published numbers use (void pixels above all)."""
    labels = np.random.RandomState(30).randint(0, 6, 500)
    labels[labels == 5] = -100
    predictions = np.random.RandomState(31).randint(0, 5, 500)
    matrix = filled(torch.from_numpy(predictions), torch.from_numpy(labels), 5).matrix
    scores = segmentation_scores(matrix)
    assert scores["overall_accuracy"] == pytest.approx(0.2027972, abs=1e-7)
    ious = list(scores["per_class_iou"].values())
    assert ious == pytest.approx([0.10274, 0.144654, 0.086093, 0.121951, 0.10596], abs=1e-6)
    assert scores["mean_iou"] == pytest.approx(0.1122796, abs=1e-7)


@pytest.mark.parametrize("label_dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("num_classes", [1, 2, 21, 150])
def test_mean_iou_is_exact(num_classes: int, label_dtype: torch.dtype) -> None:
    """Guards against overflow of small integer types, and against losing units at the borders of the chunks."""
    predictions, labels = random_masks(num_classes, (3, 160, 150), num_classes)
    confusion = filled(predictions, labels.to(label_dtype), num_classes)
    expected, ious = numpy_mean_iou(predictions.numpy(), labels.numpy(), num_classes)
    scores = segmentation_scores(confusion.matrix)
    assert confusion.matrix.sum() == (labels != -100).sum()
    assert scores["mean_iou"] == pytest.approx(expected, abs=1e-12)
    assert list(scores["per_class_iou"].values()) == pytest.approx(ious, abs=1e-12)


def test_few_units_of_many_classes_count_like_many() -> None:
    """The code path without bincount (accelerators, large heads) must fill the same cells."""
    predictions, labels = random_masks(7, (64,), 1000)
    matrix = filled(predictions, labels, 1000).matrix
    expected = torch.zeros(1000, 1000, dtype=torch.int64)
    for predicted, truth in zip(predictions.tolist(), labels.tolist(), strict=True):
        if truth != -100:
            expected[truth, predicted] += 1
    assert torch.equal(matrix, expected)


def test_rows_are_the_truth() -> None:
    """Guards against a transposed matrix: IoU would stay correct, and the mean accuracy would be silently wrong."""
    matrix = filled(torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 1, 0]), 2).matrix
    assert matrix.tolist() == [[1, 2], [0, 1]]
    assert classification_scores(matrix, ["cat", "dog"]) == {
        "accuracy": 0.5,
        "mean_accuracy": pytest.approx(2 / 3),
        "per_class_accuracy": {"cat": pytest.approx(1 / 3), "dog": 1.0},
        "confusions": [["cat", "dog", 2]],
    }


def test_one_class_for_everything_is_no_better_than_guessing() -> None:
    """Guards against scoring by accuracy alone, where a model that always predicts the majority class looks good."""
    labels = torch.tensor([0] * 72 + [1] * 18 + [2] * 10)
    scores = classification_scores(filled(torch.zeros_like(labels), labels, 4).matrix)
    assert scores["accuracy"] == pytest.approx(0.72) and scores["mean_accuracy"] == pytest.approx(1 / 3)
    assert scores["per_class_accuracy"] == {"0": 1.0, "1": 0.0, "2": 0.0, "3": None}
    assert scores["confusions"] == [["1", "0", 18], ["2", "0", 10]]


def test_absent_class_is_none_and_left_out_of_the_mean() -> None:
    """Guards against NaN means (no checkpoint would ever be best) and absent classes counted as 0 or 1."""
    predictions, labels = torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1, 1])
    scores = segmentation_scores(filled(predictions, labels, 4).matrix, ["sky", "road", "never", "wrong"])
    assert scores["per_class_iou"] == {"sky": 1.0, "road": 0.5, "never": None, "wrong": 0.0}
    assert scores["mean_iou"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert scores["mean_accuracy"] == pytest.approx((1.0 + 0.5) / 2)


def test_predictions_on_void_do_not_count() -> None:
    """Guards against void pixels entering the union: a class predicted on void only stays absent."""
    scores = segmentation_scores(filled(torch.tensor([0, 1]), torch.tensor([0, -100]), 2).matrix)
    assert scores["per_class_iou"] == {"0": 1.0, "1": None}


@pytest.mark.parametrize("shape", [(0,), (2, 4, 4)])
def test_nothing_to_score_is_none(shape: tuple[int, ...]) -> None:
    """Guards against a made-up 0 or a NaN (not JSON) where every label is void or there is no image."""
    confusion = filled(torch.zeros(shape, dtype=torch.int64), torch.full(shape, -100), 3)
    scores = classification_scores(confusion.matrix)
    assert (scores["accuracy"], scores["mean_accuracy"], scores["confusions"]) == (None, None, [])
    scores = segmentation_scores(confusion.matrix)
    assert (scores["mean_iou"], scores["overall_accuracy"], scores["mean_accuracy"]) == (None, None, None)
    assert set(scores["per_class_iou"].values()) == {None}


def test_misuse_is_explained() -> None:
    """Guards against broadcasting, logits taken for class ids, merged class names."""
    with pytest.raises(ValueError, match=r"shape \(2, 3\), but labels \(2,\)"):
        ConfusionMatrix(3).update(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"predictions are torch\.float32"):
        ConfusionMatrix(3).update(torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least one class"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="2 names, 1 of them different, for 2 classes"):
        segmentation_scores(ConfusionMatrix(2).matrix, ["road", "road"])


def test_parts_of_several_processes_sum_to_one_run() -> None:
    """Guards against scores of one process's share, and against counts rounded to floats on the way."""
    predictions, labels = random_masks(3, (6, 40, 40), 5)
    parts = [filled(predictions[rank::3], labels[rank::3], 5) for rank in range(3)]
    whole = filled(predictions, labels, 5)
    assert torch.equal(parts[0].reduce(summed_with(parts[1:])).matrix, whole.matrix)

    huge = ConfusionMatrix(5).reduce(lambda counts: counts.index_fill(0, torch.tensor([0]), 2**60 + 1))
    assert huge.matrix[0, 0] == 2**60 + 1


def test_reduce_sums_once_and_only_sums() -> None:
    """Guards against doubled counts, batches counted after the sum, and gathers or means taken for a sum."""
    confusion = ConfusionMatrix(2).reduce(torch.clone)
    with pytest.raises(RuntimeError, match="summing again would double it"):
        confusion.reduce(torch.clone)
    with pytest.raises(RuntimeError, match="start a new one"):
        confusion.update(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="must sum them"):
        ConfusionMatrix(2).reduce(lambda counts: counts / 2)
    with pytest.raises(ValueError, match="must sum them"):
        ConfusionMatrix(2).reduce(lambda counts: torch.stack([counts, counts]))


def expected_members(logits: dict[str, Tensor], labels: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Predictions of a, b and ensemble and the members' losses, the plain way in float64."""
    probabilities = {name: z.double().softmax(1) for name, z in logits.items()}
    mean = (probabilities["a"] + probabilities["b"]) / 2
    losses = {
        name: torch.nn.functional.cross_entropy(z.double(), labels, ignore_index=-100).item()
        for name, z in logits.items()
    }
    return {**{name: p.argmax(1) for name, p in probabilities.items()}, "ensemble": mean.argmax(1)}, losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_members_and_ensemble_of_images(dtype: torch.dtype) -> None:
    """Guards against an ensemble of logits instead of probabilities, and against swapped members."""
    generator = torch.Generator().manual_seed(0)
    logits = {name: (3 * torch.randn(200, 6, generator=generator)).to(dtype) for name in "ab"}
    labels = torch.randint(0, 6, (200,), generator=generator)
    labels[::9] = -100
    scores = MemberScores(6, "image-classification")
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        scores.update({name: z[part] for name, z in logits.items()}, labels[part])
    predictions, losses = expected_members(logits, labels)
    result = scores.compute()
    assert set(result) == {"a", "b", "ensemble"}
    for name, predicted in predictions.items():
        expected = (predicted == labels)[labels != -100].double().mean().item()
        assert result[name]["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert {name: result[name]["loss"] for name in "ab"} == pytest.approx(losses, rel=1e-6)
    assert "loss" not in result["ensemble"]


def test_members_of_pixels_in_chunks_and_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against images lost between chunks, and losses averaged over processes instead of pixels."""
    monkeypatch.setattr("hf_dmt.training.scoring.member_scores.CHUNK", 2 * 4 * 8 * 6)  # two images at a time
    generator = torch.Generator().manual_seed(1)
    logits = {name: 3 * torch.randn(5, 4, 8, 6, generator=generator) for name in "ab"}
    labels = torch.randint(0, 4, (5, 8, 6), generator=generator)
    labels[0] = -100  # one process has an image without a valid pixel
    ranks = []
    for rank in range(2):
        scores = MemberScores(4, "semantic-segmentation", class_names=list("wxyz"))
        scores.update({name: z[rank::2] for name, z in logits.items()}, labels[rank::2])
        ranks.append(scores)
    sent: list[Tensor] = []

    def send(tensor: Tensor) -> Tensor:
        sent.append(tensor)
        return tensor

    ranks[1].reduce(send)
    received = iter(sent)
    result = ranks[0].reduce(lambda tensor: tensor + next(received)).compute()

    predictions, losses = expected_members(logits, labels)
    for name, predicted in predictions.items():
        expected, ious = numpy_mean_iou(predicted.numpy(), labels.numpy(), 4)
        assert result[name]["mean_iou"] == pytest.approx(expected, abs=1e-12)
        assert result[name]["per_class_iou"] == pytest.approx(dict(zip("wxyz", ious, strict=True)), abs=1e-12)
    assert {name: result[name]["loss"] for name in "ab"} == pytest.approx(losses, rel=1e-6)


def test_confident_error_has_a_finite_loss_and_leaves_the_logits_alone() -> None:
    """Guards against the log of an underflowed probability, and in-place work on the caller's logits."""
    logits = {name: torch.tensor([[500.0, -500.0]]) for name in "ab"}
    scores = MemberScores(2, "image-classification")
    scores.update(logits, torch.tensor([1]))
    assert scores.compute()["a"]["loss"] == 1000.0
    assert logits["a"].tolist() == [[500.0, -500.0]]


def test_members_without_a_valid_label() -> None:
    """Guards against a loss of 0 or NaN, and a crash on an empty last batch, where nothing can be scored."""
    scores = MemberScores(2, "image-classification")
    scores.update({name: torch.zeros(3, 2) for name in "ab"}, torch.full((3,), -100))
    scores.update({name: torch.zeros(0, 2) for name in "ab"}, torch.zeros(0, dtype=torch.int64))
    result = scores.compute()["a"]
    assert {result[key] for key in ("accuracy", "mean_accuracy", "loss")} == {None}
    assert scores.image_counts().table.sum() == 0


def test_member_misuse_is_explained() -> None:
    """Guards against logits of another resolution or class count."""
    scores = MemberScores(3, "semantic-segmentation")
    logits = {name: torch.zeros(2, 3, 4, 4) for name in "ab"}
    with pytest.raises(ValueError, match=r"logits of a have shape \(2, 3, 4, 4\).*need \(2, 3, 8, 8\)"):
        scores.update(logits, torch.zeros(2, 8, 8, dtype=torch.int64))
