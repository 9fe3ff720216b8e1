"""Worker processes that load images: which signals they obey."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from hf_dmt.data.drawing.workers import leave_signals_to_the_run


def a_run_that_fails(said: Path) -> None:
    loader = iter(DataLoader(range(100), num_workers=2, worker_init_fn=leave_signals_to_the_run))  # type: ignore[arg-type]
    next(loader), next(loader)  # one batch of each worker: both have begun
    workers = loader._workers  # type: ignore[attr-defined]
    for number in (signal.SIGTERM, signal.SIGINT):
        subprocess.run(["kill", f"-{int(number)}", *(str(worker.pid) for worker in workers)], check=True)
    time.sleep(0.5)
    said.write_text(f"alive {sum(worker.is_alive() for worker in workers)}")
    raise ValueError("an error whose traceback keeps the loader")


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender of a signal is not known")
def test_an_error_ends_the_run_although_workers_are_left(tmp_path: Path) -> None:
    """Guards against a run that never ends after an error: Python sends SIGTERM to the remaining workers and waits for
    them, but they ignored it. The same signal from outside, such as one to the whole process group, must not end
    them."""
    # Forked, because importing torch again takes seconds. It ends its workers as the main process does.
    run = multiprocessing.get_context("fork").Process(target=a_run_that_fails, args=(tmp_path / "said",))
    run.start()
    run.join(30)
    ended = run.exitcode
    run.kill()
    assert ended == 1, "it waits for its workers" if ended is None else f"exit code {ended}"
    assert (tmp_path / "said").read_text() == "alive 2"
