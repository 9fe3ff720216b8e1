"""The processes that load images beside a run."""

from __future__ import annotations

import signal


def leave_signals_to_the_run(worker: int) -> None:
    """For a `DataLoader`'s `worker_init_fn`: a signal that is sent to the whole group is for the run to answer.

    A worker that it ended would end the run too, in the middle of an update and without a checkpoint. Workers end when
    the run does.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
