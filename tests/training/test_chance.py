"""How much of a difference between scores may be chance, from the contribution of each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from hf_dmt.data.members import SCORED
from hf_dmt.training.scoring.chance import chance_of
from hf_dmt.training.scoring.image_counts import ImageCounts
from hf_dmt.training.scoring.member_scores import MemberScores
from hf_dmt.training.scoring.splits import ScoredSplits

CLASSIFY, SEGMENT = "image-classification", "semantic-segmentation"


def images(truth: list[int], said: list[int], num_classes: int = 3) -> ImageCounts:
    """Counts of images for which a, b and the ensemble all predict the same."""
    ids = torch.tensor(said)
    return ImageCounts.of_images(torch.tensor(truth), dict.fromkeys(SCORED, ids), num_classes)


def logits_of(ids: torch.Tensor, num_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(ids, num_classes).movedim(-1, 1).float() * 9


@pytest.mark.parametrize(("changed", "passes"), [(5, False), (6, True), (8, True)])
def test_a_few_images_prove_nothing(changed: int, passes: bool) -> None:
    """Five images that all became correct happen by chance in 1 of 16 cases; a normal interval would accept them as a
    gain."""
    truth, before = [0, 1] * 20, [0, 1] * 20
    for row in range(changed):
        before[row] = 2
    found = chance_of(CLASSIFY, images(truth, before), images(truth, truth))
    assert found is not None
    for name in SCORED:
        assert (changed / 40 > found[name]["accuracy"] + 1e-9) == passes


@pytest.mark.parametrize(("better", "worse"), [(9, 1), (12, 4), (20, 9), (30, 20), (60, 35)])
def test_on_accuracy_it_is_mcnemars_test(better: int, worse: int) -> None:
    """Guards against a significance test that accepts more differences than its level allows."""
    truth = [0] * 200
    before, after = np.zeros(200, int), np.zeros(200, int)
    before[:better], after[better : better + worse] = 1, 1
    found = chance_of(CLASSIFY, images(truth, before.tolist()), images(truth, after.tolist()))
    assert found is not None
    exact = stats.binomtest(better, better + worse).pvalue
    assert ((better - worse) / 200 > found["a"]["accuracy"] + 1e-9) == (exact <= 0.05)


def test_the_majority_does_not_pass_for_the_mean_of_classes() -> None:
    """Guards against reporting a gain of 54 points when every prediction changes from one class (18 of 100 correct) to
    another (72 correct): the mean over the classes gains nothing."""
    truth = [0] * 72 + [1] * 18 + [2] * 10
    before, after = images(truth, [1] * 100), images(truth, [0] * 100)
    found = chance_of(CLASSIFY, before, after)
    assert found is not None and found["a"]["accuracy"] < 0.54
    assert found["a"]["mean_accuracy"] > 0.0  # and the gain of the mean is exactly 0: each finds one class of three


def test_masks_are_exchanged_image_by_image() -> None:
    """Guards against treating pixels as independent: one image of 4,096 pixels would prove a gain of one point."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (8, 64, 64), generator=generator)
    counts = []
    for wrong_images in (range(4), range(4, 8)):
        scores = MemberScores(3, SEGMENT)
        said = truth.clone()
        for image in wrong_images:
            said[image] = (said[image] + 1) % 3
        scores.update({name: logits_of(said, 3) for name in "ab"}, truth)
        counts.append(scores.image_counts())
    found = chance_of(SEGMENT, *counts)
    assert found is not None
    assert found["a"]["overall_accuracy"] >= 0.5 and found["a"]["mean_iou"] > 0.4


def test_counts_of_images_add_up_to_the_scores() -> None:
    """Guards against images in another order than their rows, and against reading the columns of another model."""
    generator = torch.Generator().manual_seed(1)
    for task, shape in ((CLASSIFY, ()), (SEGMENT, (6, 5))):
        logits = {name: 3 * torch.randn(9, 4, *shape, generator=generator) for name in "ab"}
        labels = torch.randint(0, 4, (9, *shape), generator=generator)
        labels.view(9, -1)[3, 0] = -100
        whole = MemberScores(4, task)
        whole.update(logits, labels)
        parts = []
        for rows in ([0, 2, 4, 6, 8], [1, 3, 5, 7]):  # as two processes share them
            scores = MemberScores(4, task)
            scores.update({name: z[rows] for name, z in logits.items()}, labels[rows])
            parts.append((rows, scores.image_counts()))
        joined = ImageCounts.joined(parts)
        assert (joined.table != whole.image_counts().table).nnz == 0
        for image in range(9):
            kept = labels[image][labels[image] >= 0]
            assert joined.truth[[image]].toarray()[0].tolist() == torch.bincount(kept, minlength=4).tolist()
        for name in SCORED:
            right, predicted = joined.right(name).sum(), joined.predicted(name).sum()
            assert predicted == joined.truth.sum() == (labels >= 0).sum()
            key = "accuracy" if task == CLASSIFY else "overall_accuracy"
            assert right / predicted == pytest.approx(whole.compute()[name][key])


def test_phase_0_is_kept_and_compared_with(tmp_path: Path) -> None:
    """Guards against a gain without its chance level after a resume because the scores of phase 0 were kept in memory
    only."""
    truth = [0, 1, 2] * 10
    first = images(truth, [0] * 30)
    plain = {name: {"accuracy": 0.5, "loss": 1.0} for name in SCORED}
    entry: dict = {"phase": 0}
    ScoredSplits(tmp_path, CLASSIFY, ["x", "y", "z"], writes=True).enter(entry, "test", plain, first)
    assert entry["test"]["a"] == {"accuracy": 0.5}
    assert entry["classes"] == {"test": {"x": 10, "y": 10, "z": 10}}

    later = ScoredSplits(tmp_path, CLASSIFY, ["x", "y", "z"], writes=True)  # as after a resume
    for number in (5, None):
        entry = {"phase": number}
        later.enter(entry, "test", plain, images(truth, truth))
        assert 0 < entry["test"]["b"]["chance"]["accuracy"] < 0.4
    later.enter(entry, "eval", None, None)
    assert entry["eval"] is None
    later.enter(entry, "test", plain, images(truth[:9], truth[:9]))  # other images
    assert "chance" not in entry["test"]["a"]
    (tmp_path / "scored" / "test-phase-0.npz").write_bytes(b"PK damaged")
    later.enter(entry, "test", plain, images(truth, truth))
    assert "chance" not in entry["test"]["a"]
