"""Infinite or NaN weights are refused in labeling, scoring, checkpoints and exports, and when a pair is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import images, make_pair, make_trainer, scenes
from torch import nn

from hf_dmt import DMTTrainer, ModelPair
from hf_dmt.models.finite import nonfinite_tensors
from hf_dmt.models.loading import CheckpointError
from hf_dmt.training.run.runtime_errors import RunError

KINDS = {"images": ("vit", "resnet"), "pixels": ("segformer", "segformer")}


def spoil(pair: ModelPair, value: float = torch.nan, *, statistics: bool = False) -> ModelPair:
    """Changes one number of model b, which the scores of a do not show."""
    named = pair.model_b.named_buffers() if statistics else pair.model_b.named_parameters()
    with torch.no_grad():
        next(tensor for _, tensor in named if tensor.is_floating_point()).view(-1)[0] = value
    return pair


DOORS: dict[str, Callable[[DMTTrainer, Path], Any]] = {
    "evaluation": lambda trainer, folder: trainer.evaluate(),
    "labeling": lambda trainer, folder: trainer.weights.for_inference().__enter__(),
    "export": lambda trainer, folder: trainer.export(folder / "exported"),
    "save_model": lambda trainer, folder: trainer.save_model(str(folder / "saved")),
    "checkpoint": lambda trainer, folder: trainer._save_checkpoint(trainer.model, None),
    "save_pretrained": lambda trainer, folder: trainer.model.save_pretrained(folder / "pair"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("kind", "value", "statistics"),
    [("images", torch.nan, False), ("images", torch.inf, True), ("pixels", -torch.inf, False)],
)
def test_no_door_lets_them_through(tmp_path: Path, door: str, kind: str, value: float, statistics: bool) -> None:
    """Guards against "accuracy 33 %" for a model that always predicts the first class, and against exporting its
    weights."""
    pixels = kind == "pixels"
    trainer = make_trainer(tmp_path / "run", make_pair(*KINDS[kind]), evaluation=(scenes if pixels else images)(3))
    spoil(trainer.model, value, statistics=statistics)
    with pytest.raises(ValueError, match=r"infinite or NaN|infinities or NaNs"):
        DOORS[door](trainer, tmp_path)
    assert not any(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("further", [{"ema_decay": 0.9}, {"method": "supervised", "save_strategy": "no"}])
def test_a_rate_that_is_far_too_large_ends_the_run(tmp_path: Path, further: dict[str, Any]) -> None:
    """Guards against exit code 0 and a published pair whose weights are all infinite."""
    trainer = make_trainer(tmp_path, learning_rate=1e38, evaluation=images(6), **{"save_strategy": "epoch", **further})
    with pytest.raises(RunError, match=r"(?s)diverged.*infinite or NaN.*learning_rate"):
        trainer.train()
    assert not any(tmp_path.rglob("model.safetensors")) and not (tmp_path / "dmt_config.json").exists()


def test_a_pair_on_disk_is_not_believed(tmp_path: Path) -> None:
    """Guards against a diverged pair from the Hub that is opened, labels images and is trained further."""
    make_pair("vit", "resnet").save_pretrained(tmp_path, primary="a")
    file = tmp_path / "peer" / "model.safetensors"
    tensors = load_file(file)
    next(tensor for name, tensor in tensors.items() if name.endswith("running_var")).view(-1)[0] = torch.inf
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"peer' contain infinities or NaNs \(1 tensor, such as '.*running_var'"):
        ModelPair.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"infinite or NaN|infinities or NaNs"):
        make_pair("vit", "resnet").load_weights(tmp_path)


def test_large_sums_are_no_infinities() -> None:
    """Guards against refusing finite weights because their sum is too large for its type."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(torch.finfo(torch.float32).max)
    assert nonfinite_tensors(layer) == []
