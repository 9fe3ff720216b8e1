"""The check of every file before training: cheap and complete."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.reading.decoding import CorruptImage, to_rgb
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.looks import look_at_image
from hf_dmt.data.reading.rows import DataError, FileRows
from hf_dmt.data.splitting.scan import scan
from tests.data import small_files as files

PIXELS = "semantic-segmentation"


def found_in(folder: Path, task: str = "image-classification") -> ImageSet:
    images = sorted(folder.glob("*.*"))
    return ImageSet(FileRows(images, folder), np.arange(len(images)), task)


def scenes(folder: Path, values: Any) -> ImageSet:
    files.scene_folder(folder, values)
    images, masks = (sorted((folder / name).iterdir()) for name in ("images", "masks"))
    return ImageSet(FileRows(images, folder, masks=masks), np.arange(len(images)), PIXELS)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("keep", [1.0, 0.97, 0.5, 0.1, 0.0])
def test_the_cheap_check_finds_what_decoding_finds(format: str, keep: float, tmp_path: Path) -> None:
    """Guards against a fast check of JPEG files that misses damage: a file cut anywhere must be found before training,
    not in its third hour."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 130, 3), dtype=np.uint8))
    content = files.encoded(noise, format)
    path = tmp_path / "image.bin"
    path.write_bytes(content[: int(len(content) * keep)])
    try:
        expected: Any = to_rgb(path).size
    except CorruptImage:
        expected = None
    assert (expected is None) == (keep < 1)
    if expected is None:
        with pytest.raises(CorruptImage, match=r"image\.bin"):
            look_at_image(path, str(path))
    else:
        assert look_at_image(path, str(path)).size == expected == (130, 96)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_of_the_upright_image(orientation: int) -> None:
    """Guards against taking the size of a phone's photo before its EXIF rotation: a correct mask would be refused, or
    worse, a wrong one accepted."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16)).save(buffer, "JPEG", exif=exif)
    assert look_at_image(buffer.getvalue(), "x").size == to_rgb(buffer.getvalue()).size


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_small_and_odd_jpegs(mode: str) -> None:
    """Guards against errors on images smaller than the eighth of a JPEG that the check decodes."""
    for size in ((1, 1), (3, 9), (8, 8), (17, 5)):
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, "JPEG")
        assert look_at_image(buffer.getvalue(), "x").size == size


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against slow starts: masks were once decoded three times, for corruption, for class names and for their
    range of values."""
    images = scenes(tmp_path, [(0, 1), (1, 2), (2,)])
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    found = scan(images, "training", skip_corrupt=False, notes=[])
    assert sorted(read) == sorted([*images.rows.images, *images.rows.masks])
    assert found.values.tolist() == [(0, 1), (1, 2), (2,)] and found.has_target.all()
    assert found.sizes.min(axis=1).tolist() == [16] * 3
    assert found.subset(np.array([2, 0])).values.tolist() == [(2,), (0, 1)]


def test_corrupt_files_are_listed_or_left_out(tmp_path: Path) -> None:
    """Guards against mixing up images after a corrupt one was left out: without number 1, the facts about number 2 must
    stay with number 2."""
    for index in range(4):
        files.save(files.image(50, (20 + index, 30)), tmp_path / f"{index}.jpg")
    files.cut(tmp_path / "1.jpg")
    (tmp_path / "3.jpg").write_bytes(b"")
    notes: list[str] = []
    with pytest.raises(DataError, match=r"2 of 4 extra images cannot be read:\n.*1\.jpg.*\n.*3\.jpg.*\n.*`skip"):
        scan(found_in(tmp_path), "extra", skip_corrupt=False, notes=notes)
    found = scan(found_in(tmp_path), "extra", skip_corrupt=True, notes=notes)
    assert found.images.ids == ["0.jpg", "2.jpg"] and found.sizes.min(axis=1).tolist() == [20, 22]
    assert len(notes) == 1 and notes[0].startswith("Skipped 2 of 4 extra images")


def test_all_corrupt_is_an_error_whatever_is_asked(tmp_path: Path) -> None:
    """Guards against a run on an empty data set, and against an error that lists a thousand bad files instead of ten
    and a count."""
    for index in range(13):
        files.cut(files.save(files.image(1), tmp_path / f"{index:02d}.png"), 60)
    with pytest.raises(DataError, match=r"None of the 13 images? .*|None of the 13 training images") as caught:
        scan(found_in(tmp_path), "training", skip_corrupt=True, notes=[])
    assert "... and 3 more" in str(caught.value) and len(str(caught.value).splitlines()) == 13


def test_a_corrupt_mask_counts_as_a_corrupt_image(tmp_path: Path) -> None:
    """Guards against overlooking truncated masks because the images alone look fine."""
    images = scenes(tmp_path, [(0, 1), (1, 2)])
    files.cut(tmp_path / "masks" / "01.png", 50)
    with pytest.raises(DataError, match=r"1 of 2 training images cannot be read:\n.*masks/01.png"):
        scan(images, "training", skip_corrupt=False, notes=[])
    assert scan(images, "training", skip_corrupt=True, notes=[]).images.ids == ["images/00.jpg"]


def test_masks_that_are_only_scored_stop_nothing(tmp_path: Path) -> None:
    """Guards against refusing an unlabeled set because its masks are color images: training does not use them, so it
    must not need them."""
    images = scenes(tmp_path, [(0, 1), (1, 2)])
    files.save(files.image(9), tmp_path / "masks" / "00.png")
    with pytest.raises(DataError, match="color image"):
        scan(images, "unlabeled", skip_corrupt=False, notes=[])
    notes: list[str] = []
    found = scan(images, "unlabeled", skip_corrupt=False, notes=notes, masks_matter=False)
    assert not found.has_target.any() and set(found.images[0]) == {"image"}
    assert "Pseudo labels are not scored" in notes[0]


def test_a_mistake_that_many_files_share_is_counted(tmp_path: Path) -> None:
    """Guards against reporting one bad file at a time, so that a user fixes one file and waits for the next message."""
    images = scenes(tmp_path, [(0, 1), (1, 2), (0, 2)])
    for index in (0, 2):
        files.save(files.mask([0, 1], (10, 16)), tmp_path / "masks" / f"{index:02d}.png")
    with pytest.raises(DataError, match=r"images/00.jpg is 20x16.* mask is 10x16.*\n.* 1 more: images/02.jpg"):
        scan(images, "training", skip_corrupt=False, notes=[])


def test_a_strip_that_resizing_makes_enormous_is_left_out(tmp_path: Path) -> None:
    """Guards against an extreme shape that passes unnoticed until after phase 0: a file of 2 kB, 100000 pixels wide and
    one high, needs gigabytes in labeling."""
    files.save(files.image(90, (30, 20)), tmp_path / "fine.png")
    Image.new("RGB", (100_000, 1)).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match=r"strip\.png is 100000 x 1 pixels.*at most 200 to 1"):
        scan(found_in(tmp_path), "training", skip_corrupt=False, notes=[])
    notes: list[str] = []
    assert len(scan(found_in(tmp_path), "training", skip_corrupt=True, notes=notes)) == 1 and "strip.png" in notes[0]
