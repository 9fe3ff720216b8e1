"""The command line, called in this process: what it writes, accepts and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hf_dmt import ModelPair
from hf_dmt.commands.opening import build_pair
from hf_dmt.commands.train import RECIPES, main
from hf_dmt.training.settings.command_line import parse
from tests.hub_server import HubServer

TINY = ["--model_a", "tiny:vit", "--model_b", "tiny:resnet", "--image_size", "16"]
SHORT = ["--max_steps", "2", "--labeled_batch_size", "4", "--pseudo_batch_size", "4", "--label_ratios", "0.5", "1.0"]


def draw(path: Path, shade: int, size: tuple[int, int] = (20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 40, (*size, 3)) + shade
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own images: one folder per class, 12 images each."""
    root = tmp_path_factory.mktemp("data") / "animals"
    for number, name in enumerate(("cat", "dog", "owl")):
        for index in range(12):
            draw(root / name / f"{index:02d}.png", 20 + 70 * number + index)
    return root


@pytest.fixture(scope="module")
def unlabeled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A typical nested folder of images that also contains a text file."""
    root = tmp_path_factory.mktemp("more") / "unsorted"
    for index in range(10):
        draw(root / ("deep" if index % 2 else ".") / f"{index:02d}.jpg", 25 * index)
    (root / "readme.txt").write_text("not an image")
    return root


def short_run(class_folders: Path, out: Path) -> list[str]:
    """A few updates on a user's own images."""
    return ["--dataset_name", str(class_folders), "--num_labeled", "15", *TINY, *SHORT, "--output_dir", str(out)]


@pytest.fixture(scope="module")
def finished(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that has ended."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main(short_run(class_folders, out)) == 0
    return out


def results_of(folder: Path) -> dict:
    return json.loads((folder / "dmt_results.json").read_text())


class TestWholeRun:
    def test_the_default_runs_to_the_end_and_leaves_what_the_contract_lists(
        self, tmp_path: Path, hub: HubServer, one_figure: None
    ) -> None:
        """The first thing a user tries must work: with only an output folder, all outputs must be there afterwards, and
        the network must not be used."""
        out = tmp_path / "run"
        hub.requests.clear()  # made by earlier tests
        assert main(["--max_steps", "2", "--output_dir", str(out)]) == 0
        assert hub.requests == []
        for name in ("config.json", "model.safetensors", "preprocessor_config.json", "dmt_config.json", "split.json",
                     "telemetry.jsonl", "report.html", "peer/config.json", "peer/model.safetensors",
                     "pseudo_labels/phase-5/a/manifest.json", "pseudo_labels/phase-5/b/labels.parquet"):  # fmt: skip
            assert (out / name).is_file(), name
        assert [folder.name for folder in (out / "pseudo_labels").iterdir()] == ["phase-5"], "the last phase's are kept"
        results = results_of(out)
        assert [entry["phase"] for entry in results["phases"]] == [0, 1, 2, 3, 4, 5]
        assert results["num_labeled"] == 50 and results["num_eval"] == 100
        assert results["num_unlabeled"] == 1197 - 50
        assert results["phases"][0]["test"] and results["phases"][-1]["test"] == results["test"]
        assert results["phases"][2]["test"] is None, "the test split is not to be looked at in between"
        assert results["phases"][3]["pseudo_labels"]["a"]["selected"] == pytest.approx(0.6, abs=1e-3)
        assert results["peak_memory_bytes"] > 0 and results["total_seconds"] > 0
        model, _, args = parse(["--pair", str(out), "--output_dir", str(tmp_path / "further")], RECIPES)
        taken = build_pair(model, args, [str(number) for number in range(10)])
        for one, other in zip(taken.parameters(), ModelPair.from_pretrained(out).parameters(), strict=True):
            assert torch.equal(one, other), "the saved pair takes the place of the recipe's two models"

    def test_the_root_is_a_plain_checkpoint_of_the_better_member(self, class_folders: Path, finished: Path) -> None:
        """`pipeline()` must open the result without our code, with the model that dmt_config.json names."""
        classify = pipeline("image-classification", model=str(finished))
        scores = classify(str(class_folders / "cat" / "00.png"))
        assert {entry["label"] for entry in scores} == {"cat", "dog", "owl"}
        pair = ModelPair.from_pretrained(finished)
        primary = json.loads((finished / "dmt_config.json").read_text())["primary"]
        assert type(pair.member(primary)).__name__ == type(classify.model).__name__
        results = results_of(finished)
        assert results["num_labeled"] + results["num_eval"] == 15 and results["num_eval"] == 3
        assert results["num_unlabeled"] == 36 - 15

    def test_an_unlabeled_folder_is_used_and_never_needs_labels(
        self, class_folders: Path, unlabeled_folder: Path, tmp_path: Path
    ) -> None:
        """Exactly the images of the given folder must be unlabeled, with its subfolders and without the other files in
        it."""
        out = tmp_path / "run"
        data = ["--dataset_name", str(class_folders), "--unlabeled_dir", str(unlabeled_folder)]
        assert main([*data, *TINY, *SHORT, "--output_dir", str(out)]) == 0
        split = json.loads((out / "split.json").read_text())
        assert len(split["unlabeled"]) == 10 and "deep/01.jpg" in split["unlabeled"]
        assert len(split["labeled"]) + len(split["eval"]) == 36
        assert results_of(out)["phases"][1]["pseudo_labels"]["a"]["accuracy"] is None, "there is no truth to score"

    def test_resuming_a_finished_run_changes_nothing(self, class_folders: Path, finished: Path) -> None:
        """`--resume_from_checkpoint true` must find the last checkpoint and not train further."""
        before = (finished / "model.safetensors").read_bytes(), results_of(finished)["phases"]
        assert main([*short_run(class_folders, finished), "--resume_from_checkpoint", "True"]) == 0
        assert ((finished / "model.safetensors").read_bytes(), results_of(finished)["phases"]) == before

    def test_a_saved_pair_can_be_trained_further(self, class_folders: Path, finished: Path, tmp_path: Path) -> None:
        """With `--pair`, both models must start from the saved weights, not from new ones."""
        data = ["--dataset_name", str(class_folders), "--num_labeled", "15"]
        frozen = ["--learning_rate", "0", "--weight_decay", "0", "--label_ratios", "1.0"]
        assert main([*data, "--pair", str(finished), *SHORT, *frozen, "--output_dir", str(tmp_path / "second")]) == 0
        folders = (finished, tmp_path / "second")
        before, after = (dict(ModelPair.from_pretrained(folder).named_parameters()) for folder in folders)
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_without_an_output_folder_every_run_gets_its_own(
        self, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Guards against a second run overwriting the first."""
        monkeypatch.chdir(tmp_path)
        *short, flag, _ = short_run(class_folders, tmp_path)
        assert flag == "--output_dir"
        short += ["--method", "supervised", "--max_steps", "1"]
        assert main(short) == 0 and main(short) == 0
        assert sorted(path.name for path in Path("runs").iterdir()) == ["animals-1", "animals-2"]


class TestConfigFile:
    def test_numbers_and_choices_are_read_as_meant_and_flags_win(self, class_folders: Path, tmp_path: Path) -> None:
        """Guards against YAML's types, which ignore what a setting expects: 6e-5 is a string there, and `true` a
        boolean."""
        config, out = tmp_path / "run.yaml", tmp_path / "run"
        config.write_text(
            f"dataset_name: {class_folders}\nmodel_a: tiny:vit\nmodel_b: tiny:resnet\nimage_size: 16\nnum_labeled: 15\n"
            "learning_rate: 6e-5\nclass_balanced: true\nlabel_ratios: [0.5, 1.0]\nmax_steps: 1\n"
            f"labeled_batch_size: 4\npseudo_batch_size: 8\noutput_dir: {out}\n"
        )
        assert main([str(config), "--pseudo_batch_size", "4"]) == 0
        knobs = results_of(out)["knobs"]
        assert knobs["class_balanced"] is True and knobs["label_ratios"] == [0.5, 1.0]
        assert knobs["pseudo_batch_size"] == 4
        rates = [json.loads(line).get("learning_rate") for line in (out / "telemetry.jsonl").read_text().splitlines()]
        assert 6e-5 in rates

    def test_an_unknown_key_names_the_nearest_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Guards against a misspelled setting that is silently not applied."""
        config = tmp_path / "run.yaml"
        config.write_text("learning_rat: 1e-3\n")
        assert main([str(config)]) == 2
        assert "learning_rate" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["foo: [1", "distributed_type: MULTI", "[1, 2]"])
    def test_a_config_of_accelerate_that_cannot_be_used_is_named(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Guards against a traceback of the YAML parser, and an error that does not say which file it is about."""
        for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "accelerate.yaml").write_text(text)
        assert main(["--accelerate_config", str(tmp_path / "accelerate.yaml")]) == 2
        message = capsys.readouterr().err
        assert "accelerate.yaml' cannot be used (" in message and "write it again with `accelerate config`" in message


class TestOddData:
    def test_a_truncated_image_is_named_and_can_be_left_out(
        self, class_folders: Path, unlabeled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Guards against a crash in the third hour of labeling, and against a silently skipped file."""
        broken = tmp_path / "unlabeled"
        for path in unlabeled_folder.glob("*.jpg"):
            (broken / path.name).parent.mkdir(exist_ok=True)
            (broken / path.name).write_bytes(path.read_bytes())
        (broken / "cut.jpg").write_bytes((unlabeled_folder / "00.jpg").read_bytes()[:300])
        data = ["--dataset_name", str(class_folders), "--unlabeled_dir", str(broken), *TINY, *SHORT]
        assert main([*data, "--output_dir", str(tmp_path / "one")]) == 2
        message = capsys.readouterr().err
        assert "cut.jpg" in message and "--skip_corrupt_images" in message
        out = tmp_path / "two"
        assert main([*data, "--skip_corrupt_images", "--output_dir", str(out)]) == 0
        assert "cut.jpg" in capsys.readouterr().out
        assert "cut.jpg" not in json.loads((out / "split.json").read_text())["unlabeled"]

    def test_a_class_without_labels_is_named_and_the_run_goes_on(
        self, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Guards against a class that can never be predicted because none of its images is labeled, without a
        warning."""
        ids = tmp_path / "ids.txt"
        train = [f"{name}/{index:02d}.png" for name in ("cat", "dog") for index in range(4)]
        ids.write_text("\n".join(train) + "\n")
        data = ["--dataset_name", str(class_folders), "--labeled_ids", str(ids), *TINY, *SHORT]
        assert main([*data, "--output_dir", str(tmp_path / "run")]) == 0
        output = capsys.readouterr().out
        assert "1 of 3 classes have no labeled image" in output and "owl" in output

    def test_three_labels_in_all_still_train(self, class_folders: Path, tmp_path: Path) -> None:
        """The smallest labeled set must train: no eval split can be held out, eval is null, and model a stays at the
        root."""
        out = tmp_path / "run"
        data = ["--dataset_name", str(class_folders), "--num_labeled", "3", *TINY, *SHORT]
        assert main([*data, "--output_dir", str(out)]) == 0
        results = results_of(out)
        assert results["num_labeled"] == 3 and results["num_eval"] == 0
        assert results["phases"][-1]["eval"] is None and results["test"] is None
        assert json.loads((out / "dmt_config.json").read_text())["primary"] == "a"
        assert len(set(json.loads((out / "split.json").read_text())["labeled"])) == 3
