"""Folders as users have them: each file is read as intended, skipped and counted, or refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading.rows import DataError, FileRows
from hf_dmt.data.splitting.assemble import RunImages, assemble
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def opened(root: Path, task: str = IMAGES, **flags: Any) -> RunImages:
    return assemble(DataArguments(dataset_name=str(root), **flags), task)


def said(found: RunImages) -> str:
    return "\n".join(found.notes)


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def animals(root: Path, each: int = 6) -> Path:
    return files.class_folder(root, ("cat", "dog"), each)


# ---- which files are images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [(f"x.{end}", end) for end in ("jp2", "webp", "ppm", "tiff", "bmp", "gif", "tga", "avif", "TIF", "pcx")]
    + [("x.jfif", "JPEG"), ("x.jpe", "JPEG"), ("x.JFIF", "JPEG"), ("x", "PNG"), ("x.HEIC", "HEIF"), ("x.hif", "HEIF")],
)
def test_what_pillow_opens_is_read(name: str, format: str, tmp_path: Path) -> None:
    """Guards against silently leaving out image files whose extension is not on a fixed list."""
    root = animals(tmp_path / "data")
    picture = files.image(90)
    format = {"jp2": "JPEG2000", "tga": "TGA", "TIF": "TIFF"}.get(format, format.upper())
    picture.save(root / "cat" / name, format={"JP2": "JPEG2000", "HEIF": "HEIF"}.get(format, format))
    found = opened(root)
    everything = {*found.labeled.ids, *(found.evaluation.ids if found.evaluation else ())}
    assert f"cat/{name}" in everything and len(everything) == 13


def test_every_other_file_is_counted(tmp_path: Path) -> None:
    """Guards against a summary such as "labeled 9 ... Ready" when six of 15 files were photos that nobody read."""
    root = animals(tmp_path / "data")
    for name in ("a.nef", "b.NEF", "notes.txt", "clip.mp4", "scan.nii.gz", ".DS_Store", "._00.jpg", "Thumbs.db"):
        (root / "cat" / name).write_bytes(b"x")
    (root / "cat" / "IM001").write_bytes(bytes(128) + b"DICM")
    (root / "cat" / "c.jpg_large").write_bytes(files.encoded(files.image(3)))
    files.save(files.image(3), root / "__MACOSX" / "cat" / "y.jpg")
    (root / "wolf").mkdir()
    notes = opened(root).notes
    assert any(note.startswith("Warning: skipped 2 .nef") and "export JPEG" in note for note in notes)
    assert any("skipped 1 .nii.gz" in note and note.endswith("export PNG or TIFF files.") for note in notes)
    assert any("cat/IM001 is a DICOM file: export PNG" in note for note in notes)
    assert any(note.startswith("Skipped 1 .txt") and "cat/notes.txt" in note and "not images" in note for note in notes)
    assert any("1 .mp4" in note and "extract its frames" in note for note in notes)
    assert any(
        "1 .jpg_large" in note and "is a PNG image: give such files the extension .png" in note for note in notes
    )
    assert any(note.startswith("Skipped 4 hidden and system files") for note in notes)
    assert any(note.startswith("Warning: skipped 1 class folder without images") and "'wolf'" in note for note in notes)
    more = tmp_path / "more"
    files.save(files.image(1), more / "a.png")
    written(more / "list.csv", "x")
    assert "1 .csv" in said(opened(root, unlabeled_dir=str(more)))


def test_what_of_a_file_is_not_used_is_said(tmp_path: Path) -> None:
    """Guards against silently dropping the other frames of an animation, and against 12-bit and 8-bit data that becomes
    black when divided by 257."""
    root = animals(tmp_path / "data")
    frames = [files.image(shade) for shade in (10, 90)]
    for name in ("a.gif", "b.tiff", "c.webp", "d.png"):
        frames[0].save(root / "cat" / name, save_all=True, append_images=frames[1:])
    dark = np.arange(320).reshape(16, 20) * 10
    Image.fromarray(dark.astype(np.uint16)).save(root / "cat" / "e.tif")
    Image.fromarray((dark * 20).astype(np.uint16)).save(root / "cat" / "f.tif")
    Image.fromarray((dark // 20).astype(np.uint16)).save(root / "cat" / "g.png")
    Image.fromarray((dark // 20).astype(np.int32)).save(root / "cat" / "h.tif")
    text = said(opened(root))
    assert "1 of 20 training images (cat/g.png): each is 16-bit but uses no value above 255" in text
    assert "1 of 20 training images (cat/h.tif): each is 32-bit but uses no value above 255" in text
    assert "4 of 20 training images (cat/a.gif, cat/b.tiff, cat/c.webp, cat/d.png): each has several frames" in text
    assert "1 of 20 training images (cat/e.tif): each is 16-bit but uses no value above 4095" in text


def tiff(bands: int, bits: int, *, geo: bool = False, photometric: int = 1) -> bytes:
    """A TIFF of 2 x 2 pixels, in the form of satellite data."""
    entries = [(256, 3, 1, 2), (257, 3, 1, 2), (259, 3, 1, 1), (262, 3, 1, photometric), (277, 3, 1, bands)]
    entries += [(278, 3, 1, 2), (279, 4, 1, 4 * bands * bits // 8), (284, 3, 1, 1)]
    count = len(entries) + 2 + (photometric == 2 and bands > 3) + geo
    after = 8 + 2 + 12 * count + 4
    entries += [(258, 3, bands, after), (273, 4, 1, after + 2 * bands)]
    entries += [(338, 3, 1, 0)] if photometric == 2 and bands > 3 else []
    entries += [(34735, 3, 1, 1)] if geo else []
    body = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + n.to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, kind, n, value in sorted(entries)
    )
    head = b"II*\0" + (8).to_bytes(4, "little") + count.to_bytes(2, "little")
    return head + body + bytes(4) + bits.to_bytes(2, "little") * bands + bytes(range(4 * bands * bits // 8))


def test_satellite_images_say_what_they_hold(tmp_path: Path) -> None:
    """Guards against the message "in no image format that Pillow knows" for a file that every viewer opens, and against
    leaving out a band without a message."""
    root = animals(tmp_path / "data")
    (root / "cat" / "x.tif").write_bytes(tiff(4, 16, geo=True))
    with pytest.raises(DataError, match=r"cat/x.tif .* a GeoTIFF with 4 bands of 16 bits.*gdal_translate"):
        opened(root)
    (root / "cat" / "x.tif").write_bytes(tiff(4, 8, photometric=2))
    assert "has 4 bands, of which only the first 3 are used" in said(opened(root))


def test_notes_of_a_camera_stop_nothing(tmp_path: Path) -> None:
    """Guards against an EXIF orientation written as text, which once stopped every run, even with
    --skip_corrupt_images."""
    root = animals(tmp_path / "data")
    path = root / "cat" / "00.jpg"
    raw = path.read_bytes()
    body = b"Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
    path.write_bytes(raw[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + raw[2:])
    found = opened(root)
    assert len(found.labeled) == 10 and found.labeled[0]["image"].size == files.SIZE


def test_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    """Guards against the error "surrogates not allowed" when the split is written, after every file was already
    read."""
    root = animals(tmp_path / "data")
    try:
        os.rename(os.fsencode(root / "cat" / "00.jpg"), os.fsencode(root / "cat") + b"/caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(DataError, match=r"1 file names in .* are not UTF-8: cat/caf\\xe9.jpg. Rename .*convmv"):
        opened(root)
    for listed in (
        {"images": [root / "caf\udce9.jpg"]},
        {"images": [root / "a.jpg"], "masks": [root / "caf\udce9.png"]},
    ):
        with pytest.raises(DataError, match=r"1 file names in .* are not UTF-8: .*caf\\xe9"):
            FileRows(root=root, **listed)


# ---- splits and class folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev", "eval", "VAL", "val2017", "val_set"])
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_one_table_of_split_names(name: str, kind: str, tmp_path: Path) -> None:
    """Guards against knowing `valid` as a split for folders but not for tables, where a fifth of the labels went to
    evaluation instead."""
    for split, shade in (("train", 0), (name, 7)):
        if kind == "folder":
            for place, animal in enumerate(("cat", "dog")):
                for index in range(3):
                    files.save(files.image(20 * index + 60 * place + shade), tmp_path / split / animal / f"{index}.png")
        else:
            pictures = [files.encoded(files.image(20 * index + shade)) for index in range(6)]
            files.parquet(tmp_path, **{split: files.table({"image": pictures, "label": [0, 1] * 3})})
    found = opened(tmp_path)
    assert len(found.labeled) == 6 and len(found.evaluation or ()) == 6 and found.notes[-1:] != ["No evaluation split"]


@pytest.mark.parametrize("name", ["unlabeled", "unlabelled", "Unlabelled", "unlabeled_images"])
def test_unlabeled_images_in_either_spelling(name: str, tmp_path: Path) -> None:
    """Guards against images in a folder with the British spelling becoming a class of their own, or being left out."""
    for root, classes in ((tmp_path / "one", ""), (tmp_path / "two", "train")):
        animals(root / classes, 3)
        files.save(files.image(3), root / name / "x.png")
        found = opened(root)
        assert found.class_names == ["cat", "dog"]
        assert found.unlabeled is not None and list(found.unlabeled.ids) == [f"{name}/x.png"]


@pytest.mark.parametrize(
    ("images", "masks", "train", "val"),
    [
        ("images", "annotations", "training", "validation"),
        ("images", "labels", "train", "val"),
        ("Images", "Masks", "Train", "Valid"),
        ("img", "mask", "train2017", "val2017"),
    ],
)
def test_splits_below_images(images: str, masks: str, train: str, val: str, tmp_path: Path) -> None:
    """Guards against training on the validation images of a data set in the layout of ADE20K."""
    for split, count in ((train, 5), (val, 3)):
        for index in range(count):
            files.save(files.image(10 * index + count), tmp_path / images / split / f"{split[0]}{index}.png")
            files.save(files.mask([0, 1, 2]), tmp_path / masks / split / f"{split[0]}{index}.png")
    found = opened(tmp_path, PIXELS)
    assert len(found.labeled) == 5 and not any(f"/{val}/" in name for name in found.labeled.ids)
    assert [name.split("/")[1] for name in (found.evaluation.ids if found.evaluation else ())] == [val] * 3
    shutil.move(tmp_path / images / train, tmp_path / images / "rest")
    with pytest.raises(DataError, match=f"has a folder '{val}', which is named like a split, but none called 'train'"):
        opened(tmp_path, PIXELS)


def test_several_folders_of_scenes_for_one_role(tmp_path: Path) -> None:
    """Guards against using only one of train2012/ and train2017/, and one of two folders of masks, without a word."""
    for name in ("train2012", "train2017"):
        files.scene_folder(tmp_path / "years" / name)
    found = opened(tmp_path / "years", PIXELS)
    assert len(found.labeled) == 8 and len(found.labeled[7]["mask"]) == 16
    root = files.scene_folder(tmp_path / "masks")
    (root / "labels").mkdir()
    assert "is not used" not in said(opened(root, PIXELS)), "text files of a detector"
    files.save(files.mask((0, 1)), root / "labels" / "00.png")
    assert "Warning: labels in" in said(opened(root, PIXELS))


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
@pytest.mark.parametrize("how", ["unlabeled_dir", "unlabeled_split", "unlabeled", "unlabeled_dataset_name"])
def test_masks_are_no_unlabeled_images(task: str, how: str, tmp_path: Path) -> None:
    """Guards against models that are trained on masks as if they were photos, because the unlabeled images have masks,
    too."""
    root = animals(tmp_path / "data") if task == IMAGES else files.scene_folder(tmp_path / "data")
    more = files.scene_folder(root / "unlabeled" if how == "unlabeled" else root / "pool" / "new", [(0, 1), (1, 2)])
    flags: dict[str, str] = {
        "unlabeled_dir": {"unlabeled_dir": str(root / "pool")},
        "unlabeled_split": {"unlabeled_split": "pool"},
        "unlabeled": {},
        "unlabeled_dataset_name": {"unlabeled_dataset_name": str(root / "pool")},
    }[how]
    if how == "unlabeled_dataset_name":
        shutil.move(root / "pool", tmp_path)
        flags = {how: str(tmp_path / "pool" / ("new" if task == PIXELS else ""))}
        more = Path(flags[how])
        if task == PIXELS:
            (more / "masks" / "00.png").unlink()
    found = opened(root, task, **flags)
    assert found.unlabeled is not None and len(found.unlabeled) == 2, found.unlabeled
    assert all("images/" in name for name in found.unlabeled.ids)
    assert "masks in" in said(found) and "beside a folder of images" in said(found)


def test_masks_of_unlabeled_images_are_found_by_their_suffix(tmp_path: Path) -> None:
    """Guards against unlabeled masks that are not scored, because --mask_suffix was only used for labeled ones."""
    root, more = (files.scene_folder(tmp_path / name) for name in ("data", "more"))
    for mask in [*root.glob("masks/*"), *more.glob("masks/*")]:
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    for picture in more.glob("images/*"):
        files.save(files.image(200 + int(picture.stem)), picture)
    found = opened(root, PIXELS, unlabeled_dataset_name=str(more), mask_suffix="_mask").unlabeled
    assert found is not None and len(found) == 4 and "mask" in found[0]


def test_masks_inside_class_folders_are_no_images_of_the_class(tmp_path: Path) -> None:
    """Guards against a classifier that learns to tell masks, because each class has folders images/ and masks/."""
    for animal in ("cat", "dog"):
        files.scene_folder(tmp_path / animal)
    found = opened(tmp_path)
    assert all("/images/" in name for name in found.labeled.ids) and len(found.labeled) == 8
    assert "skipped 8 masks" in said(found) and "cat/masks/, dog/masks/" in said(found)


def test_a_folder_of_unlabeled_images_beside_the_labeled_ones(tmp_path: Path) -> None:
    """Guards against training with the labels of images that were named as the unlabeled ones, and against the advice
    to pass what was passed."""
    root = files.scene_folder(tmp_path / "scenes")
    files.save(files.image(222), root / "images" / "more" / "a.png")
    found = opened(root, PIXELS, unlabeled_dir=str(root / "images" / "more"))
    assert len(found.labeled) == 4 and found.unlabeled is not None and found.unlabeled.ids == ["a.png"]
    for split in ("train", "val"):
        files.scene_folder(tmp_path / "split", [(0, 1), (1, 2)] if split == "train" else [(0, 1)])
        for kind in ("images", "masks"):
            shutil.move(tmp_path / "split" / kind, tmp_path / "ade" / kind / split)
    files.save(files.image(222), tmp_path / "ade" / "images" / "more" / "a.png")
    found = opened(tmp_path / "ade", PIXELS, unlabeled_dir=str(tmp_path / "ade" / "images" / "more"))
    assert "in no split folder" not in said(found)
    for split in ("train", "val"):
        animals(tmp_path / "animals" / split)
    files.save(files.image(222), tmp_path / "animals" / "more" / "a.png")
    found = opened(tmp_path / "animals", unlabeled_split="more")
    assert found.unlabeled is not None and len(found.unlabeled) == 1 and "not in a class folder" not in said(found)


def test_a_class_called_train(tmp_path: Path) -> None:
    """Guards against the error "no class folders" for the class folders of COCO, VOC or CIFAR-100."""
    root = files.class_folder(tmp_path / "data", ("bus", "car", "train"), 3)
    with pytest.raises(DataError, match=r"'train' is named like a split. .* as bus, car are, .*: train/train, train/b"):
        opened(root)
    (root / "train.csv").write_text("file_name,label\ntrain/00.jpg,a\ntrain/01.jpg,b\n")
    assert opened(root).class_names == ["a", "b"], "a table with labels beside folders without"


def test_a_table_without_labels_beside_class_folders(tmp_path: Path) -> None:
    """Guards against the error "no class folders" for class folders beside a `metadata.csv` with facts of the images,
    as `datasets` writes and reads them."""
    root = animals(tmp_path / "data")
    rows = [f"{animal}/{number:02d}.jpg,{number}" for animal in ("cat", "dog") for number in range(6)]
    written(root / "metadata.csv", "\n".join(["file_name,age", *rows]))
    found = opened(root)
    assert found.class_names == ["cat", "dog"]
    assert "the columns 'age' in 'metadata.csv' are not used; the classes are the folders: cat, dog" in said(found)


def test_labels_of_one_class_alone_are_refused(tmp_path: Path) -> None:
    """Guards against a run on images of a single class, which every prediction gets right, because another class has a
    name but no label: labels of -1 and 1, or a validation split with more classes."""
    root = tmp_path / "two"
    rows = ["file_name,label"]
    for number in range(12):
        files.save(files.image(number), root / f"{number}.png")
        rows.append(f"{number}.png,{(-1, 1)[number % 2]}")
    written(root / "metadata.csv", "\n".join(rows))
    with pytest.raises(DataError, match=r"All 6 labeled images are '1'.*Label .*; a label of -1 .* mean 'no label'"):
        opened(root)
    files.class_folder(tmp_path / "splits" / "train", ("cat",), 3)
    animals(tmp_path / "splits" / "val", 3)
    with pytest.raises(DataError, match=r"All 3 labeled images are 'cat', so there is nothing to learn"):
        opened(tmp_path / "splits")


def test_other_shapes_of_class_folders(tmp_path: Path) -> None:
    """Guards against a class named after the folder above a stray image, and against an unclear error when the class
    folders are one level deeper."""
    root = animals(tmp_path / "stray")
    files.save(files.image(5), root / "stray.png")
    found = opened(root)
    assert found.class_names == ["cat", "dog"] and "1 images in" in said(found) and "stray.png. Move" in said(found)
    root = tmp_path / "deeper"
    animals(root / "photos")
    with pytest.raises(
        DataError, match=r"has a single class, 'photos'.*If the classes are cat, dog, pass the folder 'photos'"
    ):
        opened(root)
    for split in ("train", "val"):
        animals(tmp_path / "wrapped" / "data" / split)
    files.save(files.image(222), tmp_path / "wrapped" / "data" / "unlabeled" / "a.png")
    found = opened(tmp_path / "wrapped")
    assert len(found.evaluation or ()) == 12
    assert found.unlabeled is not None and found.unlabeled.ids == ["unlabeled/a.png"]
    for animal in ("cat", "dog"):
        for year in ("2023", "2024"):
            files.save(files.image(len(animal + year)), tmp_path / "years" / animal / year / "a.png")
    found = opened(tmp_path / "years")
    assert found.class_names == ["cat", "dog"] and "If 2023, 2024 are the classes, make them the outer folders" in said(
        found
    )


def test_a_saved_data_set_simply_opens(tmp_path: Path) -> None:
    """Guards against a folder written by `save_to_disk` being refused with the advice to use load_from_disk."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    pictures = [{"bytes": files.encoded(files.image(10 * index)), "path": None} for index in range(12)]
    table = files.table({"image": pictures, "label": [0, 1] * 6}, features)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "valid": table.select(range(3))}).save_to_disk(str(tmp_path / "two"))
    for number, form in enumerate(({"type": "torch"}, {"type": "pandas"}, {"type": None, "columns": ["label"]})):
        table.with_format(**form).save_to_disk(str(tmp_path / f"formatted{number}"))
        formatted = opened(tmp_path / f"formatted{number}")
        assert formatted.class_names == ["dog", "cat"] and formatted.labeled[1]["label"] == 1, form
    assert opened(tmp_path / "one").class_names == ["dog", "cat"]
    found = opened(tmp_path / "two")
    assert len(found.labeled) == 12 and len(found.evaluation or ()) == 3
    assert (
        len(
            opened(tmp_path / "one", unlabeled_dataset_name=str(tmp_path / "two"), unlabeled_split="valid").unlabeled
            or ()
        )
        == 3
    )


# ---- names of classes -----------------------------------------------------------------------------------------------


def label_table(root: Path, **orders: Sequence[str]) -> Path:
    """Parquet files whose labels 0, 1, 0, 1, ... stand for the given names."""
    for split, names in orders.items():
        pictures = [{"bytes": files.encoded(files.image(10 * index + len(split))), "path": None} for index in range(6)]
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
        files.parquet(root, **{split: files.table({"image": pictures, "label": [0, 1] * 3}, features)})
    return root


@pytest.mark.parametrize("content", ['["dog", "cat"]', '{"0": "dog", "1": "cat"}', '{"dog": 0, "cat": 1}'])
def test_another_order_renames_nobody(content: str, tmp_path: Path) -> None:
    """Guards against turning every cat into a dog when --id2label lists the classes in another order."""
    order = written(tmp_path / "order.json", content)
    found = opened(label_table(tmp_path / "table", train=["cat", "dog"]), id2label=order)
    assert found.class_names == ["dog", "cat"] and found.labeled[0]["label"] == 1
    assert "labels are matched to them by name" in said(found)
    found = opened(animals(tmp_path / "animals", 3), id2label=order)
    config = written(tmp_path / "config.json", '{"model_type": "vit", "id2label": {"1": "cat", "0": "dog"}}')
    assert opened(tmp_path / "animals", id2label=config).class_names == ["dog", "cat"], "of a model"
    assert {
        name[:3]: found.class_names[found.labeled[place]["label"]] for place, name in enumerate(found.labeled.ids)
    } == {
        "cat": "cat",
        "dog": "dog",
    }
    inside = animals(tmp_path / "inside", 3)
    assert opened(inside, id2label=written(inside / "classes.json", content)).class_names == ["dog", "cat"]
    numbers = files.class_folder(tmp_path / "numbers", ("0", "1"), 3)
    found = opened(numbers, id2label=order)
    assert found.class_names == ["dog", "cat"] and "Labels are the numbers of the classes in" in said(found)
    assert [found.labeled[place]["label"] for place in range(6)] == [0, 0, 0, 1, 1, 1]


def test_names_for_numbers(tmp_path: Path) -> None:
    """--id2label must still be able to give names to WordNet numbers; names that fit only in part are a mistake."""
    table = label_table(tmp_path / "table", train=["n01", "n02"])
    found = opened(table, id2label=written(tmp_path / "names.json", '["dog", "cat"]'))
    assert found.class_names == ["dog", "cat"] and found.labeled[0]["label"] == 0
    assert "Classes are renamed by" in said(found) and "n01 = dog, n02 = cat" in said(found)
    with pytest.raises(DataError, match=r"Labels \['n02'\] .* are not among the 2 classes"):
        opened(table, id2label=written(tmp_path / "part.json", '["n01", "cat"]'))


def test_files_that_count_classes_differently(tmp_path: Path) -> None:
    """Guards against files that number their classes differently: `datasets` uses the first file's class names for the
    numbers of all."""
    for shards in (
        {"train": ["cat", "dog"], "test": ["dog", "cat"]},
        {"train-0": ["cat", "dog"], "train-1": ["dog", "cat"]},
    ):
        root = label_table(tmp_path / str(len(shards)) / min(shards), **shards)
        with pytest.raises(DataError, match="'label' numbers its classes in a different order"):
            opened(root)


def listed(
    root: Path, labels: Sequence[str], *, name: str = "metadata.csv", encoding: str = "utf-8", by: str = ","
) -> Path:
    lines = [f"file_name{by}label"]
    for index in range(3 * len(labels)):
        files.save(files.image(10 * index % 200, (8 + index, 9)), root / "photos" / f"{index}.png")
        lines.append(f"photos/{index}.png{by}{labels[index % len(labels)]}")
    (root / name).write_bytes("\r\n".join(lines).encode(encoding))
    return root


@pytest.mark.parametrize(
    ("labels", "classes", "unlabeled"),
    [
        (["scratch", "dent", "None"], ["None", "dent", "scratch"], 0),
        (["NA", "null", "nan", "N/A", "-"], ["-", "N/A", "NA", "nan", "null"], 0),
        (["a", "b", "Unlabelled_data"], ["Unlabelled_data", "a", "b"], 0),
        (["a", "b", "", "-1"], ["a", "b"], 6),
        (["0", "1", ""], ["0", "1"], 3),
        (["0.0", "1.0", "-1"], ["0", "1"], 3),
        (["01", "02", "1"], ["01", "02", "1"], 0),
        (['"a, b"', "c"], ["a, b", "c"], 0),
        (["1", "2"], ["0", "1", "2"], 0),
    ],
)
def test_words_that_look_missing(labels: list[str], classes: list[str], unlabeled: int, tmp_path: Path) -> None:
    """Guards against the class None counting as no label, and against an empty cell counting as a class."""
    found = opened(listed(tmp_path, labels))
    assert found.class_names == classes and len(found.unlabeled or ()) == unlabeled
    if "None" in labels:
        assert "The label 'None' is used as a class" in said(found)
    if "Unlabelled_data" in labels:
        assert "Warning: the label 'Unlabelled_data' is used as a class" in said(found)
    if classes[-1] == "2":
        assert 'If the first class is 1, give it a name: `id2label=FILE`, with {"1": ...}.' in said(found)
    if unlabeled:
        assert f"{unlabeled} of {3 * len(labels)} training images have no label." in said(found)


@pytest.mark.parametrize(
    ("name", "encoding", "by"),
    [
        ("metadata.csv", "utf-8-sig", ";"),
        ("metadata.tsv", "utf-16", "\t"),
        ("train.csv", "utf-8", ","),
        ("labels.csv", "utf-8", "|"),
    ],
)
def test_tables_of_files(name: str, encoding: str, by: str, tmp_path: Path) -> None:
    """Guards against failing on tables as spreadsheets write them, and on table names that `datasets` does not know."""
    assert opened(listed(tmp_path, ["ä", "b"], name=name, encoding=encoding, by=by)).class_names == ["b", "ä"]


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("file_name,label", "photos/{}.png"),
        ("Image ID,Label", "{}"),
        ("filename;Class", "{}.png"),
        ("ImageId,label", "{}"),
    ],
)
@pytest.mark.parametrize("named", ["labels.csv", ""])
def test_a_table_beside_a_folder_of_images(named: str, header: str, cell: str, tmp_path: Path) -> None:
    """Guards against refusing the layout of most downloads, `labels.csv` beside `photos/`, as "not a readable folder"
    or with "no labels". The names in the table are often relative to the folder, or lack the extension."""
    listed(tmp_path, ["x", "y"], name="labels.csv")
    files.save(files.image(99), tmp_path / "unlabeled" / "1.png")
    by = "," if "," in header else ";"
    rows = [f"{cell.format(number)}{by}{'xy'[number % 2]}" for number in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    found = opened(tmp_path / named, unlabeled_dir=str(tmp_path / "unlabeled"))
    assert found.labeled.ids == [f"photos/{number}.png" for number in range(6)]
    assert found.labeled.labels.tolist() == [0, 1] * 3 and found.unlabeled is not None
    assert ("The files of 'labels.csv' are those in" in said(found)) == ("photos" not in cell)
    assert "in no table" not in said(found)


def test_labels_of_unlabeled_images_that_are_no_classes_are_said(tmp_path: Path) -> None:
    """Guards against pseudo labels that are scored on a part of the images, without a word."""
    root = animals(tmp_path / "data")
    content = [files.encoded(files.image(number)) for number in range(4)]
    rows = files.table({"image": content, "label": ["cat", "Dog", None, "fox"]}, {"image": datasets.Value("binary"),
                       "label": datasets.Value("string")})  # fmt: skip
    found = opened(root, unlabeled_dataset_name=str(files.parquet(tmp_path / "more", train=rows)))
    assert "is not among the classes: 'Dog', 'fox'." in said(found)
    assert found.unlabeled is not None and found.unlabeled.labels.tolist() == [0, -1, -1, -1]


def test_tables_of_unlabeled_images_with_own_column_names(tmp_path: Path) -> None:
    """Guards against --image_column that is not used for a table of unlabeled images, and a --label_column that is
    required there."""
    root = listed(tmp_path, ["x", "y"])
    table = (root / "metadata.csv").read_text().splitlines()
    labeled = written(root / "labeled.csv", "\n".join(["Datei,Klasse", *table[1:5]]))
    for names, known in (("Datei,Klasse", True), ("Datei,other", False), ("file_name,other", False)):
        unlabeled = written(root / "more.csv", "\n".join([names, *table[5:]]))
        flags = {"image_column": "Datei", "label_column": "Klasse", "unlabeled_dataset_name": unlabeled}
        found = opened(Path(labeled), **flags).unlabeled
        assert found is not None and list(found.ids) == ["photos/4.png", "photos/5.png"]
        assert (found.labels is not None) == known


def test_predictions_beside_the_images_are_no_labels(tmp_path: Path) -> None:
    """Guards against pseudo labels that are scored with earlier predictions as the truth, because they were written
    into the folder of the unlabeled images."""
    root, more = animals(tmp_path / "data"), tmp_path / "more"
    for number in range(4):
        files.save(files.image(number), more / f"{number}.png")
    written(more / "labels.csv", "id,label\n" + "".join(f"{number}.png,cat\n" for number in range(4)))
    for name, labels in (("a table of labels", [0] * 4), ("predictions", None)):
        if name == "predictions":
            written(more / "labels.csv.about.json", "{}")
        found = opened(root, unlabeled_dataset_name=str(more)).unlabeled
        assert found is not None and len(found) == 4
        assert (found.labels if labels is None else found.labels.tolist()) == labels, name


def test_a_column_that_names_the_split(tmp_path: Path) -> None:
    """Guards against training on the images that a table marks as test images."""
    for number in range(12):
        files.save(files.image(15 * number), tmp_path / f"{number}.png")

    def table(column: str, words: Sequence[str]) -> RunImages:
        rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},{word}" for number, word in enumerate(words)]
        return opened(Path(written(tmp_path / "labels.csv", "\n".join([f"file_name,label,{column}", *rows]))))

    found = table("Split", ["train"] * 8 + ["val"] * 2 + ["Test"] * 2)
    assert found.evaluation is not None and found.evaluation.ids == ["8.png", "9.png"]
    assert found.test is not None and found.test.ids == ["10.png", "11.png"] and len(found.labeled) == 8
    assert found.test.labels.tolist() == [1, 0]
    found = table("subset", ["train"] * 8 + ["holdout"] * 4)
    assert found.test is None and "Warning: the column 'subset'" in said(found) and "'holdout'" in said(found)
    assert "The column 'fold'" in said(table("fold", ["0", "1", "2"] * 4))


def test_a_table_that_contradicts_the_folders(tmp_path: Path) -> None:
    """Guards against folders of cameras as classes although a table has the labels."""
    root = animals(tmp_path / "data")
    rows = [f"{folder}/0{number}.jpg,{folder}" for folder in ("cat", "dog") for number in range(6)]
    written(root / "labels.csv", "\n".join(["file_name,label", *rows]))
    assert "are not used" not in said(opened(root))
    written(root / "labels.csv", "\n".join(["file_name,label", *rows[:-1], "dog/05.jpg,cat"]))
    assert "Warning: the labels in 'labels.csv' are not used; the classes are the folders: cat, dog." in said(
        opened(root)
    )


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    """Guards against the message "not a data set on the Hub or in the local cache" for a photo or a downloaded archive,
    and against "Invalid string class label" for the folder with the archive."""
    files.save(files.image(1), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"is a file\. Give a folder of images, or a table"):
        opened(tmp_path / "a.png")
    for kind, name in (("zip", "x.zip"), ("gztar", "x.tar.gz")):
        shutil.make_archive(str(tmp_path / "x"), kind, animals(tmp_path / "data", 1))
        with pytest.raises(DataError, match=rf"{name}' is an archive\. Unpack it and give the folder"):
            opened(tmp_path / name)
    (tmp_path / "downloads").mkdir()
    shutil.move(tmp_path / "x.zip", tmp_path / "downloads")
    with pytest.raises(DataError, match=r"downloads'.* \(x\.zip\): unpack it first"):
        opened(tmp_path / "downloads")
    for name, advice in (("half.zip", "unpack it first"), ("scan.dcm", "export PNG or TIFF"), ("a.nii", "export PNG")):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_bytes(b"x" * 200)
        with pytest.raises(DataError, match=advice):
            opened(tmp_path / name[0])


def test_tables_of_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Guards against silently losing images that a table lists but its folder lacks, or the other way round."""
    root = listed(tmp_path / "a", ["x", "y"])
    (root / "photos" / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 files in .*metadata.csv' do not exist: 'photos/2.png'"):
        opened(root)
    with pytest.raises(DataError, match=r"cannot be read .*Save it as UTF-8"):
        opened(listed(tmp_path / "b", ["ä", "y"], encoding="latin-1"))
    root = listed(tmp_path / "c", ["x", "y"])
    files.save(files.image(1), root / "photos" / "more.png")
    assert "1 images in" in said(opened(root)) and "that are in no table" in said(opened(root))
    (root / "metadata.csv").write_text((root / "metadata.csv").read_text().replace("photos/1", "photos\\1"))
    assert len(opened(root).labeled) == 6, "paths of Windows"
    (root / "metadata.csv").write_text("file_name,label\nphotos/1.png,x\nphotos/1.png,y\n")
    with pytest.raises(DataError, match=r"lists '1.png' 2 times"):
        opened(root)
    (root / "metadata.csv").unlink()
    rows: list[dict[str, Any]] = [{"file_name": f"photos/{index}.png", "label": ["x"]} for index in range(6)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"contains \['x'\], but an image has one label"):
        opened(root)
    rows = [{"file_name": f"photos/{index}.png", "label": (0, 1, float("nan"))[index % 3]} for index in range(6)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(opened(root).unlabeled or ()) == 2, "NaN is how Python writes null"


def test_tables_beside_images_that_have_no_labels_are_named(tmp_path: Path) -> None:
    """Guards against "no label column" in a folder with a spreadsheet of labels, or with two tables, and against
    reading the outlines that LabelMe writes beside each image as if they were the images."""
    for index in range(3):
        files.save(files.image(10 * index), tmp_path / f"{index}.png")
    for names in (["labels.xlsx"], ["0.json", "1.json"], ["a.csv", "b.csv"]):
        for name in names:
            (tmp_path / name).write_text('{"shapes": []}')
        with pytest.raises(DataError, match=rf"saved as CSV: {', '.join(names)}\."):
            opened(tmp_path)
        for name in names:
            (tmp_path / name).unlink()


def test_a_row_without_a_file_name_does_not_move_the_labels_of_the_others(tmp_path: Path) -> None:
    """Guards against leaving out a row for the images but not for the labels: each image got the label of the row above
    it. Completely empty rows, as spreadsheets write them, must be ignored."""
    root = listed(tmp_path, ["x", "y"])
    header, *lines = (root / "metadata.csv").read_text().splitlines()
    (root / "metadata.csv").write_text("\n".join([header, ",x", *lines]))
    with pytest.raises(DataError, match=r"1 of 7 rows of .* have no file name in the column 'file_name'"):
        opened(root)
    (root / "metadata.csv").write_text("\n".join([header, ",", *lines]))
    found = opened(root)
    assert found.labeled.labels is not None and len(found.labeled) >= 4
    for name, label in zip(found.labeled.ids, found.labeled.labels, strict=True):
        assert found.class_names[label] == "xy"[int(Path(name).stem) % 2]


def test_two_spellings_of_one_name(tmp_path: Path) -> None:
    """Guards against the error "'café' is not one of 'café'": macOS writes an accent as a separate character."""
    ours, theirs = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for index in range(3):
        for split, name in (("train", ours), ("val", theirs)):
            shade = 40 * index + len(split)
            files.save(files.image(shade), tmp_path / "classes" / split / name / f"{index}.png")
            files.save(files.image(shade + 20), tmp_path / "classes" / split / "dog" / f"{index}.png")
        files.save(files.image(index), tmp_path / "scenes" / "images" / f"{ours}{index}.png")
        files.save(files.mask([0, 1]), tmp_path / "scenes" / "masks" / f"{theirs}{index}.png")
    assert opened(tmp_path / "classes").class_names == [ours, "dog"]
    assert len(opened(tmp_path / "scenes", PIXELS).labeled) == 3


def test_one_picture_twice(tmp_path: Path) -> None:
    """Guards against an image with two labels, one of which must be wrong, and against reporting a gain of test
    accuracy on images that were trained on."""
    root = animals(tmp_path / "a", 4)
    shutil.copy(root / "cat" / "01.jpg", root / "dog" / "copy.jpg")
    assert "1 image is labeled more than once, with different labels: cat/01.jpg and dog/copy.jpg" in said(opened(root))
    for split in ("train", "val", "test"):
        animals(tmp_path / "b" / split, 3)
    text = said(opened(tmp_path / "b"))
    for roles in ("labeled and eval", "labeled and test", "eval and test"):
        assert f"6 images are both {roles} (" in text


# ---- masks ----------------------------------------------------------------------------------------------------------


def scenes(root: Path, mask: Image.Image | bytes, name: str = "{}.png", count: int = 3, **options: Any) -> Path:
    for index in range(count):
        files.save(files.image(15 * index), root / "images" / f"{index}.png")
        path = root / "masks" / name.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(mask, bytes):
            path.write_bytes(mask)
        else:
            mask.save(path, **options)
    return root


def values_of(found: RunImages) -> list[int]:
    return np.unique(found.labeled[0]["mask"]).tolist()


def png(values: Sequence[int], bits: int, channels: int = 1) -> bytes:
    """A PNG with fewer than 8 bits per pixel, or with several channels of 16 bits, which Pillow cannot write."""
    pixels = np.array(files.mask(values))
    rows = b""
    for row in pixels:
        digits = "".join(format(int(value), f"0{bits}b") * channels for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width = pixels.shape
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, (0, 4, 2, 6)[channels - 1], 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_masks_with_several_channels_of_16_bits(channels: int, tmp_path: Path) -> None:
    """Guards against ids of which only the upper 8 bits are read: 300 and 301 would both be 1."""
    root = scenes(tmp_path, png((0, 3), 16, channels))
    with pytest.raises(DataError, match=r"several channels of 16 bits.*Save it with one channel of class ids"):
        opened(root, PIXELS, mask_band=1)


def gray_pgm(values: Sequence[int], largest: int) -> bytes:
    pixels = np.array(files.mask(values))
    return b"P5 %d %d %d\n" % (pixels.shape[1], pixels.shape[0], largest) + pixels.tobytes()


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (png((0, 1), 1), "{}.png", [0, 1]),
        (png((0, 1, 2, 3), 2), "{}.png", [0, 1, 2, 3]),
        (png((0, 3, 1), 2), "{}.png", [0, 1, 3]),
        (png((0, 1, 2, 5), 4), "{}.png", [0, 1, 2, 5]),
        (gray_pgm((0, 1, 2, 3), 3), "{}.pgm", [0, 1, 2, 3]),
        (gray_pgm((0, 1, 2, 4), 4), "{}.pgm", [0, 1, 2, 4]),
        (gray_pgm((0, 1, 2, 6), 20), "{}.pgm", [0, 1, 2, 6]),
    ],
)
def test_masks_are_not_stretched(content: bytes, name: str, expected: list[int], tmp_path: Path) -> None:
    """Guards against the class ids 0, 1, 2, 3 of a 2-bit mask becoming 0, 85, 170 and void."""
    found = opened(scenes(tmp_path, content, name), PIXELS)
    assert values_of(found) == expected and len(found.class_names) == expected[-1] + 1


@pytest.mark.parametrize(
    ("mask", "name", "options", "message"),
    [
        (files.mask((0, 1, 2)), "{}.webp", {}, "is a lossy WEBP file"),
        (files.mask((0, 1, 2)), "{}.jpg", {}, "is a JPEG file"),
        (files.mask((0, 1, 2)).convert("F"), "{}.tif", {}, "contains float32 values"),
        (files.mask((0, 1, 2)).convert("CMYK"), "{}.tif", {}, "is a CMYK image, but which class"),
        (files.mask((0, 1, 2)), "{}.webp", {"lossless": True}, None),
        (files.mask((0, 1, 2)), "{}.gif", {}, None),
        (files.palette((0, 1, 2)), "{}.png", {"transparency": 0}, None),
        (files.mask((0, 1, 2)).convert("RGBA"), "{}.png", {}, None),
        (files.mask((0, 1, 2)).convert("LA"), "{}.png", {}, None),
        (files.mask((0, 1, 2), dtype=np.int32), "{}.tif", {}, None),
    ],
)
def test_kinds_of_masks(
    mask: Image.Image, name: str, options: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    """Guards against using the class ids of a lossy file, which are wrong near every edge."""
    root = scenes(tmp_path, mask, name, **options)
    if message:
        with pytest.raises(DataError, match=message):
            opened(root, PIXELS)
    else:
        assert values_of(opened(root, PIXELS)) == [0, 1, 2]


def test_palettes_that_contradict_each_other_are_said(tmp_path: Path) -> None:
    """Guards against class ids from a program that numbers the colors of every file anew."""
    root = scenes(tmp_path, files.palette((0, 1, 2)), "{}.png")
    assert "palettes" not in said(opened(root, PIXELS))
    other = files.palette((0, 1, 255))
    other.putpalette([0, 0, 0, 0, 128, 0, 128, 0, 0] + [7] * 759)
    other.save(root / "masks" / "1.png")
    assert "different palettes: 1 is #800000 in that of images/0.png and #008000 in" in said(opened(root, PIXELS))


def test_pages_of_a_mask_that_are_not_used_are_said(tmp_path: Path) -> None:
    """Guards against masks with a page for each class, of which only the first page is read."""
    page = files.mask((0, 1, 2))
    root = scenes(tmp_path, page, "{}.tif")
    page.save(root / "masks" / "1.tif", save_all=True, append_images=[page])
    assert "1 of 3 training masks (images/1.png): each has several frames or pages" in said(opened(root, PIXELS))


def test_masks_as_gif(tmp_path: Path) -> None:
    """Guards against the numbers of a palette that was renumbered while a GIF was written: class 2 became class 1."""
    assert values_of(opened(scenes(tmp_path / "gray", files.mask((0, 2)), "{}.gif"), PIXELS)) == [0, 2]
    root = scenes(tmp_path / "colors", files.palette((0, 2)), "{}.gif")
    with pytest.raises(DataError, match=r"is a GIF file with colors.*`mask_colors`"):
        opened(root, PIXELS)
    colors = written(tmp_path / "colors.csv", "name,r,g,b\nsky,0,0,0\nroad,128,0,0\ntree,0,128,0\n")
    assert values_of(opened(root, PIXELS, mask_colors=colors)) == [0, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            (0, 1, 65535),
            r'would make 65536 classes.*`ignore_index=65535`.*the file contains: \{"0": "name of 0", "1": [^,]*\}$',
        ),
        ((7, 26001, 24003), r'would make 26002 classes.*\{"7": "name of 7", "24003": .*, "26001": "name of 26001"\}'),
        ((100, 200, 300), r'would make 301 classes.*"100": "name of 100"'),
    ],
)
def test_sparse_ids_are_refused_with_the_map(values: tuple[int, ...], message: str, tmp_path: Path) -> None:
    """Guards against a model of 65,536 classes, of which only three have pixels."""
    root = scenes(tmp_path, files.mask(values, dtype=np.uint16), "{}.tif")
    with pytest.raises(DataError, match=message):
        opened(root, PIXELS)
    names = {str(value): f"class {value}" for value in values if value != 65535}
    flags = {"ignore_index": 65535} if 65535 in values else {}
    found = opened(root, PIXELS, id2label=written(tmp_path / "map.json", json.dumps(names)), **flags)
    assert found.class_names == [f"class {value}" for value in sorted(values) if value != 65535]
    assert values_of(found) == ([-100, 0, 1] if flags else [0, 1, 2])


@pytest.mark.parametrize(
    ("values", "content", "flags", "classes", "expected"),
    [
        ((0, 100, 255), '{"0": "bg", "100": "water"}', {}, ["bg", "water"], [-100, 0, 1]),
        ((0, 7, 8), '{"0": "bg", "7": "road", "8": "road"}', {}, ["bg", "road"], [0, 1]),
        ((0, 1, 2), '{"1": "a", "2": "b"}', {"ignore_index": 0}, ["a", "b"], [-100, 0, 1]),
        ((0, 1, 2), '{"1": "a", "2": "b"}', {"reduce_labels": True}, ["a", "b"], [-100, 0, 1]),
        (
            (0, 100, 50),
            '{"0": "bg", "100": "water"}',
            {},
            None,
            r"not among the 2 classes \(0, 100\):\n  images/0.png: 50",
        ),
        (
            (0, 1, 2),
            '["bg", "a", "b"]',
            {"ignore_index": 0},
            None,
            "0 is the class 'bg' .*the class would have no pixel",
        ),
        ((0, 1, 2), None, {"ignore_index": 0}, None, "leaves class 0 without a pixel.*pass `reduce_labels`"),
    ],
)
def test_maps_of_mask_values(
    values: tuple[int, ...], content: str | None, flags: dict[str, Any], classes: Any, expected: Any, tmp_path: Path
) -> None:
    """Guards against an extra class that no image shows and every model can predict."""
    root = scenes(tmp_path / "data", files.mask(values), count=4)
    if content:
        flags = flags | {"id2label": written(tmp_path / "map.json", content)}
    if classes is None:
        with pytest.raises(DataError, match=expected):
            opened(root, PIXELS, **flags)
        return
    files.save(files.image(9), tmp_path / "more" / "x.png")
    found = opened(root, PIXELS, unlabeled_dir=str(tmp_path / "more"), **flags)
    assert found.class_names == classes and values_of(found) == expected
    assert found.images_per_class == [4] * len(classes)


COLORS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
PAINTED = Image.fromarray(COLORS[np.array(files.mask((0, 1, 2)))])


@pytest.mark.parametrize(
    ("table", "classes", "expected"),
    [
        ("c.csv:name,r,g,b\nbg,0,0,0\nred,255,0,0\ngreen,0,255,0\n", ["bg", "red", "green"], [0, 1, 2]),
        ("c.csv:\ufeffName;R;G;B\r\nvoid;0;0;0\r\nred;255;0;0\r\ngreen;0;255;0\r\n", ["red", "green"], [-100, 0, 1]),
        (
            "c.txt:# label:color_rgb:parts:\nbg:0,0,0::\nred:255,0,0::\ngreen:0,255,0::\n",
            ["bg", "red", "green"],
            [0, 1, 2],
        ),
        ('c.json:{"red": "#ff0000", "green": [0, 255, 0], "unlabelled": [0, 0, 0]}', ["red", "green"], [-100, 0, 1]),
        (
            'c.json:[{"name": "x", "color": [255, 0, 0]}, {"name": "y", "rgb": "black"}, {"name": "x", "rgb": "lime"}]',
            ["x", "y"],
            [0, 1],
        ),
        (
            'c.json:{"bg": [0, 0, 0], "red": [255, 0, 0]}',
            None,
            r"1 colors that are not in .*on 30.0% .*\[0, 255, 0\] \(96 pixels\)",
        ),
        ('c.json:{"a": [0, 0, 0], "b": [0, 0, 0]}', None, "is both 'a' and 'b'"),
        ("c.csv:nome,r,g\nx,1,2\n", None, "its columns are nome, r, g.*name,r,g,b"),
        ('c.json:{"a": [0, 0, 300]}', None, "is not a color"),
    ],
)
def test_masks_of_colors(table: str, classes: Any, expected: Any, tmp_path: Path) -> None:
    """Color masks, which most programs draw, must be read with a table that says which class a color stands for."""
    name, text = table.split(":", 1)
    flags = {"mask_colors": written(tmp_path / name, text)}
    root = scenes(tmp_path / "data", PAINTED)
    if classes is None:
        with pytest.raises(DataError, match=expected):
            opened(root, PIXELS, **flags)
    else:
        found = opened(root, PIXELS, **flags)
        assert found.class_names == classes and values_of(found) == expected


def test_suffix_band_and_turn(tmp_path: Path) -> None:
    """Masks called `_mask`, class ids in one channel of three, and masks drawn before the EXIF rotation must be read
    with the right flag, or refused with a message that explains the cause."""
    root = scenes(tmp_path / "suffix", files.mask((0, 1, 2)), "{}_mask.png")
    with pytest.raises(DataError, match=r"have no mask of the same name .*end in '_mask': pass `mask_suffix=_mask`"):
        opened(root, PIXELS)
    assert len(opened(root, PIXELS, mask_suffix="_mask").labeled) == 3
    three = np.dstack([np.full((16, 20), 9, np.uint8), np.array(files.mask((0, 1, 2))), np.zeros((16, 20), np.uint8)])
    root = scenes(tmp_path / "band", Image.fromarray(three))
    assert values_of(opened(root, PIXELS, mask_band=2)) == [0, 1, 2]
    with pytest.raises(DataError, match=r"`mask_band=4`: the mask .* has 3 channels. Name one of 1 to 3"):
        opened(root, PIXELS, mask_band=4)
    exif = Image.Exif()
    exif[0x0112] = 6
    root = scenes(tmp_path / "turned", files.mask((0, 1, 2)))
    for index in range(3):
        files.image(index).save(root / "images" / f"{index}.png", exif=exif)
    with pytest.raises(DataError, match=r"is 16x20 after its EXIF rotation.*drawn on the unrotated image"):
        opened(root, PIXELS)


@pytest.mark.parametrize(("orientation", "square"), [(2, False), (3, False), (4, False), (6, True), (8, True)])
def test_a_turn_that_the_size_does_not_show_is_said(orientation: int, square: bool, tmp_path: Path) -> None:
    """Guards against learning from masks that are upside down, mirrored or turned against their images without a word:
    sizes only differ where a photo that is not square is turned by 90 degrees."""
    size = (16, 16) if square else (20, 16)
    exif = Image.Exif()
    root = scenes(tmp_path, files.mask((0, 1, 2), size))
    for value in (1, orientation):
        exif[0x0112] = value
        for index in range(3):
            files.image(index, size).save(root / "images" / f"{index}.png", exif=exif)
        warned = "the EXIF data of 3 of 3 training images with masks (images/0.png" in said(opened(root, PIXELS))
        assert warned == (value != 1)


def test_masks_for_each_object(tmp_path: Path) -> None:
    """Guards against the advice to pass a suffix that would choose the mask of one object, and drop the others."""
    root = scenes(tmp_path, files.mask((0, 1)), "{}_0.png")
    files.save(files.mask((0, 1)), root / "masks" / "0_1.png")
    with pytest.raises(DataError, match=r"The masks have names such as '0_0'\.$"):
        opened(root, PIXELS)


@pytest.mark.parametrize(
    ("images", "masks", "mixed"),
    [("JPEGImages", "SegmentationClass", True), ("my_images", "my_masks", True), ("with_mask", "no_mask", False)],
)
def test_masks_are_no_class(images: str, masks: str, mixed: bool, tmp_path: Path) -> None:
    """Guards against a model that learns to tell the images of Pascal VOC from their masks, if --task is forgotten."""
    root = files.class_folder(tmp_path, (images, masks), 3)
    if mixed:
        with pytest.raises(DataError, match="contains images with masks"):
            opened(root)
    else:
        assert opened(root).class_names == sorted((images, masks))


def test_the_export_of_cvat_is_read_as_it_is(tmp_path: Path) -> None:
    """Guards against training on SegmentationObject, whose colors are the numbers of objects."""
    root = scenes(tmp_path, PAINTED)
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    files.save(files.mask((7, 8)), root / "SegmentationObject" / "0.png")
    colors = written(
        tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\nbg:0,0,0::\na:255,0,0::\nb:0,255,0::\n"
    )
    found = opened(root, PIXELS, mask_colors=colors)
    assert found.class_names == ["bg", "a", "b"] and values_of(found) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images/0.json", '{"shapes": [{"label": "road"}]}'),
        ("masks/instances.json", '{"images": [], "annotations": [{"segmentation": [[0, 0, 1, 1, 1, 0]]}]}'),
        ("annotations.xml", '<image><polygon label="road"/></image>'),
        ("dataset.json", '{"annotations": [{"segmentation": []}]}'),
    ],
)
def test_polygons_are_said_not_to_be_read(name: str, content: str, tmp_path: Path) -> None:
    """Guards against 'Add the masks' as the only answer to people whose annotation tool wrote outlines."""
    root = scenes(tmp_path / "s", files.mask((0, 1)))
    for mask in (root / "masks").iterdir():
        mask.unlink()
    if not name.startswith("masks/"):
        (root / "masks").rmdir()
    written(root / name, content)
    given = root / "images" if name.startswith("images/") else root / name if name == "dataset.json" else root
    with pytest.raises(DataError, match=rf"{Path(name).name} contains polygons, which are not read: draw them"):
        opened(given, PIXELS)


def test_files_that_could_be_paired_in_two_ways(tmp_path: Path) -> None:
    """Guards against silently using the last of two masks of one image."""
    root = scenes(tmp_path / "a", files.mask((0, 1)))
    files.save(files.mask((1, 0)), root / "masks" / "0.tif")
    with pytest.raises(DataError, match=r"are masks for the same image. Remove one"):
        opened(root, PIXELS)
    root = scenes(tmp_path / "b", files.mask((0, 1)))
    files.save(files.image(3), root / "images" / "0.jpg")
    files.save(files.mask((0, 1)), root / "masks" / "stranger.png")
    with pytest.raises(DataError, match="differ from another one only in the extension, such as '0'"):
        opened(root, PIXELS)
    (root / "images" / "0.jpg").unlink()
    assert "1 masks in" in said(opened(root, PIXELS)) and "stranger.png" in said(opened(root, PIXELS))


# ---- data sets in parquet files --------------------------------------------------------------------------------------


def pictures(**labels: Sequence[int]) -> datasets.Dataset:
    """12 images, and columns of class labels."""
    kinds = {name: datasets.ClassLabel(names=["cat", "dog"]) for name in labels}
    content = [files.encoded(files.image(number)) for number in range(12)]
    return files.table({"image": content, **labels}, {"image": datasets.Value("binary"), **kinds})


def test_parts_of_a_download_that_are_missing_are_said(tmp_path: Path) -> None:
    """Guards against training on the part of a data set that had arrived when the download stopped."""
    for part in (0, 2):
        pictures(label=[0, 1] * 6).to_parquet(str(tmp_path / f"train-{part:05d}-of-00003.parquet"))
    assert "Warning: 1 of the 3 parquet files train-*-of-3 are missing" in said(opened(tmp_path))


def test_image_files_beside_parquet_files_are_said(tmp_path: Path) -> None:
    """Guards against class folders that are ignored because of a parquet file beside them."""
    files.parquet(tmp_path, train=pictures(label=[0, 1] * 6))
    files.save(files.image(1), tmp_path / "unlabeled" / "1.png")
    assert "image files" not in said(opened(tmp_path))
    animals(tmp_path)
    assert "Warning: skipped 12 image files" in said(opened(tmp_path))


def test_a_choice_between_columns_is_said(tmp_path: Path) -> None:
    """Guards against training on one of two columns of classes without a word."""
    files.parquet(tmp_path, train=pictures(animal=[0, 1] * 6, mood=[0, 0, 1] * 4))
    assert "The classes are those in the column 'animal'; 'mood' could also be used (`label_column`)." in said(
        opened(tmp_path)
    )


# ---- everything at once ----------------------------------------------------------------------------------------------

GOOD = ("jpg", "JPG", "png", "webp", "tif", "bmp", "gif", "jp2", "jfif", "heic")
LEFT_OUT = ("nef", "txt", "mp4", "psd_backup", "pdf")
REFUSED: dict[str, Callable[[bytes], bytes]] = {
    "truncated.jpg": lambda whole: whole[: len(whole) // 2],
    "empty.png": lambda whole: b"",
    "text.jpg": lambda whole: b"not found",
    "page.png": lambda whole: b"<html><body>404</body></html>",
}


def test_three_hundred_files_of_twenty_kinds(tmp_path: Path) -> None:
    """Guards against a file that is neither trained on, nor refused, nor reported as skipped."""
    root = tmp_path / "data"
    kinds: dict[str, set[str]] = {"read": set(), "left out": set(), "refused": set(), "hidden": set()}
    number = 0
    while number < 300:
        for kind in (*GOOD, *LEFT_OUT, *REFUSED, ".hidden"):
            if number == 300:
                break
            animal = ("cat", "dog", "élan")[number % 3]
            (root / animal).mkdir(parents=True, exist_ok=True)
            picture = files.image(number % 200, (18 + number % 7, 20 + number % 11))
            if kind in GOOD:
                name, role = f"{number}.{kind}", "read"
                format = {"jpg": "JPEG", "jfif": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "heic": "HEIF"}
                picture.save(root / animal / name, format=format.get(kind.lower(), kind.upper()))
            elif kind in LEFT_OUT:
                name, role = f"{number}.{kind}", "left out"
                (root / animal / name).write_bytes(b"x")
            elif kind == ".hidden":
                name, role = f"._{number}.jpg", "hidden"
                (root / animal / name).write_bytes(b"x")
            else:
                name, role = f"{number}{kind}", "refused"
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG")
                (root / animal / name).write_bytes(REFUSED[kind](buffer.getvalue()))
            kinds[role].add(f"{animal}/{name}")
            number += 1
    with pytest.raises(DataError, match=f"{len(kinds['refused'])} of .* training images cannot be read"):
        opened(root)
    found = opened(root, skip_corrupt_images=True)
    read = {*found.labeled.ids, *(found.evaluation.ids if found.evaluation else ())}
    assert read == kinds["read"] and found.class_names == ["cat", "dog", "élan"]
    assert f"Skipped {len(kinds['refused'])} of {len(read) + len(kinds['refused'])} training images" in said(found)
    for kind in LEFT_OUT:
        count = sum(name.endswith(f".{kind}") for name in kinds["left out"])
        assert f"{count} .{kind} in" in said(found)
    assert f"{len(kinds['hidden'])} hidden and system files" in said(found)
    assert sum(map(len, kinds.values())) == 300
