"""Every setting that `TrainingArguments` does not have: the knobs of the method, and how a run trains two members.

One declaration each; settings/declaration.py says what derives from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .declaration import declared, setting

_BATCH = "a batch needs at least one image of each kind"
_OFF = "0 switches it off"
_RATE = "try 5e-5"


@dataclass
class Knobs:
    """The method: resolved values, of a task and with a preset taken into account."""

    strategy: str = setting(
        "phases",
        "When labels are made: between `phases`, or `online` at every step by the live teacher.",
        group="who teaches whom, and when",
        choices=("phases", "online"),
    )
    labeler: str = setting(
        "peer",
        "Who makes a member's pseudo labels: its `peer`, it`self`, or a `graph` of images that look alike to both "
        "members, over which the true labels are spread (images only).",
        group="who teaches whom, and when",
        choices=("peer", "self", "graph"),
    )
    exchange: str = setting(
        "simultaneous",
        "Both learn from the labels of the previous phase (`simultaneous`), or a and b in turn, each from labels that "
        "the other makes now, in twice as many phases (`sequential`).",
        group="who teaches whom, and when",
        choices=("simultaneous", "sequential"),
    )
    restart: str = setting(
        "continue",
        "Each phase starts from the previous weights (`continue`) or from the `initial` ones.",
        group="who teaches whom, and when",
        choices=("continue", "initial"),
    )
    phase_weights: str = setting(
        "last",
        "A phase ends with its `last` weights, or with each member's `best` ones on the eval split.",
        group="who teaches whom, and when",
        choices=("last", "best"),
    )
    difference_maximized_sampling: bool | str = setting(
        "false",
        'Phase 0 of a and b on different 80 % of the labels: true, false, or a file {"a": [ids], "b": [ids]}.',
        group="who teaches whom, and when",
    )
    gamma1: float = setting(
        5.0,
        "Exponent of the weight where the members agree.",
        group="weights of pseudo labels",
        least=0,
        hint=_OFF,
    )
    gamma2: float = setting(
        5.0,
        "Exponent of the weight where they disagree and the student is not more confident than the teacher.",
        group="weights of pseudo labels",
        least=0,
        hint=_OFF,
    )
    positive_disagree: str = setting(
        "drop",
        "What to do where the student disagrees and is more confident than the teacher: `drop` the label, `keep` it, "
        "or `flip` it to the student's.",
        group="weights of pseudo labels",
        choices=("drop", "keep", "flip"),
    )
    gamma_schedule: str = setting(
        "constant",
        "Exponents are `constant`, or `ramp` up from about 0 within each phase.",
        group="weights of pseudo labels",
        choices=("constant", "ramp"),
    )
    label_ratios: Sequence[float] = setting(
        (0.2, 0.4, 0.6, 0.8, 1.0),
        "Fraction of the pseudo labels kept in each phase; one phase per number.",
        group="which labels, and how long",
        above=0,
        most=1,
        hint="a ratio is the fraction of pseudo labels to keep, such as 0.2 0.4 0.6 0.8 1.0",
    )
    class_balanced: bool = setting(
        False,
        "Keep the most confident labels of each predicted class rather than over all classes.",
        group="which labels, and how long",
        pixels=True,
    )
    supervised_epochs: float = setting(
        100.0,
        "Passes over the labeled images in phase 0; 0 leaves phase 0 out.",
        group="which labels, and how long",
        least=0,
    )
    phase_epochs: float = setting(
        10.0,
        "Passes over the kept unlabeled images in each further phase.",
        group="which labels, and how long",
        above=0,
    )
    labeled_batch_size: int = setting(
        16,
        "Labeled images per optimizer update, over all processes and accumulation steps.",
        group="which labels, and how long",
        pixels=4,
        least=1,
        hint=_BATCH,
    )
    pseudo_batch_size: int = setting(
        48,
        "Pseudo-labeled images per optimizer update, over all processes and accumulation steps.",
        group="which labels, and how long",
        pixels=12,
        least=1,
        hint=_BATCH,
    )
    online_threshold: float = setting(
        0.0,
        "With --strategy online: ignore labels up to this confidence.",
        group="which labels, and how long",
        least=0,
        below=1,
        hint=_OFF,
    )
    unlabeled_ramp: float = setting(
        0.0,
        "With --strategy online: part of the phase over which pseudo labels gain their full weight (0.3 unless given).",
        group="which labels, and how long",
        least=0,
        below=1,
        hint=_OFF,
    )
    mixup_alpha: float = setting(
        0.0, "Beta parameter of mixup; 0 is off. Images only.", group="regularization", least=0, hint=_OFF
    )
    ema_decay: float = setting(
        0.0,
        "Decay of averaged weights that label, are evaluated and exported; 0 is off.",
        group="regularization",
        least=0,
        below=1,
        hint=_OFF,
    )
    official: bool = setting(
        False,
        "Do as the official code does where it errs or differs from the paper: its index arithmetic of selection "
        "(images), its average of weights, its ramp, its mixup of weights, and weight decay of biases and norms too.",
        group="regularization",
    )

    def __post_init__(self) -> None:
        self.label_ratios = tuple(self.label_ratios)


@dataclass
class RunSettings:
    """How a run trains two members, whatever the method."""

    learning_rate_b: float | None = setting(
        None,
        "Learning rate of model b; default: the same as --learning_rate.",
        group="two members in one run",
        least=0,
        hint=_RATE,
    )
    supervised_learning_rate: float | None = setting(
        None,
        "Learning rate of phase 0 (b's in proportion); default: the same as --learning_rate.",
        group="two members in one run",
        least=0,
        hint=_RATE,
    )
    train: str = setting(
        "all",
        "What learns: `all`, the `head` alone, the head and all `norms`, or the head and the last N blocks (`last:2`). "
        "The rest costs no optimizer state and less memory.",
        group="two members in one run",
    )
    train_b: str | None = setting(None, "What learns in model b; default: as --train.", group="two members in one run")
    freeze_backbone: bool = setting(False, "The same as --train head.", group="two members in one run")
    layer_decay: float | None = setting(
        None,
        "Learning rate of each pretrained block as a fraction of that of the next one, such as 0.75; the head keeps "
        "the full rate.",
        group="two members in one run",
        above=0,
        most=1,
        hint="each block learns at most as fast as the next one: give a fraction such as 0.75, or leave it out",
    )
    freeze_batch_norm: bool = setting(
        False,
        "Keep the statistics of pretrained BatchNorm layers, for batches too small to measure them.",
        group="two members in one run",
    )
    member_schedule: str = setting(
        "together",
        "Train both members in every update (`together`), or in each phase first a, then b (`alternate`): the memory "
        "of one model, while the other one waits on the CPU.",
        group="two members in one run",
        choices=("together", "alternate"),
    )
    augmentation: str | None = setting(
        None,
        "none (whole images: the same view every time), weak, strong, or for masks scale-crop-flip; default: strong, "
        "for masks scale-crop-flip.",
        group="two members in one run",
    )
    augmentation_b: str | None = setting(
        None,
        "Augmentation of model b's views; default: the same as --augmentation.",
        group="two members in one run",
    )
    horizontal_flip: bool = setting(
        True,
        "Mirror half of the views. Disable for text and digits.",
        group="two members in one run",
    )
    keep_pseudo_labels: str = setting(
        "last",
        "Which phases' pseudo labels stay in the output folder: the `last` one's, or `all`.",
        group="two members in one run",
        choices=("last", "all"),
    )
    exact_decoding: bool = setting(
        False,
        "Decode every pixel of large photos for training and labeling too, instead of as many as the views need "
        "(scores always do).",
        group="two members in one run",
    )
    metrics: Sequence[str] = setting(
        (),
        "Further metrics of the `evaluate` library, at every evaluation: names or paths, with arguments, such as "
        "f1:average=macro matthews_correlation.",
        group="two members in one run",
    )
    max_skipped_updates: int = setting(
        20,
        "Stop after so many updates in a row without finite gradients; each is skipped.",
        group="two members in one run",
        least=1,
        hint="a run stops after at least one update that failed",
    )


def as_results(knobs: Knobs) -> dict[str, Any]:
    """The resolved values for `dmt_results.json`."""
    return {**asdict(knobs), "label_ratios": list(knobs.label_ratios)}


KNOBS = declared(Knobs)
RUN_SETTINGS = declared(RunSettings)
