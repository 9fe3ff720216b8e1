"""Converting downloaded data to what `run_dmt.py` reads, on small copies of the real layouts."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_dmt.commands import train
from hf_dmt.training.trainer import DMTTrainer
from scripts.official_splits import cifar_labeled
from scripts.prepare_data import CITYSCAPES_CLASSES, VOC_CLASSES, main
from scripts.run_dmt import main as run_dmt

NAMES = [f"2007_{number:06d}" for number in range(240)]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC2012 as it is unpacked, with 240 images for trainaug, 200 of them in train, and 6 for val."""
    root = tmp_path_factory.mktemp("voc") / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    val = [f"2008_{number:06d}" for number in range(6)]
    for number, name in enumerate(NAMES + val):
        shade = number % 21
        Image.new("RGB", (48, 40), (shade * 10, 60, number)).save(root / "JPEGImages" / f"{name}.jpg")
        mask = np.full((40, 48), shade, dtype=np.uint8)
        mask[0] = 255
        Image.fromarray(mask).save(root / "SegmentationClassAug" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").write_text("\n".join(reversed(NAMES)))
    (lists / "train.txt").write_text("\n".join(NAMES[:200]) + "\n")
    (lists / "val.txt").write_text("\n".join(val) + "\n")
    return root


def test_voc_is_linked_split_and_ready_to_train_on(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks the whole way: folders that run_dmt.py opens, ids that it finds, and subsets that belong to the split."""
    out = tmp_path / "data"
    assert main(["voc", "--source", str(voc), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "differ from the published ones" in said and "200 labeled, 40 unlabeled" in said
    assert len(list((out / "train" / "images").iterdir())) == len(list((out / "train" / "masks").iterdir())) == 240
    assert (out / "train" / "images" / f"{NAMES[0]}.jpg").is_symlink()
    assert json.loads((out / "classes.json").read_text()) == list(VOC_CLASSES) and len(VOC_CLASSES) == 21
    labeled = (out / "splits" / "20_labeled_1.txt").read_text().split()
    assert len(labeled) == 12 and all((out / name).is_file() for name in labeled)
    subsets = json.loads((out / "splits" / "20_subsets_1.json").read_text())
    assert set(subsets["a"]) | set(subsets["b"]) == set(labeled) and subsets["a"] != subsets["b"]

    arguments = ["--task", "semantic-segmentation", "--model_a", "tiny:segformer", "--model_b", "tiny:segformer"]
    arguments += ["--dataset_name", str(out), "--id2label", str(out / "classes.json"), "--image_size", "32"]
    arguments += ["--labeled_ids", str(out / "splits" / "20_labeled_1.txt"), "--max_steps", "1", "--label_ratios", "1"]
    arguments += ["--difference_maximized_sampling", str(out / "splits" / "20_subsets_1.json")]
    arguments += ["--labeled_batch_size", "2", "--pseudo_batch_size", "2", "--output_dir", str(tmp_path / "run")]
    ready: list[DMTTrainer] = []
    monkeypatch.setattr(train, "carry_out", lambda trainer, *_: ready.append(trainer))
    assert run_dmt(arguments) == 0
    (trainer,) = ready  # tests/scripts/test_recipes.py trains on such a folder
    assert "12 labeled and 228 unlabeled images" in capsys.readouterr().out and len(trainer.eval_dataset) == 6
    assert trainer.model.class_names == list(VOC_CLASSES)


def test_what_is_missing_is_named(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against training on a folder that is only half prepared."""
    assert main(["voc", "--source", str(tmp_path), "--output", str(tmp_path / "a")]) == 2
    assert "trainaug.txt" in capsys.readouterr().err
    assert main(["cityscapes", "--source", str(tmp_path), "--output", str(tmp_path / "b")]) == 2
    assert "leftImg8bit" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["voc", "--source", str(voc), "--output", str(tmp_path / "full")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("side", [None, 8])
def test_cityscapes_ids_become_classes(tmp_path: Path, side: int | None) -> None:
    """Guards against wrong class ids: road is 7 on disk and 0 in training, and what is not evaluated is void."""
    source, out = tmp_path / "cityscapes", tmp_path / "out"
    for part in ("train", "val"):
        for number in range(4):
            stem = f"aachen/aachen_{number:06d}_000019"
            image = source / "leftImg8bit" / part / f"{stem}_leftImg8bit.png"
            mask = source / "gtFine" / part / f"{stem}_gtFine_labelIds.png"
            for file in (image, mask):
                file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 16), (number, 50, 50)).save(image)
            values = np.repeat(np.array([7, 33, 24, 0], dtype=np.uint8), 8)
            Image.fromarray(np.tile(values, (16, 1))).save(mask)
    arguments = ["cityscapes", "--source", str(source), "--output", str(out)]
    assert main([*arguments, *(["--side", str(side)] if side else [])]) == 0
    mask = np.asarray(Image.open(out / "train" / "masks" / "aachen" / "aachen_000002_000019.png"))
    height = side or 16
    assert mask.shape == (height, 2 * height)
    assert mask[0, :: height // 2].tolist() == [0, 18, 11, 255] and len(CITYSCAPES_CLASSES) == 19
    image = Image.open(out / "validation" / "images" / "aachen" / "aachen_000002_000019.png")
    assert image.size == mask.shape[::-1]
    assert (out / "train" / "images" / "aachen" / "aachen_000002_000019.png").is_symlink() == (side is None)


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("voc", ["--side", "512"], "--side has no effect on voc, only on cityscapes"),
        ("cifar10", ["--copy"], "--copy has no effect on cifar10, only on voc and cityscapes"),
    ],
)
def test_an_option_of_another_data_set_is_refused(
    name: str, option: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a data set at full size although the command asked for a smaller one."""
    assert main([name, "--source", str(tmp_path), "--output", str(tmp_path / "out"), *option]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_cifar_rows_are_those_of_the_training_file(tmp_path: Path) -> None:
    """Guards against ids that count the rows of another file than the one used for training."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    for split, count in (("train", 900), ("test", 10)):
        images = [Image.new("RGB", (8, 8), (number % 256, number // 256, 0)) for number in range(count)]
        table = datasets.Dataset.from_dict({"img": images, "label": [n % 2 for n in range(count)]}, features=features)
        table.to_parquet(source / f"{split}.parquet")
    assert main(["cifar10", "--source", str(source), "--output", str(out)]) == 0
    tables = datasets.load_dataset(str(out))
    assert {name: len(table) for name, table in tables.items()} == {"train": 860, "validation": 40, "test": 10}
    rows = [int(line) for line in (out / "splits" / "50_seed2.txt").read_text().split()]
    labels = np.asarray(tables["train"]["label"])
    assert rows == cifar_labeled(labels, 25, seed=2).tolist() and np.bincount(labels[rows]).tolist() == [25, 25]
    assert tables["train"].features["label"].names == ["x", "y"]
