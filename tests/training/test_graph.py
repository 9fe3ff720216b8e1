"""`--labeler graph`: true labels spread over images that look alike, as a third source of labels beside a and b."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.models.heads import recorded_head_inputs
from hf_dmt.report.run import read_run
from hf_dmt.report.terminal import phase_table
from hf_dmt.training.labeling import graph
from hf_dmt.training.settings.methods import resolve
from tests.training.small_runs import CLASSES, images, make_pair, make_trainer, results


def two_moons(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles that no straight line divides; `(N, 2)` points and their classes."""
    angle = np.linspace(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.4 - np.sin(angle)], axis=1)
    return np.concatenate([upper, lower]).astype(np.float32), np.repeat([0, 1], count)


@pytest.mark.parametrize("most_nodes", [10_000, 600], ids=["all are nodes", "half of them ask their neighbors"])
def test_labels_follow_the_shape_of_the_data(most_nodes: int) -> None:
    """Guards against labels copied from the nearest labeled image; the graph must do better."""
    points, truth = two_moons(600)
    labeled = np.array([20, 1180])  # at far ends of the two
    nearest = np.linalg.norm(points[:, None] - points[labeled], axis=2).argmin(axis=1)
    spread = graph.spread_labels(points[labeled], truth[labeled], points, 2, most_nodes=most_nodes)
    assert spread.dtype == np.float32 and np.allclose(spread.sum(axis=1), 1, atol=1e-5)
    assert (spread.argmax(axis=1) == truth).mean() > 0.97 > 0.85 > (nearest == truth).mean()


def test_a_class_without_labels_gets_none() -> None:
    """Guards against reading the columns of the classes that have labels as classes 0, 1, ..."""
    points, truth = two_moons(400)
    spread = graph.spread_labels(points[[200, 600]], np.array([1, 3]), points, 5)
    assert spread.shape == (800, 5) and not spread[:, [0, 2, 4]].any()
    assert (spread.argmax(axis=1) == np.where(truth == 0, 1, 3)).mean() > 0.9


def test_images_that_no_label_reaches_are_the_last_to_be_selected() -> None:
    """Guards against labeling all images that no label reaches as class 0, with a confidence of NaN from 0 / 0."""
    near, far = np.random.default_rng(0).normal(size=(2, 60, 4)).astype(np.float32)
    far += 100
    spread = graph.spread_labels(near[:2], np.array([0, 1]), np.concatenate([near, far]), 3)
    assert np.isfinite(spread).all() and (spread[60:] == np.float32(1 / 3)).all()
    assert spread[:60].max(axis=1).min() > 1 / 3


def test_every_member_counts_alike() -> None:
    """Guards against the model with the larger feature values deciding alone which images look alike."""
    one, other = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    joined = graph.joined([one, 1000 * other])
    assert np.allclose(np.linalg.norm(joined[:, :3], axis=1), 1) and np.allclose(
        np.linalg.norm(joined[:, 3:], axis=1), 1
    )
    assert np.isfinite(graph.joined([np.zeros((2, 3), dtype=np.float32)])).all()


@pytest.mark.parametrize("kind", ["vit", "resnet", "swin"])
def test_features_are_what_the_head_makes_logits_of(kind: str) -> None:
    """Guards against features from another layer, or features overwritten by an in-place layer."""
    model = make_pair(kind, "vit").member("a").eval()
    head = next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))
    with torch.no_grad(), recorded_head_inputs(model) as seen:
        logits = model(pixel_values=torch.rand(3, 3, 8, 8)).logits
        assert torch.allclose(head(seen[0]), logits, atol=1e-6)
    assert not head._forward_pre_hooks


def test_the_graph_labels_for_both(tmp_path: Path) -> None:
    """Guards against storing the graph's labels while the models still learn from each other's, and against labels or a
    summary of the graph under the name of a model, or the other way round."""
    labeled, unlabeled = images(9, seed=0), images(40, seed=1)
    pair = make_pair("vit", "resnet")
    trainer = make_trainer(
        tmp_path, pair, labeled=labeled, unlabeled=unlabeled, labeler="graph", label_ratios=[0.5, 1.0]
    )
    trainer.train()
    entries = [entry for entry in results(tmp_path)["phases"] if entry["pseudo_labels"]]
    assert [sorted(entry["pseudo_labels"]) for entry in entries] == [["a", "b", "graph"]] * 2
    truth = np.array([item["label"] for item in unlabeled])
    for number, entry in enumerate(entries, start=1):
        stored = {
            name: ImageLabels.read(tmp_path / "pseudo_labels" / f"phase-{number}" / name)
            for name in ("a", "b", "graph")
            if (tmp_path / "pseudo_labels" / f"phase-{number}").is_dir()
        }
        if not stored:  # labels of past phases may be deleted
            continue
        for name, made in stored.items():
            summary = entry["pseudo_labels"][name]
            assert summary["accuracy"] == pytest.approx((made.labels == truth)[made.selected].mean())
            assert summary["predicted"] == np.bincount(made.labels, minlength=CLASSES).tolist()
            assert made.selected.mean() == pytest.approx(entry["label_ratio"])
            assert {"weight", "confidence", "disagreement"} <= set(summary["separation"])
        assert not any(np.array_equal(stored[name].confidence, stored["graph"].confidence) for name in "ab")
    for name in ("a", "b"):
        assert np.array_equal(trainer.train_dataset.pseudo[name].labels, stored["graph"].labels)
        assert np.array_equal(trainer.sampler.rows[name][1], stored["graph"].rows)
    assert "by graph" in phase_table(read_run(tmp_path))


def test_a_run_on_a_graph_resumes_bit_by_bit(tmp_path: Path) -> None:
    """Guards against a resumed run that labels again, with features of other weights."""
    labeled, unlabeled = images(9, seed=0), images(40, seed=1)
    settings: dict[str, Any] = {
        "labeler": "graph",
        "label_ratios": [0.5, 1.0],
        "save_strategy": "steps",
        "save_steps": 1,
    }
    whole = make_trainer(tmp_path / "whole", make_pair(), labeled=labeled, unlabeled=unlabeled, **settings)
    whole.train()
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "whole").glob("checkpoint-*"))
    middle = steps[-2]  # in the last phase, after its labels were made
    again = make_trainer(tmp_path / "whole", make_pair(seed=3), labeled=labeled, unlabeled=unlabeled, **settings)
    last = load_file(tmp_path / "whole" / f"checkpoint-{steps[-1]}" / "model.safetensors")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{middle}"))
    now = load_file(tmp_path / "whole" / f"checkpoint-{steps[-1]}" / "model.safetensors")
    assert last.keys() == now.keys() and all(torch.equal(last[key], now[key]) for key in last)


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("semantic-segmentation", {}, "compares whole images"),
        ("image-classification", {"strategy": "online"}, "between phases"),
        ("image-classification", {"exchange": "sequential"}, "labeler graph"),
    ],
)
def test_where_there_is_no_graph(task: str, given: dict[str, Any], message: str) -> None:
    """Guards against silently ignoring `labeler="graph"`."""
    with pytest.raises(ValueError, match=message):
        resolve("dmt", task, {"labeler": "graph", **given})


def test_too_many_images_are_refused_before_training(tmp_path: Path) -> None:
    """Guards against training phase 0 for hours before memory runs out for the graph."""
    with pytest.raises(ValueError, match="up to 200,000 images, got 200,001"):
        graph.check_size(200_001)
    graph.check_size(200_000)
