"""One phase step of the pair against the two plain `Trainer` steps it replaces, for both tasks.

    python scripts/benchmarks/step_time.py [--quick] [--threads N] [--cpu_time] [--json FILE]
    python scripts/benchmarks/step_time.py --device cuda --dtype bf16 [--compile] --workers 8

Same models, same images and views, same total batch, same optimizer, in one process, in turns. The time of a step is
from the end of one update to the end of the next, so loading data counts. The last line is `ratio <number>`, the
largest of the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair
from hf_dmt.data.drawing.transforms import train_view
from hf_dmt.data.seeds import seed_for, seeded

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, medians, options, ratios
from scripts.benchmarks.subjects import IMAGES, Pictures, decoded, image_pair, pixel_pair


class Clock(TrainerCallback):
    """Seconds between the ends of consecutive updates."""

    def __init__(self, *, cpu_time: bool) -> None:
        self.now = time.process_time if cpu_time else time.perf_counter
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(self.now())

    def median(self) -> float:
        steps = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(steps[1:])  # the first holds the start of the workers and of the allocator


class Views(torch.utils.data.Dataset[dict[str, Any]]):
    """The views of one member as a plain fine-tuning script has them: augmented and normalized one by one."""

    def __init__(self, images: Sequence[dict[str, Any]], pair: ModelPair, member: str, count: int) -> None:
        self.images, self.task, self.count = images, pair.task, count
        self.view: Any = train_view("strong" if pair.task == IMAGES else "scale-crop-flip", pair.image_size, pair.task)
        normalizer = pair.view_a if member == "a" else pair.view_b
        self.scale = normalizer.matrix.diagonal()[:, None, None].clone()
        self.offset = normalizer.offset[:, None, None].clone()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.images[index % len(self.images)]
        with seeded(seed_for(index)):
            if self.task == IMAGES:
                pixels, labels = self.view(item["image"]), item["label"]
            else:
                pixels, labels, _ = self.view(item["image"], item["mask"], None)
        return {"pixel_values": pixels * self.scale + self.offset, "labels": labels}


class SemanticTrainer(Trainer):
    """Cross-entropy at label resolution with -100 ignored; models' own losses ignore other values."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(pixel_values=inputs["pixel_values"]).logits
        size = inputs["labels"].shape[-2:]
        logits = torch.nn.functional.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return torch.nn.functional.cross_entropy(logits, inputs["labels"], ignore_index=-100)


def pair_step(
    pair: ModelPair, items: Sequence[dict[str, Any]], steps: int, batch: tuple[int, int], clock: Clock, **settings: Any
) -> float:
    """Seconds of one update of a phase, median over `steps`."""
    labeled, pseudo = batch
    with tempfile.TemporaryDirectory() as folder:
        arguments = DMTTrainingArguments(
            output_dir=folder,
            supervised_epochs=0,
            phase_epochs=steps * pseudo / len(items),
            label_ratios=[1.0],
            labeled_batch_size=labeled,
            pseudo_batch_size=pseudo,
            **{**usual_settings(), **settings},
        )
        unlabeled = [{"image": item["image"]} for item in items]
        DMTTrainer(pair, arguments, items, unlabeled, callbacks=[clock]).train()
    return clock.median()


def plain_step(
    pair: ModelPair, member: str, items: Sequence[dict[str, Any]], steps: int, batch: int, clock: Clock, **settings: Any
) -> float:
    """Seconds of one update of a plain Trainer on one member."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=str(Path(folder)),
            max_steps=steps,
            per_device_train_batch_size=batch,
            remove_unused_columns=False,
            **{**usual_settings(), **settings},
        )
        trainer_class = Trainer if pair.task == IMAGES else SemanticTrainer
        data = Views(items, pair, member, steps * batch)
        trainer_class(pair.member(member), arguments, train_dataset=data, callbacks=[clock]).train()
    return clock.median()


def usual_settings() -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    }


def compare(
    pair: ModelPair, items: Any, steps: int, batch: tuple[int, int], rounds: int, *, cpu_time: bool, **settings: Any
) -> Row:
    def timed(step: Callable[..., float], *arguments: Any) -> Callable[[], float]:
        return lambda: step(*arguments, Clock(cpu_time=cpu_time), **settings)

    jobs = {
        "pair": timed(partial(pair_step, pair, items, steps, batch)),
        "a": timed(partial(plain_step, pair, "a", items, steps, sum(batch))),
        "b": timed(partial(plain_step, pair, "b", items, steps, sum(batch))),
    }
    seconds = in_turns(jobs, rounds, cpu_time=cpu_time, warm_up=False)
    found = ratios(seconds, "pair", "a", "b")
    details = {**medians(seconds), "images/s of each member": sum(batch) / statistics.median(seconds["pair"])}
    what = f"phase step of a pair, {pair.task}, {pair.image_size} px"
    return Row(what, "two plain Trainer steps", found, "of their time", "<= 1.05", details)


def gpu_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of a run that are those of the benchmark."""
    return {
        "use_cpu": args.device == "cpu",
        "bf16": args.dtype == "bf16",
        "torch_compile": args.compile,
        "dataloader_num_workers": args.workers,
    }


def main(argv: Sequence[str] | None = None) -> list[Row]:
    compiled: dict[str, Any] = {"action": "store_true", "help": "torch.compile, of the pair and of the plain models"}
    workers: dict[str, Any] = {"type": int, "default": 0, "help": "processes that load the data, in each of the three"}
    args = options(__doc__, argv, gpu=True, compile=compiled, workers=workers)
    rounds, steps = (1, 4) if args.quick else (5, 12)
    if args.quick:
        cases = [(pixel_pair(32, "toy"), (2, 2)), (image_pair(32, "toy"), (2, 6))]
    elif args.device == "cuda":
        cases = [(pixel_pair(512, "b2"), (4, 12)), (image_pair(224, "base", both=True), (16, 48))]
    else:
        cases = [(pixel_pair(64, "b0", classes=11), (4, 12)), (image_pair(32, "demo"), (8, 24))]
    rows = []
    for pair, batch in cases:
        items = decoded(Pictures(64, pair.image_size, pair.task))
        rows.append(compare(pair, items, steps, batch, rounds, cpu_time=args.cpu_time, **gpu_settings(args)))
    finish(rows, args)
    print(f"ratio {max(row.value for row in rows):.3f}")
    return rows


if __name__ == "__main__":
    main()
