"""The built-in models: stock architectures that run at every size a user may ask for."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import pipeline

from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.networks import tiny

CLASSES = {0: "ant", 1: "bee", 2: "cat"}
NAMES = sorted(tiny.TASK_OF)


def member(name: str, *, side: int = tiny.DEFAULT_SIDE, seed: int = 0):
    return tiny.tiny_member(name, tiny.TASK_OF[name], CLASSES, side=side, seed=seed)


# Every name at the smallest and at an odd side. DeepLab's odd sides are in test_paper_networks.py.
USUAL = [(name, side) for name in NAMES for side in (16, 50) if (name, side) != ("paper:deeplab-v2", 50)]
MORE = [(name, side) for name in NAMES for side in (32, 50, 64, 96) if (name, side) not in USUAL]


@pytest.mark.parametrize(("name", "side"), [*USUAL, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)])
def test_runs_and_learns_at_any_side(name, side):
    """Guards against one stride too many: no pixel is left, or BatchNorm refuses the training batch, after minutes of
    data loading."""
    model, processor = member(name, side=side)
    model.train()
    inputs = processor([torch.zeros(3, side, side, dtype=torch.uint8)] * 2, return_tensors="pt")["pixel_values"]
    assert inputs.shape[-2:] == (side, side)
    logits = model(pixel_values=inputs).logits
    assert logits.shape[:2] == (2, 3)
    logits.square().mean().backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_seed_alone(name):
    """Guards against weights from the global random state, which differ between processes, and against equal weights
    for a and b, which make the method pointless."""
    before = torch.get_rng_state()
    first, again, other = (member(name, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tiny:")])
def test_is_small(name):
    """Guards against a demo that takes minutes longer than it says: nobody would try it again."""
    assert member(name)[0].num_parameters() < 2_000_000


def test_opens_as_any_checkpoint(tmp_path):
    """Guards against a configuration without the classes: `pipeline()` would answer LABEL_0."""
    model, processor = member("tiny:resnet")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    classify = pipeline("image-classification", str(tmp_path))
    assert {entry["label"] for entry in classify(Image.new("RGB", (20, 30)), top_k=3)} == set(CLASSES.values())


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("tiny:vti", "image-classification", "Unknown embedded model 'tiny:vti'.*tiny:vit, tiny:resnet"),
        ("tiny:", "semantic-segmentation", "Unknown embedded model.*tiny:segformer"),
        (
            "tiny:vit",
            "semantic-segmentation",
            "'tiny:vit' is an embedded model for image-classification.*tiny:segformer",
        ),
        ("tiny:upernet", "image-classification", "not for image-classification. Use one of: .*tiny:vit, tiny:resnet"),
    ],
)
def test_unknown_name_or_other_task_lists_what_there_is(name, task, message):
    """A typo must be answered with the names that exist for this task."""
    with pytest.raises(CheckpointError, match=message):
        tiny.tiny_member(name, task, CLASSES, side=32, seed=0)
