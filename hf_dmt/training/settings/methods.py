"""The presets of `--method`, and how the knobs of a run are resolved.

An explicit knob overrides the preset, and the preset overrides the task's default. The resolved values are saved with
the results.
"""

from __future__ import annotations

from typing import Any

from .knobs import KNOBS, Knobs

# All weights 1. Gamma 0 alone would still drop positive disagreements, hence `keep`.
_UNWEIGHTED: dict[str, Any] = {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"}

# How each method changes the defaults above; docs/methods.md gives its origin and use.
PRESETS: dict[str, dict[str, Any]] = {
    "dmt": {},
    # labels alone
    "supervised": {"label_ratios": ()},
    # each model makes its own labels
    "cbst": {"labeler": "self", **_UNWEIGHTED},
    "dst": {"labeler": "self"},
    "curriculum": {"labeler": "self", "restart": "initial", **_UNWEIGHTED},
    # the models label for each other, with other weights than dmt
    "mutual": _UNWEIGHTED,
    "naive": {"positive_disagree": "keep"},
    "flip": {"positive_disagree": "flip"},
    # labels at every update
    "cps": {"strategy": "online", **_UNWEIGHTED},
    "online-st": {"strategy": "online", "labeler": "self", "online_threshold": 0.9, **_UNWEIGHTED},
}

# What tells the methods apart. Ratios of labels are for all that have phases, and ignored by the others.
OF_A_METHOD = {name for preset in PRESETS.values() for name in preset} - {"label_ratios"}


def resolve(method: str, task: str, explicit: dict[str, Any]) -> Knobs:
    """Combine explicit values, preset and the task's defaults.

    Args:
        explicit: knobs by name; None means not set.

    Raises:
        ValueError: an unknown method or choice, or a value out of range.
    """
    if method not in PRESETS:
        raise ValueError(f"Unknown method {method!r}; choose one of: {', '.join(PRESETS)}.")
    given = {name: value for name, value in explicit.items() if value is not None}
    if method == "supervised":
        # A recipe may set ratios, which would turn the labels-only baseline into training on pseudo labels.
        given.pop("label_ratios", None)
    preset = {**{name: one.default_for(task) for name, one in KNOBS.items()}, **PRESETS[method]}
    if given.get("strategy") == "online" and preset["strategy"] != "online":
        # In the first updates the teacher is untrained or has just restarted, so its labels are phased in.
        preset["unlabeled_ramp"] = 0.3
    if given.get("official") and task == "image-classification":
        preset["class_balanced"] = False
    knobs = Knobs(**{**preset, **given})
    _check(knobs, task)
    return knobs


def _check(knobs: Knobs, task: str) -> None:
    for name, one in KNOBS.items():
        one.check(getattr(knobs, name))
    _check_together(knobs)
    if task == "semantic-segmentation":
        _check_pixels(knobs)
    elif knobs.official and knobs.class_balanced:
        raise ValueError(
            "The official code selects images over all classes at once, so class_balanced true and official true "
            "exclude each other. Omit one of them."
        )


def _check_together(knobs: Knobs) -> None:
    """Refuse values that exclude each other."""
    if not knobs.label_ratios and knobs.supervised_epochs == 0:
        raise ValueError(
            "supervised_epochs is 0 and label_ratios is empty, so there is nothing to train. Raise one of them."
        )
    if knobs.strategy == "online" and (knobs.restart == "initial" or not knobs.label_ratios):
        raise ValueError(
            f"strategy online makes labels at every update of a single phase, so restart {knobs.restart!r} and "
            f"label_ratios {list(knobs.label_ratios)} cannot be used. Leave both at their defaults, or use strategy "
            "phases."
        )
    if knobs.strategy == "online" and knobs.labeler == "graph":
        raise ValueError(
            "labeler graph labels all unlabeled images at once, between phases, but strategy online labels the images "
            "of one update. Use strategy phases, or labeler peer."
        )
    if knobs.exchange == "sequential" and (
        knobs.strategy == "online" or knobs.labeler != "peer" or knobs.restart == "initial" or knobs.ema_decay
    ):
        raise ValueError(
            "exchange sequential trains a and b in turn on fresh labels from each other, continuing from their own "
            f"weights. It does not support strategy {knobs.strategy}, labeler {knobs.labeler}, restart "
            f"{knobs.restart} and ema_decay {knobs.ema_decay:g} together. Use phases, peer, continue and 0, or "
            "exchange simultaneous."
        )


def _check_pixels(knobs: Knobs) -> None:
    """Refuse values that do not work with masks."""
    if knobs.labeler == "graph":
        raise ValueError(
            "labeler graph compares whole images and does not work for masks. Use labeler peer for "
            "semantic-segmentation."
        )
    if knobs.mixup_alpha > 0:
        raise ValueError(
            f"mixup_alpha is {knobs.mixup_alpha:g}, but mixup does not work for masks. Leave it at 0 for "
            "semantic-segmentation."
        )
    if not knobs.class_balanced:
        raise ValueError(
            "class_balanced false is not possible for semantic-segmentation: without it, a few large classes would "
            "fill the whole ratio. Leave it at auto."
        )
