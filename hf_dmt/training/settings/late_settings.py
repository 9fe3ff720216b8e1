"""Try out settings that the libraries only read when training begins, so that none fails after something was written,
and `--check` reports them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import get_available_reporting_integrations

from ...data.members import MEMBERS
from ...models.pair import ModelPair
from .arguments import DMTTrainingArguments

_OWN_MODES = ("schedule_free", "schedulefree")  # these evaluate with other weights than they train
_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # these schedules need evaluations, which a phase may not have
_TRIED_UPDATES = 2


def check_late_settings(args: DMTTrainingArguments, pair: ModelPair) -> None:
    """Build trackers, optimizer and scheduler, make two updates of a single weight, and check that the models support
    what is turned on in them.

    Raises:
        ValueError: what cannot be built, why, and which flag to change.
    """
    _check_switches(args, pair)
    with _explained("`report_to`", ", ".join(args.report_to), "Install what it needs, or omit it"):
        trackers = get_reporting_integration_callbacks(args.report_to)
        # Not created without their package: some then fail a second time when they are deleted.
        if missing := [name for name in args.report_to if name not in get_available_reporting_integrations()]:
            raise ImportError(f"{missing[0]} is not installed")
        for tracker in trackers:
            tracker()
    if args.torch_compile:
        backend, mode = args.torch_compile_backend, args.torch_compile_mode
        with _explained("`torch_compile_backend`", str(backend), "Correct it, or omit it"):
            torch.compile(nn.Identity(), backend=backend)
        with _explained("`torch_compile_mode`", str(mode), "Correct it, or omit it"):
            torch.compile(nn.Identity(), backend=backend, mode=mode)
    _check_kinds(args)
    weight = nn.Parameter(torch.ones(2, 2))
    with _explained("`optim`", _word(args.optim), "Correct it or its `optim_args`, `adam_beta1`, `adam_beta2`"):
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, pair)
        of_a_model = ("params", "model", "optimizer_dict")
        optimizer = kind([weight], **{name: value for name, value in settings.items() if name not in of_a_model})
    _check_optim_args(args, pair, settings)
    schedule = _word(args.lr_scheduler_type)
    with _explained("`lr_scheduler_type`", schedule, "Correct it, `warmup_steps` or `lr_scheduler_kwargs`"):
        scheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(_TRIED_UPDATES),
            num_training_steps=_TRIED_UPDATES,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
        for _ in range(_TRIED_UPDATES):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            scheduler.step()


def _check_optim_args(args: DMTTrainingArguments, pair: ModelPair, settings: dict[str, Any]) -> None:
    """Raises ValueError for one that the optimizer does not read, as `momentun=0.9`, or any of AdamW."""
    given = [one for one in (args.optim_args or "").split(",") if one]
    for one in given:
        others = copy.copy(args)
        others.optim_args = ",".join(other for other in given if other is not one)
        if Trainer.get_optimizer_cls_and_kwargs(others, pair)[1] == settings:
            raise ValueError(
                f"`optim_args` {one} has no effect on `optim` {_word(args.optim)}, which does not read it, or has this "
                "value anyway. Correct its name, or omit it."
            )


def _check_kinds(args: DMTTrainingArguments) -> None:
    if any(name in _word(args.optim) for name in _OWN_MODES):
        raise ValueError(
            f"`optim` {_word(args.optim)} evaluates with other weights than it trains, but labels come from the "
            "trained weights. For averaged weights, use `ema_decay` with another optimizer."
        )
    if any(name in _word(args.lr_scheduler_type) for name in _BY_METRIC):
        raise ValueError(
            f"`lr_scheduler_type` {_word(args.lr_scheduler_type)} follows a metric over the whole run, but every "
            "phase has its own schedule here. Use linear, cosine or constant."
        )


def _check_switches(args: DMTTrainingArguments, pair: ModelPair) -> None:
    asked = args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)
    without = [name for name in MEMBERS if not getattr(pair.member(name), "supports_gradient_checkpointing", False)]
    if asked and without:
        kind = type(pair.member(without[0])).__name__
        raise ValueError(
            f"`gradient_checkpointing` is on, but model {without[0]} ({kind}) does not support it. Omit it, or save "
            "memory with `gradient_accumulation_steps` or `member_schedule='alternate'`."
        )


@contextmanager
def _explained(flag: str, value: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as problem:  # a library may raise anything for invalid values
        reason = " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
        raise ValueError(f"{flag} {value} cannot be used: {reason}. {remedy}.") from problem


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))
