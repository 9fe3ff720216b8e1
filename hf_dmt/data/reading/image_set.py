"""`ImageSet`: images from any source behind one interface; and reading items of any other image set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..messages import listed
from ..tasks import IGNORE_INDEX
from .decoding import CorruptImage, WithoutMeaning, to_small_rgb
from .looks import CachedLooks, Look, LookCache, look_at_image, look_at_mask
from .masks import COLOR_VOID, PLAIN, MaskReading, to_mask
from .rows import NO_LABEL, DataError, Rows, WithoutTargets, is_label


@dataclass(frozen=True)
class ClassIds:
    """A mask that already contains the run's classes: `ids` is (H, W) int64 with -100 for void."""

    ids: np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """Map-style images: `source[i]` is `{'image': RGB PIL}` plus `'label'`, an int, or `'mask'`.

    A mask is (H, W) int64 class ids with -100 for void, with the image's size. An image without a label (null, or -1 as
    on the Hub) or without a mask is an item without that key.

    Attributes:
        rows: the source of the undecoded items.
        chosen: the rows that belong to this set, in order.
        task: decides whether a target is a label or a mask.
        class_of: for classification, the class index of each distinct target (strings or integers). For masks, the
            class of each value in the files; None if value k is class k.
        ignore_index: the void value in mask files (255); `reduce_labels` first turns 0 into void and k into k - 1.
        reading: how mask files become values.
        side: of the views made from the images: images may then be decoded smaller, and items contain `'size'`, the
            full `(width, height)`. None decodes every pixel.
    """

    rows: Rows
    chosen: np.ndarray
    task: str
    class_of: dict[Any, int] | None = None
    ignore_index: int = 255
    reduce_labels: bool = False
    reading: MaskReading = PLAIN
    side: int | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises CorruptImage, or DataError for an invalid target; both name the image."""
        image, target = self.rows.raw(int(self.chosen[index]))
        decoded, size = to_small_rgb(image, self.side, self._called(index))
        item: dict[str, Any] = {"image": decoded} if self.side is None else {"image": decoded, "size": size}
        if not is_label(target):
            return item
        if self.task == "image-classification":
            return item | {"label": self._class_index(target)}
        if isinstance(target, ClassIds):
            mask = target.ids
        else:
            mask = self._class_ids(to_mask(target, self._mask_name(index, target), self.reading))
        check_mask_size(mask.shape, size, self._called(index))
        return item | {"mask": mask}

    def look(self, index: int, looks: LookCache | CachedLooks) -> tuple[Look, Look | None]:
        """Check an image and its mask, if it has one.

        Both files are read to their end, unless `looks` has a cached result; `CachedLooks` never reads a file.

        Raises:
            CorruptImage, ValueError: as `self[index]`; labels of whole images are not checked.
        """
        row, name = int(self.chosen[index]), self._called(index)
        image_at, mask_at = self.rows.places(row)
        if self.task == "image-classification":
            return looks.of(image_at, "image", lambda: look_at_image(self.rows.raw(row)[0], name)), None
        raw = cache(lambda: self.rows.raw(row))  # a table row contains the bytes of both: read once, if at all
        found = looks.of(image_at, "image", lambda: look_at_image(raw()[0], name))
        if mask_at is None and not is_label(raw()[1]):
            return found, None

        def look_at_target() -> Look:
            mask = raw()[1]
            return look_at_mask(mask, self._mask_name(index, mask), self.reading)

        mask = looks.of(mask_at, self.reading.kind, look_at_target)
        check_mask_size((mask.height, mask.width), found.size, name, before_turn=found.turned)
        return found, mask

    def is_void(self, value: int) -> bool:
        """Whether a value in a mask file means "no label"."""
        if self.reading.colors:
            return value == COLOR_VOID
        return value == self.ignore_index or (self.reduce_labels and value == 0)

    def classes_of_values(self, count: int) -> dict[Any, int]:
        """The class of each value that a mask file may contain, given `count` classes."""
        if self.class_of is not None:
            return self.class_of
        first = 1 if self.reduce_labels and not self.reading.colors else 0
        return {index + first: index for index in range(count)}

    def _mask_name(self, index: int, target: Any) -> str:
        return str(target) if isinstance(target, Path) else self._called(index)

    def _class_ids(self, values: np.ndarray) -> np.ndarray:
        """Values of a mask file as int64 class ids with -100 for void."""
        if self.reading.colors:
            return np.where(values == COLOR_VOID, IGNORE_INDEX, values).astype(np.int64)
        void = values == self.ignore_index
        ids = values.astype(np.int64)
        if self.class_of is not None:
            known = np.array(sorted(self.class_of), dtype=np.int64)
            classes = np.array([self.class_of[value] for value in known.tolist()], dtype=np.int64)
            # The scan has already refused masks with other values.
            ids = classes[np.searchsorted(known, ids).clip(max=len(known) - 1)]
        elif self.reduce_labels:
            ids -= 1
        if self.reduce_labels:
            void |= values == 0
        return np.where(void, IGNORE_INDEX, ids)

    def _class_index(self, target: Any) -> int:
        if not is_label(target):
            return NO_LABEL
        class_of = self.class_of
        if class_of is None and isinstance(target, str):  # the data set's own order
            class_of = {word: index for index, word in enumerate(getattr(self.rows, "class_names", None) or ())}
        if class_of is None:
            return int(target)
        if target not in class_of:
            raise DataError(
                f"The label {target!r} is not one of the {len(class_of)} labels of the training images: "
                f"{listed(map(repr, class_of), 10)}. Correct it, or use other data."
            )
        return class_of[target]

    def _called(self, index: int) -> str:
        """The image's name in errors: its path, or `row 7`."""
        name = self.id_of(index)
        return f"row {name}" if name.isdigit() else name

    def id_of(self, index: int) -> str:
        return self.rows.ids[int(self.chosen[index])]

    @property
    def ids(self) -> list[str]:
        return self.rows.ids[self.chosen].tolist()

    @cached_property
    def labels(self) -> np.ndarray | None:
        """`(N,)` int64 classes, -1 if there is none; None for masks and sets without labels. Decodes no image."""
        targets = self.rows.targets() if self.task == "image-classification" else None
        if targets is None:
            return None
        chosen = [targets[row] for row in self.chosen.tolist()]
        class_of = {target: self._class_index(target) for target in dict.fromkeys(chosen)}
        return np.asarray([class_of[target] for target in chosen], dtype=np.int64)

    def subset(self, positions: np.ndarray) -> ImageSet:
        return replace(self, chosen=self.chosen[positions])

    def of_rows(self, rows: Rows) -> ImageSet:
        """All images of another source, read in the same way."""
        return replace(self, rows=rows, chosen=np.arange(len(rows.ids)))

    def without_targets(self) -> ImageSet:
        return replace(self, rows=WithoutTargets(self.rows), class_of=None)


def at_side(source: Any, side: int | None) -> Any:
    """`source` for views of `side` pixels; other kinds of image sets are decoded as usual."""
    return replace(source, side=side) if isinstance(source, ImageSet) else source


def check_mask_size(mask: Sequence[int], image: tuple[int, int], name: str, *, before_turn: bool = False) -> None:
    """Raises DataError unless a mask of shape (H, W) has one value for every pixel of an image of (width, height).

    Args:
        before_turn: the image's EXIF data swaps its width and height.
    """
    if tuple(mask) != image[::-1]:
        if before_turn and tuple(mask) == image:
            raise DataError(
                f"The image {name} is {image[0]}x{image[1]} after its EXIF rotation, which every viewer applies, but "
                f"its mask is {mask[1]}x{mask[0]}, so it was drawn on the unrotated image. Rewrite such masks with "
                "`python -m hf_dmt.data.splitting.prepare_masks --images FOLDER`, which rotates them like their "
                "images; or remove the rotation from the images: exiftool -Orientation= FILES."
            )
        raise DataError(
            f"The image {name} is {image[0]}x{image[1]}, but its mask is {mask[1]}x{mask[0]}: a mask needs one value "
            "per pixel. Pair the right files, or resize the mask to the image with nearest-neighbor interpolation."
        )


def check_mask_values(mask: np.ndarray, num_classes: int, where: str) -> None:
    """Raises DataError for a value outside 0..num_classes-1 that is not -100.

    Masks are checked when they are read: on a GPU the same mistake would crash the process without naming the image.
    """
    wrong = mask[(mask != IGNORE_INDEX) & ((mask < 0) | (mask >= num_classes))]
    if wrong.size:
        found = int(wrong.flat[0])
        raise DataError(
            f"Label {found} in {where} is outside 0..{num_classes - 1} ({num_classes} classes). If {found} means "
            f"'no label', pass arrays of signed integers with {IGNORE_INDEX} there: ids = np.array(mask, dtype=int); "
            f"ids[ids == {found}] = {IGNORE_INDEX}. If it is a class, name it in `id2label`."
        )


def decoded_item(source: Any, row: int, side: int | None) -> tuple[Any, Image.Image, tuple[int, int]]:
    """An item of any image set, its upright RGB image, and the full `(width, height)` of that image.

    An `ImageSet` has already decoded and converted the image; images from other sets are converted here.

    Args:
        side: of the view made from it, see `to_small_rgb`; an `ImageSet` knows its own, see `at_side`.

    Raises:
        CorruptImage, WithoutMeaning: as `to_rgb`. DataError: the item cannot be read, or has no image.
    """
    if isinstance(source, ImageSet):
        item = source[row]
        return item, item["image"], item.get("size", item["image"].size)
    name = f"image {name_of(source, row)}"
    with reading_an_item(name):
        item = source[row]
        return item, *to_small_rgb(item["image"], side, name)


@contextmanager
def reading_an_item(name: str) -> Iterator[None]:
    """Errors inside the block, where the code of others may run, are raised with the name of the item.

    Raises:
        DataError: it cannot be read. Errors that name it already, CorruptImage and WithoutMeaning, pass unchanged.
    """
    try:
        yield
    except (CorruptImage, WithoutMeaning, DataError):
        raise
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}".rstrip(".")
        raise DataError(f"{name[0].upper()}{name[1:]} cannot be read ({reason}). Correct or remove it.") from problem


def name_of(source: Any, row: int) -> str:
    """The image's name in errors: its id if the set has ids."""
    return str(source.id_of(row) if hasattr(source, "id_of") else row)
