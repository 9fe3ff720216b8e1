"""`DMTTrainingArguments`: all arguments of `TrainingArguments` plus the knobs of the method."""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import IntervalStrategy, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy

from ...models.weights.trained_parts import check_choice
from .declaration import as_arguments, is_number, without_word, without_words
from .knobs import KNOBS, RUN_SETTINGS, Knobs, RunSettings
from .methods import PRESETS, resolve
from .resuming import ACCEPTABLE

if TYPE_CHECKING:

    @dataclass
    class _Declared(RunSettings, Knobs):
        """The settings declared in knobs.py as a type checker sees them: names, types and defaults."""

else:
    _Declared = as_arguments("_Declared", Knobs, RunSettings)

# Stock settings that another setting replaces, with the reason; each is refused unless left at its default.
REPLACED: dict[str, str] = {
    "num_train_epochs": "training runs in phases. Use `supervised_epochs` and `phase_epochs`",
    "per_device_train_batch_size": "batch sizes are per update. Use `labeled_batch_size` and `pseudo_batch_size`",
    "label_smoothing_factor": "the loss already weights every label. Use `gamma1` and `gamma2`",
    "auto_find_batch_size": "step counts follow from the batch sizes. Set `labeled_batch_size` and `pseudo_batch_size`",
    "train_sampling_strategy": "labeled and pseudo-labeled images are drawn in a fixed proportion. Use "
    "`labeled_batch_size` and `pseudo_batch_size`",
    "dataloader_drop_last": "the sample streams are endless and have no last batch. Omit it",
    "ignore_data_skip": "a resumed phase continues where it stopped. Omit it",
    "dataloader_persistent_workers": "workers that outlive a phase would train on the previous phase's labels. Omit it",
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint and stops. Omit it",
    "save_only_model": "a run could not be resumed from such checkpoints. Use `save_total_limit=1` to save space",
    "data_seed": "the order of the images follows from `seed`. Use that",
    "bf16_full_eval": "labeling and evaluation use the precision of training. Use `bf16`",
    "fp16_full_eval": "labeling and evaluation use the precision of training. Use `fp16`",
    "prediction_loss_only": "an evaluation always returns all metrics. Omit it",
    "label_names": "labels are the items' 'label' and 'mask'. Omit it",
    "dataloader_in_order": "batches always come in order. Omit it",
    "dataloader_multiprocessing_context": "workers use the default start method. Omit it",
    "neftune_noise_alpha": "embedding noise is for language models. Omit it",
    "use_liger_kernel": "its kernels are for language models. Omit it",
    "batch_eval_metrics": "compute_metrics receives the whole evaluation set. Omit it",
    "eval_use_gather_object": "metrics are summed, not gathered. Omit it",
    "eval_accumulation_steps": "metrics are already summed batch by batch. Omit it",
    "eval_do_concat_batches": "compute_metrics receives the whole evaluation set in one array. Omit it",
    "include_for_metrics": "compute_metrics receives logits and labels. Omit it",
    "include_num_input_tokens_seen": "tokens are counted for language models. Omit it",
    "parallelism_config": "a model is never split over devices. Use DDP or FSDP",
}

# Numbers that the stock class does not check: their type, the smallest valid value, and a hint.
_LEAST: dict[str, tuple[type, float, str]] = {
    "learning_rate": (float, 0, "try 5e-5"),
    "weight_decay": (float, 0, "try 0.01, or 0 for none"),
    "max_grad_norm": (float, 0, "try 1.0, or 0 for no clipping"),
    "gradient_accumulation_steps": (int, 1, "1 is the default"),
    "per_device_eval_batch_size": (int, 1, "16 is the default"),
    "dataloader_num_workers": (int, 0, "0 loads images in the main process"),
    "dataloader_prefetch_factor": (int, 1, "2 is the default"),
    "seed": (int, 0, "42 is the default"),
    "max_steps": (int, -math.inf, ""),
    "logging_steps": (float, 1e-9, "give a number of updates, or a fraction of the run below 1"),
    "eval_steps": (float, 0, "give a number of updates, or a fraction of the run below 1"),
    "eval_delay": (float, 0, "0 begins with the first"),
    "save_steps": (float, 1e-9, "give a number of updates, or a fraction of the run below 1"),
    "save_total_limit": (int, 1, "omit it to keep all checkpoints"),
}

_BEST = ("metric_for_best_model", "greater_is_better")  # what chooses the best pair


@dataclass
class DMTTrainingArguments(_Declared, TrainingArguments):
    """Arguments of `DMTTrainer`: those of `TrainingArguments` plus the settings in `hf_dmt/training/settings/knobs.py`.

    Knobs of the method default to None, which means the value of the `--method` preset, or else the task's default
    (see docs/settings.md). Other defaults that differ from `TrainingArguments`: `logging_steps` is 10,
    `per_device_eval_batch_size` is 16 (also used for labeling), `logging_nan_inf_filter` is off, and
    `metric_for_best_model` is the mean of a and b.
    """

    method: str = field(default="dmt", metadata={"help": f"Preset of the knobs below: {', '.join(PRESETS)}."})
    logging_steps: float = field(
        default=10, metadata={"help": "Updates between log entries (below 1: fraction of the run)."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Off: it waits for the device at every update, and non-finite losses are counted as skipped."
        },
    )
    per_device_eval_batch_size: int = field(
        default=16, metadata={"help": "Images per batch and process for evaluation and labeling."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start over in a folder that holds a run; the old run is deleted."}
    )
    accept_changes: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Settings that this resume may change although they affect the weights: {', '.join(ACCEPTABLE)}."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always off: batches are nested by model."})

    def __post_init__(self) -> None:
        # The stock default metric is the loss. Ours is the task's metric, which only the trainer knows.
        self.metric_is_default = self.metric_for_best_model is None
        if self.metric_is_default and self.greater_is_better is False:
            raise ValueError(
                "`greater_is_better=False` needs a `metric_for_best_model`: the default is not the loss, but the "
                "accuracy or mean IoU, where greater is better. Give `metric_for_best_model='loss'`, or omit it."
            )
        if self.load_best_model_at_end:
            _save_where_it_is_scored(self)
        for name, (kind, *_) in _LEAST.items():
            value, whole = getattr(self, name), kind is int
            missing = value is None and TrainingArguments.__dataclass_fields__[name].default is None
            if not missing and not is_number(value, whole=whole):
                raise ValueError(f"`{name}` is {value!r}; give a {'whole ' * whole}number.")
        for name in getattr(TrainingArguments, "_VALID_DICT_FIELDS", ()):
            _check_json(name, getattr(self, name, None))
        for name in ("bf16", "fp16"):
            if getattr(self, name) and not torch.accelerator.is_available() and not (name == "bf16" and self.use_cpu):
                on_cpu = ", or add `use_cpu=True` to compute in bfloat16 on the CPU" if name == "bf16" else ""
                raise ValueError(f"`{name}` needs a GPU, and there is none. Pass `{name}=False`{on_cpu}.")
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            raise ValueError(
                "DeepSpeed is not supported: it cannot restart its optimizer within a process, but each phase needs a "
                "new one. Omit `deepspeed` and choose DDP or FSDP in `accelerate config`."
            )
        if vars(self)["report_to"] is None:
            self.__dict__["report_to"] = "none"  # the stock class makes a tracker called None of it
        super().__post_init__()
        for name, (_, least, instead) in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"`{name}` must be finite and at least {least:g}, got {value:g}; {instead}.")
        if self.seed >= 2**32:
            raise ValueError(f"`seed` must be below 2**32, got {self.seed}; 42 is the default.")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(
                f"`max_steps` must be at least 1, got {self.max_steps}: it limits the updates of every phase. Omit it "
                "for full phases."
            )
        stock = TrainingArguments.__dataclass_fields__
        for name, instead in REPLACED.items():
            # An empty list is the default of a field that has a factory.
            if name in stock and getattr(self, name) not in (stock[name].default, []):
                raise ValueError(f"`{name}` {getattr(self, name)} is not supported: {instead}.")
        _check_accelerator(self.accelerator_config)
        for name, one in (KNOBS | RUN_SETTINGS).items():
            setattr(self, name, without_words(one, getattr(self, name)))
            one.check(getattr(self, name))
        if not isinstance(self.accept_changes or [], (list, tuple)):
            raise ValueError(
                f"`accept_changes` is {self.accept_changes!r}, but must be a list: "
                f"accept_changes=[{self.accept_changes!r}]."
            )
        if unknown := [name for name in self.accept_changes or () if name not in ACCEPTABLE]:
            raise ValueError(
                f"`accept_changes` {unknown[0]!r} is not a setting that a resume may change; choose from: "
                f"{', '.join(ACCEPTABLE)}. Any other change requires a new run."
            )
        if self.supervised_learning_rate is not None and self.learning_rate == 0:
            raise ValueError(
                f"`supervised_learning_rate={self.supervised_learning_rate:g}` scales the rates of both models, but "
                "`learning_rate` is 0, which no factor can change. Give a `learning_rate` above 0."
            )
        if self.freeze_backbone:
            if self.train not in ("all", "head"):
                raise ValueError(
                    f"`freeze_backbone=True` means `train='head'`, but `train` is {self.train!r}. Use only one of them."
                )
            self.train = "head"
        check_choice("train", self.train)
        check_choice("train_b", self.train_b or self.train)
        self.remove_unused_columns = False
        self.resume_from_checkpoint: str | bool | None = without_word(self.resume_from_checkpoint) or None
        self._checked = self._values()

    def _values(self) -> dict[str, Any]:
        # Without tokens: checkpoints contain these arguments.
        return {one.name: getattr(self, one.name) for one in fields(self) if not one.name.endswith("_token")}

    def check_again(self) -> None:
        """Check everything again if a field was set since the last check, as in `args.num_train_epochs = 5` or by
        `args.set_training(...)`.

        Raises:
            ValueError: as when the arguments are made.
        """
        if (now := self._values()) == self._checked:
            return
        if self.metric_is_default and all(now[name] == self._checked[name] for name in _BEST):
            self.__dict__.update(dict.fromkeys(_BEST))
        self.__post_init__()

    def use_default_metric(self, name: str) -> None:
        """Let the metric of the task choose the best pair; its name depends on the trainer's eval sets."""
        chosen = dict(zip(_BEST, (name, True), strict=True))
        self.__dict__.update(chosen)
        self._checked = self._checked | chosen

    @property
    def device(self) -> torch.device:
        """The stock device; on CPUs without a device index, because torch 2.11 cannot load a checkpoint to cpu:0."""
        stock: torch.device = super().device
        return torch.device("cpu") if stock.type == "cpu" else stock

    def knobs(self, task: str) -> Knobs:
        """The resolved knobs of the method for a task.

        Raises:
            ValueError: an unknown method or choice, or an invalid value.
        """
        return resolve(self.method, task, {name: getattr(self, name) for name in KNOBS})

    def without_token(self) -> DMTTrainingArguments:
        """A copy for `training_args.bin`, which the stock Trainer writes with the Hub token in plain text."""
        safe = copy.copy(self)
        safe.hub_token = None
        return safe


def _check_json(name: str, value: Any) -> None:
    """Raises ValueError for text that looks like JSON and is none; the stock class does not name the field."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            json.loads(value)
        except ValueError as problem:
            raise ValueError(
                f"`{name}` {value!r} is not JSON ({problem}). Give an object such as '{{\"name\": 0.1}}', in quotes."
            ) from problem


def _check_accelerator(given: AcceleratorConfig) -> None:
    """Raises ValueError for settings of accelerate's own loaders, which are not used, and of what is set elsewhere."""
    if "num_steps" in (given.gradient_accumulation_kwargs or {}):
        raise ValueError(
            "`accelerator_config` sets the accumulation steps, but batches are divided before accelerate is started. "
            "Use `gradient_accumulation_steps`."
        )
    stock = AcceleratorConfig()
    for name in ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking"):
        if getattr(given, name) != getattr(stock, name):
            raise ValueError(
                f"`accelerator_config` sets {name!r} for accelerate's loaders, but each process draws its own part of "
                "a batch here, so that would have no effect. Omit it."
            )


def _save_where_it_is_scored(args: Any) -> None:
    """Let `load_best_model_at_end` work on its own: the stock class requires evaluations and checkpoints at the same
    updates, but its defaults for the two differ.

    Raises:
        ValueError: checkpoints are turned off.
    """
    stock = TrainingArguments.__dataclass_fields__
    if args.save_strategy == SaveStrategy.NO:
        raise ValueError(
            "`load_best_model_at_end` needs checkpoints, but `save_strategy='no'` turns them off. Omit `save_strategy`."
        )
    if args.eval_strategy == IntervalStrategy.NO:
        args.eval_strategy = "steps" if args.save_strategy == SaveStrategy.BEST else args.save_strategy
        args.eval_steps = args.eval_steps or args.save_steps
    elif args.save_strategy == stock["save_strategy"].default:
        args.save_strategy = args.eval_strategy
        if args.save_steps == stock["save_steps"].default and args.eval_steps:
            args.save_steps = args.eval_steps
