"""Convert any image in a data set to upright RGB, no larger than necessary.

Pillow's own `convert("RGB")` is silently wrong for three kinds of files: 16-bit grayscale is clipped to white,
transparent pixels show whatever color is stored under them, and the EXIF orientation is ignored.

A 12-megapixel photo is not needed at full size for a view of 224 pixels. JPEG files can be decoded at 1/2, 1/4 or 1/8
of their size in a fraction of the time and memory. Other images are averaged down by an integer factor after decoding,
which makes the later resize cheap. In both cases at least twice the side of the view remains, so that the antialiased
resize can average. Masks are never reduced here.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLESPERPIXEL, ImageFileDirectory_v2
from torch import Tensor

with suppress(ImportError):  # the extra [heic], for iPhone photos
    import pillow_heif

    pillow_heif.register_heif_opener()

ImageSource = Image.Image | np.ndarray | Tensor | bytes | str | Path | Mapping[str, Any]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FIRST_TRANSPOSED = 5  # of the orientations 1 to 8: from here on, width and height are swapped
SIXTEEN_BIT = 65535.0
_DARK = 1 / 8  # 16-bit files with 12-bit or 8-bit values look nearly black
_LONGEST = 200  # characters of a reason, which may quote an image that is written as text
JPEG_FORMATS = {"JPEG", "MPO"}  # MPO: a photo followed by a second picture, as written by many phones
MARGIN = 2  # the shorter side keeps this multiple of the side of the view
_GEO_KEYS = 34735  # the TIFF tag that makes a GeoTIFF


class CorruptImage(ValueError):
    """A file that cannot be read as an image: missing, truncated, not an image, or too large. Names the file.

    Attributes:
        what: the message without its advice, for lists of such files.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what + advice)
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:  # it is raised in data-loading workers
        return type(self), (self.what, str(self).removeprefix(self.what))


class WithoutMeaning(ValueError):
    """A readable image whose shape or values are not meaningful. Names the file."""


def to_rgb(image: ImageSource, name: str | None = None) -> Image.Image:
    """Convert to an upright 8-bit RGB PIL image.

    Transparent pixels are blended onto white, as viewers do, because the color stored under them is arbitrary. 16-bit
    grayscale (modes `I;16` and `I`, uint16) is divided by 257, the full range: scaling each image by its own maximum
    would make the same tissue or terrain look different from file to file.

    Args:
        image: a PIL image; a path; the content of a file; `{"bytes": ..., "path": ...}` as `datasets` gives it
            undecoded; an array (H, W) or (H, W, 1 | 3 | 4); a tensor (H, W) or (1 | 3 | 4, H, W). Arrays and tensors
            are bool, uint8, uint16 or float in [0, 1].
        name: the image's name in errors; by default its path.

    Raises:
        CorruptImage: it cannot be read.
        WithoutMeaning: its shape or value range is not meaningful as an image.
        TypeError: it is none of the above.
    """
    name = name or called(image)
    if isinstance(image, Tensor):
        image = channels_last(image)
    opened = _image_from_array(image, name) if isinstance(image, np.ndarray) else open_upright(image, name)
    if opened.mode == "F" or opened.mode.startswith("I"):
        white = 1.0 if opened.mode == "F" else SIXTEEN_BIT
        return Image.fromarray(_eight_bit(np.asarray(opened), white, name)).convert("RGB")
    if opened.has_transparency_data:
        opaque = Image.new("RGBA", opened.size, "white")
        opaque.alpha_composite(opened.convert("RGBA"))
        opened = opaque
    return opened if opened.mode == "RGB" else opened.convert("RGB")


def to_small_rgb(image: ImageSource, side: int | None, name: str | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Like `to_rgb`, but possibly smaller, and with the full `(width, height)` of the upright image.

    Args:
        side: of the view made from it, in pixels; None decodes every pixel.

    Raises:
        CorruptImage, ValueError, TypeError: as `to_rgb`.
    """
    if side is None:
        whole = to_rgb(image, name)
        return whole, whole.size
    full: tuple[int, int] | None = None
    if isinstance(image, (bytes, str, Path, Mapping)):  # a file; an image that is already open is not modified
        image, full = _drafted(image, MARGIN * side)
    decoded = to_rgb(image, name)
    factor = min(decoded.size) // (MARGIN * side)
    return (decoded.reduce(factor) if factor > 1 else decoded), full or decoded.size


def called(image: Any) -> str:
    if isinstance(image, (str, Path)):
        return str(image)
    if isinstance(image, bytes):
        return "An image without a path"
    if isinstance(image, Mapping):
        return str(image.get("path") or "An image without a path")
    return str(getattr(image, "filename", "") or f"An image given as {type(image).__name__}")


def channels_last(image: Tensor) -> np.ndarray:
    image = image.detach().cpu()
    array: np.ndarray = (image.float() if image.dtype == torch.bfloat16 else image).numpy()  # NumPy has no bfloat16
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


@contextmanager
def opening(image: Any, name: str) -> Iterator[None]:
    """Errors inside the block are raised with the name of the image.

    Raises:
        CorruptImage: it cannot be read. TypeError: it is not an image at all.
    """
    if not isinstance(image, (Image.Image, bytes, str, Path, Mapping)):
        raise TypeError(
            f"{name} is not an image: expected a PIL image, path, bytes, array or tensor, got {type(image).__name__}."
        )
    try:
        yield
    except (CorruptImage, WithoutMeaning):
        raise
    except UnidentifiedImageError as error:
        raise _corrupt(name, _unidentified(image)) from error
    except Exception as error:  # for damaged files, Pillow's decoders raise almost anything
        raise _corrupt(name, str(error) or type(error).__name__) from error


def open_upright(image: Image.Image | bytes | str | Path | Mapping[str, Any], name: str) -> Image.Image:
    """Decode completely and apply the EXIF orientation.

    Raises:
        CorruptImage, TypeError: as `opening`.
    """
    with opening(image, name):
        opened = image if isinstance(image, Image.Image) else identify(contained(image))
        opened.load()
        return upright(opened)


def contained(image: bytes | str | Path | Mapping[str, Any]) -> bytes:
    """The content of an image file. Read here rather than by Pillow, so that no file stays open."""
    if isinstance(image, bytes):
        return image
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if content is not None:
        return bytes(content)
    return Path(image["path"] if isinstance(image, Mapping) else image).read_bytes()


def identify(content: bytes) -> Image.Image:
    """Open without decoding."""
    image = Image.open(io.BytesIO(content))
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow only raises above twice this limit and warns below, and a warning in a worker is lost.
    if limit and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"it has {image.width} x {image.height} pixels, more than the {limit} "
            "(PIL.Image.MAX_IMAGE_PIXELS) that guard against decompression bombs"
        )
    return image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if it is missing or invalid."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in _TURNS else 1  # viewers accept 6.0, too
    except Exception:  # invalid metadata does not matter
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. `ImageOps.exif_transpose` also rewrites the metadata and fails on unusual entries."""
    turn = orientation(image)
    if turn == 1:
        return image
    turned = image.transpose(_TURNS[turn])
    for kept in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):  # otherwise it would be rotated again
        turned.info.pop(kept, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """`(width, height)` of `upright(image)`, without decoding."""
    width, height = image.size
    return (height, width) if orientation(image) >= FIRST_TRANSPOSED else (width, height)


def decode_to_the_end(image: Image.Image) -> None:
    """Read every byte of the file with as little decoding as possible."""
    if image.format == "JPEG":
        image.draft(image.mode, (1, 1))
    image.load()


def stored_remark(image: Image.Image) -> str:
    """What part of an opened image file is not used, as the end of a sentence; empty if all of it is."""
    if unused := unused_part(image):
        return unused
    if image.mode.startswith("I"):
        image.load()
        brightest = int(np.asarray(image).max(initial=0))
        if 0 < brightest < _DARK * SIXTEEN_BIT:
            top = 2 ** brightest.bit_length() - 1
            bits = 32 if image.mode == "I" else 16
            return f"is {bits}-bit but uses no value above {top}, so it looks almost black: scale it to 0..65535"
    return ""


def unused_part(image: Image.Image) -> str:
    """The bands or frames of an opened file that are not used, as the end of a sentence; empty if there are none."""
    bands = int(getattr(image, "tag_v2", {}).get(SAMPLESPERPIXEL, 1))
    if bands > len(image.getbands()):
        return f"has {bands} bands, of which only the first {len(image.getbands())} are used"
    if image.format in {"GIF", "WEBP", "PNG", "TIFF", "AVIF"} and getattr(image, "n_frames", 1) > 1:
        return "has several frames or pages, of which only the first is used"
    return ""


def _drafted(image: bytes | str | Path | Mapping[str, Any], least: int) -> tuple[ImageSource, tuple[int, int] | None]:
    """A JPEG file prepared for reduced decoding, and its full upright size; anything else unchanged, and None."""
    try:
        opened = Image.open(io.BytesIO(contained(image)))
    except Exception:  # `to_rgb` raises the same error with the image's name
        return image, None
    (width, height), limit = opened.size, Image.MAX_IMAGE_PIXELS
    shorter = min(width, height)
    if opened.format not in JPEG_FORMATS or shorter < 2 * least or (limit and width * height > limit):
        return image, None
    full = upright_size(opened)
    # Pillow chooses the smallest size that is not below the requested one.
    opened.draft(opened.mode, (width * least // shorter, height * least // shorter))
    return opened, full


def _unidentified(image: Any) -> str:
    """Why Pillow does not recognize a file; for a TIFF, its contents."""
    with suppress(Exception):
        content = io.BytesIO(contained(image))
        head = content.read(8)
        if not head:
            return "it is empty"
        if head == b"version ":
            return "it is a pointer of Git LFS and not the image itself, which `git lfs pull` fetches"
        if head[:4] in (b"II*\0", b"MM\0*"):
            tags = ImageFileDirectory_v2(head)
            content.seek(tags.next)
            tags.load(content)
            bits = tags.get(BITSPERSAMPLE, (1,))
            kind = "GeoTIFF" if _GEO_KEYS in tags else "TIFF"
            return (
                f"it is a {kind} with {tags.get(SAMPLESPERPIXEL, 1)} bands of {bits[0]} bits, which Pillow does not "
                "read. Write three bands with 8 bits each, for example: gdal_translate -of PNG -ot Byte -scale -b 1 "
                "-b 2 -b 3 IN.tif OUT.png"
            )
    return "its format is not known to Pillow"


def _corrupt(name: str, reason: str) -> CorruptImage:
    return CorruptImage(
        f"{name} cannot be read as an image: {reason if len(reason) <= _LONGEST else reason[:_LONGEST] + ' ...'}.",
        " Replace or remove it, or leave such images out (`skip_corrupt_images` of hf-dmt train).",
    )


def _image_from_array(array: np.ndarray, name: str) -> Image.Image:
    """(H, W) or (H, W, 1 | 3 | 4) of bool, uint8, uint16 or float -> an L, RGB or RGBA image."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise WithoutMeaning(
            f"{name} has shape {array.shape}; expected (height, width) or three axes with 1, 3 or 4 "
            "channels, which come last in arrays and first in tensors."
        )
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if array.dtype == np.uint16:
        return Image.fromarray(_eight_bit(array, SIXTEEN_BIT, name))
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        return Image.fromarray(_eight_bit(array, 1.0, name))
    raise WithoutMeaning(
        f"{name} contains {array.dtype} values, for which white is not defined: use uint8, uint16 (0 to 65535) or "
        "floats from 0 to 1."
    )


def _eight_bit(array: np.ndarray, white: float, name: str) -> np.ndarray:
    """Values in [0, white] -> uint8."""
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= white:  # also fails for NaN
        raise WithoutMeaning(
            f"{name} contains {array.dtype} values from {low:g} to {high:g}, but 0 to {white:g} was expected. Save it "
            "with 8 or 16 bits per channel, or scale it first."
        )
    return np.rint(array * (255 / white)).astype(np.uint8)
