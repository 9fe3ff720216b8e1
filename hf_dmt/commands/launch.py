"""Start a command on as many processes as Accelerate is configured for.

This does what `accelerate launch` would do with the user's `accelerate config`, except that a run with one process
stays in this process: a launcher around it would intercept signals, and importing torch twice takes seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import yaml
from accelerate.commands.config import default_config_file
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from accelerate.utils import patch_environment
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..training.settings.command_line import UsageError
from ..training.settings.terminal import print_error

# Passed on to Accelerate under the same names.
PASSED_ON = {
    "num_processes": "Number of processes (default: `accelerate config`, or one per GPU)",
    "num_machines": "Number of machines",
    "machine_rank": "Index of this machine, from 0",
    "main_process_ip": "Address of machine 0",
    "main_process_port": "Port on machine 0; use a different one for each run on a machine",
    "gpu_ids": "GPUs to use, such as 0,1",
}
# Environment variables that launchers set for their processes.
_LAUNCHED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The launcher's flags, for parsing and for the help of a command."""
    parser.add_argument(
        "--accelerate_config",
        metavar="FILE",
        help="Accelerate config file (default: the one written by `accelerate config`)",
    )
    for name, about in PASSED_ON.items():
        parser.add_argument(f"--{name}", metavar=name.rpartition("_")[2].upper(), help=about)


def launcher_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flags(parser)
    return parser


def start(command: str, argv: Sequence[str], run: Callable[[list[str]], int]) -> int:
    """Run a command in this process, or as `python -m hf_dmt COMMAND` in several processes.

    Returns:
        The exit code; with several processes, that of the first one that failed.
    """
    given, flags = launcher_parser().parse_known_args(list(argv))
    settings = {name: value for name, value in vars(given).items() if value is not None}
    if {"-h", "--help", "--help_all"} & set(flags):
        return run(flags)
    try:
        if any(name in os.environ for name in _LAUNCHED):
            if settings:
                raise UsageError(
                    f"--{next(iter(settings))} is for the launcher, but this process was already started by one. Pass "
                    "it to that launcher (accelerate launch, torchrun), or run hf-dmt without one."
                )
            return run(flags)
        options = _options(command, settings, flags)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    if _one_process(options):
        _, environment = prepare_simple_launcher_cmd_env(options)
        # Launched processes get one thread each; a single process keeps the number that torch chose.
        environment.pop("OMP_NUM_THREADS", None)
        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        with patch_environment(**changed):
            return run(flags)
    try:
        # Accelerate's multi-process launcher does not tell its processes that they must not use a GPU.
        on_cpu = {} if torch.accelerator.is_available() else {"ACCELERATE_USE_CPU": "true"}
        with _quietly(), patch_environment(**on_cpu):
            launch_command(options)
    except ChildFailedError as problem:  # the process has already printed the reason
        code: int = problem.get_first_failure()[1].exitcode
        return 128 - code if code < 0 else code
    except SignalException as problem:
        return 128 + int(problem.sigval)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    return 0


def _options(command: str, settings: dict[str, str], flags: list[str]) -> argparse.Namespace:
    """The options that `accelerate launch` derives from the flags and the user's configuration."""
    config = settings.pop("accelerate_config", None)
    if config is not None and not os.path.isfile(config):
        raise UsageError(f"--accelerate_config {config!r} is not a file. Create one with `accelerate config`.")
    for name in ("num_processes", "num_machines", "machine_rank", "main_process_port"):
        if not settings.get(name, "1").isdigit():
            raise UsageError(f"--{name} must be a whole number, got {settings[name]!r}; try 2.")
    given = [word for name, value in settings.items() for word in (f"--{name}", value)]
    given += ["--config_file", config] if config else []
    with _quietly():
        options = launch_command_parser().parse_args([*given, "--module", "hf_dmt", command, *flags])
        try:
            options, *_ = _validate_launch_command(options)
        except (ValueError, TypeError, AttributeError, yaml.YAMLError) as problem:
            reason = " ".join(str(problem).split())
            raise UsageError(
                f"The Accelerate config {config or default_config_file!r} cannot be used ({reason}). Correct it, or "
                "write it again with `accelerate config`."
            ) from problem
    options.num_machines = options.num_machines or 1
    kinds = (options.multi_gpu, options.use_fsdp, options.use_deepspeed, options.use_megatron_lm, options.tpu)
    if (options.num_processes or 0) > 1 and not any(kinds):
        # Accelerate would silently start a single process here: several CPU processes count as `multi_gpu`.
        options.multi_gpu = True
    return options


def _one_process(options: argparse.Namespace) -> bool:
    sharded = options.use_fsdp or options.use_deepspeed or options.use_megatron_lm or options.tpu
    return not sharded and (options.num_processes or 0) <= 1 and options.num_machines == 1


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress Accelerate's list of default values and torchrun's second report of a failure."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
