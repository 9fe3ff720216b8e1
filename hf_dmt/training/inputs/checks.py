"""Validate the arguments of `DMTTrainer` before anything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, IntervalStrategy, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from ...models.pair import ModelPair
from ...models.weights.sharding import is_sharded
from ..scoring.evaluation import figures_of
from ..settings.arguments import DMTTrainingArguments
from ..settings.knobs import RUN_SETTINGS, Knobs
from ..settings.late_settings import check_late_settings
from .image_sets import by_name, check_filled, check_image_set, check_several_classes, title_of


def check_inputs(
    model: Any,
    args: DMTTrainingArguments,
    train_dataset: Any,
    eval_dataset: Any,
    test_dataset: Any,
    compute_metrics: Any,
    metrics: Any,
    callbacks: list[TrainerCallback] | None,
) -> None:
    """Refuse invalid arguments of `DMTTrainer` before anything is built."""
    if not isinstance(model, ModelPair):
        raise ValueError(
            f"DMTTrainer trains a ModelPair, got {type(model).__name__}. Build one with "
            "ModelPair.from_models(model_a, model_b, task=..., id2label=...)."
        )
    check_image_set(train_dataset, "train_dataset", model)
    if train_dataset is None or not len(train_dataset):
        raise ValueError(
            "train_dataset contains no labeled images; dynamic mutual training needs at least a few per class. Give "
            "map-style items {'image': PIL, 'label': int}, for masks {'image': PIL, 'mask': (H, W)}."
        )
    check_several_classes(train_dataset, "train_dataset", model)
    if eval_dataset is None:
        _check_needs_no_scores(args)
    if isinstance(eval_dataset, Mapping) and not eval_dataset:
        raise ValueError(
            "eval_dataset is an empty dictionary. Give {name: images}, a single set of images, or omit it."
        )
    check_image_set(test_dataset, "test_dataset", model)
    sets = by_name(eval_dataset)
    for name, images in sets.items():
        if not isinstance(name, str):
            raise ValueError(f"eval_dataset has the name {name!r}, but must have strings. Give {{'{name}': images}}.")
        check_filled(images, title_of(name), model)
    if not args.metric_is_default and compute_metrics is None and not metrics and not args.metrics:
        known = [f"{name}_{figure}" if name else figure for name in sets for figure in figures_of(model.task)]
        if (args.metric_for_best_model or "").removeprefix("eval_") not in known:
            raise ValueError(
                f"metric_for_best_model is {args.metric_for_best_model!r}, which is not a metric of {model.task}. "
                f"Choose one of: {', '.join(f'eval_{name}' for name in known)}; or give compute_metrics."
            )
    RUN_SETTINGS["metrics"].check(metrics)
    if args.knobs(model.task).phase_weights == "best":
        check_best_weights(args, has_eval=eval_dataset is not None)
    check_late_settings(args, model)
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, which would use DataParallel; that is not supported. "
            f"Start one process per GPU: accelerate launch --num_processes {args.n_gpu} your_script.py (`hf-dmt train` "
            "takes the same flag)."
        )
    check_processes(args.world_size, os.environ)
    if args.member_schedule == "alternate":
        check_alternate(args.knobs(model.task), args.world_size)
    if compute_metrics is not None and not callable(compute_metrics):
        raise ValueError(
            f"compute_metrics is {compute_metrics!r}, but must be a function of an EvalPrediction. Names of metrics "
            "go to `metrics`."
        )
    if compute_metrics is not None and model.task != "image-classification":
        raise ValueError(
            "compute_metrics would need the logits of every pixel in memory. Segmentation reports mean IoU, "
            "accuracies and per-class IoU without it; omit compute_metrics."
        )
    check_callbacks(callbacks or ())


def _check_needs_no_scores(args: DMTTrainingArguments) -> None:
    """Raises ValueError for a setting that depends on evaluations."""
    needs_them = {
        f"`metric_for_best_model={args.metric_for_best_model!r}`": not args.metric_is_default,
        "`load_best_model_at_end`": args.load_best_model_at_end,
        "`save_strategy='best'`": args.save_strategy == SaveStrategy.BEST,
        f"`eval_strategy='{args.eval_strategy.value}'`": args.eval_strategy != IntervalStrategy.NO,
    }
    if asked := [name for name, given in needs_them.items() if given]:
        raise ValueError(
            f"{asked[0]} needs scores, but there is no eval_dataset to measure them on. (`hf-dmt train` holds none out "
            "of fewer than 10 labeled images.) Give one, or omit the setting."
        )


def check_callbacks(callbacks: Any) -> None:
    """Raises ValueError unless `callbacks` is a list, and for a callback that would stop in the middle of a phase."""
    if not isinstance(callbacks, (list, tuple)):
        raise ValueError(f"callbacks is a {type(callbacks).__name__}, but must be a list: callbacks=[...].")
    kinds = [one if isinstance(one, type) else type(one) for one in callbacks]
    if any(issubclass(kind, EarlyStoppingCallback) for kind in kinds):
        raise ValueError(
            "EarlyStoppingCallback would stop the run in the middle of a phase. Lower `phase_epochs`, or keep the "
            "best phase with `load_best_model_at_end`."
        )


def check_unlabeled(method: str, knobs: Knobs, num_unlabeled: int) -> None:
    """Raises ValueError if a method needs unlabeled images and there are none."""
    if knobs.label_ratios and not num_unlabeled:
        raise ValueError(
            f"The method {method!r} learns from unlabeled images, but there are none. Give images without labels "
            "(`unlabeled_dataset`), use the labels of only a few images, or choose `method='supervised'`."
        )


def check_alternate(knobs: Knobs, world_size: int) -> None:
    """Raises ValueError if the models cannot be trained in turn."""
    if knobs.strategy == "online":
        raise ValueError(
            "member_schedule alternate trains one model while the other one is on the CPU, but strategy online needs "
            "both at every update. Use `strategy='phases'`, or omit member_schedule."
        )
    if world_size > 1:
        raise ValueError(
            f"member_schedule alternate needs a single process, but {world_size} are running: DDP holds both models "
            "on every device. Start one process, or shard the pair with FSDP "
            "(scripts/recipes/accelerate/eight_gpus_fsdp.yaml)."
        )


def check_best_weights(args: DMTTrainingArguments, *, has_eval: bool) -> None:
    """Raises ValueError if `phase_weights best` would silently behave like `last`."""
    if not has_eval or args.eval_strategy != IntervalStrategy.STEPS:
        looks = "there is no eval_dataset" if not has_eval else f"eval_strategy is {args.eval_strategy.value!r}"
        raise ValueError(
            f"phase_weights best chooses among several evaluations within a phase, but {looks}. Give eval images and "
            "`eval_strategy='steps'` with `eval_steps`, or leave phase_weights at last."
        )


def check_processes(world_size: int, environment: Mapping[str, str]) -> None:
    """Refuse to train on fewer processes than requested: each would process all batches, and the run would take that
    many times longer.

    `accelerate launch --cpu --num_processes 2`, and configurations of type MULTI_CPU or NO, silently start one process.
    They set a rendezvous address but no rank.

    Raises:
        ValueError: fewer than requested; names the command that starts them.
    """
    asked = int(environment.get("WORLD_SIZE", "1"))
    left_alone = "WORLD_SIZE" not in environment and {"MASTER_ADDR", "ACCELERATE_DYNAMO_MODE"} <= environment.keys()
    if asked > world_size or (left_alone and world_size == 1):
        raise ValueError(
            f"accelerate launch was asked for {'several' if left_alone else asked} processes, but only {world_size} "
            "started: --cpu, or --num_processes without --multi_gpu, never starts more than one. For N processes, on "
            "CPUs too: accelerate launch --multi_gpu --num_processes N --num_machines 1 --mixed_precision no "
            "--dynamo_backend no SCRIPT ..., or hf-dmt train --num_processes N ... For a single process, pass "
            "--num_processes 1 and unset MASTER_ADDR."
        )


def check_sharding(args: DMTTrainingArguments, knobs: Knobs, plugin: Any, environment: Mapping[str, str]) -> None:
    """Refuse what does not work, or would silently be ignored, when FSDP shards the parameters.

    Args:
        plugin: accelerate's FSDP settings; None if inactive.

    Raises:
        ValueError: what to change.
    """
    if plugin is None:
        if args.fsdp or environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise ValueError(
                "FSDP was requested, but it needs several processes with a GPU each; accelerate silently ignores it "
                "otherwise. Start with `accelerate launch --config_file "
                "scripts/recipes/accelerate/eight_gpus_fsdp.yaml --num_processes N`, or omit FSDP."
            )
        return
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"FSDP version {plugin.fsdp_version} was requested, but labeling between phases needs version 2. Set "
            "`fsdp_version: 2` in the accelerate config, as in scripts/recipes/accelerate."
        )
    if "FULL" not in str(plugin.state_dict_type):
        raise ValueError(
            f"FSDP with {plugin.state_dict_type} writes checkpoints that cannot be loaded as a pair. Set "
            "`fsdp_state_dict_type: FULL_STATE_DICT` in the accelerate config."
        )
    unlike = {
        "`ema_decay`": bool(knobs.ema_decay),
        "`restart='initial'`": knobs.restart == "initial",
        "`phase_weights='best'`": knobs.phase_weights == "best",
    }
    if asked := [flag for flag, given in unlike.items() if given]:
        raise ValueError(
            f"{asked[0]} keeps full copies of the weights, but FSDP has sharded them over the processes. Use DDP "
            "(scripts/recipes/accelerate/eight_gpus_ddp.yaml), or omit it."
        )


def check_wrapped(world_size: int, pair: nn.Module, wrapped: nn.Module) -> None:
    """Raises RuntimeError if several processes would train independently."""
    if world_size > 1 and wrapped is pair and not is_sharded(pair):
        raise RuntimeError(
            f"{world_size} processes are training, but the pair is not wrapped for distributed training, so each "
            "would train on its own. This is a bug in how training was started; start a new process with `accelerate "
            "launch`."
        )
