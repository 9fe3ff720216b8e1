"""Sources: the same items with the same ids for every format, and no silent guesses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading import opening
from hf_dmt.data.reading.folders import class_folders, open_unlabeled_folder
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.looks import LookCache
from hf_dmt.data.reading.rows import DataError, FileRows, Rows, TableRows
from tests.data import small_files as files
from tests.hub_server import HubServer

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def open_splits(name: str, task: str, **columns: str) -> tuple[dict[str, Rows], list[str] | None]:
    return opening.open_splits(DataArguments(name, **columns), task, [])


def open_unlabeled_table(name: str, split: str | None, task: str, class_names: Sequence[str] = ()) -> Rows:
    return opening.open_unlabeled_table(DataArguments(name, unlabeled_split=split), task, [], class_names=class_names)


def whole(rows: Rows, task: str = IMAGES, **settings: Any) -> ImageSet:
    return ImageSet(rows, np.arange(len(rows.ids)), task, **settings)


class TestClassFolders:
    def test_names_ids_and_labels(self, tmp_path: Path) -> None:
        """Guards against another order of classes, and against other ids than those in `--labeled_ids` files."""
        root = files.class_folder(tmp_path / "animals")
        splits, names = open_splits(str(root), task=IMAGES)
        assert names == ["cat", "dog", "owl"] and list(splits) == ["train"]
        images = whole(splits["train"], class_of={name: index for index, name in enumerate(names)})
        assert images.ids[7] == "dog/01.jpg" and images.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
        item = images[7]
        assert item["label"] == 1 and item["image"].size == files.SIZE and item["image"].mode == "RGB"
        assert images.subset(np.array([7, 2])).ids == ["dog/01.jpg", "cat/02.jpg"]

    def test_splits_by_folder_with_unlabeled_and_other_files_beside(self, tmp_path: Path) -> None:
        """Guards against silently ignoring `unlabeled/`, as `datasets` does, and against taking a text file for an
        image."""
        root = tmp_path / "data"
        for split in ("train", "val", "testing"):
            files.class_folder(root / split, each=2)
        files.save(files.image(1), root / "unlabeled" / "deep" / "a.png")
        (root / "README.md").write_text("mine")
        (root / "train" / "cat" / "notes.txt").write_text("x")
        splits, names = open_splits(str(root), task=IMAGES)
        assert set(splits) == {"train", "validation", "test"} and names == ["cat", "dog", "owl"]
        assert all(len(rows.ids) == 6 for rows in splits.values())
        assert list(open_unlabeled_table(str(root), None, task=IMAGES).ids) == ["unlabeled/deep/a.png"]

    def test_it_says_what_datasets_says(self, tmp_path: Path) -> None:
        """Our own reader of class folders must give the same ids and labels as `datasets`, whose reader only takes
        longer."""
        root = files.class_folder(tmp_path / "data", classes=("b", "A", "10", "9"), each=3)
        found = class_folders(root, [])
        assert found is not None
        rows, names = found
        table = datasets.load_dataset(str(root))["train"]
        assert names == table.features["label"].names
        theirs = {Path(row["image"]["path"]).relative_to(root).as_posix(): names[row["label"]]
                  for row in table.cast_column("image", datasets.Image(decode=False))}  # fmt: skip
        assert dict(zip(rows["train"].ids, rows["train"].targets() or (), strict=True)) == theirs

    def test_images_without_class_folders_have_no_labels(self, tmp_path: Path) -> None:
        """Guards against taking the folder's own name for a class, as `datasets` does."""
        files.save(files.image(1), tmp_path / "data" / "a.png")
        splits, names = open_splits(str(tmp_path / "data"), task=IMAGES)
        assert names is None and splits["train"].targets() is None

    def test_folders_inside_class_folders_count_for_the_class(self, tmp_path: Path) -> None:
        """Guards against a class called 2024: `datasets` names the class after the innermost folder."""
        root = files.class_folder(tmp_path / "data", each=1)
        files.save(files.image(1), root / "cat" / "2024" / "a.png")
        notes: list[str] = []
        splits, names = opening.open_splits(DataArguments(str(root)), IMAGES, notes)
        assert names == ["cat", "dog", "owl"] and (splits["train"].targets() or ())[1] == "cat"
        assert any("those in cat/2024 are 'cat'" in note for note in notes)

    def test_a_class_in_two_places_is_refused(self, tmp_path: Path) -> None:
        """Guards against a class called fold1, and against two classes called cat."""
        root = files.class_folder(tmp_path / "data", each=1)
        files.class_folder(root / "fold1", each=1)
        with pytest.raises(DataError, match="'cat' and another one in 'fold1'"):
            open_splits(str(root), task=IMAGES)

    @pytest.mark.parametrize(
        ("inside", "others", "message"),
        [("train", ("unlabeled",), "beside the folder 'train'"), ("", ("images", "masks"), "Add `task")],
    )
    def test_a_folder_that_is_no_class_is_refused(
        self, inside: str, others: tuple[str, ...], message: str, tmp_path: Path
    ) -> None:
        """Guards against a class called `unlabeled` that every model learns to predict."""
        files.class_folder(tmp_path / "data" / inside, classes=("cat", *others), each=1)
        with pytest.raises(DataError, match=message):
            open_splits(str(tmp_path / "data"), task=IMAGES)


class TestTables:
    def labels_of(self, values: list[Any], feature: Any = None) -> list[int] | None:
        rows = files.table({"image": [files.encoded(files.image(1))] * len(values), "label": values},
                           {"image": datasets.Value("binary"), "label": feature} if feature else None)  # fmt: skip
        labels = whole(TableRows(rows, "image", "label")).labels
        return None if labels is None else labels.tolist()

    def test_null_and_minus_one_are_no_labels(self) -> None:
        """Guards against -1 (the Hub's mark for "no label") becoming the last class by negative indexing."""
        assert self.labels_of([0, None, 2, -1]) == [0, -1, 2, -1]
        assert self.labels_of([1.0, None, float("nan"), 0.0]) == [1, -1, -1, 0], "pandas writes gaps as floats"
        assert self.labels_of([-1, -1]) is None
        assert self.labels_of([1, 0], datasets.ClassLabel(names=["x", "y"])) == [1, 0]

    def test_an_image_without_a_label_is_an_item_without_one(self) -> None:
        """Guards against scoring images against labels that nobody gave."""
        rows = files.table({"image": [files.encoded(files.image(shade)) for shade in (1, 2)], "label": [None, 1]})
        images = whole(TableRows(rows, "image", "label"))
        assert "label" not in images[0] and images[1]["label"] == 1
        assert set(images.without_targets()[1]) == {"image"} and images.without_targets().labels is None

    def test_parquet_of_plain_bytes(self, tmp_path: Path) -> None:
        """Guards against failing on tables not written by `datasets`, in which image and mask are bytes without a known
        feature."""
        rows = files.table({"image": [files.encoded(files.image(9), "JPEG")] * 3,
                            "mask": [files.encoded(files.mask([0, 1]))] * 3, "label": [0, 1, 0]})  # fmt: skip
        root = files.parquet(tmp_path / "data", train=rows, val=rows)
        splits, _ = open_splits(str(root), task=PIXELS)
        assert set(splits) == {"train", "validation"}
        item = whole(splits["train"], PIXELS)[2]
        assert item["image"].size == files.SIZE and np.unique(item["mask"]).tolist() == [0, 1]
        assert whole(open_splits(str(root), task=IMAGES)[0]["train"]).labels.tolist() == [0, 1, 0]

    def test_other_ways_to_write_parquet(self, tmp_path: Path) -> None:
        """Guards against an error for the extension in capitals, the copies that macOS writes beside files, the
        backslashes of Windows, and images stored by path without the metadata of `datasets`."""
        names = [str(files.save(files.image(shade), tmp_path / "data" / "scans" / f"{shade}.png")) for shade in (1, 2)]
        ids = [f"scans/{Path(name).name}" for name in names]
        for cells in ([{"bytes": None, "path": name} for name in ids], [name.replace("/", "\\") for name in ids]):
            root = files.parquet(tmp_path / "data", train=files.table({"image": cells, "label": [0, 1]}))
            (root / "train.parquet").replace(root / "Train.PARQUET")
            (root / "._Train.PARQUET").write_bytes(b"\0\5\x16\7")
            rows = open_splits(str(root), task=IMAGES)[0]["train"]
            assert whole(rows).ids == ids and whole(rows)[1]["image"].size == files.SIZE
        with pytest.raises(DataError, match=r"Train.PARQUET' is a file of a data set. Give the folder"):
            open_splits(str(root / "Train.PARQUET"), task=IMAGES)

    def test_several_labels_an_image_are_named(self, tmp_path: Path) -> None:
        """Guards against the error "no label column" for data that has a column `labels`, of lists."""
        picture = [files.encoded(files.image(9), "JPEG")] * 2
        root = files.parquet(tmp_path / "data", train=files.table({"image": picture, "labels": [[0, 1], [1]]}))
        with pytest.raises(DataError, match=r"'labels' of .* contains List.*needs one label per image"):
            open_splits(str(root), task=IMAGES)

    def test_masks_as_numbers(self) -> None:
        """Guards against failing on masks in columns of lists, which are neither images nor labels."""
        rows = files.table({"image": [files.encoded(files.image(1, (3, 2)))], "mask": [[[0, 1, 255], [1, 1, 0]]]})
        images = whole(TableRows(rows, "image", "mask"), PIXELS)
        assert images.rows.targets() is None
        assert images[0]["mask"].tolist() == [[0, 1, -100], [1, 1, 0]]
        for outlines in ([[1.0, 2.0, 3.5], [1.0]], [[[1, 2], [3, 4]], [[5, 6]]]):
            rows = files.table({"image": [files.encoded(files.image(1, (3, 2)))], "mask": [outlines]})
            with pytest.raises(ValueError, match=r"mask row 0 is a list .*polygons.*PNG of class ids.*`label_column`"):
                whole(TableRows(rows, "image", "mask"), PIXELS)[0]

    def test_columns_are_found_and_named(self, tmp_path: Path) -> None:
        """Guards against failing to find the columns of data sets on the Hub, which have many names."""
        picture = [{"bytes": files.encoded(files.image(5)), "path": "x.png"}] * 2
        features = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["x", "y"]),
                    "coarse": datasets.Value("string"), "annotation": datasets.Image()}  # fmt: skip
        rows = files.table(
            {"img": picture, "fine_label": [1, 0], "coarse": ["p", "q"], "annotation": picture}, features
        )
        root = str(files.parquet(tmp_path / "data", train=rows))
        splits, names = open_splits(root, task=IMAGES)
        assert names == ["x", "y"] and whole(splits["train"]).labels.tolist() == [1, 0]
        splits, names = open_splits(root, task=IMAGES, label_column="coarse")
        assert names is None and list(splits["train"].targets() or ()) == ["p", "q"]
        splits, names = open_splits(root, task=PIXELS)
        assert names is None and whole(splits["train"], PIXELS).ids == ["0", "1"]
        for column, flag in (("image_column", "`image_column`"), ("label_column", "`label_column`")):
            with pytest.raises(DataError, match=rf"{flag} 'nothing' is not in .*img, fine_label.*Name one"):
                open_splits(root, task=IMAGES, **{column: "nothing"})
        with pytest.raises(DataError, match=r"needs masks. Name another column, or use another `task`"):
            open_splits(root, task=PIXELS, label_column="coarse")


class TestHub:
    def test_a_data_set_by_its_id(self, hub: HubServer) -> None:
        """The most common case must work: a Hub id, with class names from the features and a split called test."""
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        picture = {"bytes": files.encoded(files.image(5)), "path": None}
        rows = files.table({"image": [picture] * 4, "label": [0, 1, 0, 1]}, features)
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).push_to_hub("me/animals", token="hf_mine")
        splits, names = open_splits("me/animals", task=IMAGES)
        assert names == ["cat", "dog"] and {split: len(rows.ids) for split, rows in splits.items()} == {
            "train": 4,
            "test": 1,
        }
        assert whole(splits["train"])[1]["label"] == 1
        assert len(open_unlabeled_table("me/animals", "test", task=IMAGES, class_names=names).ids) == 1

    def test_an_unknown_id_is_one_line(self, hub: HubServer) -> None:
        """Guards against fifty lines of a library's traceback for a typo."""
        with pytest.raises(DataError, match=r"'me/anmials'.*no embedded set.*Check the spelling") as caught:
            open_splits("me/anmials", task=IMAGES)
        assert len(str(caught.value).splitlines()) == 1


class TestMasks:
    def test_images_beside_masks(self, tmp_path: Path) -> None:
        """Guards against pairing images and masks by position: sorted lists with different suffixes pair the wrong
        files."""
        root = files.scene_folder(tmp_path / "scenes")
        files.scene_folder(root / "val", [(2,)])
        files.save(files.mask([7]), root / "masks" / "zz_without_image.png")
        splits, names = open_splits(str(root), task=PIXELS)
        assert set(splits) == {"train", "validation"} and names is None
        images = whole(splits["train"], PIXELS)
        assert images.ids == [f"images/{index:02d}.jpg" for index in range(4)]
        assert [np.unique(images[row]["mask"]).tolist() for row in range(4)] == [[0, 1], [1, 2], [0, 2], [0, 1, 2]]
        assert images[0]["mask"].dtype == np.int64 and images[0]["mask"].shape == (16, 20)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, [-100, 0, 1, 2, 254]),
            ({"ignore_index": 254}, [-100, 0, 1, 2, 255]),
            ({"ignore_index": 0}, [-100, 1, 2, 254, 255]),
            ({"reduce_labels": True}, [-100, 0, 1, 253]),
        ],
    )
    def test_void_and_reduced_labels(self, settings: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
        """Guards against 0 - 1 becoming 255 in 8 bits, and against void becoming class 254 when labels are reduced."""
        for kind in (files.mask, files.palette):
            files.save(files.image(1), tmp_path / "images" / "a.png")
            files.save(kind([0, 1, 2, 254, 255]), tmp_path / "masks" / "a.png")
            images = whole(open_splits(str(tmp_path), task=PIXELS)[0]["train"], PIXELS, **settings)
            assert np.unique(images[0]["mask"]).tolist() == expected
            with LookCache() as looks:
                image, mask = images.look(0, looks)
            assert image.size == files.SIZE and mask is not None and mask.values == (0, 1, 2, 254, 255)

    def test_images_without_any_mask_are_refused(self, tmp_path: Path) -> None:
        """Guards against training on only the few images that happen to have a mask."""
        root = files.scene_folder(tmp_path / "scenes")
        (root / "masks" / "02.png").unlink()
        with pytest.raises(DataError, match=r"1 of 4 images in .* '02'. Add the masks, or move .*`unlabeled_dir`"):
            open_splits(str(root), task=PIXELS)


class TestUnlabeled:
    def test_flat_nested_and_with_foreign_files(self, tmp_path: Path) -> None:
        """Guards against requiring any structure of an unlabeled folder."""
        for name in ("b.JPG", "a.png", "deep/er/c.webp", ".hidden/d.png"):
            files.save(files.image(3), tmp_path / name)
        (tmp_path / "deep" / "list.txt").write_text("x")
        rows = open_unlabeled_folder(str(tmp_path), [])
        assert rows.ids.tolist() == ["a.png", "b.JPG", "deep/er/c.webp"] and rows.targets() is None
        assert set(whole(rows, PIXELS)[0]) == {"image"}

    def test_labels_are_kept_by_name(self, tmp_path: Path) -> None:
        """Guards against scoring pseudo labels against the same number of another class list."""
        names = ["dog", "cat"]
        root = files.class_folder(tmp_path / "folder", classes=("cat", "dog", "emu"), each=1)
        assert whole(open_unlabeled_table(str(root), None, task=IMAGES, class_names=names)).labels.tolist() == [
            1,
            0,
            -1,
        ]
        features = {"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["emu", "cat", "dog"])}
        data = {"image": [files.encoded(files.image(1))] * 3, "label": [0, 1, 2]}
        root = files.parquet(tmp_path / "table", train=files.table(data, features))
        assert whole(open_unlabeled_table(str(root), None, task=IMAGES, class_names=names)).labels.tolist() == [
            -1,
            1,
            0,
        ]

    def test_which_split(self, tmp_path: Path) -> None:
        """Guards against taking a labeled split for the unlabeled one."""
        rows = files.table({"image": [files.encoded(files.image(1))] * 2})
        root = files.parquet(tmp_path / "two", train=rows, test=rows.select([0]))
        with pytest.raises(DataError, match=r"several splits; it has: train, test. .*`unlabeled_split`"):
            open_unlabeled_table(str(root), None, task=IMAGES)
        assert len(open_unlabeled_table(str(root), "test", task=IMAGES).ids) == 1
        with pytest.raises(DataError, match="no split 'more'"):
            open_unlabeled_table(str(root), "more", task=IMAGES)

    def test_a_builtin_set(self) -> None:
        """Guards against a split name that one flag accepts and another refuses."""
        names = [str(digit) for digit in range(10)]
        rows = open_unlabeled_table("digits", "train", task=IMAGES, class_names=names)
        assert len(rows.ids) == 1197 and rows.targets() is not None
        assert open_unlabeled_table("digits", "train", task=IMAGES, class_names=["x", "y"]).targets() is None
        with LookCache() as looks:
            image, mask = whole(open_unlabeled_table("digits", "train", task=PIXELS), PIXELS).look(0, looks)
        assert image.size == (8, 8) and mask is None


def test_file_rows_read_nothing_before_they_are_asked(tmp_path: Path) -> None:
    """Guards against slow starts: listing 100,000 files must not open them."""
    rows = FileRows([tmp_path / "missing.png"], tmp_path, labels=["x"])
    assert rows.ids.tolist() == ["missing.png"] and rows.targets() == ["x"] and rows.raw(0)[1] == "x"
