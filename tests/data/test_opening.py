"""Which files become which split. Nothing is decoded here."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading.opening import open_splits
from hf_dmt.data.reading.rows import DataError
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def ids_of(root: Path, task: str) -> dict[str, list[str]]:
    splits, _ = open_splits(DataArguments(str(root)), task, [])
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
    splits, _ = open_splits(DataArguments(str(tmp_path)), PIXELS, notes)
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


def test_a_table_with_a_wrong_mask(tmp_path: Path) -> None:
    """Guards against images paired with the masks of the rows behind them."""
    empty(tmp_path, "1.jpg", "2.jpg", "1.png")
    files.text_file(tmp_path, "file_name,mask\n1.jpg,1.png\n2.jpg,5.png\n", "metadata.csv")
    with pytest.raises(DataError, match=r"1 of 2 masks in .* do not exist, such as '5\.png'"):
        ids_of(tmp_path, PIXELS)


def test_two_tables_for_one_split(tmp_path: Path) -> None:
    """Guards against training on the rows of one of two tables, without a word about the other one."""
    empty(tmp_path, "1.png", "2.png", "3.png")
    files.text_file(tmp_path, "file_name,label\n1.png,cat\n2.png,dog\n", "train.csv")
    files.text_file(tmp_path, "name,count\ncat,1\n", "train_data.csv")
    assert ids_of(tmp_path, IMAGES) == {"train": ["1.png", "2.png"]}
    files.text_file(tmp_path, "file_name,label\n3.png,cat\n", "train_data.csv")
    with pytest.raises(DataError, match=r"train\.csv' and 'train_data\.csv' both list .*`dataset_name=.*train\.csv`"):
        ids_of(tmp_path, IMAGES)


def test_files_of_a_table_in_several_folders(tmp_path: Path) -> None:
    """Guards against taking the parts of a download for classes although a table has the labels: HAM10000."""
    empty(tmp_path, "images_part_1/a.jpg", "images_part_1/b.jpg", "images_part_2/c.jpg")
    table = files.text_file(tmp_path, "lesion,image_id,dx\nx,a,nv\ny,b,mel\nz,c,nv\n", "HAM_metadata.csv")
    notes: list[str] = []
    splits, names = open_splits(DataArguments(str(tmp_path)), IMAGES, notes)
    assert names == ["images_part_1", "images_part_2"]
    assert any(note.startswith("Warning: the columns 'lesion', 'dx' in 'HAM_metadata.csv' are not") for note in notes)
    with pytest.raises(DataError, match=r"`label_column` 'dx' is not in .* has it, pass `dataset_name=.*HAM_metadata"):
        open_splits(DataArguments(str(tmp_path), label_column="dx"), IMAGES, [])
    splits, _ = open_splits(DataArguments(table, label_column="dx"), IMAGES, notes)
    assert splits["train"].targets() == ["nv", "mel", "nv"]
    assert list(splits["train"].ids) == ["images_part_1/a.jpg", "images_part_1/b.jpg", "images_part_2/c.jpg"]
    assert notes[-1].startswith("The files of 'HAM_metadata.csv' are those in")
    empty(tmp_path, "images_part_2/a.jpg")
    with pytest.raises(DataError, match=r"3 of 3 files in .* do not exist"):
        open_splits(DataArguments(table, label_column="dx"), IMAGES, [])


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_a_table_beside_folders_that_names_test_images(task: str, tmp_path: Path) -> None:
    """Guards against training on the images that a table marks as test images, because folders have the labels."""
    kinds = ("cat", "dog") if task == IMAGES else ("images", "masks")
    empty(tmp_path, *(f"{kind}/{name}.png" for kind in kinds for name in ("1", "2", "v1.3")))
    for last, warned in (("test", True), ("train", False)):
        files.text_file(tmp_path, f"image_id,split\n1,train\n2.png,train\nv1.3,{last}\n", "info.csv")
        notes: list[str] = []
        open_splits(DataArguments(str(tmp_path)), task, notes)
        assert any("Warning: the splits in 'info.csv' are not used" in note for note in notes) == warned
    files.text_file(tmp_path, "image_id,split,label\n8,train,a\n9,test,b\n", "info.csv")
    notes = []
    open_splits(DataArguments(str(tmp_path)), task, notes)
    assert not any("are not used" in note for note in notes), "of other images"


def test_absolute_paths_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a message of pathlib, and against other ids than those of relative paths."""
    empty(tmp_path / "data", "train/1.png", "test/2.png")
    empty(tmp_path / "elsewhere", "3.png")
    rows = [f"{tmp_path / 'data' / 'train' / '1.png'},x", f"{tmp_path / 'data' / 'test' / '2.png'},y"]
    files.text_file(tmp_path / "data", "\n".join(["file_name,label", *rows]), "metadata.csv")
    assert ids_of(tmp_path / "data", IMAGES) == {"train": ["train/1.png"], "test": ["test/2.png"]}
    empty(tmp_path / "data", "more/4.png")
    files.text_file(tmp_path / "data", f"file_name,label\n4.png,x\n{tmp_path}/elsewhere/3.png,y\n", "list.csv")
    monkeypatch.chdir(tmp_path / "data")
    splits, _ = open_splits(DataArguments("list.csv"), IMAGES, [])
    assert list(splits["train"].ids) == ["more/4.png", "../elsewhere/3.png"]
    assert splits["train"].raw(1)[0].samefile(tmp_path / "elsewhere" / "3.png")


def test_large_numbers_and_repeated_keys_in_tables(tmp_path: Path) -> None:
    """Guards against two codes of SNOMED that become one class, rounded as fractions, and against the last of two
    labels."""
    empty(tmp_path, "1.png", "2.png", "3.png")
    codes = ["900000000000003001", "900000000000003002.0", "-1.0"]
    rows = [f"{number}.png,{code}" for number, code in enumerate(codes, 1)]
    files.text_file(tmp_path, "\n".join(["file_name,label", *rows]), "train.csv")
    splits, _ = open_splits(DataArguments(str(tmp_path)), IMAGES, [])
    assert splits["train"].targets() == [900000000000003001, 900000000000003002, None]
    (tmp_path / "train.csv").unlink()
    for line, message in (('{"file_name": "1.png", "label": 0, "label": 1}', "'label' twice"), ("[" * 90000, "deeply")):
        files.text_file(tmp_path, line, "train.jsonl")
        with pytest.raises(DataError, match=message):
            ids_of(tmp_path, IMAGES)


def test_masks_are_looked_for_where_images_are(tmp_path: Path) -> None:
    """Guards against refusing masks whose names are relative to a folder beside the table, as images may be."""
    empty(tmp_path / "files", "1.jpg", "2.jpg", "1.png", "2.png")
    files.text_file(tmp_path, "file_name,mask\n1.jpg,1.png\n2.jpg,2.png\n", "metadata.csv")
    notes: list[str] = []
    splits, _ = open_splits(DataArguments(str(tmp_path)), PIXELS, notes)
    assert [splits["train"].raw(row)[1].name for row in range(2)] == ["1.png", "2.png"]
    assert len([note for note in notes if "are those in" in note]) == 1


@pytest.mark.parametrize("alone", [False, True])
def test_a_table_without_masks(alone: bool, tmp_path: Path) -> None:
    """Guards against the message that all masks are null where there is no column with masks at all."""
    empty(tmp_path, "1.jpg")
    table = files.text_file(tmp_path, "file_name\n1.jpg\n", "metadata.csv")
    with pytest.raises(DataError, match=r"has no column with masks. Name it with `label_column`"):
        ids_of(Path(table) if alone else tmp_path, PIXELS)
