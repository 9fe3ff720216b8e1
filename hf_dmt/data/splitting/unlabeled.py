"""Which images of a run are unlabeled, and notes about images and splits that have no role in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arguments import DataArguments
from ..reading.folders import only_folder_with_splits, open_unlabeled_folder
from ..reading.opening import open_unlabeled_table
from ..reading.rows import DataError, Rows
from ..reading.split_names import role_of, with_role
from .scan import ScannedImages, listing, scan


def with_own_unlabeled(args: DataArguments, splits: dict[str, Rows], all_used: bool, notes: list[str]) -> DataArguments:
    """The arguments, with the data set's own folder or split called `unlabeled` if no other image is unlabeled."""
    root = only_folder_with_splits(Path(args.dataset_name or "").expanduser())
    folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    own = next(iter([*with_role(splits, "unlabeled"), *with_role(folders, "unlabeled")]), None)
    if own is None or args.unlabeled_split is not None:
        return args
    if args.unlabeled_dir is None and args.unlabeled_dataset_name is None and all_used:
        notes.append(f"The unlabeled images are those in {own!r} of {args.dataset_name!r}.")
        return replace(args, unlabeled_split=own)
    given = Path(args.unlabeled_dir).expanduser().resolve() if args.unlabeled_dir is not None else None
    if own not in splits and given != (root / own).resolve():
        notes.append(
            f"The folder {own!r} in {args.dataset_name!r} is not used; `unlabeled_split={own!r}` would select it."
        )
    return args


def unlabeled_images(
    args: DataArguments,
    everything: ScannedImages,
    used: np.ndarray,
    names: list[str],
    notes: list[str],
    token: str | None,
) -> ScannedImages | None:
    """The images chosen by the flags, or else the remaining training images."""
    if args.unlabeled_dir is not None and (args.unlabeled_dataset_name or args.unlabeled_split):
        other = "`unlabeled_dataset_name`" if args.unlabeled_dataset_name else "`unlabeled_split`"
        raise DataError(f"`unlabeled_dir` and {other} both choose the unlabeled images. Give only one of them.")
    if not (args.unlabeled_dir or args.unlabeled_dataset_name or args.unlabeled_split):
        rest = np.setdiff1d(np.arange(len(everything)), used)
        return everything.subset(rest) if len(rest) else None
    rows: Rows
    if args.unlabeled_dir is not None:
        rows = open_unlabeled_folder(args.unlabeled_dir, notes)
    else:
        if args.unlabeled_dataset_name:
            args = replace(args, dataset_name=args.unlabeled_dataset_name, dataset_config_name=None)
        rows = open_unlabeled_table(args, everything.images.task, notes, token, class_names=names)
    found = everything.images.of_rows(rows)
    if found.task == "image-classification":
        found = replace(found, class_of=None)  # the rows have been matched to `names`
    return scan(found, "unlabeled", skip_corrupt=args.skip_corrupt_images, notes=notes, masks_matter=False)


def notes_on_idle(idle: ScannedImages, unlabeled: ScannedImages | None) -> list[str]:
    """A warning about training images that are used neither with their labels nor as unlabeled images, because the user
    named other unlabeled images."""
    if unlabeled is None or not len(idle):
        return []
    unused = np.flatnonzero(~np.isin(idle.contents, unlabeled.contents))
    if not len(unused):
        return []
    return [
        f"Warning: {len(unused)} training images are not used, neither with their labels nor as unlabeled images: "
        f"{listing(idle.images, unused)}. To use them without labels, add them to the folder or data set of "
        "unlabeled images."
    ]


def notes_on_unused_splits(splits: dict[str, Rows], used: Sequence[ScannedImages], args: DataArguments) -> list[str]:
    """A message for each split that has no role in the run."""
    own = args.unlabeled_split if args.unlabeled_dataset_name is None else None  # of this data set
    notes = []
    for name, rows in splits.items():
        is_unlabeled = own is not None and (name == own or role_of(name) == role_of(own) == "unlabeled")
        if is_unlabeled or any(found.images.rows is rows for found in used):
            continue
        flag = "`unlabeled_split`" if role_of(name) in {"unlabeled", None} else "`eval_split` or `test_split`"
        notes.append(f"The split {name!r} with {len(rows.ids)} images is not used; {flag} would select it.")
    return notes
