"""Signs that the members are teaching each other nonsense, read when a phase's labels are made, and the way back.

Mutual training can feed on its own mistakes: a class that is predicted less is trained on less. Phase by phase the
labels look ever more confident while classes vanish. No truth is needed to see it; the labels of the first phase, made
by weights that saw labeled images only, are what later ones are compared with.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from ...data.labels.pseudo_labels import ImageLabels, PixelLabels
from ...data.members import MEMBERS
from ...method import Phase, decode_confidence
from . import phase_labels
from .phase_labels import PhaseLabels

if TYPE_CHECKING:
    from ..trainer import DMTTrainer

logger = logging.get_logger(__name__)

# Whole runs on digits, digit-scenes and CIFAR-10 raise none of them: there no class vanished, none reached twice its
# share, and at most 25 % was overruled. Runs of two updates a phase raise nearly all.
KEPT_CLASSES = 0.7  # of the classes that the first labels had
TAKEN_OVER = 0.5  # of all labels, by a class that has at least doubled its share
OVERRULED = 0.5  # of the pseudo-labeled units
SAME_DOUBT = 0.02  # difference of the members' doubts, relative to their mean: two networks never come that close

_COMPARED_IMAGES = 16  # of a pixel store, whose every image is a file


@dataclass(frozen=True)
class Signs:
    """What a phase's labels show.

    Attributes:
        class_counts: per member, how often it gave each class, selected or not: the most confident few are often of
            one class.
        same: the members gave the same labels with the same doubt.
        overruled: per member, the share of units it was surer of than its teacher, at the end of the phase before.
    """

    class_counts: Mapping[str, Sequence[int]]
    same: bool = False
    overruled: Mapping[str, float] = field(default_factory=dict)


def alarms(now: Signs, first: Signs | None) -> list[str]:
    """One line for each sign of collapse: what is seen, and what to try.

    Args:
        first: the signs of the first phase with labels; None in that phase itself.
    """
    found = []
    for name, given in now.class_counts.items():
        counts = np.asarray(given, dtype=float)
        share = counts / max(1.0, counts.sum())
        top, kept = int(share.argmax()), int((counts > 0).sum())
        if first is None:
            if kept == 1 and len(counts) > 1:
                found.append(
                    f"{name} gives all its labels to class {top}: it has not learned from the labeled images. Raise "
                    "--supervised_epochs, or look at --learning_rate."
                )
            continue
        before = np.asarray(first.class_counts[name], dtype=float)
        had = int((before > 0).sum())
        if kept <= KEPT_CLASSES * had:
            found.append(
                f"{name} predicts {kept} of the {had} classes of its first labels: rare classes are dying out. Try "
                "--class_balanced true, lower --label_ratios, or a higher --gamma2."
            )
        share_before = before[top] / max(1.0, before.sum())
        if share[top] > TAKEN_OVER and share[top] >= 2 * share_before:
            found.append(
                f"Class {top} takes over: {share[top]:.0%} of the labels of {name}, {share_before:.0%} of its first "
                "ones. Try --class_balanced true, lower --label_ratios, or more labeled images in a batch "
                "(--labeled_batch_size)."
            )
    if now.same:
        found.append(
            "The two members give the same labels with the same confidence, so neither can correct the other. Use two "
            "different models, or --difference_maximised_sampling true."
        )
    for name, share_overruled in now.overruled.items():
        if share_overruled >= OVERRULED:
            found.append(
                f"{name} overrules {share_overruled:.0%} of the labels it is given and learns from the rest only. "
                "Lower --learning_rate, or train longer on the labeled images first (--supervised_epochs)."
            )
    return found


def lower_ratio(ratio: float, before: float | None) -> float:
    """Where a phase starts again: half of the smaller of its own ratio and that of the phase that went wrong."""
    return min(ratio, before if before is not None else ratio) / 2


def provide(trainer: DMTTrainer, phase: Phase, *, in_the_middle: bool) -> tuple[PhaseLabels, dict[str, Any]]:
    """The labels of a phase, looked at before they are trained on.

    With `--rollback_on_collapse` the weights that made the last good labels come back when these show a collapse, and
    label again, at a lower ratio.

    Returns:
        The labels, and what the record of the phase says of it: `label_ratio`, and `alarms` where there are any.
    """
    planned = phase.label_ratio
    assert planned is not None
    last_good = Path(trainer.args.output_dir) / "last_good"
    if in_the_middle:
        events = [line for line in trainer.records.lines(phase.index) if "alarms" in line]
        event = broadcast_object_list(events[:1] or [{}])[0]  # the main process has the logs
        ratio = event.get("label_ratio", planned)
        found = _labels(trainer, replace(phase, label_ratio=ratio), in_the_middle=True)
        return found, {"label_ratio": ratio, **{key: event[key] for key in ("alarms", "rolled_back") if key in event}}
    found = _labels(trainer, phase, in_the_middle=False)
    seen = [alarms(*_signs(trainer, found))]
    seen = broadcast_object_list(seen)  # all must go the same way
    event = {"label_ratio": planned}
    if seen[0]:
        event["alarms"] = seen[0]
        if trainer.args.rollback_on_collapse and (last_good / "dmt_config.json").is_file():
            before = next((earlier.label_ratio for earlier in trainer.phases if earlier.index == phase.index - 1), None)
            event |= {"rolled_back": True, "label_ratio": lower_ratio(planned, before)}
            trainer.model.load_weights(last_good)
            if trainer.ema is not None:
                trainer.ema.restart()
            found = _labels(trainer, replace(phase, label_ratio=event["label_ratio"]), in_the_middle=False)
        trainer.records.log(trainer.state.global_step, phase.index, event)
        back = f" Back to the last good weights, with label ratio {event['label_ratio']:g}."
        way = back if "rolled_back" in event else ""
        logger.warning("\n".join([f"Phase {phase.index} may be collapsing.{way}", *(f"  {line}" for line in seen[0])]))
    elif trainer.args.rollback_on_collapse:
        with trainer.judging():  # as they labeled
            if trainer.args.should_save:
                shutil.rmtree(last_good, ignore_errors=True)
                trainer.model.save_pretrained(last_good)
        trainer.accelerator.wait_for_everyone()
    return found, event


def _labels(trainer: DMTTrainer, phase: Phase, *, in_the_middle: bool) -> PhaseLabels:
    with trainer.judging(averaged=not in_the_middle):
        return phase_labels.provide(
            phase,
            trainer.model,
            trainer.unlabeled_dataset,
            trainer.knobs,
            trainer.accelerator,
            trainer.clean_pass(),
            trainer.args.output_dir,
            in_the_middle=in_the_middle,
        )


def _signs(trainer: DMTTrainer, found: PhaseLabels) -> tuple[Signs, Signs | None]:
    """Of these labels, and of the first ones of the run. The rest is in the run's results, which travel with it."""
    past = trainer.records.results["phases"]
    same = same_labels(found.of["a"], found.of["b"], len(trainer.unlabeled_dataset or ()))
    overruled = past[-1].get("overruled", {}) if past else {}
    first = next((entry["pseudo_labels"] for entry in past if entry["pseudo_labels"]), None)
    return Signs(_predicted(found.summary), same, overruled), Signs(_predicted(first)) if first else None


def _predicted(summary: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: summary[name]["predicted"] for name in MEMBERS}


def same_labels(one: ImageLabels | PixelLabels, other: ImageLabels | PixelLabels, count: int) -> bool:
    """Whether two stores of `count` images hold the same labels with the same doubt (1 - confidence) everywhere.

    False where there is no doubt at all: certain of everything, different members look the same.
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
    """Labels and confidences before selection: of all images, or of every pixel of one."""
    if isinstance(store, ImageLabels):
        return store.labels, store.confidence
    labels, codes = store.codes(row)
    return labels, decode_confidence(torch.from_numpy(codes.astype(np.int64))).numpy()
