"""`hf-dmt check`: what it finds, what it promises, and that it leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from hf_dmt.commands.preflight import Preflight, class_line, duration
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.splitting.assemble import assemble
from hf_dmt.training import rehearsal
from hf_dmt.training.run.runtime_errors import activation_bytes
from scripts.run_dmt import main
from tests.data import small_files as files

TINY = ["--model_a", "tiny:vit", "--model_b", "tiny:resnet", "--image_size", "16"]
SHORT = ["--labeled_batch_size", "4", "--pseudo_batch_size", "4", "--supervised_epochs", "3", "--label_ratios", "0.5"]


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "animals"
    files.class_folder(root / "train")
    files.save(files.image(210, (30, 20)).convert("L"), root / "train" / "owl" / "gray.png")
    for name, shade in (("cat", 15), ("dog", 95), ("owl", 250)):
        files.save(files.image(shade), root / "validation" / name / "0.jpg")
    for number in range(10):
        files.save(files.image(3 + 17 * number), root.parent / "more" / f"{number}.jpg")
    return root


def check(data: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    given = ["--dataset_name", str(data), "--unlabeled_dir", str(data.parent / "more"), *TINY, *SHORT, *flags]
    code = main([*given, "--check", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_password_in_an_address_is_not_in_the_findings(animals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against `--json` writing a password to the log of a CI job."""
    code, found = check(animals, capsys, "--model_b", "https://me:SECRET1234@huggingface.co/me/model")
    assert code == 1 and "SECRET" not in json.dumps(found) and "https://me:***@" in found["problems"][0]


def test_a_good_start_is_called_ready_and_its_plan_is_the_runs(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against an estimate of another run than the one that follows, and a check that leaves a folder or weights
    behind."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    code, found = check(animals, capsys, "--output_dir", str(out))
    assert code == 0 and found["verdict"] == "ready" and not found["problems"]
    assert found["images"]["labeled"] == {
        "count": 19,
        "modes": {"RGB": 18, "L": 1},
        "smallest": [20, 16],
        "median": [20, 16],
        "largest": [30, 20],
    }
    assert {role: seen["count"] for role, seen in found["images"].items()} == {
        "labeled": 19,
        "unlabeled": 10,
        "eval": 3,
    }
    assert [(entry["name"], entry["labeled_images"]) for entry in found["classes"]] == [
        ("cat", 6),
        ("dog", 6),
        ("owl", 7),
    ]
    assert found["models"]["a"]["architecture"] == "vit" and found["models"]["b"]["new"] == "all weights"
    estimate = found["estimate"]
    assert estimate["clean_images"] == 1 * 10 + 2 * 3 and estimate["memory_bytes"] > 0 and estimate["tried"] == 8
    expected = sum(n * each for n, each in zip(estimate["updates"], estimate["seconds_per_update"], strict=True))
    expected += estimate["clean_images"] * estimate["seconds_per_clean_image"]
    assert estimate["total_seconds"] == pytest.approx(expected, rel=0.05, abs=0.1)
    assert list(tmp_path.iterdir()) == []

    flags = ["--dataset_name", str(animals), "--unlabeled_dir", str(animals.parent / "more"), *TINY, *SHORT]
    assert main([*flags, "--output_dir", str(out)]) == 0
    results = json.loads((out / "dmt_results.json").read_text())
    assert [entry["steps"] for entry in results["phases"]] == estimate["updates"]
    said = capsys.readouterr().out
    assert "labeled images: cat: 6, dog: 6, owl: 7" in said, "in brief before every run"

    monkeypatch.setattr(rehearsal, "_LONG_S", 0)
    code, found = check(animals, capsys, "--member_schedule", "alternate")
    assert found["estimate"]["tried"] == 2, "eight updates of large models on a CPU take many minutes"
    assert code == 0 and found["estimate"]["updates"] == [n for n in estimate["updates"] for _ in "ab"]
    assert found["estimate"]["clean_images"] == estimate["clean_images"]


def test_what_is_wrong_is_said_together_with_what_is_not(
    animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against users having to fix one problem at a time, waiting for the next message each time."""
    data = shutil.copytree(animals, tmp_path / "animals")
    shutil.copytree(animals.parent / "more", tmp_path / "more")
    files.cut(data / "train" / "dog" / "03.jpg")
    Image.open(data / "validation" / "cat" / "0.jpg").resize((40, 32)).save(tmp_path / "more" / "copy.png")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("x")
    flags = ["--dataset_name", str(data), "--unlabeled_dir", str(tmp_path / "more"), *TINY, *SHORT]
    code = main([*flags, "--output_dir", str(tmp_path / "taken"), "--check"])
    told = " ".join(capsys.readouterr().out.split())
    assert code == 1 and "Not ready: fix the 2 problems" in told
    assert "is not empty and is not the folder of a run" in told and "dog/03.jpg" in told
    assert "unlabeled and eval: 1, such as copy.png = validation/cat/0.jpg" in told
    assert "1 image is in unlabeled and eval at once" in told
    assert "about" in told and "dog: 5" in told, "the rest is looked at all the same"
    assert "Skipped" not in told, "a run with these flags skips nothing: it stops"


def test_masks_are_shown_with_their_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a class map that is off by one, an ignore value that is taken for a class, and lines that the
    terminal breaks in the middle of a word."""
    monkeypatch.setenv("COLUMNS", "80")
    files.scene_folder(tmp_path / "scenes", [(0, 1), (1, 2), (0, 9)])
    for number in range(4):
        files.save(files.image(50 * number, (24, 24)), tmp_path / "more" / f"{number}.jpg")
    names = tmp_path / "names.json"
    names.write_text(json.dumps([f"thing {number}" for number in range(10)]))
    small = ["--model_a", "tiny:segformer", "--model_b", "tiny:segformer", "--image_size", "32", *SHORT]
    flags = ["--dataset_name", str(tmp_path / "scenes"), "--unlabeled_dir", str(tmp_path / "more"), *small]
    task = ["--task", "semantic-segmentation", "--id2label", str(names)]
    assert main([*flags, *task, "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    told = " ".join(" ".join(lines).split())
    assert "0 = thing 0: 2, 1 = thing 1: 2, 2 = thing 2: 1" in told and "9 = thing 9: 1" in told
    assert "Ready, with 2 warnings." in told and "6 of 10 classes have no labeled image" in told


def test_values_of_a_class_map_are_those_of_the_files(tmp_path: Path) -> None:
    """Guards against `1 = water` for masks in which water is 100."""
    root = files.scene_folder(tmp_path / "scenes", [(0, 100), (100, 0)])
    names = files.text_file(tmp_path, '{"0": "ground", "100": "water"}', "map.json")
    found = Preflight()
    found.look_at_images(assemble(DataArguments(dataset_name=str(root), id2label=names), "semantic-segmentation"))
    assert class_line(found.classes) == "0 = ground: 2, 100 = water: 2"


def test_problems_without_images_end_in_a_verdict_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a traceback, or `ready`, when there are no images to check."""
    code, found = check(tmp_path / "nowhere", capsys)
    assert code == 1 and found["verdict"] == "not ready"
    assert "nowhere" in found["problems"][0] and found["estimate"] is None


def test_settings_that_a_rehearsal_leaves_out_are_checked_too(
    animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against `ready` for a run that is then refused: the rehearsal neither pushes nor scores."""
    code, found = check(animals, capsys, "--push_to_hub", "true", "--metric_for_best_model", "nope")
    assert code == 1 and found["estimate"] is None
    assert "it needs a token and there is none" in found["problems"][0] and "'nope'" in found["problems"][1]


def test_an_update_that_does_not_fit_is_not_tried(
    animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a check with the default batches that takes all memory of a laptop, which then swaps and stops
    responding."""
    free = psutil.virtual_memory()._replace(available=2**17)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    code, found = check(animals, capsys, "--use_cpu", "--output_dir", str(tmp_path / "run"))
    assert code == 0 and found["estimate"] is None and "An update needs about" in found["warnings"][-1]
    assert "gradient_accumulation_steps" in found["warnings"][-1]


def test_activations_of_an_image() -> None:
    """Guards against an estimate that counts weights, counts one tensor twice, or is not divided by the number of
    images."""
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5), torch.nn.Tanh())

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.layers(pixel_values)

    assert activation_bytes(Model(), 8) == 4 * (3 * 8 * 8 + 5)  # the linear layer's input, and the output of tanh


def test_many_classes_are_summed_up() -> None:
    """Guards against a screen full of a thousand class names."""
    many = [{"name": f"c{number}", "labeled_images": number} for number in range(1000)]
    assert class_line(many).startswith("1000 classes, 0 to 999 images each, median 499.5; rarest: c0: 0, c1: 1")


@pytest.mark.parametrize(("seconds", "said"), [(3.2, "about 3 s"), (600, "about 10 min"), (40_000, "about 11.1 h")])
def test_durations_are_for_people(seconds: float, said: str) -> None:
    """Guards against durations such as 0.0 hours and 40000 seconds."""
    assert duration(seconds) == said
