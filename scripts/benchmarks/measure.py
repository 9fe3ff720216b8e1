"""What the benchmarks share: flags, measuring in turns, memory, the table, and the JSON beside it.

The machine is rarely quiet, so nothing is compared across runs. The things compared are measured in turns in one
process, each round gives one ratio, and the median of the ratios counts: what slows the machine for a while slows all.
`--cpu_time` counts the CPU seconds of the process instead of the clock's, for machines that others use as well.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

Jobs = Mapping[str, Callable[[], object]]
Seconds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what, against: the two things compared.
        values: the figure in every round, in `unit`; their median counts.
        goal: such as `<= 1.05`; empty for what is reported only.
        details: what stands behind the figure, by name with its unit.
    """

    what: str
    against: str
    values: Sequence[float]
    unit: str
    goal: str = ""
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.value <= float(bound) if sign == "<=" else self.value >= float(bound)


Part = Callable[[argparse.Namespace], "list[Row]"]


def run(
    description: str | None,
    argv: Sequence[str] | None,
    parts: Mapping[str, Part],
    *,
    gpu: bool = False,
    **further: dict[str, Any],
) -> list[Row]:
    """Measure all parts, or those of `--only`, and print their rows as one table."""
    named = {"nargs": "+", "choices": list(parts), "help": "what to measure; default: everything"}
    args = options(description, argv, gpu=gpu, only=named, **further)
    return finish([row for name in args.only or parts for row in parts[name](args)], args)


def options(
    description: str | None, argv: Sequence[str] | None, *, gpu: bool = False, **further: dict[str, Any]
) -> argparse.Namespace:
    """Flags that every benchmark has, those of the ones that also run on a GPU, and `further` ones."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and few: seconds instead of minutes, no verdict")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--cpu_time", action="store_true", help="CPU seconds of the process instead of the clock's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    if gpu:
        parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: larger models and images")
        parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32", help="bf16 by autocast")
    for name, settings in further.items():
        parser.add_argument(f"--{name}", **settings)
    parsed = parser.parse_args(argv)
    torch.set_num_threads(parsed.threads)
    logging.set_verbosity_error()
    return parsed


def in_turns(jobs: Jobs, rounds: int, *, cpu_time: bool = False, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of every job in every round, the order turned round each time; a job that returns a float measured
    itself."""
    if warm_up:
        in_turns(jobs, 1, warm_up=False)
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name, job in list(jobs.items())[:: -1 if number % 2 else 1]:
            start = clock()
            with contextlib.redirect_stdout(io.StringIO()):
                own = job()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            seconds[name].append(own if isinstance(own, float) else clock() - start)
    return seconds


def ratios(seconds: Seconds, above: str, *below: str) -> list[float]:
    """Per round, one job's time / the sum of other jobs' times."""
    rounds = zip(seconds[above], *(seconds[name] for name in below), strict=True)
    return [one / sum(others) for one, *others in rounds]


def medians(seconds: Seconds) -> dict[str, float]:
    """Per job the median in milliseconds, as details of a row."""
    return {f"{name} ms": 1e3 * statistics.median(values) for name, values in seconds.items()}


def peak_memory(job: Callable[[], object], device: str = "cpu") -> tuple[int, int]:
    """Bytes in use before a job, and at the highest point in it: resident ones of this process, or the GPU's."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return before, torch.cuda.max_memory_allocated()
    with _freed_memory_returned():
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest point so far
        with contextlib.redirect_stdout(io.StringIO()):
            job()
        return before, _resident("VmHWM")


@contextlib.contextmanager
def _freed_memory_returned() -> Any:
    """glibc keeps freed arrays for later ones, and what a job needs would hide in what an earlier one left behind."""
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("Resident memory is read from /proc, which only Linux has: run this benchmark there.")
    libc, mmap_threshold = ctypes.CDLL(None), -3
    libc.mallopt(mmap_threshold, 1 << 16)
    libc.malloc_trim(0)
    try:
        yield
    finally:
        libc.mallopt(mmap_threshold, 32 << 20)


def _resident(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def finish(rows: list[Row], args: argparse.Namespace) -> list[Row]:
    """Print the table, in Markdown, and write the JSON."""
    facts = surroundings(args)
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    print(f"`{facts['command']}`\n{facts['date']}, {facts['hardware']}, {facts['time']}; {versions}\n")
    lines = [("what", "against", "measured", "goal", "behind it"), *(_cells(row, quick=args.quick) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    if args.json:
        found = [{**asdict(row), "value": row.value, "met": row.met} for row in rows]
        args.json.write_text(json.dumps({**facts, "rows": found}, indent=2) + "\n", encoding="utf-8")
    return rows


def _cells(row: Row, *, quick: bool) -> tuple[str, str, str, str, str]:
    spread = f" ({min(row.values):.3g} to {max(row.values):.3g})" if len(row.values) > 1 else ""
    verdict = "" if row.met is None or quick else ": met" if row.met else ": **missed**"
    details = ", ".join(f"{name} {value:.4g}" for name, value in row.details.items())
    return row.what, row.against, f"{row.value:.3g} {row.unit}{spread}", row.goal + verdict, details


def surroundings(args: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions, date and command: without them a figure says nothing."""
    on_gpu = getattr(args, "device", "cpu") == "cuda"
    cores = f"{os.cpu_count()} CPU cores ({_processor()}), {args.threads} thread(s)"
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "hardware": torch.cuda.get_device_name() if on_gpu else cores,
        "time": "CPU seconds" if args.cpu_time else "wall clock",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")},
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
