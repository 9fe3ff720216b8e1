"""What a phase costs per image when there are 1, 2, 4 and 8 times as many unlabeled images.

    python scripts/benchmarks/growth.py [--quick] [--threads N] [--cpu_time] [--json FILE]

A run of one phase with all labels kept and one pass over them: labeling, then one draw of each unlabeled image. The
time is that of the phase, from its first label to its last update, divided by the number of unlabeled images.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, options, ratios
from scripts.benchmarks.step_time import usual_settings
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair


class PhaseClock(TrainerCallback):
    """Seconds from the beginning of the phase, before its labels are made, to its last update."""

    def __init__(self, *, cpu_time: bool) -> None:
        self.now = time.process_time if cpu_time else time.perf_counter
        self.start = self.end = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = self.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.end = self.now()


def phase(pair: ModelPair, labeled: Any, unlabeled: Any, *, cpu_time: bool) -> float:
    clock = PhaseClock(cpu_time=cpu_time)
    batch = 16
    with tempfile.TemporaryDirectory() as folder:
        arguments = DMTTrainingArguments(
            output_dir=folder,
            supervised_epochs=0,
            phase_epochs=1,
            label_ratios=[1.0],
            labeled_batch_size=batch // 4,
            pseudo_batch_size=batch,
            **usual_settings(),
        )
        DMTTrainer(pair, arguments, labeled, unlabeled, callbacks=[clock]).train()
    return (clock.end - clock.start) / len(unlabeled)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    rounds, unit, size = (1, 4, "toy") if args.quick else (3, 32, "demo")
    rows = []
    for task in (IMAGES, PIXELS):
        side = 32
        pair = image_pair(side, size) if task == IMAGES else pixel_pair(side, "toy" if args.quick else "b0")
        labeled = decoded(Pictures(16, side, task))
        jobs = {
            f"x{times}": partial(phase, pair, labeled, decoded(Pictures(times * unit, side)), cpu_time=args.cpu_time)
            for times in (1, 2, 4, 8)
        }
        seconds = in_turns(jobs, rounds, warm_up=not args.quick)
        per_image = {f"{name} ms/image": 1e3 * statistics.median(values) for name, values in seconds.items()}
        for fewer, more in (("x1", "x2"), ("x2", "x4"), ("x4", "x8")):
            what, against = f"time per image of a phase, {task}, {more} images", f"{fewer} (x1 is {unit})"
            details = {name: per_image[name] for name in (f"{fewer} ms/image", f"{more} ms/image")}
            rows.append(Row(what, against, ratios(seconds, more, fewer), "of it", "<= 1.1", details))
    return finish(rows, args)


if __name__ == "__main__":
    main()
