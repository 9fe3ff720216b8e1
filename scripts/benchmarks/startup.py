"""What a run costs before its first update: imports, and everything that the demo sets up.

    python scripts/benchmarks/startup.py [--quick] [--json FILE]

Medians over new processes. Each imports the large libraries, then `hf_dmt`, then the program; then it runs the demo to
the end of its first update. `--quick` runs in this process, where much is imported already.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, options

LIBRARIES = ("torch", "torchvision", "datasets", "accelerate", "transformers.trainer", "transformers.models.auto")


def stages() -> dict[str, float]:
    """Seconds of every stage in this process, which must be a new one to count."""
    seconds = {}
    start = time.perf_counter()
    for name, modules in {"libraries": LIBRARIES, "hf_dmt": ["hf_dmt"], "program": ["hf_dmt.commands.train"]}.items():
        for module in modules:
            importlib.import_module(module)
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        first_update(folder)
    return {**seconds, "set-up": time.perf_counter() - start}


class Reached(Exception):
    """The demo has made its first update."""


def first_update(folder: str) -> None:
    """Run the demo up to there."""
    from transformers import TrainerCallback

    from hf_dmt.commands import train

    class Stop(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise Reached

    build = train.build_trainer

    def stopping(*parts: Any) -> Any:
        trainer = build(*parts)
        trainer.add_callback(Stop())
        return trainer

    train.build_trainer = stopping  # type: ignore[assignment]
    try:
        train.run(["--output_dir", f"{folder}/run", "--use_cpu", "true"])
    except Reached:
        return
    finally:
        train.build_trainer = build
    raise SystemExit("The demo ended before its first update; run it alone to see why.")


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv, stages={"action": "store_true", "help": "print those of this process and end"})
    if args.stages:
        print(json.dumps(stages()))
        return []
    command = [sys.executable, __file__, "--stages", "--threads", str(args.threads)]
    found = [stages()] if args.quick else []
    for _ in range(0 if args.quick else 5):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    details = {f"{name} s": statistics.median(run[name] for run in found) for name in found[0]}
    rows = [
        Row("import hf_dmt", "its libraries, imported before", [run["hf_dmt"] for run in found], "s"),
        Row("the demo to its first update", "nothing", [sum(run.values()) for run in found], "s", "", details),
    ]
    return finish(rows, args)


if __name__ == "__main__":
    main()
