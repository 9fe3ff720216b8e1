"""Read COCO regions from an annotation tool into one mask per image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..messages import listed, listed_lines
from ..reading.rows import DataError
from ..tasks import IGNORE_INDEX

TO_LABEL = "to label"  # the category of regions that nobody has answered yet
_SAME_REGION = 0.5  # intersection over union above which two regions are the same
_Region = tuple[int, np.ndarray, Any]  # class, (H, W) bool, and id of an annotation
_NEAR = 1.5  # pixels between the corners of a box and the same box after rounding by a tool


def region_masks(
    coco: Mapping[str, Any], lines: Sequence[Mapping[str, str]], class_of: Callable[[str], int], notes: list[str]
) -> dict[str, np.ndarray]:
    """`(H, W)` int64 class ids by image id, -100 for "no answer".

    A region is a polygon, a box or a run-length mask. Pixels where regions of different classes overlap slightly, as
    hand-drawn outlines do, get no answer.

    Args:
        lines: the queue's table; its labels count for regions that still have the category `TO_LABEL`.
        class_of: the class of a name; raises for unknown names.

    Raises:
        DataError: regions that contradict each other, invalid regions, or regions of images that are not in the queue.
    """
    id_of = {line["file"]: line["id"] for line in lines}
    images = _by_id([(image["id"], image) for image in coco["images"]], "image")
    categories = _by_id([(category["id"], str(category["name"])) for category in coco["categories"]], "category")
    labels = _labels(coco["annotations"], categories, images, lines)
    drawn: dict[str, list[_Region]] = {}
    for annotation in coco["annotations"]:
        label = labels.get(str(annotation["id"]))
        if not label:
            continue
        image = _entry(images, annotation["image_id"], annotation, "image")
        name = id_of[_file_of(image, id_of)]
        inside = _pixels(annotation, int(image["height"]), int(image["width"]))
        if inside.any():
            drawn.setdefault(name, []).append((class_of(label), inside, annotation["id"]))
        else:
            notes.append(f"Warning: annotation {annotation['id']} covers no pixel of {name} and is ignored.")
    _check_contradictions(drawn)
    return {name: _together(name, regions, notes) for name, regions in drawn.items()}


def _by_id(entries: Sequence[tuple[Any, Any]], what: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, entry in entries:
        if found.setdefault(key, entry) != entry:
            raise DataError(
                f"{what} {key!r} is in the file twice, with different contents, so which one an annotation means is "
                "unknown. Export each queue to a file of its own."
            )
    return found


def _entry(entries: Mapping[Any, Any], key: Any, annotation: Mapping[str, Any], what: str) -> Any:
    if key not in entries:
        raise DataError(
            f"annotation {annotation['id']} is of {what} {key!r}, but the file lists no such id. Export it again."
        )
    return entries[key]


def _labels(
    annotations: Sequence[Mapping[str, Any]],
    categories: Mapping[Any, str],
    images: Mapping[Any, Any],
    lines: Sequence[Mapping[str, str]],
) -> dict[str, str]:
    """The class given to each annotation, by its id; unanswered ones are omitted."""
    by_key = {str(one["id"]): one for one in annotations}
    named = {str(one["id"]): _entry(categories, one["category_id"], one, "category") for one in annotations}
    found = {key: name for key, name in named.items() if name != TO_LABEL}
    said: dict[str, str] = {}
    lost, contradictions = [], []
    for line in lines:
        if not line["label"]:
            continue
        key = line.get("annotation", "")
        if key not in by_key or not _is_at(by_key[key], line, images):
            # Tools renumber annotations, but the position of a region stays.
            placed = [other for other, annotation in by_key.items() if _is_at(annotation, line, images, strictly=True)]
            if len(placed) != 1:
                lost.append(f"{line['file']}, annotation {key}: {line['label']}")
                continue
            key = placed[0]
        for other in (said.get(key), found.get(key)):
            if other and other != line["label"]:
                contradictions.append(f"annotation {key} is {line['label']!r} in the table and {other!r} elsewhere")
        said[key] = line["label"]
    if contradictions:
        raise DataError(
            f"{len(contradictions)} answers contradict:\n{listed_lines(contradictions)}\nDecide, and correct "
            "one of the two."
        )
    if lost:
        raise DataError(
            f"{len(lost)} answers in the table are for regions that are not in the annotations:\n"
            f"{listed_lines(lost)}\nThe tool has renumbered them: name the classes in the tool, or use the "
            "original file of the queue."
        )
    return found | said


def _is_at(
    annotation: Mapping[str, Any], line: Mapping[str, str], images: Mapping[Any, Any], *, strictly: bool = False
) -> bool:
    """Whether an annotation is where the table says; if the table has no position, the answer is `not strictly`."""
    try:
        place = [float(line[side]) for side in ("x", "y", "width", "height")]
    except (KeyError, ValueError):
        return not strictly
    image = images.get(annotation["image_id"], {})
    if _last(str(image.get("file_name", ""))).endswith(line["file"]):
        box = annotation.get("bbox") or []
        return len(box) == 4 and bool(np.abs(np.subtract(box, place)).max() <= _NEAR)
    return False


def _file_of(image: Mapping[str, Any], id_of: Mapping[str, str]) -> str:
    """The queue's name of an image, to which tools add folders and prefixes."""
    name = _last(str(image["file_name"]))
    found = [name] if name in id_of else [file for file in id_of if re.fullmatch(rf".*[-_.]{re.escape(file)}", name)]
    if len(found) != 1:
        shown = listed(id_of)
        raise DataError(
            f"the image {image['file_name']!r} is not one of the {len(id_of)} in the queue ({shown}). Keep the file "
            "names, or remove this image."
        )
    return found[0]


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _pixels(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """`(H, W)` bool: the pixels of an annotation."""
    from pycocotools import mask as coco_mask

    number, shape = annotation["id"], annotation.get("segmentation")
    if not shape:  # a rectangle, as exported by some tools
        box = annotation.get("bbox") or []
        if len(box) != 4 or not (np.isfinite(box).all() and box[2] > 0 and box[3] > 0):
            raise DataError(f"annotation {number} has neither a polygon nor a box. Draw it again, or delete it.")
        x, y, w, h = map(float, box)
        # CVAT turns a box clockwise around its center, and exports the box before the turn.
        more = annotation.get("attributes")
        turn = np.deg2rad(float(more.get("rotation") or 0) if isinstance(more, Mapping) else 0.0)
        corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
        turned = corners @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
        shape = [np.add(turned, (x + w / 2, y + h / 2)).ravel().tolist()]
    try:
        if isinstance(shape, Mapping):
            if [int(side) for side in shape["size"]] != [height, width]:
                raise ValueError(f"its size is {shape['size']}, but that of the image is {[height, width]}")
            counts = shape["counts"]
            if not isinstance(counts, str) and (min(counts) < 0 or sum(counts) != height * width):
                raise ValueError("its counts do not add up to the pixels of the image")
            runs = shape if isinstance(counts, str) else coco_mask.frPyObjects(dict(shape), height, width)
            return np.asarray(coco_mask.decode(runs), dtype=bool)
        polygons = [shape] if not isinstance(shape[0], Sequence) else list(shape)
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(np.asarray(polygon, dtype=float)).all():
                raise ValueError(
                    f"one of its polygons has {len(polygon)} numbers, but needs x and y of at least three corners"
                )
        return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))), dtype=bool)
    except (ValueError, TypeError, KeyError) as problem:
        raise DataError(
            f"annotation {number} is not a valid region: {problem}. Draw it again, or delete it."
        ) from problem


def _check_contradictions(drawn: Mapping[str, Sequence[_Region]]) -> None:
    twice = [
        f"{name}: annotations {number} and {other_number} are the same region with two classes"
        for name, regions in drawn.items()
        for (label, inside, number), (other_label, other, other_number) in combinations(regions, 2)
        if label != other_label and (inside & other).sum() >= _SAME_REGION * (inside | other).sum()
    ]
    if twice:
        raise DataError(f"{len(twice)} answers contradict:\n{listed_lines(twice)}\nDecide, and delete one of the two.")


def _together(name: str, regions: Sequence[_Region], notes: list[str]) -> np.ndarray:
    mask = np.full(regions[0][1].shape, IGNORE_INDEX, dtype=np.int64)
    disputed = np.zeros(mask.shape, dtype=bool)
    for label, inside, _ in regions:
        disputed |= inside & (mask != IGNORE_INDEX) & (mask != label)
        mask[inside] = label
    mask[disputed] = IGNORE_INDEX
    if disputed.any():
        notes.append(
            f"Regions of different classes overlap on {disputed.sum()} pixels of {name}; these pixels are ignored."
        )
    return mask
