"""Small image files in all kinds of layouts: real files, folders and tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

SIZE = (20, 16)  # width, height


def image(shade: int, size: tuple[int, int] = SIZE) -> Image.Image:
    noise = np.random.default_rng(shade).integers(0, 40, (size[1], size[0], 3)) + shade
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def mask(values: Sequence[int], size: tuple[int, int] = SIZE, dtype: Any = np.uint8) -> Image.Image:
    """Vertical stripes of the values."""
    columns = np.asarray(values)[np.arange(size[0]) * len(values) // size[0]]
    return Image.fromarray(np.broadcast_to(columns, (size[1], size[0])).astype(dtype))


def palette(values: Sequence[int], size: tuple[int, int] = SIZE) -> Image.Image:
    found = mask(values, size)
    colored = Image.frombytes("P", found.size, found.tobytes())
    colored.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 759)
    return colored


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def class_folder(root: Path, classes: Sequence[str] = ("cat", "dog", "owl"), each: int = 6) -> Path:
    for number, name in enumerate(classes):
        for index in range(each):
            save(image(20 + 60 * number + index), root / name / f"{index:02d}.jpg")
    return root


def scene_folder(root: Path, values: Sequence[Sequence[int]] = ((0, 1), (1, 2), (0, 2), (0, 1, 2))) -> Path:
    """`images/` beside `masks/`, one pair of files for each list of mask values."""
    for index, found in enumerate(values):
        save(image(40 * (index % 5)), root / "images" / f"{index:02d}.jpg")
        save(mask(found), root / "masks" / f"{index:02d}.png")
    return root


def cut(path: Path, keep: int = 400) -> Path:
    """Truncate a file, as a broken download does."""
    path.write_bytes(path.read_bytes()[:keep])
    return path


def table(columns: dict[str, Any], features: dict[str, Any] | None = None) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


def parquet(root: Path, **splits: datasets.Dataset) -> Path:
    """A folder with one parquet file a split."""
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        rows.to_parquet(str(root / f"{name}.parquet"))
    return root


# ---- flags with the files they name ----------------------------------------------------------------------------------


def scene_flags(root: Path, *values: Any, **flags: Any) -> dict[str, Any]:
    return {"dataset_name": str(scene_folder(root, values or [(0, 1), (1, 2)])), **flags}


def animal_flags(root: Path, **flags: Any) -> dict[str, Any]:
    return {"dataset_name": str(class_folder(root / "animals")), **flags}


def truncated_flags(root: Path, **flags: Any) -> dict[str, Any]:
    given = animal_flags(root, **flags)
    cut(root / "animals" / "dog" / "03.jpg")
    return given


def text_file(root: Path, text: str, name: str = "ids.txt") -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return str(root / name)
