"""Overflowing updates and collapsing labels: nothing is corrupted, and everything is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    images,
    make_pair,
    make_trainer,
    results,
    scenes,
    state_of,
    telemetry,
    without_batch_statistics,
)
from torch import nn
from transformers import TrainerCallback

from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.models.pair import ModelPair
from hf_dmt.training.labeling.collapse_signs import Signs, alarms, same_labels
from hf_dmt.training.run.runtime_errors import RunError


def poison(pair: ModelPair, name: str, trainer: Any, updates: set[int]) -> None:
    """Makes a model's first layer return NaN in some updates (counted from 0), as an overflow does; BatchNorm sees
    it."""
    layer = next(module for module in pair.member(name).modules() if isinstance(module, nn.Conv2d))

    def overflow(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        return output * torch.nan if module.training and trainer.state.global_step in updates else None

    layer.register_forward_hook(overflow)


class States(TrainerCallback):
    """The pair's state after every update."""

    def __init__(self, pair: ModelPair) -> None:
        self.pair, self.after = pair, [state_of(pair)]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.after.append(state_of(self.pair))


@pytest.mark.parametrize(
    ("clipped", "optim"),
    [
        (1.0, "adamw_torch_fused"),
        (0.0, "adamw_torch_fused"),
        (0.0, "adamw_torch"),
        (1.0, "sgd"),
        pytest.param(1.0, "adamw_torch", marks=pytest.mark.slow),
        pytest.param(0.0, "sgd", marks=pytest.mark.slow),
    ],
)
def test_an_overflow_in_one_member_changes_neither(tmp_path: Path, optim: str, clipped: float) -> None:
    """Guards against NaN in one model's weights, moments or BatchNorm statistics, which its next labels spread to the
    other.

    With and without clipping, which usually computes the norms; fused optimizers read the overflow flag on the device.
    """
    pair = make_pair("resnet", "vit")
    seen = States(pair)
    trainer = make_trainer(
        tmp_path,
        pair,
        callbacks=[seen],
        optim=optim,
        max_grad_norm=clipped,
        ema_decay=0.9,
        evaluation=images(6, seed=3),
    )
    poison(pair, "a", trainer, {1, 6})
    trainer.train()
    unchanged = {key for key, value in seen.after[1].items() if torch.equal(value, seen.after[2][key])}
    counters = {key for key in seen.after[1] if key.endswith("num_batches_tracked")}
    assert unchanged == seen.after[1].keys() - counters
    assert all(value.isfinite().all() for value in [*state_of(pair).values(), *trainer.weights.ema.state.values()])
    moved = [key for key, value in seen.after[2].items() if not torch.equal(value, seen.after[3][key])]
    assert any("model_a" in key for key in moved) and any("model_b" in key for key in moved), "the next update counts"
    assert [entry.get("skipped_updates", 0) for entry in results(tmp_path)["phases"]] == [1, 0, 1]
    assert sum(line.get("skipped_updates", 0) for line in telemetry(tmp_path)) == 2
    losses = [line[key] for line in telemetry(tmp_path) for key in ("loss", "a/loss") if key in line]
    assert len(losses) > 2 and np.isfinite(losses).all(), "a skipped update does not hide the others"


def test_too_many_in_a_row_end_the_run_and_name_the_images(tmp_path: Path) -> None:
    """Guards against a run that skips every update to its end and exports the weights it started with."""
    pair = make_pair("resnet", "vit")
    trainer = make_trainer(tmp_path, pair, max_skipped_updates=2, logging_steps=1)
    poison(pair, "a", trainer, {5, 6, 7})
    drawn: list[Any] = []
    sample = trainer.train_dataset._sample

    def noted(draw: Any) -> Any:
        drawn.append((trainer.state.global_step, draw))
        return sample(draw)

    trainer.train_dataset._sample = noted
    with pytest.raises(RunError, match=r"last 2 updates.*skipped_batches\.json.*`learning_rate`"):
        trainer.train()
    listed = json.loads((tmp_path / "skipped_batches.json").read_text())
    assert [entry["update"] for entry in listed] == [6, 7]
    assert all(len(entry[name]) == 8 for entry in listed for name in "ab")
    rows = {f"{'unlabeled' if draw.is_pseudo else 'labeled'} {draw.row}" for _, draw in drawn}
    assert {name for entry in listed for member in "ab" for name in entry[member]} <= rows


def counts(**of: list[int]) -> dict[str, list[int]]:
    return {"a": of.get("a", [10, 10, 10, 10]), "b": of.get("b", [10, 10, 10, 10])}


@pytest.mark.parametrize(
    ("now", "first", "said"),
    [
        (Signs(counts()), Signs(counts()), []),
        (Signs(counts(a=[40, 30, 20, 10])), Signs(counts(a=[4, 3, 2, 1])), []),
        (Signs(counts(a=[95, 2, 2, 1])), Signs(counts(a=[90, 5, 4, 1])), []),  # road scenes: mostly road from the start
        (Signs(counts(b=[20, 20, 0, 0])), Signs(counts()), ["b predicts only 2 of the 4 classes"]),
        (Signs(counts(a=[30, 5, 4, 1])), Signs(counts()), ["Class 'road' is taking over: 75%"]),
        (Signs(counts(a=[0, 40, 0, 0])), None, ["a labels everything as 'tree'"]),
        (Signs(counts(), same=True), Signs(counts()), ["neither can correct the other"]),
        (Signs(counts(), overruled={"a": 0.1, "b": 0.8}), Signs(counts()), ["b overrules 80%"]),
    ],
)
def test_alarms(now: Signs, first: Signs | None, said: list[str]) -> None:
    """Guards against classes that vanish phase by phase while confidences rise, and against alarms for every imbalanced
    data set."""
    found = [" ".join(pair) for pair in alarms(now, first, ["road", "tree", "sky", "car"])]
    assert len(found) == len(said) and all(text in line for text, line in zip(said, found, strict=True))
    assert all("`" in line for line in found), "an alarm says what to try"


def test_same_labels() -> None:
    """Guards against two copies of one model that train each other, and against taking good models that agree for
    copies."""
    labels, selected = np.arange(50) % 3, np.ones(50, dtype=bool)
    sure = np.linspace(0.9, 0.9999, 50).astype(np.float32)
    one = ImageLabels(labels, sure, selected)
    assert same_labels(one, ImageLabels(labels, sure, selected), 50)
    assert not same_labels(one, ImageLabels(labels, 1 - (1 - sure) * np.float32(1.3), selected), 50)
    assert not same_labels(one, ImageLabels((labels + 1) % 3, sure, selected), 50)
    certain = ImageLabels(labels, np.ones_like(sure), selected)
    assert not same_labels(certain, certain, 50)


@pytest.mark.parametrize("kind", ["vit", "segformer"])
def test_two_copies_of_one_model_are_noticed(tmp_path: Path, kind: str) -> None:
    """Guards against giving one checkpoint with one head twice, in a run that looks like any other."""
    pair = without_batch_statistics(make_pair(kind, kind))
    pair.model_b.load_state_dict(pair.model_a.state_dict())
    trainer = make_trainer(
        tmp_path,
        pair,
        learning_rate=0.0,
        label_ratios=[1.0],
        unlabeled=(scenes if kind == "segformer" else images)(12, seed=1),
        augmentation=None if kind == "segformer" else "weak",
    )
    trainer.train()
    assert any("neither can correct" in line for line in results(tmp_path)["phases"][1]["alarms"])


class Break(TrainerCallback):
    """Breaks the head of a at the end of a phase: it predicts class 0 for everything."""

    def __init__(self, pair: ModelPair, update: int) -> None:
        self.pair, self.update = pair, update

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.update:
            with torch.no_grad():
                self.pair.model_a.classifier.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))


def test_alarms_are_recorded_and_kept_over_a_resume(tmp_path: Path) -> None:
    """Guards against a run that ends with a pair that predicts only one class and does not record, after a resume, when
    that began."""
    settings: dict[str, Any] = {"supervised_epochs": 20, "save_strategy": "steps"}
    ends = np.cumsum([phase.steps for phase in make_trainer(tmp_path / "probe", **settings).phases])
    settings["save_steps"] = int(ends[1]) + 1
    pair = make_pair()
    make_trainer(tmp_path / "run", pair, callbacks=[Break(pair, int(ends[1]))], **settings).train()
    expected = results(tmp_path / "run")["phases"]
    begins = [
        any("taking over" in line or "vanishing" in line for line in entry.get("alarms", ())) for entry in expected
    ]
    assert begins == [False, False, True]
    again = make_pair()
    trainer = make_trainer(tmp_path / "run", again, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{ends[1] + 1}"))
    found = results(tmp_path / "run")["phases"][2]
    for key in ("label_ratio", "alarms", "eval"):
        assert found[key] == expected[2][key], key
    assert all(torch.equal(value, pair.state_dict()[key]) for key, value in again.state_dict().items())
