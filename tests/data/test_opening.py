"""Which files become which split. Nothing is decoded here."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_dmt.data.reading.opening import open_splits
from hf_dmt.data.reading.rows import DataError
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def ids_of(root: Path, task: str) -> dict[str, list[str]]:
    splits, _ = open_splits(str(root), task=task, notes=[])
    return {name: list(rows.ids) for name, rows in splits.items()}


def empty(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("order", ["{split}/{kind}", "{kind}/{split}"])
def test_two_folders_of_one_split_are_joined(order: str, tmp_path: Path) -> None:
    """Guards against using only train2012 of train2012 and train2017, in one of the two layouts."""
    for split in ("train2012", "train2017", "val2017"):
        for kind, end in (("images", "jpg"), ("masks", "png")):
            empty(tmp_path / order.format(split=split, kind=kind), f"{split}.{end}")
    found = ids_of(tmp_path, PIXELS)
    assert {name: [Path(id).stem for id in ids] for name, ids in found.items()} == {
        "train": ["train2012", "train2017"],
        "validation": ["val2017"],
    }


def test_split_folders_without_masks(tmp_path: Path) -> None:
    """Guards against training without a split that is there, and against a traceback if its masks are not."""
    empty(tmp_path, "images/train/1.jpg", "images/val/2.jpg", "images/more/3.jpg", "masks/train/1.png")
    notes: list[str] = []
    splits, _ = open_splits(str(tmp_path), task=PIXELS, notes=notes)
    assert list(splits) == ["train"]
    assert any("'val'" in note and "has no masks" in note for note in notes)
    assert any("in no split folder" in note and "'more/3.jpg'" in note for note in notes)
    (tmp_path / "masks" / "train").rename(tmp_path / "masks" / "other")
    with pytest.raises(DataError, match=r"has no folder 'train' with the masks of"):
        ids_of(tmp_path, PIXELS)


def test_a_table_for_each_split(tmp_path: Path) -> None:
    """Guards against one table overwriting the rows of another, and against the last one being the only one read."""
    empty(tmp_path, "1.png", "2.png", "3.png")
    files.text_file(tmp_path, "file_name,label\n1.png,cat\n2.png,dog\n", "train.csv")
    files.text_file(tmp_path, "file_name,label\n3.png,cat\n", "val.csv")
    assert ids_of(tmp_path, IMAGES) == {"train": ["1.png", "2.png"], "validation": ["3.png"]}


def test_one_table_for_several_split_folders(tmp_path: Path) -> None:
    """Guards against training on test images because one table lists the files of all split folders."""
    empty(tmp_path, "train/1.png", "test/2.png", "3.png")
    table = "file_name,label\ntrain/1.png,cat\ntest/2.png,dog\n"
    files.text_file(tmp_path, table, "metadata.csv")
    assert ids_of(tmp_path, IMAGES) == {"train": ["train/1.png"], "test": ["test/2.png"]}
    files.text_file(tmp_path, table + "3.png,dog\n", "metadata.csv")
    with pytest.raises(DataError, match=r"1 images of the table in .* are in no split folder, such as .*3\.png"):
        ids_of(tmp_path, IMAGES)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("5.png", r"1 of 2 masks in .* do not exist, such as '5\.png'"),
        ("", r"1 of 2 rows of .* have no mask in the column 'mask'"),
    ],
)
def test_a_table_with_a_wrong_mask(mask: str, message: str, tmp_path: Path) -> None:
    """Guards against images paired with the masks of the rows behind them."""
    empty(tmp_path, "1.jpg", "2.jpg", "1.png")
    files.text_file(tmp_path, f"file_name,mask\n1.jpg,1.png\n2.jpg,{mask}\n", "metadata.csv")
    with pytest.raises(DataError, match=message):
        ids_of(tmp_path, PIXELS)


def test_masks_are_looked_for_where_images_are(tmp_path: Path) -> None:
    """Guards against refusing masks whose names are relative to a folder beside the table, as images may be."""
    empty(tmp_path / "files", "1.jpg", "2.jpg", "1.png", "2.png")
    files.text_file(tmp_path, "file_name,mask\n1.jpg,1.png\n2.jpg,2.png\n", "metadata.csv")
    notes: list[str] = []
    splits, _ = open_splits(str(tmp_path), task=PIXELS, notes=notes)
    assert [splits["train"].raw(row)[1].name for row in range(2)] == ["1.png", "2.png"]
    assert len([note for note in notes if "are those in" in note]) == 1


@pytest.mark.parametrize("alone", [False, True])
def test_a_table_without_masks(alone: bool, tmp_path: Path) -> None:
    """Guards against the message that all masks are null where there is no column with masks at all."""
    empty(tmp_path, "1.jpg")
    table = files.text_file(tmp_path, "file_name\n1.jpg\n", "metadata.csv")
    with pytest.raises(DataError, match=r"has no column with masks. Name it with `label_column`"):
        ids_of(Path(table) if alone else tmp_path, PIXELS)
