"""`hf-dmt predict`: correct labels, nothing lost after a kill, and never two pairs in one file."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from torch.nn import functional as F

from hf_dmt import ModelPair
from hf_dmt.commands.predict import main
from hf_dmt.data.files import write_json
from hf_dmt.data.labels.predictions import PredictionError, PredictionFile
from hf_dmt.data.reading.rows import DataError
from hf_dmt.data.splitting.answers import read_answers
from hf_dmt.training.labeling.predictions import image_predictions, label_maps
from tests import forked
from tests.data.small_files import image, save
from tests.hub_server import HubServer

NAMES = ["a cat, asleep", "=dog", "owl"]
PIXELS = "semantic-segmentation"


def saved_pair(folder: Path, task: str = "image-classification", seed: int = 0) -> str:
    a, b = ("tiny:vit", "tiny:resnet") if task != PIXELS else ("tiny:segformer", "tiny:upernet")
    pair = ModelPair.from_models(a, b, task=task, id2label=dict(enumerate(NAMES)), image_size=32, seed=seed)
    pair.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_pair(tmp_path_factory.mktemp("pairs") / "animals")


@pytest.fixture(scope="module")
def scene_pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_pair(tmp_path_factory.mktemp("pairs") / "scenes", PIXELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Typical user images: nested, of several sizes and formats, one with a name like a formula."""
    root = tmp_path / "mine"
    for number in range(9):
        save(image(40 + number, (20 + number, 24)), root / ("deep" if number % 2 else ".") / f"{number}.png")
    save(image(90, (50, 30)), root / "=1+1.jpg")
    (root / "notes.txt").write_text("not an image")
    return root


def table(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_table_says_what_the_pipeline_says(pair: str, folder: Path, tmp_path: Path) -> None:
    """Guards against swapping models a and b, the label of another image, and an ensemble that is not the mean of the
    probabilities."""
    assert main([pair, str(folder), "--to", str(tmp_path / "out.jsonl"), "--batch_size", "4"]) == 0
    found = lines(tmp_path / "out.jsonl")
    assert [record["id"] for record in found] == sorted(record["id"] for record in found) and len(found) == 10
    loaded = ModelPair.from_pretrained(pair)
    pipeline = loaded.pipeline()
    for record in found:
        opened = Image.open(folder / record["id"]).convert("RGB")
        first, *_ = pipeline(opened)
        assert (record["label"], record["confidence"]) == (first["label"], pytest.approx(first["score"], abs=1e-4))
        assert record["disagreement"] == pytest.approx(first["disagreement"], abs=1e-4)
        for name, values in pipeline.members(opened).items():
            assert record[name] == NAMES[int(values.argmax())]
            assert record[f"{name}_confidence"] == pytest.approx(float(values.max()), abs=1e-4)


def test_csv_holds_the_same_and_no_formula(pair: str, folder: Path, tmp_path: Path) -> None:
    """Guards against a file name or class that a spreadsheet evaluates as a formula, and against `--extra_labels` not
    knowing the images or classes of a corrected table, or naming quotes and brackets of a .jsonl as columns."""
    for kind in ("csv", "jsonl"):
        assert main([pair, str(folder), "--to", str(tmp_path / f"out.{kind}")]) == 0
    rows, records = table(tmp_path / "out.csv"), lines(tmp_path / "out.jsonl")
    assert list(rows[0]) == list(records[0]) and {"id", "label"} <= rows[0].keys()
    assert [row["id"].removeprefix("'") for row in rows] == [record["id"] for record in records]
    assert not any(value.startswith(("=", "+", "@")) for row in rows for value in row.values())
    assert [float(row["confidence"]) for row in rows] == [record["confidence"] for record in records]
    rows[1]["label"] = "'=dog"
    with open(tmp_path / "corrected.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    records[1]["label"] = "=dog"
    answers = {record["id"]: NAMES.index(record["label"]) for record in records}
    assert "=1+1.jpg" in answers and read_answers(tmp_path / "corrected.csv", "image-classification", NAMES) == answers
    with pytest.raises(DataError, match=r"out\.jsonl is not a CSV table.*--to labels\.csv"):
        read_answers(tmp_path / "out.jsonl", "image-classification", NAMES)


def test_new_images_are_added_and_known_ones_kept(
    pair: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against overwriting manually corrected labels, and against listing images twice."""
    out = tmp_path / "out.csv"
    assert main([pair, str(folder), "--to", str(out)]) == 0
    said = table(out)[0]["label"]
    corrected = out.read_text(encoding="utf-8-sig").replace(said if "," not in said else f'"{said}"', "corrected", 1)
    out.write_text(corrected, encoding="utf-8-sig")
    before = table(out)
    assert before[0]["label"] == "corrected"
    assert main([pair, str(folder), "--to", str(out)]) == 0
    assert "0 images to label; 10 are labeled already" in capsys.readouterr().out
    save(image(7, (30, 30)), folder / "a new one.png")
    assert main([pair, str(folder), "--to", str(out)]) == 0
    after = table(out)
    assert after[:10] == before and [row["id"] for row in after[10:]] == ["a new one.png"]
    assert json.loads((tmp_path / "out.csv.about.json").read_text())["images"] == 11
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "out.csv", "out.csv.about.json"}
    capsys.readouterr()
    save(image(9, (30, 30)), folder / "a new one.png")
    (folder / after[0]["id"].removeprefix("'")).unlink()
    assert main([pair, str(folder), "--to", str(out)]) == 0
    output = capsys.readouterr().out
    assert "1 images have changed since they were labeled, such as 'a new one.png'" in output
    assert f"1 images in {str(out)!r} are no longer in" in output and table(out) == after
    # Images of the same name in another folder would keep the labels of these.
    save(image(9), tmp_path / "other" / "a new one.png")
    assert main([pair, str(tmp_path / "other"), "--to", str(out)]) == 2
    assert "made with a different source of images. Choose another name with --to" in capsys.readouterr().err
    assert table(out) == after


def test_what_cannot_be_written_is_said(
    pair: str, scene_pair: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against mixing labels of two pairs in one table, replacing an unrelated file, and skipping images without
    a message."""
    out = tmp_path / "out.csv"
    out.write_text("id,label\nmine,cat\n")
    given = [str(folder), "--to", str(out)]

    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "the pair that made it is unknown" in refused(pair, *given)
    assert out.read_text() == "id,label\nmine,cat\n"
    out.unlink()
    assert "'a/b/c': that is not a valid name" in refused(pair, *given, "--push_to_hub", "a/b/c") and not out.exists()
    assert main([pair, *given]) == 0
    other = saved_pair(tmp_path / "other", seed=1)
    assert "different pair of weights" in refused(other, *given)
    assert "writes masks. Give a folder" in refused(scene_pair, *given)
    assert "ends in .csv or .jsonl" in refused(pair, str(folder), "--to", str(tmp_path / "masks"))
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
    new = [pair, str(folder), "--to", str(tmp_path / "new.csv")]
    assert "cut.png" in (message := refused(*new)) and "--skip_corrupt_images" in message
    assert not (tmp_path / "new.csv").exists()
    save(image(9), tmp_path / "whole" / "0.png")
    assert main([pair, str(tmp_path / "whole"), "--to", str(tmp_path / "New.CSV")]) == 0
    file = PredictionFile(tmp_path / "new.csv", {"pair_of_weights": "y"})
    assert file.begin() == [], "a command that labeled nothing leaves nothing that another one could mix up"
    shutil.rmtree(file.parts)
    assert main([*new, "--skip_corrupt_images"]) == 0
    assert "cut.png" in capsys.readouterr().out and len(table(tmp_path / "new.csv")) == 10
    (tmp_path / "empty").mkdir()
    to = ["--to", str(tmp_path / "e.csv")]
    assert "empty" in refused(pair, str(tmp_path / "empty"), *to)
    assert "Name one with --split" in refused(pair, "digits", *to)
    assert "--image_column 'x' is not in" in refused(pair, str(folder), *to, "--image_column", "x")
    assert "is for data sets on the Hub" in refused(pair, str(folder), *to, "--dataset_config_name", "x")
    assert "cannot be written" in refused(pair, str(folder), "--to", str(folder / "0.png" / "e.csv"))


def test_masks_are_of_the_images_size_and_named_like_them(
    scene_pair: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against masks at the network's size, colors instead of class ids, one mask overwriting another, and
    labeling the masks in the input folder as if they were images."""
    scenes = tmp_path / "scenes"
    for name, size in (("x.png", (40, 56)), ("x.bmp", (64, 30)), ("deep/y.jpg", (33, 47))):
        save(image(len(name), size), scenes / "images" / name)
    save(Image.fromarray(np.zeros((40, 56), np.uint8)), scenes / "masks" / "x.png")
    out = tmp_path / "out"
    assert main([scene_pair, str(scenes), "--to", str(out), "--overlay"]) == 0
    rows = {row["id"]: row for row in table(out / "predictions.csv")}
    assert {name: row["mask"] for name, row in rows.items()} == {
        "images/deep/y.jpg": "images/deep/y.png",
        "images/x.bmp": "images/x.png",
        "images/x.png": "images/x.png.png",
    }
    assert json.loads((out / "classes.json").read_text()) == dict(zip("012", NAMES, strict=True))
    loaded = ModelPair.from_pretrained(scene_pair)
    for name, row in rows.items():
        opened = Image.open(scenes / name).convert("RGB")
        probabilities = loaded.pipeline().members(opened)
        probabilities["ensemble"] = (probabilities["a"] + probabilities["b"]) / 2
        read = {}
        for maker, values in probabilities.items():
            mask = Image.open(out / maker / row["mask"])
            assert mask.mode == "P" and mask.size == opened.size
            read[maker] = np.asarray(mask)
            assert (read[maker] == values.argmax(dim=0).numpy()).mean() > 0.999
        assert float(row["disagreement"]) == pytest.approx((read["a"] != read["b"]).mean(), abs=1e-6)
        assert float(row["confidence"]) == pytest.approx(
            float(probabilities["ensemble"].max(dim=0).values.mean()), abs=1e-4
        )
        assert Image.open(out / "overlay" / row["mask"]).size == opened.size
    before = (out / "predictions.csv").read_bytes()
    assert main([scene_pair, str(scenes), "--to", str(out), "--overlay"]) == 0
    assert (out / "predictions.csv").read_bytes() == before
    assert main([scene_pair, str(scenes), "--to", str(out)]) == 2
    assert "different overlay" in capsys.readouterr().err


def test_bands_of_rows_are_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a seam between the bands in which large images are processed."""
    logits = {name: torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(n)) for n, name in enumerate("ab")}
    whole = {
        name: F.interpolate(values[None], (50, 23), mode="bilinear", align_corners=False)[0].softmax(dim=0)
        for name, values in logits.items()
    }
    monkeypatch.setattr("hf_dmt.training.labeling.predictions._BAND", 5 * 23 * 4)
    found = label_maps(logits, (50, 23))
    for name, values in (*whole.items(), ("ensemble", whole["a"] + whole["b"])):
        assert np.array_equal(found.labels[name], values.argmax(dim=0).numpy())
    many = label_maps({name: torch.randn(300, 2, 2) for name in "ab"}, (4, 4))
    assert many.labels["a"].dtype == np.uint16 and many.labels["a"].max() < 300


def test_disagreement_is_that_of_the_ensembles_label() -> None:
    """Guards against a disagreement that looks right when both models agree, and is wrong when they do not."""
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]), torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.8, 0.0]])
    first, second = image_predictions(
        {name: values.clamp(min=1e-9).log() for name, values in zip("ab", probabilities, strict=True)}
    )
    assert (first.labels, second.labels["ensemble"]) == ({"a": 0, "b": 1, "ensemble": 1}, 1)
    assert first.disagreement == pytest.approx(0.6) and second.disagreement == pytest.approx(0.3)
    assert first.confidence["ensemble"] == pytest.approx(0.5)


def test_half_lines_and_lines_of_two_attempts_count_once(tmp_path: Path) -> None:
    """Guards against reading a truncated line as a label, and against listing an image twice because two processes
    labeled it."""
    file = PredictionFile(tmp_path / "out.jsonl", {"pair_of_weights": "x"})
    assert file.begin() == []
    with file.adding() as add:
        add([{"id": "1", "label": "cat"}, {"id": "2", "label": "dog"}])
    (part,) = file.parts.glob("part-*")
    part.write_text(part.read_text() + '{"id": "3", "la')
    with file.adding() as add:
        add([{"id": "2", "label": "owl"}])
    assert sorted(record["id"] for record in PredictionFile(file.path, {"pair_of_weights": "x"}).begin()) == ["1", "2"]
    with pytest.raises(PredictionError, match="different pair of weights"):
        PredictionFile(file.path, {"pair_of_weights": "y"}).begin()
    file.finish({"data": "mine"})
    assert len(lines(file.path)) == 2 and not file.parts.exists()


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_names_with_other_line_ends_come_back(tmp_path: Path, end: str) -> None:
    """Guards against the error "no longer a table that hf-dmt predict wrote" for a name with a line end that only
    Unicode defines."""
    names = ["a\x85b.png", "a\u2028b.png", "=1+1.png", "a\rb.png"]
    file = PredictionFile(tmp_path / f"out.{end}", {"pair_of_weights": "x"})
    file.begin()
    with file.adding() as add:
        add([{"id": name, "label": "cat"} for name in names])
    file.finish({})
    assert [record["id"] for record in file.begin()] == names


@pytest.mark.parametrize("stored", [True, False], ids=["", "written by a version that did not store the columns"])
def test_columns_may_move_and_are_refused_if_they_change(tmp_path: Path, stored: bool) -> None:
    """Guards against values under the headings of other columns after a table was edited in a spreadsheet: a moved
    column, a deleted, renamed or added one."""
    first, second = ({"id": name, "label": "cat", "confidence": 0.5} for name in ("1", "2"))

    def made(header: str, row: str) -> PredictionFile:
        file = PredictionFile(tmp_path / f"{header}.csv", {"pair_of_weights": "x"})
        file.begin()
        with file.adding() as add:
            add([first])
        file.finish({})
        file.path.write_text(f"{header}\n{row}\n", encoding="utf-8-sig")
        if not stored:
            write_json(file.about, file.identity)
        return file

    def added(file: PredictionFile) -> None:
        file.begin()
        with file.adding() as add:
            add([second])
        file.finish({})

    moved = made("confidence,id,label", "0.5,1,cat")
    added(moved)
    assert moved.path.read_text("utf-8-sig").split() == ["confidence,id,label", "0.5,1,cat", "0.5,2,cat"]
    for header, row, said in (
        ("id,label", "1,cat", "'confidence' is missing"),
        ("id,class,confidence", "1,cat,0.5", "'label' is missing, 'class' was added"),
        ("id,label,confidence,checked", "1,cat,0.5,yes", "'checked' was added"),
        ("id,label,confidence", "1,cat,0.5,yes", "no longer a table"),
        ("id,label,confidence", "1,cat", "no longer a table"),
    ):
        file = made(header, row)
        before = file.path.read_bytes()
        with pytest.raises(PredictionError, match=said):
            file.begin() if stored or "table" in said else added(file)
        assert file.path.read_bytes() == before
        file.path.unlink()


@pytest.mark.parametrize("launched", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_it_goes_on_with_another_number_of_processes(pair: str, tmp_path: Path, launched: bool) -> None:
    """Guards against images that are skipped or labeled twice after a kill, or by several processes. Those that
    `--num_processes` starts import everything again."""
    folder = tmp_path / "many"
    for number in range(150):
        save(image(number % 200, (24, 24)), folder / f"{number:03d}.png")
    out = tmp_path / "out.csv"
    command = [pair, str(folder), "--to", str(out), "--batch_size", "1"]
    begun = multiprocessing.get_context("fork").Process(target=main, args=(command,))  # needs no imports again
    begun.start()
    while not any(part.stat().st_size > 1000 for part in tmp_path.glob(".out.csv.parts/part-*")):
        assert begun.is_alive(), "it ended before it could be killed"
        time.sleep(0.01)
    begun.kill()
    begun.join()
    assert begun.exitcode == -signal.SIGKILL and not out.exists()
    log = tmp_path / "log"
    if launched:
        going_on = [forked.start(main, [*command, "--num_processes", "2", "--use_cpu"], log=log)]
    else:
        going_on = forked.start_two(main, [*command, "--use_cpu"], [log, log])
    for process in going_on:
        process.join(120)
        process.kill()
    said = log.read_text()
    assert not any(process.exitcode for process in going_on), said[-3000:]
    already = int(said.split("; ")[1].split(" are labeled already")[0])
    assert 0 < already < 150 and said.count("predictions: ") == 1
    found = table(out)
    assert len({row["id"] for row in found}) == len(found) == 150
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("task", ["image-classification", PIXELS])
def test_published_predictions_are_read_with_load_dataset(
    hub: HubServer, pair: str, scene_pair: str, folder: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against classes in another order, masks of another image, and uploading the user's images."""
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    out = tmp_path / ("masks" if task == PIXELS else "out.csv")
    given = [scene_pair if task == PIXELS else pair, str(folder), "--to", str(out), "--push_to_hub", "me/labels"]
    assert main([*given, "--private"]) == 0
    assert hub.repo("me/labels", "dataset").private
    rows = load_dataset("me/labels", split="train", cache_dir=str(tmp_path / "cache"))
    found = table(out / "predictions.csv" if task == PIXELS else out)
    assert rows["id"][:] == [row["id"].removeprefix("'") for row in found] and "image" not in rows.column_names
    if task == PIXELS:
        assert np.array_equal(np.asarray(rows[3]["label"]), np.asarray(Image.open(out / "ensemble" / found[3]["mask"])))
    else:
        assert rows.features["label"].names == NAMES
        assert [NAMES[n] for n in rows["label"]] == [row["label"].removeprefix("'") for row in found]
    card = hub.repo("me/labels", "dataset").files()["README.md"]
    assert str(tmp_path) not in str(card)
