"""A labeling queue, answered: what people said of unlabeled images that the members contradict each other on.

The folder, which `report/queue.py` writes: the images; `queue.csv`, one question a line; for classification a folder
for each class to move images into; for segmentation `annotations.json`, COCO with one polygon a region.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import DataArguments
from ..escaping import from_csv_cell
from ..reading.rows import DataError
from ..reading.sources import ImageSet
from ..tasks import IGNORE_INDEX
from .scan import ScannedImages

QUEUE_FILE, COCO_FILE, IMAGES = "queue.csv", "annotations.json", "images"
TO_LABEL = "to label"  # the category of regions that nobody has answered yet


def with_answers(
    labeled: ScannedImages, unlabeled: ScannedImages | None, names: Sequence[str], args: DataArguments, notes: list[str]
) -> tuple[ScannedImages, ScannedImages | None]:
    """The answered images of `unlabeled`, with their answers, behind the labeled ones; and what is left unlabeled.

    Raises:
        DataError: answers that cannot be read, to images that are not there, or with classes that do not exist.
    """
    answers: dict[str, Any] = {}
    for path in args.extra_labels or ():
        answers |= read_answers(Path(path), labeled.images.task, names)
    row_of = {name: row for row, name in enumerate(unlabeled.images.ids if unlabeled is not None else ())}
    missing = [name for name in answers if name not in row_of]
    if missing or unlabeled is None:
        like = f"; their ids look like {next(iter(row_of))!r}" if row_of else ""
        raise DataError(
            f"{len(missing)} of {len(answers)} answers in --extra_labels are to images that are not among the "
            f"{len(row_of)} unlabeled ones, for example {missing[0]!r}{like}. Give the flags of the run that the queue "
            "is from."
        )
    rows = np.asarray([row_of[name] for name in answers], dtype=np.int64)
    chosen = unlabeled.subset(rows)
    both = _AnsweredRows(labeled.images, chosen.images, list(answers.values()), args)
    values = np.empty(len(answers), dtype=object)
    if labeled.images.task == "semantic-segmentation":
        for place, mask in enumerate(answers.values()):
            values[place] = tuple(int(value) for value in np.unique(mask) if value != IGNORE_INDEX)
    images = replace(labeled.images, rows=both, chosen=np.arange(len(both.ids)), class_of=None)
    notes.append(f"{len(answers)} unlabeled images are labeled now: {', '.join(args.extra_labels or ())}.")
    sides = np.concatenate([labeled.shorter_sides, chosen.shorter_sides])
    others = np.setdiff1d(np.arange(len(unlabeled)), rows)
    left = unlabeled.subset(others) if len(others) else None
    return ScannedImages(images, sides, np.concatenate([labeled.values, values])), left


def read_answers(path: Path, task: str, names: Sequence[str]) -> dict[str, Any]:
    """Answers by the id of the image: a class, or an (H, W) int64 mask with -100 where nothing was said.

    Args:
        path: the folder of a queue; or a file: for images a CSV with the columns id and label, for pixels COCO polygons
            with the `queue.csv` beside them that tells which image is which.

    Raises:
        DataError: not readable, no answer in it, or one that is no class.
    """
    folder = path if path.is_dir() else path.parent
    found: dict[str, Any]
    try:
        if task == "image-classification":
            lines = _read_csv(path / QUEUE_FILE if path.is_dir() else path)
            found = _image_answers(path if path.is_dir() else None, lines, names)
        else:
            coco = json.loads((folder / COCO_FILE if path.is_dir() else path).read_text(encoding="utf-8"))
            found = _masks(coco, _read_csv(folder / QUEUE_FILE), names)
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as problem:
        if isinstance(problem, DataError):
            raise DataError(f"--extra_labels {str(path)!r}: {problem}") from problem
        reason = str(problem) if isinstance(problem, OSError) else repr(problem)
        raise DataError(
            f"--extra_labels {str(path)!r} cannot be read ({reason}). Give the folder of a labeling queue, "
            + ("or a CSV with the columns id and label." if task == "image-classification" else "or COCO polygons.")
        ) from problem
    if not found:
        raise DataError(
            f"--extra_labels {str(path)!r} holds no answer yet. Fill in the column 'label' of {QUEUE_FILE}"
            + (", or move images into the folder of their class." if task == "image-classification" else ".")
        )
    return found


def _read_csv(file: Path) -> list[dict[str, str]]:
    text = file.read_text(encoding="utf-8-sig")  # Windows editors write a byte order mark
    # Where the comma is the decimal sign, spreadsheets separate by semicolons.
    first = text.partition("\n")[0]
    lines = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    columns = set(lines.fieldnames or ())
    if not {"id", "label"} <= columns:
        raise DataError(f"{file.name} has the columns {sorted(columns)}; it needs 'id' and 'label'.")
    return [{key: from_csv_cell((value or "").strip()) for key, value in line.items() if key} for line in lines]


def _image_answers(folder: Path | None, lines: list[dict[str, str]], names: Sequence[str]) -> dict[str, int]:
    """The label in the table, else the folder that the image was moved into."""
    files = folder.glob("*/*") if folder else ()
    moved = {file.name: file.parent.name for file in files if file.parent.name != IMAGES}
    said = {line["id"]: line["label"] or moved.get(line.get("file", ""), "") for line in lines}
    return {name: _class(label, names) for name, label in said.items() if label}


def _class(label: str, names: Sequence[str]) -> int:
    if label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The classes are: {', '.join(names[:10])}."
        raise DataError(f"the label {label!r} is none of the {len(names)} classes. {hint}")
    return names.index(label)


def _masks(coco: dict[str, Any], lines: list[dict[str, str]], names: Sequence[str]) -> dict[str, np.ndarray]:
    id_of = {line["file"]: line["id"] for line in lines}
    in_table = {line["annotation"]: line["label"] for line in lines if line["label"]}
    images = {image["id"]: image for image in coco["images"]}
    categories = {category["id"]: str(category["name"]) for category in coco["categories"]}
    found: dict[str, np.ndarray] = {}
    for annotation in coco["annotations"]:
        image, label = images[annotation["image_id"]], categories[annotation["category_id"]]
        if label == TO_LABEL:
            label = in_table.get(str(annotation["id"]), "")
        if not label:
            continue
        if not isinstance(annotation["segmentation"], list):
            raise DataError(f"annotation {annotation['id']} is run-length encoded. Export polygons.")
        name = id_of[Path(image["file_name"]).name]
        mask = found.setdefault(name, np.full((image["height"], image["width"]), IGNORE_INDEX, dtype=np.int64))
        for polygon in annotation["segmentation"]:
            fill(mask, polygon, _class(label, names))
    return found


def fill(mask: np.ndarray, polygon: Sequence[float], value: int) -> None:
    """Set the pixels of an (H, W) mask whose centre lies in a polygon `[x, y, x, y, ...]` in pixels (even-odd rule).

    Pillow and Matplotlib draw polygons for the eye: part of the outline, and the cuts to holes, would come along.
    """
    height, width = mask.shape
    x, y = np.asarray(polygon, dtype=float).reshape(-1, 2).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    first, last = (int(np.clip(bound, 0, height)) for bound in (np.floor(y.min()), np.ceil(y.max())))
    centre = np.arange(first, last)[:, None] + 0.5
    row, edge = np.nonzero((y <= centre) != (next_y <= centre))
    slope = (next_x - x)[edge] / (next_y - y)[edge]
    crossing = x[edge] + (centre[row, 0] - y[edge]) * slope
    # A crossing turns inside and outside for all pixels of the row whose centre is right of it.
    turns = np.zeros((last - first, width + 1), dtype=np.int64)
    np.add.at(turns, (row, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)), 1)
    mask[first:last][turns[:, :width].cumsum(axis=1) % 2 == 1] = value


class _AnsweredRows:
    """Labeled images and after them the answered ones; labels are classes, masks as the run's own mask files are."""

    def __init__(self, labeled: ImageSet, answered: ImageSet, answers: Sequence[Any], args: DataArguments) -> None:
        self.parts, self.answers, self.args = (labeled, answered), answers, args
        self.ids = [*labeled.ids, *answered.ids]

    def raw(self, row: int) -> tuple[Any, Any]:
        labeled, answered = self.parts
        if row >= len(labeled):
            place = row - len(labeled)
            return answered.rows.raw(int(answered.chosen[place]))[0], self._as_given(self.answers[place])
        image, target = labeled.rows.raw(int(labeled.chosen[row]))
        return image, target if labeled.labels is None else int(labeled.labels[row])

    def targets(self) -> Sequence[Any] | None:
        labels = self.parts[0].labels
        return None if labels is None else [*labels.tolist(), *self.answers]

    def _as_given(self, answer: Any) -> Any:
        if isinstance(answer, int):
            return answer
        classes = answer + 1 if self.args.reduce_labels else answer
        return np.where(answer == IGNORE_INDEX, self.args.ignore_index, classes)
