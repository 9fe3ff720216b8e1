"""Worker processes that load images: which signals they obey."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest


@pytest.mark.skipif(not hasattr(__import__("signal"), "sigwaitinfo"), reason="the sender of a signal is not known")
def test_an_error_ends_the_run_although_workers_are_left() -> None:
    """Guards against a run that never ends after an error: Python sends SIGTERM to the remaining workers and waits for
    them, but they ignored it. The same signal from outside, such as one to the whole process group, must not end
    them."""
    script = textwrap.dedent("""
        import os, signal, subprocess, time
        from torch.utils.data import DataLoader
        from hf_dmt.data.drawing.workers import leave_signals_to_the_run

        loader = iter(DataLoader(range(100), num_workers=2, worker_init_fn=leave_signals_to_the_run))
        next(loader), next(loader)  # one batch of each worker: both have begun
        workers = [worker.pid for worker in loader._workers]
        for number in (signal.SIGTERM, signal.SIGINT):
            subprocess.run(["kill", f"-{int(number)}", *map(str, workers)], check=True)
        time.sleep(0.5)
        print("alive", sum(worker.is_alive() for worker in loader._workers), flush=True)
        raise ValueError("an error whose traceback keeps the loader")
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ}, check=False
    )
    assert done.returncode == 1 and "an error whose traceback" in done.stderr, done.stderr
    assert "alive 2" in done.stdout
