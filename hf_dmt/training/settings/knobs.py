"""All settings that `TrainingArguments` does not have: the knobs of the method, and how the two models are trained.

Each is declared once; settings/declaration.py describes what is derived from a declaration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .declaration import declared, setting

# One heading each in `--help` and in docs/settings.md.
_labels = partial(setting, group="who labels for whom, and when")
_weights = partial(setting, group="weights of pseudo labels")
_phases = partial(setting, group="label selection, phases and batches")
_regular = partial(setting, group="regularization")
_models = partial(setting, group="training the two models")

_BATCH = "a batch needs at least one image of each kind"
_OFF = "0 turns it off"
_RATE = "try 5e-5"


@dataclass
class Knobs:
    """The knobs of the method, resolved from command line, preset and task."""

    strategy: str = _labels(
        "phases",
        "When pseudo labels are made: between `phases`, or `online` at every update.",
        choices=("phases", "online"),
    )
    labeler: str = _labels(
        "peer",
        "Where a model's pseudo labels come from: the other model (`peer`), the model itself (`self`), or a `graph` of "
        "similar images along which the true labels are propagated (classification only).",
        choices=("peer", "self", "graph"),
    )
    exchange: str = _labels(
        "simultaneous",
        "Train both models at the same time (`simultaneous`), or in turn, each on fresh labels from the other, in "
        "twice as many phases (`sequential`).",
        choices=("simultaneous", "sequential"),
    )
    restart: str = _labels(
        "continue",
        "Start each phase from the weights of the previous one (`continue`) or from the `initial` weights.",
        choices=("continue", "initial"),
    )
    phase_weights: str = _labels(
        "last",
        "End each phase with its `last` weights, or with each model's `best` weights on the eval split.",
        choices=("last", "best"),
    )
    difference_maximized_sampling: bool | str = _labels(
        "false",
        'In phase 0, give a and b a different 80 % of the labels: true, false, or a file {"a": [ids], "b": [ids]}.',
    )
    gamma1: float = _weights(5.0, "Exponent of the weight if student and teacher agree.", least=0, hint=_OFF)
    gamma2: float = _weights(
        5.0,
        "Exponent of the weight if they disagree and the student is not more confident than the teacher.",
        least=0,
        hint=_OFF,
    )
    positive_disagree: str = _weights(
        "drop",
        "If the student disagrees and is more confident than the teacher: `drop` the label, `keep` it, or `flip` it to "
        "the student's.",
        choices=("drop", "keep", "flip"),
    )
    gamma_schedule: str = _weights(
        "constant",
        "Keep the exponents `constant`, or `ramp` them up from about 0 within each phase.",
        choices=("constant", "ramp"),
    )
    label_ratios: Sequence[float] = _phases(
        (0.2, 0.4, 0.6, 0.8, 1.0),
        "Fraction of the pseudo labels to keep, one phase per number.",
        above=0,
        most=1,
        hint="a ratio is the fraction of pseudo labels to keep, such as 0.2 0.4 0.6 0.8 1.0",
    )
    class_balanced: bool = _phases(True, "Select the most confident labels separately for each predicted class.")
    supervised_epochs: float = _phases(100.0, "Epochs over the labeled images in phase 0; 0 skips phase 0.", least=0)
    phase_epochs: float = _phases(10.0, "Epochs over the selected unlabeled images in each later phase.", above=0)
    labeled_batch_size: int = _phases(
        16,
        "Labeled images per optimizer update, over all processes and accumulation steps.",
        pixels=4,
        least=1,
        hint=_BATCH,
    )
    pseudo_batch_size: int = _phases(
        48,
        "Pseudo-labeled images per optimizer update, over all processes and accumulation steps.",
        pixels=12,
        least=1,
        hint=_BATCH,
    )
    online_threshold: float = _phases(
        0.0,
        "With --strategy online: ignore pseudo labels with confidence up to this value.",
        least=0,
        below=1,
        hint=_OFF,
    )
    unlabeled_ramp: float = _phases(
        0.0,
        "With --strategy online: fraction of the phase over which the loss on pseudo labels ramps up (then 0.3 by "
        "default).",
        least=0,
        below=1,
        hint=_OFF,
    )
    mixup_alpha: float = _regular(
        0.0, "Beta parameter of mixup; 0 turns it off. Classification only.", least=0, hint=_OFF
    )
    ema_decay: float = _regular(
        0.0,
        "Decay of the weight average that makes labels and is evaluated and exported; 0 turns it off.",
        least=0,
        below=1,
        hint=_OFF,
    )
    official: bool = _regular(
        False,
        "Reproduce the official code where it has bugs or differs from the paper: selection index (classification), "
        "weight average, gamma ramp, mixup weights, and weight decay on biases and norms.",
    )

    def __post_init__(self) -> None:
        self.label_ratios = tuple(self.label_ratios)


@dataclass
class RunSettings:
    """How the two models are trained, independent of the method."""

    learning_rate_b: float | None = _models(
        None, "Learning rate of model b; default: --learning_rate.", least=0, hint=_RATE
    )
    supervised_learning_rate: float | None = _models(
        None,
        "Learning rate of phase 0 (b's is scaled by the same factor); default: --learning_rate.",
        least=0,
        hint=_RATE,
    )
    train: str = _models(
        "all",
        "Weights to train: `all`, only the `head`, the head and all `norms`, or the head and the last N blocks "
        "(`last:2`). The rest is frozen and needs less memory.",
    )
    train_b: str | None = _models(None, "Weights to train in model b; default: --train.")
    freeze_backbone: bool = _models(False, "Same as --train head.")
    layer_decay: float | None = _models(
        None,
        "Factor between the learning rates of consecutive pretrained blocks, such as 0.75; the head has the full rate.",
        above=0,
        most=1,
        hint="it is the factor between the learning rates of consecutive blocks: try 0.75, or leave it out",
    )
    freeze_batch_norm: bool = _models(
        False, "Freeze the statistics of pretrained BatchNorm layers, if batches are too small to estimate them."
    )
    member_schedule: str = _models(
        "together",
        "Train both models in every update (`together`), or first a, then b in each phase (`alternate`), with the "
        "gradients and optimizer state of one model; the other one waits on the CPU.",
        choices=("together", "alternate"),
    )
    augmentation: str | None = _models(
        None,
        "none (the whole image, the same every time), weak, strong, or scale-crop-flip for masks; default: strong, "
        "for masks scale-crop-flip.",
    )
    augmentation_b: str | None = _models(None, "Augmentation for model b; default: --augmentation.")
    horizontal_flip: bool = _models(True, "Flip half of the views horizontally. Disable for text and digits.")
    keep_pseudo_labels: str = _models(
        "last",
        "Pseudo labels to keep in the output folder: of the `last` phase or of `all` phases.",
        choices=("last", "all"),
    )
    exact_decoding: bool = _models(
        False,
        "Decode large photos at full size for training and labeling, too, instead of at the size the views need "
        "(evaluation always does).",
    )
    metrics: Sequence[str] = _models(
        (),
        "More metrics from the `evaluate` library for every evaluation: names or paths, with arguments, such as "
        "f1:average=macro matthews_correlation.",
    )
    max_skipped_updates: int = _models(
        20,
        "Stop after this many consecutive updates with non-finite gradients; each is skipped.",
        least=1,
        hint="it counts failed updates in a row, so it must be at least 1",
    )


def as_results(knobs: Knobs) -> dict[str, Any]:
    """The resolved values for `dmt_results.json`."""
    return {**asdict(knobs), "label_ratios": list(knobs.label_ratios)}


KNOBS = declared(Knobs)
RUN_SETTINGS = declared(RunSettings)
