"""`--phase_weights best`: a phase ends with each member's best weights on the eval split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import (
    assert_same,
    images,
    make_pair,
    make_trainer,
    results,
    scenes,
    state_of,
    telemetry,
)

from hf_dmt import DMTTrainer, ModelPair
from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.weights.best_weights import BEST_FILE, BestMembers
from hf_dmt.training.labeling.label_pass import weights_hash

LOOKS = {"phase_weights": "best", "eval_strategy": "steps", "eval_steps": 1}


def shifted(pair: ModelPair, by: float) -> ModelPair:
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(by)
    return pair


def test_each_member_has_its_own_best_look(tmp_path: Path) -> None:
    """Guards against choosing one update for both models, the least trained of equal scores, or comparing with the best
    score of an earlier phase, which no later evaluation may reach; also after saving and loading."""
    pair = make_pair("vit", "resnet")
    best, states = BestMembers(), []
    for scores in ({"a": 0.5, "b": 0.9}, {"a": 0.7, "b": 0.2}, {"a": 0.7, "b": 0.3}, {"a": 0.1, "b": 0.1}):
        states.append(state_of(shifted(pair, 0.1)))
        best.update(pair, scores)
    best.save(tmp_path)
    again = BestMembers()
    again.load(tmp_path)
    for kept in (best, again):
        kept.restore(shifted(pair, 5.0))
        expected = {key: states[2 if key.startswith("model_a") else 0][key] for key in states[0]}
        assert_same(state_of(pair), expected)
        assert not kept.scores
    shifted(pair, 1.0)
    later = state_of(pair)
    best.update(pair, {"a": 0.0, "b": 0.0})
    best.restore(shifted(pair, 5.0))
    assert_same(state_of(pair), later)


@pytest.mark.parametrize("content", [b"", b"x" * 64])
def test_a_damaged_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    """A damaged file must be an error; otherwise a resumed phase loses its best weights and ends with worse ones."""
    (tmp_path / BEST_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="Resume from another checkpoint"):
        BestMembers().load(tmp_path)


@pytest.mark.parametrize(
    ("task", "ema_decay"),
    [
        ("image-classification", 0.5),
        ("semantic-segmentation", 0.0),
        pytest.param("image-classification", 0.0, marks=pytest.mark.slow),
        pytest.param("semantic-segmentation", 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_phase_ends_labels_and_exports_with_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, ema_decay: float
) -> None:
    """Guards against the last weights in the results, the export, the next phase's labels or the checkpoint although
    the setting says best; with EMA, against the live weights instead of the averaged ones that were scored."""
    pixels = task == "semantic-segmentation"
    metric = "mean_iou" if pixels else "accuracy"
    evaluation = scenes(8, seed=3) if pixels else images(24, seed=3)
    if not pixels:  # noise, on which predictions never settle
        for row, item in enumerate(evaluation):
            item["image"] = Image.fromarray(np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    used: list[str] = []
    begin = DMTTrainer.begin_phase

    def spy(trainer: DMTTrainer) -> None:
        with trainer.weights.for_inference():
            used.append(weights_hash(trainer.model))
        begin(trainer)

    monkeypatch.setattr(DMTTrainer, "begin_phase", spy)
    trainer = make_trainer(
        tmp_path,
        make_pair(*(("segformer", "segformer") if pixels else ("vit", "resnet"))),
        evaluation=evaluation,
        learning_rate=5e-2,
        supervised_epochs=4,
        phase_epochs=3,
        ema_decay=ema_decay,
        save_strategy="epoch",
        augmentation=None if pixels else "weak",
        **LOOKS,
    )
    trainer.train()
    looks = [line for line in telemetry(tmp_path) if f"eval_a_{metric}" in line]
    better = 0
    for entry in results(tmp_path)["phases"]:
        of_phase = [line for line in looks if line["phase"] == entry["phase"]]
        assert len(of_phase) >= entry["steps"]
        for name in "ab":
            scores = [line[f"eval_{name}_{metric}"] for line in of_phase[: entry["steps"]]]
            assert entry["eval"][name][metric] == pytest.approx(max(scores))
            better += max(scores) > scores[-1]
    assert better, "this test needs a phase whose last weights are not its best"
    ends = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
    made_by = [weights_hash(ModelPair.from_pretrained(tmp_path / f"checkpoint-{end}")) for end in ends]
    assert used[1:] == made_by[:-1], "labels are of other weights than the checkpoint of the phase before"
    assert not list(tmp_path.glob(f"checkpoint-*/{BEST_FILE}"))
    exported = ModelPair.from_pretrained(trainer.export(tmp_path / "pair"))
    assert weights_hash(exported) == made_by[-1]
    assert trainer.evaluate()[f"eval_a_{metric}"] == pytest.approx(results(tmp_path)["phases"][-1]["eval"]["a"][metric])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"evaluation": None, "eval_strategy": "no"}, "there is no eval_dataset"),
        ({"eval_strategy": "epoch"}, "eval_strategy is 'epoch'"),
    ],
    ids=["no eval", "one look"],
)
def test_what_leaves_nothing_to_choose_is_refused(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    """Guards against `best` always keeping the last weights."""
    given = {"evaluation": images(6, seed=3), **LOOKS, **settings}
    with pytest.raises(ValueError, match=says):
        make_trainer(tmp_path, **given)
