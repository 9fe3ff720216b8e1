"""`hf-dmt env`: versions and hardware, to paste into a bug report."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

import torch
from accelerate.commands.config.config_args import default_config_file

LIBRARIES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "huggingface-hub", "safetensors")
OPTIONAL = ("timm", "pillow-heif", "gradio", "imagehash", "deepspeed", "peft")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the facts, one per line; returns 0."""
    parser = argparse.ArgumentParser(prog="hf-dmt env", description=__doc__, allow_abbrev=False)
    parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    print("\n".join(f"- {name}: {value}" for name, value in facts().items()))
    return 0


def facts() -> dict[str, str]:
    """What a maintainer needs to know first. Contains no paths and no tokens."""
    versions = {name: _version(name) or "not installed" for name in ("hf-dmt", *LIBRARIES)}
    optional = [f"{name} {version}" for name in OPTIONAL if (version := _version(name))]
    return {
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **versions,
        "optional": ", ".join(optional) or "none",
        "devices": ", ".join(_devices()),
        "accelerate config": "default file" if os.path.isfile(default_config_file) else "none",
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    found = [f"{torch.cuda.get_device_name(n)} (CUDA {torch.version.cuda})" for n in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("Apple MPS")
    return [*found, f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads"]
