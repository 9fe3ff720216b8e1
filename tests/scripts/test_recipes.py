"""Every recipe, and every method, from the command line: parsed by the real parser and run for two updates a phase.

The recipes run as they are written. Their folders (`data/voc`, `models/deeplab-v2-coco`) are made by our own scripts
from tiny sources, and where they name a Hub id there is a folder of that name with a tiny model or set in it. Only
sizes, precision and the number of updates are overridden.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from hf_dmt.commands import train
from hf_dmt.training import finishing
from hf_dmt.training.settings.command_line import Parser, parse
from hf_dmt.training.settings.knobs import as_results
from hf_dmt.training.settings.methods import PRESETS, resolve
from hf_dmt.training.trainer import DMTTrainer
from scripts import prepare_data, prepare_model
from tests.small_checkpoints import prepare_networks, save_checkpoints

FOLDER = Path(__file__).parents[2] / "scripts" / "recipes"

RECIPES = sorted(
    path.relative_to(FOLDER).as_posix() for room in ("paper", "modern") for path in (FOLDER / room).glob("*.yaml")
)
SMALL: dict[str, Any] = {
    **{"max_steps": 2, "image_size": 32, "labeled_batch_size": 2, "pseudo_batch_size": 2},
    **{"gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "use_cpu": "true", "fp16": "false"},
    "per_device_eval_batch_size": 32,
}
COUNT = 106  # training images of VOC, two of which are 1/106


def shade(number: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 60, (size[1], size[0], 3)) + number % 21 * 9
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_voc(root: Path) -> None:
    train, val = ([f"{year}_{number:06d}" for number in range(count)] for year, count in ((2007, COUNT), (2008, 3)))
    for number, name in enumerate(train + val):
        save(shade(number), root / "JPEGImages" / f"{name}.jpg")
        save(Image.fromarray(np.full((32, 40), number % 21, np.uint8)), root / "SegmentationClassAug" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, names in (("trainaug", train), ("train", train[:20]), ("val", val)):
        (lists / f"{name}.txt").write_text("\n".join(names) + "\n")


def make_cityscapes(root: Path) -> None:
    for part, count in (("train", 24), ("val", 3)):
        for number in range(count):
            stem = f"{part}/bonn/bonn_{number:06d}_000019"
            save(shade(number, (64, 32)), root / "leftImg8bit" / f"{stem}_leftImg8bit.png")
            save(Image.fromarray(np.full((32, 64), 7 + number % 2, np.uint8)),
                 root / "gtFine" / f"{stem}_gtFine_labelIds.png")  # fmt: skip


def make_table(root: Path, column: str, train: int, classes: int) -> None:
    features = datasets.Features(
        {"img": datasets.Image(), column: datasets.ClassLabel(names=[f"class {number}" for number in range(classes)])}
    )
    root.mkdir(parents=True)
    for split, count in (("train", train), ("test", 4)):
        columns = {"img": [shade(n, (8, 8)) for n in range(count)], column: [n % classes for n in range(count)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(root / f"{split}.parquet")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which a user runs the recipes, with everything in it that they name."""
    root = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        save_checkpoints(Path())
        prepare_networks()
        make_voc(Path("VOCdevkit/VOC2012"))
        make_cityscapes(Path("cityscapes"))
        make_table(Path("uoft-cs/cifar100"), "fine_label", train=40, classes=3)
        make_table(Path("uoft-cs/cifar10"), "label", train=150, classes=3)
        make_table(Path("garythung/trashnet"), "label", train=60, classes=3)
        for command in (
            "voc --source VOCdevkit/VOC2012 --output data/voc",
            "cityscapes --source cityscapes --side 32 --output data/cityscapes",
            "cifar10 --source uoft-cs/cifar10 --output data/cifar10",
        ):
            assert prepare_data.main(command.split()) == 0
        # Of three classes and 90 training images the usual counts are 12 and 75.
        for few, many in ((12, 1000), (75, 4000)):
            Path(f"data/cifar10/splits/{few}_seed1.txt").rename(f"data/cifar10/splits/{many}_seed1.txt")
        for number in range(12):
            save(shade(number), Path("my_images") / "ab"[number % 2] / f"{number}.jpg")
            save(shade(number), Path("my_unlabeled") / "deep" / f"{number}.jpg")
        for part, count in (("train", 16), ("validation", 2)):
            for number in range(count):
                save(shade(number), Path("data/ade") / part / "images" / f"{number}.jpg")
                mask = np.full((32, 40), number % 4, np.uint8)
                save(Image.fromarray(mask), Path("data/ade") / part / "masks" / f"{number}.png")
        Path("data/ade/classes.json").write_text(json.dumps(["wall", "sky", "tree"]))
        yield root


@pytest.fixture(autouse=True)
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs and has tests of its own."""
    monkeypatch.setattr(finishing, "write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr(finishing, "write_figures", lambda folder: None)


def flags(settings: dict[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def command(recipe: str, out: Path) -> list[str]:
    """The recipe with flags for tiny sizes."""
    written = yaml.safe_load((FOLDER / recipe).read_text(encoding="utf-8"))
    small = dict(SMALL)
    if "num_labeled" in written:
        small["num_labeled"] = 20
    if written.get("train", "").startswith("last:"):
        small["train"] = "last:1"  # the tiny networks have three blocks
    if written.get("official") and written["task"] == "image-classification":
        # Two updates at a rate meant for thousands make the network certain of everything: all tie, so it keeps none.
        small |= {"image_size": 8, "learning_rate": 1e-4, "supervised_learning_rate": 1e-4}
    ratios = [] if written["method"] in ("supervised", "online-st") else ["--label_ratios", "0.5"]
    return [str(FOLDER / recipe), *flags(small), *ratios, "--output_dir", str(out)]


# One run for each kind of data, networks and settings. The others differ from these in numbers, the method, or settings
# that runs in tests/training have; until the first update all of them are run.
TO_THE_END = (
    *("modern/ade-segformer-dinov2.yaml", "modern/imagefolder-vit-dinov2.yaml", "modern/trashnet.yaml"),
    *("paper/cifar10-4000-dmt.yaml", "paper/voc-50-dmt.yaml"),
)


class Ready(Exception):
    """Everything is open and checked, and training would start."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_accepted(recipe: str) -> None:
    """Guards against a setting that is misspelled, out of range, or contradicts another one of the recipe."""
    models, _, args = parse([str(FOLDER / recipe), "--use_cpu", "true", "--fp16", "false"], FOLDER)
    assert args.knobs(models.task)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in TO_THE_END])
def test_every_recipe_is_ready_to_train(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Guards against a folder that our own scripts do not make, networks that cannot be opened or do not fit the
    classes, and a setting that the trainer refuses or overrules."""
    written = yaml.safe_load((FOLDER / recipe).read_text(encoding="utf-8"))
    trainers = []

    def stop(trainer: DMTTrainer, *_: object) -> None:
        trainers.append(trainer)
        raise Ready

    monkeypatch.setattr(train, "carry_out", stop)
    with pytest.raises(Ready):
        train.run(command(recipe, tmp_path / "run"))
    (trainer,) = trainers
    knobs = as_results(trainer.knobs)
    for name in knobs.keys() & written.keys() - {*SMALL, "label_ratios"}:
        assert knobs[name] == written[name], name
    assert trainer.args.optim == written.get("optim", trainer.args.optim)
    assert trainer.model.task == written["task"] and trainer.eval_dataset is not None
    frozen = trainer.model.num_parameters(only_trainable=True) < trainer.model.num_parameters() / 2
    assert frozen or not written.get("freeze_backbone")


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=[] if name in TO_THE_END else [pytest.mark.slow]) for name in RECIPES],
)
def test_every_recipe_runs(workplace: Path, tmp_path: Path, recipe: str) -> None:
    """Guards against a setting that is overruled, a folder that our own scripts do not make, and a recipe that nobody
    can run."""
    written = yaml.safe_load((FOLDER / recipe).read_text(encoding="utf-8"))
    assert train.run(command(recipe, tmp_path / "run")) == 0
    results = json.loads((tmp_path / "run" / "dmt_results.json").read_text())
    overridden = {*SMALL, "label_ratios"}
    for name in results["knobs"].keys() & written.keys() - overridden:
        assert results["knobs"][name] == written[name], name
    assert results["method"] == written["method"] and results["task"] == written["task"]
    assert (results["settings"].get("train") == "head") is written.get("freeze_backbone", False)
    assert results["settings"]["optim"] == written.get("optim", results["settings"]["optim"])
    assert results["phases"][0]["phase"] == 0 and all(entry["steps"] <= 2 for entry in results["phases"])
    assert results["phases"][-1]["eval"], "recipes compare with something"


@pytest.mark.parametrize("recipe", RECIPES)
def test_headers_say_what_to_expect_and_how_to_run(recipe: str) -> None:
    """Guards against a recipe without an expected result, without its cost, or with a command that runs another
    file."""
    header = [line for line in (FOLDER / recipe).read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(header)
    for word in ("# Expected: ", "# Cost: ", "# Data: "):
        assert word in text, word
    assert header[-1] == f"# Run: accelerate launch scripts/run_dmt.py scripts/recipes/{recipe}"
    for script, command in re.findall(r"python scripts/(prepare_\w+)\.py ((?:.*\\\n)?.*)", text):
        arguments = re.sub(r"\\\n#", " ", command).split()
        parser = {"prepare_data": prepare_data._parser, "prepare_model": prepare_model._parser}[script]()
        parser.parse_args(arguments)


METHODS: dict[str, list[str]] = {
    **{method: ["--method", method] for method in PRESETS},
    "dmt online": ["--method", "dmt", "--strategy", "online"],
}
TASKS = {
    "image-classification": "--dataset_name my_images --unlabeled_dir my_unlabeled --model_a tiny:vit "
    "--model_b tiny:resnet --image_size 16",
    "semantic-segmentation": "--dataset_name data/ade --id2label data/ade/classes.json --reduce_labels --num_labeled 6 "
    "--model_a tiny:segformer --model_b tiny:segformer --image_size 16",
}


# tests/training/test_trainer.py trains on both tasks by every method, and the recipes above use most methods from the
# command line. The other pairs are slow tests.
USUAL = {
    *(("image-classification", method) for method in ("supervised", "mutual", "cps")),
    ("semantic-segmentation", "dmt online"),
}


@pytest.mark.parametrize(
    ("task", "method"),
    [
        pytest.param(task, method, marks=[] if (task, method) in USUAL else [pytest.mark.slow])
        for task in TASKS
        for method in METHODS
    ],
)
def test_every_method_runs_on_both_tasks(workplace: Path, tmp_path: Path, task: str, method: str) -> None:
    """Guards against a preset that a task refuses, and against results that name one method but hold another one's
    settings."""
    given = ["--task", task, *TASKS[task].split(), *METHODS[method], "--max_steps", "1", "--supervised_epochs", "2"]
    given += ["--labeled_batch_size", "2", "--pseudo_batch_size", "2", "--use_cpu", "true", "--save_strategy", "no"]
    assert train.run([*given, "--output_dir", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "dmt_results.json").read_text())
    name, *online = method.split()
    explicit: dict[str, Any] = {"labeled_batch_size": 2, "pseudo_batch_size": 2, "supervised_epochs": 2.0}
    expected = resolve(name, task, explicit | ({"strategy": "online"} if online else {}))
    assert results["method"] == name and results["knobs"] == as_results(expected)
    phases = {"supervised": 1, "cps": 2, "online-st": 2, "dmt online": 2}.get(method, 6)
    assert len(results["phases"]) == phases
    labeled = [entry for entry in results["phases"] if entry["pseudo_labels"]]
    assert len(labeled) == (phases - 1 if phases == 6 else 0)


TABLE = (FOLDER / "paper" / "README.md").read_text(encoding="utf-8")
METHODS_PAGE = (FOLDER.parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_table_of_peculiarities_is_complete_and_names_what_exists() -> None:
    """Guards against a forgotten row, an option that has been renamed, and a recipe that the page leaves out."""
    rows = re.findall(r"^\| B(\d+) \|(.*)\|(.*)\|(.*)\|$", TABLE, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 43))
    assert all(cell.strip() for row in rows for cell in row)
    known = {option for action in Parser()._actions for option in action.option_strings}
    for parser in (prepare_data._parser(), prepare_model._parser()):
        known |= {option for action in parser._actions for option in action.option_strings}
    for page in (TABLE, METHODS_PAGE):
        assert set(re.findall(r"(?<![\w-])--[a-z_0-9]+", page)) - {"--start"} <= known
    listed = set(re.findall(r"`([\w-]+)\.yaml`", TABLE))
    for several in re.findall(r"`voc-50-\{([\w,-]+)\}\.yaml`", TABLE):
        listed |= {f"voc-50-{name}" for name in several.split(",")}
    assert listed == {path.stem for path in (FOLDER / "paper").glob("*.yaml")}


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_page_says_what_the_presets_are(method: str) -> None:
    """Guards against a table of settings that no longer matches the code."""
    name, *online = method.split()
    label = f"`{name} --strategy online`" if online else f"`{name}`"
    found = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", METHODS_PAGE, re.MULTILINE)
    assert found, f"docs/methods.md has no row for {method}"
    who, gammas, positive, when, _ = (cell.strip() for cell in found[1].split("|"))
    knobs = resolve(name, "image-classification", {"strategy": "online"} if online else {})
    if name == "supervised":
        assert not knobs.label_ratios and (who, gammas, positive) == ("none", "", "")
        return
    assert who == knobs.labeler and gammas == f"{knobs.gamma1:g}, {knobs.gamma2:g}"
    assert (positive, when) == (knobs.positive_disagree, knobs.strategy)
