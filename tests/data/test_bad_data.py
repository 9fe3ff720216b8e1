"""Problems in the data that a run can handle if it reports them, and data sets that cannot be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import HfApi

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading.rows import DataError
from hf_dmt.data.splitting.assemble import assemble
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def notes_of(given: dict[str, Any], task: str) -> str:
    return "\n".join(assemble(DataArguments(**given), task).notes)


class TestWarnings:
    """Problems that do not stop a run, but must be reported before it starts."""

    def test_a_class_without_labeled_pixels(self, tmp_path: Path) -> None:
        """Guards against a class without labeled pixels going unreported: it is never learned and scores 0 in every
        table."""
        given = files.scene_flags(tmp_path, (0, 1), (0, 2), labeled_ids=files.text_file(tmp_path, "images/00.jpg"))
        assert "1 of 3 classes have no labeled image and cannot be learned: 2" in notes_of(given, PIXELS)

    def test_some_masks_are_void_all_over(self, tmp_path: Path) -> None:
        """Guards against entirely void masks going unreported: they cost labeling work and teach nothing."""
        notes = notes_of(files.scene_flags(tmp_path, (0, 1), (255,), (0, 1)), PIXELS)
        assert "1 of 3 labeled masks are entirely void: images/01.jpg" in notes

    def test_held_out_masks_are_void_all_over(self, tmp_path: Path) -> None:
        """Guards against a run that ends in its first evaluation with a message about the best metric, and against a
        test split that is scored without a score and without a word."""
        for name, values in (("train", (0, 1)), ("validation", (255,)), ("test", (255,))):
            files.scene_folder(tmp_path / name, [values] * 3)
        with pytest.raises(DataError, match="masks of the 3 eval images are entirely void, so there is nothing to sc"):
            assemble(DataArguments(str(tmp_path)), PIXELS)
        for file in (tmp_path / "validation" / "masks").iterdir():
            files.save(files.mask((0, 1)), file)
        assert "masks of the 3 test images are entirely void" in notes_of({"dataset_name": str(tmp_path)}, PIXELS)

    def test_skipped_images_are_listed(self, tmp_path: Path) -> None:
        """Guards against images that are skipped without a message."""
        found = assemble(DataArguments(**files.truncated_flags(tmp_path, skip_corrupt_images=True)), IMAGES)
        assert "Skipped 1 of 18 training images" in found.notes[0] and "dog/03.jpg" in found.notes[0]
        assert "dog/03.jpg" not in found.labeled.ids + found.split["eval"]

    def test_no_unlabeled_images_is_left_to_the_method(self, tmp_path: Path) -> None:
        """Reading the data must accept a set without unlabeled images, because `supervised` needs none; the other
        methods refuse it (tests/scripts)."""
        assert assemble(DataArguments(**files.animal_flags(tmp_path)), IMAGES).unlabeled is None


def test_a_hub_set_that_asks_for_code_or_a_token_is_named(hub: Any) -> None:
    """Guards against the claim that a data set does not exist when it is private or has several configurations, and
    against a traceback for one that is made by its own code, which must not run."""

    def refused(name: str) -> str:
        with pytest.raises(DataError, match=f"'{name}'") as problem:
            assemble(DataArguments(dataset_name=name), IMAGES)
        assert "no data set" not in str(problem.value)
        return str(problem.value)

    rows = files.table({"image": [files.encoded(files.image(shade)) for shade in (1, 99)], "label": [0, 1]})
    datasets.DatasetDict({"train": rows}).push_to_hub("me/private", token="hf_mine", private=True)
    assert "none that can be read on the Hub" in (message := refused("me/private"))
    assert "your token (`hf auth login`)" in message
    assert len(assemble(DataArguments(dataset_name="me/private"), IMAGES, token="hf_mine").labeled) == 2
    for config in ("small", "large"):
        rows.push_to_hub("me/two", config_name=config, token="hf_mine")
    assert "'small'" in (message := refused("me/two")) and "`dataset_config_name`" in message
    assert len(assemble(DataArguments(dataset_name="me/two", dataset_config_name="small"), IMAGES).labeled) == 2
    api = HfApi(token="hf_mine")
    api.create_repo("me/scripted", repo_type="dataset")
    script = {"path_or_fileobj": b"raise SystemExit('ran')\n", "path_in_repo": "scripted.py"}
    api.upload_file(**script, repo_id="me/scripted", repo_type="dataset")
    assert "revision='refs/convert/parquet'" in (message := refused("me/scripted")) and "scripted.py" in message
