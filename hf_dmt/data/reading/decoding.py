"""From whatever a data set holds to RGB images and class ids, and the image files of a folder.

Pillow's own `convert("RGB")` is silently wrong for three kinds of files: 16-bit grayscale is clipped to
white, transparent pixels show whatever colour is stored under them, and the orientation in the EXIF data is
ignored. `convert("L")` on a palette mask turns class ids into the brightness of their colours.
"""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageSource = Image.Image | np.ndarray | Tensor | bytes | str | Path | Mapping[str, Any]

IMAGE_EXTENSIONS = {
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"),
    *(".tif", ".tiff", ".webp"),
}
EXIF_ORIENTATION = 0x0112
FIRST_TRANSPOSED = 5  # of the orientations 1 to 8: from here on, width and height are exchanged
SIXTEEN_BIT = 65535.0


class CorruptImage(ValueError):
    """A file that cannot be read as an image: missing, truncated, no image, or too large. Names the file."""


def to_rgb(image: ImageSource, name: str | None = None) -> Image.Image:
    """An image as an upright 8-bit RGB PIL image.

    Transparent pixels are blended onto white, as viewers show them; what is stored under them is arbitrary.
    16-bit grayscale (modes `I;16` and `I`, uint16) is divided by 257, the full range: scaling each image by
    its own maximum would make the same tissue or terrain look different from file to file.

    Args:
        image: A PIL image; a path; a file's content; `{"bytes": ..., "path": ...}` as `datasets` gives it undecoded;
            an array (H, W) or (H, W, 1 | 3 | 4); a tensor (H, W) or (1 | 3 | 4, H, W). Arrays and tensors are
            bool, uint8, uint16 or float in [0, 1].
        name: What errors call the image; by default its path.

    Raises:
        CorruptImage: it cannot be read.
        ValueError: it can be read, but its shape or value range has no meaning as an image.
        TypeError: it is none of the above.
    """
    name = name or _name_of(image)
    if isinstance(image, Tensor):
        image = _channels_last(image)
    opened = _image_from_array(image, name) if isinstance(image, np.ndarray) else _open(image, name)
    if opened.mode == "F" or opened.mode.startswith("I"):
        white = 1.0 if opened.mode == "F" else SIXTEEN_BIT
        return Image.fromarray(_eight_bit(np.asarray(opened), white, name)).convert("RGB")
    if opened.has_transparency_data:
        opaque = Image.new("RGBA", opened.size, "white")
        opaque.alpha_composite(opened.convert("RGBA"))
        opened = opaque
    return opened if opened.mode == "RGB" else opened.convert("RGB")


def to_mask(mask: ImageSource | list[Any], name: str | None = None) -> np.ndarray:
    """A segmentation mask as an (H, W) integer array of class ids, in the file's own width and numbers.

    Palette images keep their indices. Three equal channels are taken for one; opaque alpha is dropped.

    Args:
        mask: A PIL image, path, file content or `{"bytes", "path"}`; an array or nested list (H, W) or
            (H, W, channels); a tensor (H, W) or (channels, H, W).
        name: What errors call the mask; by default its path.

    Raises:
        CorruptImage: it cannot be read.
        ValueError: its colours, transparency, fractions, shape or JPEG compression are not class ids.
        TypeError: it is none of the above.
    """
    if isinstance(mask, list):  # a column of numbers in a table
        mask = np.asarray(mask)
    name = name or _name_of(mask)
    if isinstance(mask, Tensor):
        mask = _channels_last(mask)
    opened = mask if isinstance(mask, np.ndarray) else _open(mask, name)
    if getattr(opened, "format", None) == "JPEG":
        raise ValueError(
            f"The mask {name} is a JPEG file, whose compression turns class ids into others near every edge. Save the "
            "masks as PNG, from where they were drawn: converting this file keeps its errors."
        )
    ids = opened if isinstance(opened, np.ndarray) else np.array(opened)
    if ids.dtype == np.bool_:
        ids = ids.astype(np.uint8)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"The mask {name} holds {ids.dtype} values; class ids are integers. Save it as an 8-bit or 16-bit PNG."
        )
    if ids.ndim == 3:
        ids = _single_channel(ids, name)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"The mask {name} has shape {ids.shape}; it must be (height, width) of class ids.")
    # Big-endian 16-bit files give arrays that torch.from_numpy refuses.
    return ids.astype(ids.dtype.newbyteorder("="), copy=False)


def check_image(image: ImageSource, name: str | None = None) -> tuple[int, int]:
    """`(width, height)` of what `to_rgb` makes of an image, after its file was read to the end.

    A truncated file shows only there. JPEG is decoded at an eighth of its size, which reads every byte as well
    and takes a quarter of the time.

    Raises:
        CorruptImage, ValueError, TypeError: as `to_rgb`.
    """
    name = name or _name_of(image)
    if isinstance(image, (bytes, str, Path, Mapping)):
        image = _open(image, name, _identify)
        if image.format == "JPEG":
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= FIRST_TRANSPOSED
            _open(image, name, _decode_small)
            return (height, width) if turned else (width, height)
    return to_rgb(image, name).size


def mode_of(image: ImageSource) -> str:
    """How an image is stored: Pillow's name of its mode, or an array's type. Of a file, only the header is read.

    Raises:
        CorruptImage: the header cannot be read.
    """
    if isinstance(image, (np.ndarray, Tensor)):
        return str(image.dtype)
    return _open(image, _name_of(image), _identify).mode


def find_images(folder: str | Path) -> list[Path]:
    """All image files in a folder and the folders in it, sorted by their path inside it.

    Files are told by their extension (`IMAGE_EXTENSIONS`, any case). Other files, hidden files and hidden
    folders are left out. Linked folders are followed, each real folder once: a link to a parent does no harm.

    Raises:
        ValueError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"No images can be read from {str(folder)!r}: it {what}. Give the path of a folder.")
    found = (path for path in find_files(root) if path.suffix.lower() in IMAGE_EXTENSIONS)
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def find_files(root: Path) -> Iterator[Path]:
    """The files in a folder and the folders in it that are not hidden; linked folders once each."""
    seen = {os.path.realpath(root)}
    for parent, folders, files in os.walk(root, followlinks=True):
        entered = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                entered.append(name)
        folders[:] = entered
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _name_of(image: ImageSource) -> str:
    if isinstance(image, (str, Path)):
        return str(image)
    if isinstance(image, bytes):
        return "An image without a path"
    if isinstance(image, Mapping):
        return str(image.get("path") or "An image without a path")
    return str(getattr(image, "filename", "") or f"An image given as {type(image).__name__}")


def _channels_last(image: Tensor) -> np.ndarray:
    array: np.ndarray = image.detach().cpu().numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def _open(
    image: Image.Image | bytes | str | Path | Mapping[str, Any],
    name: str,
    read: Callable[[Any], Image.Image] | None = None,
) -> Image.Image:
    """Decode completely and turn upright, or whatever `read` does, with errors that name the image."""
    if not isinstance(image, (Image.Image, bytes, str, Path, Mapping)):
        raise TypeError(
            f"{name} is no image: expected a PIL image, path, bytes, array or tensor, got {type(image).__name__}. Name "
            "the column with the images: --image_column."
        )
    try:
        return (read or _decode)(image)
    except UnidentifiedImageError as error:
        raise _corrupt(name, "its content is in no image format that Pillow knows") from error
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        raise _corrupt(name, str(error) or type(error).__name__) from error


def _identify(image: Image.Image | bytes | str | Path | Mapping[str, Any]) -> Image.Image:
    """Open without decoding."""
    if isinstance(image, (str, Path)):
        image = {"path": image}
    if isinstance(image, Mapping):
        content = image.get("bytes")
        # Read here and not by Pillow: no file stays open, however many images are under way.
        image = Path(image["path"]).read_bytes() if content is None else content
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow raises above twice this limit and only warns below, and a warning in a worker is lost.
    if limit and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"it has {image.width} x {image.height} pixels, more than the {limit} "
            "(PIL.Image.MAX_IMAGE_PIXELS) that guard against decompression bombs"
        )
    return image


def _decode(image: Image.Image | bytes | str | Path | Mapping[str, Any]) -> Image.Image:
    image = _identify(image)
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image.load()
    return image


def _decode_small(image: Image.Image) -> Image.Image:
    image.draft(image.mode, (1, 1))
    image.load()
    return image


def _corrupt(name: str, reason: str) -> CorruptImage:
    return CorruptImage(
        f"{name} cannot be read as an image: {reason}. Replace or remove it, or pass --skip_corrupt_images."
    )


def _image_from_array(array: np.ndarray, name: str) -> Image.Image:
    """(H, W) or (H, W, 1 | 3 | 4) of bool, uint8, uint16 or float -> an L, RGB or RGBA image."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ValueError(
            f"{name} has shape {array.shape}; expected (height, width) or three axes with 1, 3 or 4 "
            "channels, which come last in arrays and first in tensors."
        )
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if array.dtype == np.uint16:
        return Image.fromarray(_eight_bit(array, SIXTEEN_BIT, name))
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        return Image.fromarray(_eight_bit(array, 1.0, name))
    raise ValueError(
        f"{name} holds {array.dtype} values, and which of them is white cannot be told: "
        "use uint8, uint16 (0 to 65535) or floats from 0 to 1."
    )


def _eight_bit(array: np.ndarray, white: float, name: str) -> np.ndarray:
    """Values in [0, white] -> uint8."""
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= white:  # NaN fails too
        raise ValueError(
            f"{name} holds {array.dtype} values from {low:g} to {high:g}, but 0 to {white:g} was expected. "
            "Save it with 8 or 16 bits per channel, or scale it first."
        )
    return np.rint(array * (255 / white)).astype(np.uint8)


def _single_channel(ids: np.ndarray, name: str) -> np.ndarray:
    """(H, W, channels) integers -> (H, W), where that loses nothing."""
    if ids.shape[-1] in (2, 4):
        if (ids[..., -1] != np.iinfo(ids.dtype).max).any():
            raise ValueError(f"The mask {name} has transparent pixels, whose class is unknown. Save it without alpha.")
        ids = ids[..., :-1]
    if (ids != ids[..., :1]).any():
        row, column = np.argwhere((ids != ids[..., :1]).any(axis=-1))[0]
        raise ValueError(
            f"The mask {name} is a colour image: the pixel in row {row}, column {column} is "
            f"{ids[row, column].tolist()}, and which class a colour means is not known. Save it with one "
            "channel of class ids, or as a PNG with a palette in the order of the classes."
        )
    return ids[..., 0]
