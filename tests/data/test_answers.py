"""Answers to a labeling queue, as written by people and annotation tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading.rows import DataError
from hf_dmt.data.splitting.answers import read_answers
from hf_dmt.data.splitting.assemble import assemble
from tests.data.small_files import class_folder, image, save, scene_folder

NAMES = ["cat", "dog", "owl"]
IMAGES, PIXELS = "image-classification", "semantic-segmentation"


@pytest.mark.parametrize(
    "content",
    [
        b"id,label\nx.jpg,cat\ny.jpg,\nz.jpg, owl \n",
        "\ufeffid;note;label\r\nx.jpg;a, b;cat\r\ny.jpg;;\r\nz.jpg;;owl\r\n".encode(),  # from a spreadsheet
        b"label\tid\ncat\tx.jpg\nowl\tz.jpg\n",
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    """Guards against reading questions without an answer as class 0."""
    (tmp_path / "mine.csv").write_bytes(content)
    assert read_answers(tmp_path / "mine.csv", IMAGES, NAMES) == {"x.jpg": 0, "z.jpg": 2}


def test_images_moved_into_the_folder_of_their_class(tmp_path: Path) -> None:
    """Guards against images that stay in `images/` getting a class of that name, and against images moved into a class
    folder not counting as answers."""
    (tmp_path / "queue.csv").write_text("file,id,label\n1.png,x.jpg,\n2.png,y.jpg,\n3.png,z.jpg,owl\n")
    for place in ("dog/found/1.png", "images/2.png", "owl/3.png", "cat/stranger.png"):
        save(image(0), tmp_path / place)
    notes: list[str] = []
    assert read_answers(tmp_path, IMAGES, NAMES, notes) == {"x.jpg": 1, "z.jpg": 2}
    assert len(notes) == 1 and "stranger.png" in notes[0]
    (tmp_path / "images" / "cat").mkdir()
    (tmp_path / "images" / "2.png").rename(tmp_path / "images" / "cat" / "2.png")
    assert read_answers(tmp_path, IMAGES, NAMES)["y.jpg"] == 0


def test_no_answer_because_all_files_were_renamed(tmp_path: Path) -> None:
    """Guards against telling a person who has moved images that none was moved."""
    (tmp_path / "queue.csv").write_text("file,id,label\n1.png,x.jpg,\n")
    save(image(0), tmp_path / "dog" / "a new name.png")
    with pytest.raises(DataError, match=r"no answers yet.*not in its queue.csv: a new name.png\. Fill in"):
        read_answers(tmp_path, IMAGES, NAMES)


def coco(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], **changes}
    return {
        "images": [{"id": 7, "file_name": "sub/1.png", "width": 4, "height": 3}],
        "categories": [{"id": 1, "name": "to label"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "elk"}],
        "annotations": [annotation],
    }


@pytest.mark.parametrize(
    ("task", "files", "reason"),
    [
        (IMAGES, {"queue.csv": "id,label\nx.jpg,dgo\n"}, "'dgo' is not one of the 3 classes. Did you mean 'dog'"),
        (
            IMAGES,
            {"queue.csv": "id,label\nx.jpg,dgo\ny.jpg,ulw\nz.jpg,dgo\n"},
            r"2 different labels are unknown:\n.*'dgo'.*first for 'x.jpg'.*\n.*'ulw'",
        ),
        (IMAGES, {"queue.csv": "id,label\nx.jpg,\n"}, "contains no answers yet.*or move images"),
        (IMAGES, {"queue.csv": "id,label,label\nx.jpg,dog,owl\n"}, "the column 'label' is there twice"),
        (IMAGES, {"queue.csv": 'id,label\n"x.jpg,dog\ny.jpg,owl\n'}, "unexpected end of data"),
        (IMAGES, {"queue.csv": "file,class\nx.jpg,dog\n"}, r"columns \['class', 'file'\]; it needs 'id' and 'label'"),
        (IMAGES, {}, "cannot be read .*queue.csv.*Give the folder of a labeling queue"),
        (PIXELS, {"annotations.json": coco(category_id=1)}, "contains no answers yet"),
        (PIXELS, {"annotations.json": coco(category_id=3)}, "'elk' is not one of the 3 classes"),
        (
            PIXELS,
            {"annotations.json": coco(segmentation=[[0, 0, 2, 2]])},
            "annotation 1 is not a valid region: .* 4 numbers",
        ),
        (PIXELS, {"annotations.json": coco(segmentation=[])}, "annotation 1 has neither a polygon nor a box"),
        (PIXELS, {"annotations.json": coco(segmentation={"size": [3, 4], "counts": [5, 99]})}, "do not add up"),
        (
            PIXELS,
            {"annotations.json": coco(segmentation={"size": [4, 3], "counts": [12]})},
            r"that of the image is \[3, 4",
        ),
        (
            PIXELS,
            {"annotations.json": coco(category_id=4)},
            "annotation 1 is of category 4, but the file lists no such id",
        ),
        (
            PIXELS,
            {"annotations.json": coco(), "queue.csv": "file,id,annotation,label\n1.png,x.jpg,1,owl\n"},
            "1 answers contradict:\n  annotation 1 is 'owl' in the table and 'dog' elsewhere\nDecide",
        ),
        (
            PIXELS,
            {
                "annotations.json": coco(id=9, category_id=1),
                "queue.csv": "file,id,annotation,label\n1.png,x.jpg,1,owl\n",
            },
            "regions that are not in the annotations:\n  1.png, annotation 1: owl\nThe tool has renumbered them",
        ),
        (
            PIXELS,
            {"queue.csv": "file,id,annotation,label\n2.png,x.jpg,1,\n"},
            "'sub/1.png' is not one of the 1 in the queue",
        ),
        (
            IMAGES,
            {"queue.csv": "id,label\nx.jpg,dog\nx.jpg,owl\n"},
            "contradicting answers.*\n  x.jpg: 'dog' and 'owl'",
        ),
        (
            PIXELS,
            {"queue.csv": None},
            "cannot be read .*queue.csv.*COCO regions with queue.csv beside them. Other masks",
        ),
        (PIXELS, {"annotations.json": {"images": []}}, "cannot be read .*categories.*Give the folder"),
        (PIXELS, {"annotations.json": coco(image_id=8)}, "annotation 1 is of image 8, but the file lists no such id"),
    ],
)
def test_answers_that_cannot_be_used(tmp_path: Path, task: str, files: dict[str, Any], reason: str) -> None:
    """Guards against silently ignoring a misspelled class or a file of the wrong kind."""
    if task == PIXELS:
        (tmp_path / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,\n")
        (tmp_path / "annotations.json").write_text(json.dumps(coco()))
    for name, content in files.items():
        if content is None:
            (tmp_path / name).unlink()
            continue
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=reason):
        read_answers(tmp_path, task, NAMES)


RECTANGLE = {"segmentation": [], "bbox": [0, 0, 2, 2]}
ROWS = {"size": [3, 4], "counts": [0, 2, 1, 2, 7]}  # column by column


@pytest.mark.parametrize(
    "changes",
    [
        RECTANGLE,
        {"segmentation": [0, 0, 2, 0, 2, 2, 0, 2]},
        {"segmentation": [[0, 0, 2, 0, 2, 1, 0, 1], [0, 1, 2, 1, 2, 2, 0, 2]]},
        {"segmentation": ROWS, "iscrowd": 1},
        {"segmentation": {"size": [3, 4], "counts": "02106"}},
        {"keypoints": [1, 1, 2], "num_keypoints": 1},
        RECTANGLE | {"attributes": {"occluded": False, "rotation": 0.0}},
        RECTANGLE | {"attributes": {"rotation": 90}},
    ],
    ids=["rectangle", "flat", "two polygons", "runs", "compressed runs", "keypoints", "CVAT", "turned"],
)
@pytest.mark.parametrize("file_name", ["1.png", "images\\1.png", "C:\\queue\\images\\1.png", "upload/90fbb0c7-1.png"])
def test_regions_as_programs_write_them(tmp_path: Path, changes: dict[str, Any], file_name: str) -> None:
    """Guards against ignoring a rectangle without a polygon although its image was already removed from the unlabeled
    set."""
    (tmp_path / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,\n2.png,y.jpg,2,\n")
    answers = coco(**changes)
    answers["images"][0]["file_name"] = file_name
    (tmp_path / "annotations.json").write_text(json.dumps(answers))
    found = read_answers(tmp_path, PIXELS, NAMES)
    assert list(found) == ["x.jpg"]
    assert found["x.jpg"].tolist() == [[1, 1, -100, -100], [1, 1, -100, -100], [-100] * 4]


@pytest.mark.parametrize(("rotation", "row"), [(0, [1, 1, 1, 1]), (30, [0, 0, 1, 1]), (330, [1, 1, 0, 0])])
def test_boxes_that_cvat_turned(tmp_path: Path, rotation: float, row: list[int]) -> None:
    """Guards against a mask beside the object: CVAT exports a turned box as it was before the turn."""
    (tmp_path / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,\n")
    answers = coco(segmentation=[], bbox=[0, 0.5, 4, 1], attributes={"rotation": rotation})
    (tmp_path / "annotations.json").write_text(json.dumps(answers))
    found = read_answers(tmp_path, PIXELS, NAMES)["x.jpg"]
    assert (found[1] == 1).astype(int).tolist() == row


def test_joined_exports_are_refused(tmp_path: Path) -> None:
    """Guards against an answer for the image of another export that has the same id."""
    (tmp_path / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,\n2.png,y.jpg,2,\n")
    answers = coco()
    answers["images"].append(answers["images"][0] | {"file_name": "2.png"})
    (tmp_path / "annotations.json").write_text(json.dumps(answers))
    with pytest.raises(DataError, match="image 7 is in the file twice, with different contents"):
        read_answers(tmp_path, PIXELS, NAMES)


def test_renumbered_regions_are_found_by_their_place(tmp_path: Path) -> None:
    """Guards against assigning the answer for region 1 to another region that the annotation tool renumbered to 1."""
    (tmp_path / "queue.csv").write_text(
        "file,id,annotation,label,x,y,width,height\n1.png,x.jpg,1,dog,0,0,2,2\n1.png,x.jpg,2,owl,2,0,2,2\n"
    )
    answers = coco()
    places = {"2": [0, 0, 2, 2], "1": [2, 0, 2, 2]}
    answers["annotations"] = [
        {"id": int(key), "image_id": 7, "category_id": 1, "segmentation": [], "bbox": box}
        for key, box in places.items()
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(answers))
    assert read_answers(tmp_path, PIXELS, NAMES)["x.jpg"][0].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(("width", "refused"), [(2, True), (4, False)])
def test_regions_on_each_other(tmp_path: Path, width: int, refused: bool) -> None:
    """Guards against the later annotation silently winning, for two answers to the same region and for overlapping
    neighbors."""
    (tmp_path / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,\n")
    answers = coco()
    answers["categories"].append({"id": 9, "name": "owl"})
    box = [0, 0, width, 2] if refused else [1, 0, 3, 3]
    answers["annotations"].append({"id": 2, "image_id": 7, "category_id": 9, "segmentation": [], "bbox": box})
    (tmp_path / "annotations.json").write_text(json.dumps(answers))
    if refused:
        with pytest.raises(DataError, match=r"x.jpg: annotations 1 and 2 are the same region with two classes"):
            read_answers(tmp_path, PIXELS, NAMES)
        return
    notes: list[str] = []
    assert read_answers(tmp_path, PIXELS, NAMES, notes)["x.jpg"][0].tolist() == [1, -100, 2, 2]
    assert "overlap on 2 pixels of x.jpg; these pixels are ignored" in notes[0]


def test_answers_given_twice(tmp_path: Path) -> None:
    """Guards against silently using the answer listed last when two people answered differently."""
    data = class_folder(tmp_path / "data", each=8)
    save(image(9), tmp_path / "more" / "x.jpg")
    for name, label in (("one.csv", "cat"), ("two.csv", "dog"), ("three.csv", "cat")):
        (tmp_path / name).write_text(f"id,label\nx.jpg,{label}\n")
    args = DataArguments(str(data), unlabeled_dir=str(tmp_path / "more"))
    args.extra_labels = [str(tmp_path / "one.csv"), str(tmp_path / "two.csv")]
    with pytest.raises(DataError, match=r"two.csv' contradicts earlier answers for 1 images: x.jpg"):
        assemble(args, IMAGES)
    args.extra_labels = [str(tmp_path / "one.csv"), str(tmp_path / "three.csv")]
    assert assemble(args, IMAGES).labeled[-1]["label"] == 0


def test_a_region_map_of_another_size_is_refused(tmp_path: Path) -> None:
    """Answers drawn on a smaller copy of the image must be refused at once, not end the run in the middle of
    training."""
    data = scene_folder(tmp_path / "data", [(0, 1, 2)] * 4)
    save(image(9), tmp_path / "more" / "x.jpg")
    (tmp_path / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,\n")
    answers = coco()
    answers["categories"][1]["name"] = "2"
    (tmp_path / "annotations.json").write_text(json.dumps(answers))
    args = DataArguments(str(data), unlabeled_dir=str(tmp_path / "more"), extra_labels=[str(tmp_path)])
    with pytest.raises(DataError, match=r"x.jpg is 20x16, but its mask is 4x3"):
        assemble(args, PIXELS)


def test_answered_images_are_labeled_and_no_longer_unlabeled(tmp_path: Path) -> None:
    """Guards against an answered image that is also unlabeled or has the label of another image, and against new
    answers changing the eval split of an existing pair."""
    data = class_folder(tmp_path / "data", each=8)
    for index in range(5):
        save(image(200 + index), tmp_path / "more" / f"{index}.jpg")
    args = {"dataset_name": str(data), "unlabeled_dir": str(tmp_path / "more")}
    before = assemble(DataArguments(**args), IMAGES)
    rounds = []
    for number, (name, label) in enumerate((("3.jpg", "owl"), ("1.jpg", "cat"))):
        rounds.append(tmp_path / f"round{number}.csv")
        rounds[-1].write_text(f"id,label\n{name},{label}\n")
    after = assemble(DataArguments(**args, extra_labels=[str(file) for file in rounds]), IMAGES)
    assert before.unlabeled is not None and after.unlabeled is not None
    assert after.unlabeled.ids == ["0.jpg", "2.jpg", "4.jpg"]
    assert after.labeled.ids == [*before.labeled.ids, "3.jpg", "1.jpg"]
    assert before.labeled.labels is not None and after.labeled.labels is not None
    assert after.labeled.labels.tolist() == [*before.labeled.labels.tolist(), 2, 0]
    item = after.labeled[len(before.labeled)]
    assert item["label"] == 2 and np.array_equal(item["image"], before.unlabeled[3]["image"])
    assert after.evaluation is not None and before.evaluation is not None
    assert after.evaluation.ids == before.evaluation.ids
    assert after.split["labeled"] == before.split["labeled"]  # what --labeled_ids can read again
    assert after.split["extra_labeled"] == ["3.jpg", "1.jpg"]
    rounds[0].write_text("id,label\nnowhere.jpg,cat\n")
    with pytest.raises(DataError, match=r"not among the 5 unlabeled ones, for example 'nowhere.jpg'.*'0.jpg'"):
        assemble(DataArguments(**args, extra_labels=[str(rounds[0])]), IMAGES)


@pytest.mark.parametrize("reduce_labels", [False, True])
def test_answered_regions_are_masks_of_the_runs_own_kind(tmp_path: Path, reduce_labels: bool) -> None:
    """Guards against classes shifted by one when mask values start at 1, and against pixels without an answer counting
    as background."""
    data = scene_folder(tmp_path / "data", [(1, 2, 3)] * 4 if reduce_labels else [(0, 1, 2)] * 4)
    save(image(9), tmp_path / "more" / "x.jpg")
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "queue.csv").write_text("file,id,annotation,label\n1.png,x.jpg,1,2\n")
    answers = coco(category_id=1)
    answers["images"][0] |= {"width": 20, "height": 16}
    (queue / "annotations.json").write_text(json.dumps(answers))
    args = DataArguments(str(data), unlabeled_dir=str(tmp_path / "more"), extra_labels=[str(queue)])
    args.reduce_labels = reduce_labels
    found = assemble(args, PIXELS)
    assert found.unlabeled is None and len(found.labeled) == 5
    mask = found.labeled[4]["mask"]
    assert (mask[:2, :2] == 2).all() and (mask != -100).sum() == 4
    assert found.labeled[0]["mask"].min() == 0 and found.labeled[0]["mask"].max() == 2
