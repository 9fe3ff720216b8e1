"""Signals as clusters send them: to a group of processes with image loaders, and to a launcher that dies of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kills import write_images

from hf_dmt.data.drawing.sampler import Draw
from hf_dmt.data.drawing.samples import PairDataset
from hf_dmt.data.reading.decoding import CorruptImage
from hf_dmt.training.run import preemption
from hf_dmt.training.settings import command_line
from scripts.run_dmt import main
from tests import forked

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "run_dmt.py")
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch"]
ONE = [*LAUNCHER, *["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="groups of processes and their signals")


def flags(data: Path, out: Path, *more: str) -> list[str]:
    text = (
        f"--dataset_name {data} --num_labeled 12 --model_a tiny:resnet --model_b tiny:resnet --image_size 16 "
        "--max_steps 4000 --supervised_epochs 100000 --labeled_batch_size 4 --pseudo_batch_size 4 --label_ratios 1.0 "
        "--logging_steps 2 --save_strategy epoch --augmentation weak --use_cpu true"
    )
    return [*text.split(), "--output_dir", str(out), *more]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)


def wait_for(what: str, log: Path, runs: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not log.exists() or what not in log.read_text(errors="replace"):
        assert runs() and time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.1)


def wait_until_empty(group: int, seconds: float = 60) -> None:
    """Until no process of a group is left."""
    deadline = time.monotonic() + seconds
    while left := subprocess.run(["pgrep", "-g", str(group)], capture_output=True, check=False).stdout.split():
        assert time.monotonic() < deadline, f"{len(left)} processes go on without the one that started them"
        time.sleep(0.2)


def checkpoints(out: Path) -> list[Path]:
    return [path for path in out.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]


def test_a_signal_to_the_group_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """Guards against image loaders that die of the signal, a run that reports a lack of memory, and losing hours since
    the last checkpoint."""
    data, out, log = write_images(tmp_path / "data", "image-classification"), tmp_path / "run", tmp_path / "log"
    process = forked.start(main, flags(data, out, "--dataloader_num_workers", "2"), log=log)
    wait_for("step 4/", log, process.is_alive)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 128 + signal.SIGTERM, said[-2000:]
    assert len(checkpoints(out)) == 1 and "SIGTERM: saving a checkpoint" in said
    wait_until_empty(process.pid, seconds=5)


def test_ctrl_c_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """Guards against losing everything since the last phase when a user interrupts a run."""
    data, out, log = write_images(tmp_path / "data", "image-classification"), tmp_path / "run", tmp_path / "log"
    process = forked.start(main, flags(data, out), log=log)
    wait_for("step 4/", log, process.is_alive)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    process.kill()  # one that went on would slow the other tests for minutes
    said = log.read_text()
    assert process.exitcode == 128 + signal.SIGINT, said[-2000:]
    assert "Ctrl-C again stops at once" in said and "SIGINT: saving a checkpoint" in said
    assert f"--output_dir {out} --resume_from_checkpoint true" in said and len(checkpoints(out)) == 1


def under_a_launcher(arguments: list[str]) -> int:
    """A launcher that dies of a signal without passing it on, as Accelerate's does."""
    os.environ["TORCHELASTIC_RUN_ID"] = "none"
    if child := os.fork():
        os.waitpid(child, 0)
        return 1
    return main(arguments)


def test_a_run_whose_launcher_died_stops_with_a_checkpoint(tmp_path: Path) -> None:
    """Guards against a run that continues without its launcher while the scheduler reports that the job has ended."""
    data, out, log = write_images(tmp_path / "data", "image-classification"), tmp_path / "run", tmp_path / "log"
    process = forked.start(under_a_launcher, flags(data, out), log=log)
    wait_for("step 4/", log, process.is_alive)
    assert process.pid is not None
    process.terminate()
    process.join(30)
    wait_until_empty(process.pid)
    assert len(checkpoints(out)) == 1 and "The launcher has died: saving a checkpoint" in log.read_text()


@pytest.mark.slow  # imports everything twice: the test above has another launcher, and the one below a process's name
def test_a_run_whose_real_launcher_died_stops_with_a_checkpoint(tmp_path: Path) -> None:
    """Guards against the same fault under `accelerate launch`, which starts a single process in a way of its own."""
    data, out, log = write_images(tmp_path / "data", "image-classification"), tmp_path / "run", tmp_path / "log"
    process = start([*ONE, SCRIPT, *flags(data, out)], log)
    wait_for("step 4/", log, lambda: process.poll() is None)
    process.terminate()
    process.wait(30)
    wait_until_empty(process.pid)
    assert len(checkpoints(out)) == 1 and "The launcher has died: saving a checkpoint" in log.read_text()


@pytest.mark.parametrize("name", ["accelerate launch", "a shell"])
def test_only_a_launcher_is_waited_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Guards against a run that stops when the shell that started it ends (`nohup`), although an earlier launcher left
    its variables in the environment, and against one that does not know `accelerate launch` with one process."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with subprocess.Popen(["sh", "-c", "read line", name], stdin=subprocess.PIPE) as parent:  # ends at the end of this
        monkeypatch.setattr(os, "getppid", lambda: parent.pid)
        found = preemption._launcher()
    assert found == (parent.pid if name == "accelerate launch" else None)


def fails_in_the_second_process(arguments: list[str]) -> int:
    """A run of two processes, of which the second one meets an image that cannot be read."""
    sample = PairDataset._sample

    def broken(self: PairDataset, draw: Draw) -> Any:
        if os.environ["RANK"] == "1" and draw.row == 3:
            raise CorruptImage("u/07.png cannot be read as an image: it is gone.")
        return sample(self, draw)

    PairDataset._sample = broken  # type: ignore[method-assign]
    command_line._FIRST_SPEAKS_S = 0.5
    return main(arguments)


def test_an_error_of_one_process_alone_is_said(tmp_path: Path) -> None:
    """Guards against an output with only the launcher's `exitcode: 1` when the second of two processes meets a bad
    file."""
    data, log = write_images(tmp_path / "data", "image-classification"), tmp_path / "log"
    first, second = forked.start_two(fails_in_the_second_process, flags(data, tmp_path / "run"), [log, log])
    second.join(60)
    first.kill()  # as the launcher does: it waits for the other one's gradients
    first.join()
    assert second.exitcode == 1, log.read_text()[-2000:]
    assert "error (process 1): u/07.png cannot be read as an image" in log.read_text()
