"""Find images that occur twice: identical files when the sets are built, and for `hf-dmt check` resized or recompressed
copies, too (a perceptual hash and coarse colors)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from ..messages import listed
from ..reading.decoding import to_rgb
from ..reading.image_set import ImageSet
from .scan import ScannedImages, everywhere, listing

# Tried on 20,000 CIFAR-10 images. Resized and recompressed copies differ in at most 4 of 64 bits (99 %) and by at most
# 2.6 in mean color; of 87 million pairs, one is this similar, and it is a real copy.
_BITS = 4
_COLOR = 4.5
_GRID = 4  # mean colors of a 4 x 4 grid


def without_copies(
    unlabeled: ScannedImages, scored: Mapping[str, ScannedImages | None], notes: list[str]
) -> ScannedImages:
    """Leave out unlabeled images that are byte-identical to scored ones, whose scores they would raise. If nothing else
    is left, they stay: the user chose the scored images as the unlabeled ones.

    The scored images may be held out at random, so the user could not keep them apart.

    Args:
        scored: eval and test images by role.
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


def duplicate_notes(sets: Mapping[str, ScannedImages]) -> list[str]:
    """A warning for every kind of byte-identical duplicates.

    Args:
        sets: by role: labeled and, if there are any, unlabeled, eval, test.
    """
    notes = []
    labeled = sets["labeled"]
    if twice := _two_labels(labeled):
        shown = listed((listed(ids, separator=" and ") for ids in twice), separator="; ")
        what = "labels" if labeled.images.task == "image-classification" else "masks"
        notes.append(
            f"Warning: {_images_are(len(twice))} labeled more than once, with different {what}: {shown}. Only "
            f"one of the {what} can be right: decide, and remove the other files."
        )
    for first, second in combinations(sets, 2):
        if second not in {"eval", "test"}:
            continue  # an unlabeled copy of a labeled image is harmless
        one, other = sets[first], sets[second]
        shared, at_first, at_second = np.intersect1d(one.contents, other.contents, return_indices=True)
        if len(shared):
            pairs = (
                f"{one.images.id_of(row)} = {other.images.id_of(copy)}"
                for row, copy in zip(at_first.tolist(), at_second.tolist(), strict=True)
            )
            notes.append(
                f"Warning: {_images_are(len(shared))} both {first} and {second} ({listed(pairs)}), "
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


@dataclass(frozen=True)
class Signatures:
    """What the images of a set are compared by, in order.

    Attributes:
        hashes: (N,) uint64, perceptual.
        colors: (N, 48) int16, mean colors of a coarse grid.
    """

    ids: list[str]
    hashes: np.ndarray
    colors: np.ndarray


def can_compare() -> bool:
    """Whether the library for perceptual hashes is installed."""
    return find_spec("imagehash") is not None


def signatures(images: ImageSet, role: str) -> Signatures:
    """Decode every image once; each process of a run takes its share."""
    found = everywhere(lambda position: _signature(images, position), len(images), f"comparing {role} images")
    hashes, colors = zip(*found, strict=True) if found else ((), ())
    return Signatures(
        images.ids, np.array(hashes, dtype=np.uint64), np.array(colors, dtype=np.int16).reshape(len(found), -1)
    )


def _signature(images: ImageSet, position: int) -> tuple[int, np.ndarray]:
    import imagehash

    picture = to_rgb(images.rows.raw(int(images.chosen[position]))[0], images.id_of(position))
    colors = np.asarray(picture.resize((_GRID, _GRID), Image.Resampling.BOX), dtype=np.int16).ravel()
    return int(str(imagehash.phash(picture)), 16), colors


def in_both(one: Signatures, other: Signatures) -> list[tuple[str, str]]:
    """Ids of the images that are in both sets, including resized or recompressed copies.

    Each image of the smaller set is listed once, with its nearest copy in the other. Time grows with the product of the
    sizes: 4 ms for an image among a million.
    """
    if len(one.ids) > len(other.ids):
        return [(first, second) for second, first in in_both(other, one)]
    pairs = []
    for position, value in enumerate(one.hashes):
        near = np.flatnonzero(np.bitwise_count(other.hashes ^ value) <= _BITS)
        if not len(near):
            continue
        apart = np.abs(other.colors[near] - one.colors[position]).mean(axis=1)
        if apart.min() <= _COLOR:
            pairs.append((one.ids[position], other.ids[int(near[apart.argmin()])]))
    return pairs


def overlaps(sets: Mapping[str, Signatures]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """For every two roles that share images, the ids of these."""
    found = {pair: in_both(sets[pair[0]], sets[pair[1]]) for pair in combinations(sets, 2)}
    return {pair: copies for pair, copies in found.items() if copies}
