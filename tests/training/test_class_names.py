"""Opening models for a run's data: whose class names count."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import make_pair
from transformers import ViTConfig

from hf_dmt import DMTTrainingArguments
from hf_dmt.commands.opening import look_up_models
from hf_dmt.commands.train import run
from hf_dmt.hub.config_file import class_names_of
from hf_dmt.training.settings.command_line import ModelArguments


def test_classes_of_ones_own_are_not_the_first_ones_of_the_checkpoints(tmp_path: Path) -> None:
    """Guards against giving a user's six unnamed classes the names of two ImageNet checkpoints: the pair got 1,000
    classes, and the report called glass "tench" and paper "goldfish"."""
    args = DMTTrainingArguments(output_dir=str(tmp_path / "run"))
    names = ["tench", "goldfish", "great white shark", "tiger shark"]
    for name in "ab":
        ViTConfig(id2label=dict(enumerate(names))).save_pretrained(tmp_path / name)
    models = ModelArguments(model_a=str(tmp_path / "a"), model_b=str(tmp_path / "b"))
    known = look_up_models(models, args).classes
    assert known(3) is None and known(5) is None
    assert known(4) == names
    ViTConfig(id2label=dict(enumerate(names[::-1]))).save_pretrained(tmp_path / "b")
    assert look_up_models(models, args).classes(4) is None, "the checkpoints disagree"


def test_a_pair_that_is_trained_further_knows_its_classes(tmp_path: Path) -> None:
    """When a pair is trained further, a class without new labels must be kept; otherwise it would be dropped and the
    head with it."""
    pair = make_pair()
    pair.save_pretrained(tmp_path / "pair")
    args = DMTTrainingArguments(output_dir=str(tmp_path / "run"))
    models = ModelArguments(pair=str(tmp_path / "pair"))
    classes = len(pair.class_names)
    (tmp_path / "pair" / "model.safetensors").unlink()  # names need no weights
    known = look_up_models(models, args).classes
    assert known(classes - 1) == pair.class_names
    assert known(classes + 1) is None
    models.task = "semantic-segmentation"
    with pytest.raises(ValueError, match=r"is for image-classification.* Pass `task=image-classification`"):
        look_up_models(models, args)
    assert class_names_of(ViTConfig(num_labels=2).to_diff_dict()) == ["LABEL_0", "LABEL_1"], "which no file lists"


def test_a_mistyped_model_is_reported_before_the_images_are_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against reading a large folder for minutes before a mistyped model id is reported. `--check` must report
    both faults at once."""
    out, images = str(tmp_path / "run"), str(tmp_path / "no images")
    for flags in (["--model_a", "me/mistyped", "--model_b", "tiny:resnet"], ["--model_a", "tiny:vitt"]):
        given = ["--model_b", "tiny:resnet", *flags, "--dataset_name", images, "--output_dir", out]
        assert run(given) == 2
        said = capsys.readouterr().err
        assert flags[1] in said and "no images" not in said
        assert run([*given, "--check"]) == 1
        said = " ".join(capsys.readouterr().out.split())  # not wrapped
        assert flags[1] in said and "no images" in said
