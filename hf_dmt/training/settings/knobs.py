"""All settings that `TrainingArguments` does not have: the knobs of the method, and how the two models are trained.

Each is declared once; settings/declaration.py describes what is derived from a declaration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .declaration import declared, setting

_BATCH = "a batch needs at least one image of each kind"
_OFF = "0 turns it off"
_RATE = "try 5e-5"


@dataclass
class Knobs:
    """The knobs of the method, resolved from command line, preset and task."""

    strategy: str = setting(
        "phases",
        "When pseudo labels are made: between `phases`, or `online` at every update.",
        group="who labels for whom, and when",
        choices=("phases", "online"),
    )
    labeler: str = setting(
        "peer",
        "Where a model's pseudo labels come from: the other model (`peer`), the model itself (`self`), or a `graph` of "
        "similar images along which the true labels are propagated (classification only).",
        group="who labels for whom, and when",
        choices=("peer", "self", "graph"),
    )
    exchange: str = setting(
        "simultaneous",
        "Train both models at the same time (`simultaneous`), or in turn, each on fresh labels from the other, in "
        "twice as many phases (`sequential`).",
        group="who labels for whom, and when",
        choices=("simultaneous", "sequential"),
    )
    restart: str = setting(
        "continue",
        "Start each phase from the weights of the previous one (`continue`) or from the `initial` weights.",
        group="who labels for whom, and when",
        choices=("continue", "initial"),
    )
    phase_weights: str = setting(
        "last",
        "End each phase with its `last` weights, or with each model's `best` weights on the eval split.",
        group="who labels for whom, and when",
        choices=("last", "best"),
    )
    difference_maximized_sampling: bool | str = setting(
        "false",
        'In phase 0, give a and b a different 80 % of the labels: true, false, or a file {"a": [ids], "b": [ids]}.',
        group="who labels for whom, and when",
    )
    gamma1: float = setting(
        5.0,
        "Exponent of the weight if student and teacher agree.",
        group="weights of pseudo labels",
        least=0,
        hint=_OFF,
    )
    gamma2: float = setting(
        5.0,
        "Exponent of the weight if they disagree and the student is not more confident than the teacher.",
        group="weights of pseudo labels",
        least=0,
        hint=_OFF,
    )
    positive_disagree: str = setting(
        "drop",
        "If the student disagrees and is more confident than the teacher: `drop` the label, `keep` it, or `flip` it to "
        "the student's.",
        group="weights of pseudo labels",
        choices=("drop", "keep", "flip"),
    )
    gamma_schedule: str = setting(
        "constant",
        "Keep the exponents `constant`, or `ramp` them up from about 0 within each phase.",
        group="weights of pseudo labels",
        choices=("constant", "ramp"),
    )
    label_ratios: Sequence[float] = setting(
        (0.2, 0.4, 0.6, 0.8, 1.0),
        "Fraction of the pseudo labels to keep, one phase per number.",
        group="label selection, phases and batches",
        above=0,
        most=1,
        hint="a ratio is the fraction of pseudo labels to keep, such as 0.2 0.4 0.6 0.8 1.0",
    )
    class_balanced: bool = setting(
        True,
        "Select the most confident labels separately for each predicted class.",
        group="label selection, phases and batches",
    )
    supervised_epochs: float = setting(
        100.0,
        "Epochs over the labeled images in phase 0; 0 skips phase 0.",
        group="label selection, phases and batches",
        least=0,
    )
    phase_epochs: float = setting(
        10.0,
        "Epochs over the selected unlabeled images in each later phase.",
        group="label selection, phases and batches",
        above=0,
    )
    labeled_batch_size: int = setting(
        16,
        "Labeled images per optimizer update, over all processes and accumulation steps.",
        group="label selection, phases and batches",
        pixels=4,
        least=1,
        hint=_BATCH,
    )
    pseudo_batch_size: int = setting(
        48,
        "Pseudo-labeled images per optimizer update, over all processes and accumulation steps.",
        group="label selection, phases and batches",
        pixels=12,
        least=1,
        hint=_BATCH,
    )
    online_threshold: float = setting(
        0.0,
        "With --strategy online: ignore pseudo labels with confidence up to this value.",
        group="label selection, phases and batches",
        least=0,
        below=1,
        hint=_OFF,
    )
    unlabeled_ramp: float = setting(
        0.0,
        "With --strategy online: fraction of the phase over which the loss on pseudo labels ramps up (then 0.3 by "
        "default).",
        group="label selection, phases and batches",
        least=0,
        below=1,
        hint=_OFF,
    )
    mixup_alpha: float = setting(
        0.0, "Beta parameter of mixup; 0 turns it off. Classification only.", group="regularization", least=0, hint=_OFF
    )
    ema_decay: float = setting(
        0.0,
        "Decay of the weight average that makes labels and is evaluated and exported; 0 turns it off.",
        group="regularization",
        least=0,
        below=1,
        hint=_OFF,
    )
    official: bool = setting(
        False,
        "Reproduce the official code where it has bugs or differs from the paper: selection index (classification), "
        "weight average, gamma ramp, mixup weights, and weight decay on biases and norms.",
        group="regularization",
    )

    def __post_init__(self) -> None:
        self.label_ratios = tuple(self.label_ratios)


@dataclass
class RunSettings:
    """How the two models are trained, independent of the method."""

    learning_rate_b: float | None = setting(
        None,
        "Learning rate of model b; default: --learning_rate.",
        group="training the two models",
        least=0,
        hint=_RATE,
    )
    supervised_learning_rate: float | None = setting(
        None,
        "Learning rate of phase 0 (b's is scaled by the same factor); default: --learning_rate.",
        group="training the two models",
        least=0,
        hint=_RATE,
    )
    train: str = setting(
        "all",
        "Weights to train: `all`, only the `head`, the head and all `norms`, or the head and the last N blocks "
        "(`last:2`). The rest is frozen and needs less memory.",
        group="training the two models",
    )
    train_b: str | None = setting(
        None, "Weights to train in model b; default: --train.", group="training the two models"
    )
    freeze_backbone: bool = setting(False, "Same as --train head.", group="training the two models")
    layer_decay: float | None = setting(
        None,
        "Factor between the learning rates of consecutive pretrained blocks, such as 0.75; the head has the full rate.",
        group="training the two models",
        above=0,
        most=1,
        hint="it is the factor between the learning rates of consecutive blocks: try 0.75, or leave it out",
    )
    freeze_batch_norm: bool = setting(
        False,
        "Freeze the statistics of pretrained BatchNorm layers, if batches are too small to estimate them.",
        group="training the two models",
    )
    member_schedule: str = setting(
        "together",
        "Train both models in every update (`together`), or first a, then b in each phase (`alternate`), with the "
        "gradients and optimizer state of one model; the other one waits on the CPU.",
        group="training the two models",
        choices=("together", "alternate"),
    )
    augmentation: str | None = setting(
        None,
        "none (the whole image, the same every time), weak, strong, or scale-crop-flip for masks; default: strong, "
        "for masks scale-crop-flip.",
        group="training the two models",
    )
    augmentation_b: str | None = setting(
        None,
        "Augmentation for model b; default: --augmentation.",
        group="training the two models",
    )
    horizontal_flip: bool = setting(
        True,
        "Flip half of the views horizontally. Disable for text and digits.",
        group="training the two models",
    )
    keep_pseudo_labels: str = setting(
        "last",
        "Pseudo labels to keep in the output folder: of the `last` phase or of `all` phases.",
        group="training the two models",
        choices=("last", "all"),
    )
    exact_decoding: bool = setting(
        False,
        "Decode large photos at full size for training and labeling, too, instead of at the size the views need "
        "(evaluation always does).",
        group="training the two models",
    )
    metrics: Sequence[str] = setting(
        (),
        "More metrics from the `evaluate` library for every evaluation: names or paths, with arguments, such as "
        "f1:average=macro matthews_correlation.",
        group="training the two models",
    )
    max_skipped_updates: int = setting(
        20,
        "Stop after this many consecutive updates with non-finite gradients; each is skipped.",
        group="training the two models",
        least=1,
        hint="it counts failed updates in a row, so it must be at least 1",
    )


def as_results(knobs: Knobs) -> dict[str, Any]:
    """The resolved values for `dmt_results.json`."""
    return {**asdict(knobs), "label_ratios": list(knobs.label_ratios)}


KNOBS = declared(Knobs)
RUN_SETTINGS = declared(RunSettings)
