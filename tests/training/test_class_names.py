"""Opening models for a run's data: whose class names count."""

from __future__ import annotations

from pathlib import Path

from small_runs import make_pair
from transformers import ViTConfig

from hf_dmt import DMTTrainingArguments
from hf_dmt.commands.opening import common_classes
from hf_dmt.training.settings.command_line import ModelArguments


def test_classes_of_ones_own_are_not_the_first_ones_of_the_checkpoints(tmp_path: Path) -> None:
    """Silent: six unnamed classes of one's own and two ImageNet checkpoints became a pair of 1,000 classes, whose
    report called glass "tench" and paper "goldfish"."""
    args = DMTTrainingArguments(output_dir=str(tmp_path / "run"))
    names = ["tench", "goldfish", "great white shark", "tiger shark"]
    for name in "ab":
        ViTConfig(id2label=dict(enumerate(names))).save_pretrained(tmp_path / name)
    models = ModelArguments(model_a=str(tmp_path / "a"), model_b=str(tmp_path / "b"))
    assert common_classes(models, args, 3) is None and common_classes(models, args, 5) is None
    assert common_classes(models, args, 4) == names
    ViTConfig(id2label=dict(enumerate(names[::-1]))).save_pretrained(tmp_path / "b")
    assert common_classes(models, args, 4) is None, "the checkpoints disagree"


def test_a_pair_that_is_trained_further_knows_its_classes(tmp_path: Path) -> None:
    """Silent: a class without a new label this time would be dropped, and the head with it."""
    pair = make_pair()
    pair.save_pretrained(tmp_path / "pair")
    args = DMTTrainingArguments(output_dir=str(tmp_path / "run"))
    models = ModelArguments(pair=str(tmp_path / "pair"))
    classes = len(pair.class_names)
    assert common_classes(models, args, classes - 1) == pair.class_names
    assert common_classes(models, args, classes + 1) is None
