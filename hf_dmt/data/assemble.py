"""From the data flags to the four image sets of a run, and the record of who is in which."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import DataArguments
from .builtin import BUILTIN_SETS
from .sources import (
    DataError,
    ImageSet,
    Rows,
    corrupt_images,
    mask_values,
    open_splits,
    open_unlabeled_folder,
    open_unlabeled_table,
)
from .splits import carve_eval, choose_labeled, describe, read_ids, rows_of

_SHOWN = 10  # names in a message; a thousand bad files should not scroll the reason away


@dataclass(frozen=True)
class RunImages:
    """The image sets of a run.

    Attributes:
        evaluation, test: None where there is no such split.
        class_names: in the order of the labels.
        split: what `split.json` holds.
        notes: one line each for the person who started the run: choices made for them, and warnings.
    """

    labeled: ImageSet
    unlabeled: ImageSet | None
    evaluation: ImageSet | None
    test: ImageSet | None
    class_names: list[str]
    split: dict[str, Any]
    notes: list[str]


def assemble(
    args: DataArguments,
    task: str,
    *,
    token: str | None = None,
    model_classes: Callable[[], list[str] | None] | None = None,
) -> RunImages:
    """Open everything, decide who is labeled, and check every image before anything is trained.

    Args:
        model_classes: the two models' common class names, asked for only if the data names none.

    Raises:
        DataError, ValueError: what was given cannot work; the message says what was given, why, and what to do.
    """
    assert args.dataset_name is not None
    notes: list[str] = []
    splits, names = open_splits(
        args.dataset_name,
        task=task,
        config_name=args.dataset_config_name,
        image_column=args.image_column,
        label_column=args.label_column,
        token=token,
    )
    train = _split(splits, args.train_split, ("train",), args.dataset_name, "--train_split")
    assert train is not None
    everything = _image_set(train, task, args)
    if task == "image-classification" and train.targets() is None:
        raise DataError(
            f"The training images of {args.dataset_name!r} have no labels: no label column and no class folders. "
            "Name the "
            "column with --label_column, or put labeled images into one folder per class."
        )
    everything = _without_corrupt(everything, args.skip_corrupt_images, "training", notes)
    everything, names = _with_classes(everything, names, args, model_classes, notes)

    labels = everything.labels
    labeled_rows = _labeled_rows(everything, labels, args)
    held_out = _optional(splits, args.eval_split, ("validation", "val", "dev"), everything, args, "--eval_split", notes)
    carved = np.empty(0, dtype=np.int64)
    if held_out is None:
        labeled_rows, carved = carve_eval(labeled_rows, labels, seed=args.split_seed)
        if len(carved):
            held_out = everything.subset(carved)
            notes.append(f"No evaluation split: {len(carved)} of the labeled images are kept for evaluation.")
        else:
            notes.append(
                f"No evaluation split, and {len(labeled_rows)} labeled images are too few to keep some back: nothing "
                "is "
                "evaluated during training, and a stays at the root."
            )
    test = _optional(splits, args.test_split, ("test",), everything, args, "--test_split", notes)
    labeled = everything.subset(labeled_rows)
    unlabeled = _unlabeled(args, task, everything, np.union1d(labeled_rows, carved), notes, token)
    _check_labeled(labeled, names, notes)
    roles: dict[str, Sequence[str]] = {
        "labeled": labeled.ids,
        "unlabeled": unlabeled.ids if unlabeled is not None else [],
        "eval": held_out.ids if held_out is not None else [],
        "test": test.ids if test is not None else [],
    }
    facts = {
        **_origin("dataset", args.dataset_name),
        **_origin("unlabeled_from", args.unlabeled_dir or args.unlabeled_dataset_name),
    }
    split = describe(roles, split_seed=args.split_seed, class_names=names, **facts)
    return RunImages(labeled, unlabeled, held_out, test, names, split, notes)


def _origin(key: str, given: str | None) -> dict[str, str | None]:
    """A source by name and, if it has one, by its id on the Hub. `split.json` is published: of a folder it holds the
    name alone, for a path tells of its owner's machine."""
    local = given is not None and Path(given).exists()
    on_hub = given is not None and not local and given not in BUILTIN_SETS
    return {key: Path(given).resolve().name if given and local else given, f"{key}_id": given if on_hub else None}


def read_class_names(file: str) -> list[str]:
    """Class names from a JSON list or an `{"0": name}` map, as `id2label.json` files on the Hub are.

    Raises:
        DataError: unreadable, or ids that are not 0..n-1.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            by_id = {int(key): str(name) for key, name in content.items()}
            if sorted(by_id) != list(range(len(by_id))):
                raise ValueError(f"its ids are {sorted(by_id)[:5]}..., not 0 to {len(by_id) - 1}")
            content = [by_id[index] for index in range(len(by_id))]
        names = [str(name) for name in content]
        if not isinstance(content, list) or not names or len(set(names)) < len(names):
            raise ValueError("it is empty or names a class twice")
    except (OSError, ValueError, TypeError) as problem:
        raise DataError(
            f"--id2label {file!r} is not a class map ({problem}). Give a JSON file like "
            '{"0": "cat", "1": "dog"} or ["cat", "dog"].'
        ) from problem
    return names


def _split(splits: dict[str, Rows], asked: str | None, usual: Sequence[str], name: str, flag: str) -> Rows | None:
    if asked is not None:
        if asked not in splits:
            raise DataError(f"{flag} {asked!r} is not in {name!r}, which has: {', '.join(splits)}. Name one of these.")
        return splits[asked]
    found = next((splits[split] for split in usual if split in splits), None)
    if found is None and flag == "--train_split":
        if len(splits) == 1:
            return next(iter(splits.values()))
        raise DataError(f"{name!r} has no split 'train' but {', '.join(splits)}. Name the training split with {flag}.")
    return found


def _optional(
    splits: dict[str, Rows],
    asked: str | None,
    usual: Sequence[str],
    like: ImageSet,
    args: DataArguments,
    flag: str,
    notes: list[str],
) -> ImageSet | None:
    rows = _split(splits, asked, usual, args.dataset_name or "", flag)
    if rows is None or rows is like.rows:
        return None
    found = replace(like, rows=rows, chosen=np.arange(len(rows.ids)))
    if like.task == "image-classification" and rows.targets() is None:
        return None
    return _without_corrupt(found, args.skip_corrupt_images, flag[2:-6], notes)


def _image_set(rows: Rows, task: str, args: DataArguments) -> ImageSet:
    return ImageSet(
        rows, np.arange(len(rows.ids)), task, ignore_index=args.ignore_index, reduce_labels=args.reduce_labels
    )


def _with_classes(
    images: ImageSet,
    names: list[str] | None,
    args: DataArguments,
    model_classes: Callable[[], list[str] | None] | None,
    notes: list[str],
) -> tuple[ImageSet, list[str]]:
    """The class names, and for labels that are words the index of each."""
    given = read_class_names(args.id2label) if args.id2label else None
    if images.task == "semantic-segmentation":
        if given or names:
            return images, given or names or []
        values = sorted({value for found in mask_values(images).values() for value in found})
        from_models = model_classes() if model_classes else None
        if from_models and values and max(values) < len(from_models):
            return images, from_models
        if not values:
            raise DataError(
                "The training masks hold no labeled pixel: every value is the ignore value. Check --ignore_index."
            )
        notes.append(
            f"Classes are the values in the training masks: 0 to {max(values)}. Name them with --id2label FILE."
        )
        return images, [str(value) for value in range(max(values) + 1)]
    targets = images.rows.targets()
    assert targets is not None
    distinct = sorted(set(targets), key=lambda target: (str(type(target)), target))
    if any(isinstance(target, str) for target in distinct):
        words = given or names or [str(target) for target in distinct]
        unknown = [str(target) for target in distinct if str(target) not in words]
        if unknown:
            raise DataError(
                f"Labels {unknown[:_SHOWN]} of {args.dataset_name!r} are not among the classes. Add them to --id2label."
            )
        return replace(images, class_of={target: words.index(str(target)) for target in distinct}), words
    if given or names:
        return images, given or names or []
    from_models = model_classes() if model_classes else None
    highest = max(int(target) for target in distinct)
    if from_models and highest < len(from_models):
        return images, from_models
    notes.append(f"Classes are the label values 0 to {highest}. Name them with --id2label FILE.")
    return images, [str(value) for value in range(highest + 1)]


def _labeled_rows(images: ImageSet, labels: np.ndarray | None, args: DataArguments) -> np.ndarray:
    ways = {
        "--num_labeled": args.num_labeled,
        "--labeled_fraction": args.labeled_fraction,
        "--labeled_ids": args.labeled_ids,
    }
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} both say which images are labeled. Give one of them.")
    if args.labeled_ids is not None:
        return rows_of(read_ids(Path(args.labeled_ids)), images.ids)
    if args.labeled_fraction is not None and not 0 < args.labeled_fraction <= 1:
        raise DataError(
            f"--labeled_fraction is {args.labeled_fraction:g}; it must be above 0 and at most 1, such as 0.1."
        )
    if not given:
        return np.arange(len(images))
    count = (
        args.num_labeled if args.num_labeled is not None else max(1, round((args.labeled_fraction or 0) * len(images)))
    )
    return choose_labeled(count, len(images), seed=args.split_seed, labels=labels)


def _unlabeled(
    args: DataArguments, task: str, everything: ImageSet, used: np.ndarray, notes: list[str], token: str | None
) -> ImageSet | None:
    if args.unlabeled_dir is not None and args.unlabeled_dataset_name is not None:
        raise DataError(
            "--unlabeled_dir and --unlabeled_dataset_name both name the unlabeled images. Give one of them."
        )
    if args.unlabeled_dir is not None or args.unlabeled_dataset_name is not None:
        if args.unlabeled_dir is not None:
            rows = open_unlabeled_folder(args.unlabeled_dir)
        else:
            assert args.unlabeled_dataset_name is not None
            rows = open_unlabeled_table(args.unlabeled_dataset_name, args.unlabeled_split, args.image_column, token)
        found = replace(everything, rows=rows, chosen=np.arange(len(rows.ids)), class_of=None)
        return _without_corrupt(found, args.skip_corrupt_images, "unlabeled", notes)
    rest = np.setdiff1d(np.arange(len(everything)), used)
    return everything.subset(rest) if len(rest) else None


def _without_corrupt(images: ImageSet, skip: bool, role: str, notes: list[str]) -> ImageSet:
    bad = corrupt_images(images)
    if not bad:
        return images
    listed = "\n".join(f"  {text}" for text in list(bad.values())[:_SHOWN])
    more = f"\n  ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    if not skip:
        raise DataError(
            f"{len(bad)} of {len(images)} {role} images cannot be read:\n{listed}{more}\n"
            "Repair or delete them, or leave them out with --skip_corrupt_images."
        )
    notes.append(f"Left out {len(bad)} of {len(images)} {role} images that cannot be read:\n{listed}{more}")
    kept = np.setdiff1d(np.arange(len(images)), np.asarray(list(bad)))
    if not len(kept):
        raise DataError(
            f"None of the {len(images)} {role} images can be read:\n{listed}{more}\nCheck the path and the files."
        )
    return images.subset(kept)


def _check_labeled(labeled: ImageSet, names: list[str], notes: list[str]) -> None:
    """Labels inside the classes, and classes that have no label at all."""
    if labeled.task == "image-classification":
        labels = labeled.labels
        assert labels is not None
        outside = labels[(labels < 0) | (labels >= len(names))]
        if len(outside):
            raise DataError(
                f"Label {int(outside[0])} of {len(outside)} labeled images is outside the {len(names)} classes (0 to "
                f"{len(names) - 1}). -1 usually marks images without a label: move those to the unlabeled set, or "
                "name all "
                "classes with --id2label."
            )
        present = set(labels.tolist())
    else:
        present = set()
        wrong: dict[str, list[int]] = {}
        for name, values in mask_values(labeled).items():
            present |= set(values)
            bad = sorted(value for value in values if not 0 <= value < len(names))
            if bad:
                wrong[name] = bad
        if wrong:
            listed = "\n".join(f"  {name}: {values}" for name, values in list(wrong.items())[:_SHOWN])
            common = sorted({value for values in wrong.values() for value in values})
            remedy = (
                f"If {common[0]} means 'no label', pass --ignore_index {common[0]}"
                if len(common) == 1
                else "Name every class with --id2label"
            )
            raise DataError(
                f"{len(wrong)} masks hold values outside the {len(names)} classes (0 to {len(names) - 1}):\n{listed}\n"
                f"{remedy}; if 0 means 'no label' and classes start at 1, pass --reduce_labels."
            )
        if not present:
            raise DataError(
                "The masks of the labeled images hold nothing but the ignore value: there is nothing to learn from. "
                "Choose "
                "other labeled images, or check --ignore_index and --reduce_labels."
            )
    missing = [name for index, name in enumerate(names) if index not in present]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (" ..." if len(missing) > _SHOWN else "")
        notes.append(
            f"Warning: {len(missing)} of {len(names)} classes have no labeled image and cannot be learned: {shown}. "
            "Label a few "
            "of each, or leave these classes out."
        )
