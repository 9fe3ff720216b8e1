"""What a user waits for: training samples from a worker, the start of a run, and a resume that has nothing left to do.

    python scripts/benchmarks/waiting.py [--only samples start] [--quick] [--threads N] [--cpu_time]

samples: how fast one worker makes samples of 224 and 512 pixels, and how long a step waits for them. A sample is one
view of an image for one model: decoded from JPEG, augmented, cropped. The share is that of a step's time in which the
training process waits for its worker while it trains the pair of the row; on two cores the worker has one of them, so
measure on an idle machine, by the clock.

start: medians over new processes. Each imports the large libraries, then `hf_dmt`, then the program; runs a demo of a
few updates, of which the time to the first one counts; and resumes the finished run, which writes the models, the
report and the card again, with everything imported by then. `--quick` runs in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from hf_dmt import DMTTrainingArguments, ModelPair
from hf_dmt.data.drawing.sampler import BatchShape, PhaseBatchSampler
from hf_dmt.data.members import MEMBERS
from hf_dmt.training.training_set import training_set

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, run
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair

LIBRARIES = ("torch", "torchvision", "datasets", "accelerate", "transformers.trainer", "transformers.models.auto")
FEW_UPDATES = ["--use_cpu", "true", "--supervised_epochs", "0.5", "--phase_epochs", "0.05", "--label_ratios", "1.0"]


class JPEGs:
    """Photographs' worth of work: compressed images of 4:3 in memory, decoded whenever they are asked for."""

    def __init__(self, pictures: Pictures, height: int) -> None:
        self.items = []
        for item in decoded(pictures):
            file = io.BytesIO()
            item["image"].resize((height * 4 // 3, height)).save(file, format="JPEG", quality=90)
            mask = item.get("mask")
            if mask is not None:
                wide = Image.fromarray(mask.astype(np.uint8)).resize(
                    (height * 4 // 3, height), Image.Resampling.NEAREST
                )
                item["mask"] = np.asarray(wide, dtype=np.int64)
            self.items.append({**item, "image": file.getvalue()})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = self.items[row]
        return {**item, "image": Image.open(io.BytesIO(item["image"]))}


def loader(pair: ModelPair, images: JPEGs, steps: int, batch: int) -> DataLoader[Any]:
    """The batches of a phase on labels alone, from one worker."""
    arguments = DMTTrainingArguments(output_dir="unused", report_to="none", use_cpu=True)
    samples, _ = training_set(pair, arguments, arguments.knobs(pair.task), images, None)
    sampler = PhaseBatchSampler(BatchShape(batch, 0))
    rows = np.arange(len(images))
    sampler.begin(0, steps, dict.fromkeys(MEMBERS, rows), dict.fromkeys(MEMBERS, rows[:0]))
    return DataLoader(samples, batch_sampler=sampler, collate_fn=default_collate, num_workers=1)


def consume(batches: DataLoader[Any], step: Callable[[Any], None]) -> tuple[float, float]:
    """Seconds spent waiting for data and in all, without the first batch, which waits for the worker to start."""
    iterator = iter(batches)
    step(next(iterator))
    start, waited = time.perf_counter(), 0.0
    while True:
        before = time.perf_counter()
        batch = next(iterator, None)
        waited += time.perf_counter() - before
        if batch is None:
            return waited, time.perf_counter() - start
        step(batch)


def train_step(pair: ModelPair) -> Callable[[Any], None]:
    optimizer = torch.optim.AdamW(pair.parameters())

    def step(batch: Any) -> None:
        logits = pair(**{name: batch[name]["pixel_values"] for name in MEMBERS})
        losses = [
            torch.nn.functional.cross_entropy(logits[name], batch[name]["labels"], ignore_index=-100)
            for name in MEMBERS
        ]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def samples(args: argparse.Namespace) -> list[Row]:
    cases = [(IMAGES, 224, "tiny", 8), (PIXELS, 512, "b0", 2)]
    if args.quick:
        cases = [(IMAGES, 32, "toy", 4), (PIXELS, 32, "toy", 2)]
    count = 3 if args.quick else 12
    rows = []
    for task, side, size, batch in cases:
        pair = image_pair(side, size) if task == IMAGES else pixel_pair(side, size)
        pair.train()
        images = JPEGs(Pictures(16, side, task), height=side * 3 // 2)
        _, seconds = consume(loader(pair, images, count, batch), lambda batch: None)
        per_second = (count - 1) * batch * len(MEMBERS) / seconds
        waited, whole = consume(loader(pair, images, count, batch), train_step(pair))
        details = {"share of a step spent waiting": waited / whole, "step s": whole / (count - 1)}
        rows.append(Row(f"samples of {side} px, {task}", "one worker", [per_second], "samples/s", "", details))
    return rows


def stages(*, cpu_time: bool) -> dict[str, float]:
    """Seconds of every stage in this process, which must be a new one to count."""
    now = time.process_time if cpu_time else time.perf_counter
    seconds, begun = {}, now()

    def stage(name: str) -> None:
        nonlocal begun
        seconds[name], begun = now() - begun, now()

    groups = {"libraries": LIBRARIES, "hf_dmt": ["hf_dmt"], "program": ["hf_dmt.commands.train"]}
    for name, modules in groups.items():
        for module in modules:
            importlib.import_module(module)
        stage(name)
    from hf_dmt.commands import train
    from hf_dmt.training.trainer import DMTTrainer

    class FirstUpdate(DMTTrainer):
        """Marks the end of the first update."""

        def training_step(self, *parts: Any) -> torch.Tensor:
            loss = super().training_step(*parts)
            if "set-up" not in seconds:
                stage("set-up")
            return loss

    stock, train.DMTTrainer = train.DMTTrainer, FirstUpdate  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            command = ["--output_dir", f"{folder}/run", *FEW_UPDATES]
            ended = train.run(command)
            stage("the rest of the run")
            ended += train.run([*command, "--resume_from_checkpoint", "true"])
            stage("resume")
    finally:
        train.DMTTrainer = stock  # type: ignore[misc]
    if ended:
        raise SystemExit("The demo failed; run it alone to see why.")
    return seconds


def start(args: argparse.Namespace) -> list[Row]:
    if args.stages:
        print(json.dumps(stages(cpu_time=args.cpu_time)))
        raise SystemExit
    command = [sys.executable, __file__, "--only", "start", "--stages", "--threads", str(args.threads)]
    command += ["--cpu_time"] if args.cpu_time else []
    found = [stages(cpu_time=args.cpu_time)] if args.quick else []
    for _ in range(0 if args.quick else 5):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    before = ("libraries", "hf_dmt", "program", "set-up")
    details = {f"{name} s": statistics.median(one[name] for one in found) for name in before}
    return [
        Row("import hf_dmt", "its libraries, imported before", [one["hf_dmt"] for one in found], "s"),
        Row(
            "the demo to its first update",
            "nothing",
            [sum(one[name] for name in before) for one in found],
            "s",
            "",
            details,
        ),
        Row("resume of the finished run", "nothing", [one["resume"] for one in found], "s", "<= 2"),
    ]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    alone = {"action": "store_true", "help": argparse.SUPPRESS}  # a new process that prints its stages
    return run(__doc__, argv, {"samples": samples, "start": start}, stages=alone)


if __name__ == "__main__":
    main()
