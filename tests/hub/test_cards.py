"""The finished model cards in `model_cards/`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_dmt.hub.card import write_card
from tests.hub_repos import read_card

CARDS = Path(__file__).parents[2] / "model_cards"
NAMES = sorted(path.name for path in CARDS.iterdir() if path.is_dir())
RECIPES = Path(__file__).parents[2] / "hf_dmt" / "commands" / "recipes"


def figures_in(value: Any) -> set[str]:
    """All numbers of a results file, in percent and rounded as on a card."""
    if isinstance(value, dict):
        return set().union(*map(figures_in, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(figures_in, value)) if value else set()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {f"{100 * value:.1f}"} if is_number else set()


def test_every_embedded_recipe_has_its_card() -> None:
    """Guards against a built-in recipe that is published without a model card."""
    assert {path.stem for path in RECIPES.glob("*.yaml")} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_card_is_what_its_run_says(name: str, tmp_path: Path) -> None:
    """Guards against a number that was not measured, a card older than the template, metadata that the Hub refuses, and
    a command to continue that is refused because the default is image classification."""
    folder = tmp_path / name
    shutil.copytree(CARDS / name, folder)
    written = (folder / "README.md").read_text(encoding="utf-8")
    assert write_card(folder).read_text(encoding="utf-8") == written
    results = json.loads((folder / "dmt_results.json").read_text())
    known, ratios = figures_in(results), set(map(str, results["knobs"]["label_ratios"]))
    cells = [cell.strip() for line in written.splitlines() if line.startswith("|") for cell in line.split("|")]
    shown = [cell for cell in cells if re.fullmatch(r"\d+\.\d", cell) and cell not in ratios]
    assert len(shown) > 20 and set(shown) <= known
    command = next(line for line in written.splitlines() if line.startswith("hf-dmt train --pair"))
    assert ("--task semantic-segmentation" in command) == (results["task"] == "semantic-segmentation")
    _, errors, warnings = read_card(written)
    assert not errors and not warnings
    data = ModelCard(written).data
    assert data.library_name == "transformers" and data.pipeline_tag is not None and data.eval_results
    links = re.findall(r"\]\((?!http)([^)]+)\)", written)
    assert len(links) > 3 and all((folder / link).is_file() for link in links)
    assert not list(folder.rglob("*.safetensors"))


def test_a_card_in_the_current_folder_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against examples without a name: `.` has none."""
    shutil.copytree(CARDS / "digits", tmp_path / "digits")
    monkeypatch.chdir(tmp_path / "digits")
    assert 'pipeline("image-classification", "digits")' in write_card(".").read_text(encoding="utf-8")


def test_images_held_out_of_the_training_images_are_no_split_of_the_data_set(tmp_path: Path) -> None:
    """Guards against scores that the Hub lists as those of a benchmark's test split, and that are of images of its
    training split, or of its validation split (--test_split)."""
    folder = tmp_path / "digits"
    shutil.copytree(CARDS / "digits", folder)
    split = json.loads((folder / "split.json").read_text())
    for held_out, listed in ((["eval"], "dev"), (["eval", "test"], None)):
        names = {"eval": "train", "test": "train" if listed is None else listed}
        (folder / "split.json").write_text(json.dumps({**split, "held_out": held_out, "splits": names}))
        written = write_card(folder).read_text(encoding="utf-8")
        assert f"The {' and '.join(held_out)} images were held out of the training images." in written
        assert {result.dataset_split for result in ModelCard(written).data.eval_results} == {listed}
