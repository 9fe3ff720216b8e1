"""Splits: nested, stratified, the same in every release; and id files that are read as intended."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dmt.data.splitting.splits import (
    choose_labeled,
    describe,
    difference_maximized,
    hold_out,
    member_rows,
    read_ids,
    rows_of,
    sha256_of_ids,
    stratified_order,
)

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.asarray)
seeds = st.integers(0, 2**31)


@given(label_lists, seeds, st.data())
def test_a_smaller_labeled_set_is_part_of_a_larger_one(labels: np.ndarray, seed: int, data: st.DataObject) -> None:
    """A smaller labeled set must be part of a larger one; otherwise curves over the number of labels compare different
    images."""
    small = data.draw(st.integers(1, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    for strata in (labels, None):
        few = choose_labeled(small, len(labels), seed=seed, labels=strata)
        many = choose_labeled(large, len(labels), seed=seed, labels=strata)
        assert len(few) == small == len(set(few.tolist())) and set(few.tolist()) <= set(many.tolist())
        assert few.tolist() == sorted(few.tolist())


@given(label_lists, seeds, st.data())
def test_every_class_is_labeled_as_soon_as_there_are_labels_enough(
    labels: np.ndarray, seed: int, data: st.DataObject
) -> None:
    """A class that is left out can never be learned, and no error says so."""
    classes = set(labels.tolist())
    count = data.draw(st.integers(1, len(labels)))
    chosen = labels[choose_labeled(count, len(labels), seed=seed, labels=labels)]
    assert len(set(chosen.tolist())) == min(count, len(classes))


@pytest.mark.parametrize("count", [10, 13, 40, 99])
def test_equal_classes_get_equal_shares(count: int) -> None:
    """Guards against unequal shares for classes of equal size: stratified means in proportion, not only present."""
    labels = np.arange(200) % 10
    counts = np.bincount(labels[choose_labeled(count, 200, seed=3, labels=labels)], minlength=10)
    assert counts.sum() == count and counts.max() - counts.min() <= 1


def test_unequal_classes_keep_their_proportions() -> None:
    labels = np.repeat([0, 1, 2], [800, 150, 50])
    np.testing.assert_allclose(
        np.bincount(labels[choose_labeled(100, 1000, seed=0, labels=labels)]), [80, 15, 5], atol=1
    )


def test_a_split_seed_names_the_same_images_in_every_release() -> None:
    """Guards against a split seed that selects other images in a later release: published figures name a split seed and
    would silently change."""
    labels = np.arange(20) % 4
    assert choose_labeled(5, 20, seed=0, labels=labels).tolist() == [2, 5, 8, 15, 17]
    assert choose_labeled(5, 20, seed=0, labels=None).tolist() == [2, 4, 6, 13, 19]
    assert stratified_order(labels, 0).tolist() != stratified_order(labels, 1).tolist()


@given(label_lists, seeds)
def test_carving_never_takes_the_last_two_labels_of_a_class(labels: np.ndarray, seed: int) -> None:
    labeled = np.arange(0, 3 * len(labels), 3)
    everywhere = np.full(3 * len(labels), 9)
    everywhere[labeled] = labels
    kept, held = hold_out(labeled, everywhere, seed=seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == labeled.tolist()
    assert len(held) <= round(0.2 * len(labels))
    if len(labels) < 10:
        assert not len(held)
    for label in set(labels.tolist()):
        before, after = int((labels == label).sum()), int((everywhere[kept] == label).sum())
        assert after >= min(before, 2)


def test_carving_takes_a_fifth_of_every_class_or_of_all_pixels() -> None:
    labels = np.arange(100) % 5
    kept, held = hold_out(np.arange(100), labels, seed=0)
    assert len(kept) == 80 and np.bincount(labels[held]).tolist() == [4] * 5
    kept, held = hold_out(np.arange(100), None, seed=0)
    assert len(kept) == 80 and len(held) == 20 and not set(kept.tolist()) & set(held.tolist())
    assert not len(hold_out(np.arange(9), None, seed=0)[1])


@pytest.mark.parametrize("count", [0, -1, 21])
def test_more_labels_than_there_are_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} labeled images were requested, but the training split has 20"):
        choose_labeled(count, 20, seed=0, labels=None)


def test_id_files_of_a_person_and_of_a_run(tmp_path: Path) -> None:
    """A byte order mark (Windows) or a blank line must not become part of an id."""
    text, run = tmp_path / "ids.txt", tmp_path / "split.json"
    text.write_bytes(b"\xef\xbb\xbf3\r\n\r\n a b/1.jpg \r\n")
    assert read_ids(text) == ["3", "a b/1.jpg"]
    text.write_text("a\x85b.png\na\u2028b.png\n", encoding="utf-8")
    assert read_ids(text) == ["a\x85b.png", "a\u2028b.png"], "names with line ends that are none in a file"
    run.write_text(json.dumps(describe({"labeled": ["3", "7"], "eval": []}, split_seed=1)))
    assert read_ids(run) == ["3", "7"]
    assert rows_of(["7", "3"], [str(row) for row in range(10)]).tolist() == [3, 7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot be read"),
        ("binary.txt", b"\xff\xfe\x00", "cannot be read"),
        ("empty.txt", b"\n\n", "contains no ids"),
        ("twice.txt", b"3\n4\n3\n", "lists '3' 2 times"),
        ("other.json", b'{"train": [1]}', "is not a split file"),
        ("list.json", b"[1, 2]", "is not a split file"),
        ("broken.json", b"{", "is not a split file"),
    ],
)
def test_an_id_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_ids(tmp_path / name)
    assert name in str(error.value)


def test_ids_that_the_training_split_does_not_have_are_named() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 labeled ids .* 'cat/9.jpg'; its ids look like 'cat/0.jpg'"):
        rows_of(["cat/0.jpg", "cat/9.jpg"], ["cat/0.jpg", "cat/1.jpg"])


def test_the_hash_is_that_of_a_plain_list_of_ids() -> None:
    """Anyone can check it: `printf '3\\n7\\n' | sha256sum`."""
    assert sha256_of_ids(["3", "7"]) == hashlib.sha256(b"3\n7\n").hexdigest()
    split = describe({"labeled": ["3", "7"]}, split_seed=5)
    assert split == {"split_seed": 5, "labeled": ["3", "7"], "sha256": {"labeled": sha256_of_ids(["3", "7"])}}


class TestMemberRows:
    ids: tuple[str, ...] = tuple(f"{number}.jpg" for number in range(20))

    def test_off_gives_everything_to_both(self) -> None:
        """Guards against a default that withholds labeled images from one of the two models."""
        rows = member_rows("false", self.ids, 0)
        assert rows["a"].tolist() == rows["b"].tolist() == list(range(20))

    def test_on_gives_each_its_own_80_percent(self) -> None:
        """Guards against subsets of the wrong size or overlap, and against a draw that does not follow the seed."""
        rows = member_rows("true", self.ids, 5)
        assert len(rows["a"]) == len(rows["b"]) == 16 and len({*rows["a"]} & {*rows["b"]}) == 12
        assert {*rows["a"]} | {*rows["b"]} == set(range(20))
        left, _ = difference_maximized(range(20), random.Random(5))
        assert rows["a"].tolist() == sorted(left)

    def test_a_file_names_the_images(self, tmp_path: Path) -> None:
        """Guards against official subsets that reach the wrong one of the two models."""
        file = tmp_path / "subsets.json"
        file.write_text(json.dumps({"a": ["3.jpg", "1.jpg"], "b": ["3.jpg", "19.jpg"]}))
        rows = member_rows(str(file), self.ids, 0)
        assert rows["a"].tolist() == [1, 3] and rows["b"].tolist() == [3, 19]

    @pytest.mark.parametrize(
        "content", ["not json", '{"a": ["0.jpg"]}', '{"a": ["0.jpg"], "b": ["x.jpg"]}', '{"a": [], "b": []}']
    )
    def test_a_wrong_file_is_named(self, tmp_path: Path, content: str) -> None:
        """Guards against training on all labels because the subsets could not be read."""
        file = tmp_path / "subsets.json"
        file.write_text(content)
        with pytest.raises(ValueError, match=r"subsets\.json.*Give true, false"):
            member_rows(str(file), self.ids, 0)
