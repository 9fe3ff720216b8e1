"""Check every file once before training: whether it can be read to its end, and what its mask contains.

Each file is read once, by one of the processes of a run. The results serve all later checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from ..messages import listed, listed_lines
from ..reading.decoding import CorruptImage
from ..reading.image_set import ImageSet
from ..reading.looks import CachedLooks, Look, LookCache, NotCached
from ..reading.rows import DataError

UNREADABLE = "images that cannot be read:"  # in the note about images that are skipped
# Longer side divided by the shorter one. Resized until its shorter side fits a view, such an image is as large as 200
# views.
_LONGEST_STRIP = 200
_BLOCK = 64  # images per thread task; one future per image would take a gigabyte for a million images
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ScannedImages:
    """Readable images, and the results of checking them.

    Attributes:
        sizes: (N, 2) int64, width and height of the upright images in pixels.
        modes: (N,) texts, how the images are stored: Pillow's mode, or the type of an array.
        values: (N,) objects, for each image the values in its mask file, a tuple without void; None if it has no mask.
        contents: (N,) bytes, a hash of each image's file as 32 hex digits.
        mask_contents: (N,) bytes, the same for its mask; empty if it has none.
    """

    images: ImageSet
    sizes: np.ndarray
    modes: np.ndarray
    values: np.ndarray
    contents: np.ndarray
    mask_contents: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def facts(self) -> tuple[np.ndarray, ...]:
        return self.sizes, self.modes, self.values, self.contents, self.mask_contents

    def subset(self, positions: np.ndarray) -> ScannedImages:
        return ScannedImages(self.images.subset(positions), *(fact[positions] for fact in self.facts))

    @property
    def has_target(self) -> np.ndarray:
        """(N,) bool: the images with a label or a mask."""
        if self.images.task == "image-classification":
            labels = self.images.labels
            return labels >= 0 if labels is not None else np.zeros(len(self), dtype=bool)
        return np.array([values is not None for values in self.values], dtype=bool)


def scan(
    images: ImageSet, role: str, *, skip_corrupt: bool, notes: list[str], masks_matter: bool = True
) -> ScannedImages:
    """Check all images, and skip those that cannot be read if requested.

    Args:
        role: the name of the set in messages: training, eval, test, unlabeled.
        masks_matter: False for masks that would only be scored: if one cannot be used, none is.

    Raises:
        DataError: images that cannot be read (all of them, or any without `skip_corrupt`); invalid masks.
    """
    with LookCache() as looks:
        cached = CachedLooks(looks)
        found = everywhere(
            lambda position: _look(images, position, looks),
            len(images),
            f"checking {role} images",
            known=lambda position: _known(images, position, cached),
        )
    wrong = {position: text for position, (kind, text) in enumerate(found) if kind == "wrong"}
    if wrong and not masks_matter:
        notes.append(
            f"Pseudo labels are not scored, because the masks of the {role} images cannot be used: "
            f"{next(iter(wrong.values()))}"
        )
        return scan(images.without_targets(), role, skip_corrupt=skip_corrupt, notes=notes)
    if wrong:
        first, *others = wrong
        more = (
            f"\nThe same or a similar problem affects {len(others)} more: {listing(images, others)}" if others else ""
        )
        raise DataError(wrong[first] + more)
    if unreadable := [text for kind, text in found if kind == "unreadable"]:
        _report(unreadable, len(images), role, skip_corrupt, notes)
    readable = {position: looked for position, (kind, looked) in enumerate(found) if kind == "fine"}
    pictures = {position: picture for position, (picture, _) in readable.items()}
    masks = {position: mask for position, (_, mask) in readable.items() if mask is not None}
    notes += _remarks(images, pictures, f"{role} images") + _remarks(images, masks, f"{role} masks")
    notes += _note_on_palettes(images, masks) + _note_on_turns(images, pictures, masks, role)
    values = (_without_void(images, masks[position]) if position in masks else None for position in readable)
    return ScannedImages(
        images.subset(np.array(list(readable), dtype=np.int64)),
        sizes=np.array([picture.size for picture in pictures.values()], dtype=np.int64).reshape(-1, 2),
        modes=np.array([picture.mode for picture in pictures.values()], dtype=str),
        values=np.fromiter(values, dtype=object, count=len(readable)),
        contents=np.array([picture.content for picture in pictures.values()], dtype="S32"),
        mask_contents=np.array([masks[row].content if row in masks else "" for row in readable], dtype="S32"),
    )


def _without_void(images: ImageSet, mask: Look) -> tuple[int, ...]:
    return tuple(value for value in mask.values or () if not images.is_void(value))


def _note_on_palettes(images: ImageSet, masks: dict[int, Look]) -> list[str]:
    """A warning if a value has different colors in two masks: then the colors may be the classes, and not the values,
    which some programs number anew in every file."""
    first: dict[int, tuple[str, int]] = {}
    for position, mask in masks.items():
        for value, color in zip(mask.values or (), mask.colors, strict=False):
            color_before, other = first.setdefault(value, (color, position))
            if color != color_before and not images.is_void(value):
                return [
                    f"Warning: the masks have different palettes: {value} is #{color_before} in that of "
                    f"{images.id_of(other)} and #{color} in that of {images.id_of(position)}. The numbers are used. If "
                    "the colors are the classes, pass a table of them as `mask_colors`."
                ]
    return []


def _note_on_turns(images: ImageSet, pictures: dict[int, Look], masks: dict[int, Look], role: str) -> list[str]:
    """A warning about masks whose size does not show whether they were drawn on the image before its EXIF rotation."""
    positions = [position for position in masks if pictures[position].looks_unturned]
    if not positions:
        return []
    return [
        f"Warning: the EXIF data of {len(positions)} of {len(images)} {role} images with masks "
        f"({listing(images, positions)}) rotates or mirrors them but keeps their size. Masks are taken as drawn on the "
        "image that every viewer shows. If they were drawn on the pixels as stored, rewrite them with `python -m "
        "hf_dmt.data.splitting.prepare_masks --images FOLDER`."
    ]


def _remarks(images: ImageSet, looks: dict[int, Look], what: str) -> list[str]:
    """A warning for each kind of file content that is not used."""
    grouped: dict[str, list[int]] = {}
    for position, look in looks.items():
        if look.remark:
            grouped.setdefault(look.remark, []).append(position)
    return [
        f"Warning: {len(positions)} of {len(images)} {what} ({listing(images, positions)}): each {remark}."
        for remark, positions in grouped.items()
    ]


def listing(images: ImageSet, positions: Sequence[int] | np.ndarray) -> str:
    """The first few ids, for a message."""
    return listed(images.id_of(int(position)) for position in positions)


def _known(images: ImageSet, position: int, cached: CachedLooks) -> tuple[str, Any] | None:
    try:
        return _look(images, position, cached)
    except NotCached:
        return None


def _look(images: ImageSet, position: int, looks: LookCache | CachedLooks) -> tuple[str, Any]:
    """The result as a value that can be sent to other processes; an error raised by one of them would leave the others
    waiting."""
    try:
        found = images.look(position, looks)
        short, long = sorted(found[0].size)
        if long > _LONGEST_STRIP * short:
            return "unreadable", (
                f"{images.id_of(position)} is {found[0].width} x {found[0].height} pixels, too elongated: resized to "
                f"the shorter side of a view, it would fill the memory. Crop it to at most {_LONGEST_STRIP} to 1."
            )
        return "fine", found
    except CorruptImage as problem:
        return "unreadable", problem.what
    except TypeError as problem:
        return "wrong", f"{problem} Name the column with the images: `image_column`."
    except ValueError as problem:
        return "wrong", str(problem)


def _report(problems: list[str], count: int, role: str, skip_corrupt: bool, notes: list[str]) -> None:
    lines = listed_lines(problems)
    if len(problems) == count:
        raise DataError(f"None of the {count} {role} images can be read:\n{lines}\nCheck the path and the files.")
    if not skip_corrupt:
        raise DataError(
            f"{len(problems)} of {count} {role} images cannot be read:\n{lines}\nRepair or delete them, or skip them "
            "with `skip_corrupt_images`."
        )
    notes.append(f"Skipped {len(problems)} of {count} {role} {UNREADABLE}\n{lines}")


def everywhere(
    function: Callable[[int], _Result], count: int, title: str, known: Callable[[int], _Result | None] | None = None
) -> list[_Result]:
    """`function(0..count-1)`, with all results on every process; each computes only its share.

    Args:
        known: the result if no file has to be read for it, else None. It is asked first, without threads, which would
            only wait for each other.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _share(function, known, range(count), title)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    parts: list[list[_Result]] = [[] for _ in range(world_size)]
    share = range(rank, count, world_size)
    torch.distributed.all_gather_object(parts, _share(function, known, share, title if rank == 0 else None))
    return [parts[position % world_size][position // world_size] for position in range(count)]


def _share(
    function: Callable[[int], _Result],
    known: Callable[[int], _Result | None] | None,
    positions: range,
    title: str | None,
) -> list[_Result]:
    # disable=None: progress bars only in terminals.
    bar = tqdm(total=len(positions), desc=title, unit="image", leave=False, delay=2, disable=None if title else True)
    found: list[_Result | None] = []
    with bar:
        for position in positions:
            found.append(known(position) if known else None)
            bar.update(found[-1] is not None)
        unread = [place for place, result in enumerate(found) if result is None]
        read = _in_threads(function, [positions[place] for place in unread], bar)
        for place, result in zip(unread, read, strict=True):
            found[place] = result
    return cast("list[_Result]", found)


def _in_threads(function: Callable[[int], _Result], positions: Sequence[int], bar: Any) -> Iterator[_Result]:
    """In order. Pillow and NumPy release the interpreter lock while decoding."""

    def block(start: int) -> list[_Result]:
        return [function(position) for position in positions[start : start + _BLOCK]]

    with ThreadPoolExecutor() as pool:
        for results in pool.map(block, range(0, len(positions), _BLOCK)):
            bar.update(len(results))
            yield from results
