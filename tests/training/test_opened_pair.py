"""`DMTTrainer` from two names: the pair is built for the classes of the data."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image
from small_runs import SETTINGS, images, scenes

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair


def arguments(folder: Path) -> DMTTrainingArguments:
    return DMTTrainingArguments(output_dir=str(folder), **SETTINGS)


def labeled() -> Dataset:
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["owl", "ant"])})
    rows = {"image": [Image.new("RGB", (8, 8), color) for color in ("red", "blue") * 4], "label": [0, 1] * 4}
    return Dataset.from_dict(rows, features=features)


def test_classes_come_from_the_data_set(tmp_path: Path) -> None:
    """Guards against heads for the classes of a checkpoint, and against class names in another order than the
    labels."""
    trainer = DMTTrainer(("tiny:vit", "tiny:resnet"), arguments(tmp_path), labeled(), unlabeled_dataset=images(4))
    assert isinstance(trainer.model, ModelPair) and trainer.model.class_names == ["owl", "ant"]
    assert trainer.model.task == "image-classification"
    trainer.model.save_pretrained(tmp_path / "pair")
    again = DMTTrainer(tmp_path / "pair", arguments(tmp_path / "more"), labeled(), unlabeled_dataset=images(4))
    assert again.model.class_names == ["owl", "ant"]


def test_what_names_cannot_say(tmp_path: Path) -> None:
    """Images or masks without class names, and three models instead of two, must be refused."""
    with pytest.raises(ValueError, match="give id2label="):
        DMTTrainer(("tiny:vit", "tiny:resnet"), arguments(tmp_path), images(4), unlabeled_dataset=images(4))
    with pytest.raises(ValueError, match="3 were given"):
        DMTTrainer(("tiny:vit",) * 3, arguments(tmp_path), labeled(), unlabeled_dataset=images(4))
    with pytest.raises(ValueError, match="give id2label="):
        DMTTrainer(("tiny:vit", "tiny:vit"), arguments(tmp_path), scenes(4), unlabeled_dataset=images(4))
