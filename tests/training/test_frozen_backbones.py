"""`--freeze_backbone` through whole runs: the heads learn, nothing else moves, whatever else is switched on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import (
    IMAGES,
    PIXELS,
    assert_same,
    config,
    images,
    make_pair,
    make_trainer,
    processor,
    scenes,
    state_of,
)
from transformers import AutoModelForImageClassification

from hf_dmt import ModelPair

BACKBONES = {
    "vit": "vit.", "swin": "swin.", "resnet": "resnet.", "segformer": "segformer."
}  # fmt: skip


def parts(state: dict[str, torch.Tensor], members: tuple[str, str], *, backbone: bool) -> dict[str, torch.Tensor]:
    """The tensors of both backbones, or all others."""
    prefixes = tuple(f"model_{name}.{BACKBONES[kind]}" for name, kind in zip("ab", members, strict=True))
    return {key: value for key, value in state.items() if key.startswith(prefixes) is backbone}


@pytest.mark.parametrize(
    ("members", "settings"),
    [
        pytest.param(("vit", "resnet"), {}, marks=pytest.mark.slow),  # every other one is this with more switched on
        (("vit", "resnet"), {"ema_decay": 0.5, "mixup_alpha": 0.75}),
        (("vit", "swin"), {"strategy": "online", "label_ratios": None}),
        (("vit", "swin"), {"exchange": "sequential", "learning_rate_b": 1e-3}),
        (("vit", "resnet"), {"restart": "initial", "weight_decay": 0.1, "official": True}),
        (("segformer", "segformer"), {"gradient_checkpointing": True}),
    ],
    ids=["plain", "averages-and-mixup", "online", "sequential", "initial-and-decay", "pixels"],
)
def test_the_backbone_does_not_move_and_the_head_does(
    tmp_path: Path, members: tuple[str, str], settings: dict[str, Any]
) -> None:
    """Guards against weight decay or BatchNorm that changes a frozen backbone, a head that is frozen with it, and an
    EMA or a saved file that holds another backbone."""
    pair = make_pair(*members, dropout=0.3)
    first = state_of(pair)
    evaluation = (scenes if pair.task == PIXELS else images)(6, seed=3)
    trainer = make_trainer(tmp_path, pair, evaluation=evaluation, freeze_backbone=True, max_steps=2, **settings)
    trainer.train()
    last = state_of(pair)
    assert_same(parts(last, members, backbone=True), parts(first, members, backbone=True))
    heads = [key for key, value in parts(last, members, backbone=False).items() if value.is_floating_point()]
    assert heads and all(not torch.equal(last[key], first[key]) for key in heads)
    if trainer.weights.ema is not None:
        assert_same(parts(trainer.weights.ema.state, members, backbone=True), parts(first, members, backbone=True))
    exported = state_of(ModelPair.from_pretrained(trainer.export()))
    assert_same(parts(exported, members, backbone=True), parts(first, members, backbone=True))
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in pair.parameters() if parameter.requires_grad}, "optimizer state"
    assert json.loads((tmp_path / "dmt_results.json").read_text())["settings"]["train"] == "head"


def test_initial_restart_redraws_the_head_of_a_loaded_member(tmp_path: Path) -> None:
    """After a restart, the frozen backbone must be unchanged, and the head must differ from that of the previous
    phase and be the one that the optimizer updates."""
    for kind in ("vit", "swin"):
        AutoModelForImageClassification.from_config(config(kind)).save_pretrained(tmp_path / kind)
        processor(kind).save_pretrained(tmp_path / kind)
    pair = ModelPair.from_models(tmp_path / "vit", tmp_path / "swin", id2label={0: "red", 1: "green", 2: "blue"})
    first = state_of(pair)
    trainer = make_trainer(tmp_path / "run", pair, freeze_backbone=True, restart="initial", save_strategy="epoch")
    trainer.train()
    assert_same(parts(state_of(pair), ("vit", "swin"), backbone=True), parts(first, ("vit", "swin"), backbone=True))
    saved = [load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors") for step in (5, 8)]
    assert not torch.equal(saved[0]["classifier.weight"], saved[1]["classifier.weight"])
    assert torch.equal(state_of(pair)["model_a.classifier.weight"], saved[1]["classifier.weight"])
    updated = {id(parameter) for parameter in trainer.optimizer.state}
    assert updated == {id(parameter) for parameter in pair.parameters() if parameter.requires_grad}


def test_no_activations_are_kept_for_a_frozen_backbone(tmp_path: Path) -> None:
    """Guards against an autograd graph through the backbone, which needs the memory that freezing should save."""
    kept: dict[bool, int] = {}
    for frozen in (False, True):
        pair = make_pair("vit", "resnet")
        trainer = make_trainer(tmp_path, pair, freeze_backbone=frozen)
        trainer.model.train()
        sizes: list[int] = []
        view = torch.rand(4, 3, 8, 8)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            pair(a=view, b=view)
        kept[frozen] = sum(sizes)
    assert kept[True] < kept[False] / 20


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_off_is_off(tmp_path: Path, task: str) -> None:
    """Guards against freezing by default."""
    pair = make_pair(*(("segformer", "segformer") if task == PIXELS else ("vit", "resnet")))
    make_trainer(tmp_path, pair)
    assert all(parameter.requires_grad for parameter in pair.parameters()) and not pair.resting


def test_layers_learn_at_their_own_rates_and_parts_rest(tmp_path: Path) -> None:
    """Guards against a single optimizer group that ignores the layer decay, and against training the backbone of b
    although only that of a should be trained."""
    pair = make_pair("vit", "swin")
    first = state_of(pair)
    trainer = make_trainer(tmp_path, pair, layer_decay=0.5, train_b="head", learning_rate=1e-3, learning_rate_b=2e-3)
    trainer.train()
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    blocks = {1e-3 * 0.5**depth for depth in range(len(rates) - 1)}
    assert rates == blocks | {2e-3} and len(rates) > 3 and trainer.optimizer.param_groups[0]["initial_lr"] == 1e-3
    last = state_of(pair)
    still = {key for key in last if torch.equal(last[key], first[key])}
    assert still == {key for key in last if key.startswith("model_b.swin.")}
