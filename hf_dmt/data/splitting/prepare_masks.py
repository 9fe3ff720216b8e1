"""Convert masks to PNG files of class ids: `python -m hf_dmt.data.splitting.prepare_masks`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..messages import listed, listed_lines
from ..reading.decoding import identify, opening, unused_part, upright
from ..reading.finding import find_images
from ..reading.masks import COLOR_VOID, MaskReading, read_colors, to_mask
from .class_map import read_class_map

VOID = 255
COMMAND = "python -m hf_dmt.data.splitting.prepare_masks"


def prepare_masks(given: argparse.Namespace) -> None:
    """Write clean masks with the names of their images, `classes.json` and `report.json`.

    Raises:
        ValueError: a table that cannot be read, or masks that do not fit it; nothing is written then.
    """
    _check_flags(given)
    output: Path = given.output
    values = read_class_map(given.values, merges=True) if given.values else None
    reading = MaskReading(read_colors(given.colors) if given.colors else (), given.band)
    names = reading.names if given.colors else values.names if values else None
    found = find_images(given.source)
    if not found.images:
        raise ValueError(f"--source {str(given.source)!r} contains no masks. Check the path.")
    images = {_stem(path, given.images): path for path in find_images(given.images).images} if given.images else {}
    stems = [_stem_of_image(path, given.source, given.suffix) for path in found.images]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} masks would get the name of another one, such as {f'{twice[0]}.png'!r}. Rename them."
        )

    def convert(path: Path, stem: str) -> tuple[np.ndarray, float]:
        return _converted(path, reading, given.nearest, values.class_of if values else None, images.get(stem))

    def check(path: Path, stem: str) -> tuple[Counter[int], float, str]:
        try:
            ids, moved = convert(path, stem)
        except ValueError as problem:
            return Counter(), 0.0, str(problem)
        found, counts = np.unique(ids, return_counts=True)
        return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True))), moved, ""

    def write(path: Path, stem: str) -> None:
        target = output / f"{stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(convert(path, stem)[0]).save(target)

    with ThreadPoolExecutor() as pool:  # converted twice, because all masks at once may not fit into memory
        checked = list(pool.map(check, found.images, stems))
        if problems := [problem for _, _, problem in checked if problem]:
            raise ValueError(f"{len(problems)} of {len(checked)} masks cannot be converted:\n{listed_lines(problems)}")
        output.mkdir(parents=True, exist_ok=True)
        list(pool.map(write, found.images, stems))
    pixels = sum((counts for counts, _, _ in checked), Counter[int]())
    called = dict(enumerate(names)) if names else {value: str(value) for value in pixels}
    report: dict[str, Any] = {
        "masks": len(checked),
        "pixels": {
            called.get(value, "void" if value == VOID else str(value)): pixels[value] for value in sorted(pixels)
        },
        "colors_moved_to_the_nearest": {
            f"{stem}.png": round(moved, 4) for stem, (_, moved, _) in zip(stems, checked, strict=True) if moved
        },
        "left_out": [note.removeprefix("Warning: ") for note in found.notes()],
    }
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if names:
        (output / "classes.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    for name, count in report["pixels"].items():
        print(f"{name}: {count} pixels")
    for note in found.notes():
        print(note)
    print(f"{len(checked)} masks written to {output}, with report.json{' and classes.json' if names else ''}")


def _check_flags(given: argparse.Namespace) -> None:
    output = given.output
    if output.is_file() or (output.exists() and any(output.iterdir())):
        raise ValueError(f"--output {str(output)!r} is not an empty folder. Choose another one.")
    if given.colors and given.values:
        raise ValueError("--colors and --values both define what the pixels mean. Give the one that fits the masks.")
    if given.nearest and not given.colors:
        raise ValueError("--nearest needs --colors: it is for color masks.")
    if not given.nearest >= 0:
        raise ValueError(f"--nearest is a distance between colors, from 0 to 442, got {given.nearest:g}; try 20.")
    if output.resolve().is_relative_to(given.source.resolve()):
        raise ValueError(
            f"--output {str(output)!r} is inside --source, so its masks would be read as sources. Move it."
        )


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _stem_of_image(mask: Path, source: Path, suffix: str) -> str:
    stem = _stem(mask, source)
    if not stem.endswith(suffix):
        raise ValueError(f"{mask} does not end in {suffix!r}, which --suffix removes. Move it out of --source.")
    return stem.removesuffix(suffix)


def _converted(
    path: Path, reading: MaskReading, nearest: float, class_of: dict[int, int] | None, image: Path | None
) -> tuple[np.ndarray, float]:
    """Class ids, and the share of the pixels whose color was replaced by the nearest one.

    Args:
        nearest: a color up to this distance (RGB) from one in the table is replaced by it; 0: it is an error.
        class_of: the class of each value; None keeps values, with 255 for void.
        image: the mask is rotated by the EXIF data of this image.
    """
    moved = 0.0
    with opening(path, str(path)):
        content = path.read_bytes()
        stored = identify(content)
        unused = unused_part(stored)
        if nearest:
            stored.load()
            stored = upright(stored)
    if unused:
        raise ValueError(f"{path} {unused}. Save the one with the mask as a file of its own.")
    if nearest:
        ids, moved = _nearest(stored, reading, nearest)
    else:
        ids = to_mask(content, str(path), reading).astype(np.int64)
    if reading.colors:
        ids = np.where(ids == COLOR_VOID, VOID, ids)
    elif class_of is not None:
        values, places = np.unique(ids, return_inverse=True)
        strange = [value for value in values.tolist() if value not in class_of and value != VOID]
        if strange:
            raise ValueError(
                f"{path} contains {listed(strange)}, which --values does not name. Add them, or save 255 for void."
            )
        ids = np.array([class_of.get(value, VOID) for value in values.tolist()])[places.reshape(ids.shape)]
    if image is not None:
        opened = identify(image.read_bytes())
        if ids.shape == opened.size[::-1]:  # drawn before the EXIF rotation
            mask = Image.fromarray(ids.astype(np.int32))
            mask.info["exif"] = opened.info.get("exif", opened.getexif().tobytes())
            ids = np.array(upright(mask))
    if ids.min(initial=0) < 0 or ids.max(initial=0) > np.iinfo(np.uint16).max:
        outside = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{path} contains {outside}, but ids are 0 to 65535. Give a map of its values: --values.")
    return ids.astype(np.uint8 if ids.max(initial=0) <= VOID else np.uint16), moved


def _nearest(mask: Image.Image, reading: MaskReading, distance: float) -> tuple[np.ndarray, float]:
    pixels = np.asarray(mask.convert("RGBA"), dtype=np.int64)
    colors, back = np.unique(pixels[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    table = np.array([color for _, color in reading.colors])
    apart = np.sqrt(((colors[:, None] - table[None]) ** 2).sum(axis=2))
    chosen = np.where(apart.min(axis=1) <= distance, reading.class_of_color[apart.argmin(axis=1)], COLOR_VOID)
    moved = float((apart.min(axis=1) > 0)[back.ravel()].mean())
    ids = chosen[back.ravel()].reshape(pixels.shape[:2])
    return np.where(pixels[..., 3] > 0, ids, COLOR_VOID), moved  # as without `nearest`, transparent pixels are void


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a folder of masks; returns 0, or 2 for invalid arguments."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Convert masks to PNG files of class ids.")
    parser.add_argument("--source", required=True, type=Path, help="folder of masks")
    parser.add_argument("--output", required=True, type=Path, help="a new folder")
    parser.add_argument("--colors", help="table of colors, CSV with name,r,g,b or JSON {name: [r, g, b]}")
    parser.add_argument("--values", help='JSON map of the values in them, {"0": "ground", "100": "water"}')
    parser.add_argument("--band", type=int, help="channel with the ids, counted from 1")
    parser.add_argument("--suffix", default="", help="suffix of their names after the images' names, such as _mask")
    parser.add_argument("--images", type=Path, help="folder of the images; masks are rotated by their EXIF data")
    parser.add_argument(
        "--nearest", type=float, default=0, help="replace colors up to this RGB distance from one in the table"
    )
    try:
        prepare_masks(parser.parse_args(argv))
    except (ValueError, OSError) as problem:
        text = str(problem).replace("`mask_colors`", "--colors").replace("`mask_band`", "--band")
        print(f"prepare_masks: error: {text}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
