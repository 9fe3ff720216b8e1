"""Phases that start from the initial weights again: the backbone is restored, the head is drawn again from its seed."""

from __future__ import annotations

import pytest
import torch

from hf_dmt.data.members import MEMBERS
from hf_dmt.models import heads
from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.pair import ModelPair
from hf_dmt.models.weights.initial_weights import InitialWeights

NAMES = {0: "x", 1: "y", 2: "z"}


def states(pair: ModelPair) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {key: value.clone() for key, value in pair.member(name).state_dict().items()} for name in MEMBERS}


def train(pair: ModelPair) -> None:
    """Change every floating-point tensor, BatchNorm statistics too."""
    with torch.no_grad():
        for value in pair.state_dict().values():
            if value.is_floating_point():
                value.add_(0.5)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


def test_pretrained_backbone_comes_back_and_the_head_is_new(checkpoint, tmp_path):
    """Guards against a head kept over the restart, which carries the previous phase's labels on, and against a redrawn
    backbone, which loses its pretraining."""
    pair = ModelPair.from_models(checkpoint("vit", seed=3), checkpoint("resnet", seed=4), id2label=NAMES)
    first = states(pair)
    initial = InitialWeights(pair, tmp_path / "initial", resumed=False, writes=True)
    train(pair)
    parameters = list(pair.parameters())
    initial.restore(pair, [1, 2])
    after = states(pair)
    for name in MEMBERS:
        assert changed(first[name], after[name]) <= heads.class_tensors(pair.member(name))
    assert "classifier.weight" in changed(first["a"], after["a"])
    assert "classifier.1.weight" in changed(first["b"], after["b"])
    assert all(old is new for old, new in zip(parameters, pair.parameters(), strict=True)), "the optimizer's parameters"


def test_from_scratch_weights_are_all_redrawn(tmp_path):
    """Without pretraining, every phase is a new network. Guards against one that starts from phase 0's weights and so
    is not independent of it."""
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=NAMES)
    first = states(pair)
    initial = InitialWeights(pair, tmp_path / "initial", resumed=False, writes=True)
    initial.restore(pair, [1, 2])
    after = states(pair)
    for name in MEMBERS:
        matrices = {key for key, value in first[name].items() if value.ndim > 1}
        assert matrices <= changed(first[name], after[name])


def test_draws_depend_on_the_seeds_alone(tmp_path):
    """The initial weights of a phase must be the same after a resume, whatever was drawn before."""
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=NAMES)
    initial = InitialWeights(pair, tmp_path / "initial", resumed=False, writes=True)
    seen = []
    for seeds in ([1, 2], [1, 2], [1, 3]):
        torch.rand(5)
        before = torch.get_rng_state()
        initial.restore(pair, seeds)
        assert torch.equal(torch.get_rng_state(), before)
        train(pair)
        seen.append(states(pair))
    assert not changed(seen[0]["a"], seen[1]["a"]) and not changed(seen[0]["b"], seen[1]["b"])
    assert not changed(seen[0]["a"], seen[2]["a"]) and changed(seen[0]["b"], seen[2]["b"])


def test_resumed_run_has_the_first_weights_not_its_own(checkpoint, tmp_path):
    """Guards against a resumed process that saves its trained weights as the initial ones."""
    sources = checkpoint("vit", seed=3), checkpoint("resnet", seed=4)
    pair = ModelPair.from_models(*sources, id2label=NAMES)
    initial = InitialWeights(pair, tmp_path / "initial", resumed=False, writes=True)
    initial.restore(pair, [1, 2])
    expected = states(pair)
    resumed = ModelPair.from_models(*sources, id2label=NAMES)
    train(resumed)
    again = InitialWeights(resumed, tmp_path / "initial", resumed=True, writes=True)
    again.restore(resumed, [1, 2])
    assert not any(changed(expected[name], state) for name, state in states(resumed).items())


def test_opened_pair_keeps_what_it_has_learned(tmp_path):
    """A pair opened from disk counts as pretrained, even if it was once trained from scratch: only its heads are drawn
    again."""
    ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=NAMES).save_pretrained(tmp_path / "pair")
    pair = ModelPair.from_pretrained(tmp_path / "pair")
    first = states(pair)
    InitialWeights(pair, tmp_path / "initial", resumed=False, writes=True).restore(pair, [1, 2])
    for name, state in states(pair).items():
        assert changed(first[name], state) <= heads.class_tensors(pair.member(name))


def test_other_processes_write_nothing(tmp_path):
    """Only the main process may write: two processes that write one file corrupt it."""
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=NAMES)
    InitialWeights(pair, tmp_path / "initial", resumed=False, writes=False)
    assert not (tmp_path / "initial").exists()


def test_resume_without_the_folder_says_so(tmp_path):
    """A missing folder of initial weights must be reported before training, not at the next phase hours later."""
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=NAMES)
    with pytest.raises(CheckpointError, match="every phase of this run starts from"):
        InitialWeights(pair, tmp_path / "initial", resumed=True, writes=True)
