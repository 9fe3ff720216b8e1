"""The family of methods as settings of one code path: who labels, the exponents, what positive disagreement does, when.

One table of presets and one of defaults. A knob given explicitly wins over the preset, the preset over the default; the
resolved values are saved with the results.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Knobs:
    """Every setting of the method, resolved. The names are those of the command-line flags.

    Attributes:
        strategy: `phases` labels between phases, `online` at every step by the live teacher.
        labeler: who makes a member's pseudo labels: its `peer` or it`self`.
        gamma1, gamma2: exponents of the weight where the members agree and where they disagree.
        positive_disagree: `drop`, `keep` or `flip` what the student is surer of than the teacher was.
        gamma_schedule: `constant`, or `ramp` from about 0 within each phase; `official-ramp` has the full exponents at
            a phase's first update, as the official code does.
        label_ratios: fraction of the pseudo labels selected in each phase; empty for labels alone.
        supervised_epochs: passes over the labeled images in phase 0; phase_epochs: over the selected ones in each
            phase.
        labeled_batch_size, pseudo_batch_size: images per optimizer update, over all processes.
        exchange: `simultaneous`, both learn from the previous phase's labels; `sequential`, phases train a and b in
            turn, each on the labels of the peer as it now is (so there are two phases per label ratio).
        difference_maximised_sampling: `true` trains phase 0 of a and b on different 80 % of the labels; a file says
            which.
        restart: `continue` from the previous phase's weights, or from the `initial` ones.
        phase_weights: what a phase ends with and hands on: the `last` weights, or each member's `best` ones on the eval
            split.
        mixup_alpha: Beta parameter of mixup; 0 is off. ema_decay: 0 is off.
        ema_rule: `exact`, or the `official` code's inverted factor, whose average is the last weights.
        mixup_weighting: mixed weight x mixed loss as in the official code, or each label's own weight (`per_term`).
        class_balanced: select the most confident per predicted class rather than over all.
        selection_rule: `exact`, or `official` index arithmetic.
        online_threshold: confidence up to which an online pseudo label is ignored.
        unlabeled_ramp: part of the online phase over which the weight of pseudo labels rises to 1; 0 is off.
    """

    strategy: str = "phases"
    labeler: str = "peer"
    gamma1: float = 5.0
    gamma2: float = 5.0
    positive_disagree: str = "drop"
    gamma_schedule: str = "constant"
    label_ratios: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    supervised_epochs: float = 100.0
    phase_epochs: float = 10.0
    labeled_batch_size: int = 16
    pseudo_batch_size: int = 48
    exchange: str = "simultaneous"
    difference_maximised_sampling: str = "false"
    restart: str = "continue"
    phase_weights: str = "last"
    mixup_alpha: float = 0.0
    mixup_weighting: str = "mixed"
    ema_decay: float = 0.0
    ema_rule: str = "exact"
    class_balanced: bool = False
    selection_rule: str = "exact"
    online_threshold: float = 0.0
    unlabeled_ramp: float = 0.0


# What a task changes in the defaults above.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "image-classification": {},
    "semantic-segmentation": {"class_balanced": True, "labeled_batch_size": 4, "pseudo_batch_size": 12},
}

# Every weight 1. gamma 0 alone would still drop positive disagreements, hence `keep`.
_UNWEIGHTED: dict[str, Any] = {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"}

# What each method changes in the defaults above; docs/methods.md says where it comes from and when to use it.
PRESETS: dict[str, dict[str, Any]] = {
    "dmt": {},
    # labels alone
    "supervised": {"label_ratios": ()},
    # each member labels for itself
    "cbst": {"labeler": "self", **_UNWEIGHTED},
    "dst": {"labeler": "self"},
    "curriculum": {"labeler": "self", "restart": "initial", **_UNWEIGHTED},
    # the members label for each other, with other weights than dmt
    "mutual": _UNWEIGHTED,
    "naive": {"positive_disagree": "keep"},
    "flip": {"positive_disagree": "flip"},
    # labels at every step
    "cps": {"strategy": "online", **_UNWEIGHTED},
    "online-st": {"strategy": "online", "labeler": "self", "online_threshold": 0.9, **_UNWEIGHTED},
}

CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": ("phases", "online"),
    "labeler": ("peer", "self"),
    "positive_disagree": ("drop", "keep", "flip"),
    "gamma_schedule": ("constant", "ramp", "official-ramp"),
    "exchange": ("simultaneous", "sequential"),
    "restart": ("continue", "initial"),
    "phase_weights": ("last", "best"),
    "mixup_weighting": ("mixed", "per_term"),
    "ema_rule": ("exact", "official"),
    "selection_rule": ("exact", "official"),
}


def resolve(method: str, task: str, explicit: dict[str, Any]) -> Knobs:
    """Explicit values over the preset over the task's defaults.

    Args:
        explicit: knobs by name; None means not given.

    Raises:
        ValueError: an unknown method or choice, or a value outside its range.
    """
    if method not in PRESETS:
        raise ValueError(f"Unknown method {method!r}; choose one of: {', '.join(PRESETS)}.")
    given = {name: value for name, value in explicit.items() if value is not None}
    if method == "supervised":
        # A recipe may set ratios, and with them labels alone would be trained on pseudo labels after all.
        given.pop("label_ratios", None)
    preset = {**TASK_DEFAULTS[task], **PRESETS[method]}
    if given.get("strategy") == "online":
        # From the first step the labels are those of an untrained or freshly started teacher: let them in slowly.
        preset.setdefault("unlabeled_ramp", 0.3)
    knobs = Knobs(**{**preset, **given})
    _check(knobs, task)
    return knobs


def as_results(knobs: Knobs) -> dict[str, Any]:
    """The resolved values for `dmt_results.json`."""
    return {**asdict(knobs), "label_ratios": list(knobs.label_ratios)}


KNOB_NAMES = tuple(field.name for field in fields(Knobs))


def _check(knobs: Knobs, task: str) -> None:
    _check_each(knobs)
    _check_together(knobs)
    if task == "semantic-segmentation":
        _check_pixels(knobs)


def _check_each(knobs: Knobs) -> None:
    """Every value by itself."""
    for name, choices in CHOICES.items():
        if getattr(knobs, name) not in choices:
            raise ValueError(f"{name} {getattr(knobs, name)!r} does not exist; choose one of: {', '.join(choices)}.")
    for ratio in knobs.label_ratios:
        if not 0 < ratio <= 1:
            raise ValueError(
                f"label_ratios contains {ratio:g}; a ratio is the fraction of pseudo labels to keep, "
                "above 0 and at most 1, such as 0.2 0.4 0.6 0.8 1.0."
            )
    for name in ("gamma1", "gamma2", "mixup_alpha"):
        if not 0 <= getattr(knobs, name) < math.inf:
            raise ValueError(f"{name} is {getattr(knobs, name)}; it must be 0 or more (0 switches its effect off).")
    for name in ("ema_decay", "online_threshold", "unlabeled_ramp"):
        if not 0 <= getattr(knobs, name) < 1:
            raise ValueError(
                f"{name} is {getattr(knobs, name)}; it must be at least 0 and below 1 (0 switches it off)."
            )
    for name in ("labeled_batch_size", "pseudo_batch_size"):
        if getattr(knobs, name) < 1:
            raise ValueError(f"{name} is {getattr(knobs, name)}; a batch needs at least one image of each kind.")
    if not 0 <= knobs.supervised_epochs < math.inf or not 0 < knobs.phase_epochs < math.inf:
        raise ValueError(
            f"supervised_epochs is {knobs.supervised_epochs:g} and phase_epochs {knobs.phase_epochs:g}: "
            "the first may be 0 (no phase 0), the second must be above 0, and both finite."
        )


def _check_together(knobs: Knobs) -> None:
    """Values that exclude each other."""
    if not knobs.label_ratios and knobs.supervised_epochs == 0:
        raise ValueError(
            "supervised_epochs is 0 and label_ratios is empty, so nothing would be trained. Raise one of them."
        )
    if knobs.strategy == "online" and (knobs.restart == "initial" or not knobs.label_ratios):
        raise ValueError(
            f"strategy online makes labels at every step of one phase, so restart {knobs.restart!r} with label_ratios "
            f"{list(knobs.label_ratios)} cannot apply. Leave both at their defaults, or use strategy phases."
        )
    if knobs.exchange == "sequential" and (
        knobs.strategy == "online" or knobs.labeler == "self" or knobs.restart == "initial" or knobs.ema_decay
    ):
        raise ValueError(
            "exchange sequential lets a and b teach each other in turn, each going on from its own weights. With "
            f"strategy {knobs.strategy}, labeler {knobs.labeler}, restart {knobs.restart} and ema_decay "
            f"{knobs.ema_decay:g} it cannot. Use phases, peer, continue and 0, or exchange simultaneous."
        )


def _check_pixels(knobs: Knobs) -> None:
    """What masks do not allow."""
    if knobs.mixup_alpha > 0:
        raise ValueError(
            f"mixup_alpha is {knobs.mixup_alpha:g}, but mixup of images has no meaning for masks. "
            "Leave it at 0 for semantic-segmentation."
        )
    if knobs.selection_rule == "official":
        raise ValueError(
            "selection_rule official is index arithmetic on every 16th pixel, which the store does not keep. "
            "Use exact for semantic-segmentation; "
            "hf_dmt.class_balanced_thresholds(rule='official') reproduces it on tensors."
        )
    if not knobs.class_balanced:
        raise ValueError(
            "class_balanced false is not possible for semantic-segmentation: over all classes together, "
            "the few large ones would fill every ratio. Leave it at auto."
        )
