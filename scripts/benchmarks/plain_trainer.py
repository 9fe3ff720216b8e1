"""Fine-tune one model on class folders with the stock Trainer, as its users do (`main`), and compare a whole run of a
pair with two such runs (`whole_run`, for `peers.py --only run`).

python scripts/benchmarks/plain_trainer.py --model FOLDER --data FOLDER --output FOLDER --steps 40 --batch 32
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from PIL import Image
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from hf_dmt.commands import train
from hf_dmt.data.members import MEMBERS

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, in_turns, medians, ratios
from scripts.benchmarks.subjects import IMAGES, Pictures, decoded, image_pair


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("steps", "batch", "side"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args(argv)
    data = load_dataset("imagefolder", data_dir=args.data)
    names = data["train"].features["label"].names
    processor = AutoImageProcessor.from_pretrained(args.model)
    model = AutoModelForImageClassification.from_pretrained(args.model, num_labels=len(names))
    tensor = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(processor.image_mean, processor.image_std),
    ]
    random = v2.Compose([v2.RandomResizedCrop(args.side, antialias=True), v2.RandomHorizontalFlip(), *tensor])
    clean = v2.Compose([v2.Resize((args.side, args.side), antialias=True), *tensor])

    def viewed(rows: dict[str, list[Any]], view: v2.Compose) -> dict[str, list[Any]]:
        return {"pixel_values": [view(image.convert("RGB")) for image in rows["image"]], "labels": rows["label"]}

    data["train"].set_transform(lambda rows: viewed(rows, random))
    data["validation"].set_transform(lambda rows: viewed(rows, clean))
    twice: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps"}
    settings = TrainingArguments(
        output_dir=args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        per_device_eval_batch_size=16,
        eval_steps=args.steps // 2,
        save_steps=args.steps // 2,
        remove_unused_columns=False,
        learning_rate=1e-4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **twice,
    )
    trainer = Trainer(
        model,
        settings,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=lambda found: {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))},
    )
    trainer.train()
    trainer.save_model()
    processor.save_pretrained(args.output)
    return 0


def run_of(folder: Path, side: int, steps: int, batch: tuple[int, int]) -> tuple[list[str], list[list[str]]]:
    """The flags of our run, and of the plain run of each model."""
    models, data, both = folder / "models", folder / "data", sum(batch)
    ours = ["--model_a", str(models), "--model_b", str(models / "peer"), "--dataset_name", str(data)]
    ours += ["--unlabeled_dir", str(folder / "unlabeled"), "--image_size", str(side), "--augmentation", "weak"]
    ours += ["--max_steps", str(steps // 2), "--label_ratios", "1", "--learning_rate", "1e-4", "--use_cpu", "true"]
    ours += ["--labeled_batch_size", str(batch[0]), "--pseudo_batch_size", str(batch[1])]
    ours += ["--output_dir", str(folder / "pair"), "--overwrite_output_dir", "true"]
    plain = ["--data", str(data), "--steps", str(steps), "--batch", str(both), "--side", str(side)]
    sources = {"a": models, "b": models / "peer"}
    return ours, [[*plain, "--model", str(sources[name]), "--output", str(folder / name)] for name in MEMBERS]


def whole_run(args: argparse.Namespace) -> list[Row]:
    """CPU seconds of `hf-dmt train`, over those of a plain run of each model with the same updates and evaluations."""
    side, size, counts, steps, batch, rounds = 224, (500, 375), (60, 60, 120), 12, (8, 24), 3
    if args.quick:
        side, size, counts, steps, batch, rounds = 32, (40, 30), (20, 10, 8), 2, (2, 2), 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image_pair(side, "toy" if args.quick else "tiny").save_pretrained(folder / "models")
        for kind, count in zip(("data/train", "data/validation", "unlabeled"), counts, strict=True):
            for number, item in enumerate(decoded(Pictures(count, 256, IMAGES))):
                place = folder / kind / ("" if kind == "unlabeled" else f"class {item['label']}")
                place.mkdir(parents=True, exist_ok=True)
                picture = item["image"].resize(size, Image.Resampling.BICUBIC).rotate(len(kind))  # no copies
                picture.save(place / f"{kind[-5:]}{number}.jpg", quality=90)
        ours, plain = run_of(folder, side, steps, batch)

        def of_processes(*commands: list[str]) -> float:
            before = _children_cpu()
            for command in commands:
                environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
                subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
            return _children_cpu() - before

        jobs: dict[str, Callable[[], object]] = {
            "ours": partial(of_processes, ["-m", "hf_dmt", "train", *ours]),
            "plain": partial(of_processes, *([__file__, *flags] for flags in plain)),
        }
        if args.quick:
            jobs = {"ours": lambda: train.run(ours), "plain": lambda: list(map(main, plain))}
        seconds = in_turns(jobs, rounds, cpu_time=True, warm_up=False)
    what = f"whole run of a pair, {side} px from {size[0]} x {size[1]} JPEGs"
    found = ratios(seconds, "ours", "plain")
    return [Row(what, "two plain Trainer runs", found, "of their time", "<= 1.05", medians(seconds))]


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
