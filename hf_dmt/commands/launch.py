"""Start a command on as many processes as Accelerate's settings ask for.

What `accelerate launch` would do with the user's `accelerate config`, with one difference: a run of one process runs in
this one. A launcher around it would hold back signals, and importing torch twice takes seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from accelerate.utils import patch_environment
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..training.settings.command_line import UsageError, print_error

# Passed on to Accelerate under the same names.
PASSED_ON = {
    "num_processes": "Processes to start, one per GPU (default: `accelerate config`, else one per GPU found)",
    "num_machines": "Machines that take part",
    "machine_rank": "Number of this machine, from 0",
    "main_process_ip": "Address of machine 0",
    "main_process_port": "Port on machine 0; another one for each run on a machine",
    "gpu_ids": "GPUs to use, such as 0,1",
}
# What launchers set in the processes that they start.
_LAUNCHED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The launcher's flags, for parsing and for a command's help."""
    parser.add_argument(
        "--accelerate_config", metavar="FILE", help="Settings for Accelerate (default: what `accelerate config` wrote)"
    )
    for name, about in PASSED_ON.items():
        parser.add_argument(f"--{name}", metavar=name.rpartition("_")[2].upper(), help=about)


def launcher_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flags(parser)
    return parser


def start(command: str, argv: Sequence[str], run: Callable[[list[str]], int]) -> int:
    """Run a command here, or as `python -m hf_dmt COMMAND` in processes of its own.

    Args:
        command: its name, for the processes. argv: its flags and the launcher's. run: the command itself.

    Returns:
        The exit code; of several processes, that of the first which failed.
    """
    given, flags = launcher_parser().parse_known_args(list(argv))
    settings = {name: value for name, value in vars(given).items() if value is not None}
    if {"-h", "--help", "--help_all"} & set(flags):
        return run(flags)
    try:
        if any(name in os.environ for name in _LAUNCHED):
            if settings:
                raise UsageError(
                    f"--{next(iter(settings))} is for the launcher, and this process was started by one already. Give "
                    "it to that launcher (accelerate launch, torchrun), or call hf-dmt without one."
                )
            return run(flags)
        options = _options(command, settings, flags)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    if _one_process(options):
        _, environment = prepare_simple_launcher_cmd_env(options)
        # The launcher gives each process one thread; in a process that is alone torch has chosen already.
        environment.pop("OMP_NUM_THREADS", None)
        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        with patch_environment(**changed):
            return run(flags)
    try:
        # Of processes that are not to use a GPU Accelerate's launcher for several processes says nothing to them.
        on_cpu = {} if torch.accelerator.is_available() else {"ACCELERATE_USE_CPU": "true"}
        with _quietly(), patch_environment(**on_cpu):
            launch_command(options)
    except ChildFailedError as problem:  # the process itself has said why
        return _exit_code(problem.get_first_failure()[1].exitcode)
    except SignalException as problem:
        return 128 + int(problem.sigval)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    return 0


def _options(command: str, settings: dict[str, str], flags: list[str]) -> argparse.Namespace:
    """What `accelerate launch` makes of the flags and of the user's configuration."""
    config = settings.pop("accelerate_config", None)
    if config is not None and not os.path.isfile(config):
        raise UsageError(f"--accelerate_config {config!r} is not a file. Write one with `accelerate config`.")
    for name in ("num_processes", "num_machines", "machine_rank", "main_process_port"):
        if not settings.get(name, "1").isdigit():
            raise UsageError(f"--{name} {settings[name]!r} is not a whole number. Give one, such as 2.")
    given = [word for name, value in settings.items() for word in (f"--{name}", value)]
    given += ["--config_file", config] if config else []
    with _quietly():
        options = launch_command_parser().parse_args([*given, "--module", "hf_dmt", command, *flags])
        options, *_ = _validate_launch_command(options)
    options.num_machines = options.num_machines or 1
    kinds = (options.multi_gpu, options.use_fsdp, options.use_deepspeed, options.use_megatron_lm, options.tpu)
    if (options.num_processes or 0) > 1 and not any(kinds):
        # Accelerate would start one process here and say nothing: several on CPUs count as `multi_gpu`.
        options.multi_gpu = True
    return options


def _one_process(options: argparse.Namespace) -> bool:
    sharded = options.use_fsdp or options.use_deepspeed or options.use_megatron_lm or options.tpu
    return not sharded and (options.num_processes or 0) <= 1 and options.num_machines == 1


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Accelerate's list of values that nobody passed, and torchrun's second account of a failure."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
