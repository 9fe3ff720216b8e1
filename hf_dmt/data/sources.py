"""Images wherever they are: a Hub data set, a folder, parquet files, a builtin set. All become an `ImageSet`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

from .builtin import BUILTIN_SETS, load_builtin
from .decoding import CorruptImage, find_images, to_mask, to_rgb
from .transforms import IGNORE_INDEX

_IMAGE_FOLDERS = ("images", "image", "img")
_MASK_FOLDERS = ("masks", "mask", "annotations", "labels")
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
    "unlabeled": ("unlabeled", "unlabelled"),
}


class DataError(ValueError):
    """Data that cannot be used as given, and what to do."""


class Rows(Protocol):
    """Undecoded images and targets by row, with an id for each."""

    @property
    def ids(self) -> Sequence[str]: ...

    def raw(self, row: int) -> tuple[Any, Any]:
        """`(image, target)` before decoding; target None where there is none."""
        ...

    def targets(self) -> Sequence[Any] | None:
        """All targets without touching an image (class labels only), else None."""
        ...


class TableRows:
    """Rows of a `datasets.Dataset`; images stay encoded until they are asked for, so a bad file can be named."""

    def __init__(self, table: datasets.Dataset, image: str, target: str | None) -> None:
        self.table = table.select_columns([image, target] if target else [image])
        for column in self.table.column_names:
            if isinstance(self.table.features[column], datasets.Image):
                self.table = self.table.cast_column(column, datasets.Image(decode=False))
        self.image, self.target = image, target
        self.ids = [str(row) for row in range(len(table))]

    def raw(self, row: int) -> tuple[Any, Any]:
        item = self.table[row]
        return item[self.image], item[self.target] if self.target else None

    def targets(self) -> Sequence[Any] | None:
        return self.table[self.target][:] if self.target else None


class FileRows:
    """Image files, with a mask file each or without."""

    def __init__(self, images: Sequence[Path], root: Path, masks: Sequence[Path] | None = None) -> None:
        self.images, self.masks = list(images), list(masks) if masks is not None else None
        self.ids = [path.relative_to(root).as_posix() for path in self.images]

    def raw(self, row: int) -> tuple[Any, Any]:
        return self.images[row], self.masks[row] if self.masks else None

    def targets(self) -> Sequence[Any] | None:
        return None


class BuiltinRows:
    """A builtin set, whose images need no decoding."""

    def __init__(self, items: Any) -> None:
        self.items, self.ids = items, items.ids

    def raw(self, row: int) -> tuple[Any, Any]:
        item = self.items[row]
        return item["image"], item.get("label", item.get("mask"))

    def targets(self) -> Sequence[Any] | None:
        return getattr(self.items, "labels", None)


@dataclass(frozen=True)
class ImageSet:
    """Map-style images: `source[i]` is `{'image': RGB PIL}` plus `'label'` (int) or `'mask'` ((H, W) int64, -100 = void).

    Attributes:
        rows: where the undecoded items come from.
        chosen: the rows that belong to this source, in order.
        task: decides whether a target is a label or a mask.
        class_of: for classification, the class index of each distinct target (strings or integers).
        ignore_index: the void value in mask files (255); `reduce_labels` turns 0 into void and k into k - 1 first.
    """

    rows: Rows
    chosen: np.ndarray
    task: str
    class_of: dict[Any, int] | None = None
    ignore_index: int = 255
    reduce_labels: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = self.rows.raw(int(self.chosen[index]))
        item: dict[str, Any] = {"image": to_rgb(image, self.id_of(index))}
        if target is None:
            return item
        if self.task == "image-classification":
            return item | {"label": self.class_of[target] if self.class_of else int(target)}
        mask = self.mask_of(target)
        if mask.shape != item["image"].size[::-1]:
            raise DataError(
                f"Image {self.id_of(index)!r} is {item['image'].size[0]}x{item['image'].size[1]} but its mask is "
                f"{mask.shape[1]}x{mask.shape[0]}: a mask needs one value for every pixel. Pair the right files, or resize "
                "the mask to the image with nearest-neighbour interpolation."
            )
        return item | {"mask": mask}

    def mask_of(self, target: Any) -> np.ndarray:
        """A mask file as `(H, W)` int64 class ids with -100 for void."""
        values = to_mask(target).astype(np.int64)
        void = values == self.ignore_index
        if self.reduce_labels:
            void |= values == 0
            values = values - 1
        return np.where(void, IGNORE_INDEX, values)

    def id_of(self, index: int) -> str:
        return self.rows.ids[int(self.chosen[index])]

    @property
    def ids(self) -> list[str]:
        return [self.rows.ids[int(row)] for row in self.chosen]

    @property
    def labels(self) -> np.ndarray | None:
        """`(N,)` int64 classes without decoding an image; None for masks and where there are no labels."""
        targets = self.rows.targets() if self.task == "image-classification" else None
        if targets is None:
            return None
        mapped = [self.class_of[target] for target in targets] if self.class_of else targets
        return np.asarray(mapped, dtype=np.int64)[self.chosen]

    def subset(self, positions: np.ndarray) -> ImageSet:
        return replace(self, chosen=self.chosen[positions])

    def without_targets(self) -> ImageSet:
        return replace(self, rows=_Blind(self.rows), class_of=None)


class _Blind:
    """Rows whose targets are never read."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.ids = rows, rows.ids

    def raw(self, row: int) -> tuple[Any, Any]:
        return self.rows.raw(row)[0], None

    def targets(self) -> Sequence[Any] | None:
        return None


def corrupt_images(source: ImageSet) -> dict[int, str]:
    """Positions of images that cannot be decoded, with the reason. Every image is decoded to its end, because that is the
    only way to find a truncated one."""

    def reason(position: int) -> str | None:
        image, _ = source.rows.raw(int(source.chosen[position]))
        try:
            to_rgb(image, source.id_of(position))
        except CorruptImage as problem:
            return str(problem)
        return None

    if isinstance(source.rows, BuiltinRows):
        return {}
    with ThreadPoolExecutor() as pool:  # PIL releases the interpreter lock while it decodes
        return {position: text for position, text in enumerate(pool.map(reason, range(len(source)))) if text}


# ---- finding the splits ------------------------------------------------------------------------------------------------


def open_splits(
    name: str,
    *,
    task: str,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    token: str | None = None,
) -> tuple[dict[str, Rows], list[str] | None]:
    """Every split of a data set by name, and the class names if the data set has them.

    Args:
        name: a builtin set, a folder (class folders, parquet files, or `images/` beside `masks/`), or a Hub id.

    Raises:
        DataError: nothing there, or columns that do not exist.
    """
    if name in BUILTIN_SETS:
        builtin = load_builtin(name)
        kind = "label" if task == "image-classification" else "mask"
        if kind not in builtin["train"][0]:
            fitting = [key for key in BUILTIN_SETS if kind in load_builtin(key)["train"][0]]
            raise DataError(f"The builtin set {name!r} has no {kind}s, which {task} needs. Use {', '.join(fitting)}.")
        return {split: BuiltinRows(items) for split, items in builtin.items()}, list(builtin["train"].class_names)
    folder = Path(name)
    if folder.is_dir() and task == "semantic-segmentation":
        found = _mask_folders(folder)
        if found:
            return {**found}, None
    tables = _load_tables(name, config_name, token)
    first = next(iter(tables.values()))
    image = _image_column(first, name, image_column)
    target = _target_column(first, name, image, label_column, task)
    classes = _class_names(first, target)
    splits: dict[str, Rows] = {}
    for split, table in tables.items():
        if image not in table.column_names:
            raise DataError(
                f"Split {split!r} of {name!r} has no column {image!r}; it has: {', '.join(table.column_names)}."
            )
        splits[split] = TableRows(table, image, target if target in table.column_names else None)
    return splits, classes


def open_unlabeled_folder(folder: str) -> Rows:
    """All images in a flat or nested folder; other files are passed over.

    Raises:
        DataError: no such folder, or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"--unlabeled_dir {folder!r} is not a folder. Check the path.")
    images = find_images(root)
    if not images:
        raise DataError(
            f"--unlabeled_dir {folder!r} holds no images (JPEG, PNG, ...). Check the path and the file names."
        )
    return FileRows(images, root)


def open_unlabeled_table(name: str, split: str | None, image_column: str | None, token: str | None = None) -> Rows:
    """The images of a data set, whatever labels it has: the split named, else `unlabeled`, else the only one.

    Raises:
        DataError: no such data set or split, or several splits to choose from.
    """
    tables = _load_tables(name, None, token)
    chosen = split or ("unlabeled" if "unlabeled" in tables else next(iter(tables)) if len(tables) == 1 else None)
    if chosen not in tables:
        asked = f"no split {split!r}" if split else "several splits"
        raise DataError(f"The unlabeled data set {name!r} has {asked}; it has: {', '.join(tables)}. Use --unlabeled_split.")
    table = tables[chosen]
    image = _image_column(table, name, image_column if image_column in table.column_names else None)
    return TableRows(table, image, None)


def _load_tables(name: str, config_name: str | None, token: str | None) -> dict[str, datasets.Dataset]:
    folder = Path(name)
    if (folder.is_absolute() or name.startswith((".", "~"))) and not folder.exists():
        raise DataError(f"There is no folder {name!r}. Check the path, or give the id of a data set on the Hub.")
    try:
        loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config_name, token=token)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as problem:
        text = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise DataError(
            f"Cannot open the data set {name!r}: it is not builtin ({', '.join(BUILTIN_SETS)}), and neither a readable "
            f"folder nor a data set that the Hub or the local cache knows ({text}). Check the spelling and the network."
        ) from problem
    return dict(loaded)


def _image_column(table: datasets.Dataset, name: str, asked: str | None) -> str:
    if asked is not None:
        if asked not in table.column_names:
            raise DataError(
                f"--image_column {asked!r} is not in {name!r}, which has: {', '.join(table.column_names)}. Name one of these."
            )
        return asked
    images = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
    for column in ("image", "img", "pixel_values"):
        if column in images or (column in table.column_names and not images):
            return column
    if images:
        return images[0]
    raise DataError(
        f"{name!r} has no image column; it has: {', '.join(table.column_names)}. Name it with --image_column."
    )


def _target_column(table: datasets.Dataset, name: str, image: str, asked: str | None, task: str) -> str | None:
    if asked is not None:
        if asked not in table.column_names:
            raise DataError(
                f"--label_column {asked!r} is not in {name!r}, which has: {', '.join(table.column_names)}. Name one of these."
            )
        return asked
    if task == "image-classification":
        named = [column for column, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
        usual = [column for column in ("label", "labels", "fine_label") if column in table.column_names]
        return next(iter(usual + named), None)
    masks = ("annotation", "mask", "label", "labels", "annotations", "segmentation_mask")
    return next((column for column in masks if column in table.column_names and column != image), None)


def _class_names(table: datasets.Dataset, target: str | None) -> list[str] | None:
    feature = table.features.get(target) if target else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _mask_folders(root: Path) -> dict[str, FileRows]:
    """Splits of a folder with `images/` and `masks/` inside, at the root (train) or per split."""
    splits: dict[str, FileRows] = {}
    for split, names in _SPLIT_FOLDERS.items():
        for folder in [root / name for name in names] + ([root] if split == "train" else []):
            if split not in splits and (rows := _image_and_mask_files(folder)) is not None:
                splits[split] = rows
    return splits


def _image_and_mask_files(folder: Path) -> FileRows | None:
    image_folder = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), None)
    mask_folder = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
    if image_folder is None:
        return None
    images = find_images(image_folder)
    if mask_folder is None:
        return FileRows(images, image_folder)
    by_name = {path.relative_to(mask_folder).with_suffix("").as_posix(): path for path in find_images(mask_folder)}
    names = [path.relative_to(image_folder).with_suffix("").as_posix() for path in images]
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images in {str(image_folder)!r} have no mask of the same name in "
            f"{str(mask_folder)!r}, for example {missing[0]!r}. Add the masks, or move images without one to a folder of "
            "their own and pass it as --unlabeled_dir."
        )
    return FileRows(images, image_folder, [by_name[name] for name in names])
