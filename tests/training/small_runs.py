"""Pairs of tiny models, tiny image sets and short runs for the tests of training.

Used by the tests and, as a plain module, by the script that they launch on two processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    BitImageProcessor,
    PretrainedConfig,
    ResNetConfig,
    SegformerConfig,
    SegformerImageProcessor,
    SwinConfig,
    TimmWrapperConfig,
    TimmWrapperImageProcessor,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTConfig,
    ViTImageProcessor,
)

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair

SIDE = {"image-classification": 8, "semantic-segmentation": 16}
CLASSES = 3
IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def config(kind: str, dropout: float = 0.0) -> PretrainedConfig:
    """The configuration of one tiny model."""
    labels: dict[str, Any] = {"num_labels": CLASSES}
    if kind == "vit":
        return ViTConfig(
            image_size=8,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            hidden_dropout_prob=dropout,
            **labels,
        )
    if kind == "swin":
        return SwinConfig(
            image_size=8,
            patch_size=2,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=2,
            hidden_dropout_prob=dropout,
            drop_path_rate=dropout,
            **labels,
        )
    if kind == "resnet":
        return ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", hidden_act="relu", **labels
        )
    if kind == "segformer":
        return SegformerConfig(
            num_encoder_blocks=2,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_attention_heads=[1, 2],
            sr_ratios=[1, 1],
            strides=[2, 2],
            patch_sizes=[3, 3],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            hidden_dropout_prob=dropout,
            classifier_dropout_prob=dropout,
            drop_path_rate=dropout,
            **labels,
        )
    if kind == "timm:test_vit":
        return TimmWrapperConfig(architecture="test_vit", model_args={"img_size": 32}, **labels)
    if kind == "timm:test_resnet":
        return TimmWrapperConfig(architecture="test_resnet", **labels)
    raise ValueError(kind)


def processor(kind: str) -> Any:
    if kind.startswith("timm:"):
        settings = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2), "crop_pct": 0.9}
        return TimmWrapperImageProcessor(pretrained_cfg=settings, architecture=kind.removeprefix("timm:"))
    if kind == "resnet":
        return BitImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    if kind == "segformer":
        return SegformerImageProcessor(size={"height": 16, "width": 16})
    return ViTImageProcessor(size={"height": 8, "width": 8})


def make_pair(a: str = "vit", b: str = "swin", *, dropout: float = 0.0, seed: int = 0) -> ModelPair:
    """A new pair, the same weights for the same seed."""
    task = PIXELS if a == "segformer" else IMAGES
    auto: Any = AutoModelForSemanticSegmentation if task == PIXELS else AutoModelForImageClassification
    members = []
    with torch.random.fork_rng():
        for number, kind in enumerate((a, b)):
            torch.manual_seed(1000 * seed + number)
            members.append(auto.from_config(config(kind, dropout)))
    return ModelPair(*members, processor(a), processor(b), task=task)


def without_batch_statistics(pair: ModelPair) -> ModelPair:
    """Removes BatchNorm: with it, a batch's loss depends on how the batch is divided, whatever the Trainer does."""
    for name in ("a", "b"):
        head = getattr(pair.member(name), "decode_head", None)
        if head is not None:
            head.batch_norm = torch.nn.Identity()
    return pair


def same_weights_on(task: str) -> ModelPair:
    """A pair without batch statistics for a task."""
    members = ("segformer", "segformer") if task == PIXELS else ("vit", "swin")
    return without_batch_statistics(make_pair(*members))


class ImageList(list[dict[str, Any]]):
    """A map-style image set."""

    def without_truth(self) -> ImageList:
        return ImageList({"image": item["image"]} for item in self)


def images(count: int, *, seed: int = 0) -> ImageList:
    """Noisy images whose color is their class."""
    rng = np.random.default_rng([seed, 1])
    found = ImageList()
    for row in range(count):
        label = row % CLASSES
        colors = rng.integers(0, 120, (8, 8, 3))
        colors[..., label] += 130
        found.append({"image": Image.fromarray(colors.astype(np.uint8)), "label": label})
    return found


def scenes(count: int, *, seed: int = 0, void: bool = True) -> ImageList:
    """Two halves of two classes, and a void corner whose size differs from image to image."""
    rng = np.random.default_rng([seed, 2])
    found = ImageList()
    for row in range(count):
        mask = np.full((16, 16), row % CLASSES, dtype=np.int64)
        mask[:, 8:] = (row + 1) % CLASSES
        colors = rng.integers(0, 120, (16, 16, 3))
        for label in range(CLASSES):
            colors[..., label] += 130 * (mask == label)
        if void:
            mask[: 2 * (row % 5), :5] = -100
        found.append({"image": Image.fromarray(colors.astype(np.uint8)), "mask": mask})
    return found


SETTINGS: dict[str, Any] = {
    "label_ratios": [0.5, 1.0],
    "supervised_epochs": 2,
    "phase_epochs": 1,
    "labeled_batch_size": 4,
    "pseudo_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 2,
    "augmentation": "weak",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}


def make_trainer(
    folder: str | Path,
    pair: ModelPair | None = None,
    *,
    labeled: Any = None,
    unlabeled: Any = "usual",
    evaluation: Any = None,
    test: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    compute_metrics: Any = None,
    metrics: Any = (),
    **settings: Any,
) -> DMTTrainer:
    """A trainer of 12 labeled and 12 unlabeled images: phases of 3, 2 and 3 updates."""
    pair = make_pair() if pair is None else pair
    make = scenes if pair.task == PIXELS else images
    return DMTTrainer(
        model=pair,
        args=DMTTrainingArguments(output_dir=str(folder), **{**SETTINGS, **settings}),
        train_dataset=make(12) if labeled is None else labeled,
        unlabeled_dataset=make(12, seed=1) if unlabeled == "usual" else unlabeled,
        eval_dataset=evaluation,
        test_dataset=test,
        callbacks=callbacks,
        compute_metrics=compute_metrics,
        metrics=metrics,
    )


class Kill(RuntimeError):
    """Stands for the end of the process."""


class KillAt(TrainerCallback):
    """Ends the run right after an update, before anything is logged or saved at it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Kill(f"at step {self.step}")


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """Bit-identical, or within a tolerance."""
    assert found.keys() == expected.keys()
    differences = {name: (found[name].double() - value.double()).abs().max().item() for name, value in expected.items()}
    wrong = {name: difference for name, difference in differences.items() if not difference <= tolerance}
    assert not wrong, f"{len(wrong)} of {len(differences)} tensors differ, such as {next(iter(wrong.items()))}"


def assert_same_nested(found: Any, expected: Any) -> None:
    """Like `assert_same`, for the state of an optimizer or scheduler: tensors and plain values in dicts and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same_nested(found[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same_nested(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def without_times(value: Any) -> Any:
    """JSON without measured times."""
    if isinstance(value, dict):
        return {
            key: without_times(inner)
            for key, inner in value.items()
            if not key.endswith(("seconds", "runtime", "per_second"))
        }
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def results(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "dmt_results.json").read_text())
    return found


def telemetry(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "telemetry.jsonl").read_text().splitlines()]
