"""What a run costs before its first update: imports, and everything that the demo sets up.

    python -m scripts.benchmarks.startup [--quick] [--json FILE]

Medians over new processes. Each imports the large libraries, then `hf_dmt`, then the program; then it runs the demo to
the end of its first update. `import hf_dmt` must not load what only some runs use.
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

from .measure import Row, finish, options

LIBRARIES = ("torch", "torchvision", "datasets", "accelerate", "transformers.trainer", "transformers.models.auto")
SLOW = ("evaluate", "sklearn", "matplotlib")


def stages() -> dict[str, float]:
    """Seconds of every stage in this process, which must be a new one."""
    seconds = {}
    start = time.perf_counter()
    for name, modules in {"libraries": LIBRARIES, "hf_dmt": ["hf_dmt"], "program": ["scripts.run_dmt"]}.items():
        for module in modules:
            importlib.import_module(module)
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
        loaded = [module for module in SLOW if module in sys.modules]
        if name == "hf_dmt" and loaded:
            raise SystemExit(f"import hf_dmt loads {', '.join(loaded)}, which take seconds: import them where used.")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        first_update(folder)
    return {**seconds, "set-up": time.perf_counter() - start}


class Reached(Exception):
    """The demo has made its first update."""


def first_update(folder: str) -> None:
    """Run the demo up to there."""
    from transformers import TrainerCallback

    from scripts import run_dmt

    class Stop(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise Reached

    build = run_dmt.build_trainer

    def stopping(*parts: Any) -> Any:
        trainer = build(*parts)
        trainer.add_callback(Stop())
        return trainer

    run_dmt.build_trainer = stopping
    with contextlib.suppress(Reached):
        run_dmt.main(["--output_dir", f"{folder}/run", "--use_cpu", "true"])
        raise SystemExit("The demo ended before its first update; run it alone to see why.")


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv, stages={"action": "store_true", "help": "print those of this process and end"})
    if args.stages:
        print(json.dumps(stages()))
        return []
    command = [sys.executable, "-m", "scripts.benchmarks.startup", "--stages", "--threads", str(args.threads)]
    found: list[dict[str, float]] = []
    for _ in range(1 if args.quick else 5):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    details = {f"{name} s": statistics.median(run[name] for run in found) for name in found[0]}
    rows = [
        Row("import hf_dmt", "its libraries, already imported", details["hf_dmt s"], "s"),
        Row("the demo to its first update", "in all", sum(details.values()), "s", None, details),
    ]
    return finish(rows, args)


if __name__ == "__main__":
    main()
