"""Decoding: each kind of file that Pillow alone would silently convert to a wrong image."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_dmt.data.reading.decoding import CorruptImage, to_rgb
from hf_dmt.data.reading.finding import find_images
from hf_dmt.data.reading.masks import to_mask


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return {"bytes": buffer.getvalue(), "path": f"some/file.{format.lower()}"}


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """One grayscale or CMYK file among RGB ones fails in the collator, or is normalized wrongly."""
    image = Image.new("RGB", (5, 4), "white").convert("L" if mode == "I;16" else mode)
    result = to_rgb(image.convert("I").point(lambda v: v * 257).convert("I;16") if mode == "I;16" else image)
    assert result.size == (5, 4) and min(pixel(result)) >= 254


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_is_scaled_not_clipped(format: str) -> None:
    """Pillow's convert clips everything above 255 to white: X-rays and depth maps become blank images."""
    values = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    for source in (
        encoded(Image.fromarray(values), format),
        Image.fromarray(values.astype(np.int32)),
        values,
    ):
        assert [pixel(to_rgb(source), x)[0] for x in range(4)] == [0, 1, 100, 255]


def test_sixteen_bit_does_not_depend_on_the_rest_of_the_image() -> None:
    """Scaling by each image's own maximum gives the same value another brightness in every file."""
    dark, bright = (np.array([[12_850, top]], dtype=np.uint16) for top in (20_000, 65_535))
    assert pixel(to_rgb(dark)) == pixel(to_rgb(bright)) == (50, 50, 50)


def test_transparent_pixels_become_white_whatever_is_stored_under_them() -> None:
    """Guards against dropping the alpha channel, which reveals colors that no viewer shows: models learn the black
    boxes or noise as features."""
    rgba = Image.new("RGBA", (2, 1), (255, 0, 255, 0))
    rgba.putpixel((1, 0), (10, 20, 30, 255))
    gray = Image.new("LA", (2, 1), (7, 0))
    gray.putpixel((1, 0), (90, 255))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 255, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    for source, opaque in (
        (encoded(rgba), (10, 20, 30)),
        (encoded(gray), (90, 90, 90)),
        (encoded(palette, transparency=0), (10, 20, 30)),
        (torch.from_numpy(np.array(rgba)).permute(2, 0, 1), (10, 20, 30)),
    ):
        assert pixel(to_rgb(source), 0) == (255, 255, 255) and pixel(to_rgb(source), 1) == opaque
    key = Image.new("RGB", (2, 1), (1, 2, 3))
    key.putpixel((1, 0), (10, 20, 30))
    keyed = to_rgb(encoded(key, transparency=(1, 2, 3)))
    assert (pixel(keyed, 0), pixel(keyed, 1)) == ((255, 255, 255), (10, 20, 30))


def test_exif_orientation_is_applied_once() -> None:
    """Phone photos would be trained on sideways, although every viewer shows them upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    upright = to_rgb(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (8, 16) and pixel(upright, 4, 1)[0] > 200 and pixel(upright, 4, 14)[0] < 50
    assert to_rgb(upright).tobytes() == upright.tobytes()
    assert to_mask(encoded(Image.new("L", (16, 8), 3), exif=exif)).shape == (16, 8)


def test_arrays_and_tensors() -> None:
    """Channels are last in arrays and first in tensors; floats range from 0 (black) to 1 (white)."""
    array = np.random.RandomState(0).randint(0, 256, (6, 5, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for source in (array, tensor, tensor.float() / 255, array / 255, Image.fromarray(array)):
        assert np.array_equal(np.asarray(to_rgb(source)), array)
    assert pixel(to_rgb(np.array([[True, False]]))) == (255, 255, 255)
    halves = torch.full((3, 6, 5), 0.5, dtype=torch.bfloat16)  # which NumPy does not know
    assert pixel(to_rgb(halves)) == (128, 128, 128) and to_mask(halves.long()[0]).shape == (6, 5)
    assert to_rgb(array[..., :1]).size == to_rgb(tensor[0]).size == (5, 6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 200.0), "from 200 to 200"),
        (np.full((2, 2), np.nan), "nan"),
        (np.full((2, 2), 200), "int64"),
        (np.zeros((3, 8, 9), dtype=np.uint8), r"\(3, 8, 9\)"),
        (np.zeros((0, 4), dtype=np.uint8), r"\(0, 4\)"),
    ],
)
def test_arrays_without_a_meaning_are_refused(array: np.ndarray, message: str) -> None:
    """Guessing the range of a float or int64 array gives an image that is all black or all white."""
    with pytest.raises(ValueError, match=message) as caught:
        to_rgb(array, name="row 17")
    assert "row 17" in str(caught.value)


def test_palette_masks_keep_their_ids() -> None:
    """convert("L") turns class 1 (red in the usual VOC palette) into 76."""
    ids = np.array([[0, 1, 2], [255, 2, 1]], dtype=np.uint8)
    palette = Image.fromarray(ids).convert("L")
    colored = Image.frombytes("P", (3, 2), ids.tobytes())
    colored.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 759)
    for mask in (palette, colored, encoded(colored), encoded(colored, transparency=0)):
        assert np.array_equal(to_mask(mask), ids)


def test_masks_of_every_width_and_form() -> None:
    """16-bit ids must not be narrowed, and big-endian files must be usable by torch."""
    wide = np.array([[0, 300], [65_535, 1]], dtype=np.uint16)
    big = to_mask(encoded(Image.frombytes("I;16B", (2, 2), wide.astype(">u2").tobytes()), "TIFF"))
    torch.from_numpy(big.astype(np.int64))
    assert big.dtype.isnative
    for mask in (
        big,
        to_mask(encoded(Image.fromarray(wide))),
        to_mask(torch.from_numpy(wide.astype(np.int64))),
    ):
        assert np.array_equal(mask, wide)
    assert to_mask(Image.new("1", (2, 2), 1)).tolist() == [[1, 1], [1, 1]]
    triple = np.repeat(np.array([[3, 4]], dtype=np.uint8)[..., None], 3, axis=-1)
    assert to_mask(Image.fromarray(triple)).tolist() == [[3, 4]]
    assert to_mask(Image.fromarray(triple).convert("RGBA")).tolist() == [[3, 4]]
    assert to_mask(torch.tensor([[[5, 6]]])).tolist() == [[5, 6]]
    assert to_mask(np.full((1, 3, 8), 5)).shape == (3, 8)  # the shape that torchvision gives a mask
    torch.from_numpy(to_mask(encoded(Image.new("L", (2, 2)))))[0, 0] = 1  # writable, or torch warns per image


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("RGB", (2, 2), (128, 0, 0)), r"color image.*row 0, column 0 is \[128, 0, 0\].*palette"),
        (Image.new("RGBA", (2, 2), (1, 1, 1, 0)), "transparent"),
        (encoded(Image.new("L", (8, 8), 1), "JPEG"), "JPEG file, whose compression changes class ids"),
        (np.zeros((2, 2), dtype=np.float32), "float32.*give an array of integers"),
        (np.eye(6, dtype=np.int64)[np.zeros((3, 8), dtype=int)], r"has shape \(3, 8, 6\), but must be \(height"),
        (np.zeros((2, 2, 2, 2), dtype=np.uint8), r"\(2, 2, 2, 2\)"),
    ],
)
def test_what_is_no_mask_says_why(mask: Any, message: str) -> None:
    """A color mask read as brightness trains on classes that do not exist."""
    with pytest.raises(ValueError, match=message) as caught:
        to_mask(mask, name="masks/3.png")
    assert "masks/3.png" in str(caught.value) and not isinstance(caught.value, CorruptImage)


def broken_files() -> dict[str, bytes]:
    content = encoded(Image.effect_noise((64, 64), 50), "JPEG")["bytes"]
    png = encoded(Image.effect_noise((64, 64), 50))["bytes"]
    return {
        "truncated.jpg": content[: len(content) // 2],
        "truncated.png": png[: len(png) // 2],
        "flipped.png": png[:60] + bytes(200) + png[260:],
        "text.jpg": b"no image",
        "empty.png": b"",
    }


@pytest.mark.parametrize("name", broken_files())
def test_broken_files_are_named(name: str, tmp_path: Path) -> None:
    """Without the name a user with 50,000 files cannot find the one that stopped the run."""
    path = tmp_path / name
    path.write_bytes(broken_files()[name])
    for source in (path, str(path), {"bytes": path.read_bytes(), "path": str(path)}):
        for decode in (to_rgb, to_mask):
            with pytest.raises(CorruptImage, match=name) as caught:
                decode(source)
            assert "BytesIO" not in str(caught.value) and "`skip_corrupt_images` of hf-dmt train" in str(caught.value)


def test_missing_files_and_other_objects() -> None:
    """A missing file must be reported like a broken one; an object that is not an image at all is a mistake of the
    caller."""
    with pytest.raises(CorruptImage, match=r"nowhere.png.*No such file"):
        to_rgb({"bytes": None, "path": "nowhere.png"})
    with pytest.raises(CorruptImage, match=r"pointer of Git LFS .* `git lfs pull`"):
        to_rgb(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n")
    with pytest.raises(TypeError, match="NoneType"):
        to_rgb(None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_an_error_that_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against images between one and two times Pillow's limit: Pillow only warns, and they fill the memory of
    every worker."""
    source = encoded(Image.new("L", (12, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptImage, match=r"some/file.png.*12 x 10 pixels.*100"):
        to_rgb(source)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(CorruptImage, match=r"some/file.png"):
        to_rgb(source)


def test_no_file_stays_open(tmp_path: Path) -> None:
    """Guards against files left open: Pillow opens them lazily, so a folder of many images would use up all file
    handles."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        images = [to_rgb(tmp_path / "a.png") for _ in range(20)]
    if Path("/proc/self/fd").exists():
        opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not any(str(tmp_path) in path for path in opened)
    assert len(images) == 20


def test_find_images(tmp_path: Path) -> None:
    """Text files, hidden files and files that macOS or Windows adds are not images, and the order must not depend on
    the file system."""
    names = ["b/2.PNG", "b/10.jpg", "a.jpeg", "c/d/e/x.webp", "a b/ü.tif"]
    others = ["notes.txt", ".hidden.png", ".cache/y.png", "b/._2.png", "b/Thumbs.db", "png"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path).images]
    assert found == ["a b/ü.tif", "a.jpeg", "b/10.jpg", "b/2.PNG", "c/d/e/x.webp"]


def test_find_images_follows_links_and_survives_loops(tmp_path: Path) -> None:
    """Guards against following a link to a parent folder until the path is too long; images on a linked disk must still
    be found."""
    root, disk = tmp_path / "root", tmp_path / "disk"
    root.mkdir()
    disk.mkdir()
    (disk / "1.png").write_bytes(b"")
    try:
        (root / "loop").symlink_to(root, target_is_directory=True)
        (root / "data").symlink_to(disk, target_is_directory=True)
        (root / "data again").symlink_to(disk, target_is_directory=True)
    except OSError:
        pytest.skip("this file system has no links")
    found = find_images(root)
    assert [path.relative_to(root).as_posix() for path in found.images] == ["data/1.png"]
    assert ["skipped 1 links" in note and "already: data again" in note for note in found.notes()] == [True]


def test_a_link_does_not_name_the_images_of_another_folder(tmp_path: Path) -> None:
    """Guards against a class that is called like a link to its folder, and against a split without the class to which a
    link above it leads."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").touch()
    (tmp_path / "train" / "a_link").symlink_to(tmp_path / "train" / "cat")
    (tmp_path / "favorites").symlink_to(tmp_path / "train" / "cat")
    assert find_images(tmp_path).names == ["train/cat/1.png"]
    (tmp_path / "train" / "cats").mkdir()
    (tmp_path / "train" / "cats" / "c_link").symlink_to(tmp_path / "train" / "cat")
    linked = find_images(tmp_path).linked
    assert list(linked) == ["favorites", "train/a_link", "train/cats/c_link"], "named, though cats begins like cat"


def test_folders_that_cannot_be_read_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a class that is missing because its disk is not mounted, or its folder belongs to somebody
    else; but every disk has folders at its root that only the system may read."""
    (tmp_path / "lost+found").mkdir()
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "owl").symlink_to(tmp_path / "not mounted")
    assert "1 links" in (said := " ".join(find_images(tmp_path).notes())) and "do not exist: owl" in said
    scandir, refused = os.scandir, ["lost+found"]

    def refusing(path: Any) -> Any:
        if Path(path).name in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert find_images(tmp_path).names == ["cat/1.png", "dog/1.png"]
    refused.append("dog")
    with pytest.raises(ValueError, match=r"The folder '.*dog' cannot be read \(Permission denied\)"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    "marker", ["dmt_results.json", ".run.lock", "comparison.json", "queue.csv", "predictions.csv.about.json"]
)
def test_what_this_package_wrote_is_not_data(marker: str, tmp_path: Path) -> None:
    """Guards against figures of a run as a class, and copies in a queue or predicted masks as unlabeled images, if they
    were written into the folder of the images."""
    for name in ("cat/1.png", "new/figures/scores.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "new" / marker).write_text("{}")
    found = find_images(tmp_path)
    assert found.names == ["cat/1.png"] and any("hf-dmt wrote: new." in note for note in found.notes())
    assert found.without_images == []
    assert find_images(tmp_path / "new").names == ["figures/scores.png"], "named by the user"


def test_find_images_names_a_wrong_path(tmp_path: Path) -> None:
    """An empty list for a mistyped path would end in "no unlabeled images" much later."""
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"nowhere.*does not exist"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"file.png.*is a file"):
        find_images(tmp_path / "file.png")
