"""From a run to questions, to answers, to a pair trained on them, with the commands of the README."""

from __future__ import annotations

import csv
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_dmt.commands.queue import how_to_go_on
from hf_dmt.commands.queue import main as queue_command
from hf_dmt.commands.train import RECIPES
from hf_dmt.commands.train import run as train
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading.rows import DataError
from hf_dmt.data.splitting.assemble import assemble
from hf_dmt.report.run import Run, read_run
from hf_dmt.training.settings.command_line import parse
from tests.data.small_files import class_folder, image, save, scene_folder

SHORT = ["--max_steps", "2", "--labeled_batch_size", "2", "--pseudo_batch_size", "2", "--label_ratios", "1.0"]
MODELS = ["--model_a", "tiny:vit", "--model_b", "tiny:resnet", "--image_size", "16"]
SCENE_MODELS = ["--model_a", "tiny:segformer", "--model_b", "tiny:upernet", "--image_size", "16"]


def json_of(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def joined(told: str) -> str:
    """The text with commands on one line."""
    return " ".join(told.replace("\\\n", "").split())


def answer(queue: Path, label: str, count: int) -> list[str]:
    """Fill in the first questions of the table and return the ids of their images."""
    with open(queue / "queue.csv", encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines[:count]:
        line["label"] = label
    with open(queue / "queue.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return [line["id"] for line in lines[:count]]


def test_answered_images_continue_the_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against queuing images on which the models agree, and against answers that are read but not trained on."""
    for index in range(12):
        save(image(20 * index), tmp_path / "more" / f"{index:02d}.jpg")
    data = ["--dataset_name", str(class_folder(tmp_path / "data", each=4)), "--unlabeled_dir", str(tmp_path / "more")]
    run, queue, again = (str(tmp_path / name) for name in ("run", "queue", "again"))
    assert train([*data, *MODELS, *SHORT, "--output_dir", run]) == 0
    assert queue_command([run, "--to", queue, "--count", "5", *data]) == 0
    told = capsys.readouterr().out
    assert queue_command([run, "--to", f"{queue}-2", *data, *MODELS]) == 2
    assert "Unknown argument '--model_a'. Of the flags of a run" in capsys.readouterr().err
    asked = list(csv.DictReader(Path(queue, "queue.csv").read_text("utf-8-sig").splitlines()))
    assert 2 < len(asked) <= 5 and all(line["a"] != line["b"] for line in asked)
    assert f"{len(asked)} images to label" in told and f"{queue}/queue.csv" in told
    assert shlex.join(["--pair", run, "--extra_labels", queue, *data, "--max_steps", "2"]) in joined(told)
    assert f"--output_dir {run}-2" in told
    assert {path.name for path in Path(queue).iterdir()} == {"cat", "dog", "owl", "images", "queue.csv"}
    [first, second] = answer(Path(queue), "owl", 2)
    Path(queue, "images", asked[2]["file"]).rename(Path(queue, "dog", asked[2]["file"]))
    replaced = tmp_path / "more" / second
    kept = replaced.read_bytes()
    save(image(1000), replaced)
    with pytest.raises(DataError, match=rf"1 images whose files have been replaced .*: {second}\. Put the former"):
        assemble(DataArguments(data[1], unlabeled_dir=data[3], extra_labels=[queue]), "image-classification")
    replaced.write_bytes(kept)
    assert train(["--pair", run, "--extra_labels", queue, *data, *SHORT, "--output_dir", again]) == 0
    before, after = (json_of(Path(folder, "dmt_results.json")) for folder in (run, again))
    assert after["num_labeled"] == before["num_labeled"] + 3
    assert after["num_unlabeled"] == before["num_unlabeled"] - 3
    split = json_of(Path(again, "split.json"))
    assert set(split["extra_labeled"]) == {first, second, asked[2]["id"]}
    assert not set(split["extra_labeled"]) & set(split["unlabeled"])
    assert split["eval"] == json_of(Path(run, "split.json"))["eval"]


def test_the_suggested_command_keeps_earlier_answers_and_the_choice_of_labels() -> None:
    """Guards against a command that loses the answers of an earlier queue, and against one that uses all labels of a
    run with --num_labeled, so that no answered image is unlabeled anymore."""
    run = Run(Path("runs/2"), {"task": "image-classification"}, [], {"unlabeled_from": None}, {})
    told = how_to_go_on(run, "q2", DataArguments(dataset_name="my", extra_labels=["q1"]))
    assert "--extra_labels q1 q2 --dataset_name my --labeled_ids runs/2/split.json" in joined(told)
    told = how_to_go_on(run, "q2", DataArguments(dataset_name="my", num_labeled=12, split_seed=1))
    assert "--extra_labels q2 --dataset_name my --num_labeled 12 --split_seed 1 --output_dir" in joined(told)
    scenes = Run(Path("runs/2"), {"task": "semantic-segmentation"}, [], {"unlabeled_from": "more"}, {})
    assert "--extra_labels q --task semantic-segmentation" in joined(how_to_go_on(scenes, "q", DataArguments()))


def test_the_suggested_command_trains_with_the_settings_of_the_run(tmp_path: Path) -> None:
    """Guards against a command that trains on the answers with other settings than the run: all weights, not only the
    heads, or at another rate."""
    data = ["--dataset_name", str(class_folder(tmp_path / "data", each=4)), "--num_labeled", "6"]
    chosen = ["--method", "mutual", "--weight_decay", "0.1", "--learning_rate", "0.002", "--class_balanced", "false"]
    run = str(tmp_path / "run")
    assert train([*data, *MODELS, *SHORT, *chosen, "--output_dir", run]) == 0
    told = how_to_go_on(read_run(run), "q", DataArguments(dataset_name=data[1], num_labeled=6))
    command = shlex.split(joined(told).partition("Then train on them:")[2])
    assert command[:2] == ["hf-dmt", "train"] and "--gamma1" not in command, "that of mutual"
    _, read, args = parse(command[2:], RECIPES)
    assert (read.extra_labels, args.method, args.weight_decay, args.learning_rate) == (["q"], "mutual", 0.1, 0.002)
    assert (args.class_balanced, args.max_steps, args.pseudo_batch_size) == (False, 2, 2)


def test_answered_regions_continue_the_pair(tmp_path: Path) -> None:
    """Guards against answers about regions that do not reach the masks of the next run: as another class, in another
    place, or as labels for the pixels around them."""
    for index in range(6):
        save(image(20 * index), tmp_path / "more" / f"{index}.jpg")
    folder = scene_folder(tmp_path / "data", [(0, 1, 2)] * 4)
    data = ["--task", "semantic-segmentation", "--dataset_name", str(folder), "--unlabeled_dir", str(tmp_path / "more")]
    run, queue, again = (str(tmp_path / name) for name in ("run", "queue", "again"))
    assert train([*data, *SCENE_MODELS, *SHORT, "--output_dir", run]) == 0
    assert queue_command([run, "--to", queue, "--count", "8", *data[2:]]) == 0
    coco = json_of(Path(queue, "annotations.json"))
    assert 0 < len(coco["annotations"]) <= 8
    answered = answer(Path(queue), "2", 3)
    assert train(["--pair", run, "--extra_labels", queue, *data, *SHORT, "--output_dir", again]) == 0
    assert set(json_of(Path(again, "split.json"))["extra_labeled"]) == set(answered)
    assert json_of(Path(again, "dmt_results.json"))["num_labeled"] == 4 + len(set(answered))
    images = DataArguments(str(folder), unlabeled_dir=str(tmp_path / "more"), extra_labels=[queue])
    found = assemble(images, "semantic-segmentation").labeled
    with open(Path(queue, "queue.csv"), encoding="utf-8", newline="") as file:
        regions = [line for line in csv.DictReader(file) if line["label"]]
    for row in range(4, len(found)):
        mask, outside = found[row]["mask"], np.ones((16, 20), dtype=bool)
        for region in regions:
            if region["id"] == found.ids[row]:
                x, y, width, height = (float(region[key]) for key in ("x", "y", "width", "height"))
                box = slice(int(y), math.ceil(y + height)), slice(int(x), math.ceil(x + width))
                assert (mask[box] == 2).any()
                outside[box] = False
        assert set(np.unique(mask)) <= {-100, 2} and (mask[outside] == -100).all()


def test_the_embedded_set_needs_no_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against requiring flags that the run on the embedded data set never had, and against other images under
    the same ids."""
    run = str(tmp_path / "run")
    assert train(["--max_steps", "1", "--label_ratios", "1.0", "--output_dir", run]) == 0
    assert queue_command([run, "--to", str(tmp_path / "queue"), "--count", "3"]) == 0
    assert len(list((tmp_path / "queue" / "images").iterdir())) == 3
    capsys.readouterr()
    assert queue_command([run, "--to", str(tmp_path / "queue")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert queue_command([run, "--to", str(tmp_path / "other"), "--num_labeled", "40"]) == 2
    assert "are not those labeled by the run" in capsys.readouterr().err
    assert queue_command([run, "--to", str(tmp_path / "other"), "--count", "0"]) == 2
    assert "--count must be at least 1, got 0" in capsys.readouterr().err
