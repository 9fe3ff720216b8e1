"""Data that cannot work: one message before training, with what was given, why it cannot work, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.assemble import assemble
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"
Case = tuple[Callable[[Path], dict[str, Any]], str, str, str]


def scenes(root: Path, *values: Any, **flags: Any) -> dict[str, Any]:
    return {"dataset_name": str(files.scene_folder(root, values or [(0, 1), (1, 2)])), **flags}


def animals(root: Path, **flags: Any) -> dict[str, Any]:
    return {"dataset_name": str(files.class_folder(root / "animals")), **flags}


def labels(root: Path, values: list[Any], **flags: Any) -> dict[str, Any]:
    count = len(values)
    rows = files.table(
        {"image": [files.encoded(files.image(1))] * count, "label": values, "number": list(range(count))}
    )
    return {"dataset_name": str(files.parquet(root / "table", train=rows)), **flags}


def with_mask(root: Path, mask: Any, **flags: Any) -> dict[str, Any]:
    given = scenes(root, **flags)
    files.save(mask, root / "masks" / "01.png")
    return given


def with_eval_masks(root: Path) -> dict[str, Any]:
    files.scene_folder(root / "val", [(0, 7)])
    return scenes(root / "train") | {"dataset_name": str(root)}


def missing_masks(root: Path) -> dict[str, Any]:
    given = scenes(root)
    (root / "masks" / "01.png").unlink()
    return given


def no_mask_folder(root: Path) -> dict[str, Any]:
    files.save(files.image(1), root / "images" / "a.png")
    return {"dataset_name": str(root)}


def truncated(root: Path, **flags: Any) -> dict[str, Any]:
    given = animals(root, **flags)
    files.cut(root / "animals" / "dog" / "03.jpg")
    return given


def json_file(root: Path, text: str) -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / "map.json").write_text(text)
    return str(root / "map.json")


def ids_file(root: Path, text: str) -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / "ids.txt").write_text(text)
    return str(root / "ids.txt")


def masks_only(root: Path) -> dict[str, Any]:
    rows = files.table({"image": [files.encoded(files.image(1))] * 2, "caption": ["x", "y"]})
    return {"dataset_name": str(files.parquet(root / "table", train=rows))}


def three_names(root: Path) -> str:
    return json_file(root, '["sky", "road", "car"]')


# Name: how to make it, then what was given, why it cannot work, what to do (patterns found in this order).
SEGMENTATION: dict[str, Case] = {
    "values outside the classes": (
        lambda root: scenes(root, (0, 9), (1, 2), (9,), id2label=three_names(root)),
        r"2 labeled masks hold values",
        r"none of the 3 classes \(0 to 2\):\n  images/00.jpg: 9\n  images/02.jpg: 9",
        r"If 9 means 'no label', pass --ignore_index 9",
    ),
    "several values outside": (
        lambda root: scenes(root, (0, 9, 11), id2label=three_names(root)),
        r"1 labeled masks? hold",
        r"images/00.jpg: 9, 11",
        r"name all of them with --id2label",
    ),
    "values outside, counted from 1": (
        lambda root: scenes(root, (0, 1, 40), id2label=three_names(root), reduce_labels=True),
        r"1 labeled masks hold",
        r"\(1 to 3\):\n  images/00.jpg: 40",
        r"--ignore_index 40",
    ),
    "values outside in the eval masks": (
        with_eval_masks,
        r"1 eval masks hold",
        r"none of the 3 classes .*\n  val/images/00.jpg: 7",
        r"--ignore_index 7",
    ),
    "sizes differ": (
        lambda root: with_mask(root, files.mask([0, 1], (10, 16))),
        r"image images/01.jpg is 20x16 but its mask is 10x16",
        r"one value for every pixel",
        r"Pair the right files, or resize",
    ),
    "colour mask": (
        lambda root: with_mask(root, files.image(9)),
        r"The mask .*01.png is a colour image",
        r"which class a colour means is not known",
        r"Save it with one channel",
    ),
    "mask with transparency": (
        lambda root: with_mask(root, files.image(9).convert("LA").point(lambda value: value // 2)),
        r"The mask .*01.png has transparent pixels",
        r"whose class is unknown",
        r"Save it without alpha",
    ),
    "mask missing": (missing_masks, r"1 of 2 images in .*images'", r"have no mask of the same name", r"Add the masks"),
    "no masks at all": (
        no_mask_folder,
        r"images'",
        r"has no folder 'masks' beside it",
        r"Add the masks|--unlabeled_dir",
    ),
    "no mask column": (masks_only, r"table'", r"has no column with masks; it has: image, caption", r"--label_column"),
    "all void": (
        lambda root: scenes(root, (255,), (255,)),
        r"The training masks hold no labeled pixel",
        r"every value is the ignore value \(255\)",
        r"Check --ignore_index",
    ),
    "labeled masks all void": (
        lambda root: scenes(root, (255,), (0, 1), labeled_ids=ids_file(root, "images/00.jpg")),
        r"The masks of the 1 labeled images",
        r"hold nothing but void",
        r"Choose other labeled images",
    ),
    "labels instead of masks": (
        lambda root: labels(root, [0, 1], label_column="label"),
        r"--label_column 'label'",
        r"holds Value.*needs masks",
        r"Name another column",
    ),
    "builtin of the other task": (
        lambda root: {"dataset_name": "digits"},
        r"'digits'",
        r"has no masks",
        r"Use digit-scenes",
    ),
}
CLASSIFICATION: dict[str, Case] = {
    "no such folder": (lambda root: {"dataset_name": str(root / "x")}, r"no folder '.*x'", r"", r"Check the path"),
    "unknown id": (lambda root: {"dataset_name": "no/body"}, r"'no/body'", r"not builtin", r"Check the spelling"),
    "images without classes": (
        lambda root: {"dataset_name": str(files.save(files.image(1), root / "flat" / "a.png").parent)},
        r"training images of '.*flat'",
        r"have no labels: no label column and no class folders",
        r"--label_column|one folder per class",
    ),
    "all labels unknown": (
        lambda root: labels(root, [-1, -1]),
        r"training images of '.*table'",
        r"have no labels",
        r"--label_column",
    ),
    "labels that are fractions": (
        lambda root: labels(root, [0.5, 1.25, 2.0]),
        r"labels of '.*table' are fractions such as",
        r"a class is a whole number or a word",
        r"--label_column",
    ),
    "labels that are ids": (
        lambda root: labels(root, [10, 7001, 90210]),
        r"3 different numbers up to 90210",
        r"look like ids",
        r"Number the classes from 0",
    ),
    "labels below 0": (lambda root: labels(root, [0, 1, -2]), r"label -2", r"below 0", r"Correct the labels"),
    "label outside the map": (
        lambda root: labels(root, [0, 1, 5], id2label=three_names(root)),
        r"Label 5 of 1 labeled images \(2\)",
        r"outside the 3 classes \(0 to 2\)",
        r"--id2label",
    ),
    "word outside the map": (
        lambda root: labels(root, ["sky", "moon"], id2label=three_names(root)),
        r"Labels \['moon'\]",
        r"not among the 3 classes",
        r"Add them",
    ),
    "map with a gap": (
        lambda root: animals(root, id2label=json_file(root, '{"0": "a", "2": "b"}')),
        r"--id2label '.*map.json'",
        r"its ids are \[0, 2\]",
        r"Give a JSON file like",
    ),
    "map that names a class twice": (
        lambda root: animals(root, id2label=json_file(root, '["a", "a"]')),
        r"--id2label",
        r"names a class twice",
        r"Give a JSON file like",
    ),
    "map that is a number": (
        lambda root: animals(root, id2label=json_file(root, "3")),
        r"--id2label",
        r"it holds a int",
        r"Give a JSON file like",
    ),
    "map that is no JSON": (
        lambda root: animals(root, id2label=json_file(root, "{")),
        r"--id2label",
        r"is not a class map",
        r"Give a JSON file like",
    ),
    "truncated image": (
        truncated,
        r"1 of 18 training images",
        r"cannot be read:\n.*dog/03.jpg.*[Tt]runcated",
        r"Repair or delete them, or leave them out with --skip_corrupt_images",
    ),
    "one column for both": (
        lambda root: labels(root, ["x", "y"], image_column="label", label_column="label"),
        r"--image_column and --label_column are both 'label'",
        r"cannot be an image and its label",
        r"Name two of: image, label, number",
    ),
    "image column that holds labels": (
        lambda root: labels(root, [0, 1], image_column="number"),
        r"row 0 is no image",
        r"expected a PIL image, path, bytes",
        r"Name the column with the images: --image_column",
    ),
    "more labels than images": (
        lambda root: animals(root, num_labeled=19),
        r"19 labeled images were asked for",
        r"has 18",
        r"choose 1 to 18",
    ),
    "no labeled images": (lambda root: animals(root, num_labeled=0), r"0 labeled images", r"has 18", r"choose 1"),
    "fraction too large": (lambda root: animals(root, labeled_fraction=1.5), r"1.5", r"at most 1", r"such as 0.1"),
    "fraction zero": (lambda root: animals(root, labeled_fraction=0.0), r"is 0;", r"above 0", r"such as 0.1"),
    "two ways to choose": (
        lambda root: animals(root, num_labeled=3, labeled_fraction=0.5),
        r"--num_labeled and --labeled_fraction",
        r"both say which",
        r"Give one",
    ),
    "ids that are not there": (
        lambda root: animals(root, labeled_ids=ids_file(root, "cat/00.jpg\ncat/99.jpg")),
        r"1 of 2 labeled ids",
        r"not in the training split, for example 'cat/99.jpg'",
        r"An id is",
    ),
    "ids of images without a label": (
        lambda root: labels(root, [0, None, 1], labeled_ids=ids_file(root, "0\n1")),
        r"1 of the 2 images in '.*ids.txt'",
        r"have no label: 1",
        r"Label them, or take their ids out",
    ),
    "no such training split": (
        lambda root: animals(root, train_split="training"),
        r"--train_split 'training'",
        r"is not in .* which has: train",
        r"Name one",
    ),
    "evaluation on the training split": (
        lambda root: animals(root, eval_split="train"),
        r"--eval_split 'train' is the training split",
        r"trained on mean nothing",
        r"Name another split",
    ),
    "unlabeled twice": (
        lambda root: animals(root, unlabeled_dir="x", unlabeled_dataset_name="y"),
        r"--unlabeled_dir and --unlabeled_dataset_name",
        r"both name",
        r"Give one",
    ),
    "unlabeled split of a folder": (
        lambda root: animals(root, unlabeled_dir="x", unlabeled_split="y"),
        r"--unlabeled_dir and --unlabeled_split",
        r"both name",
        r"Give one",
    ),
    "unlabeled folder missing": (
        lambda root: animals(root, unlabeled_dir=str(root / "x")),
        r"--unlabeled_dir '.*x'",
        r"is not a folder",
        r"Check the path",
    ),
    "unlabeled folder of text": (
        lambda root: animals(root, unlabeled_dir=str(Path(ids_file(root / "texts", "x")).parent)),
        r"--unlabeled_dir '.*texts'",
        r"holds no images",
        r"Check the path and the file names",
    ),
    "unlabeled split missing": (
        lambda root: animals(root, unlabeled_split="more"),
        r"'.*animals' has no split 'more'",
        r"it has: train",
        r"Name one with --unlabeled_split",
    ),
    "unlabeled builtin without a split": (
        lambda root: animals(root, unlabeled_dataset_name="digits"),
        r"'digits' has several splits",
        r"it has: train, validation, test",
        r"--unlabeled_split",
    ),
    "builtin of the other task": (
        lambda root: {"dataset_name": "digit-scenes"},
        r"'digit-scenes'",
        r"has no labels",
        r"Use digits",
    ),
}
CASES = [(PIXELS, name, *case) for name, case in SEGMENTATION.items()]
CASES += [(IMAGES, name, *case) for name, case in CLASSIFICATION.items()]


@pytest.mark.parametrize(("task", "name", "make", "given", "why", "remedy"), CASES, ids=[case[1] for case in CASES])
def test_the_message_says_what_why_and_what_to_do(
    task: str, name: str, make: Callable[[Path], dict[str, Any]], given: str, why: str, remedy: str, tmp_path: Path
) -> None:
    """Guards against a traceback in the third hour, and against a message that leaves a person where they were."""
    with pytest.raises(ValueError) as caught:
        assemble(DataArguments(**make(tmp_path)), task)
    message = str(caught.value)
    position = 0
    for part in (given, why, remedy):
        found = re.search(part, message[position:], re.DOTALL)
        assert found, f"{part!r} is not in the rest of: {message}"
        position += found.start()
    assert message.rstrip()[-1] in ".)'" or "\n" in message, f"an unfinished sentence: {message}"


def notes_of(given: dict[str, Any], task: str) -> str:
    return "\n".join(assemble(DataArguments(**given), task).notes)


class TestWarnings:
    """What does not stop a run, but has to be said before it starts."""

    def test_a_class_without_labeled_pixels(self, tmp_path: Path) -> None:
        """Guards a class that is never learned, and scored 0 in every table."""
        given = scenes(tmp_path, (0, 1), (0, 2), labeled_ids=ids_file(tmp_path, "images/00.jpg"))
        assert "1 of 3 classes have no labeled image and cannot be learned: 2" in notes_of(given, PIXELS)

    def test_some_masks_are_void_all_over(self, tmp_path: Path) -> None:
        """Guards labels that are paid for and teach nothing."""
        notes = notes_of(scenes(tmp_path, (0, 1), (255,), (0, 1)), PIXELS)
        assert "1 of 3 labeled masks are void all over and teach nothing: images/01.jpg" in notes

    def test_skipped_images_are_listed(self, tmp_path: Path) -> None:
        """Guards images that vanish without a trace."""
        found = assemble(DataArguments(**truncated(tmp_path, skip_corrupt_images=True)), IMAGES)
        assert "Left out 1 of 18 training images" in found.notes[0] and "dog/03.jpg" in found.notes[0]
        assert "dog/03.jpg" not in found.labeled.ids + found.split["eval"]

    def test_no_unlabeled_images_is_left_to_the_method(self, tmp_path: Path) -> None:
        """Guards `supervised`, which needs none; the others refuse it (tests/scripts)."""
        assert assemble(DataArguments(**animals(tmp_path)), IMAGES).unlabeled is None


def test_a_hub_set_that_asks_for_code_or_a_token_is_named(hub: Any) -> None:
    """Guards private sets: the message must not say that the set does not exist and leave it there."""
    rows = files.table({"image": [files.encoded(files.image(1))], "label": [0]})
    datasets.DatasetDict({"train": rows}).push_to_hub("me/private", token="hf_mine", private=True)
    with pytest.raises(ValueError, match=r"Cannot open the data set 'me/private'"):
        assemble(DataArguments(dataset_name="me/private"), IMAGES)
    assert len(assemble(DataArguments(dataset_name="me/private"), IMAGES, token="hf_mine").labeled) == 1
