"""Read an answered labeling queue: people's labels for images on which the members disagree.

The folder is written by `report/queue.py`. It contains the images; `queue.csv` with one question per line; for
classification, a folder per class to move images into; for segmentation, `annotations.json`, COCO with one region per
annotation.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import DataArguments
from ..escaping import from_csv_cell
from ..files import read_csv, read_json
from ..messages import listed, listed_lines
from ..reading.image_set import ClassIds, ImageSet, check_mask_size
from ..reading.rows import DataError, Place, same_letters
from ..tasks import IGNORE_INDEX
from ..texts import texts
from .coco import region_masks
from .scan import ScannedImages

QUEUE_FILE, COCO_FILE, IMAGES = "queue.csv", "annotations.json", "images"
CONTENT = "content"  # the column with a hash of the image's file, by which a replaced image is noticed


def with_answers(
    labeled: ScannedImages, unlabeled: ScannedImages | None, names: Sequence[str], args: DataArguments, notes: list[str]
) -> tuple[ScannedImages, ScannedImages | None]:
    """Move the answered images of `unlabeled` to the end of the labeled ones, with their answers; return both sets.

    Raises:
        DataError: answers that cannot be read, for unknown or replaced images, or with unknown classes.
    """
    row_of = {name: row for row, name in enumerate(unlabeled.images.ids if unlabeled is not None else ())}
    contents = {name: unlabeled.contents[row].decode() for name, row in row_of.items()} if unlabeled is not None else {}
    answers: dict[str, Any] = {}
    for path in args.extra_labels or ():
        more = read_answers(Path(path), labeled.images.task, names, notes, contents)
        _merge(answers, more, path)
    missing = [name for name in answers if name not in row_of]
    if missing or unlabeled is None:
        like = f"; their ids look like {next(iter(row_of))!r}" if row_of else ""
        raise DataError(
            f"{len(missing)} of {len(answers)} answers in `extra_labels` are for images that are not among the "
            f"{len(row_of)} unlabeled ones, for example {missing[0]!r}{like}. Use the data flags of the run that the "
            "queue is from."
        )
    rows = np.asarray([row_of[name] for name in answers], dtype=np.int64)
    chosen = unlabeled.subset(rows)
    values = np.empty(len(answers), dtype=object)
    if labeled.images.task == "semantic-segmentation":
        value_of = {index: value for value, index in labeled.images.classes_of_values(len(names)).items()}
        for place, (name, mask) in enumerate(answers.items()):
            width, height = chosen.sizes[place].tolist()
            check_mask_size(mask.shape, (width, height), name)
            values[place] = tuple(value_of[int(value)] for value in np.unique(mask) if value != IGNORE_INDEX)
    both = _AnsweredRows(labeled.images, chosen.images, list(answers.values()))
    images = labeled.images.of_rows(both)
    if images.task == "image-classification":
        images = replace(images, class_of=None)
    notes.append(f"{len(answers)} unlabeled images are now labeled: {', '.join(args.extra_labels or ())}.")
    others = np.setdiff1d(np.arange(len(unlabeled)), rows)
    left = unlabeled.subset(others) if len(others) else None
    facts = zip(labeled.facts, replace(chosen, values=values).facts, strict=True)
    return ScannedImages(images, *(np.concatenate(both_facts) for both_facts in facts)), left


def _merge(answers: dict[str, Any], more: dict[str, Any], path: str) -> None:
    """Add answers from another source.

    Raises:
        DataError: they contradict existing ones.
    """
    against = []
    for name, answer in more.items():
        before = answers.get(name)
        if isinstance(answer, np.ndarray) and before is not None:
            both = (answer != IGNORE_INDEX) & (before != IGNORE_INDEX) if answer.shape == before.shape else None
            if both is None or (answer[both] != before[both]).any():
                against.append(name)
                continue
            answer = np.where(answer == IGNORE_INDEX, before, answer)
        elif before is not None and before != answer:
            against.append(name)
        answers[name] = answer
    if against:
        raise DataError(
            f"`extra_labels` {path!r} contradicts earlier answers for {len(against)} images: "
            f"{listed(against)}. Decide, and remove one of the answers."
        )


def read_answers(
    path: Path,
    task: str,
    names: Sequence[str],
    notes: list[str] | None = None,
    contents: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Answers by image id: a class, or an (H, W) int64 mask with -100 for "no answer".

    Args:
        path: the folder of a queue, or a file: for classification a CSV with the columns id and label, for segmentation
            COCO regions, with the `queue.csv` beside them that maps regions to images.
        contents: of the images here, a hash of each file by id.

    Raises:
        DataError: not readable, no answers, an unknown class, two contradicting answers, or an answer for an image that
            is another one than in the queue.
    """
    folder = path if path.is_dir() else path.parent
    notes = [] if notes is None else notes
    told = len(notes)
    found: dict[str, Any]
    try:
        if task == "image-classification":
            lines = _table(path / QUEUE_FILE if path.is_dir() else path)
            found = _image_answers(path if path.is_dir() else None, lines, names, notes)
        else:
            coco = read_json(folder / COCO_FILE if path.is_dir() else path)
            lines = _table(folder / QUEUE_FILE)
            found = region_masks(coco, lines, lambda label: _class(label, names), notes)
    except (OSError, ValueError, LookupError, TypeError) as problem:
        if isinstance(problem, DataError):
            raise DataError(f"`extra_labels` {str(path)!r}: {problem}") from problem
        reason = str(problem) if isinstance(problem, OSError) else repr(problem)
        if task == "image-classification":
            way = "or a CSV with the columns id and label"
        else:
            way = f"or its COCO regions with {QUEUE_FILE} beside them. Other masks belong beside the labeled ones"
        raise DataError(
            f"`extra_labels` {str(path)!r} cannot be read ({reason}). Give the folder of a labeling queue, {way}."
        ) from problem
    if not found:
        way = ", or move images into the folder of their class" if task == "image-classification" else ""
        skipped = "".join(f" {note}" for note in notes[told:])
        raise DataError(
            f"`extra_labels` {str(path)!r} contains no answers yet.{skipped} Fill in the column 'label' of "
            f"{QUEUE_FILE}{way}."
        )
    asked = {line["id"]: line[CONTENT] for line in lines if line.get(CONTENT)}  # people's own tables have none
    here = contents or {}
    if replaced := [name for name in found if name in asked and here.get(name, asked[name]) != asked[name]]:
        raise DataError(
            f"`extra_labels` {str(path)!r} has answers for {len(replaced)} images whose files have been replaced since "
            f"the queue was made: {listed(replaced)}. Put the former images back. If an answer holds for the "
            f"new image too, clear its cells in the column {CONTENT!r} of {QUEUE_FILE}; otherwise clear the answer."
        )
    return found


def _table(file: Path) -> list[dict[str, str]]:
    if file.suffix.lower() in (".json", ".jsonl"):
        raise DataError(
            f"{file.name} is not a CSV table. Give a CSV with the columns id and label, such as "
            "`hf-dmt predict PAIR FOLDER --to labels.csv` writes."
        )
    columns, lines = read_csv(file)
    if not {"id", "label"} <= set(columns):
        raise DataError(f"{file.name} has the columns {sorted(columns)}; it needs 'id' and 'label'.")
    return [{key: from_csv_cell(value) for key, value in line.items()} for line in lines]


def _image_answers(
    folder: Path | None, lines: list[dict[str, str]], names: Sequence[str], notes: list[str]
) -> dict[str, int]:
    """The answers in the table and in the folders that images were moved to."""
    moved: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/**/*") if folder else ()):
        inside = file.relative_to(folder or file).parts
        inside = inside[1:] if inside[0] == IMAGES else inside  # images/cat/1.png is an answer, too
        if len(inside) > 1 and not file.name.startswith(".") and file.is_file():
            moved.setdefault(file.name, []).append(inside[0])
    if strangers := [name for name in moved if name not in {line.get("file", "") for line in lines}]:
        notes.append(
            f"Warning: skipped {len(strangers)} images in the class folders of {str(folder)!r} that are not in its "
            f"{QUEUE_FILE}: {listed(strangers)}."
        )
    said: dict[str, list[str]] = {}
    for line in lines:
        answers = [line["label"], *moved.get(line.get("file", ""), [])]
        said.setdefault(line["id"], []).extend(answer for answer in answers if answer)
    against = [
        f"{name}: {' and '.join(map(repr, dict.fromkeys(all)))}" for name, all in said.items() if len(set(all)) > 1
    ]
    if against:
        raise DataError(
            f"{len(against)} images have contradicting answers in the table and the class folders:\n"
            f"{listed_lines(against)}\nDecide: correct the table, or move the image."
        )
    classes: dict[str, int] = {}
    unknown: dict[str, tuple[str, DataError]] = {}  # all at once, so that they can be corrected in one go
    for name, label in ((name, answers[0]) for name, answers in said.items() if answers):
        try:
            classes[name] = _class(label, names)
        except DataError as problem:
            unknown.setdefault(label, (name, problem))
    if len(unknown) > 1:
        shown = listed_lines([f"{reason} (first for {name!r})" for name, reason in unknown.values()])
        raise DataError(f"{len(unknown)} different labels are unknown:\n{shown}\nCorrect them.")
    for _, reason in unknown.values():
        raise reason
    return classes


def _class(label: str, names: Sequence[str]) -> int:
    label = same_letters(label)
    same = [name for name in names if name.casefold() == label.casefold()]
    if label not in names and len(same) == 1:
        return names.index(same[0])
    if label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The classes are: {listed(names, 10)}."
        raise DataError(f"the label {label!r} is not one of the {len(names)} classes. {hint}")
    return names.index(label)


class _AnsweredRows:
    """Labeled images followed by the answered ones; labels are classes."""

    def __init__(self, labeled: ImageSet, answered: ImageSet, answers: Sequence[Any]) -> None:
        self.parts, self.answers = (labeled, answered), answers
        self.labels = labeled.labels  # cached, because the set recomputes them
        self.ids = texts([*labeled.ids, *answered.ids])

    def raw(self, row: int) -> tuple[Any, Any]:
        labeled, answered = self.parts
        if row >= len(labeled):
            place = row - len(labeled)
            answer = self.answers[place]
            mask = answer if isinstance(answer, int) else ClassIds(answer)
            return answered.rows.raw(int(answered.chosen[place]))[0], mask
        image, target = labeled.rows.raw(int(labeled.chosen[row]))
        return image, target if self.labels is None else int(self.labels[row])

    def targets(self) -> Sequence[Any] | None:
        return None if self.labels is None else [*self.labels.tolist(), *self.answers]

    def places(self, row: int) -> tuple[Place | None, Place | None]:
        labeled, answered = self.parts
        if row < len(labeled):
            return labeled.rows.places(int(labeled.chosen[row]))
        return answered.rows.places(int(answered.chosen[row - len(labeled)]))[0], None
