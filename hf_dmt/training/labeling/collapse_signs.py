"""Signs of collapse (vanishing classes, identical models, overruled labels), checked when a phase's labels are made.

Mutual training can reinforce its own mistakes: a class that is predicted less often is trained on less often. Over the
phases, labels look more and more confident while classes vanish. No true labels are needed to see this. The reference
is the first phase's labels, made by models that had only seen labeled images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from ...data.escaping import printable
from ...data.labels.pseudo_labels import ImageLabels, PixelLabels
from ...data.members import MEMBERS
from ...method import decode_confidence
from .phase_labels import PhaseLabels

logger = logging.get_logger(__name__)

# Full runs on digits, digit-scenes and CIFAR-10 trigger none of these: no class vanished or doubled its share, and at
# most 25 % of the labels were overruled. Runs with two updates per phase trigger nearly all.
KEPT_CLASSES = 0.7  # fraction of the classes in the first labels
TAKEN_OVER = 0.5  # of all labels, by a class whose share has at least doubled
OVERRULED = 0.5  # fraction of the pseudo-labeled units
# difference between the models' doubts, relative to their mean; two different networks are never this close
SAME_DOUBT = 0.02

_COMPARED_IMAGES = 16  # of a pixel store, where every image is a file


@dataclass(frozen=True)
class Signs:
    """Statistics of a phase's labels.

    Attributes:
        class_counts: for each model, how often it predicted each class, selected or not, because the most confident
            labels often belong to one class.
        same: both models gave the same labels with the same doubt.
        overruled: for each model, the share of units on which it was more confident than its teacher at the end of the
            previous phase.
    """

    class_counts: Mapping[str, Sequence[int]]
    same: bool = False
    overruled: Mapping[str, float] = field(default_factory=dict)


def alarms(now: Signs, first: Signs | None, class_names: Sequence[str]) -> list[tuple[str, str]]:
    """For each sign of collapse, what was observed and what to try.

    Args:
        first: the signs of the first phase with labels; None in that phase itself.
    """
    found = []

    def sign(seen: str, advice: str) -> None:
        found.append((seen, advice))

    for name, given in now.class_counts.items():
        counts = np.asarray(given, dtype=float)
        share = counts / max(1.0, counts.sum())
        top, kept = int(share.argmax()), int((counts > 0).sum())
        if first is None:
            if kept == 1 and len(counts) > 1:
                sign(
                    f"{name} labels everything as {class_names[top]!r}: it learned nothing in phase 0.",
                    "Raise `supervised_epochs`, or try another `learning_rate`.",
                )
            continue
        before = np.asarray(first.class_counts[name], dtype=float)
        had = int((before > 0).sum())
        if kept <= KEPT_CLASSES * had:
            sign(
                f"{name} predicts only {kept} of the {had} classes in its first labels: rare classes are vanishing.",
                "Try lower `label_ratios` or a higher `gamma2`.",
            )
        share_before = before[top] / max(1.0, before.sum())
        if share[top] > TAKEN_OVER and share[top] >= 2 * share_before:
            sign(
                f"Class {class_names[top]!r} is taking over: {share[top]:.0%} of the labels of {name}, up from "
                f"{share_before:.0%} in its first labels.",
                "Try lower `label_ratios` or a larger `labeled_batch_size`.",
            )
    if now.same:
        sign(
            "The two models give the same labels with the same confidence, so neither can correct the other.",
            "Use two different models, or `difference_maximized_sampling=True`.",
        )
    for name, share_overruled in now.overruled.items():
        if share_overruled >= OVERRULED:
            sign(
                f"{name} overrules {share_overruled:.0%} of the labels it receives and learns only from the rest.",
                "Lower `learning_rate`, or train phase 0 longer (`supervised_epochs`).",
            )
    return found


def warn_of_collapse(
    found: PhaseLabels, past: Sequence[Mapping[str, Any]], count: int, class_names: Sequence[str]
) -> dict[str, list[str]]:
    """Check a phase's new labels and warn about signs of collapse, each kind of sign with its advice once.

    Args:
        past: the results' entries of the finished phases.

    Returns:
        What goes into the records, identical on every process: `alarms`, one line per sign, or nothing.
    """
    first = next((entry["pseudo_labels"] for entry in past if entry["pseudo_labels"]), None)
    now = Signs(
        class_counts=_predicted(found.summary),
        # The graph's labels are a single store for both models.
        same=found.stores["a"] is not found.stores["b"] and same_labels(found.stores["a"], found.stores["b"], count),
        overruled=past[-1].get("overruled", {}) if past else {},
    )
    signs = alarms(now, Signs(_predicted(first)) if first else None, class_names)
    signs = broadcast_object_list([signs])[0]
    if not signs:
        return {}
    said = " ".join(line for entry in past for line in entry.get("alarms", ()))
    fresh = [(seen, advice) for seen, advice in signs if advice not in said]
    lines = [
        f"Phase {past[-1]['phase'] + 1 if past else 1} {'may be' if fresh else 'still shows signs of'} collapsing."
    ]
    for seen, advice in fresh:
        lines += [printable(seen), *([] if advice in said else [f"  {advice}"])]
        said += advice
    logger.warning("\n  ".join(lines))
    return {"alarms": [f"{seen} {advice}" for seen, advice in signs]}


def _predicted(summary: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: summary[name]["predicted"] for name in MEMBERS}


def same_labels(one: ImageLabels | PixelLabels, other: ImageLabels | PixelLabels, count: int) -> bool:
    """Whether two stores of `count` images contain the same labels with the same doubt (1 - confidence) everywhere.

    False if there is no doubt at all: models that are certain of everything look identical even if they differ.
    """
    rows = range(1) if isinstance(one, ImageLabels) else range(0, count, max(1, count // _COMPARED_IMAGES))
    gap = doubt = 0.0
    for row in rows:
        (labels, confidence), (labels_other, confidence_other) = (_all_of(store, row) for store in (one, other))
        if not np.array_equal(labels, labels_other):
            return False
        gap += float(np.abs(confidence - confidence_other).sum())
        doubt += float((1 - confidence).sum() + (1 - confidence_other).sum()) / 2
    return gap < SAME_DOUBT * doubt


def _all_of(store: ImageLabels | PixelLabels, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidences before selection: of all images, or of all pixels of one image."""
    if isinstance(store, ImageLabels):
        return store.labels, store.confidence
    labels, codes = store.codes(row)
    return labels, decode_confidence(torch.from_numpy(codes.astype(np.int64))).numpy()
