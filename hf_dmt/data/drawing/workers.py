"""Settings of the processes that load images."""

from __future__ import annotations

import os
import signal
from threading import Thread


def leave_signals_to_the_run(worker: int) -> None:
    """A `worker_init_fn` for `DataLoader`: only the run itself reacts to a signal that is sent to the whole process
    group.

    If the signal ended a worker, that would end the run, too, in the middle of an update and without a checkpoint. But
    a worker must obey the run: after an error, Python ends the workers that are left with SIGTERM and then waits for
    them, forever if they ignore it. So what counts is who sent the signal. Where that is not known (macOS), workers
    only ignore Ctrl-C.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        Thread(target=_obey, args=(os.getppid(), signals), daemon=True).start()
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _obey(run: int, signals: set[signal.Signals]) -> None:
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGTERM and received.si_pid == run:
            os._exit(0)
