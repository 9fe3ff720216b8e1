"""Hyperparameter search: each trial is a whole run of its own, in its own folder.

The stock search sets the trial's values on the trainer's arguments and trains the same trainer again. Here the phases,
the batch shape and the knobs follow from the arguments when a trainer is built, so they would stay those of the first.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...models.pair import ModelPair
from ..settings.arguments import DMTTrainingArguments


def check_search(args: DMTTrainingArguments, hp_space: Any, model_init: Any, eval_dataset: Any, backend: Any) -> None:
    """Raises ValueError where a search could not compare its trials, or would compare equal ones."""
    if str(getattr(backend, "value", backend)) != "optuna":
        raise ValueError(
            f"hyperparameter_search has backend {backend!r}; only 'optuna' is supported (pip install optuna)."
        )
    if hp_space is None:
        raise ValueError(
            "hyperparameter_search needs hp_space, a function of the trial, such as lambda trial: {'learning_rate': "
            "trial.suggest_float('learning_rate', 1e-5, 1e-3, log=True)}. The stock one varies num_train_epochs."
        )
    if model_init is None:
        raise ValueError(
            "hyperparameter_search trains a new pair in each trial: build the trainer with model_init=lambda: "
            "ModelPair.from_models(...) in place of model."
        )
    if eval_dataset is None:
        raise ValueError("hyperparameter_search compares trials on eval_dataset, and there is none. Give one.")
    if args.world_size > 1:
        raise ValueError(f"hyperparameter_search is for one process, and {args.world_size} run: start it without one.")


def trial_arguments(args: DMTTrainingArguments, values: Mapping[str, Any], number: int | str) -> DMTTrainingArguments:
    """The arguments of one trial: those of the search with the trial's values, and `run-<number>` below its folder.

    Raises:
        ValueError: a value for something that is no argument.
    """
    names = {field.name for field in fields(DMTTrainingArguments)}
    if unknown := sorted(set(values) - names):
        raise ValueError(
            f"hp_space suggests {', '.join(unknown)}, which is no field of DMTTrainingArguments, so every trial would "
            "be the same. Check the names, such as learning_rate, gamma1 or supervised_epochs."
        )
    trial = copy.copy(args)
    for name, value in values.items():
        setattr(trial, name, value)
    trial.output_dir = str(Path(args.output_dir) / f"run-{number}")
    trial.push_to_hub = False  # the trials would overwrite each other in one repository
    return trial


def new_pair(model_init: Any, trial: Any = None) -> ModelPair:
    """A pair as the user's function makes it; it may take the trial, as in the stock Trainer.

    Raises:
        ValueError: something else than a function that returns a pair.
    """
    parameters = inspect.signature(model_init).parameters.values()
    pair = model_init(trial) if any(one.default is one.empty for one in parameters) else model_init()
    if not isinstance(pair, ModelPair):
        raise ValueError(
            f"model_init returned a {type(pair).__name__}; DMTTrainer trains a ModelPair. Return "
            "ModelPair.from_models(model_a, model_b, task=..., id2label=...)."
        )
    return pair
