"""Settings of the processes that load images."""

from __future__ import annotations

import signal


def leave_signals_to_the_run(worker: int) -> None:
    """A `worker_init_fn` for `DataLoader`: only the run itself reacts to a signal that is sent to the whole process
    group.

    If the signal ended a worker, that would end the run, too, in the middle of an update and without a checkpoint.
    Workers end with the run.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
