"""What a run was made with, beside the knobs of the method: the optimizer's settings, software and hardware."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from .arguments import DMTTrainingArguments

_SETTINGS = (
    "learning_rate",
    "learning_rate_b",
    "weight_decay",
    "warmup_steps",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "freeze_backbone",
)


def provenance(args: DMTTrainingArguments) -> dict[str, dict[str, Any]]:
    """`settings` and `environment` for `dmt_results.json`: no path, name or token of the owner is among them."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    settings = {name: getattr(args, name) for name in _SETTINGS}
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    return {
        "settings": {
            "optim": str(getattr(args.optim, "value", args.optim)),
            "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            **{name: value for name, value in settings.items() if value is not None and value is not False},
            "precision": precision,
        },
        "environment": {
            "device": f"{device} ({platform.machine()})",
            "python": platform.python_version(),
            **{name: _version(name) for name in ("hf-dmt", "torch", "transformers")},
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout
        return "from source"
