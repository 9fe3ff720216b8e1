"""The embedded data sets: fixed, with disjoint splits, and with items of the promised form."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.builtin import BuiltinSet, digit_scenes, load_builtin

DIGITS = {"train": "ca3e13db8cdd", "validation": "4066768db77f", "test": "f1c526447512"}


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def test_digits_items() -> None:
    """Items must have the fields that the trainer expects and use the whole range of pixel values: the original 0 to 16
    is nearly black."""
    train = load_builtin("digits")["train"]
    item = train[3]
    assert isinstance(item["image"], Image.Image) and item["image"].size == (8, 8)
    assert item.keys() == {"image", "label"} and type(item["label"]) is int
    assert train.labels is not None and item["label"] == train.labels[3]
    assert train.images.max() == 255 and train.images.min() == 0
    assert train.class_names == tuple("0123456789")
    assert train.ids[:2] == ("0", "1") and len(train.ids) == len(train) == 1197


def test_digits_splits_are_fixed_balanced_and_disjoint() -> None:
    """Guards against a moved or leaked test image, which silently spoils the comparison with published figures."""
    splits = load_builtin("digits")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 1197,
        "validation": 100,
        "test": 500,
    }
    for name, each in (("validation", 10), ("test", 50)):
        labels = splits[name].labels
        assert labels is not None and np.bincount(labels).tolist() == [each] * 10
    every = np.concatenate([part.images.reshape(len(part), -1) for part in splits.values()])
    assert len(np.unique(every, axis=0)) == len(every) == 1797
    assert {name: digest(part.images) for name, part in splits.items()} == DIGITS


def test_scene_items() -> None:
    """Image and mask must have the same size, mask values must be class ids, and every class must occur."""
    splits = load_builtin("digit-scenes")
    assert {name: len(part) for name, part in splits.items()} == {"train": 600, "validation": 60, "test": 200}
    for part in splits.values():
        item = part[0]
        assert item.keys() == {"image", "mask"} and item["image"].mode == "RGB" and item["mask"].mode == "L"
        assert item["image"].size == item["mask"].size == (48, 48)
        assert part.labels is None and part.masks is not None
        share = np.bincount(part.masks.ravel(), minlength=5) / part.masks.size
        assert len(share) == len(part.class_names) == 5 and 0.7 < share[0] < 0.95 and share[1:].min() > 0.02


def test_scenes_are_a_function_of_the_seed() -> None:
    """Every process generates its own copy of the scenes; if copies differed, images would get the masks of other
    images."""
    first, again, other = (digit_scenes(seed, (4, 2, 2)) for seed in (1, 1, 2))
    for split in first:
        assert np.array_equal(first[split].images, again[split].images)
        assert np.array_equal(masks(first[split]), masks(again[split]))
        assert not np.array_equal(first[split].images, other[split].images)
    assert not np.array_equal(first["validation"].images, first["test"].images)


def test_color_does_not_tell_the_class() -> None:
    """If brightness separated the classes, the demo would show nothing about recognizing shapes."""
    scenes = load_builtin("digit-scenes")["train"]
    means = [scenes.images[masks(scenes) == label].mean() for label in range(5)]
    assert max(means) - min(means) < 12


def test_unknown_name_lists_the_known() -> None:
    """A mistyped name must not fall through to the Hub."""
    with pytest.raises(ValueError, match=r"'digit'.*digits or digit-scenes"):
        load_builtin("digit")


def masks(scenes: BuiltinSet) -> np.ndarray:
    assert scenes.masks is not None
    return scenes.masks
