"""Image sets given from Python: invalid labels are refused before phase 0 and not trained as another class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from hf_dmt.data.labels.items import check_item_labels, check_label
from hf_dmt.data.splitting.contents import digest_of
from hf_dmt.training.inputs.image_sets import check_image_set
from tests.data import small_files as files

NAMES = ["cat", "dog", "owl"]


def items(*labels: Any) -> list[dict[str, Any]]:
    return [{"image": files.image(1), "label": label} for label in labels]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (1.5, "Item 1 of train has the label 1.5, .* whole number"),
        ("dog", "label 'dog', but a label must be the number of a class: 'dog' is number 1"),
        ("wolf", r"the order is \['cat', 'dog', 'owl'\]"),
        ([0.0, 1.0, 0.0], "a label with 3 values.*one-hot"),
        (np.array([0, 1, 0]), "a label with 3 values"),
        (None, "has no label. Move images without one"),
        (3, "has label 3, but the pair has 3 classes, 0 to 2"),
        (-1, "has label -1, .*usually marks an image without a label"),
        (float("nan"), "has the label nan"),
        (float("inf"), "has the label inf"),
        ({"a": 1}, "has a dict as its label"),
    ],
)
def test_what_is_no_label(label: Any, message: str) -> None:
    """Guards against training on invalid labels, such as 1.5 as class 1."""
    with pytest.raises(ValueError, match=message):
        check_item_labels(items(0, label), "train", NAMES)


def test_what_is_one() -> None:
    """Guards against refusing the number types of other libraries."""
    labels = [0, True, 2.0, np.int64(1), np.float32(2), torch.tensor(1), np.array(2)]
    check_item_labels(items(*labels), "train", NAMES)


def test_a_bad_label_far_behind_is_found_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a bad label far back in the eval set, such as 7 of 3 classes, that stops the run only after phase
    0."""
    with pytest.raises(ValueError, match="Item 40 of eval_dataset has label 7"):
        check_item_labels(items(*[0] * 40, 7), "eval_dataset", NAMES)
    rows = {"image": [{"bytes": b"no image", "path": None}] * 50, "label": [0] * 49 + [7]}
    table = datasets.Dataset.from_dict(
        rows, features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    )
    with pytest.raises(ValueError, match="Item 49 of eval_dataset has label 7"):
        check_item_labels(table, "eval_dataset", NAMES)


def test_a_hole_in_a_list_is_found_before_training() -> None:
    """Guards against a run that ends in phase 1, when an item that is None is drawn for the first time."""
    pair = SimpleNamespace(task="image-classification", class_names=NAMES)
    good = items(0, 1)
    for bad, message in ((None, "Item 2 of train is a NoneType"), ({"label": 1}, r"Item 2 of train has the keys")):
        with pytest.raises(ValueError, match=message):
            check_image_set([*good, bad], "train", pair)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "message"),
    [(5, r"Item 0 of train is not an image: .* got int"), ([[1]], "got list"), ("/no/such.png", "No such file")],
)
def test_an_image_that_is_none_fails_before_training(image: Any, message: str) -> None:
    """Guards against starting a run in its output folder without checking that the first image can be read."""
    pair = SimpleNamespace(task="image-classification", class_names=NAMES)
    with pytest.raises(ValueError, match=message):
        check_image_set([{"image": image, "label": 0}], "train", pair)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("x", "Item 0 of train"),
        (np.zeros((9, 9), int), "9x9"),
        (np.full((16, 20), 0.5), "Item 0 of train contains float64"),
    ],
)
def test_a_mask_that_is_none_fails_before_training(mask: Any, message: str) -> None:
    """Guards against masks that are missing, have another size or contain fractions, and fail only during training."""
    pair = SimpleNamespace(task="semantic-segmentation", class_names=NAMES)
    with pytest.raises(ValueError, match=message):
        check_image_set([{"image": files.image(1), "mask": mask}], "train", pair)  # type: ignore[arg-type]


def test_a_label_behind_items_without_one_is_checked() -> None:
    """Guards against a run that ends at the first labeling because one of the unlabeled images has a class name as its
    label."""
    pair = SimpleNamespace(task="image-classification", class_names=NAMES)
    unlabeled = [{"image": files.image(1)}, {"image": files.image(2), "label": "cat"}]
    with pytest.raises(ValueError, match=r"Item 1 of unlabeled has the label 'cat'"):
        check_image_set(unlabeled, "unlabeled", pair, with_target=False)  # type: ignore[arg-type]


class Photos:
    """A data set of a user's own class, which decodes the image to return its label."""

    def __init__(self, *items: Any, length: int | None = None) -> None:
        self.items, self.length = items, length or len(items)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> Any:
        if isinstance(self.items[row], Exception):
            raise self.items[row]
        return self.items[row]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Photos(*items(0, 1), None), "Item 2 of train is a NoneType"),
        (Photos(*items(0), FileNotFoundError("gone.jpg")), r"Item 1 of train.*FileNotFoundError: gone\.jpg"),
        (Photos(*items(0, 1), length=5), r"Item 2 of train, which has 5, cannot be read \(IndexError"),
    ],
)
def test_sets_of_any_class_fail_before_training(source: Any, message: str) -> None:
    """Guards against a run that ends when a missing photo, far back in the data set, is drawn for the first time."""
    with pytest.raises(ValueError, match=message):
        check_item_labels(source, "train", NAMES)


def test_an_unlabeled_image_may_be_of_any_class() -> None:
    """Guards against refusing unlabeled images of a class that the pair does not know; a word as a label is still an
    error."""
    assert check_label(7, "Image x", None) == 7
    with pytest.raises(ValueError, match=r"Image x has the label 'cat', but .* number of a class: 0, 1, 2"):
        check_label("cat", "Image x", None)
    check_item_labels(items(None, 7, -1), "unlabeled", NAMES, optional=True)


def test_classes_in_another_order_are_refused() -> None:
    """Guards against classes in another order: with ClassLabel(dog, cat, owl), every dog was trained, scored and
    exported under the name cat."""
    pair = SimpleNamespace(task="image-classification", class_names=NAMES)
    rows = {"image": [files.image(1)] * 3, "label": [0, 1, 2]}

    def table(*names: str) -> datasets.Dataset:
        label = datasets.ClassLabel(names=list(names))
        return datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image(), "label": label}))

    for source in (table("dog", "cat", "owl"), torch.utils.data.Subset(table("dog", "cat", "owl"), [0, 1])):
        with pytest.raises(ValueError, match=r"eval calls class 0 'dog', but in the pair 'dog' is class 1"):
            check_image_set(source, "eval", pair)  # type: ignore[arg-type]
    for names in (NAMES, ["chat", "chien", "hibou"]):  # other names for the same numbers are allowed
        check_image_set(table(*names), "eval", pair)  # type: ignore[arg-type]


def test_one_changed_label_of_many_changes_the_hash_of_a_set() -> None:
    """Guards against a resume that continues with corrected labels, because the one that changed is none of the few
    items whose images are read."""
    changed = [int(row == 301) for row in range(600)]
    for kind in (list, datasets.Dataset.from_list):
        before, now = (kind([{"label": label} for label in labels]) for labels in ([0] * 600, changed))
        assert digest_of(before) != digest_of(now)
