"""Images decoded no larger than needed: the same content, the full size is kept, and no image object of the user is
changed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.drawing.clean_images import CleanDataset
from hf_dmt.data.drawing.sampler import Draw
from hf_dmt.data.drawing.samples import PairDataset
from hf_dmt.data.drawing.transforms import PixelView
from hf_dmt.data.reading.decoding import CorruptImage, orientation, to_rgb, to_small_rgb
from hf_dmt.data.reading.image_set import ImageSet, at_side
from hf_dmt.data.reading.rows import DataError, FileRows

FULL = (400, 300)
PIXELS = "semantic-segmentation"


def photo(size: tuple[int, int] = FULL) -> Image.Image:
    """Smooth shapes with a little grain, as a photo has."""
    across, down = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 5, size[1]))
    bands = [110 + 90 * np.sin(across * turn + down) for turn in (1, 2, 3)]
    grain = np.random.default_rng(0).normal(0, 4, (size[1], size[0], 1))
    return Image.fromarray((np.stack(bands, axis=-1) + grain).clip(0, 255).astype(np.uint8))


def encoded(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo().save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format", "side", "expected"),
    [
        ("JPEG", None, FULL),
        ("JPEG", 76, FULL),  # half of it would be less than twice the side
        ("JPEG", 75, (200, 150)),
        ("JPEG", 37, (100, 75)),
        ("JPEG", 10, (50, 38)),  # a JPEG decodes to no less than an eighth
        ("JPEG", 3, (9, 7)),
        ("MPO", 75, (200, 150)),
        ("PNG", 75, (200, 150)),
        ("PNG", 50, (134, 100)),
    ],
)
def test_twice_the_side_is_left(format: str, side: int | None, expected: tuple[int, int]) -> None:
    """Guards against views that are enlarged from too few pixels: a small decode must keep at least twice the requested
    side."""
    small, full = to_small_rgb(encoded(format), side)
    assert full == FULL and small.mode == "RGB"
    assert all(abs(found - wanted) <= 1 for found, wanted in zip(small.size, expected, strict=True))
    assert side is None or min(small.size) >= 2 * side


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_picture_is_the_same(format: str) -> None:
    """Guards against training on another image than the one that is scored: shifted, in other colors, or aliased."""
    whole, (small, _) = to_rgb(encoded(format)), to_small_rgb(encoded(format), 37)
    one, two = (np.asarray(image.resize((50, 37), Image.Resampling.BILINEAR), dtype=int) for image in (whole, small))
    assert np.abs(one - two).mean() < 1.5 and np.abs(one - two).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_and_so_is_its_size(orientation: int) -> None:
    """Guards against images that lie on their side next to upright masks, and against swapped width and height."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded("JPEG", exif=exif.tobytes())
    whole, (small, full) = to_rgb(content), to_small_rgb(content, 37)
    assert full == whole.size and (small.width > small.height) == (whole.width > whole.height)
    one, two = (np.asarray(image.resize((30, 30)), dtype=int) for image in (whole, small))
    assert np.abs(one - two).mean() < 2


@pytest.mark.parametrize(("stored", "meant"), [(6.0, 6), (6.5, 1), ("6", 1), ((6, 6), 1), ({}, 1)])
def test_an_orientation_of_another_type(stored: Any, meant: int) -> None:
    """Guards against images on their side where the orientation is a fraction, which viewers accept, and against a
    traceback for one that is nothing."""
    image = Image.new("RGB", (4, 3))
    image.getexif()[0x0112] = stored
    assert orientation(image) == meant


def test_an_opened_image_stays_as_its_owner_has_it() -> None:
    """Guards against changing an image given from Python: once decoded small, it would be small for scoring, too."""
    opened = Image.open(io.BytesIO(encoded("JPEG")))
    small, full = to_small_rgb(opened, 37)
    assert opened.size == full == FULL and small.size == (100, 75)


def test_a_damaged_file_is_named() -> None:
    """Guards against a run that ends with Pillow's message, without the name of the file."""
    with pytest.raises(CorruptImage, match=r"cat\.jpg cannot be read"):
        to_small_rgb(encoded("JPEG")[:3000], 37, "cat.jpg")
    with pytest.raises(CorruptImage, match=r"nowhere\.jpg"):
        to_small_rgb("nowhere.jpg", 37)


def test_the_guard_against_bombs_looks_at_the_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a file of a billion pixels that passes the size limit because only an eighth of it is decoded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(CorruptImage, match="decompression bombs"):
        to_small_rgb(encoded("JPEG"), 10, "bomb.jpg")


def scenes(folder: Path, mask: tuple[int, int] = FULL) -> ImageSet:
    photo().save(folder / "scene.jpg", quality=95)
    Image.fromarray(np.ones((mask[1], mask[0]), dtype=np.uint8)).save(folder / "scene.png")
    return ImageSet(FileRows([folder / "scene.jpg"], folder, masks=[folder / "scene.png"]), np.arange(1), PIXELS)


def test_a_mask_is_compared_with_the_full_image(tmp_path: Path) -> None:
    """Guards against refusing a mask because its image was decoded small, and against accepting a wrong mask for the
    same reason."""
    item = at_side(scenes(tmp_path), 37)[0]
    assert item["image"].size == (100, 75) and item["size"] == FULL and item["mask"].shape == FULL[::-1]
    with pytest.raises(DataError, match="is 400x300, but its mask is 100x75"):
        at_side(scenes(tmp_path, (100, 75)), 37)[0]
    assert "size" not in scenes(tmp_path)[0], "whole images are what they were"


def test_training_and_labels_share_the_shape_of_the_full_image(tmp_path: Path) -> None:
    """Guards against pseudo labels of another shape than the image they are trained on: an image of 375 x 500 decodes
    to 47 x 63."""
    source = scenes(tmp_path)
    photo((497, 373)).save(tmp_path / "scene.jpg", quality=95)
    Image.fromarray(np.ones((373, 497), dtype=np.uint8)).save(tmp_path / "scene.png")
    clean = [CleanDataset(source, [0], task=PIXELS, shorter_side=20, view_side=side)[0] for side in (None, 20)]
    assert clean[0]["image"].size == clean[1]["image"].size == (27, 20) and clean[1]["size"] == (20, 27)
    views = dict.fromkeys("ab", PixelView(16, scale=False))
    for exact in (False, True):
        samples = PairDataset(source, None, views, task=PIXELS, image_size=20, num_classes=2, exact_decoding=exact)
        assert samples[(Draw("a", False, 0, 1),)]["a"]["labels"].shape == (16, 16)
