"""Processes that start with everything imported, forked from a server that has imported it once.

Importing takes six seconds of CPU time, more than most runs of the tests. Whatever is read during import (`HF_HOME`,
`HF_HUB_OFFLINE`, whether a package is installed) can only be tested in a process that is started from scratch.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_IMPORTED = ["hf_dmt.commands.train", "hf_dmt.commands.predict", "matplotlib.pyplot"]


def start(
    run: Callable[..., int | None], *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """A process that ends with the exit code that `run` returns.

    It leads a session and a group of its own, as a process that a scheduler starts, and draws no figures.

    Args:
        run: importable by name, like everything in `arguments`.
        log: gets what it and its own processes print.
        environment: what differs from the environment of the tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    process = context.Process(target=_begin, args=(run, arguments, str(log), dict(environment or {})))
    process.start()
    return process


def start_two(run: Callable[[list[str]], int | None], arguments: list[str], logs: list[Path]) -> list[BaseProcess]:
    """Two processes that train together on CPUs, told what a launcher tells them. The first one writes to `logs[0]`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(run, arguments, log=log, environment={**told, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, log in enumerate(logs)
    ]


def _begin(run: Callable[..., int | None], arguments: tuple[Any, ...], log: str, environment: dict[str, str]) -> None:
    import torch

    from hf_dmt.report import figures

    gc.freeze()  # every training ends in gc.collect(), which need not walk through the libraries
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(output, number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115  (until the process ends)
    os.environ.update(environment)
    figures.PANELS = []
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # data workers start as in a run of the command line
    sys.exit(run(*arguments))
