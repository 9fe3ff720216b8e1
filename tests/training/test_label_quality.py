"""How well the weights separate right pseudo labels from wrong ones: figures for the results only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score
from small_runs import images, make_pair, make_trainer, results, scenes, state_of

from hf_dmt.method import dynamic_weights, encode_confidence, pseudo_label
from hf_dmt.training.labeling import label_pass, label_quality
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.settings.knobs import Knobs

KEYS = {"weight", "confidence", "disagreement", "calibration"}


def labels_of(trained: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [entry["pseudo_labels"]["a"]["separation"] for entry in trained["phases"] if entry["pseudo_labels"]]


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ([0, 2], [3, 0], 1.0),
        ([2, 0], [0, 3], 0.0),
        ([4, 0], [6, 0], 0.5),  # all tied
        ([1, 1, 1], [1, 1, 0], (0.5 + 1.5 + 2) / 6),  # by hand: ties count half
        ([0, 0], [2, 3], None),
        ([0], [0], None),
    ],
)
def test_auroc_of_counts(right: list[int], wrong: list[int], expected: float | None) -> None:
    """Guards against counting ties as wins, which makes a score with few values look good, and against a value where
    AUROC is undefined."""
    assert label_quality.auroc(np.array(right), np.array(wrong)) == expected


def test_image_figures_are_those_of_scikit_learn() -> None:
    """Guards against counts and values in different orders, an inverted score, and calibration of the wrong column."""
    rng = np.random.default_rng(0)
    hit = rng.random(500) < 0.7
    confidence = np.round(np.clip(rng.normal(0.7 + 0.1 * hit, 0.1), 0, 1), 2).astype(np.float32)  # with ties
    weight, agree = rng.random(500) ** (3 - 2 * hit), rng.random(500) < np.where(hit, 0.9, 0.4)
    found = label_quality.of_images(weight, confidence, agree, hit)
    assert found is not None and found.keys() == KEYS
    for name, score in (("weight", weight), ("confidence", confidence), ("disagreement", agree)):
        assert found[name] == pytest.approx(roc_auc_score(hit, score)), name
    curve = found["calibration"]
    assert sum(part["count"] for part in curve) == 500
    assert all(30 <= part["count"] <= 70 for part in curve) and len(curve) == 10  # ties share a bin
    assert [part["confidence"] for part in curve] == sorted(part["confidence"] for part in curve)
    first = np.sort(confidence)[: curve[0]["count"]]
    assert curve[0]["confidence"] == pytest.approx(first.mean())
    assert curve[0]["accuracy"] == pytest.approx(hit[confidence <= first.max()].mean())
    assert label_quality.of_images(weight[:0], confidence[:0], agree[:0], hit[:0]) is None


def test_calibration_of_one_confidence_is_one_bin() -> None:
    """Guards against bins that split equal confidences at random, and against empty bins with a mean of 0/0 in the
    file."""
    [only] = label_quality.calibration(np.array([0.5, 1.0]), np.array([0, 7]), np.array([0, 3]))
    assert only == {"confidence": 1.0, "accuracy": 0.7, "count": 10}


def test_codes_keep_the_order_at_both_ends() -> None:
    """Guards against a code made for confidences: it maps all weights below 0.002, where most wrong labels are, to one
    value."""
    weight = torch.cat([torch.logspace(-30, -0.31, 800), 1 - torch.logspace(-0.31, -6, 200), torch.tensor([1.0])])
    codes = label_quality._code(torch.cat([torch.zeros(1), weight]))
    assert codes[0] == 0 and codes[-1] == 65535
    assert (codes.diff() > 0).all()


@pytest.mark.parametrize("labeler", ["peer", "self"])
def test_the_student_judges_its_makers_labels(tmp_path: Path, labeler: str) -> None:
    """Guards against the weight that a model gives its own labels, which only repeats its confidence."""
    pair, unlabeled = make_pair("vit", "resnet"), images(40)
    knobs = Knobs(labeler=labeler)
    facts = {"phase": 1, "ratio": 0.5}
    accelerator = Accelerator(cpu=True)
    label_pass.label_images(CleanPass(pair, accelerator, 7), unlabeled, tmp_path, knobs=knobs, facts=facts)
    truth = torch.tensor([item["label"] for item in unlabeled])
    logits = {name: torch.zeros(40, 3) for name in "ab"}
    for part in CleanPass(pair, accelerator, 40).run(unlabeled, title=""):
        for name in "ab":
            logits[name][part.index] = part.logits[name]
    for maker, peer in (("a", "b"), ("b", "a")):
        labels, confidence, _ = pseudo_label(logits[maker])
        student = logits[peer if labeler == "peer" else maker]
        weights = dynamic_weights(student, labels, confidence, gamma1=5, gamma2=5)
        found = label_pass.read_summary(tmp_path)[maker]["separation"]
        hit = labels == truth
        assert 0 < hit.sum() < 40
        assert found["weight"] == pytest.approx(roc_auc_score(hit, weights), abs=0.01)  # batches of 7 round otherwise
        assert found["disagreement"] == pytest.approx(roc_auc_score(hit, student.argmax(1) == labels))


def test_pixel_figures_are_those_of_all_pixels_at_once(tmp_path: Path) -> None:
    """Guards against counting void pixels as wrong, values of the selected pixels alone, and weights of another
    image."""
    pair, unlabeled = make_pair("segformer", "segformer"), scenes(6, seed=1)
    for name in "ab":  # as sharp as trained models: new ones give every class nearly 1/3, within one step of the codes
        pair.member(name).decode_head.classifier.weight.data *= 100
    loop, knobs = CleanPass(pair, Accelerator(cpu=True), 4), Knobs(gamma1=2, gamma2=1)
    facts = {"phase": 1, "ratio": 0.3}
    label_pass.label_pixels(loop, unlabeled, tmp_path, knobs=knobs, facts=facts)
    columns: dict[str, list[np.ndarray]] = {"hit": [], "weight": [], "confidence": [], "disagreement": []}
    for part in loop.run(unlabeled, title="", shorter_side=16):
        truth = torch.from_numpy(np.stack(part.truth))
        labels, confidence, doubt = pseudo_label(part.logits["a"])
        weight = dynamic_weights(part.logits["b"], labels, confidence, gamma1=2, gamma2=1)
        agree = part.logits["b"].argmax(1) == labels
        known = truth != -100
        scores = (labels == truth, weight, encode_confidence(doubt=doubt), agree)
        for column, values in zip(columns.values(), scores, strict=True):
            column.append(values[known].numpy())
    hit, *scores = (np.concatenate(column) for column in columns.values())
    assert 0 < hit.mean() < 1
    found = label_pass.read_summary(tmp_path)["a"]["separation"]
    for name, score in zip(list(columns)[1:], scores, strict=True):
        assert found[name] == pytest.approx(roc_auc_score(hit, score), abs=2e-3), name
    assert sum(part["count"] for part in found["calibration"]) == len(hit)
    total = sum(part["accuracy"] * part["count"] for part in found["calibration"])
    assert total == pytest.approx(hit.sum())


@pytest.mark.parametrize("task", ["images", "pixels"])
def test_truth_changes_no_weight_of_the_models(tmp_path: Path, task: str) -> None:
    """Guards against true labels that leak into training or change the random state, and against values made up without
    true labels."""
    made = (images if task == "images" else scenes)(12, seed=1)
    states, figures = [], []
    for name, unlabeled in (("known", made), ("unknown", made.without_truth())):
        pair = make_pair() if task == "images" else make_pair("segformer", "segformer")
        make_trainer(tmp_path / name, pair, unlabeled=unlabeled, max_steps=1).train()
        states.append(state_of(pair))
        figures.append(labels_of(results(tmp_path / name)))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert all(figure is not None and figure.keys() == KEYS for figure in figures[0])
    assert figures[1] == [None, None]
