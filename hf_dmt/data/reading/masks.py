"""Convert a mask file to one number per pixel: the file's own values, or classes from a color table.

Pillow scales grayscale of fewer than 8 bits to 0..255 (so 3 in a 2-bit mask becomes 255, which is void), and
`convert("L")` turns the ids of a palette mask into the brightness of their colors. Here values are never scaled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor
from torch import Tensor

from ..files import read_csv, read_json
from ..messages import listed
from .decoding import called, channels_last, contained, identify, opening, upright
from .rows import DataError

VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "no label")  # in a color table
COLOR_VOID = -1  # value for unlabeled pixels in color masks
_COLOR_MODES = {"CMYK", "YCbCr", "LAB", "HSV"}
_LOSSY = {"JPEG", "MPO", "HEIF", "AVIF"}


@dataclass(frozen=True)
class MaskReading:
    """How the pixels of mask files become numbers.

    Attributes:
        colors: name and RGB of each class, in order; includes void, under one of its names. Empty: masks contain ids.
        band: the channel with the ids, counted from 1; None if there is one, or if all are equal.
    """

    colors: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    band: int | None = None

    @property
    def kind(self) -> str:
        """A short name that differs if the same file would be read as other numbers."""
        told = repr((self.colors, self.band)).encode()
        return "mask" if self == MaskReading() else f"mask-{hashlib.blake2b(told, digest_size=8).hexdigest()}"

    @property
    def names(self) -> list[str]:
        """The classes of the colors, without void; two colors may belong to one class."""
        return list(dict.fromkeys(name for name, _ in self.colors if not is_void(name)))

    @property
    def class_of_color(self) -> np.ndarray:
        """(number of colors,) int32: the class of each, `COLOR_VOID` for void."""
        classes = [COLOR_VOID if is_void(name) else self.names.index(name) for name, _ in self.colors]
        return np.array(classes, dtype=np.int32)


PLAIN = MaskReading()


def is_void(name: str) -> bool:
    return name.strip().lower() in VOID_NAMES


def read_colors(file: str) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """The table for `--mask_colors`: a CSV with the columns name, r, g, b, JSON `{"water": [0, 0, 255]}`, or the
    `labelmap.txt` of CVAT.

    Colors may also be written as `#0000ff`. Void is the row with a name from `VOID_NAMES`.

    Raises:
        DataError: not such a table, or a color with two names.
    """
    try:
        if file.endswith(".json"):
            rows = _json_colors(read_json(Path(file)))
        else:
            rows = _label_map(Path(file)) or _csv_colors(Path(file))
        found = tuple((str(name).strip(), _rgb(color)) for name, color in rows)
        if sum(not is_void(name) for name, _ in found) < 1:
            raise ValueError("it contains no class")
        first: dict[tuple[int, int, int], str] = {}
        for name, color in found:
            if first.setdefault(color, name) != name:
                raise ValueError(f"the color {list(color)} is both {first[color]!r} and {name!r}")
        return found
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise DataError(
            f"`mask_colors` {file!r} is not a table of colors ({problem}). Give a CSV file with the columns "
            'name,r,g,b, or a JSON file such as {"water": [0, 0, 255], "road": "#808080", "void": [0, 0, 0]}.'
        ) from problem


def to_mask(mask: Any, name: str | None = None, reading: MaskReading = PLAIN) -> np.ndarray:
    """A segmentation mask as an (H, W) integer array of class ids, with the file's own size and values; with
    `reading.colors`, the index of each pixel's class in `reading.names`, or `COLOR_VOID`.

    Palette images keep their indices. Three equal channels are read as one; opaque alpha is dropped.

    Args:
        mask: a PIL image, path, file content or `{"bytes", "path"}`; an array or nested list (H, W), (H, W,
            channels) or (1, H, W); a tensor (H, W) or (channels, H, W).
        name: the mask's name in errors; by default its path.

    Raises:
        CorruptImage: it cannot be read.
        ValueError: its colors, transparency, fractions, shape or lossy compression are incompatible with class ids.
        TypeError: it is none of the above.
    """
    name = name or called(mask)
    if isinstance(mask, list):  # a column of numbers in a table
        try:
            mask = np.asarray(mask)
        except ValueError as problem:  # rows of different lengths
            raise ValueError(
                f"The mask {name} is a list that is not (height, width), such as polygons. Draw them into a PNG of "
                "class ids, or name another column with `label_column`."
            ) from problem
    if isinstance(mask, Tensor):
        mask = channels_last(mask)
    if not isinstance(mask, np.ndarray):
        with opening(mask, name):
            content = b"" if isinstance(mask, Image.Image) else contained(mask)
            stored = mask if isinstance(mask, Image.Image) else identify(content)
            top, raw_mode = _largest_value(stored), _raw_mode(stored)
            stored.load()
            opened = upright(stored)
        check_lossless(stored, content, name)
        if ";16" in raw_mode and opened.mode.startswith("RGB") and not reading.colors:
            raise ValueError(
                f"The mask {name} has several channels of 16 bits, of which Pillow reads the upper 8 bits only, so 300 "
                "would become 1. Save it with one channel of class ids, 8 or 16 bit."
            )
        if reading.colors:
            return _ids_of_colors(opened, name, reading)
        if opened.mode in _COLOR_MODES:
            raise ValueError(
                f"The mask {name} is a {opened.mode} image, but which class a color means is unknown. Give a table of "
                "colors with `mask_colors`."
            )
        mask = _gray_of_gif(opened, name) if stored.format == "GIF" and opened.mode == "P" else np.array(opened)
        if top:
            shown = 255 if opened.mode == "L" else 65535
            mask = np.rint(mask * (top / shown)).astype(np.uint16 if top > 255 else np.uint8)
    elif reading.colors:
        return _ids_of_colors(Image.fromarray(mask), name, reading)
    ids = mask.astype(np.uint8) if mask.dtype == np.bool_ else mask
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"The mask {name} contains {ids.dtype} values, but class ids are integers. Save it as an 8-bit or 16-bit "
            "PNG, or give an array of integers (torchvision's PILToTensor keeps the ids, ToTensor divides them by 255)."
        )
    wide = ids.ndim == 3 and ids.shape[-1] > 4 and reading.band is None  # no file that Pillow opens has more channels
    if wide and len(ids) == 1:
        ids = ids[0]
    elif ids.ndim == 3 and not wide:
        ids = _one_channel(ids, name, reading.band)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"The mask {name} has shape {ids.shape}, but must be (height, width) of class ids.")
    # torch.from_numpy refuses the arrays of big-endian 16-bit files.
    return ids.astype(ids.dtype.newbyteorder("="), copy=False)


def _gray_of_gif(mask: Image.Image, name: str) -> np.ndarray:
    """The gray values of a GIF file. Programs that write GIF renumber its palette, so its numbers are not ids.

    Raises:
        ValueError: it has colors.
    """
    colors = np.asarray(mask.convert("RGB"))
    if (colors != colors[..., :1]).any():
        raise ValueError(
            f"The mask {name} is a GIF file with colors, and programs that write GIF renumber its palette, so which "
            "class a number means is unknown. Give a table of colors with `mask_colors`, or save the masks as PNG in "
            "the tool where they were drawn."
        )
    return colors[..., 0]


def check_lossless(mask: Image.Image, content: bytes, name: str) -> None:
    """Raises ValueError for a file whose compression does not preserve values."""
    lossy_webp = mask.format == "WEBP" and b"VP8 " in content[:100_000]
    if mask.format in _LOSSY or lossy_webp:
        raise ValueError(
            f"The mask {name} is a {'lossy ' if lossy_webp else ''}{mask.format} file, whose compression changes "
            "class ids near every edge. Save the masks as PNG in the tool where they were drawn: converting this "
            "file keeps its errors."
        )


def _largest_value(mask: Image.Image) -> int | None:
    """The largest value that a file can contain if Pillow scales it to 255 or 65535; None otherwise. Must be called
    before decoding, after which it is unknown."""
    if mask.mode not in {"L", "I", "I;16"}:
        return None
    if mask.format == "PPM":
        parts = _stored_as(mask)
        largest = int(parts[1]) if len(parts) > 1 else None
        return None if largest in {255, 65535} else largest
    return {"L;2": 3, "L;4": 15}.get(_raw_mode(mask).rstrip("RI"))


def _raw_mode(mask: Image.Image) -> str:
    """The form of the pixels in the file, such as `RGB;16B`; empty once they are decoded."""
    return str(next(iter(_stored_as(mask)), ""))


def _stored_as(mask: Image.Image) -> tuple[Any, ...]:
    tiles = getattr(mask, "tile", None)
    if not tiles:
        return ()
    return tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)


def _one_channel(ids: np.ndarray, name: str, band: int | None) -> np.ndarray:
    """(H, W, channels) integers -> (H, W), if nothing is lost, or the requested channel."""
    if band is not None:
        if not 1 <= band <= ids.shape[-1]:
            raise ValueError(
                f"`mask_band={band}`: the mask {name} has {ids.shape[-1]} channels. Name one of 1 to {ids.shape[-1]}."
            )
        return ids[..., band - 1]
    if ids.shape[-1] in (2, 4):
        if (ids[..., -1] != np.iinfo(ids.dtype).max).any():
            raise ValueError(
                f"The mask {name} has transparent pixels, whose class is unknown. Save it without an alpha channel."
            )
        ids = ids[..., :-1]
    if (ids != ids[..., :1]).any():
        row, column = np.argwhere((ids != ids[..., :1]).any(axis=-1))[0]
        raise ValueError(
            f"The mask {name} is a color image: the pixel in row {row}, column {column} is "
            f"{ids[row, column].tolist()}, but which class a color means is unknown. Give a table of colors with "
            "`mask_colors`, or the channel that contains the ids with `mask_band`; or save it with one channel of "
            "class ids, or as a PNG with a palette in the order of the classes."
        )
    return ids[..., 0]


def _ids_of_colors(mask: Image.Image, name: str, reading: MaskReading) -> np.ndarray:
    """(H, W) int32; fully transparent pixels are void."""
    pixels = np.asarray(mask.convert("RGBA")).astype(np.int64)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    known = np.array([r << 16 | g << 8 | b for _, (r, g, b) in reading.colors])
    order = np.argsort(known)
    place = order[np.searchsorted(known, packed, sorter=order).clip(max=len(known) - 1)]
    ids = reading.class_of_color[place]
    seen = pixels[..., 3] > 0
    strange = (known[place] != packed) & seen
    if strange.any():
        colors, counts = np.unique(packed[strange], return_counts=True)
        shown = listed(f"{_unpacked(int(colors[i]))} ({counts[i]} pixels)" for i in np.argsort(-counts))
        raise ValueError(
            f"The mask {name} has {len(colors)} colors that are not in `mask_colors`, on {strange.mean():.1%} of its "
            f"pixels: {shown}. Add them, with the name void if they mean 'no label'. If edges were smoothed, write "
            "clean masks with `python -m hf_dmt.data.splitting.prepare_masks --nearest`."
        )
    return np.where(seen, ids, np.int32(COLOR_VOID))


def _unpacked(color: int) -> list[int]:
    return [color >> 16, color >> 8 & 255, color & 255]


def _rgb(color: Any) -> tuple[int, int, int]:
    if isinstance(color, str):
        color = ImageColor.getrgb(color)[:3]
    red, green, blue = (int(part) for part in color)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"{[red, green, blue]} is not a color: red, green and blue are 0 to 255")
    return red, green, blue


def _json_colors(content: Any) -> list[tuple[str, Any]]:
    if isinstance(content, Mapping):
        return list(content.items())
    return [(entry["name"], entry.get("color", entry.get("colour", entry.get("rgb")))) for entry in content]


def _label_map(file: Path) -> list[tuple[str, Any]]:
    """Lines such as `road:128,64,128::`, with `#` before a comment; empty for another file."""
    lines = [line for line in file.read_text("utf-8-sig", "replace").splitlines() if line and line[0] != "#"]
    found = [re.fullmatch(r"(.+?):(\d+),(\d+),(\d+):.*:.*", line.strip()) for line in lines]
    return [(line[1], (line[2], line[3], line[4])) for line in found if line] if all(found) else []


def _csv_colors(file: Path) -> list[tuple[str, Any]]:
    columns, rows = read_csv(file)
    if not {"name", "r", "g", "b"} <= {column.lower() for column in columns}:
        raise ValueError(f"its columns are {', '.join(columns)}")
    lower = [{column.lower(): cell for column, cell in row.items()} for row in rows]
    return [(row["name"], (row["r"], row["g"], row["b"])) for row in lower if row["name"]]
