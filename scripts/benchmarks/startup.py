"""What a run costs before its first update, and what a resume costs that has nothing left to do.

    python scripts/benchmarks/startup.py [--quick] [--threads N] [--cpu_time] [--json FILE]

Medians over new processes. Each imports the large libraries, then `hf_dmt`, then the program; runs a demo of a few
updates, of which the time to the first one counts; and resumes the finished run, which writes the models, the report
and the card again, with everything imported by then. `--quick` runs in this process, where much is imported already.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.benchmarks.measure import Row

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "torchvision", "datasets", "accelerate", "transformers.trainer", "transformers.models.auto")
FEW_UPDATES = ["--use_cpu", "true", "--supervised_epochs", "0.5", "--phase_epochs", "0.05", "--label_ratios", "1.0"]


def stages(*, threads: int, cpu_time: bool) -> dict[str, float]:
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
    import torch

    from hf_dmt.commands import train
    from hf_dmt.training.trainer import DMTTrainer

    torch.set_num_threads(threads)

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


def main(argv: Sequence[str] | None = None) -> list[Row]:
    # A new process must not have imported the libraries before it measures their import.
    sys.path.insert(0, str(ROOT))
    from scripts.benchmarks.measure import Row, finish, options

    args = options(__doc__, argv)
    call = f"stages(threads={args.threads}, cpu_time={args.cpu_time})"
    program = f"import json; from scripts.benchmarks.startup import stages; print(json.dumps({call}))"
    found = [stages(threads=args.threads, cpu_time=args.cpu_time)] if args.quick else []
    for _ in range(0 if args.quick else 5):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    before = ("libraries", "hf_dmt", "program", "set-up")
    details = {f"{name} s": statistics.median(one[name] for one in found) for name in before}
    rows = [
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
    return finish(rows, args)


if __name__ == "__main__":
    main()
