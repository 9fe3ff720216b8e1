"""Images wherever they are: a Hub data set, a folder, parquet files, a builtin set. All become an `ImageSet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..tasks import IGNORE_INDEX
from .builtin import BUILTIN_SETS, load_builtin
from .decoding import check_image, find_images, to_mask
from .folders import UNLABELED_FOLDERS, check_class_names, class_folders, mask_folders
from .rows import NO_LABEL, BuiltinRows, DataError, FileRows, Rows, TableRows, WithoutTargets, holds_labels, is_label
from .small import to_small_rgb

_SHOWN = 10


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
        side: of the views that are made of the images: images may then be decoded smaller, and their items hold
            `'size'`, the full `(width, height)`. None decodes every pixel.
    """

    rows: Rows
    chosen: np.ndarray
    task: str
    class_of: dict[Any, int] | None = None
    ignore_index: int = 255
    reduce_labels: bool = False
    side: int | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises CorruptImage, or DataError for a target that does not fit; both name the image."""
        image, target = self.rows.raw(int(self.chosen[index]))
        decoded, size = to_small_rgb(image, self.side, self._called(index))
        item: dict[str, Any] = {"image": decoded} if self.side is None else {"image": decoded, "size": size}
        if not is_label(target):
            return item
        if self.task == "image-classification":
            return item | {"label": self._class_index(target)}
        mask = self._class_ids(self._mask_values(index, target))
        check_mask_size(mask.shape, size, self._called(index))
        return item | {"mask": mask}

    def look(self, index: int) -> tuple[tuple[int, int], tuple[int, ...] | None]:
        """An image's `(width, height)` and the class ids in its mask, without void; None where it has no mask.

        Both files are read to their end, as far as that needs no full decoding.

        Raises:
            CorruptImage, ValueError: as `self[index]`; labels of whole images are not looked at.
        """
        image, target = self.rows.raw(int(self.chosen[index]))
        size = check_image(image, self._called(index))
        if self.task == "image-classification" or not is_label(target):
            return size, None
        mask = self._mask_values(index, target)
        check_mask_size(mask.shape, size, self._called(index))
        # Counting takes half the time of sorting, and 32-bit ids would need a table of billions.
        narrow = mask.dtype.kind == "u" and mask.dtype.itemsize <= 2
        found = self._class_ids(np.flatnonzero(np.bincount(mask.ravel())) if narrow else np.unique(mask))
        return size, tuple(int(value) for value in found if value != IGNORE_INDEX)

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


def at_side(source: Any, side: int | None) -> Any:
    """`source` as views of `side` pixels need it; image sets of other kinds decode as they always do."""
    return replace(source, side=side) if isinstance(source, ImageSet) else source


def check_mask_size(mask: Sequence[int], image: tuple[int, int], name: str) -> None:
    """Raises DataError unless a mask of shape (H, W) has one value for every pixel of an image of (width, height)."""
    if tuple(mask) != image[::-1]:
        raise DataError(
            f"The image {name} is {image[0]}x{image[1]} but its mask is {mask[1]}x{mask[0]}: a mask needs one value "
            "for every pixel. Pair the right files, or resize the mask to the image with nearest-neighbour "
            "interpolation."
        )


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
        kind = _target_of(task)
        if kind not in builtin["train"][0]:
            fitting = [key for key in BUILTIN_SETS if kind in load_builtin(key)["train"][0]]
            raise DataError(f"The builtin set {name!r} has no {kind}s, which {task} needs. Use {', '.join(fitting)}.")
        return {split: BuiltinRows(items) for split, items in builtin.items()}, list(builtin["train"].class_names)
    root = Path(name).expanduser()
    if task == "semantic-segmentation" and (masked := mask_folders(root)):
        return {**masked}, None
    plain = image_column is label_column is None
    if task == "image-classification" and plain and (classified := class_folders(root)):
        return {**classified[0]}, classified[1]
    tables, folder = _load_tables(name, config_name, token)
    first = tables.get("train", next(iter(tables.values())))
    image = _image_column(first, name, image_column)
    if image == label_column:
        raise DataError(
            f"--image_column and --label_column are both {image!r}, and a value cannot be an image and its label. "
            f"Name two of: {', '.join(first.column_names)}."
        )
    target = _target_column(first, name, image, label_column, task)
    classes = _class_names(first, target)
    if folder:
        check_class_names(folder, set(classes or ()))
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


def open_unlabeled_table(
    name: str,
    split: str | None,
    *,
    task: str,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] = (),
    token: str | None = None,
) -> Rows:
    """The images of a data set: the split named, else `unlabeled`, else the only one.

    Labels or masks that the set happens to have are kept, to score pseudo labels.

    Args:
        image_column, label_column: used where the set has them.
        class_names: the run's classes; labels are brought to their order by name, and other names are unknown.

    Raises:
        DataError: no such data set or split, or several splits to choose from.
    """
    if name in BUILTIN_SETS:
        builtin = load_builtin(name)
        chosen = builtin[_unlabeled_split(name, split, list(builtin))]
        scored = _target_of(task) in chosen[0] and list(class_names) == list(chosen.class_names)
        return BuiltinRows(chosen) if scored else WithoutTargets(BuiltinRows(chosen))
    root = Path(name).expanduser()
    # `datasets` passes over a split folder that has none of its own split names, and labels nobody if it is listed.
    for folder in [root / part for part in ([split] if split else UNLABELED_FOLDERS)]:
        if folder.is_dir() and (images := find_images(folder)):
            return FileRows(images, root)
    position = {word: index for index, word in enumerate(class_names)}
    if _has_labels(task) and (classified := class_folders(root)):
        rows = classified[0]
        files = rows[_unlabeled_split(name, split, list(rows))]
        return FileRows(files.images, root, labels=[position.get(label) for label in files.labels or ()])
    tables, local = _load_tables(name, config_name, token, unlabeled=split or "unlabeled")
    table = tables[_unlabeled_split(name, split, list(tables))]
    image = _image_column(table, name, image_column if image_column in table.column_names else None)
    fitting = label_column in table.column_names and holds_labels(table.features[label_column]) == _has_labels(task)
    target = _target_column(table, name, image, label_column if fitting else None, task)
    recode = None
    if target and _has_labels(task):
        own = _class_names(table, target)
        words = dict(enumerate(own)) if own else {word: str(word) for word in table.unique(target)}
        recode = {word: position[text] for word, text in words.items() if text in position}
    return TableRows(table, image, target, folder=local, recode=recode)


def _unlabeled_split(name: str, asked: str | None, splits: list[str]) -> str:
    chosen = asked or ("unlabeled" if "unlabeled" in splits else splits[0] if len(splits) == 1 else None)
    if chosen not in splits:
        given = f"no split {asked!r}" if asked else "several splits"
        raise DataError(
            f"The unlabeled data set {name!r} has {given}; it has: {', '.join(splits)}. Name one with "
            "--unlabeled_split."
        )
    return chosen


def _has_labels(task: str) -> bool:
    return task == "image-classification"


def _target_of(task: str) -> str:
    """What an item's target is called."""
    return "label" if _has_labels(task) else "mask"


def _load_tables(
    name: str, config_name: str | None, token: str | None, *, unlabeled: str | None = None
) -> tuple[dict[str, datasets.Dataset], Path | None]:
    """The splits, and the folder they come from if it is a local one.

    Args:
        unlabeled: a split that is looked for in files of its own name, which `datasets` passes over in local folders.
    """
    folder = Path(name).expanduser()
    if (folder.is_absolute() or name.startswith(".")) and not folder.exists():
        raise DataError(f"There is no folder {name!r}. Check the path, or give the id of a data set on the Hub.")
    try:
        own_files = (
            {unlabeled: f"{unlabeled}*.parquet"} if unlabeled and any(folder.glob(f"{unlabeled}*.parquet")) else None
        )
        loaded = datasets.load_dataset(
            str(folder) if folder.exists() else name, config_name, data_files=own_files, token=token
        )
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
        # Files as plain bytes, as other tools write them, have no feature that says so.
        if column in images or (column in table.column_names and not (images and holds_labels(table.features[column]))):
            return column
    if images:
        return images[0]
    raise DataError(
        f"{name!r} has no image column; it has: {', '.join(table.column_names)}. Name it with --image_column."
    )


def _target_column(table: datasets.Dataset, name: str, image: str, asked: str | None, task: str) -> str | None:
    """The column of labels (one value an image) or of masks."""
    labels = [key for key, kind in table.features.items() if holds_labels(kind)]
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


def name_of(source: Any, row: int) -> str:
    """What errors call an image: its id where the set has ids."""
    return str(source.id_of(row) if hasattr(source, "id_of") else row)
