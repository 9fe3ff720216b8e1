"""Images wherever they are: a Hub data set, a folder, parquet files, a builtin set. All become an `ImageSet`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
from PIL import Image

from .builtin import BUILTIN_SETS, load_builtin
from .decoding import CorruptImage, find_images, to_mask, to_rgb
from .rows import NO_LABEL, BuiltinRows, DataError, FileRows, Rows, TableRows, WithoutTargets, is_label
from .transforms import IGNORE_INDEX

_IMAGE_FOLDERS = ("images", "image", "img")
_MASK_FOLDERS = ("masks", "mask", "annotations", "labels")
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_UNLABELED_FOLDERS = ("unlabeled", "unlabelled")
_SHOWN = 10
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ImageSet:
    """Map-style images: `source[i]` is `{'image': RGB PIL}` plus `'label'`, an int, or `'mask'`.

    A mask is (H, W) int64 class ids with -100 for void, of the image's size.
    An image without a label (null, or -1 as on the Hub) or without a mask is an item without that key.

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
        """Raises CorruptImage, or DataError for a target that does not fit; both name the image."""
        image, target = self.rows.raw(int(self.chosen[index]))
        item: dict[str, Any] = {"image": to_rgb(image, self._called(index))}
        if not is_label(target):
            return item
        if self.task == "image-classification":
            return item | {"label": self._class_index(target)}
        mask = self._class_ids(self._mask_values(index, target))
        check_mask_size(mask, item["image"], self._called(index))
        return item | {"mask": mask}

    def values(self, index: int) -> list[int]:
        """The class ids in an image's mask, sorted, without void; the image is not read."""
        _, target = self.rows.raw(int(self.chosen[index]))
        if target is None:
            return []
        found = self._class_ids(np.unique(self._mask_values(index, target)))
        return sorted(int(value) for value in found if value != IGNORE_INDEX)

    def _mask_values(self, index: int, target: Any) -> np.ndarray:
        return to_mask(target, str(target) if isinstance(target, Path) else self._called(index))

    def _class_ids(self, values: np.ndarray) -> np.ndarray:
        """Values of a mask file as int64 class ids with -100 for void."""
        void = values == self.ignore_index
        ids = values.astype(np.int64)
        if self.reduce_labels:
            void |= values == 0
            ids -= 1
        return np.where(void, IGNORE_INDEX, ids)

    def _class_index(self, target: Any) -> int:
        if not is_label(target):
            return NO_LABEL
        if self.class_of is None:
            return int(target)
        if target not in self.class_of:
            raise DataError(
                f"The label {target!r} is not one of the {len(self.class_of)} that the training images have: "
                f"{', '.join(repr(known) for known in list(self.class_of)[:_SHOWN])}. Correct it, or use other data."
            )
        return self.class_of[target]

    def _called(self, index: int) -> str:
        """What errors call an image: its path, or `row 7`."""
        name = self.id_of(index)
        return f"row {name}" if name.isdigit() else name

    def id_of(self, index: int) -> str:
        return self.rows.ids[int(self.chosen[index])]

    @property
    def ids(self) -> list[str]:
        return [self.rows.ids[int(row)] for row in self.chosen]

    @property
    def labels(self) -> np.ndarray | None:
        """`(N,)` int64 classes, -1 where there is none; None for masks and sets without labels. Decodes no image."""
        targets = self.rows.targets() if self.task == "image-classification" else None
        if targets is None:
            return None
        return np.asarray([self._class_index(targets[int(row)]) for row in self.chosen], dtype=np.int64)

    def subset(self, positions: np.ndarray) -> ImageSet:
        return replace(self, chosen=self.chosen[positions])

    def without_targets(self) -> ImageSet:
        return replace(self, rows=WithoutTargets(self.rows), class_of=None)


def check_mask_size(mask: np.ndarray, image: Image.Image, name: str) -> None:
    """Raises DataError unless the mask has one value for every pixel of the image."""
    if mask.shape != image.size[::-1]:
        raise DataError(
            f"The image {name} is {image.width}x{image.height} but its mask is {mask.shape[1]}x{mask.shape[0]}: a mask "
            "needs one value for every pixel. Pair the right files, or resize the mask to the image with "
            "nearest-neighbour interpolation."
        )


def corrupt_images(source: ImageSet) -> dict[int, str]:
    """Positions of images, or of their masks, that cannot be decoded, with the reason.

    Everything is decoded to its end, because that is the only way to find a truncated file.

    Raises:
        DataError, ValueError: a mask that is not one of class ids, or has another size than its image.
    """
    if isinstance(source.rows, BuiltinRows):
        return {}
    files = source.without_targets() if source.task == "image-classification" else source

    def reason(position: int) -> str | None:
        try:
            files[position]
        except CorruptImage as problem:
            return str(problem)
        return None

    return {position: text for position, text in enumerate(_in_threads(reason, len(files))) if text}


def mask_values(source: ImageSet) -> dict[str, list[int]]:
    """Per image id, the class ids in its mask, void left out; empty where all of it is void or there is no mask."""
    return dict(zip(source.ids, _in_threads(source.values, len(source)), strict=True))


def _in_threads(function: Callable[[int], _Result], count: int) -> Iterator[_Result]:
    """`function(0..count-1)` in order. Pillow and NumPy release the interpreter lock while they decode and sort."""

    def block(start: int) -> list[_Result]:
        return [function(position) for position in range(start, min(start + 64, count))]

    with ThreadPoolExecutor() as pool:
        for results in pool.map(block, range(0, count, 64)):  # blocks: a future each for a million images is a gigabyte
            yield from results


# ---- finding the splits ----------------------------------------------------------------------------------------------


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
        DataError: nothing there, columns that do not exist, images without masks, or data of the other task.
    """
    if name in BUILTIN_SETS:
        builtin = load_builtin(name)
        kind = "label" if task == "image-classification" else "mask"
        if kind not in builtin["train"][0]:
            fitting = [key for key in BUILTIN_SETS if kind in load_builtin(key)["train"][0]]
            raise DataError(f"The builtin set {name!r} has no {kind}s, which {task} needs. Use {', '.join(fitting)}.")
        return {split: BuiltinRows(items) for split, items in builtin.items()}, list(builtin["train"].class_names)
    if task == "semantic-segmentation" and (found := _mask_folders(Path(name).expanduser())):
        return {**found}, None
    tables, folder = _load_tables(name, config_name, token)
    first = tables.get("train", next(iter(tables.values())))
    image = _image_column(first, name, image_column)
    target = _target_column(first, name, image, label_column, task)
    classes = _class_names(first, target)
    if folder:
        _check_class_folders(folder, set(classes or ()))
    if task == "semantic-segmentation" and target is None:
        raise DataError(
            f"{name!r} has no column with masks; it has: {', '.join(first.column_names)}. Name it with --label_column, "
            "or put the files into images/ and masks/ under the same names."
        )
    splits: dict[str, Rows] = {}
    for split, table in tables.items():
        if image not in table.column_names:
            raise DataError(
                f"Split {split!r} of {name!r} has no column {image!r}; it has: {', '.join(table.column_names)}."
            )
        splits[split] = TableRows(table, image, target if target in table.column_names else None, folder=folder)
    return splits, classes


def open_unlabeled_folder(folder: str) -> Rows:
    """All images in a flat or nested folder; other files are passed over.

    Raises:
        DataError: no such folder, or no image in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"--unlabeled_dir {folder!r} is not a folder. Check the path.")
    images = find_images(root)
    if not images:
        raise DataError(
            f"--unlabeled_dir {folder!r} holds no images (JPEG, PNG, ...). Check the path and the file names."
        )
    return FileRows(images, root)


def open_unlabeled_table(
    name: str,
    split: str | None,
    image_column: str | None,
    token: str | None = None,
    *,
    task: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] = (),
) -> Rows:
    """The images of a data set: the split named, else `unlabeled`, else the only one.

    Args:
        task, label_column: with a task, labels or masks that the set happens to have are kept, to score pseudo labels.
        class_names: the run's classes; labels are brought to their order by name, and other names are unknown.

    Raises:
        DataError: no such data set or split, or several splits to choose from.
    """
    root = Path(name).expanduser()
    # `datasets` passes over a split folder that has none of its own split names, and labels nobody if it is listed.
    for folder in [root / part for part in ([split] if split else _UNLABELED_FOLDERS)]:
        if folder.is_dir() and (images := find_images(folder)):
            return FileRows(images, root)
    tables, local = _load_tables(name, None, token)
    chosen = split or ("unlabeled" if "unlabeled" in tables else next(iter(tables)) if len(tables) == 1 else None)
    if chosen not in tables:
        asked = f"no split {split!r}" if split else "several splits"
        raise DataError(
            f"The unlabeled data set {name!r} has {asked}; it has: {', '.join(tables)}. Use --unlabeled_split."
        )
    table = tables[chosen]
    image = _image_column(table, name, image_column if image_column in table.column_names else None)
    if task is None:
        return TableRows(table, image, None, folder=local)
    column = label_column if label_column in table.column_names else None
    target = _target_column(table, name, image, column, task)
    recode = None
    if target and task == "image-classification":
        own = _class_names(table, target)
        position = {word: index for index, word in enumerate(class_names)}
        words = dict(enumerate(own)) if own else {word: str(word) for word in table.unique(target)}
        recode = {word: position[text] for word, text in words.items() if text in position}
    return TableRows(table, image, target, folder=local, recode=recode)


def _load_tables(
    name: str, config_name: str | None, token: str | None
) -> tuple[dict[str, datasets.Dataset], Path | None]:
    """The splits, and the folder they come from if it is a local one."""
    folder = Path(name).expanduser()
    if (folder.is_absolute() or name.startswith(".")) and not folder.exists():
        raise DataError(f"There is no folder {name!r}. Check the path, or give the id of a data set on the Hub.")
    try:
        loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config_name, token=token)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as problem:
        reason = problem.__cause__ or problem  # "An error occurred while generating the dataset" says nothing
        text = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        raise DataError(
            f"Cannot open the data set {name!r}: it is not builtin ({', '.join(BUILTIN_SETS)}), and neither a readable "
            f"folder nor a data set that the Hub or the local cache knows ({text}). Check the spelling and the network."
        ) from problem
    return dict(loaded), folder if folder.is_dir() else None


def _named_column(table: datasets.Dataset, name: str, column: str, flag: str) -> str:
    if column not in table.column_names:
        raise DataError(
            f"{flag} {column!r} is not in {name!r}, which has: {', '.join(table.column_names)}. Name one of these."
        )
    return column


def _image_column(table: datasets.Dataset, name: str, asked: str | None) -> str:
    if asked is not None:
        return _named_column(table, name, asked, "--image_column")
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
    """The column of labels (one value an image) or of masks."""
    labels = [key for key, kind in table.features.items() if isinstance(kind, (datasets.ClassLabel, datasets.Value))]
    fitting = labels if task == "image-classification" else [key for key in table.column_names if key not in labels]
    if asked is not None:
        if _named_column(table, name, asked, "--label_column") not in fitting:
            raise DataError(
                f"--label_column {asked!r} of {name!r} holds {table.features[asked]}, and {task} needs "
                f"{'one label an image' if fitting is labels else 'masks'}. Name another column, or another --task."
            )
        return asked
    if task == "image-classification":
        usual = ["label", "labels", "fine_label"]
        usual += [key for key in labels if isinstance(table.features[key], datasets.ClassLabel)]
    else:
        usual = ["annotation", "mask", "label", "labels", "annotations", "segmentation_mask"]
    return next((key for key in usual if key in fitting and key != image), None)


def _class_names(table: datasets.Dataset, target: str | None) -> list[str] | None:
    feature = table.features.get(target) if target else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _check_class_folders(folder: Path, classes: set[str]) -> None:
    """Raises DataError where a folder that is no class was taken for one, as `datasets` does with every folder."""
    if unlabeled := classes & set(_UNLABELED_FOLDERS):
        raise DataError(
            f"The folder {min(unlabeled)!r} in {str(folder)!r} would become a class. Move it out and pass it as "
            "--unlabeled_dir."
        )
    if classes & set(_IMAGE_FOLDERS) and classes & set(_MASK_FOLDERS):
        raise DataError(
            f"{str(folder)!r} holds images beside masks, not one folder per class. Add --task semantic-segmentation."
        )


def _mask_folders(root: Path) -> dict[str, FileRows]:
    """Splits of a folder with `images/` and `masks/` inside, at the root (train) or per split; empty without them."""
    splits: dict[str, FileRows] = {}
    for split, names in _SPLIT_FOLDERS.items():
        for folder in [root / name for name in names] + ([root] if split == "train" else []):
            if split not in splits and (rows := _image_and_mask_files(folder, root)) is not None:
                splits[split] = rows
    return splits


def _image_and_mask_files(folder: Path, root: Path) -> FileRows | None:
    image_folder = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), None)
    mask_folder = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
    if image_folder is None:
        return None
    if mask_folder is None:
        raise DataError(
            f"{str(image_folder)!r} has no folder 'masks' beside it. Add the masks under the names of the images, or "
            "pass the images as --unlabeled_dir."
        )
    images = find_images(image_folder)
    by_name = {path.relative_to(mask_folder).with_suffix("").as_posix(): path for path in find_images(mask_folder)}
    names = [path.relative_to(image_folder).with_suffix("").as_posix() for path in images]
    missing = [name for name in names if name not in by_name]
    if missing or not images:
        raise DataError(
            f"{len(missing)} of {len(names)} images in {str(image_folder)!r} have no mask of the same name in "
            f"{str(mask_folder)!r}{f', for example {missing[0]!r}' if missing else ''}. Add the masks, or move images "
            "without one to a folder of their own and pass it as --unlabeled_dir."
        )
    return FileRows(images, root, [by_name[name] for name in names])
