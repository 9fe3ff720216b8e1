"""What the benchmarks share: measuring in turns, the table, the JSON beside it, and the goals.

The machine is rarely quiet, so nothing is compared across runs. Two things are measured in turns in one process, each
round gives one ratio, and the median of the ratios counts: what slows the machine for a while slows both. `--cpu_time`
counts the CPU seconds of the process instead of the clock's, for machines that others use as well.
"""

from __future__ import annotations

import argparse
import contextlib
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


@dataclass(frozen=True)
class Row:
    """One figure and its goal.

    Attributes:
        what, against: the two things compared. value: the figure, in `unit`.
        goal: `<=` or `>=` and a number; None for what is reported only.
        details: medians and sizes behind the figure, by name with their unit.
    """

    what: str
    against: str
    value: float
    unit: str
    goal: tuple[str, float] | None = None
    details: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        sign, bound = self.goal
        return self.value <= bound if sign == "<=" else self.value >= bound


def options(description: str | None, argv: Sequence[str] | None, **further: dict[str, Any]) -> argparse.Namespace:
    """Flags that every benchmark has, and `further` ones; torch gets its number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and few: seconds instead of minutes, no verdict")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--cpu_time", action="store_true", help="CPU seconds of the process instead of the clock's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    for name, settings in further.items():
        parser.add_argument(f"--{name}", **settings)
    parsed = parser.parse_args(argv)
    torch.set_num_threads(parsed.threads)
    return parsed


def in_turns(
    jobs: Mapping[str, Callable[[], object]], rounds: int, *, cpu_time: bool = False, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of every job in every round; a job that returns a float measured itself."""
    clock = time.process_time if cpu_time else time.perf_counter
    if warm_up:
        in_turns(jobs, 1, warm_up=False)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = clock()
            with contextlib.redirect_stdout(io.StringIO()):
                own = job()
            seconds[name].append(own if isinstance(own, float) else clock() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], above: str, *below: str) -> float:
    """The median over the rounds of one job's time / the sum of other jobs' times."""
    rounds = zip(seconds[above], *(seconds[name] for name in below), strict=True)
    return statistics.median(one / sum(others) for one, *others in rounds)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Per job the median in milliseconds, as details of a row."""
    return {f"{name} ms": 1e3 * statistics.median(values) for name, values in seconds.items()}


def peak_memory(job: Callable[[], object]) -> tuple[int, int]:
    """Resident bytes of this process before a job, and at the highest point in it."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest point so far
    with contextlib.redirect_stdout(io.StringIO()):
        job()
    return before, _resident("VmHWM")


def _resident(name: str) -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        raise SystemExit("Resident memory is read from /proc, which only Linux has: run this benchmark there.")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def finish(rows: list[Row], args: argparse.Namespace) -> list[Row]:
    """Print the table and write the JSON."""
    print(f"{'':64}{'measured':>12}{'goal':>12}")
    for row in rows:
        goal = f"{row.goal[0]} {row.goal[1]:g}" if row.goal else ""
        verdict = "" if row.met is None or args.quick else "  met" if row.met else "  MISSED"
        print(f"{row.what + ' / ' + row.against:64}{row.value:12.3f}{goal:>12}  {row.unit}{verdict}")
        print("    " + "  ".join(f"{name} {value:.4g}" for name, value in row.details.items()))
    if args.json:
        content = {**surroundings(args), "rows": [{**asdict(row), "met": row.met} for row in rows]}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return rows


def surroundings(args: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions, date and command: without them a figure says nothing."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": " ".join(["python -m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]])
        if sys.modules["__main__"].__spec__
        else " ".join(sys.argv),
        "date": date.today().isoformat(),
        "hardware": gpu or f"{os.cpu_count()} CPU cores ({processor_name()}), {args.threads} threads",
        "time": "CPU seconds" if args.cpu_time else "wall clock",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")},
        },
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
