"""Find duplicate images: with different labels, or in training and evaluation data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..messages import listed
from .scan import ScannedImages, listing

_SHOWN = 3


def without_copies(
    unlabeled: ScannedImages, scored: Mapping[str, ScannedImages | None], notes: list[str]
) -> ScannedImages:
    """Leave out unlabeled images that are byte-identical to scored ones, whose scores they would raise. If nothing else
    is left, they stay: the user chose the scored images as the unlabeled ones.

    The scored images may be held out at random, so the user could not keep them apart.

    Args:
        scored: eval and test images by role.
        notes: receives a message about what is left out.
    """
    for role, found in scored.items():
        if found is None:
            continue
        is_copy = np.isin(unlabeled.contents, found.contents)
        if is_copy.any() and not is_copy.all():
            shown = listing(unlabeled.images, np.flatnonzero(is_copy))
            copies = f"{is_copy.sum()} unlabeled images that are copies" if is_copy.sum() > 1 else "1 unlabeled copy"
            notes.append(f"Skipped {copies} of {role} images: {shown}.")
            unlabeled = unlabeled.subset(np.flatnonzero(~is_copy))
    return unlabeled


def notes_on_idle(idle: ScannedImages, unlabeled: ScannedImages | None) -> list[str]:
    """A warning about training images whose labels are not used, and that are no unlabeled images either, because the
    user named other ones."""
    if unlabeled is None or not len(idle):
        return []
    unused = np.flatnonzero(~np.isin(idle.contents, unlabeled.contents))
    if not len(unused):
        return []
    return [
        f"Warning: {len(unused)} training images are not used, neither with their labels nor as unlabeled images: "
        f"{listing(idle.images, unused, _SHOWN)}. To use them without "
        "labels, add them to the folder or data set of unlabeled images."
    ]


def duplicate_notes(labeled: ScannedImages, others: Mapping[str, ScannedImages | None]) -> list[str]:
    """A warning for every kind of byte-identical duplicates.

    Args:
        others: the other sets by role: unlabeled, eval, test.
    """
    notes = []
    if twice := _two_labels(labeled):
        shown = listed((listed(ids, _SHOWN, " and ") for ids in twice), _SHOWN, "; ")
        what = "labels" if labeled.images.task == "image-classification" else "masks"
        notes.append(
            f"Warning: {_images_are(len(twice))} labeled more than once, with different {what}: {shown}. Only "
            f"one of the {what} can be right: decide, and remove the other files."
        )
    sets = {"labeled": labeled, **{role: found for role, found in others.items() if found is not None}}
    roles = list(sets)
    for number, first in enumerate(roles):
        for second in roles[number + 1 :]:
            if second not in {"eval", "test"}:
                continue  # an unlabeled copy of a labeled image is harmless
            shared, at_first, at_second = np.intersect1d(
                sets[first].contents, sets[second].contents, return_indices=True
            )
            if len(shared):
                pairs = (
                    f"{sets[first].images.id_of(int(one))} = {sets[second].images.id_of(int(other))}"
                    for one, other in zip(at_first, at_second, strict=True)
                )
                notes.append(
                    f"Warning: {_images_are(len(shared))} both {first} and {second} ({listed(pairs, _SHOWN)}), "
                    f"so scores on {second} are too high. Remove them from one of the two."
                )
    return notes


def notes_on_pair(split: Mapping[str, Any], of_pair: Mapping[str, Any]) -> list[str]:
    """Warnings about held-out images that the pair was trained on, and about labels that it was trained on and that are
    missing now.

    Args:
        split, of_pair: the `split.json` of this run, and that of the run that left the pair if it was of the same
            data set, or {}.
    """
    notes = []
    added = set(of_pair.get("extra_labeled", ()))
    if lost := added - {*split["labeled"], *split.get("extra_labeled", ())}:
        notes.append(
            f"Warning: the pair has been trained on {len(lost)} labels that were added later and are not used now, "
            f"such as that of {min(lost)!r}. Pass them again with `extra_labels`."
        )
    known = added | set(of_pair.get("labeled", ()))
    for role in split["held_out"]:
        if count := len(known & set(split[role])):
            notes.append(
                f"Warning: the pair has been trained on {count} of the {len(split[role])} images that are held out as "
                f"{role} images, so scores on {role} are too high. Give images that it has not seen: a split, "
                f"`{role}_split`."
            )
    return notes


def _images_are(count: int) -> str:
    return f"{count} images are" if count > 1 else "1 image is"


def _two_labels(labeled: ScannedImages) -> list[list[str]]:
    """Ids of identical images with several labels or masks, one list per image."""
    labels = labeled.images.labels
    said = labeled.mask_contents if labels is None else labels
    _, number, count = np.unique(labeled.contents, return_inverse=True, return_counts=True)
    groups: dict[int, list[int]] = {}
    for position in np.flatnonzero(count[number] > 1):
        groups.setdefault(int(number[position]), []).append(int(position))
    return [
        [labeled.images.id_of(position) for position in positions]
        for positions in groups.values()
        if len({said[position] for position in positions}) > 1
    ]
