"""The facts of a run for its results file: task, knobs, image counts, optimizer settings, software, hardware."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ...models.pair import ModelPair
from ..settings.arguments import DMTTrainingArguments
from ..settings.knobs import Knobs, as_results
from ..settings.methods import resolve

_SETTINGS = (
    *("learning_rate", "learning_rate_b", "supervised_learning_rate", "weight_decay", "warmup_steps", "max_grad_norm"),
    *("gradient_accumulation_steps", "train", "train_b", "layer_decay", "freeze_batch_norm"),
    *("augmentation", "augmentation_b", "member_schedule"),
)


def run_facts(args: DMTTrainingArguments, pair: ModelPair, knobs: Knobs, **image_sets: Any) -> dict[str, Any]:
    """The top-level entries of `dmt_results.json`; contains no local paths, user names or tokens.

    Args:
        image_sets: labeled, unlabeled, eval, test; each is counted, None as 0.
    """
    return {
        "task": pair.task,
        "method": args.method,
        "knobs": as_results(knobs),
        "num_labels": len(pair.class_names),
        "class_names": pair.class_names,
        **{f"num_{role}": len(images or ()) for role, images in image_sets.items()},
        "world_size": args.world_size,
        "seed": args.seed,
        **_settings_and_environment(args, pair),
    }


def _settings_and_environment(args: DMTTrainingArguments, pair: ModelPair) -> dict[str, dict[str, Any]]:
    settings = {name: getattr(args, name) for name in _SETTINGS}
    if args.member_schedule == "together":  # the default, so not listed on the card
        del settings["member_schedule"]
    if args.train == "all":
        del settings["train"]
    if args.max_steps > 0:  # then phases were shorter than the epochs among the knobs say
        settings["max_steps"] = args.max_steps
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    return {
        "settings": {
            "optim": str(getattr(args.optim, "value", args.optim)),
            "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            **{name: value for name, value in settings.items() if value is not None and value is not False},
            "image_size": pair.image_size,
            **({} if args.horizontal_flip else {"horizontal_flip": False}),
            # may come from accelerate's config file
            "precision": "fp32" if args.mixed_precision == "no" else args.mixed_precision,
        },
        "environment": {
            "device": f"{device} ({platform.machine()})",
            "python": platform.python_version(),
            **{name: _version(name) for name in ("hf-dmt", "torch", "transformers")},
        },
    }


def setting_flags(results: Mapping[str, Any]) -> list[str]:
    """The flags that give another run the recorded settings, as words of a command; values as by default are left
    out, and so is what belongs to the models or the machine."""
    if not results.get("knobs"):
        return []
    preset = as_results(resolve(results["method"], results["task"], {}))
    plain = {one.name: getattr(one.default, "value", one.default) for one in fields(DMTTrainingArguments)}
    recorded = {name: value for name, value in results.get("settings", {}).items() if name in plain}
    words = [] if results["method"] == "dmt" else ["--method", results["method"]]
    for name, value in {**recorded, **results["knobs"]}.items():
        if value != (plain if name in recorded else preset).get(name):
            shown = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in shown)]
    return words


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # running from a checkout
        return "from source"


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: of the device, or of the process on a CPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows, where importing the package must still work
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
