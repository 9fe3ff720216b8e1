"""The ready settings for `accelerate launch`, read by accelerate's own parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "scripts" / "recipes"
CONFIGS = sorted((RECIPES / "accelerate").glob("*.yaml"))


def launched(config: Path) -> Any:
    """What `accelerate launch --config_file` makes of it."""
    return _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(config), "run_dmt.py"]))[0]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_every_setting(config: Path) -> None:
    """Guards against a key that accelerate does not know, which ends the launch, and a key that it drops, which
    silently changes what is started."""
    written = yaml.safe_load(config.read_text())
    loaded = load_config_from_file(str(config))
    for key, value in written.items():
        found = getattr(loaded, key)
        assert (found.value if hasattr(found, "value") else found) == value, key
    assert loaded.num_processes >= loaded.num_machines
    parsed = launched(config)
    assert parsed.num_processes == written["num_processes"]
    assert parsed.mixed_precision == written["mixed_precision"]
    assert parsed.multi_gpu == (written["distributed_type"] == "MULTI_GPU")
    assert parsed.use_fsdp == (written["distributed_type"] == "FSDP")


def test_each_says_how_it_is_started() -> None:
    """Guards against a config file without its command or with another file's, which would start something else."""
    assert len(CONFIGS) == 5
    for config in CONFIGS:
        assert f"--config_file {config.relative_to(ROOT).as_posix()}" in config.read_text()


def test_fsdp_is_asked_for_as_the_pair_needs_it() -> None:
    """The trainer refuses FSDP 1 and sharded checkpoints, so the ready settings must not ask for them."""
    config = RECIPES / "accelerate" / "eight_gpus_fsdp.yaml"
    parsed = launched(config)
    environment = prepare_multi_gpu_env(parsed)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


def test_two_processes_without_a_gpu_are_two() -> None:
    """Guards against MULTI_CPU, the type that sounds right, and `--cpu`: both start one process without an error."""
    parsed = launched(RECIPES / "accelerate" / "two_cpu_processes.yaml")
    assert parsed.multi_gpu and not parsed.cpu and not parsed.use_cpu
    assert prepare_multi_gpu_env(parsed)["ACCELERATE_MIXED_PRECISION"] == "no"
