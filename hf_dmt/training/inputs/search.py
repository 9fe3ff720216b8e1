"""Hyperparameter search: each trial is a full run in its own folder.

The stock search sets the trial's values on the trainer's arguments and trains the same trainer again. Here phases,
batch sizes and knobs are derived when a trainer is built, so they would stay those of the first trial.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ...models.pair import ModelPair
from ..settings.arguments import DMTTrainingArguments


def check_search(args: DMTTrainingArguments, hp_space: Any, model_init: Any, eval_dataset: Any, backend: Any) -> None:
    """Raises ValueError if a search could not compare its trials, or if all trials would be equal."""
    if str(getattr(backend, "value", backend)) != "optuna":
        raise ValueError(
            f"hyperparameter_search does not support backend {backend!r}; only 'optuna' is supported (pip install "
            "optuna)."
        )
    if hp_space is None:
        raise ValueError(
            "hyperparameter_search needs hp_space, a function of the trial, such as lambda trial: {'learning_rate': "
            "trial.suggest_float('learning_rate', 1e-5, 1e-3, log=True)}. The stock default varies num_train_epochs."
        )
    if model_init is None:
        raise ValueError(
            "hyperparameter_search trains a new pair in each trial: build the trainer with model_init=lambda: "
            "ModelPair.from_models(...) instead of model."
        )
    if eval_dataset is None:
        raise ValueError("hyperparameter_search compares trials on eval_dataset, but there is none. Give one.")
    if args.world_size > 1:
        raise ValueError(
            f"hyperparameter_search supports one process only, but {args.world_size} are running: start it without a "
            "launcher."
        )


def default_objective(args: DMTTrainingArguments, compute_objective: Any) -> tuple[str, str]:
    """The figure that a search compares by default, and in which direction. As in the stock Trainer, the name may lack
    its `eval_`, and a loss is better if it is smaller."""
    metric = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
    smaller = metric.endswith("loss") if args.greater_is_better is None else not args.greater_is_better
    return metric, "minimize" if smaller and compute_objective is None else "maximize"


def trial_arguments(args: DMTTrainingArguments, values: Mapping[str, Any], number: int | str) -> DMTTrainingArguments:
    """The arguments of one trial: those of the search with the trial's values, and a folder `run-<number>`.

    Raises:
        ValueError: an unknown argument, or a value that it does not take.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"hp_space returned {values!r}, but a dictionary is needed: {{'learning_rate': 1e-4}}.")
    names = {field.name for field in fields(DMTTrainingArguments)}
    if unknown := sorted(set(values) - names):
        raise ValueError(
            f"hp_space suggests {', '.join(unknown)}, which is not a field of DMTTrainingArguments, so all trials "
            "would be equal. Check the names, such as learning_rate, gamma1 or supervised_epochs."
        )
    # Not `setattr` as in the stock search: values must be checked, and some settings follow from others.
    folder = str(Path(args.output_dir) / f"run-{number}")
    # Pushed trials would overwrite each other in one repository, and none continues another run.
    own = {"output_dir": folder, "push_to_hub": False, "resume_from_checkpoint": None}
    trial = replace(args, **{**values, **own})
    trial.metric_is_default = args.metric_is_default  # `args` has the name that the default led to
    return trial


def train_trial(trainer: Any, trial: Any) -> TrainOutput:
    """Train one trial of a `DMTTrainer`'s search in a trainer of its own, and set the search's `objective`."""
    args = trial_arguments(trainer.args, trainer.hp_space(trial), trial.number)
    run = type(trainer)(new_pair(trainer.model_init, trial), args, *trainer.inputs.for_trainer())
    there = {type(one) for one in run.callback_handler.callbacks}
    for added in trainer.callback_handler.callbacks:  # also by `add_callback`
        if type(added) not in there:
            run.add_callback(added)
    output: TrainOutput = run.train()
    trainer.objective = trainer.compute_objective(final_figures(run))
    return output


def final_figures(run: Trainer) -> dict[str, Any]:
    """The figures of a finished trial. They are those of the evaluation at the end of its last phase, unless another
    checkpoint was loaded after that."""
    if run.args.load_best_model_at_end:
        figures: dict[str, Any] = run.evaluate()
        return figures
    return {key: value for entry in run.state.log_history for key, value in entry.items() if key.startswith("eval_")}


def new_pair(model_init: Any, trial: Any = None) -> ModelPair:
    """Call the user's function for a new pair; it may accept the trial, as in the stock Trainer.

    Raises:
        ValueError: it does not return a pair.
    """
    if not callable(model_init):
        raise ValueError(f"model_init is {model_init!r}, but must be a function that returns a ModelPair.")
    parameters = inspect.signature(model_init).parameters.values()
    pair = model_init(trial) if any(one.default is one.empty for one in parameters) else model_init()
    if not isinstance(pair, ModelPair):
        raise ValueError(
            f"model_init returned a {type(pair).__name__}; DMTTrainer trains a ModelPair. Return "
            "ModelPair.from_models(model_a, model_b, task=..., id2label=...)."
        )
    return pair
