"""The official splits, compared with the published lists: a split that is almost the official one gives numbers that
cannot be compared with published ones, and nobody would notice.

The sorted lists of VOC and Cityscapes are not shipped. A shuffle's order depends only on the length of the list, so it
is checked by position: the names in the published lists of the smallest splits (100 each) must be sorted as their
positions are.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from hf_dmt.data.splitting.splits import sha256_of_ids
from scripts.official_splits import (
    CITYSCAPES_DIVISORS,
    CITYSCAPES_LABELED_SHA256,
    VOC_DIVISORS,
    VOC_LABELED_SHA256,
    cifar_labeled,
    cifar_train_and_validation,
    is_published,
    labeled_count,
    official_orders,
    sbd_split,
    voc_difference_maximized,
)

VOC_TRAINAUG, CITYSCAPES_TRAIN = 10582, 2975  # images
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "paper_golden.json").read_text())
PUBLISHED = json.loads((Path(__file__).parent / "official_smallest_lists.json").read_text())


@pytest.fixture(scope="module")
def voc_names() -> list[str]:
    """A sorted list of the right length that holds every published name at the position where the real list has it."""
    orders = official_orders(range(VOC_TRAINAUG))
    names = [""] * VOC_TRAINAUG
    for order, published in zip(orders, PUBLISHED["voc_106"], strict=True):
        for position, name in zip(order, published, strict=False):
            assert names[position] in ("", name), "two published lists put different names at one position"
            names[position] = name
    return names


class TestAgainstThePublishedLists:
    def test_the_hashes_are_of_one_name_a_line(self) -> None:
        """Guards against hashing our lists differently from the published ones: one name per line, in the published
        order."""
        for published, digest in zip(PUBLISHED["voc_106"], VOC_LABELED_SHA256["106"], strict=True):
            assert is_published(published, digest)
        assert is_published(PUBLISHED["cityscapes_30"][0], CITYSCAPES_LABELED_SHA256["30"][0])
        assert not is_published(sorted(PUBLISHED["voc_106"][0]), VOC_LABELED_SHA256["106"][0])

    def test_the_constants_are_those_of_the_golden_file(self) -> None:
        """Guards against a digit lost when a hash was copied, which would call a correct list wrong."""
        for name, table in (("PASCAL_VOC_2012", VOC_LABELED_SHA256), ("Cityscapes", CITYSCAPES_LABELED_SHA256)):
            for split, digests in table.items():
                for number, digest in enumerate(digests):
                    assert GOLDEN["split_sha256_16"][f"{name}/{split}_labeled_{number}"] == digest

    def test_all_three_voc_orders_put_the_published_names_in_sorted_positions(self, voc_names: list[str]) -> None:
        """Guards against a wrong shuffle: 300 names at random positions would be sorted by chance once in 10^600."""
        known = [name for name in voc_names if name]
        assert len(known) == len(set(known)) > 290 and known == sorted(known)

    def test_the_cityscapes_order_does_too(self) -> None:
        """Guards against a wrong shuffle of a list with the length of Cityscapes."""
        positions = official_orders(range(CITYSCAPES_TRAIN))[0][:100]
        published = PUBLISHED["cityscapes_30"][0]
        assert [name for _, name in sorted(zip(positions, published, strict=True))] == sorted(published)

    def test_the_difference_maximized_subsets_are_the_published_ones(self, voc_names: list[str]) -> None:
        """Guards against a wrong order of draws: one generator runs through the splits 8, 20, 50 and 106 of every
        order, so one draw too many changes all later lists."""
        subsets = voc_difference_maximized(voc_names)
        for number in range(3):
            left, right = subsets["106", number]
            expected = GOLDEN["dms"][f"106_{number}"]
            assert [len(left), len(right), len(set(left) & set(right))] == expected[:3]
            assert [sha256_of_ids(names)[:16] for names in (left, right)] == expected[3:]
        by_position = voc_difference_maximized(range(VOC_TRAINAUG))
        for key, (sizes_left, sizes_right, shared, *_) in GOLDEN["dms"].items():
            split, number = key.split("_")
            left, right = (set(positions) for positions in by_position[split, int(number)])
            assert [len(left), len(right), len(left & right)] == [sizes_left, sizes_right, shared]


class TestSizes:
    @pytest.mark.parametrize(
        ("split", "size"), [("106", 100), ("50", 211), ("20", 530), ("8", 1322), ("4", 2645), ("2", 5291)]
    )
    def test_voc(self, split: str, size: int) -> None:
        """Guards against breaking the % 8 rule, which gives 1/20 of VOC 530 images and not 529."""
        assert labeled_count(VOC_TRAINAUG, VOC_DIVISORS[split]) == size

    @pytest.mark.parametrize(("split", "size"), [("30", 100), ("8", 371), ("4", 743)])
    def test_cityscapes(self, split: str, size: int) -> None:
        """Guards against sizes that differ from the published ones."""
        assert labeled_count(CITYSCAPES_TRAIN, CITYSCAPES_DIVISORS[split]) == size

    def test_sbd(self) -> None:
        """Guards against labeled images that appear again among the unlabeled ones."""
        labeled, unlabeled = sbd_split(["d", "c", "b", "a"], ["b", "d"])
        assert labeled == ["b", "d"] and unlabeled == ["c", "a"]


class TestCifar:
    labels = np.random.default_rng(0).integers(0, 5, 400)

    def test_validation_is_balanced_and_apart(self) -> None:
        """Guards against validation images among the training images."""
        train, held = cifar_train_and_validation(self.labels, per_class=4)
        assert np.bincount(self.labels[held]).tolist() == [4] * 5
        assert sorted([*train, *held]) == list(range(400))

    def test_labeled_sets_are_balanced_nested_and_differ_by_seed(self) -> None:
        """The set with 25 labels per class must contain the set with 4 per class, as published results assume."""
        small, large = cifar_labeled(self.labels, 4, seed=1), cifar_labeled(self.labels, 25, seed=1)
        assert np.bincount(self.labels[large]).tolist() == [25] * 5
        assert set(small) <= set(large) and set(small) != set(cifar_labeled(self.labels, 4, seed=2))

    def test_a_shuffle_of_rows_is_a_shuffle_of_images(self) -> None:
        """The official script shuffles the images themselves; shuffling only their row numbers, as done here, must give
        the same order."""
        images = np.arange(30 * 7).reshape(30, 7)
        rows = np.arange(30)
        np.random.RandomState(3).shuffle(rows)
        np.random.RandomState(3).shuffle(images)
        assert (images[:, 0] // 7 == rows).all()
