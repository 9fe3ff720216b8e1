"""Images that two sets share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.rows import FileRows
from hf_dmt.data.splitting.duplicates import in_both, overlaps, signatures
from hf_dmt.data.splitting.scan import scan
from tests.data import small_files as files


def image_set(folder: Path) -> ImageSet:
    paths = sorted(folder.iterdir())
    return ImageSet(FileRows(paths, folder), np.arange(len(paths)), "image-classification")


def picture(number: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Blobs of color: low frequencies, as photographs have."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def two_sets(tmp_path: Path) -> tuple[ImageSet, ImageSet]:
    for number in range(6):
        files.save(picture(number), tmp_path / "one" / f"{number}.png")
    for number in range(20, 40):
        files.save(picture(number), tmp_path / "other" / f"{number}.png")
    return image_set(tmp_path / "one"), image_set(tmp_path / "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.resize((90, 60), Image.Resampling.BICUBIC),
        lambda image: image.resize((30, 20), Image.Resampling.LANCZOS),
        lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB"),
    ],
    ids=["same", "larger", "smaller", "fewer colors"],
)
def test_copies_are_found_however_they_were_saved(two_sets: tuple[ImageSet, ImageSet], tmp_path: Path, change) -> None:
    """Guards against scores on images that were trained on: copies must be found although their files differ in every
    byte."""
    change(picture(3)).save(tmp_path / "other" / "copy.jpg", quality=90)
    one, other = signatures(two_sets[0], "one"), signatures(image_set(tmp_path / "other"), "other")
    assert in_both(one, other) == [("3.png", "copy.jpg")]
    assert in_both(other, one) == [("copy.jpg", "3.png")], "whichever set is smaller"
    assert overlaps({"labeled": one, "eval": other}) == {("labeled", "eval"): [("3.png", "copy.jpg")]}


def test_other_pictures_are_no_copies(two_sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    """Guards against false warnings about images that are not copies, including the same shapes in other colors."""
    recolored = Image.fromarray(255 - np.asarray(picture(3))[..., ::-1])
    files.save(recolored, tmp_path / "other" / "recolored.png")
    assert overlaps({"a": signatures(two_sets[0], "a"), "b": signatures(image_set(tmp_path / "other"), "b")}) == {}


def test_modes_and_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    """Guards against losing the modes of the files: a data set that is half grayscale is not noticed once every image
    is RGB."""
    files.save(files.image(1, (20, 10)), tmp_path / "a.png")
    files.save(files.image(1, (30, 10)).convert("L"), tmp_path / "b.png")
    files.save(files.image(1, (10, 50)).convert("RGBA"), tmp_path / "c.png")
    seen = scan(image_set(tmp_path), "training", skip_corrupt=False, notes=[])
    assert seen.modes.tolist() == ["RGB", "L", "RGBA"] and seen.subset(np.array([1])).modes.tolist() == ["L"]
    assert seen.sizes.tolist() == [[20, 10], [30, 10], [10, 50]]
