"""A labeling queue: the unlabeled images, or regions in them, on which two models disagree most.

It is written in formats for people and annotation tools; `data/splitting/answers.py` reads it back.
"""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from PIL import Image
from scipy import ndimage

from ..data.escaping import csv_cell
from ..data.files import write_aside, write_json
from ..data.labels.disagreement import contradicting_images, contradiction
from ..data.labels.pseudo_labels import ImageLabels, PixelLabels, is_complete
from ..data.members import MEMBERS
from ..data.reading.decoding import to_rgb
from ..data.reading.image_set import ImageSet
from ..data.reading.looks import look_at_image
from ..data.splitting.answers import COCO_FILE, CONTENT, IMAGES, QUEUE_FILE
from ..data.splitting.coco import TO_LABEL
from .run import Run, read_run

_JPEG_FROM = 512  # longer side in pixels; smaller images are stored losslessly, as PNG


@dataclass(frozen=True)
class Region:
    """Connected pixels of one image to which the models give the same two different labels.

    Attributes:
        score: sum of the disagreement in it over the pixels of the image.
        left, top: of `inside`, (h, w) bool, in the label maps of `shape` (H, W).
    """

    row: int
    score: float
    a: int
    b: int
    left: int
    top: int
    inside: np.ndarray
    shape: tuple[int, ...]


def write_queue(folder: str | Path, unlabeled: Any, to: str | Path, *, count: int = 100) -> int:
    """Write the strongest disagreements in a run's last labels, strongest first.

    Args:
        folder: of the run.
        unlabeled: its images, map-style with `ids`.
        to: a new folder.
        count: number of images; for segmentation, of regions.

    Returns:
        How many there are, at most `count`.

    Raises:
        ValueError: no labels are stored or both models agree on all of them, the images are not those of the run, or
            `to` is not empty.
    """
    run, to = read_run(folder), Path(to)
    stores = _last_stores(run)
    if list(unlabeled.ids) != run.split.get("unlabeled"):
        raise ValueError(
            f"These {len(unlabeled)} unlabeled images are not those labeled by the run in {str(folder)!r} "
            f"({len(run.split.get('unlabeled') or ())}). Repeat the data flags that the run was started with."
        )
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{str(to)!r} is not an empty folder and may contain answers. Choose another one.")
    write = _write_regions if run.is_pixels else _write_images
    return write(run, stores, unlabeled, to, count)


def regions(a: PixelLabels, b: PixelLabels, row: int) -> Iterator[Region]:
    """All regions of disagreement in an image's label maps."""
    labels_a, labels_b, strength = contradiction(a, b, row)
    pairs = np.stack([labels_a, labels_b])[:, strength > 0]
    for of_a, of_b in np.unique(pairs, axis=1).T.tolist():
        numbered, _ = ndimage.label((labels_a == of_a) & (labels_b == of_b))
        for number, box in enumerate(ndimage.find_objects(numbered), start=1):
            inside = numbered[box] == number
            score = float(strength[box][inside].sum() / strength.size)
            top, left = (side.start for side in box)
            yield Region(row, score, of_a, of_b, left, top, inside, strength.shape)


def polygons(region: Region, size: tuple[int, int]) -> list[list[float]]:
    """A region's outline as `[x, y, x, y, ...]` in an image of `size` (width, height), which may be larger than its
    maps. A hole is connected to the outline by a zero-width cut, because COCO polygons have no holes."""
    padded = np.pad(region.inside, 1).astype(float)
    filled: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    scale = np.array(size) / region.shape[::-1]
    found = []
    for ring, starts in zip(*filled, strict=True):
        parts = np.split(ring, starts[1:-1])
        path = np.concatenate([part for outline in parts for part in (outline, ring[:1])])
        # A grid point is the center of a pixel, and the padding shifted it by one.
        found.append(((path - 0.5 + (region.left, region.top)) * scale).round(2).ravel().tolist())
    return found


def _last_stores(run: Run) -> dict[str, Path]:
    for entry in reversed(run.labeled_phases):
        stores = {name: run.folder / "pseudo_labels" / f"phase-{entry['phase']}" / name for name in MEMBERS}
        if all(map(is_complete, stores.values())):
            return stores
    raise ValueError(
        f"{str(run.folder)!r} has no pseudo labels of both models, so their disagreements are unknown. Give the "
        "folder of a run with phases on unlabeled images, on the machine where it ran."
    )


def _write_images(run: Run, stores: dict[str, Path], unlabeled: Any, to: Path, count: int) -> int:
    made = {name: ImageLabels.read(store) for name, store in stores.items()}
    lines = []
    chosen = contradicting_images(made["a"], made["b"])[:count].tolist()
    _check_any(chosen, run)
    for place, row in enumerate(chosen, start=1):
        file = _save(to_rgb(unlabeled[row]["image"]), to, place)
        said = {name: run.class_names[made[name].labels[row]] for name in MEMBERS}
        sure = {f"{name}_confidence": round(float(made[name].confidence[row]), 4) for name in MEMBERS}
        asked = {"file": file, "id": unlabeled.ids[row], "label": "", **said, **sure}
        lines.append(asked | {CONTENT: _content(unlabeled, row)})
    for name in run.class_names:
        if _is_folder_name(name):
            (to / name).mkdir(parents=True, exist_ok=True)
    _write_table(to, lines)
    return len(lines)


def _write_regions(run: Run, stores: dict[str, Path], unlabeled: Any, to: Path, count: int) -> int:
    a, b = (PixelLabels.read(store) for store in stores.values())
    everything = (region for row in range(len(unlabeled)) for region in regions(a, b, row))
    # Only the best `count` are kept at any time, whatever the number of images.
    best = heapq.nlargest(count, everything, key=lambda region: region.score)
    _check_any(best, run)
    lines: list[dict[str, Any]] = []
    images: dict[int, dict[str, Any]] = {}
    contents: dict[int, str] = {}
    annotations = []
    for number, region in enumerate(best, start=1):
        if region.row not in images:
            place = len(images) + 1
            image = to_rgb(unlabeled[region.row]["image"])
            name = _save(image, to, place)
            images[region.row] = {"id": place, "file_name": name, "width": image.width, "height": image.height}
            contents[region.row] = _content(unlabeled, region.row)
        entry = images[region.row]
        outline = polygons(region, (entry["width"], entry["height"]))
        x, y = np.concatenate([np.reshape(ring, (-1, 2)) for ring in outline]).T
        box = [round(float(value), 2) for value in (x.min(), y.min(), np.ptp(x), np.ptp(y))]
        area = region.inside.sum() * entry["width"] * entry["height"] / np.prod(region.shape)
        annotations.append(
            {
                "id": number,
                "image_id": entry["id"],
                "category_id": len(run.class_names) + 1,
                "segmentation": outline,
                "bbox": box,
                "area": round(float(area), 2),
                "iscrowd": 0,
            }
        )
        said = {"a": run.class_names[region.a], "b": run.class_names[region.b]}
        place_in_image = dict(zip(("x", "y", "width", "height"), box, strict=True))
        known = {"file": entry["file_name"], "id": unlabeled.ids[region.row], "annotation": number}
        lines.append({**known, "label": "", **said, **place_in_image, CONTENT: contents[region.row]})
    # Category ids start at 1, because some tools use 0 for the background.
    categories = [{"id": at, "name": name} for at, name in enumerate([*run.class_names, TO_LABEL], start=1)]
    write_json(to / COCO_FILE, {"images": [*images.values()], "annotations": annotations, "categories": categories})
    _write_table(to, lines)
    return len(lines)


def _check_any(found: Sized, run: Run) -> None:
    if not len(found):
        raise ValueError(
            f"Both models of the run in {str(run.folder)!r} label all unlabeled images alike, so there is no "
            "disagreement to resolve. Choose images by the confidences that `hf-dmt predict` writes."
        )


def _save(image: Image.Image, to: Path, place: int) -> str:
    small = max(image.size) < _JPEG_FROM
    name, buffer = f"{place:04d}.{'png' if small else 'jpg'}", io.BytesIO()
    image.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 95}))
    write_aside(to / IMAGES / name, buffer.getvalue())
    return name


def _content(images: Any, row: int) -> str:
    """The hash of an image's file that a scan finds; empty if the images are not files."""
    if not isinstance(images, ImageSet):
        return ""
    return look_at_image(images.rows.raw(int(images.chosen[row]))[0], images.id_of(row)).content


def _write_table(to: Path, lines: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]))
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in line.items()} for line in lines)
    # without the byte order mark, Excel garbles names
    write_aside(to / QUEUE_FILE, text.getvalue().encode("utf-8-sig"))


def _is_folder_name(name: str) -> bool:
    return name not in ("", ".", "..", IMAGES) and not set(name) & set('/\\:*?"<>|\0')
