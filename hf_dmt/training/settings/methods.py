"""The presets of `--method`, and how the knobs of a run are resolved.

A knob that is given wins over the preset, the preset over the task's default. The resolved values are saved with the
results.
"""

from __future__ import annotations

from typing import Any

from .knobs import KNOBS, Knobs

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
    preset = {**{name: one.default_for(task) for name, one in KNOBS.items()}, **PRESETS[method]}
    if given.get("strategy") == "online" and preset["strategy"] != "online":
        # From the first step the labels are those of an untrained or freshly started teacher: let them in slowly.
        preset["unlabeled_ramp"] = 0.3
    knobs = Knobs(**{**preset, **given})
    _check(knobs, task)
    return knobs


def _check(knobs: Knobs, task: str) -> None:
    for name, one in KNOBS.items():
        one.check(getattr(knobs, name))
    _check_together(knobs)
    if task == "semantic-segmentation":
        _check_pixels(knobs)


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
    if knobs.strategy == "online" and knobs.labeler == "graph":
        raise ValueError(
            "labeler graph spreads labels over all unlabeled images at once, between phases, and strategy online "
            "labels the images of one update. Use strategy phases, or labeler peer."
        )
    if knobs.exchange == "sequential" and (
        knobs.strategy == "online" or knobs.labeler != "peer" or knobs.restart == "initial" or knobs.ema_decay
    ):
        raise ValueError(
            "exchange sequential lets a and b teach each other in turn, each going on from its own weights. With "
            f"strategy {knobs.strategy}, labeler {knobs.labeler}, restart {knobs.restart} and ema_decay "
            f"{knobs.ema_decay:g} it cannot. Use phases, peer, continue and 0, or exchange simultaneous."
        )


def _check_pixels(knobs: Knobs) -> None:
    """What masks do not allow."""
    if knobs.labeler == "graph":
        raise ValueError(
            "labeler graph compares whole images, and a pixel has no features of its own to be compared by. Use "
            "labeler peer for semantic-segmentation."
        )
    if knobs.mixup_alpha > 0:
        raise ValueError(
            f"mixup_alpha is {knobs.mixup_alpha:g}, but mixup of images has no meaning for masks. "
            "Leave it at 0 for semantic-segmentation."
        )
    if not knobs.class_balanced:
        raise ValueError(
            "class_balanced false is not possible for semantic-segmentation: over all classes together, "
            "the few large ones would fill every ratio. Leave it at auto."
        )
