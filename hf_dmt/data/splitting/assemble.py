"""Build the four image sets of a run from the data flags, and record which image is in which set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import DataArguments
from ..builtin import BUILTIN_SETS
from ..reading.folders import class_like_a_split
from ..reading.image_set import ImageSet
from ..reading.masks import MaskReading, read_colors
from ..reading.opening import open_splits
from ..reading.rows import DataError, FileRows, Rows
from ..reading.split_names import names_of, split_for
from ..reading.tables import tables_not_read
from .answers import with_answers
from .classes import ModelClasses, check_labeled, check_targets, with_classes
from .contents import digest_of_scanned, notes_on_moved_rows, of_same_data
from .duplicates import duplicate_notes, notes_on_pair, without_copies
from .scan import ScannedImages, listing, scan
from .splits import choose_labeled, describe, earlier_split, held_out_before, hold_out, origin, read_ids, rows_of
from .unlabeled import notes_on_idle, notes_on_unused_splits, unlabeled_images, with_own_unlabeled


@dataclass(frozen=True)
class RunImages:
    """The image sets of a run.

    Attributes:
        evaluation, test: None if there is no such split.
        class_names: in the order of the labels.
        split: the contents of `split.json`.
        notes: messages for the user about automatic choices, and warnings.
        images_per_class: for each class, the number of labeled images that show it.
        sizes: by role (labeled, unlabeled, eval, test), (N, 2) width and height in pixels.
        modes: by role, the number of images stored in each of Pillow's modes.
    """

    labeled: ImageSet
    unlabeled: ImageSet | None
    evaluation: ImageSet | None
    test: ImageSet | None
    class_names: list[str]
    split: dict[str, Any]
    notes: list[str]
    images_per_class: list[int]
    sizes: dict[str, np.ndarray]
    modes: dict[str, dict[str, int]]

    def view_notes(self, view: int) -> list[str]:
        """A warning if masks would be trained on in views of `view` pixels that are partly padding."""
        sides = np.concatenate(
            [self.sizes[role].min(axis=1) for role in ("labeled", "unlabeled") if role in self.sizes]
        )
        small = int((sides < view).sum()) if self.labeled.task == "semantic-segmentation" else 0
        if not small:
            return []
        median = int(np.median(sides))
        remedy = f" With `image_size={median}`, the median image fills the view." if median < view else ""
        return [
            f"Warning: {small} of {len(sides)} training images have a side below the {view} pixels of "
            f"the view and are padded with void.{remedy}"
        ]


def assemble(
    args: DataArguments,
    task: str,
    *,
    token: str | None = None,
    model_classes: ModelClasses | None = None,
    of_pair: Mapping[str, Any] | None = None,
) -> RunImages:
    """Open everything, choose the labeled images, and check every image before training.

    Args:
        model_classes: gives the two models' common class names if they have as many classes as the data; called only
            if the data has no names.
        of_pair: the `split.json` of the pair that is trained further. If it is of the same data set, the images that
            it held out stay held out.

    Raises:
        DataError, ValueError: invalid input; the message says what was given, why it does not work, and what to do.
    """
    assert args.dataset_name is not None
    if args.split_seed < 0:
        raise DataError(f"`split_seed` must be at least 0, got {args.split_seed}. Give 0, 1, 2, ...")
    notes: list[str] = []
    splits, names = open_splits(args, task, notes, token)
    everything = _training_images(splits, task, args, notes)
    everything, names = with_classes(everything, names, args, model_classes, notes)

    own_test = _split_with_targets(splits, "test", everything, names, args, notes)
    of_pair = of_same_data(of_pair, everything, origin("dataset", args.dataset_name))
    earlier = earlier_split(args.labeled_ids) or of_pair
    notes += notes_on_moved_rows(earlier, everything)
    everything, test = _with_test(everything, own_test, args, earlier, notes)
    labeled_rows = _labeled_rows(everything, args, notes)
    evaluation, eval_rows = _split_with_targets(splits, "eval", everything, names, args, notes), np.empty(0, np.int64)
    if evaluation is None:
        labeled_rows, eval_rows = _hold_out_eval(labeled_rows, everything.images, args, earlier, notes)
        evaluation = everything.subset(eval_rows) if len(eval_rows) else None
    used = np.union1d(labeled_rows, eval_rows)
    scored = {"eval": evaluation, "test": test}
    from_training = {"eval": len(eval_rows) > 0, "test": test is not own_test}
    for role, found in scored.items():
        if found is not None and from_training[role]:  # those of other splits have been checked
            check_targets(found, role, names, args)

    labeled = everything.subset(labeled_rows)
    args = with_own_unlabeled(args, splits, len(used) == len(everything), notes)
    unlabeled = unlabeled_images(args, everything, used, names, notes, token)
    notes += notes_on_idle(everything.subset(np.setdiff1d(np.arange(len(everything)), used)), unlabeled)
    if unlabeled is not None and args.dataset_name not in BUILTIN_SETS:
        unlabeled = without_copies(unlabeled, scored, notes)
    if args.extra_labels:
        labeled, unlabeled = with_answers(labeled, unlabeled, names, args, notes)
    per_class = check_labeled(labeled, names, args, notes)
    sets = {"labeled": labeled, "unlabeled": unlabeled, **scored}
    known = {role: found for role, found in sets.items() if found is not None}
    notes += notes_on_unused_splits(splits, [everything, *known.values()], args)
    if args.dataset_name not in BUILTIN_SETS:
        notes += duplicate_notes(known)

    first = len(labeled_rows)  # those after them were labeled later and are unknown to `--labeled_ids`
    ids: dict[str, Sequence[str]] = {role: known[role].images.ids if role in known else [] for role in sets}
    if args.extra_labels:
        ids["extra_labeled"] = ids["labeled"][first:]
    ids["labeled"] = ids["labeled"][:first]
    split = describe(
        ids,
        split_seed=args.split_seed,
        class_names=names,
        held_out=[role for role, is_held_out in from_training.items() if is_held_out],
        splits=names_of(splits, {role: known[role].images.rows for role in scored if role in known}),
        # Hashes cover contents and labels, so replaced files with the same name count as different images.
        contents={role: digest_of_scanned(found) for role, found in known.items()},
        **origin("dataset", args.dataset_name),
        **origin("unlabeled_from", args.unlabeled_dir or args.unlabeled_dataset_name),
    )
    notes += notes_on_pair(split, of_pair)
    images = {role: found.images for role, found in known.items()}
    return RunImages(
        labeled=images["labeled"],
        unlabeled=images.get("unlabeled"),
        evaluation=images.get("eval"),
        test=images.get("test"),
        class_names=names,
        split=split,
        notes=notes,
        images_per_class=per_class,
        sizes={role: found.sizes for role, found in known.items()},
        modes={role: dict(Counter(found.modes.tolist())) for role, found in known.items()},
    )


def _training_images(splits: dict[str, Rows], task: str, args: DataArguments, notes: list[str]) -> ScannedImages:
    rows = split_for(splits, args.train_split, "train", args.dataset_name or "", "`train_split`")
    assert rows is not None
    if task == "image-classification" and rows.targets() is None:
        named = ", ".join(getattr(rows, "columns", ()))  # of a table
        columns = f" (the columns are {named})" if named else ""
        hint = ""
        if isinstance(rows, FileRows) and not rows.columns:
            hint = tables_not_read(rows.images.root) + class_like_a_split(rows.ids.tolist())
        raise DataError(
            f"The training images of {args.dataset_name!r} have no labels: no class folders and no label column"
            f"{columns}. Put them into one folder per class, give a table with the columns file_name and label "
            f"(`dataset_name=labels.csv`), or name the column with `label_column`.{hint}"
        )
    images = ImageSet(
        rows,
        np.arange(len(rows.ids)),
        task,
        ignore_index=args.ignore_index,
        reduce_labels=args.reduce_labels,
        reading=MaskReading(read_colors(args.mask_colors) if args.mask_colors else (), args.mask_band),
    )
    return scan(images, "training", skip_corrupt=args.skip_corrupt_images, notes=notes)


def _split_with_targets(
    splits: dict[str, Rows], role: str, like: ScannedImages, names: list[str], args: DataArguments, notes: list[str]
) -> ScannedImages | None:
    """The eval or test images that have a label or mask; None if there is no such split."""
    asked = args.eval_split if role == "eval" else args.test_split
    # Scores on a set that chose the better member are optimistic, so one split is never used for both roles.
    other, flag = (args.test_split, "`test_split`") if role == "eval" else (args.eval_split, "`eval_split`")
    source = args.dataset_name or ""
    taken = split_for(splits, other, "", source, flag) if asked is None and other is not None else None
    free = {name: rows for name, rows in splits.items() if rows is not taken}
    rows = split_for(free, asked, "validation" if role == "eval" else "test", source, f"`{role}_split`")
    if rows is not None and asked is not None and rows is like.images.rows:
        raise DataError(
            f"`{role}_split` {asked!r} is the training split, and scores on training images are meaningless. Name "
            "another split, or omit the flag."
        )
    if rows is None or rows is like.images.rows:
        return None
    found = scan(like.images.of_rows(rows), role, skip_corrupt=args.skip_corrupt_images, notes=notes)
    known = np.flatnonzero(found.has_target)
    if len(known) < len(found):
        what = "labels" if found.images.task == "image-classification" else "masks"
        notes.append(
            f"Skipped {len(found) - len(known)} of {len(found)} {role} images without {what}."
            if len(known)
            else f"The {role} split has no {what} and is not used."
        )
        found = found.subset(known)
    if not len(known):
        return None
    if not any(check_targets(found, role, names, args)):
        notes.append(f"Warning: the masks of the {len(found)} {role} images are entirely void, so there is no score.")
    return found


def _labeled_rows(scanned: ScannedImages, args: DataArguments, notes: list[str]) -> np.ndarray:
    """The rows to train on with their labels, still including those for evaluation."""
    ways = {
        "`num_labeled`": args.num_labeled,
        "`labeled_fraction`": args.labeled_fraction,
        "`labeled_ids`": args.labeled_ids,
    }
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} both choose the labeled images. Give only one of them.")
    has_target = scanned.has_target
    candidates = np.flatnonzero(has_target)
    if not len(candidates):
        raise DataError(
            f"No training image of {args.dataset_name!r} has a mask: all are null. Name another column with "
            "`label_column`."
        )
    if len(candidates) < len(scanned):
        notes.append(f"{len(scanned) - len(candidates)} of {len(scanned)} training images have no label.")
    if args.labeled_ids is not None:
        rows = rows_of(read_ids(Path(args.labeled_ids)), scanned.images.ids)
        if not has_target[rows].all():
            without = rows[~has_target[rows]]
            raise DataError(
                f"{len(without)} of the {len(rows)} images in {args.labeled_ids!r} have no label: "
                f"{listing(scanned.images, without)}. Label them, or remove their ids."
            )
        return rows
    if args.labeled_fraction is not None and not 0 < args.labeled_fraction <= 1:
        raise DataError(f"`labeled_fraction` must be above 0 and at most 1, got {args.labeled_fraction:g}; try 0.1.")
    if not given:
        return candidates
    count = args.num_labeled
    if count is None:
        count = max(1, round((args.labeled_fraction or 0) * len(candidates)))
    labels = scanned.images.labels
    chosen = choose_labeled(
        count, len(candidates), seed=args.split_seed, labels=labels[candidates] if labels is not None else None
    )
    return candidates[chosen]


def _hold_out_eval(
    labeled: np.ndarray, images: ImageSet, args: DataArguments, earlier: Mapping[str, Any], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """`(rows still labeled, eval rows)`: those that an earlier run held out, or else a fifth of the labeled rows."""
    rows = held_out_before("eval", earlier, images.ids)
    if rows is not None and len(left := np.setdiff1d(labeled, rows)):
        labeled = left
    else:
        labeled, rows = hold_out(labeled, images.labels, seed=args.split_seed)
    notes.append(
        f"No evaluation split: {len(rows)} of the labeled images are held out for evaluation."
        if len(rows)
        else f"No evaluation split, and {len(labeled)} labeled images are too few to hold some out (it takes 10, and 3 "
        "of a class): nothing is evaluated, and model a is exported as the main checkpoint."
    )
    return labeled, rows


def _with_test(
    everything: ScannedImages,
    test: ScannedImages | None,
    args: DataArguments,
    earlier: Mapping[str, Any],
    notes: list[str],
) -> tuple[ScannedImages, ScannedImages | None]:
    """`(the images to train on, the test images)`. Without a test split, test images are held out if this run or an
    earlier one asks for it."""
    fraction = args.test_fraction
    if fraction is not None and not 0 <= fraction < 1:
        raise DataError(f"`test_fraction` must be at least 0 and below 1, got {fraction}; try 0.2.")
    if test is not None and fraction:
        raise DataError(
            f"`test_fraction` {fraction:g} would hold out training images, but {args.dataset_name!r} has a test "
            "split. Omit it."
        )
    rows = held_out_before("test", earlier, everything.images.ids) if test is None and fraction != 0 else None
    how = ", the same as before. `test_fraction=0` would train on them" if rows is not None else ""
    if rows is None and (test is not None or not fraction):
        return everything, test
    if rows is None:
        known = np.flatnonzero(everything.has_target)
        _, rows = hold_out(known, everything.images.labels, seed=args.split_seed, fraction=fraction or 0, draw=2)
        if not len(rows):
            raise DataError(
                f"{len(known)} images with labels are too few to hold out a test split, which takes 10, and 3 of a "
                "class. Label more."
            )
    found = everything.subset(rows)
    if args.labeled_ids and (both := sorted(set(read_ids(Path(args.labeled_ids))) & set(found.images.ids))):
        raise DataError(
            f"{len(both)} of the images in {args.labeled_ids!r} are held out for testing, such as {both[0]!r}: "
            "`test_fraction` chooses from all images with labels. Remove these ids, or omit `test_fraction`."
        )
    notes.append(f"No test split: {len(rows)} of the training images are held out for the final scores{how}.")
    return everything.subset(np.setdiff1d(np.arange(len(everything)), rows)), found
