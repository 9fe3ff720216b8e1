"""What to do after a run: the three most useful steps, with their commands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ..data.builtin import BUILTIN_SETS
from .by_class import ByClass, by_class
from .gain import Gain, gain_of
from .run import Run

MOST = 3
_GOOD_LABELS = 0.9  # share of right pseudo labels above which down-weighting costs more than it saves


@dataclass(frozen=True)
class Step:
    """The reason, in a sentence, and a command; None if there is no command for it."""

    why: str
    command: str | None = None


def next_steps(run: Run, place: str) -> list[Step]:
    """At most three steps, the most useful first.

    Args:
        place: how commands refer to the run's folder; a published page must not contain local paths.
    """
    place = shlex.quote(place)
    if not run.phases or not run.finished:
        return [Step("Let the run finish.", f"{_train(run)} --output_dir {place} --resume_from_checkpoint true")]
    gain, classes = gain_of(run), by_class(run)
    steps = [*_repair(run, gain), *_measure(run, gain), *_label(run, classes, place), *_use(run, place)]
    return steps[:MOST]


def _repair(run: Run, gain: Gain | None) -> list[Step]:
    if gain is None or not (gain.collapsed or gain.having("loss")):
        return []
    if run.knobs.get("strategy") == "online":
        why = "Labels made at every update reinforced their own mistakes: make them between phases instead."
        return [Step(why, f"{_train(run)} --strategy phases")]
    longer = 2 * float(run.knobs.get("supervised_epochs") or 50)
    return [
        Step(
            "Phase 0 may have been too short: train it longer, and keep fewer pseudo labels.",
            f"{_train(run)} --supervised_epochs {longer:g} --label_ratios 0.2 0.4 0.6",
        ),
        Step("Or train on the labels alone, with the same number of updates.", f"{_train(run)} --method supervised"),
    ]


def _measure(run: Run, gain: Gain | None) -> list[Step]:
    if gain is not None and gain.split == "eval":
        return [Step("Hold out labeled images as a test split (--test_fraction 0.2): the eval split chose the model.")]
    if gain is not None and gain.having("unclear") and not gain.having("gain") and not gain.having("loss"):
        return [Step("Repeat with other splits: a single run on so few images is not conclusive.", _compare(run))]
    if gain is None and not run.uses_unlabeled:
        return [Step("Compare with methods that use the unlabeled images.", _compare(run))]
    return []


def _label(run: Run, classes: ByClass | None, place: str) -> list[Step]:
    steps = []
    if run.labeled_phases:
        what = "regions" if run.is_pixels else "images"
        why = f"Label the 100 {what} on which a and b disagree most; new labels help most there."
        steps.append(Step(why, f"hf-dmt queue {place} --to to_label --count 100{_images_of(run)}"))
    right = [run.label_fact(entry, name, "accuracy") for entry in run.labeled_phases[-1:] for name in run.makers]
    known = [value for value in right if value is not None]
    if not run.is_pixels and known and min(known) > _GOOD_LABELS and run.results.get("method") == "dmt":
        why = (
            f"At least {100 * min(known):.0f} % of the pseudo labels are right, so using all of them at full weight "
            "(mutual) may gain more."
        )
        steps.append(Step(why, f"{_train(run)} --method mutual"))
    elif classes is not None and classes.never_found:
        names = ", ".join(classes.never_found[:3])
        steps.append(Step(f"Label more images of the classes that the ensemble never finds: {names}."))
    return steps


def _use(run: Run, place: str) -> list[Step]:
    to = "masks/" if run.is_pixels else "labels.csv"
    return [
        Step("Label a folder of images with the pair.", f"hf-dmt predict {place} my_images/ --to {to}"),
        Step("Try the pair in the browser.", f"hf-dmt demo {place}"),
    ]


def _images_of(run: Run) -> str:
    """Data flags for a command that cannot find the images on its own."""
    labels = " --extra_labels ..." if run.split.get("extra_labeled") else ""
    if run.split.get("dataset") in BUILTIN_SETS or run.split.get("dataset_id"):
        return labels
    unlabeled = " --unlabeled_dir ..." if run.split.get("unlabeled_from") else ""
    return f" --dataset_name ...{unlabeled}{labels}"


def _train(run: Run) -> str:
    return f"hf-dmt train{_same(run)}"


def _compare(run: Run) -> str:
    flags = _same(run)
    return f"hf-dmt compare --arms labeled-only dmt mutual{' --' + flags if flags else ''}"


def _same(run: Run) -> str:
    """Flags that repeat the run's data, as far as they may be published; `...` stands for the rest."""
    data = run.split.get("dataset_id") or run.split.get("dataset")
    if data in BUILTIN_SETS:
        return "" if data == "digits" else f" --dataset_name {data}"
    return f" --dataset_name {shlex.quote(run.split['dataset_id'])} ..." if run.split.get("dataset_id") else " ..."
