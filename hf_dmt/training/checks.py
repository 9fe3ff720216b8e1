"""What a user can get wrong about `DMTTrainer`'s arguments, found before anything is built."""

from __future__ import annotations

import copy
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from ..models.pair import ModelPair
from .arguments import DMTTrainingArguments


def check_inputs(
    model: Any,
    args: DMTTrainingArguments,
    train_dataset: Any,
    eval_dataset: Any,
    compute_metrics: Any,
    callbacks: list[TrainerCallback] | None,
) -> None:
    """Everything about the arguments of `DMTTrainer` that cannot work, before anything is built."""
    if not isinstance(model, ModelPair):
        raise ValueError(
            f"DMTTrainer trains a ModelPair, got {type(model).__name__}. Build one with "
            "ModelPair.from_models(model_a, model_b, task=..., id2label=...)."
        )
    if train_dataset is None or not len(train_dataset):
        raise ValueError(
            "train_dataset holds no labeled images; dynamic mutual training needs at least a few per class."
        )
    if eval_dataset is None and not args.metric_is_default:
        raise ValueError(
            f"metric_for_best_model is {args.metric_for_best_model!r}, but there is no eval_dataset to measure it "
            "on. Give "
            "one, or leave the metric out."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, which would use DataParallel; that is not supported. "
            "Start one "
            f"process per GPU: accelerate launch --multi_gpu --num_processes {args.n_gpu} scripts/run_dmt.py ..."
        )
    if compute_metrics is not None and model.task != "image-classification":
        raise ValueError(
            "compute_metrics would need the logits of every pixel in memory. Segmentation reports mean IoU, "
            "accuracies and "
            "per-class IoU by itself; leave compute_metrics out."
        )
    if any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks or ()):
        raise ValueError(
            "EarlyStoppingCallback would end the run in the middle of a phase. Lower --phase_epochs, or keep the "
            "best phase "
            "with --load_best_model_at_end."
        )
    if args.deepspeed and model is not None:
        raise ValueError(
            "DeepSpeed restarts its optimizer only with the process, and each phase needs a new one. Use DDP or FSDP."
        )


def without_token(args: DMTTrainingArguments) -> DMTTrainingArguments:
    """The stock file holds the Hub token in clear, and is pushed."""
    safe = copy.copy(args)
    safe.hub_token = None
    return safe
