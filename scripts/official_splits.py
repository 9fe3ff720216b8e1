"""Reconstruct the labeled sets of the official experiments from the sorted list of image names.

The official scripts (segmentation/generate_splits.py, dms_sample.py, pascal_sbd_split.py; classification/
generate_splits.py) shuffle with Python's and NumPy's seeded generators, whose streams do not change between versions.
Their lists therefore need not be shipped: `VOC_LABELED_SHA256` and `CITYSCAPES_LABELED_SHA256` verify that a list made
here equals the published one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from hf_dmt.data.splitting.splits import Item, difference_maximized, sha256_of_ids

SPLIT_SEED = 7777
NUM_ORDERS = 3

# A split is named after 1 / its share of labels; the divisor is the value the share was computed with (100 images:
# 1/105.82).
VOC_DIVISORS = {"106": 105.82, "50": 50.0, "20": 20.0, "8": 8.0, "4": 4.0, "2": 2.0}
CITYSCAPES_DIVISORS = {"30": 29.75, "8": 8.0, "4": 4.0}

# The order in which the official script draws difference-maximized subsets; all use one random stream.
_DRAWN_FROM = ("8", "20", "50", "106")

# First 16 hex digits of the SHA-256 of the published lists (one name per line), orders 0, 1 and 2.
VOC_LABELED_SHA256 = {
    "106": ("f9789e88e220c92a", "e07ecc43bcebd11f", "189766c3d35c5782"),
    "50": ("a0b521be2b7982db", "e4ea266bbe3ab746", "c887e701037c7716"),
    "20": ("f653a062686eacce", "feb2d4be8bf36eb0", "477eaba1567aad16"),
    "8": ("77d6859dad508f73", "4bdefee60d6d910f", "ab726acabf28c938"),
}
CITYSCAPES_LABELED_SHA256 = {
    "30": ("9352d7c3d40e99bd", "deafbbefeb2d7522", "e1738357eda60e3a"),
    "8": ("8edf05d41d49c917", "2545e84b8dc6cb99", "f1d2674c0d97605a"),
}


def official_orders(names: Sequence[Item]) -> list[list[Item]]:
    """The three orders of the sorted training list; each is a reshuffle of the previous one."""
    generator = random.Random(SPLIT_SEED)
    order = list(names)
    orders = []
    for _ in range(NUM_ORDERS):
        generator.shuffle(order)
        orders.append(list(order))
    return orders


def labeled_count(total: int, divisor: float) -> int:
    """How many of `total` images are labeled: rounded down, plus one if a last batch of 8 would contain one image."""
    count = int(total / divisor)
    return count + 1 if count % 8 == 1 else count


def is_published(labeled: Sequence[str], sha256: str) -> bool:
    """Whether a list of names equals the published one."""
    return sha256_of_ids(labeled)[:16] == sha256


def voc_difference_maximized(names: Sequence[Item]) -> dict[tuple[str, int], tuple[list[Item], list[Item]]]:
    """The official subsets by `(split, number)`: one for model l, one for model r.

    Args:
        names: the sorted trainaug list. Another list gives other subsets, drawn in the same way.
    """
    generator = random.Random(SPLIT_SEED)
    return {
        (split, number): difference_maximized(order[: labeled_count(len(order), VOC_DIVISORS[split])], generator)
        for number, order in enumerate(official_orders(names))
        for split in _DRAWN_FROM
    }


def sbd_split(trainaug: Sequence[str], train: Sequence[str]) -> tuple[list[str], list[str]]:
    """The SBD experiment: VOC 2012 `train` is labeled, the rest of trainaug is not."""
    labeled = set(train)
    return list(train), [name for name in trainaug if name not in labeled]


def cifar_train_and_validation(labels: np.ndarray, per_class: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and `per_class` rows of each class for validation; the training rows are sorted by class.

    The official script draws these from an unseeded generator, so its 200 validation images are unknown.
    """
    train, held = [], []
    generator = np.random.RandomState(seed)
    for rows in _class_by_class(labels, generator):
        train.append(rows[:-per_class])
        held.append(rows[-per_class:])
    return np.concatenate(train), np.concatenate(held)


def cifar_labeled(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Labeled rows: the first `per_class` of each class in its order for `seed` (officially 1 to 5), so sets are
    nested.

    Args:
        labels: `(N,)` of the training images, without the validation images.
    """
    return np.concatenate([rows[:per_class] for rows in _class_by_class(labels, np.random.RandomState(seed))])


def _class_by_class(labels: np.ndarray, generator: np.random.RandomState) -> list[np.ndarray]:
    shuffled = []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        generator.shuffle(rows)
        shuffled.append(rows)
    return shuffled
