"""How fast one worker makes training samples at 224 and 512 pixels, and how long a step waits for them.

    python scripts/benchmarks/data_pipeline.py [--quick] [--threads N] [--json FILE]

A sample is one view of an image for one member: decoded from JPEG, augmented, cropped. The share is that of a step's
time in which the training process waits for its worker, while it trains the pair of the column; on two cores the worker
has one of them. It needs a machine that nobody else uses.
"""

from __future__ import annotations

import io
import sys
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
from scripts.benchmarks.measure import Row, finish, options
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair


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


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
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
    return finish(rows, args)


if __name__ == "__main__":
    main()
