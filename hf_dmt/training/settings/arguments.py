"""`DMTTrainingArguments`: everything `TrainingArguments` has, and the knobs of the method."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import IntervalStrategy, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from ...models.weights.trained_parts import check_choice
from .declaration import as_arguments, without_words
from .knobs import KNOBS, RUN_SETTINGS, Knobs, RunSettings
from .methods import PRESETS, resolve
from .resuming import ACCEPTABLE

if TYPE_CHECKING:

    @dataclass
    class _Declared(RunSettings, Knobs):
        """What a type checker sees of the settings declared in knobs.py: their names, types and defaults."""

else:
    _Declared = as_arguments("_Declared", Knobs, RunSettings)

# Stock settings that another setting replaces here, with the reason; each is refused unless left at its default.
REPLACED: dict[str, str] = {
    "num_train_epochs": "a run is made of phases: use --supervised_epochs and --phase_epochs",
    "per_device_train_batch_size": "batch sizes count images per update: use --labeled_batch_size and "
    "--pseudo_batch_size",
    "label_smoothing_factor": "the loss weighs every label already: use --gamma1 and --gamma2",
    "auto_find_batch_size": "step counts follow from the batch sizes: set --labeled_batch_size and --pseudo_batch_size",
    "train_sampling_strategy": "labeled and pseudo-labeled images are drawn in a fixed proportion: use "
    "--labeled_batch_size and --pseudo_batch_size",
    "dataloader_drop_last": "the streams are endless and have no last batch: leave it out",
    "ignore_data_skip": "a resumed phase continues where it stopped: leave it out",
    "dataloader_persistent_workers": "workers that outlive a phase would train on the previous phase's labels: "
    "leave it out",
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint and stops: leave it out",
    "save_only_model": "a run could not be resumed from such checkpoints: use --save_total_limit 1 to save space",
    "data_seed": "which images are drawn follows from --seed: use that",
    "bf16_full_eval": "labels and scores are made in the precision that is trained in: use --bf16",
    "fp16_full_eval": "labels and scores are made in the precision that is trained in: use --fp16",
    "prediction_loss_only": "an evaluation always gives every figure: leave it out",
    "label_names": "labels are found by the names 'label' and 'mask' of an item: leave it out",
    "dataloader_in_order": "batches always come in their order: leave it out",
    "dataloader_multiprocessing_context": "workers are started as the system does it: leave it out",
    "neftune_noise_alpha": "noise on embeddings is for language models: leave it out",
    "use_liger_kernel": "its kernels are for language models: leave it out",
    "batch_eval_metrics": "compute_metrics gets whole sets: leave it out",
    "eval_use_gather_object": "figures are summed, not gathered: leave it out",
    "eval_accumulation_steps": "figures are summed batch by batch already: leave it out",
}

# Numbers that the stock class does not check: the least that can work, and what to give.
_LEAST: dict[str, tuple[float, str]] = {
    "learning_rate": (0, "try 5e-5"),
    "weight_decay": (0, "try 0.01, or 0 for none"),
    "max_grad_norm": (0, "try 1.0, or 0 for no clipping"),
    "gradient_accumulation_steps": (1, "1 is the default"),
    "per_device_eval_batch_size": (1, "16 is the default"),
    "dataloader_num_workers": (0, "0 loads images in the main process"),
    "seed": (0, "42 is the default"),
    "logging_steps": (1e-9, "give a number of updates, or a fraction of the run below 1"),
    "save_steps": (1e-9, "give a number of updates, or a fraction of the run below 1"),
    "save_total_limit": (1, "leave it out to keep all checkpoints"),
}


@dataclass
class DMTTrainingArguments(_Declared, TrainingArguments):
    """Arguments of `DMTTrainer`: the settings of `hf_dmt/training/settings/knobs.py` and every stock one.

    Knobs of the method default to None, which means the value of the `--method` preset, else the task's default
    (docs/settings.md lists them). Different from `TrainingArguments`: `logging_steps` is 10,
    `per_device_eval_batch_size` is 16 (also used for labeling), `metric_for_best_model` is the mean of a and b.
    """

    method: str = field(default="dmt", metadata={"help": f"Preset of the knobs below: {', '.join(PRESETS)}."})
    logging_steps: float = field(
        default=10, metadata={"help": "Log every so many updates (below 1: share of the run)."}
    )
    per_device_eval_batch_size: int = field(
        default=16, metadata={"help": "Images per batch and process in evaluation and labeling."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Begin anew in a folder that holds a run, which is lost."}
    )
    accept_changes: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Settings that a resume may change although they reach the weights: {', '.join(ACCEPTABLE)}."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always off: batches are nested by member."})

    def __post_init__(self) -> None:
        # The stock default of the metric is the loss; ours is the task's metric, which only the trainer knows.
        self.metric_is_default = self.metric_for_best_model is None
        if self.load_best_model_at_end:
            _save_where_it_is_scored(self)
        super().__post_init__()
        for name, (least, instead) in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"--{name} must be finite and at least {least:g}, got {value:g}; {instead}.")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(
                f"--max_steps must be at least 1, got {self.max_steps}: it limits the updates of every phase. Leave it "
                "out for whole phases."
            )
        defaults = TrainingArguments.__dataclass_fields__
        for name, instead in REPLACED.items():
            if name in defaults and getattr(self, name) != defaults[name].default:
                raise ValueError(f"--{name} {getattr(self, name)} has no meaning here: {instead}.")
        for name, one in (KNOBS | RUN_SETTINGS).items():
            setattr(self, name, without_words(one, getattr(self, name)))
            one.check(getattr(self, name))
        if unknown := [name for name in self.accept_changes or () if name not in ACCEPTABLE]:
            raise ValueError(
                f"--accept_changes {unknown[0]!r} is nothing that a resume may change; choose of: "
                f"{', '.join(ACCEPTABLE)}. Any other setting belongs to a new run."
            )
        if self.freeze_backbone:
            if self.train not in ("all", "head"):
                raise ValueError(f"--freeze_backbone true is --train head, and --train is {self.train!r}. Give one.")
            self.train = "head"
        check_choice("train", self.train)
        check_choice("train_b", self.train_b or self.train)
        self.remove_unused_columns = False

    @property
    def device(self) -> torch.device:
        """The stock device; on CPUs without the process's number, to which torch 2.11 cannot load a checkpoint."""
        stock: torch.device = super().device
        return torch.device("cpu") if stock.type == "cpu" else stock

    def knobs(self, task: str) -> Knobs:
        """The resolved settings of the method for a task.

        Raises:
            ValueError: a method, choice or value that does not exist.
        """
        return resolve(self.method, task, {name: getattr(self, name) for name in KNOBS})


def _save_where_it_is_scored(args: Any) -> None:
    """`load_best_model_at_end` alone works: the stock class wants evaluations and checkpoints at the same updates, and
    its defaults for the two differ.

    Raises:
        ValueError: no checkpoints to choose from.
    """
    stock = TrainingArguments.__dataclass_fields__
    if args.save_strategy == SaveStrategy.NO:
        raise ValueError(
            "--load_best_model_at_end chooses among checkpoints, and --save_strategy no writes none. Leave "
            "--save_strategy out."
        )
    if args.eval_strategy == IntervalStrategy.NO:
        args.eval_strategy = "steps" if args.save_strategy == SaveStrategy.BEST else args.save_strategy
        args.eval_steps = args.eval_steps or args.save_steps
    elif args.save_strategy == stock["save_strategy"].default:
        args.save_strategy = args.eval_strategy
        if args.save_steps == stock["save_steps"].default and args.eval_steps:
            args.save_steps = args.eval_steps
