"""The labeling queue: which questions it asks, and that its regions have the shapes that the models predicted."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.data.splitting.answers import read_answers
from hf_dmt.data.splitting.coco import region_masks
from hf_dmt.report.queue import polygons, regions, write_queue
from tests.report.runs import write_run

NAMES = ["sky", "tree", "a/b"]


class Unlabeled(list[dict[str, Any]]):
    """Images of one shade each, so that a file shows which image it is."""

    def __init__(self, ids: list[str], size: tuple[int, int] = (40, 30)) -> None:
        super().__init__({"image": Image.new("RGB", size, (10 * row, 0, 0))} for row in range(len(ids)))
        self.ids = ids


def blob(seed: int, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Ragged shapes with holes, down to single pixels that touch at corners."""
    coarse = np.random.default_rng(seed).random((shape[0] // 2, shape[1] // 2)) < 0.6
    return coarse.repeat(2, axis=0).repeat(2, axis=1) ^ (np.random.default_rng(seed + 1).random(shape) < 0.05)


def drawn(outline: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """The mask that the reader of answers makes of polygons: `(H, W)` bool."""
    coco = {
        "images": [{"id": 1, "file_name": "1.png", "width": size[0], "height": size[1]}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": outline}],
    }
    lines = [{"file": "1.png", "id": "x", "annotation": "1", "label": ""}]
    return region_masks(coco, lines, lambda name: 1, [])["x"] == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("times", [1, 3])
def test_polygons_hold_exactly_the_pixels_of_their_region(tmp_path: Path, seed: int, times: int) -> None:
    """Guards against outlines half a pixel off, filled holes, and shapes at the scale of the small label map on the
    large image."""
    labels_a = blob(seed).astype(np.uint8)
    stores = {}
    for name, labels in (("a", labels_a), ("b", 1 - labels_a)):
        stores[name] = PixelLabels(tmp_path / name)
        stores[name].write(0, labels, np.full(labels.shape, 50_000, dtype=np.uint16))
        stores[name].finish({}, [0, 0])
    seen = np.zeros(labels_a.shape, dtype=int)
    for region in regions(stores["a"], stores["b"], 0):
        expected = np.zeros(labels_a.shape, dtype=bool)
        height, width = region.inside.shape
        expected[region.top : region.top + height, region.left : region.left + width] = region.inside
        size = (40 * times, 30 * times)
        mask = drawn(polygons(region, size), size)
        centers = mask[times // 2 :: times, times // 2 :: times]
        assert np.array_equal(centers, expected)
        assert (labels_a[expected] == region.a).all() and region.b == 1 - region.a
        seen += expected
    assert (seen == 1).all()


def test_a_polygon_that_leaves_the_image_is_cut() -> None:
    """Annotation programs let outlines leave the image. Guards against a negative index that would paint the opposite
    side."""
    mask = drawn([[-5, -5, 3, -5, 3, 3, -5, 3], [20, 20, 30, 20, 30, 30]], (10, 10))
    assert mask.sum() == 9 and mask[:3, :3].all()


def test_no_cell_is_a_formula_and_every_id_comes_back(tmp_path: Path) -> None:
    """Guards against a spreadsheet that runs `=HYPERLINK(...)` from a file name, and against answers that match no
    image."""
    ids = ["=1+1.jpg", "@SUM(A1).jpg", "'-2.jpg", "-3.jpg", "plain.jpg", "+4.jpg"]
    run = write_run(tmp_path / "run", classes=["=cmd", "tree"], ids=ids, phases=2)
    for name, label in (("a", 0), ("b", 1)):
        made = ImageLabels(np.full(6, label), np.full(6, 0.9, dtype=np.float32), np.ones(6, dtype=bool))
        made.write(run / "pseudo_labels" / "phase-1" / name, ids, {"phase": 1})
    assert write_queue(run, Unlabeled(ids), tmp_path / "queue") == 6
    file = tmp_path / "queue" / "queue.csv"
    rows = list(csv.reader(file.read_text("utf-8-sig").splitlines()))
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@")]
    answered = [[*row[:2], "'=cmd", *row[3:]] for row in rows[1:]]
    with open(file, "w", newline="") as table:
        csv.writer(table).writerows([rows[0], *answered])
    found = read_answers(tmp_path / "queue", "image-classification", ["=cmd", "tree"])
    assert found == dict.fromkeys(ids, 0)


def test_images_come_strongest_first_with_both_opinions(tmp_path: Path) -> None:
    """Guards against another image's picture beside an id, and against a queue that begins where both models only
    guess."""
    ids = [f"img/{row}.jpg" for row in range(6)]
    run = write_run(tmp_path / "run", classes=NAMES, ids=ids, phases=2)
    said = {
        "a": ([0, 0, 1, 1, 2, 0], [0.9, 0.6, 0.99, 0.8, 0.7, 0.5]),
        "b": ([0, 1, 0, 2, 2, 1], [0.9, 0.9, 0.95, 0.7, 0.7, 0.4]),
    }
    for name, (labels, sure) in said.items():
        made = ImageLabels(np.array(labels), np.array(sure, dtype=np.float32), np.ones(6, dtype=bool))
        made.write(run / "pseudo_labels" / "phase-1" / name, ids, {"phase": 1})
    assert write_queue(run, Unlabeled(ids), tmp_path / "queue", count=3) == 3
    lines = list(csv.DictReader((tmp_path / "queue" / "queue.csv").read_text("utf-8-sig").splitlines()))
    assert [line["id"] for line in lines] == ["img/2.jpg", "img/3.jpg", "img/1.jpg"]
    assert lines[0] == {
        **{"file": "0001.png", "id": "img/2.jpg", "label": "", "a": "tree", "b": "sky"},
        **{"a_confidence": "0.99", "b_confidence": "0.95", "content": ""},
    }
    shades = [Image.open(tmp_path / "queue" / "images" / line["file"]).getpixel((0, 0)) for line in lines]
    assert [shade[0] for shade in shades] == [20, 30, 10]  # type: ignore[index]
    # A class that cannot be a folder's name is answered in the table.
    assert {path.name for path in (tmp_path / "queue").iterdir()} == {"images", "queue.csv", "sky", "tree"}


def test_regions_come_as_coco_that_reads_back(tmp_path: Path) -> None:
    """Guards against an annotation file that programs refuse, and against answers that end up on another image or
    place."""
    ids = ["x.jpg", "y.jpg"]
    run = write_run(tmp_path / "run", classes=NAMES, ids=ids, phases=2, pixels=True, store=False)
    base = np.zeros((2, 15, 20), dtype=np.uint8)
    other = base.copy()
    other[0, 2:5, 3:9], other[1, 10:, 10:] = 1, 2
    codes = np.full((15, 20), 60_000, dtype=np.uint16)
    for name, maps in (("a", base), ("b", other)):
        store = PixelLabels(run / "pseudo_labels" / "phase-1" / name)
        for row in range(2):
            store.write(row, maps[row], codes)
        store.finish({"phase": 1}, [0, 0, 0])
    assert write_queue(run, Unlabeled(ids), tmp_path / "queue", count=10) == 2
    file = tmp_path / "queue" / "annotations.json"
    coco = json.loads(file.read_text())
    assert [image["width"] for image in coco["images"]] == [40, 40]
    by_image = {image["id"]: image["file_name"] for image in coco["images"]}
    assert all((tmp_path / "queue" / "images" / name).is_file() for name in by_image.values())
    largest, smaller = coco["annotations"]
    assert largest["bbox"] == [20, 20, 20, 10] and largest["area"] == 200
    assert smaller["bbox"] == [6, 4, 12, 6] and smaller["area"] == 72
    # One is answered in an annotation program, one in the table.
    smaller["category_id"] = next(entry["id"] for entry in coco["categories"] if entry["name"] == "tree")
    file.write_text(json.dumps(coco))
    table = tmp_path / "queue" / "queue.csv"
    table.write_text(table.read_text("utf-8-sig").replace(",1,,sky,a/b", ",1,a/b,sky,a/b"))
    found = read_answers(tmp_path / "queue", "semantic-segmentation", NAMES)
    large = other.astype(int).repeat(2, axis=1).repeat(2, axis=2)
    expected = np.where(large == 0, -100, large)
    assert found.keys() == {"x.jpg", "y.jpg"}
    for name, mask in zip(ids, expected, strict=True):
        assert (found[name] != mask).sum() <= 4  # outlines of a smaller label map cut corners


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ids": ["other"] * 200}, "are not those labeled by the run"),
        ({"store": False}, "has no pseudo labels of both models"),
        ({"full": True}, "is not an empty folder"),
        ({"alike": True}, "Both models of the run .* label all unlabeled images alike"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """Guards against questions about other images that happen to be as many, and against overwriting somebody's
    answers."""
    run = write_run(tmp_path / "run", store=change.get("store", True))
    ids = change.get("ids") or json.loads((run / "split.json").read_text())["unlabeled"]
    if change.get("full"):
        (tmp_path / "queue").mkdir()
        (tmp_path / "queue" / "queue.csv").write_text("id,label\n1,cat\n")
    if change.get("alike"):
        for a in (run / "pseudo_labels").glob("*/a"):
            shutil.copytree(a, a.parent / "b", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=reason):
        write_queue(run, Unlabeled(ids), tmp_path / "queue")
