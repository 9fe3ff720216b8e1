"""What the ways to save memory save while a pair trains, and what they cost in time.

    python scripts/benchmarks/memory.py [--quick] [--threads N] [--cpu_time] [--json FILE]
    python scripts/benchmarks/memory.py --device cuda --dtype bf16

Memory is what a run of a few updates adds at its highest point: weights, gradients, the optimizer's state and
activations of both members; for scale also that of one of the two models in a plain Trainer with the same batch.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_dmt import ModelPair

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, options, peak_memory, ratios
from scripts.benchmarks.step_time import Clock, pair_step, plain_step
from scripts.benchmarks.subjects import Pictures, decoded, image_pair, pixel_pair

# transformers 5.17 knows the older name alone, later ones warn of it.
NEW, OLD = "activation_checkpointing", "gradient_checkpointing"
CHECKPOINTING = NEW if NEW in TrainingArguments.__dataclass_fields__ else OLD
BOTH, ALONE, ALTERNATE = "both members at once", "one model, plain Trainer", "--member_schedule alternate"
MODES: dict[str, dict[str, Any]] = {
    BOTH: {},
    "--freeze_backbone": {"freeze_backbone": True},
    f"--{CHECKPOINTING}": {CHECKPOINTING: True},
    ALTERNATE: {"member_schedule": "alternate"},
}


def measure(
    make: Callable[[], ModelPair], batch: tuple[int, int], steps: int, rounds: int, *, cpu_time: bool, **settings: Any
) -> list[Row]:
    task, side = make().task, make().image_size
    items = decoded(Pictures(sum(batch), side, task))

    def run(mode: str) -> float:
        gc.collect()  # a trainer and its model refer to each other: the one before would be counted here
        clock = Clock(cpu_time=cpu_time)
        if mode == ALONE:
            return plain_step(make(), "a", items, steps, sum(batch), clock, **settings)
        update = pair_step(make(), items, steps, batch, clock, **{**settings, **MODES[mode]})
        return 2 * update if mode == ALTERNATE else update  # one of a and one of b, which are alike

    jobs = {mode: partial(run, mode) for mode in (*MODES, ALONE)}
    seconds = in_turns(jobs, rounds, cpu_time=cpu_time, warm_up=False)
    extra = {}
    for mode, job in jobs.items():
        gc.collect()
        before, peak = peak_memory(job, "cpu" if settings["use_cpu"] else "cuda")
        extra[mode] = (peak - before) / 2**20
    rows = []
    for mode in (*MODES, ALONE):
        details = {"step ms": 1e3 * statistics.median(seconds[mode]), "MiB": extra[mode]}
        details["of the time of a step"] = statistics.median(ratios(seconds, mode, BOTH))
        what = f"peak memory, {mode}, {task}, {side} px"
        rows.append(Row(what, BOTH, [extra[mode] / extra[BOTH]], "of its memory", "", details))
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv, gpu=True)
    steps, rounds = (3, 1) if args.quick else (4, 3)
    if args.quick:
        cases = [(partial(image_pair, 32, "toy", both=True), (2, 2)), (partial(pixel_pair, 32, "toy"), (2, 2))]
    elif args.device == "cuda":
        cases = [(partial(image_pair, 224, "base", both=True), (16, 48)), (partial(pixel_pair, 512, "b2"), (4, 12))]
    else:
        cases = [(partial(image_pair, 112, "tiny", both=True), (4, 12)), (partial(pixel_pair, 128, "b0"), (2, 6))]
    settings = {"use_cpu": args.device == "cpu", "bf16": args.dtype == "bf16"}
    rows = [
        row for make, batch in cases for row in measure(make, batch, steps, rounds, cpu_time=args.cpu_time, **settings)
    ]
    return finish(rows, args)


if __name__ == "__main__":
    main()
