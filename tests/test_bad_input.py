"""User errors: one message before training, on the command line and in Python.

Every message has three parts: what was given, why it does not work, what to do.
"""

from __future__ import annotations

import ast
import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback

import hf_dmt
from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair, dynamic_mutual_loss, dynamic_weights, select_top_ratio
from hf_dmt.commands.push import main as push_main
from hf_dmt.training.settings.terminal import as_flags
from scripts.run_dmt import main
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"
TINY = {
    IMAGES: ["--model_a", "tiny:vit", "--model_b", "tiny:resnet"],
    PIXELS: ["--model_a", "tiny:segformer", "--model_b", "tiny:segformer"],
}
# How to make it; then patterns of what was given, why it cannot work, what to do.
Case = tuple[Callable[[Path], dict[str, Any]], str, str, str]


def assert_three_parts(message: str, given: str, why: str, remedy: str) -> None:
    for part in (given, why, remedy):
        assert re.search(part, message, re.DOTALL), f"{part!r} is not in: {message}"


def refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error message of a command line that is refused: exit code 2, a single error, no traceback."""
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("hf-dmt: error: ") == 1 and "Traceback" not in error
    return error.partition("hf-dmt: error: ")[2].strip()


# ---- images and labels -----------------------------------------------------------------------------------------------


def labels(root: Path, values: list[Any], **flags: Any) -> dict[str, Any]:
    count = len(values)
    rows = files.table(
        {"image": [files.encoded(files.image(1))] * count, "label": values, "number": list(range(count))}
    )
    return {"dataset_name": str(files.parquet(root / "table", train=rows)), **flags}


def splits_inside_classes(root: Path) -> dict[str, Any]:
    for name in ("cat", "dog"):
        files.class_folder(root / "data" / name, ("train", "test"))
    return {"dataset_name": str(root / "data")}


def table_of_files(root: Path, text: str) -> dict[str, Any]:
    files.save(files.image(1), root / "0.png")
    return {"dataset_name": files.text_file(root, text, "images.csv")}


def with_mask(root: Path, mask: Any, **flags: Any) -> dict[str, Any]:
    given = files.scene_flags(root, **flags)
    files.save(mask, root / "masks" / "01.png")
    return given


def with_eval_masks(root: Path) -> dict[str, Any]:
    files.scene_folder(root / "val", [(0, 7)])
    return files.scene_flags(root / "train") | {"dataset_name": str(root)}


def missing_masks(root: Path) -> dict[str, Any]:
    given = files.scene_flags(root)
    (root / "masks" / "01.png").unlink()
    return given


def array_mask(root: Path) -> dict[str, Any]:
    given = files.scene_flags(root)
    (root / "masks" / "01.png").rename(root / "masks" / "01.npy")
    return given


def no_mask_folder(root: Path) -> dict[str, Any]:
    files.save(files.image(1), root / "images" / "a.png")
    return {"dataset_name": str(root)}


def masks_only(root: Path) -> dict[str, Any]:
    rows = files.table({"image": [files.encoded(files.image(1))] * 2, "caption": ["x", "y"]})
    return {"dataset_name": str(files.parquet(root / "table", train=rows))}


def three_names(root: Path) -> str:
    return files.text_file(root, '["sky", "road", "car"]', "map.json")


SEGMENTATION: dict[str, Case] = {
    "values outside the classes": (
        lambda root: files.scene_flags(root, (0, 9), (1, 2), (9,), id2label=three_names(root)),
        r"2 labeled masks contain values",
        r"not among the 3 classes \(0 to 2\):\n  images/00.jpg: 9\n  images/02.jpg: 9",
        r"If 9 means 'no label', pass --ignore_index 9",
    ),
    "several values outside": (
        lambda root: files.scene_flags(root, (0, 9, 11), id2label=three_names(root)),
        r"1 labeled masks? contain",
        r"images/00.jpg: 9, 11",
        r"name all of them with --id2label",
    ),
    "values outside, counted from 1": (
        lambda root: files.scene_flags(root, (0, 1, 40), id2label=three_names(root), reduce_labels=True),
        r"1 labeled masks contain",
        r"\(1 to 3\):\n  images/00.jpg: 40",
        r"--ignore_index 40",
    ),
    "values outside in the eval masks": (
        with_eval_masks,
        r"1 eval masks contain",
        r"not among the 3 classes .*\n  val/images/00.jpg: 7",
        r"--ignore_index 7",
    ),
    "settings of masks of ids, for masks of colors": (
        lambda root: files.scene_flags(
            root, ignore_index=0, mask_colors=files.text_file(root, "name,r,g,b\na,0,0,0\nb,1,1,1\nc,2,2,2", "c.csv")
        ),
        r"--ignore_index 0 is for masks of ids",
        r"--mask_colors reads colors",
        r"Omit it; a row called void",
    ),
    "masks that are arrays": (
        lambda root: array_mask(root),
        r"1 of 2 images in .* have no mask",
        r"[Ss]kipped 1 .npy .*01.npy",
        r"save them as PNG or TIFF files",
    ),
    "sizes differ": (
        lambda root: with_mask(root, files.mask([0, 1], (10, 16))),
        r"image images/01.jpg is 20x16, but its mask is 10x16",
        r"one value per pixel",
        r"Pair the right files, or resize",
    ),
    "color mask": (
        lambda root: with_mask(root, files.image(9)),
        r"The mask .*01.png is a color image",
        r"which class a color means is unknown",
        r"Give a table of colors with --mask_colors",
    ),
    "mask with transparency": (
        lambda root: with_mask(root, files.image(9).convert("LA").point(lambda value: value // 2)),
        r"The mask .*01.png has transparent pixels",
        r"whose class is unknown",
        r"Save it without an alpha channel",
    ),
    "mask missing": (missing_masks, r"1 of 2 images in .*images'", r"have no mask of the same name", r"Add the masks"),
    "no masks at all": (
        no_mask_folder,
        r"images'",
        r"has no folder 'masks' beside it",
        r"Add the masks|--unlabeled_dir",
    ),
    "no mask column": (masks_only, r"table'", r"has no column with masks; it has: image, caption", r"--label_column"),
    "all void": (
        lambda root: files.scene_flags(root, (255,), (255,)),
        r"The training masks contain no labeled pixel",
        r"every value is the ignore value \(255\)",
        r"Check --ignore_index",
    ),
    "labeled masks all void": (
        lambda root: files.scene_flags(root, (255,), (0, 1), labeled_ids=files.text_file(root, "images/00.jpg")),
        r"The masks of the 1 labeled images",
        r"are entirely void",
        r"Choose other labeled images",
    ),
    "an object drawn as 255": (
        lambda root: files.scene_flags(root, (0, 255), (255, 0)),
        r"Every labeled pixel of the 2 labeled masks is 0 \(0\); 255 means 'no label'",
        r"nothing to learn",
        r"If 255 marks an object, name both values .*\"255\": \"object\".* and pass --ignore_index=-1",
    ),
    "one class left of the named ones": (
        lambda root: files.scene_flags(root, (0, 1), (1, 255), reduce_labels=True, id2label=three_names(root)),
        r"Every labeled pixel of the 2 labeled masks is 1 \(.*\); 0 and 255 mean 'no label'",
        r"nothing to learn",
        r"Label other classes",
    ),
    "labels instead of masks": (
        lambda root: labels(root, [0, 1], label_column="label"),
        r"--label_column 'label'",
        r"contains Value.*needs masks",
        r"Name another column",
    ),
    "builtin of the other task": (
        lambda root: {"dataset_name": "digits"},
        r"'digits'",
        r"has no masks",
        r"Use digit-scenes",
    ),
}
CLASSIFICATION: dict[str, Case] = {
    "configuration of a folder": (
        lambda root: {"dataset_name": str(files.class_folder(root)), "dataset_config_name": "small"},
        r"--dataset_config_name 'small'",
        r"is for data sets on the Hub",
        r"Omit it",
    ),
    "image missing in a table": (
        lambda root: {
            "dataset_name": str(
                files.parquet(
                    root, train=files.table({"image": [files.encoded(files.image(1)), None], "label": [0, 1]})
                )
            )
        },
        r"1 of 2 training images .*row 1 cannot be read",
        r"its cell in the table is empty",
        r"--skip_corrupt_images",
    ),
    "no such folder": (lambda root: {"dataset_name": str(root / "x")}, r"no folder '.*x'", r"", r"Check the path"),
    "no such folder here": (lambda root: {"dataset_name": "nowhere/"}, r"no folder 'nowhere/'", r"", r"Check the path"),
    "unknown id": (lambda root: {"dataset_name": "no/body"}, r"'no/body'", r"no embedded set", r"Check the spelling"),
    "images without classes": (
        lambda root: {"dataset_name": str(files.save(files.image(1), root / "flat" / "a.png").parent)},
        r"training images of '.*flat'",
        r"have no labels: no class folders and no label column",
        r"--label_column|one folder per class",
    ),
    "table without a label column": (
        lambda root: table_of_files(root, "file_name,kind\n0.png,cat"),
        r"training images of '.*'",
        r"have no labels: .* \(the columns are file_name, kind\)",
        r"--label_column",
    ),
    "all labels unknown": (
        lambda root: labels(root, [-1, -1]),
        r"training images of '.*table'",
        r"have no labels",
        r"--label_column",
    ),
    "labels that are fractions": (
        lambda root: labels(root, [0.5, 1.25, 2.0]),
        r"labels of '.*table' are fractions such as",
        r"a class is a whole number or a word",
        r"--label_column",
    ),
    "labels that are dates": (
        lambda root: labels(root, [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)]),
        r"labels of '.*table' are of the type date, such as datetime.date\(2020, 1, 1\)",
        r"a class is a whole number or a word",
        r"store the labels as words",
    ),
    "labels that are bytes": (
        lambda root: labels(root, [b"cat", b"dog"], label_column="label"),
        r"--label_column 'label' of '.*table' contains Value\('binary'\)",
        r"needs one label per image",
        r"Name another column",
    ),
    "labels that are ids": (
        lambda root: labels(root, [10, 7001, 90210]),
        r"3 different numbers up to 90210",
        r"look like ids",
        r"Number the classes from 0",
    ),
    "labels below 0": (lambda root: labels(root, [0, 1, -2]), r"label -2", r"below 0", r"Correct the labels"),
    "several labels per image": (
        lambda root: labels(root, [[0], [0, 1]]),
        r"--label_column 'label' of .* contains List",
        r"image-classification needs one label per image",
        r"Name another column",
    ),
    "settings of masks": (
        lambda root: files.animal_flags(root, reduce_labels=True),
        r"--reduce_labels true is for masks",
        r"classification has one label per image",
        r"Omit it, or add --task semantic-segmentation",
    ),
    "splits inside class folders": (
        lambda root: splits_inside_classes(root),
        r"contains cat/test",
        r"would be trained on",
        r"Move the split above the class: test/cat",
    ),
    "label outside the map": (
        lambda root: labels(root, [0, 1, 5], id2label=three_names(root)),
        r"Label 5 of 1 labeled images \(2\)",
        r"outside the 3 classes \(0 to 2\)",
        r"--id2label",
    ),
    "word outside the map": (
        lambda root: labels(root, ["sky", "moon"], id2label=three_names(root)),
        r"Labels \['moon'\]",
        r"not among the 3 classes",
        r"Add them",
    ),
    "map with ids that are no numbers": (
        lambda root: files.animal_flags(root, id2label=files.text_file(root, '{"0": "a", "x": "b"}', "map.json")),
        r"--id2label '.*map.json'",
        r"invalid literal .*'x'",
        r"Give a JSON file like",
    ),
    "map that names a class twice": (
        lambda root: files.animal_flags(root, id2label=files.text_file(root, '["a", "a"]', "map.json")),
        r"--id2label",
        r"names a class twice",
        r"Give a JSON file like",
    ),
    "map that is a number": (
        lambda root: files.animal_flags(root, id2label=files.text_file(root, "3", "map.json")),
        r"--id2label",
        r"it contains a int",
        r"Give a JSON file like",
    ),
    "map that is no JSON": (
        lambda root: files.animal_flags(root, id2label=files.text_file(root, "{", "map.json")),
        r"--id2label",
        r"is not a class map",
        r"Give a JSON file like",
    ),
    "truncated image": (
        files.truncated_flags,
        r"1 of 18 training images",
        r"cannot be read:\n.*dog/03.jpg.*[Tt]runcated",
        r"Repair or delete them, or skip them with --skip_corrupt_images",
    ),
    "one column for both": (
        lambda root: labels(root, ["x", "y"], image_column="label", label_column="label"),
        r"--image_column and --label_column are both 'label'",
        r"must be different columns",
        r"Name two of: image, label, number",
    ),
    "image column that holds labels": (
        lambda root: labels(root, [0, 1], image_column="number"),
        r"row 0 is not an image",
        r"expected a PIL image, path, bytes",
        r"Name the column with the images: --image_column",
    ),
    "more labels than images": (
        lambda root: files.animal_flags(root, num_labeled=19),
        r"19 labeled images were requested",
        r"has 18",
        r"choose 1 to 18",
    ),
    "no labeled images": (
        lambda root: files.animal_flags(root, num_labeled=0),
        r"0 labeled images",
        r"has 18",
        r"choose 1",
    ),
    "fraction too large": (
        lambda root: files.animal_flags(root, labeled_fraction=1.5),
        r"1.5",
        r"at most 1",
        r"try 0.1",
    ),
    "fraction zero": (
        lambda root: files.animal_flags(root, labeled_fraction=0.0),
        r"got 0;",
        r"above 0",
        r"try 0.1",
    ),
    "two ways to choose": (
        lambda root: files.animal_flags(root, num_labeled=3, labeled_fraction=0.5),
        r"--num_labeled and --labeled_fraction",
        r"both choose the",
        r"Give only one",
    ),
    "split seed below 0": (
        lambda root: files.animal_flags(root, split_seed=-1),
        r"--split_seed",
        r"at least 0, got -1",
        r"Give 0, 1",
    ),
    "one class": (
        lambda root: labels(root, [0, 0, 0]),
        r"table' has a single class, '0'",
        r"nothing to learn",
        r"a separate folder",
    ),
    "ids that are not there": (
        lambda root: files.animal_flags(root, labeled_ids=files.text_file(root, "cat/00.jpg\ncat/99.jpg")),
        r"1 of 2 labeled ids",
        r"not in the training split, for example 'cat/99.jpg'",
        r"An id is",
    ),
    "ids of images without a label": (
        lambda root: labels(root, [0, None, 1], labeled_ids=files.text_file(root, "0\n1")),
        r"1 of the 2 images in '.*ids.txt'",
        r"have no label: 1",
        r"Label them, or remove their ids",
    ),
    "no such training split": (
        lambda root: files.animal_flags(root, train_split="more"),
        r"--train_split 'more'",
        r"does not exist in .* which has: train",
        r"Name one",
    ),
    "evaluation on the training split": (
        lambda root: files.animal_flags(root, eval_split="train"),
        r"--eval_split 'train' is the training split",
        r"training images are meaningless",
        r"Name another split",
    ),
    "unlabeled twice": (
        lambda root: files.animal_flags(root, unlabeled_dir="x", unlabeled_dataset_name="y"),
        r"--unlabeled_dir and --unlabeled_dataset_name",
        r"both choose",
        r"Give only one",
    ),
    "unlabeled split of a folder": (
        lambda root: files.animal_flags(root, unlabeled_dir="x", unlabeled_split="y"),
        r"--unlabeled_dir and --unlabeled_split",
        r"both choose",
        r"Give only one",
    ),
    "unlabeled folder missing": (
        lambda root: files.animal_flags(root, unlabeled_dir=str(root / "x")),
        r"--unlabeled_dir '.*x'",
        r"is not a folder",
        r"Check the path",
    ),
    "unlabeled folder of text": (
        lambda root: files.animal_flags(root, unlabeled_dir=str(Path(files.text_file(root / "texts", "x")).parent)),
        r"--unlabeled_dir '.*texts'",
        r"contains no images",
        r"Check the path and the file names",
    ),
    "unlabeled split missing": (
        lambda root: files.animal_flags(root, unlabeled_split="more"),
        r"'.*animals' has no split 'more'",
        r"it has: train",
        r"Name one with --unlabeled_split",
    ),
    "unlabeled builtin without a split": (
        lambda root: files.animal_flags(root, unlabeled_dataset_name="digits"),
        r"'digits' has several splits",
        r"it has: train, validation, test",
        r"--unlabeled_split",
    ),
    "builtin of the other task": (
        lambda root: {"dataset_name": "digit-scenes"},
        r"'digit-scenes'",
        r"has no labels",
        r"Use digits",
    ),
}
CASES = [(PIXELS, name, *case) for name, case in SEGMENTATION.items()]
CASES += [(IMAGES, name, *case) for name, case in CLASSIFICATION.items()]


@pytest.mark.parametrize(("task", "name", "make", "given", "why", "remedy"), CASES, ids=[case[1] for case in CASES])
def test_images_and_labels(
    task: str,
    name: str,
    make: Callable[[Path], dict[str, Any]],
    given: str,
    why: str,
    remedy: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guards against a traceback in the third hour of training, and against a message that does not help."""
    flags = [str(word) for flag, value in make(tmp_path).items() for word in (f"--{flag}", value)]
    out = tmp_path / "run"
    message = refused(["--task", task, *TINY[task], *flags, "--output_dir", str(out)], capsys)
    assert_three_parts(message, given, why, remedy)
    assert not out.exists()


# ---- flags and config files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a saved pair, and files that are not what the commands below take them for."""
    root = tmp_path_factory.mktemp("place")
    files.class_folder(root / "animals")
    files.scene_folder(root / "scenes", [(0, 1)] * 12)
    for number in range(4):
        files.save(files.image(50 * number), root / "more" / f"{number}.jpg")
    (root / "empty").mkdir()
    for name, text in {
        "notes.txt": "hello",
        "broken.yaml": "learning_rate: [1, 2\n",
        "list.yaml": "- a\n",
        "empty.yaml": "",
        "typo.yaml": "learning_rat: 1e-3\n",
        "twice.yaml": "seed: 1\nlearning_rate: 1e-3\nseed: 2\n",
        "octal.yaml": "seed: 010\nnum_labeled: 0x10\n",
        "word.yaml": "learning_rate: fast\n",
        "blank.yaml": "learning_rate:\n",
        "choice.yaml": "task: detection\n",
        "nested.yaml": "label_ratios: {a: 1}\n",
        "code.yaml": 'seed: !!python/object/apply:os.system ["touch owned"]\n',
        "broken.json": "{",
        "deep.json": "[" * 100_000,
        "bert/config.json": '{"model_type": "bert"}',
        "torn/dmt_config.json": "{",
        "future/dmt_config.json": json.dumps({"format_version": 99, "task": IMAGES, "primary": "a"}),
        "lists.json": '{"a": ["nobody.jpg"], "b": ["nobody.jpg"]}',
    }.items():
        files.text_file((root / name).parent, text, Path(name).name)
    (root / "latin.yaml").write_bytes(b"\xff\xfe\x00")
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label={0: "x", 1: "y"}, image_size=16)
    pair.save_pretrained(root / "pair")
    pickled = root / "pickled"
    pair.model_a.save_pretrained(pickled)
    pair.processor_a.save_pretrained(pickled)
    torch.save(pair.model_a.state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for name in ("cut", "bare"):
        pair.model_a.save_pretrained(root / name)
    pair.processor_a.save_pretrained(root / "cut")
    files.cut(root / "cut" / "model.safetensors")
    return root


ANIMALS = "--dataset_name {}/animals --unlabeled_dir {}/more"
WITH_TINY = f"{ANIMALS} --model_a tiny:vit --model_b tiny:resnet --image_size 16"
SCENES = "--task semantic-segmentation --dataset_name {}/scenes --unlabeled_dir {}/more"
SCENES += " --model_a tiny:segformer --model_b tiny:segformer"

# The command line, {} being the folder of `place`; then the three patterns.
FLAGS: dict[str, tuple[str, str, str, str]] = {
    "unknown flag": ("--max_stepps 3", r"'--max_stepps'", r"Unknown", r"--max_steps"),
    "flag of another script": (
        "--batch_size 8",
        r"'--batch_size'",
        r"",
        r"Use --labeled_batch_size and --pseudo_batch",
    ),
    "epochs at the stock default": ("--num_train_epochs 3", r"--num_train_epochs 3", r"in phases", r"--phase_epochs"),
    "folder without a flag": ("--dataset_name d {}", r"does not follow a flag", r"", r"--dataset_name"),
    "shortened flag": ("--learning_ra 1", r"'--learning_ra'", r"", r"Did you mean --learning_rate"),
    "flag without a value": ("--learning_rate", r"--learning_rate", r"expected one argument", r"--help"),
    "word for a number": ("--max_steps many", r"--max_steps", r"invalid int value: 'many'", r"--help"),
    "commas between values": ("--label_ratios 0.2,0.4", r"'0.2,0.4'", r"invalid float value", r"by spaces"),
    "unknown task": ("--task detection", r"--task", r"invalid choice: 'detection'", r"semantic-segmentation"),
    "file after the flags": (
        "--seed 1 {}/empty.yaml",
        r"empty.yaml'",
        r"does not follow a flag",
        r"Put a config file first",
    ),
    "json without check": ("--json", r"--json", r"which is not given", r"Add it"),
    "config missing": ("{}/nowhere.yaml", r"nowhere.yaml'", r"No such file", r"Give a YAML or JSON file"),
    "config is a folder": ("{}/empty", r"empty'", r"is a folder, not a config file", r"--dataset_name"),
    "config without a value": ("{}/blank.yaml", r"sets learning_rate to nothing", r"needs a value", r"delete the line"),
    "config is torn": ("{}/broken.yaml", r"broken.yaml'", r"line 1, column 16", r"Give a YAML or JSON file"),
    "config is torn JSON": ("{}/broken.json", r"broken.json'", r"line 1 column 2", r"Give a YAML or JSON file"),
    "config is too deep": ("{}/deep.json", r"deep.json'", r"nested too deeply", r"Give a YAML or JSON file"),
    "config is no text": ("{}/latin.yaml", r"latin.yaml'", r"can't decode", r"Give a YAML or JSON file"),
    "config with code": ("{}/code.yaml", r"code.yaml'", r"could not determine a constructor", r"Give a YAML"),
    "config is a list": ("{}/list.yaml", r"list.yaml'", r"contains a list instead of settings", r"name: value"),
    "config is empty": ("{}/empty.yaml", r"empty.yaml'", r"contains nothing", r"name: value"),
    "config with a key twice": ("{}/twice.yaml", r"twice.yaml'", r"contains the key 'seed' twice", r"delete one"),
    "config with an octal": ("{}/octal.yaml", r"octal.yaml'", r"010 is 8 in YAML 1.1", r"without leading zeros"),
    "config as a flag": ("--config {}/typo.yaml", r"'--config'", r"Unknown", r"Put the config file first"),
    "config misspelled": ("{}/typo.yaml", r"'learning_rat'", r"does not exist", r"'learning_rate'"),
    "config with a word": ("{}/word.yaml", r"learning_rate to 'fast'", r"could not convert", r"Write .* as the flag"),
    "config with a choice": ("{}/choice.yaml", r"task to 'detection'", r"does not exist", r"semantic-segm"),
    "config with a map": ("{}/nested.yaml", r"label_ratios to", r"cannot be read", r"Write .* as the flag"),
    "one model": (f"{ANIMALS} --model_a tiny:vit", r"--model_b is missing", r"needs two models", r"Give --model_a"),
    "pair and models": (f"{WITH_TINY} --pair x", r"--pair 'x'", r"contains both models", r"omit --model_a"),
    "unknown model": (f"{ANIMALS} --model_a no/body --model_b tiny:vit", r"'no/body'", r"\(", r"check the spelling"),
    "unknown builtin": (
        f"{ANIMALS} --model_a tiny:no --model_b tiny:vit",
        r"'tiny:no'",
        r"Unknown|no embedded",
        r"tiny:vit",
    ),
    "builtin of the other task": (
        f"{ANIMALS} --model_a tiny:segformer --model_b tiny:vit",
        r"'tiny:segformer'",
        r"for semantic-segmentation, not for image-classification",
        r"Use one of: .*tiny:vit",
    ),
    "model is a text file": (
        f"{ANIMALS} --model_a {{}}/notes.txt --model_b tiny:vit",
        r"notes.txt'",
        r"is a file",
        r"Give the folder",
    ),
    "model is a language model": (
        f"{ANIMALS} --model_a {{}}/bert --model_b tiny:vit",
        r"bert' is a 'bert' model",
        r"does not support for image-classification",
        r"Choose a checkpoint",
    ),
    "model is pickled": (
        f"{ANIMALS} --model_a {{}}/pickled --model_b tiny:vit",
        r"pickled' has no safetensors",
        r"can run code",
        r"convert them once",
    ),
    "model is cut off": (
        f"{ANIMALS} --model_a {{}}/cut --model_b tiny:vit",
        r"cut'",
        r"could not be loaded",
        r"Download it",
    ),
    "model without a processor": (
        f"{ANIMALS} --model_a {{}}/bare --model_b tiny:vit",
        r"bare'",
        r"no usable image processor",
        r"Save one beside",
    ),
    "pair is nowhere": (
        "--dataset_name {}/animals --pair nowhere",
        r"'nowhere' is not a folder",
        r"cannot be loaded",
        r"Log in",
    ),
    "pair is a data set": (
        "--dataset_name {}/animals --pair {}/animals",
        r"animals' has no",
        r"not a pair",
        r"Give the",
    ),
    "pair is torn": ("--dataset_name {}/animals --pair {}/torn", r"torn'", r"is damaged", r"Copy or download it again"),
    "pair of the future": ("--dataset_name {}/animals --pair {}/future", r"format 99", r"reads up to 1", r"Upgrade"),
    "pair of other classes": (
        f"{ANIMALS} --pair {{}}/pair",
        r"pair' predicts 2 classes",
        r"the data has 3",
        r"Use data with",
    ),
    "images with masks": (
        "--dataset_name {}/scenes --model_a tiny:vit --model_b tiny:vit",
        r"scenes'",
        r"not one folder",
        r"--task",
    ),
    "data is a text file": (
        "--dataset_name {}/notes.txt --model_a tiny:vit --model_b tiny:vit",
        r"notes.txt'",
        r"is a file",
        r"Give a folder of images, or a table",
    ),
    "data is an empty folder": (
        "--dataset_name {}/empty --model_a tiny:vit --model_b tiny:vit",
        r"empty'",
        r"data files",
        r"Give one folder per class",
    ),
    "label column that is not there": (
        f"{WITH_TINY} --label_column species",
        r"'species'",
        r"is not in",
        r"Name one of",
    ),
    "image column that is not there": (f"{WITH_TINY} --image_column photo", r"'photo'", r"is not in", r"Name one of"),
    "ids that are nowhere": (f"{WITH_TINY} --labeled_ids no.txt", r"'no.txt'", r"No such file", r"one id per line"),
    "class map that is nowhere": (
        f"{WITH_TINY} --id2label no.json",
        r"'no.json'",
        r"No such file",
        r"Give a JSON file",
    ),
    "unlabeled folder that is empty": (
        "--dataset_name {}/animals --unlabeled_dir {}/empty --model_a tiny:vit --model_b tiny:vit",
        r"empty'",
        r"no images",
        r"JPEG|Check",
    ),
    "no unlabeled images": (
        "--dataset_name {}/animals --model_a tiny:vit --model_b tiny:vit",
        r"'dmt'",
        r"but there are none",
        r"--method supervised",
    ),
    "view of no pixel": (
        f"{ANIMALS} {' '.join(TINY[IMAGES])} --image_size 0",
        r"--image_size 0",
        r"side of 8 to 16384",
        r"224",
    ),
    "folder of someone else": (
        "--output_dir {}/animals",
        r"animals'",
        r"not the folder of a run",
        r"Choose another folder",
    ),
    "folder is a file": ("--output_dir {}/notes.txt", r"notes.txt' is a file", r"needs a folder", r"Choose another"),
    "folder inside a file": (
        "--output_dir {}/notes.txt/run",
        r"notes.txt/run'",
        r"notes.txt' is a file",
        r"Choose another",
    ),
    "checkpoint is none": (
        f"{WITH_TINY} --resume_from_checkpoint {{}}/empty",
        r"empty'",
        r"missing, unreadable or replaced",
        r"Use",
    ),
    "unknown method": ("--method fixmatch", r"'fixmatch'", r"", r"dmt"),
    "unknown choice": ("--positive_disagree ignore", r"'ignore'", r"does not exist", r"drop, keep, flip"),
    "unknown balance": (f"{WITH_TINY} --class_balanced maybe", r"'maybe'", r"is not one of", r"auto, true, false"),
    "unknown augmentation": ("--augmentation blur", r"'blur'", r"no augmentation", r"choose one of .*weak, strong"),
    "augmentation of masks": (
        f"{WITH_TINY} --augmentation scale-crop-flip",
        r"'scale-crop-flip'",
        r"image-class",
        r"choose",
    ),
    "ratio above one": ("--label_ratios 0.5 1.5", r"1\.5", r"at most 1", r"such as"),
    "ratio of zero": ("--label_ratios 0", r"label_ratios", r"above 0", r"such as"),
    "ratio that is no number": ("--label_ratios nan", r"nan", r"above 0", r"such as"),
    "gamma below zero": ("--gamma1 -1", r"gamma1 is -1", r"0 or more", r"0 turns"),
    "negative power of ten": ("--learning_rate -1e-3", r"got -0\.001", r"at least 0", r"try"),
    "negative without end": ("--gamma1 -inf", r"gamma1 is -inf", r"0 or more", r"0 turns"),
    "gamma without end": ("--gamma2 inf", r"gamma2 is inf", r"0 or more", r"0 turns"),
    "average that never moves": ("--ema_decay 1", r"ema_decay is 1", r"below 1", r"0 turns"),
    "no phases at all": ("--phase_epochs 0", r"phase_epochs is 0", r"must be above 0", r"finite"),
    "epochs without end": ("--supervised_epochs inf", r"supervised_epochs is inf", r"must be", r"finite"),
    "old spelling": (
        "--difference_maximised_sampling true",
        r"--difference_maximised_sampling",
        r"Unknown argument",
        r"--difference_maximized_sampling",
    ),
    "a flag that --official replaces": ("--ema_rule official", r"--ema_rule", r"Unknown argument", r"--official true"),
    "a flag that is gone": ("--rollback_on_collapse", r"--rollback_on_collapse", r"Unknown", r"nothing is rolled back"),
    "learning rate below zero": (
        "--learning_rate -1",
        r"--learning_rate .* got -1",
        r"finite and at least",
        r"try 5e-5",
    ),
    "learning rate that is no number": ("--learning_rate nan", r"--learning_rate .* got nan", r"finite", r"try 5e-5"),
    "clipping below zero": ("--max_grad_norm -1", r"--max_grad_norm .* got -1", r"at least 0", r"or 0 for no clipping"),
    "seed below zero": ("--seed -5", r"--seed .* got -5", r"at least 0", r"42 is the default"),
    "seed that is too long": ("--seed 99999999999999999999", r"--seed .* got 9999", r"below 2\*\*32", r"42 is"),
    "no image in a batch": ("--labeled_batch_size 0", r"labeled_batch_size is 0", r"at least one image", r"each kind"),
    "no image to label": ("--per_device_eval_batch_size 0", r"eval_batch_size .* got 0", r"at least 1", r"16 is"),
    "update without a part": ("--gradient_accumulation_steps 0", r"steps .* got 0", r"at least 1", r"1 is the default"),
    "batch that does not divide": (
        "--labeled_batch_size 5 --gradient_accumulation_steps 2",
        r"labeled_batch_size 5",
        r"cannot be divided evenly",
        r"use 4 or 6",
    ),
    "phases of no update": ("--max_steps 0", r"--max_steps .* got 0", r"limits the updates", r"Omit it"),
    "workers below zero": ("--dataloader_num_workers -1", r"workers .* got -1", r"at least 0", r"0 loads"),
    "checkpoints kept below one": ("--save_total_limit -1", r"limit .* got -1", r"at least 1", r"omit it"),
    "factor from nothing": (
        "--learning_rate 0 --supervised_learning_rate 1e-3",
        r"--supervised_learning_rate 0.001",
        r"--learning_rate is 0",
        r"above 0",
    ),
    "skips below one": ("--max_skipped_updates 0", r"updates is 0", r"at least 1", r"1 or more"),
    "keeping some labels": (
        "--keep_pseudo_labels first",
        r"keep_pseudo_labels 'first'",
        r"does not exist",
        r"last, all",
    ),
    "replaced epochs": ("--num_train_epochs 5", r"--num_train_epochs 5", r"runs in phases", r"Use --supervised_epochs"),
    "replaced batch": (
        "--per_device_train_batch_size 4",
        r"--per_device_train_batch_size 4",
        r"per update",
        r"Use --lab",
    ),
    "deepspeed": ("--deepspeed ds.json", r"DeepSpeed is not supported", r"restart its optimizer", r"DDP or FSDP"),
    "setting inside a setting": (
        '--accelerator_config {"foo":1}',
        r"A flag cannot be used",
        r"unexpected keyword argument 'foo'",
        r"Correct it",
    ),
    "best of nothing": (
        "--load_best_model_at_end --eval_strategy steps --save_strategy epoch",
        r"--load_best",
        r"match",
        r"",
    ),
    "backbones of noise": (
        f"{WITH_TINY} --freeze_backbone true",
        r"--train head: the backbone of model a",
        r"randomly initialized",
        r"Give a pretrained",
    ),
    "name the Hub refuses": (
        f"{WITH_TINY} --push_to_hub --hub_model_id a/b/c",
        r"'a/b/c'",
        r"not a valid name",
        r"owner/name",
    ),
    "lists that are missing": (
        f"{WITH_TINY} --difference_maximized_sampling no.json",
        r"'no.json'",
        r"No such",
        r"Give true",
    ),
    "lists of nobody": (
        f"{WITH_TINY} --difference_maximized_sampling {{}}/lists.json",
        r"lists.json'",
        r"nobody",
        r"Give|Name",
    ),
    "mixup of masks": (f"{SCENES} --mixup_alpha 1", r"mixup_alpha is 1", r"does not work for masks", r"Leave it at 0"),
    "restart online": ("--strategy online --restart initial", r"strategy online", r"cannot be used", r"Leave both"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_and_config_files(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a traceback, a wrong exit code, or a run that starts although it cannot work."""
    command, given, why, remedy = FLAGS[name]
    monkeypatch.chdir(tmp_path)
    flags = [word.replace("{}", str(place)) for word in command.split()]
    flags += [] if "--output_dir" in flags else ["--output_dir", str(tmp_path / "run")]
    assert_three_parts(refused(flags, capsys), given, why, remedy)
    assert not any(tmp_path.rglob("*.safetensors")) and not (tmp_path / "owned").exists()


# ---- Python ----------------------------------------------------------------------------------------------------------


class Python:
    """What the entry points are called with."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.pair = ModelPair.from_pretrained(place / "pair")
        self.items = [{"image": files.image(20 * number), "label": number % 2} for number in range(6)]

    def models(self, a: str = "tiny:vit", b: str = "tiny:resnet", **how: Any) -> ModelPair:
        return ModelPair.from_models(a, b, **{"id2label": {0: "x", 1: "y"}, **how})

    def trainer(self, model: Any = None, labeled: Any = None, more: Any = None, **settings: Any) -> DMTTrainer:
        extra = {key: settings.pop(key) for key in ("callbacks", "compute_metrics", "eval_dataset") if key in settings}
        args = DMTTrainingArguments(
            output_dir=str(self.folder), use_cpu=True, max_steps=1, disable_tqdm=True, **settings
        )
        return DMTTrainer(
            model=self.pair if model is None else model,
            args=args,
            train_dataset=self.items if labeled is None else labeled,
            unlabeled_dataset=self.items if more is None else more,
            **extra,
        )


PYTHON: dict[str, tuple[Callable[[Python], Any], str, str, str]] = {
    "task": (lambda use: use.models(task="detection"), r"'detection'", r"Unknown task", r"choose one of"),
    "classes with a gap": (lambda use: use.models(id2label={0: "x", 2: "y"}), r"\[0, 2\]", r"", r"Give a map such as"),
    "no classes for a builtin": (
        lambda use: use.models(id2label=None),
        r"embedded model",
        r"no classes",
        r"give id2label",
    ),
    "view of no pixel": (lambda use: use.models(image_size=-4), r"-4", r"side of 8 to 16384", r"omit it"),
    "no pair there": (
        lambda use: ModelPair.from_pretrained(use.place / "animals"),
        r"animals'",
        r"not a pair",
        r"Give",
    ),
    "root that is no member": (
        lambda use: use.pair.save_pretrained(use.folder, primary="c"),
        r"'c'",
        r"must be",
        r"'a' or 'b'",
    ),
    "folder that is a file": (
        lambda use: use.pair.save_pretrained(use.place / "notes.txt"),
        r"notes.txt",
        r"needs a folder",
        r"Give another",
    ),
    "images as bytes": (
        lambda use: use.pair(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        r"uint8",
        r"",
        r"divide by 255",
    ),
    "no images": (lambda use: use.pair(), r"", r"either pixel_values", r"a view for each"),
    "trainer of a model": (lambda use: use.trainer(use.pair.model_a), r"ViTFor", r"", r"ModelPair.from_models"),
    "trainer without labels": (lambda use: use.trainer(labeled=[]), r"train_dataset", r"needs at least a few", r"Give"),
    "trainer without unlabeled": (lambda use: use.trainer(more=[]), r"but there are none", r"", r"supervised"),
    "items that are no images": (lambda use: use.trainer(labeled=[{"img": 1}]), r"\['img'\]", r"no 'image'", r"Give"),
    "items without a label": (
        lambda use: use.trainer(labeled=[{"image": files.image(1)}]),
        r"Item 0 of train_dataset",
        r"no 'label'",
        r"Give",
    ),
    "label that is no class": (
        lambda use: use.trainer(labeled=[{"image": files.image(1), "label": 7}]),
        r"label 7",
        r"2 classes",
        r"0 to 1",
    ),
    "early stopping": (
        lambda use: use.trainer(callbacks=[EarlyStoppingCallback()]),
        r"EarlyStoppingCallback",
        r"in the middle of a phase",
        r"Lower `phase_epochs`",
    ),
    "metric of nothing": (
        lambda use: use.trainer(metric_for_best_model="accuracy"),
        r"'accuracy'",
        r"no eval_dataset",
        r"omit the setting",
    ),
    "best of no scores": (
        lambda use: use.trainer(load_best_model_at_end=True),
        r"`load_best_model_at_end`",
        r"no eval_dataset",
        r"Give one, or omit the setting",
    ),
    "checkpoints by no scores": (
        lambda use: use.trainer(save_strategy="best"),
        r"`save_strategy='best'`",
        r"no eval_dataset",
        r"Give one, or omit the setting",
    ),
    "evaluations of nothing": (
        lambda use: use.trainer(eval_strategy="steps"),
        r"`eval_strategy='steps'`",
        r"no eval_dataset",
        r"Give one, or omit the setting",
    ),
    "metric that does not exist": (
        lambda use: use.trainer(metric_for_best_model="f1", eval_dataset=use.items),
        r"'f1'",
        r"not among|not a metric",
        r"eval_accuracy",
    ),
    "checkpoint that is none": (
        lambda use: use.trainer().train(resume_from_checkpoint=str(use.place / "empty")),
        r"empty'",
        r"missing, unreadable or replaced",
        r"`resume",
    ),
    "arguments replaced": (
        lambda use: use.trainer(num_train_epochs=5.0),
        r"`num_train_epochs` 5",
        r"runs in phases",
        r"Use `supervised_epochs`",
    ),
    "weights of other shapes": (
        lambda use: dynamic_weights(
            torch.zeros(2, 3), torch.zeros(4, dtype=torch.long), torch.ones(4), gamma1=1, gamma2=1
        ),
        r"\(4,\)",
        r"one value per unit",
        r"bring both to the same",
    ),
    "label outside the logits": (
        lambda use: dynamic_weights(torch.zeros(1, 3), torch.tensor([5]), torch.ones(1), gamma1=1, gamma2=1),
        r"label 5",
        r"outside 0\.\.2",
        r"map it to a class",
    ),
    "flags of other shapes": (
        lambda use: dynamic_mutual_loss(
            torch.zeros(2, 3),
            torch.zeros(2, dtype=torch.long),
            torch.ones(2),
            torch.ones(3, dtype=torch.bool),
            gamma1=1,
            gamma2=1,
        ),
        r"is_pseudo",
        r"one flag per sample",
        r"got",
    ),
    "ratio of two": (lambda use: select_top_ratio(torch.ones(3), 2.0), r"ratio", r"got 2\.0", r"0\.2 keeps"),
}


@pytest.mark.parametrize("name", PYTHON)
def test_python(name: str, place: Path, tmp_path: Path) -> None:
    """The same in Python: a ValueError with all three parts that names arguments instead of flags, and nothing is
    trained."""
    call, given, why, remedy = PYTHON[name]
    use = Python(place, tmp_path / "run")
    with pytest.raises(ValueError) as caught:
        call(use)
    assert_three_parts(str(caught.value), given, why, remedy)
    assert "--" not in str(caught.value), "a script has arguments, no flags"
    assert not any(tmp_path.rglob("*.safetensors"))


# What only a command can raise, or what is about a command that starts processes.
COMMANDS_ONLY = ("commands/", "data/splitting/prepare_masks.py", "data/labels/predictions.py", "/command_line.py")


def test_errors_of_the_library_name_arguments() -> None:
    """Guards against an error from `DMTTrainer(...)` or `ModelPair...` that speaks of flags to the author of a
    script."""
    root, flags = Path(hf_dmt.__file__).parent, re.compile(r"--[a-z]\w+")
    found = []
    for file in root.rglob("*.py"):
        if any(part in file.relative_to(root.parent).as_posix() for part in COMMANDS_ONLY):
            continue
        raised = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Raise)]
        texts = [node.value for one in raised for node in ast.walk(one) if isinstance(node, ast.Constant)]
        # A command that the message names may have flags.
        found += [text for text in texts if isinstance(text, str) and flags.search(re.sub("`[^`]+ [^`]*`", "", text))]
    assert [text for text in found if "accelerate launch" not in text] == []


def test_the_command_line_says_flags() -> None:
    """Guards against a terminal message that names a setting as in Python, and against words in backticks that become
    flags although there is no flag of that name."""
    said = "Use `train='head'`, `class_balanced=True`, `label_ratios=[0.5, 1.0]` or `seed`; `pip install x`, `name=3`."
    assert as_flags(said) == (
        "Use --train head, --class_balanced true, --label_ratios 0.5 1.0 or --seed; `pip install x`, `name=3`."
    )
    assert as_flags("`unlabeled_dataset`, `ModelPair.from_pretrained` x") == "--unlabeled_dir, --pair x"
    assert as_flags("`mask_suffix=-mask` or `unlabeled_split='new'`") == "--mask_suffix=-mask or --unlabeled_split new"


HUB: dict[str, tuple[str, str, str, str]] = {
    "push of no pair": ("{}/animals me/x", r"animals'", r"not a pair", r"Give the folder of a pair"),
    "labels of no run": ("{}/animals me/x --labels", r"animals'", r"no", r"Give the output folder"),
    "push to a name that is none": ("{}/pair a/b/c", r"'a/b/c'", r"not a valid name", r"owner/name"),
}


@pytest.mark.parametrize("name", HUB)
def test_hub_commands(
    name: str, place: Path, hub: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a traceback after hours of training when only the push was wrong."""
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    command, given, why, remedy = HUB[name]
    assert push_main([word.replace("{}", str(place)) for word in command.split()]) != 0
    assert_three_parts(capsys.readouterr().err, given, why, remedy)
