"""Which setting counts: a flag before a config file, and both before the embedded default of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_dmt.__main__ import called
from hf_dmt.commands.train import RECIPES
from hf_dmt.training.settings.command_line import parse, replaced


def settings(*argv: str) -> dict[str, Any]:
    model, data, training = parse([*argv, "--output_dir", "x", "--use_cpu", "true"], RECIPES)
    return {**vars(model), **vars(data), **vars(training)}


@pytest.mark.parametrize(
    ("given", "instead_of"),
    [
        ("--labeled_ids split.json", "num_labeled"),
        ("--labeled_fraction 0.5", "num_labeled"),
        ("--pair runs/x", "model_a model_b image_size"),
        ("--learning_rate 1e-4", "learning_rate_b"),
        ("--exchange sequential", "ema_decay"),
    ],
)
@pytest.mark.parametrize("by", ["flag", "config"])
def test_a_person_beats_the_embedded_default(tmp_path: Path, given: str, instead_of: str, by: str) -> None:
    """Guards against default settings that apply beside the requested ones, and against refusing two settings of which
    the user gave only one."""
    name, value = given.removeprefix("--").split()
    argv = given.split()
    if by == "config":
        (tmp_path / "mine.yaml").write_text(f"{name}: {value}\n")
        argv = [str(tmp_path / "mine.yaml")]
    default, found = settings(), settings(*argv)
    for other in instead_of.split():
        assert default[other] is not None and found[other] is None, other
    untouched = default.keys() - {"_checked", name, *instead_of.split()}
    assert {key: str(found[key]) for key in untouched} == {key: str(default[key]) for key in untouched}


@pytest.mark.parametrize(
    ("written", "flags", "expected"),
    [
        ("num_labeled: 50", "--labeled_ids split.json", {"num_labeled": None, "labeled_ids": "split.json"}),
        ("labeled_ids: split.json", "--num_labeled 5", {"num_labeled": 5, "labeled_ids": None}),
        ("unlabeled_dir: u", "--unlabeled_split more", {"unlabeled_dir": None, "unlabeled_split": "more"}),
        ("unlabeled_dataset_name: d\nunlabeled_split: s", "--unlabeled_dir u", {"unlabeled_split": None}),
        ("model_a: tiny:vit\nmodel_b: tiny:vit", "--pair runs/x", {"model_a": None, "pair": "runs/x"}),
        ("pair: runs/x", "--model_a tiny:vit --model_b tiny:vit", {"pair": None, "model_b": "tiny:vit"}),
        ("freeze_backbone: true", "--train all", {"freeze_backbone": False, "train": "all"}),
        ("learning_rate_b: 1e-3", "--learning_rate 1e-4", {"learning_rate_b": 1e-3, "learning_rate": 1e-4}),
        ("learning_rate: 1e-3", "--learning_rate 1e-4", {"learning_rate": 1e-4}),
    ],
)
def test_a_flag_beats_the_config_file(tmp_path: Path, written: str, flags: str, expected: dict[str, Any]) -> None:
    """Guards against the same faults as above; settings that do not exclude each other must stay."""
    models = "" if "model_a" in written or "pair" in written + flags else "model_a: tiny:vit\nmodel_b: tiny:vit\n"
    (tmp_path / "mine.yaml").write_text(f"dataset_name: d\n{models}{written}\n")
    found = settings(str(tmp_path / "mine.yaml"), *flags.split())
    assert {key: found[key] for key in expected} == expected


def test_an_empty_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against training on all images below the current folder because a variable of the shell is not set."""
    for words in (["--dataset_name", ""], ["--dataset_name="]):
        assert called(lambda flags: 0, words) == 2
        assert "error: --dataset_name is empty" in capsys.readouterr().err


def test_a_choice_called_no_and_paths_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a folder called ~, and against the error that eval_strategy has no choice False."""
    monkeypatch.setenv("HOME", str(tmp_path))
    given: list[list[str]] = []
    called(lambda flags: given.append(flags) or 0, ["~/pair", "--to=~/a=b.csv", "--label_column=~x", "a~/b"])
    assert given == [[f"{tmp_path}/pair", f"--to={tmp_path}/a=b.csv", "--label_column=~x", "a~/b"]]
    (tmp_path / "no.yaml").write_text("eval_strategy: no\n")  # False, in YAML
    assert settings(str(tmp_path / "no.yaml"))["eval_strategy"] == "no"
    (tmp_path / "mine.yaml").write_text("pair: ~/pair\nextra_labels: [~/queue]\nid2label: ${HOME}/names\n")
    found = settings(str(tmp_path / "mine.yaml"))
    assert found["pair"] == f"{tmp_path}/pair" and found["id2label"] == f"{tmp_path}/names"
    assert found["extra_labels"] == [f"{tmp_path}/queue"]


def test_trackers_may_be_a_list_in_a_config_file(tmp_path: Path) -> None:
    """Guards against `report_to: [tensorboard]`, which `TrainingArguments` takes, counting as one tracker with brackets
    in its name, and against `[]` not meaning none."""
    for text, trackers in (("[tensorboard]", ["tensorboard"]), ("[]", []), ("[none]", []), ("none", [])):
        (tmp_path / "mine.yaml").write_text(f"report_to: {text}\n")
        assert settings(str(tmp_path / "mine.yaml"))["report_to"] == trackers


def test_a_named_recipe_is_a_config_file() -> None:
    """Guards against refusing `hf-dmt train digits --labeled_ids split.json` because the recipe sets `num_labeled`."""
    found = settings("digits", "--labeled_ids", "split.json")
    assert found["num_labeled"] is None and found["dataset_name"] == "digits"


def test_what_was_switched_off_takes_no_place() -> None:
    """Guards against `--freeze_backbone false` undoing the config file's `train`."""
    assert replaced({"train"}, {"freeze_backbone": False}) == set()
    assert replaced({"train"}, {"freeze_backbone": True}) == {"train"}
    assert replaced({"num_labeled"}, {"num_labeled": 3, "labeled_ids": "x"}) == set()


def test_a_path_that_is_no_text_is_named() -> None:
    """Guards against the message "surrogates not allowed" after every image was read."""
    with pytest.raises(ValueError, match=r"--unlabeled_dir 'caf\\udce9' is not UTF-8. Rename"):
        settings("--unlabeled_dir", "caf\udce9")
