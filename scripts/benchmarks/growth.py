"""What grows with the number of unlabeled images: time per image of a phase, and memory of labeling.

    python scripts/benchmarks/growth.py [--quick] [--threads N] [--cpu_time] [--json FILE]

Time: a run of one phase with all labels kept and one pass over them, labeling and then one draw of each unlabeled
image, for 1, 2, 4 and 8 times as many images; from the first label to the last update, divided by their number.

Memory: the highest resident memory of the process while tiny members label 20,000 images that are made when asked for /
that of 2,000 images, less 1. So what grows is ours.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.labeling import our_pass
from scripts.benchmarks.measure import Row, finish, in_turns, options, peak_memory, ratios
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


def times(args: Any) -> list[Row]:
    """Seconds per image of a phase with ever more images."""
    rounds, unit, size = (1, 4, "toy") if args.quick else (3, 32, "demo")
    rows = []
    for task in (IMAGES, PIXELS):
        side = 32
        pair = image_pair(side, size) if task == IMAGES else pixel_pair(side, "toy" if args.quick else "b0")
        labeled = decoded(Pictures(16, side, task))
        jobs = {
            f"x{factor}": partial(phase, pair, labeled, decoded(Pictures(factor * unit, side)), cpu_time=args.cpu_time)
            for factor in (1, 2, 4, 8)
        }
        seconds = in_turns(jobs, rounds, warm_up=not args.quick)
        per_image = {f"{name} ms/image": 1e3 * statistics.median(values) for name, values in seconds.items()}
        for fewer, more in (("x1", "x2"), ("x2", "x4"), ("x4", "x8")):
            what, against = f"time per image of a phase, {task}, {more} images", f"{fewer} (x1 is {unit})"
            details = {name: per_image[name] for name in (f"{fewer} ms/image", f"{more} ms/image")}
            rows.append(Row(what, against, ratios(seconds, more, fewer), "of it", "<= 1.1", details))
    return rows


def labeling(pair: ModelPair, count: int) -> Callable[[], None]:
    def job() -> None:
        with tempfile.TemporaryDirectory() as folder:
            our_pass(pair, Pictures(count, pair.image_size), 16, Path(folder), Accelerator(cpu=True))

    return job


def memory(args: Any) -> list[Row]:
    """Resident memory of labeling ten times as many images."""
    few, many = (8, 24) if args.quick else (2000, 20000)
    rows = []
    for task in (IMAGES, PIXELS):
        pair = image_pair(16, "toy") if task == IMAGES else pixel_pair(32, "toy")
        labeling(pair, few)()  # libraries and buffers that any labeling needs
        peaks = {count: peak_memory(labeling(pair, count))[1] for count in (few, many)}
        details = {f"{count} images MiB": value / 2**20 for count, value in peaks.items()}
        growth = peaks[many] / peaks[few] - 1
        rows.append(
            Row(f"resident memory, labeling {many} images, {task}", f"{few}", [growth], "growth", "<= 0.1", details)
        )
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    return finish([*memory(args), *times(args)], args)


if __name__ == "__main__":
    main()
