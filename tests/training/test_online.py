"""`strategy=online`: labels at every step, by the live teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from small_runs import assert_same, images, make_pair, make_trainer, results, scenes, state_of
from torch import Tensor

from hf_dmt.training.labeling.online import label_online
from hf_dmt.training.settings.knobs import Knobs
from hf_dmt.training.settings.methods import resolve
from hf_dmt.training.step import pseudo_weight

KNOBS = Knobs(strategy="online")


def batch(seed: int = 0, *, pixels: bool = False) -> dict[str, Any]:
    """A micro-batch of two labeled and three pseudo-labeled samples per member."""
    generator = torch.Generator().manual_seed(seed)
    side = 16 if pixels else 8
    shape: tuple[int, ...] = (5, side, side) if pixels else (5,)
    made = {}
    for name in ("a", "b"):
        labels = torch.zeros(shape, dtype=torch.int64)
        labels[:2] = 2
        if pixels:
            labels[:, :3] = -100  # padding
        made[name] = {
            "pixel_values": torch.rand(5, 3, side, side, generator=generator),
            "weak": torch.rand(5, 3, side, side, generator=generator),
            "labels": labels,
            "confidence": torch.ones(shape),
            "is_pseudo": torch.tensor([False, False, True, True, True]),
        }
    return made


def teach(pair: Any, made: dict[str, Any], knobs: Knobs) -> dict[str, Any]:
    return label_online(pair, made, knobs, Accelerator(cpu=True))


@pytest.mark.parametrize(("labeler", "teacher"), [("peer", {"a": "b", "b": "a"}), ("self", {"a": "a", "b": "b"})])
def test_labels_are_the_teachers_of_the_same_weak_view(labeler: str, teacher: dict[str, str]) -> None:
    """Guards against a teacher that labels another image of the batch or the strong view, or runs in training mode."""
    pair, made = make_pair("vit", "resnet"), batch()
    pair.train()
    labeled = teach(pair, made, Knobs(strategy="online", labeler=labeler))
    pair.eval()
    with torch.no_grad():
        for student, name in teacher.items():
            weak = made[student]["weak"]
            logits: Tensor = pair(a=weak, b=weak)[name]
            confidence, labels = logits.softmax(1).max(1)
            assert labeled[student]["labels"][2:].tolist() == labels[2:].tolist()
            assert torch.allclose(labeled[student]["confidence"][2:], confidence[2:], atol=1e-5)
            assert labeled[student]["labels"][:2].tolist() == [2, 2]
            assert labeled[student]["confidence"][:2].tolist() == [1, 1]
            assert torch.equal(labeled[student]["pixel_values"], made[student]["pixel_values"])
            assert "weak" not in labeled[student]


def test_the_teachers_statistics_and_mode_do_not_move() -> None:
    """Guards against updating the teacher's BatchNorm statistics with weak views, and against a student left in eval
    mode."""
    pair = make_pair("vit", "resnet")
    before = state_of(pair)
    pair.train()
    teach(pair, batch(), KNOBS)
    assert_same(state_of(pair), before)
    assert all(module.training for module in pair.modules())


@pytest.mark.parametrize("pixels", [False, True])
def test_threshold_and_padding(pixels: bool) -> None:
    """Guards against counting labels below the threshold or in the padding as valid, which reduces the share of all
    others."""
    pair = make_pair("segformer", "segformer") if pixels else make_pair()
    made = batch(pixels=pixels)
    everything = teach(pair, made, KNOBS)
    confidence = everything["a"]["confidence"][2:]
    threshold = float(confidence.median())
    labeled = teach(pair, made, Knobs(strategy="online", online_threshold=threshold))["a"]
    void = made["a"]["labels"][2:] == -100
    expected = torch.where((confidence > threshold) & ~void, everything["a"]["labels"][2:], -100)
    assert torch.equal(labeled["labels"][2:], expected)
    assert 0 < (expected != -100).sum() < expected.numel()
    assert torch.equal(labeled["labels"][:2], made["a"]["labels"][:2])


def test_the_loss_is_divided_by_the_labels_that_were_made(tmp_path: Path) -> None:
    """Guards against ignored online labels in the denominator, and against counts taken before the teacher has
    labeled."""
    trainer = make_trainer(
        tmp_path, strategy="online", label_ratios=[1.0], supervised_epochs=0, online_threshold=0.4, max_steps=1
    )
    seen: list[Any] = []
    inner = trainer.get_batch_samples

    def spy(*arguments: Any) -> Any:
        seen.append(inner(*arguments))
        return seen[-1]

    trainer.get_batch_samples = spy
    trainer.train()
    batches, counts = seen[0]
    for number, name in enumerate(("a", "b")):
        assert counts[number] == sum(int((part[name]["labels"] != -100).sum()) for part in batches)
    assert counts.min() >= 4  # the labeled ones


def test_weight_of_online_labels_rises_within_the_phase() -> None:
    """Guards against labels of an untrained teacher at full weight from the first step, and against a ramp that never
    ends."""
    knobs = resolve("dmt", "image-classification", {"strategy": "online"})
    assert knobs.unlabeled_ramp == 0.3
    weights = [pseudo_weight(knobs, step, 20) for step in range(20)]
    assert weights[0] < 0.05 and weights == sorted(weights) and weights[5:] == [1.0] * 15
    assert pseudo_weight(resolve("dmt", "image-classification", {}), 0, 20) == 1.0
    given = resolve("dmt", "image-classification", {"strategy": "online", "unlabeled_ramp": 0.0})
    assert pseudo_weight(given, 0, 20) == 1.0


@pytest.mark.parametrize("pixels", [False, True])
def test_views_for_teacher_and_student(tmp_path: Path, pixels: bool) -> None:
    """Guards against a teacher that sees the strong view, and against drawing labeled images twice."""
    pair = make_pair("segformer", "segformer") if pixels else make_pair()
    trainer = make_trainer(tmp_path, pair, strategy="online", label_ratios=[1.0], augmentation="strong", max_steps=1)
    trainer.train()
    differ = 0
    for draws in trainer.sampler:
        for pair_of_draws in draws:
            for draw in pair_of_draws:
                sample = trainer.train_dataset._sample(draw)
                if draw.is_pseudo:
                    differ += not torch.equal(sample["weak"], sample["pixel_values"])
                    assert sample["weak"].shape == sample["pixel_values"].shape
                else:
                    assert torch.equal(sample["weak"], sample["pixel_values"])
    assert differ


def test_pixel_views_differ_in_colors_only(tmp_path: Path) -> None:
    """Guards against drawing the geometry again for the teacher. The test images encode each pixel's position to show
    it."""
    made = scenes(4, void=False)
    for item in made:
        place = np.arange(256, dtype=np.uint8).reshape(16, 16)
        item["image"] = Image.fromarray(np.stack([place] * 3, axis=-1))
    trainer = make_trainer(
        tmp_path,
        make_pair("segformer", "segformer"),
        unlabeled=made,
        strategy="online",
        label_ratios=[1.0],
        augmentation="strong",
        max_steps=1,
    )
    trainer.train()
    compared = 0
    for pair_of_draws in next(iter(trainer.sampler)):
        for draw in pair_of_draws:
            if draw.is_pseudo:
                sample = trainer.train_dataset._sample(draw)
                valid = torch.as_tensor(sample["labels"] != -100)
                weak, strong = (sample[key].mean(dim=0)[valid] for key in ("weak", "pixel_values"))
                if strong.std() > 0.02 and weak.std() > 0.02:  # colors may fade
                    compared += 1
                    correlation = torch.corrcoef(torch.stack([weak, strong]))[0, 1]
                    assert correlation > 0.9
    assert compared >= 4


@pytest.mark.parametrize("members", [("vit", "resnet"), ("segformer", "segformer")])
def test_an_online_run(tmp_path: Path, members: tuple[str, str]) -> None:
    """Guards against storing labels that nobody reads, and against reporting several phases although there is one."""
    evaluation = (scenes if members[0] == "segformer" else images)(5, seed=3)
    trainer = make_trainer(
        tmp_path,
        make_pair(*members),
        evaluation=evaluation,
        method="cps",
        label_ratios=None,
        ema_decay=0.9,
        max_steps=2,
    )
    trainer.train()
    assert [(entry["phase"], entry["label_ratio"]) for entry in results(tmp_path)["phases"]] == [(0, None), (1, None)]
    assert not (tmp_path / "pseudo_labels").exists()
    assert all(entry["pseudo_labels"] is None for entry in results(tmp_path)["phases"])
