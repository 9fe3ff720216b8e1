"""From flags to image sets: what is labeled and unlabeled, what the classes are called; no image is used twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading.rows import DataError
from hf_dmt.data.splitting.assemble import RunImages, assemble
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def run(name: Any, task: str = IMAGES, model_classes: Any = None, of_pair: Any = None, **flags: Any) -> RunImages:
    given = DataArguments(dataset_name=str(name), **flags)
    return assemble(given, task, model_classes=model_classes, of_pair=of_pair)


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.class_folder(tmp_path_factory.mktemp("assemble") / "animals")


def label_table(folder: Path, labels: list[Any], feature: Any = None, **splits: list[Any]) -> Path:
    features = {"image": datasets.Value("binary"), "label": feature} if feature else None
    tables = {
        split: files.table(
            {"image": [files.encoded(files.image(index % 200)) for index in range(len(values))], "label": values},
            features,
        )
        for split, values in {"train": labels, **splits}.items()
    }
    return files.parquet(folder, **tables)


def test_every_training_image_has_one_role(animals: Path) -> None:
    """Guards against an image that is both trained on and scored, or both labeled and unlabeled, which inflates the
    scores."""
    found = run(animals, num_labeled=12, split_seed=3)
    assert found.unlabeled is not None and found.evaluation is not None and found.test is None
    parts = [set(part.ids) for part in (found.labeled, found.unlabeled, found.evaluation)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 18 and [len(part) for part in parts] == [10, 6, 2]
    assert sorted(found.labeled.labels.tolist()) == [0] * 3 + [1] * 3 + [2] * 4 or len(found.labeled) == 10
    split = found.split
    assert split["labeled"] == found.labeled.ids and split["eval"] == found.evaluation.ids
    assert split["class_names"] == found.class_names == ["cat", "dog", "owl"] and set(split["sha256"]) >= {"labeled"}


def test_a_split_file_repeats_the_split(animals: Path, tmp_path: Path) -> None:
    """Guards against holding out an eval split again with `--labeled_ids split.json`: the run would train on fewer
    images and score different ones."""
    first = run(animals, num_labeled=12)
    (tmp_path / "split.json").write_text(json.dumps(first.split))
    again = run(animals, labeled_ids=str(tmp_path / "split.json"), split_seed=9)
    for role in ("labeled", "unlabeled", "eval"):
        assert again.split[role] == first.split[role], role
    (tmp_path / "ids.txt").write_text("\n".join(first.labeled.ids))
    assert len(run(animals, labeled_ids=str(tmp_path / "ids.txt")).labeled) == 8


def test_images_without_labels_are_the_unlabeled_ones(tmp_path: Path) -> None:
    """Guards against null and -1 in a label column becoming a class called None, or being chosen as labeled images."""
    for name, labels in (("words", ["owl", None, "cat", "cat", None, "owl"]), ("numbers", [1, -1, 0, 0, -1, 1])):
        root = label_table(tmp_path / name, labels)
        found = run(root)
        assert found.labeled.ids == ["0", "2", "3", "5"] and found.labeled.labels.tolist() == [1, 0, 0, 1]
        assert found.unlabeled is not None and found.unlabeled.ids == ["1", "4"] and "label" not in found.unlabeled[0]
        assert len(found.class_names) == 2 and any(
            "2 of 6 training images have no label" in note for note in found.notes
        )
        assert set(run(root, num_labeled=2).labeled.ids) <= {"0", "2", "3", "5"}


def test_a_column_of_splits_in_parquet_is_not_overlooked(tmp_path: Path) -> None:
    """Guards against training on rows that call themselves test rows, without a word."""
    rows = {"image": [files.encoded(files.image(number)) for number in range(12)], "label": [0, 1] * 6}
    for last, warned in (("test", True), ("train", False)):
        table = files.table({**rows, "split": ["train"] * 8 + [last] * 4})
        found = run(files.parquet(tmp_path / last, train=table))
        assert any("Warning: the column 'split'" in note for note in found.notes) == warned


def test_masks_that_are_null_are_unlabeled_images(tmp_path: Path) -> None:
    """Guards against a KeyError at the first row without a mask in a table where only some rows have one."""
    pictures = [files.encoded(files.image(3 + number)) for number in range(4)]
    masks = [files.encoded(files.mask([0, 1])), None, files.encoded(files.mask([1, 2])), None]
    features = {"image": datasets.Value("binary"), "mask": datasets.Image()}
    rows = files.table({"image": pictures,
                        "mask": [mask and {"bytes": mask, "path": None} for mask in masks]}, features)  # fmt: skip
    found = run(files.parquet(tmp_path / "data", train=rows, validation=rows), PIXELS)
    assert found.labeled.ids == ["0", "2"] and found.unlabeled is not None and found.unlabeled.ids == ["1", "3"]
    assert found.evaluation is not None and found.evaluation.ids == ["0", "2"], "nothing to score on the others"
    assert any("Skipped 2 of 4 eval images without masks" in note for note in found.notes)


def test_rows_without_a_mask_in_a_table_are_unlabeled_images(tmp_path: Path) -> None:
    """Guards against the advice to add rows without masks, which were then refused."""
    files.scene_folder(tmp_path, [(0, 1)] * 6)
    masks = [*(f"masks/{number:02d}.png" for number in range(4)), "", "-1"]
    rows = [f"images/{number:02d}.jpg,{mask},train" for number, mask in enumerate(masks)]
    for columns in ("file_name,mask,note", "file_name,mask,split"):
        found = run(files.text_file(tmp_path, "\n".join([columns, *rows]), "metadata.csv"), PIXELS)
        assert found.labeled.ids == [f"images/{number:02d}.jpg" for number in range(4)]
        assert found.unlabeled is not None and found.unlabeled.ids == ["images/04.jpg", "images/05.jpg"]
        assert "mask" not in found.unlabeled[0]


def test_a_test_split_without_labels_is_not_used(tmp_path: Path) -> None:
    """Guards against scoring a benchmark's test split whose labels are all -1: the score would be 0 %, or the run would
    end."""
    found = run(label_table(tmp_path / "data", [0, 1] * 8, test=[-1, -1]), num_labeled=4)
    assert found.test is None and any("The test split has no labels and is not used" in note for note in found.notes)


class TestUnlabeled:
    def test_exactly_the_folder_is_unlabeled(self, animals: Path, tmp_path: Path) -> None:
        """Guards against also training on the images that --num_labeled leaves over when an unlabeled folder is
        given."""
        files.save(files.image(5), tmp_path / "deep" / "a.png")
        found = run(animals, num_labeled=9, unlabeled_dir=str(tmp_path))
        assert found.unlabeled is not None and found.unlabeled.ids == ["deep/a.png"]
        assert set(found.unlabeled[0]) == {"image"} and len(found.labeled) == 9

    def test_a_table_lists_it(self, animals: Path, tmp_path: Path) -> None:
        """Guards against an error about paths for a table of unlabeled files."""
        files.save(files.image(5), tmp_path / "a.png")
        (tmp_path / "list.csv").write_text("file_name,label\na.png,dog\n")
        found = run(animals, unlabeled_dataset_name=str(tmp_path / "list.csv"))
        assert found.unlabeled is not None and found.unlabeled.ids == ["a.png"]
        assert found.unlabeled.labels.tolist() == [1]

    def test_a_label_column_in_it_is_scored(self, animals: Path, tmp_path: Path) -> None:
        """True labels of unlabeled images must be matched by class name, not by number, and their images must stay
        unlabeled."""
        root = label_table(tmp_path / "more", ["owl", "emu", "cat"])
        found = run(animals, unlabeled_dataset_name=str(root))
        assert found.unlabeled is not None and found.unlabeled.labels.tolist() == [2, -1, 0]
        assert [item.get("label") for item in found.unlabeled] == [2, None, 0]

    def test_masks_in_it_are_scored(self, tmp_path: Path) -> None:
        """Guards against dropping the masks of an unlabeled set that happens to have some: the accuracy of its pixel
        labels needs them."""
        rows = files.table(
            {"image": [files.encoded(files.image(1))] * 2, "mask": [files.encoded(files.mask([0, 255]))] * 2}
        )
        root = files.scene_folder(tmp_path / "scenes")
        more = files.parquet(tmp_path / "more", train=rows)
        found = run(root, PIXELS, unlabeled_dataset_name=str(more))
        assert found.unlabeled is not None and np.unique(found.unlabeled[1]["mask"]).tolist() == [-100, 0]

    def test_a_split_of_the_data_set_itself(self, tmp_path: Path) -> None:
        """Guards against silently ignoring --unlabeled_split, without a second data set, when the data set has its own
        unlabeled images."""
        root = label_table(tmp_path / "data", [0, 1] * 3, unlabeled=[-1] * 4)
        found = run(root, unlabeled_split="unlabeled")
        assert found.unlabeled is not None and len(found.unlabeled) == 4 and found.unlabeled.labels is None
        alone = run(root)  # no other images are unlabeled, so this split is used
        assert alone.unlabeled is not None and alone.unlabeled.ids == found.unlabeled.ids
        assert any("The unlabeled images are those in 'unlabeled'" in note for note in alone.notes)
        more = run(root, num_labeled=2)
        assert more.unlabeled is not None and len(more.unlabeled) == 4 and len(more.labeled) == 2

    @pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "pool"])
    def test_a_folder_among_the_classes(self, name: str, tmp_path: Path) -> None:
        """Guards against unlabeled images becoming a class of their own, which every model learns to predict."""
        root = files.class_folder(tmp_path / "data", ("cat", "dog"))
        for number in range(3):
            files.save(files.image(200 + number), root / name / "new" / f"{number}.jpg")
        given = run(root, unlabeled_dir=str(root / name))
        assert given.class_names == ["cat", "dog"] and given.unlabeled is not None
        assert given.unlabeled.ids == [f"new/{number}.jpg" for number in range(3)]
        assert not any("not used" in note for note in given.notes)
        if name == "pool":
            return
        alone = run(root)
        assert alone.class_names == ["cat", "dog"] and alone.unlabeled is not None and len(alone.unlabeled) == 3
        assert any(f"The unlabeled images are those in '{name}'" in note for note in alone.notes)
        few = run(root, num_labeled=4)
        assert few.unlabeled is not None and len(few.unlabeled) == 8
        assert any(f"`unlabeled_split={name!r}` would select it" in note for note in few.notes)

    def test_copies_of_scored_images_are_left_out(self, tmp_path: Path) -> None:
        """Guards against training with pseudo labels on images that were held out at random for scoring: the labeled
        images are usually copies of some in the unlabeled folder."""
        root = files.class_folder(tmp_path / "data", ("cat", "dog"))
        for number, file in enumerate(sorted(root.rglob("*.jpg"))):
            (tmp_path / "all").mkdir(exist_ok=True)
            (tmp_path / "all" / f"{number:02d}.jpg").write_bytes(file.read_bytes())
        files.save(files.image(250), tmp_path / "all" / "new.jpg")
        found = run(root, unlabeled_dir=str(tmp_path / "all"))
        assert found.unlabeled is not None and found.evaluation is not None
        assert len(found.unlabeled) == 13 - len(found.evaluation) and "new.jpg" in found.unlabeled.ids
        assert any(f"Skipped {len(found.evaluation)} unlabeled images that are copies of eval images" in note
                   for note in found.notes)  # fmt: skip
        assert not any("so scores on eval are too high" in note for note in found.notes)

    @pytest.mark.parametrize("name", ["digits", "digit-scenes"])
    def test_a_builtin_set_beside_ones_own_images(self, name: str, tmp_path: Path) -> None:
        """A user's own unlabeled images must work with an embedded data set, whose leftover images are then not
        used."""
        files.save(files.image(5), tmp_path / "a.png")
        task = IMAGES if name == "digits" else PIXELS
        found = run(name, task, num_labeled=20, unlabeled_dir=str(tmp_path))
        assert found.unlabeled is not None and found.unlabeled.ids == ["a.png"] and len(found.labeled) == 20
        other = run(name, task, num_labeled=20, unlabeled_dataset_name=name, unlabeled_split="validation")
        assert other.unlabeled is not None and set(other.unlabeled[0]) == set(found.labeled[0])


class TestClassNames:
    def test_where_they_come_from(self, tmp_path: Path) -> None:
        """Class names must come from the first of these that has them: --id2label, the data set, the two models, the
        values found."""
        named = datasets.ClassLabel(names=["x", "y", "z"])
        with_names = label_table(tmp_path / "named", [0, 1, 2] * 2, named)
        without = label_table(tmp_path / "plain", [0, 1, 2] * 2)
        (tmp_path / "map.json").write_text('{"1": "b", "0": "a", "2": "c"}')
        assert run(with_names, id2label=str(tmp_path / "map.json")).class_names == ["a", "b", "c"]
        assert run(with_names, model_classes=lambda count: ["p", "q", "r"]).class_names == ["x", "y", "z"]
        assert run(without, model_classes=lambda count: ["p", "q", "r"]).class_names == ["p", "q", "r"]
        said = run(without, model_classes=lambda count: ["p", "q", "r"]).notes
        assert any("taken for the 3 classes of the models: p, q, r." in note for note in said)
        asked: list[int] = []
        assert run(without, model_classes=asked.append).class_names == ["0", "1", "2"] and asked == [3]
        assert any("0 to 2. Name them with `id2label=FILE`" in note for note in run(without).notes)

    def test_words_keep_the_order_of_the_map(self, tmp_path: Path) -> None:
        """Guards against sorting class words alphabetically although --id2label says which number each of them has."""
        root = label_table(tmp_path / "words", ["owl", "cat", "owl", "dog"])
        (tmp_path / "map.json").write_text('["owl", "dog", "cat", "emu"]')
        found = run(root, id2label=str(tmp_path / "map.json"))
        assert found.labeled.labels.tolist() == [0, 2, 0, 1] and found.class_names == ["owl", "dog", "cat", "emu"]
        assert run(root).class_names == ["cat", "dog", "owl"]

    def test_of_masks(self, tmp_path: Path) -> None:
        """Guards against classes that do not follow the mask values, and against a void value that silently becomes the
        last class."""
        root = files.scene_folder(tmp_path / "scenes", [(0, 1), (1, 2, 30), (255, 0)])
        with pytest.raises(DataError, match=r"4 values up to 30 .*would make 31 classes.*pass `ignore_index=30`"):
            run(root, PIXELS)
        found = run(files.scene_folder(tmp_path / "few", [(0, 1), (1, 2, 4), (255, 0)]), PIXELS)
        assert found.class_names == [str(value) for value in range(5)]
        assert any("no training mask contains a value between 2 and 4" in note for note in found.notes)
        found = run(root, PIXELS, ignore_index=30, model_classes=lambda count: [f"c{index}" for index in range(count)])
        assert len(found.class_names) == 256 and np.unique(found.labeled[1]["mask"]).tolist() == [-100, 1, 2]


def test_the_only_other_split_as_the_test_split(tmp_path: Path) -> None:
    """Guards against reporting a score on the very images that the better model was chosen on."""
    labels = [row % 2 for row in range(20)]
    name = str(label_table(tmp_path / "data", labels, validation=[0, 1, 1]))
    assert len(run(name).evaluation or ()) == 3 and run(name).test is None
    for word in ("validation", "val"):
        found = run(name, test_split=word)
        assert len(found.test or ()) == 3 and len(found.evaluation or ()) == 4 and len(found.labeled) == 16, word
    root = str(label_table(tmp_path / "other", labels, test=[0, 1, 1]))
    for word in ("testing", "test"):
        other = run(root, eval_split=word)
        assert len(other.evaluation or ()) == 3 and other.test is None, word
    assert (found.split["splits"], other.split["splits"]) == ({"eval": "train", "test": "validation"}, {"eval": "test"})
    both = run(name, test_split="val", eval_split="validation")
    assert len(both.evaluation or ()) == 3, "asked for"


def test_without_a_test_split_some_labeled_images_are_held_out(tmp_path: Path) -> None:
    """Guards against training on test images, as labeled or as unlabeled ones, and against other test images for
    another number of labels, whose scores cannot be compared."""
    root = str(label_table(tmp_path / "data", [row % 3 for row in range(60)] + [-1] * 5))
    found = run(root, num_labeled=12, test_fraction=0.2)
    assert found.test is not None and found.evaluation is not None and found.unlabeled is not None
    assert np.bincount(found.test.labels).tolist() == [4, 4, 4]
    sets = [found.test.ids, found.evaluation.ids, found.labeled.ids, found.unlabeled.ids]
    assert sorted(int(name) for ids in sets for name in ids) == list(range(65)), "every image is in one set"
    assert found.split["test"] == found.test.ids and any("12 of the training images" in note for note in found.notes)
    more = run(root, num_labeled=40, test_fraction=0.2)
    assert more.test is not None and more.test.ids == found.test.ids
    other = run(root, num_labeled=12, test_fraction=0.2, split_seed=1)
    assert other.test is not None and other.test.ids != found.test.ids

    (tmp_path / "split.json").write_text(json.dumps(found.split))
    again = run(root, labeled_ids=str(tmp_path / "split.json"), split_seed=5)
    assert again.split["sha256"] == found.split["sha256"], "a split.json holds the same images out"

    masks = run(files.scene_folder(tmp_path / "scenes", [(0, 1)] * 20), PIXELS, test_fraction=0.25)
    assert masks.test is not None and len(masks.test) == 5 and len(masks.labeled) == 12


def test_what_a_pair_never_saw_stays_held_out(tmp_path: Path) -> None:
    """Guards against training a pair further on the images that its scores come from, because the user did not repeat
    --test_fraction or added an image, which changes every random choice."""
    root = files.class_folder(tmp_path / "animals", each=10)
    before = run(root, test_fraction=0.2).split
    assert before["held_out"] == ["eval", "test"]
    for number in range(3):
        files.save(files.image(9 + number), root / "cat" / f"new{number}.jpg")
    (root / before["test"][0]).unlink()
    again = run(root, of_pair=before).split
    assert again["test"] == before["test"][1:] and again["eval"] == before["eval"]
    assert len(again["labeled"]) == len(before["labeled"]) + 3 and again["held_out"] == before["held_out"]
    (tmp_path / "split.json").write_text(json.dumps(before))
    assert run(root, labeled_ids=str(tmp_path / "split.json")).split["test"] == again["test"], "one of them is gone"

    all_trained = run(root, test_fraction=0, of_pair=before)
    assert all_trained.test is None and set(all_trained.labeled.ids) >= set(again["test"])
    warned = run(root, test_fraction=0.3, of_pair={**before, "test": [], "held_out": ["eval"]}).notes
    assert any("Warning: the pair has been trained on" in note and "held out as test images" in note for note in warned)
    other = run(files.class_folder(tmp_path / "others", each=11), of_pair=before)
    assert other.test is not None and other.test.ids == before["test"], "the folder was copied to another name"
    files.save(files.image(99), tmp_path / "others" / before["test"][0])
    files.save(files.image(99), tmp_path / "others" / before["eval"][0])
    other = run(tmp_path / "others", of_pair=before)
    assert other.test is None and not any("the pair" in note for note in other.notes), "another data set"
    # Ids that are row numbers may be those of another split.
    table = label_table(tmp_path / "table", [0, 1] * 20, test=[0, 1, 1])
    with_test = run(table).split
    assert with_test["test"] == ["0", "1", "2"] and with_test["held_out"] == ["eval"]
    (tmp_path / "table" / "test.parquet").unlink()
    assert run(table, of_pair=with_test).test is None


@pytest.mark.parametrize("by", ["of_pair", "labeled_ids"])
def test_rows_that_moved_are_said(by: str, tmp_path: Path) -> None:
    """Guards against training on the images that a run held out, and against the labels of other images than those of
    its split.json, because the table was written again in another order."""

    def table(order: list[int]) -> Path:
        pictures = [files.encoded(files.image(row)) for row in order]
        rows = files.table({"image": pictures, "label": [row % 2 for row in order]})
        return files.parquet(tmp_path / "data", train=rows)

    before = run(table([*range(30)]), test_fraction=0.2, num_labeled=20).split
    assert before["held_out"] == ["eval", "test"] and before["labeled"]

    def moved(order: list[int], split: dict[str, Any]) -> list[str]:
        given = split if by == "of_pair" else files.text_file(tmp_path, json.dumps(split), "split.json")
        return [note for note in run(table(order), **{by: given}).notes if "contain other images" in note]

    for order in ([*range(30)], [*range(33)]):
        assert not moved(order, before), "the same rows, also with new ones behind them"
    assert "the rows of the labeled, eval, test images of" in moved([*range(29, -1, -1)], before)[0]
    answered = {**before, "held_out": [], "extra_labeled": ["7"]}
    assert not moved([*range(29, -1, -1)], answered), "its hash is over the answers, too, so nothing is known"


def test_images_without_a_role_are_said(animals: Path, tmp_path: Path) -> None:
    """Guards against training images that are dropped because the user named other unlabeled images, and against labels
    of an answered queue that are not passed again when the pair is trained further."""
    more = tmp_path / "more"
    for number in range(4):
        files.save(files.image(230 + number), more / f"{number}.jpg")
    found = run(animals, num_labeled=12, unlabeled_dir=str(more))
    assert found.unlabeled is not None and len(found.unlabeled) == 4
    assert any("Warning: 6 training images are not used, neither" in note for note in found.notes)
    assert not any("not used, neither" in note for note in run(animals, num_labeled=12).notes)
    given = {"num_labeled": 12, "unlabeled_dir": str(animals)}
    assert not any("not used, neither" in note for note in run(animals, **given).notes), "used as unlabeled images"
    before = {**found.split, "extra_labeled": ["0.jpg"]}
    again = run(animals, num_labeled=12, unlabeled_dir=str(more), of_pair=before)
    assert any("trained on 1 labels that were added later" in note for note in again.notes)


def test_a_folder_in_the_home_folder_is_no_data_set_on_the_hub(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against another name of the same folder, by which the images that it held out are not recognized. A shell
    does not replace the ~ of a config file, nor the one in --dataset_name=~/animals."""
    monkeypatch.setenv("HOME", str(animals.parent))
    split = run(Path(f"~/{animals.name}")).split
    assert split["dataset"] == animals.name and split["dataset_id"] is None


def test_ids_to_label_that_are_drawn_for_testing(animals: Path, tmp_path: Path) -> None:
    """Guards against an error that says such ids do not exist."""
    (tmp_path / "ids.txt").write_text("\n".join(run(animals).labeled.ids))
    with pytest.raises(DataError, match=r"are held out for testing, such as '.*omit `test_fraction`"):
        run(animals, labeled_ids=str(tmp_path / "ids.txt"), test_fraction=0.2)


def test_a_test_fraction_that_cannot_be_held_out(tmp_path: Path) -> None:
    """Guards against a second test set beside the one of the data, and against an empty one."""
    root = str(label_table(tmp_path / "data", [0, 1] * 10, test=[0, 1, 1]))
    with pytest.raises(DataError, match=r"`test_fraction` 0\.2 .*has a test split\. Omit it"):
        run(root, test_fraction=0.2)
    root = str(label_table(tmp_path / "other", [0, 1] * 4))
    with pytest.raises(DataError, match=r"`test_fraction` must be at least 0 and below 1, got 1.0; try 0\.2"):
        run(root, test_fraction=1.0)
    with pytest.raises(DataError, match="8 images with labels are too few"):
        run(root, test_fraction=0.2)


def test_views_larger_than_the_images_are_announced(tmp_path: Path, animals: Path) -> None:
    """Guards against training on padding without a warning: a 20x16 image leaves nine tenths of a view of 64 pixels
    void."""
    found = run(files.scene_folder(tmp_path / "scenes"), PIXELS)
    assert found.view_notes(16) == []
    (note,) = found.view_notes(64)
    assert "4 of 4 training images" in note and "below the 64 pixels" in note and "`image_size=16`" in note
    assert run(animals).view_notes(64) == [], "whole images are enlarged, not padded"


def test_images_exchanged_under_their_names_are_other_images(tmp_path: Path) -> None:
    """Guards against resuming with other images under the same ids: a table with as many rows, or two class folders
    that exchanged their names. The hash of the contents must differ."""

    def table(order: list[int]) -> dict[str, Any]:
        folder = tmp_path / "table"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rows = [
            {"image": files.image(30 * kind + row, (12, 12)), "label": row % 3} for row, kind in enumerate(order * 8)
        ]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])})
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "train.parquet"))
        return assemble(DataArguments(dataset_name=str(folder), num_labeled=12), "image-classification").split

    first, again, other = table([0, 1, 2]), table([0, 1, 2]), table([2, 0, 1])
    assert first["sha256"] == other["sha256"], "the same ids"
    assert first["contents"] == again["contents"]
    assert all(first["contents"][role] != other["contents"][role] for role in ("labeled", "unlabeled", "eval"))
    root = files.class_folder(tmp_path / "data", ("cat", "dog"))
    listed = [f"{name}/{number:02d}.jpg" for name in ("cat", "dog") for number in range(3)]
    ids = files.text_file(tmp_path, "\n".join(listed))
    before = run(root, labeled_ids=ids).split
    for name, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (root / name).rename(root / new)
    after = run(root, labeled_ids=ids).split
    assert before["sha256"] == after["sha256"], "the same ids"
    assert all(before["contents"][role] != after["contents"][role] for role in ("labeled", "unlabeled"))
