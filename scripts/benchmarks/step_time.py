"""One phase step of the pair against the two plain `Trainer` steps it replaces.

Same models, same images and views, same total batch, same optimizer, in one process, in turns. The time of a step is
from the end of one update to the end of the next, so loading data counts. The last line is `ratio <number>`: the
median over rounds of pair / (plain a + plain b).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair
from hf_dmt.data.transforms import augmentation_seed, seed_for, train_view

LABELED, PSEUDO = 8, 24


class Clock(TrainerCallback):
    """Seconds between the ends of consecutive updates."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def median(self) -> float:
        steps = np.diff(self.ends)
        return float(np.median(steps[1:]))  # the first holds the start of the workers and of the allocator


class Views(torch.utils.data.Dataset):
    """The views of one member as a plain fine-tuning script has them: augmented and normalised one by one."""

    def __init__(self, images: list[dict[str, Any]], pair: ModelPair, member: str, view: Any, count: int) -> None:
        self.images, self.view, self.count = images, view, count
        normalizer = pair.view_a if member == "a" else pair.view_b
        self.scale = normalizer.matrix.diagonal()[:, None, None].clone()
        self.offset = normalizer.offset[:, None, None].clone()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.images[index % len(self.images)]
        with augmentation_seed(seed_for(index)):
            target = (item["label"],) if "label" in item else (item["mask"], None)
            if "label" in item:
                pixels, labels = self.view(item["image"]), target[0]
            else:
                pixels, labels, _ = self.view(item["image"], *target)
        return {"pixel_values": pixels * self.scale + self.offset, "labels": labels}


class SemanticTrainer(Trainer):
    """Cross-entropy at label resolution with -100 ignored; models' own losses ignore other values."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(pixel_values=inputs["pixel_values"]).logits
        size = inputs["labels"].shape[-2:]
        logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return torch.nn.functional.cross_entropy(logits, inputs["labels"], ignore_index=-100)


def image_pair(side: int) -> ModelPair:
    """A ViT of 2.7 M and a ResNet of 2.8 M parameters."""
    labels: dict[str, Any] = {"id2label": {i: str(i) for i in range(10)}, "label2id": {str(i): i for i in range(10)}}
    vit = ViTConfig(
        image_size=side, patch_size=side // 8, hidden_size=192, num_hidden_layers=6, num_attention_heads=3,
        intermediate_size=768, **labels,
    )  # fmt: skip
    resnet = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256], depths=[2, 2, 2], layer_type="basic", **labels
    )
    square = {"height": side, "width": side}
    return ModelPair(
        ViTForImageClassification(vit),
        ResNetForImageClassification(resnet),
        ViTImageProcessor(size=square),
        BitImageProcessor(size={"shortest_edge": side}, crop_size=square),
        image_size=side,
    )


def pixel_pair(side: int) -> ModelPair:
    """Two SegFormers of 0.7 M parameters."""
    names = {i: str(i) for i in range(11)}
    pair = ModelPair.from_models(
        "tiny:segformer", "tiny:segformer", task="semantic-segmentation", id2label=names, image_size=side
    )
    return pair


def pictures(count: int, side: int, task: str) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    items: list[dict[str, Any]] = []
    for index in range(count):
        image = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        if task == "image-classification":
            items.append({"image": image, "label": index % 10})
        else:
            items.append({"image": image, "mask": generator.integers(0, 11, (side, side))})
    return items


def time_pair(pair: ModelPair, items: list[dict[str, Any]], steps: int, folder: str, batch: tuple[int, int]) -> float:
    labeled, pseudo = batch
    clock = Clock()
    arguments = DMTTrainingArguments(
        output_dir=folder, supervised_epochs=0, phase_epochs=steps * pseudo / len(items), label_ratios=[1.0],
        labeled_batch_size=labeled, pseudo_batch_size=pseudo, **settings(),
    )  # fmt: skip
    DMTTrainer(pair, arguments, items, [{"image": item["image"]} for item in items], callbacks=[clock]).train()
    return clock.median()


def time_plain(pair: ModelPair, member: str, items: list[dict[str, Any]], steps: int, folder: str, batch: int) -> float:
    clock = Clock()
    task = pair.task
    view = train_view("strong" if task == "image-classification" else "scale-crop-flip", pair.image_size, task)
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=batch, **settings(), remove_unused_columns=False
    )
    trainer_class = Trainer if task == "image-classification" else SemanticTrainer
    data = Views(items, pair, member, view, steps * batch)
    trainer_class(pair.member(member), arguments, train_dataset=data, callbacks=[clock]).train()
    return clock.median()


def settings() -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
    }


def measure(task: str, rounds: int, steps: int) -> dict[str, float]:
    side, batch = (32, (LABELED, PSEUDO)) if task == "image-classification" else (64, (4, 12))
    pair = image_pair(side) if task == "image-classification" else pixel_pair(side)
    items = pictures(64, side, task)
    times: dict[str, list[float]] = {"pair": [], "a": [], "b": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            times["pair"].append(time_pair(pair, items, steps, f"{folder}/{number}", batch))
            for member in "ab":
                times[member].append(time_plain(pair, member, items, steps, f"{folder}/{member}{number}", sum(batch)))
    ratios = [pair_time / (a + b) for pair_time, a, b in zip(*times.values(), strict=True)]
    return {name: statistics.median(values) for name, values in times.items()} | {"ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of a few steps, classification only")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: as many as cores)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rounds, steps = (2, 6) if arguments.quick else (5, 25)
    tasks = ["image-classification"] if arguments.quick else ["semantic-segmentation", "image-classification"]
    figures = {}
    print(f"{'task':24s}{'pair ms':>10s}{'a ms':>10s}{'b ms':>10s}{'ratio':>8s}")
    for task in tasks:
        figures[task] = measure(task, rounds, steps)
        ms = [figures[task][name] * 1e3 for name in ("pair", "a", "b")]
        print(f"{task:24s}" + "".join(f"{value:10.1f}" for value in ms) + f"{figures[task]['ratio']:8.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": torch.get_num_threads(), **figures}, indent=2) + "\n")
    print(f"ratio {figures['image-classification']['ratio']:.3f}")


if __name__ == "__main__":
    main()
