"""What to do after a run: the three most useful steps, with their commands."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Given:
    """The flags that a run was started with, for commands that can be copied. They contain local paths, so they are
    for the terminal only.

    Attributes:
        train: all of them, without those that name or continue the output folder.
        in_full: without a limit of updates.
        any_method: without those that tell the methods apart, for another `--method`.
        compare: those that `hf-dmt compare` accepts.
        data: those that choose images.
        unlabeled: a folder of images, if one was given.
    """

    train: Sequence[str]
    in_full: Sequence[str]
    any_method: Sequence[str]
    compare: Sequence[str]
    data: Sequence[str]
    unlabeled: str | None = None


def next_steps(run: Run, place: str, given: Given | None = None) -> list[Step]:
    """At most three steps, the most useful first.

    Args:
        place: how commands refer to the run's folder; a published page must not contain local paths.
        given: the flags of the run; without them, `...` stands for what may not be published.
    """
    place = shlex.quote(place)
    if not run.phases or not run.finished:
        again = shlex.join(["hf-dmt", "train", *given.train]) if given else f"hf-dmt train{_same(run)}"
        return [Step("Let the run finish.", f"{again} --output_dir {place} --resume_from_checkpoint true")]
    gain, classes = gain_of(run), by_class(run)
    first = _in_full(run, given) or [*_repair(run, gain, given), *_measure(run, gain, given)]
    return [*first, *_label(run, classes, place, given), *_use(run, place, given)][:MOST]


def _in_full(run: Run, given: Given | None) -> list[Step]:
    """For a run that was cut short to try it out: its gain or loss says nothing about a full one."""
    most = (run.results.get("settings") or {}).get("max_steps")
    if not most or not run.uses_unlabeled or all(entry["steps"] < most for entry in run.phases):
        return []
    why = f"--max_steps {most} ended phases early. If this was a try, leave it out for the full run."
    return [Step(why, _command(run, given.in_full) if given else None)]


def _repair(run: Run, gain: Gain | None, given: Given | None) -> list[Step]:
    if gain is None or not (gain.collapsed or gain.having("loss")):
        return []
    if run.knobs.get("strategy") == "online":
        why = "Labels made at every update reinforced their own mistakes: make them between phases instead."
        return [Step(why, _train(run, given, "--strategy", "phases"))]
    longer = 2 * float(run.knobs.get("supervised_epochs") or 50)
    return [
        Step(
            "Phase 0 may have been too short: train it longer, and keep fewer pseudo labels.",
            _train(run, given, "--supervised_epochs", f"{longer:g}", "--label_ratios", "0.2", "0.4", "0.6"),
        ),
        Step(
            "Or train on the labels alone, with the same number of updates.",
            _train(run, given, "--method", "supervised"),
        ),
    ]


def _measure(run: Run, gain: Gain | None, given: Given | None) -> list[Step]:
    if gain is not None and gain.split == "eval":
        why = "Hold out labeled images as a test split (--test_fraction 0.2): the eval split chose the model."
        return [Step(why, _train(run, given, "--test_fraction", "0.2") if given else None)]
    if gain is not None and gain.having("unclear") and not gain.having("gain") and not gain.having("loss"):
        why = "Repeat with other splits: a single run on so few images is not conclusive."
        return [Step(why, _compare(run, given))]
    if gain is None and not run.uses_unlabeled:
        return [Step("Compare with methods that use the unlabeled images.", _compare(run, given))]
    return []


def _label(run: Run, classes: ByClass | None, place: str, given: Given | None) -> list[Step]:
    steps = []
    if run.labeled_phases:
        what = "regions" if run.is_pixels else "images"
        to = _free("to_label") if given else "to_label"
        why = f"Label the 100 {what} on which a and b disagree most; new labels help most there."
        steps.append(Step(why, f"hf-dmt queue {place} --to {to} --count 100{_images_of(run, given)}"))
    right = [run.label_fact(entry, name, "accuracy") for entry in run.labeled_phases[-1:] for name in run.makers]
    known = [value for value in right if value is not None]
    if not run.is_pixels and known and min(known) > _GOOD_LABELS and run.results.get("method") == "dmt":
        why = (
            f"At least {100 * min(known):.0f} % of the pseudo labels are right, so using all of them at full weight "
            "(mutual) may gain more."
        )
        steps.append(Step(why, _train(run, given, "--method", "mutual")))
    elif classes is not None and classes.never_found:
        names = ", ".join(classes.never_found[:3])
        steps.append(Step(f"Label more images of the classes that the ensemble never finds: {names}."))
    return steps


def _use(run: Run, place: str, given: Given | None) -> list[Step]:
    to, images = "masks/" if run.is_pixels else "labels.csv", "my_images/"
    if given:
        to, images = _free(to), shlex.quote(given.unlabeled or images)
    return [
        Step("Label a folder of images with the pair.", f"hf-dmt predict {place} {images} --to {to}"),
        Step("Try the pair in the browser.", f"hf-dmt demo {place}"),
    ]


def _free(name: str) -> str:
    """The name, with a number if there is such a file already: commands that write refuse what another run wrote."""
    stem, dot, ending = name.rstrip("/").partition(".")
    number = 1
    while Path(name).exists():
        number += 1
        name = f"{stem}-{number}{dot}{ending}" + "/" * name.endswith("/")
    return name


def _images_of(run: Run, given: Given | None) -> str:
    """Data flags for a command that cannot find the images on its own."""
    if given:
        return " " + shlex.join(given.data) if given.data else ""
    labels = " --extra_labels ..." if run.split.get("extra_labeled") else ""
    if run.split.get("dataset") in BUILTIN_SETS or run.split.get("dataset_id"):
        return labels
    unlabeled = " --unlabeled_dir ..." if run.split.get("unlabeled_from") else ""
    return f" --dataset_name ...{unlabeled}{labels}"


def _train(run: Run, given: Given | None, *changes: str) -> str:
    """A run like this one but for the flags in `changes`."""
    if not given:
        return f"hf-dmt train{_same(run)} {' '.join(changes)}"
    flags = given.any_method if "--method" in changes else given.train
    replaced = {word.removeprefix("--") for word in changes if word.startswith("--")}
    return _command(run, [*without_flags(flags, replaced), *changes])


def _command(run: Run, flags: Sequence[str]) -> str:
    """A run like this one beside it."""
    return shlex.join(["hf-dmt", "train", *flags, "--output_dir", _free(str(run.folder))])


def _compare(run: Run, given: Given | None) -> str:
    flags = (" " + shlex.join(given.compare) if given.compare else "") if given else _same(run)
    return f"hf-dmt compare --arms labeled-only dmt mutual{' --' + flags if flags else ''}"


def _same(run: Run) -> str:
    """Flags that repeat the run's data, as far as they may be published; `...` stands for the rest."""
    data = run.split.get("dataset_id") or run.split.get("dataset")
    if data in BUILTIN_SETS:
        return "" if data == "digits" else f" --dataset_name {data}"
    return f" --dataset_name {shlex.quote(run.split['dataset_id'])} ..." if run.split.get("dataset_id") else " ..."


def without_flags(words: Sequence[str], names: Collection[str]) -> list[str]:
    """The words of a command without these flags and their values."""
    kept: list[str] = []
    keep = True
    for word in words:
        if word.startswith("--"):
            keep = word[2:].partition("=")[0].replace("-", "_") not in names
        if keep:
            kept.append(word)
    return kept
