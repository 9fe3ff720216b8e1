"""`DMTTrainingArguments`: everything `TrainingArguments` has, and the knobs of the method."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ...models.weights.trained_parts import check_choice
from .methods import KNOB_NAMES, PRESETS, Knobs, resolve

# Stock settings that another setting replaces here, with the reason; each is refused unless left at its default.
_REPLACED: dict[str, str] = {
    "num_train_epochs": "a run is made of phases: use --supervised_epochs and --phase_epochs",
    "per_device_train_batch_size": "batch sizes count images per update: use --labeled_batch_size and "
    "--pseudo_batch_size",
    "label_smoothing_factor": "the loss weighs every label already: use --gamma1 and --gamma2",
    "auto_find_batch_size": "step counts follow from the batch sizes: set --labeled_batch_size and --pseudo_batch_size",
    "train_sampling_strategy": "labeled and pseudo-labeled images are drawn in a fixed proportion: use "
    "--labeled_batch_size and --pseudo_batch_size",
    "dataloader_drop_last": "the streams are endless and have no last batch: leave it out",
    "ignore_data_skip": "a resumed phase goes on where it stood: leave it out",
    "dataloader_persistent_workers": "workers that outlive a phase would train on the previous phase's labels: "
    "leave it out",
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint and stops: leave it out",
}

# Numbers that the stock class takes as they are: the least that can work, what it is for, and what to give instead.
_LEAST: dict[str, tuple[float, str]] = {
    "learning_rate": (0, "an update moves the weights by a finite length: give a rate such as 5e-5"),
    "learning_rate_b": (0, "an update moves the weights by a finite length: give a rate such as 5e-5"),
    "supervised_learning_rate": (0, "an update moves the weights by a finite length: give a rate such as 5e-5"),
    "weight_decay": (0, "weights are to shrink, not to grow: give 0 or more, such as 0.01"),
    "max_grad_norm": (0, "a norm is never negative: give 0 to switch clipping off, or more, such as 1.0"),
    "gradient_accumulation_steps": (1, "an update has at least one part: give 1 or more"),
    "per_device_eval_batch_size": (1, "a batch holds at least one image: give 1 or more"),
    "dataloader_num_workers": (0, "0 loads images in the main process: give that, or a number of processes"),
    "seed": (0, "random numbers start from 0 or more: give such a seed"),
    "logging_steps": (1e-9, "figures are logged every so many updates: give 1 or more, or a share of the run below 1"),
    "save_steps": (1e-9, "checkpoints are saved every so many updates: give 1 or more, or a share of the run below 1"),
    "save_total_limit": (1, "the last checkpoint is always kept: give 1 or more, or leave it out to keep all"),
    "max_skipped_updates": (1, "a run stops after at least one update that failed: give 1 or more"),
}


@dataclass
class DMTTrainingArguments(TrainingArguments):
    """Arguments of `DMTTrainer`.

    Knobs of the method default to None, which means the value of the `--method` preset, else the task's default
    (`hf_dmt/training/settings/methods.py`). Different from `TrainingArguments`: `logging_steps` is 10,
    `per_device_eval_batch_size` is 16 (also used for labeling), `metric_for_best_model` is the mean of a and b.
    """

    method: str = field(default="dmt", metadata={"help": f"Preset of the knobs below: {', '.join(PRESETS)}."})
    strategy: str | None = field(
        default=None, metadata={"help": "When labels are made: between `phases`, or `online` at every step."}
    )
    labeler: str | None = field(default=None, metadata={"help": "Who labels for a member: its `peer` or it`self`."})
    gamma1: float | None = field(default=None, metadata={"help": "Exponent of the weight where the members agree."})
    gamma2: float | None = field(default=None, metadata={"help": "Exponent of the weight where they disagree."})
    positive_disagree: str | None = field(
        default=None,
        metadata={"help": "What the student is surer of than the teacher: `drop` it, `keep` it, or `flip` the label."},
    )
    gamma_schedule: str | None = field(
        default=None,
        metadata={"help": "`constant`, `ramp` the exponents up within each phase, or the `official-ramp`."},
    )
    exchange: str | None = field(
        default=None,
        metadata={"help": "Labels of the previous phase for both (`simultaneous`), or a and b in turn (`sequential`)."},
    )
    difference_maximised_sampling: str | None = field(
        default=None,
        metadata={"help": 'Phase 0 on different 80 %% of the labels: true, false, or a file {"a": [ids], "b": [ids]}.'},
    )
    label_ratios: list[float] | None = field(
        default=None,
        metadata={"help": "Fraction of pseudo labels kept in each phase, for example 0.2 0.4 0.6 0.8 1.0."},
    )
    supervised_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the labeled images in phase 0."}
    )
    phase_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the selected unlabeled images in each further phase."}
    )
    labeled_batch_size: int | None = field(
        default=None,
        metadata={"help": "Labeled images per optimizer update, over all processes and accumulation steps."},
    )
    pseudo_batch_size: int | None = field(
        default=None, metadata={"help": "Pseudo-labeled images per optimizer update, over all processes and steps."}
    )
    restart: str | None = field(
        default=None,
        metadata={"help": "Each phase starts from the previous weights (`continue`) or the `initial` ones."},
    )
    phase_weights: str | None = field(
        default=None,
        metadata={"help": "A phase ends with its `last` weights, or with each member's `best` ones on the eval split."},
    )
    mixup_alpha: float | None = field(default=None, metadata={"help": "Beta parameter of mixup; 0 is off."})
    mixup_weighting: str | None = field(
        default=None,
        metadata={"help": "`mixed` weight x mixed loss (official), or each label's own weight (`per_term`)."},
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Decay of averaged weights that label, are evaluated and exported; 0 is off."}
    )
    ema_rule: str | None = field(
        default=None, metadata={"help": "`exact`, or the `official` code's average, which is the last weights."}
    )
    class_balanced: str = field(
        default="auto", metadata={"help": "Select per predicted class: auto (pixels yes, images no), true or false."}
    )
    selection_rule: str | None = field(
        default=None, metadata={"help": "`exact`, or the `official` code's index arithmetic."}
    )
    online_threshold: float | None = field(
        default=None, metadata={"help": "With --strategy online: ignore labels below this confidence."}
    )
    unlabeled_ramp: float | None = field(
        default=None,
        metadata={"help": "With --strategy online: part of the phase over which pseudo labels gain their full weight."},
    )
    learning_rate_b: float | None = field(
        default=None, metadata={"help": "Learning rate of model b; default: the same as --learning_rate."}
    )
    supervised_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of phase 0 (b's in proportion); default: the same as --learning_rate."},
    )
    weight_decay_everywhere: bool = field(
        default=False, metadata={"help": "Decay biases and norms too, as the official code does."}
    )
    train: str = field(
        default="all",
        metadata={
            "help": "What learns: `all`, the `head` alone, the head and all `norms`, or the head and the last N blocks "
            "(`last:2`). The rest costs no optimizer state and less memory."
        },
    )
    train_b: str | None = field(default=None, metadata={"help": "What learns in model b; default: as --train."})
    freeze_backbone: bool = field(default=False, metadata={"help": "The same as --train head."})
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of each pretrained block as a fraction of that of the next one, such as 0.75; the "
            "head keeps the full rate."
        },
    )
    freeze_batch_norm: bool = field(
        default=False,
        metadata={"help": "Keep the statistics of pretrained BatchNorm layers, for batches too small to measure them."},
    )
    member_schedule: str = field(
        default="together",
        metadata={
            "help": "Train both members in every update (`together`), or in each phase first a, then b (`alternate`): "
            "the memory of one model, while the other one waits on the CPU."
        },
    )
    augmentation: str | None = field(
        default=None,
        metadata={"help": "weak, strong, or for masks scale-crop-flip; default: strong, for masks scale-crop-flip."},
    )
    augmentation_b: str | None = field(
        default=None, metadata={"help": "Augmentation of model b's views; default: the same as --augmentation."}
    )
    horizontal_flip: bool = field(
        default=True, metadata={"help": "Mirror half of the views; off for what has a reading direction."}
    )
    keep_pseudo_labels: str = field(
        default="last",
        metadata={"help": "Which phases' pseudo labels stay in the output folder: the `last` one's, or `all`."},
    )
    exact_decoding: bool = field(
        default=False,
        metadata={
            "help": "Decode every pixel of large photos for training and labeling too, instead of as many as the views "
            "need (scores always do)."
        },
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Log every so many updates (below 1: share of the run)."}
    )
    per_device_eval_batch_size: int = field(
        default=16, metadata={"help": "Images per batch and process in evaluation and labeling."}
    )
    max_skipped_updates: int = field(
        default=20,
        metadata={"help": "Stop after so many updates in a row without finite gradients; each is skipped."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always off: batches are nested by member."})

    def __post_init__(self) -> None:
        # The stock default of the metric is the loss; ours is the task's metric, which only the trainer knows.
        self.metric_is_default = self.metric_for_best_model is None
        super().__post_init__()
        for name, (least, instead) in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"--{name} {value:g} cannot work: {instead}.")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(
                f"--max_steps {self.max_steps} cannot work: it caps every phase at so many updates. Give 1 or more, or "
                "-1 for whole phases."
            )
        defaults = TrainingArguments.__dataclass_fields__
        for name, instead in _REPLACED.items():
            if name in defaults and getattr(self, name) != defaults[name].default:
                raise ValueError(f"--{name} {getattr(self, name)} has no meaning here: {instead}.")
        if self.freeze_backbone:
            if self.train not in ("all", "head"):
                raise ValueError(f"--freeze_backbone true is --train head, and --train is {self.train!r}. Give one.")
            self.train = "head"
        check_choice("train", self.train)
        check_choice("train_b", self.train_b or self.train)
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"--layer_decay {self.layer_decay:g} cannot work: each block learns at most as fast as the next one. "
                "Give a fraction such as 0.75, or leave it out."
            )
        if self.member_schedule not in ("together", "alternate"):
            raise ValueError(f"--member_schedule {self.member_schedule!r} is not one of: together, alternate.")
        if self.keep_pseudo_labels not in ("last", "all"):
            raise ValueError(f"--keep_pseudo_labels {self.keep_pseudo_labels!r} is not one of: last, all.")
        if self.class_balanced not in ("auto", "true", "false"):
            raise ValueError(f"--class_balanced {self.class_balanced!r} is not one of: auto, true, false.")
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
        given = {name: getattr(self, name) for name in KNOB_NAMES if name != "class_balanced"}
        if given["label_ratios"] is not None:
            given["label_ratios"] = tuple(float(ratio) for ratio in given["label_ratios"])
        given["class_balanced"] = None if self.class_balanced == "auto" else self.class_balanced == "true"
        return resolve(self.method, task, given)
