"""Converting downloaded data to what `run_dmt.py` reads, on small copies of the real layouts."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_dmt.commands import train
from hf_dmt.data.splitting.official_splits import cifar_labeled
from hf_dmt.training.trainer import DMTTrainer
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
    monkeypatch.setattr(train, "carry_out", lambda trainer, checkpoint: ready.append(trainer))
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


def test_painted_masks_become_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against class ids spoiled by smoothed edges, file suffixes or the rotation of phone photos. The report
    must say in which masks colors were moved to the nearest class color."""
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    ids = np.repeat(np.arange(3), 4)[None].repeat(6, axis=0)
    painted = colors[ids]
    painted[0, 4] = (250, 4, 4)  # a smoothed edge
    painted[0, 5] = (90, 90, 200)  # of no class
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        Image.fromarray(painted).save(tmp_path / "masks" / f"{name}_mask.png")
        Image.new("RGB", (12, 6)).save(tmp_path / "images" / f"{name}.jpg", **({"exif": exif} if name == "b" else {}))
    (tmp_path / "c.csv").write_text("name,r,g,b\nvoid,0,0,0\nred,255,0,0\ngreen,0,255,0\n")
    out = tmp_path / "out"
    flags = ["masks", "--source", str(tmp_path / "masks"), "--colors", str(tmp_path / "c.csv"), "--output", str(out)]
    assert main(flags) == 2 and not out.exists()
    assert "2 of 2 masks cannot be converted" in capsys.readouterr().err
    assert main([*flags, "--suffix", "_mask", "--nearest", "20", "--images", str(tmp_path / "images")]) == 0
    expected = np.array([255, 0, 1])[ids]
    expected[0, 5] = 255
    assert np.array_equal(np.array(Image.open(out / "a.png")), expected)
    assert np.array_equal(np.array(Image.open(out / "b.png")), np.rot90(expected, -1))
    assert json.loads((out / "classes.json").read_text()) == ["red", "green"]
    report = json.loads((out / "report.json").read_text())
    assert report["masks"] == 2 and report["pixels"]["green"] == 48 and report["pixels"]["void"] == 50
    assert report["colors_moved_to_the_nearest"] == {"a.png": round(2 / 72, 4), "b.png": round(2 / 72, 4)}


def test_values_of_masks_by_a_map(tmp_path: Path) -> None:
    """16-bit ids and several values of one class must be read. Guards against a value that the map leaves out becoming
    a class."""
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.array([[0, 100, 300]], np.uint16)).save(tmp_path / "masks" / "a.tif")
    (tmp_path / "map.json").write_text('{"0": "ground", "100": "water", "300": "water"}')
    flags = ["masks", "--source", str(tmp_path / "masks"), "--output", str(tmp_path / "out"), "--values"]
    assert main([*flags, str(tmp_path / "map.json")]) == 0
    assert np.array(Image.open(tmp_path / "out" / "a.png")).tolist() == [[0, 1, 1]]
    (tmp_path / "map.json").write_text('{"0": "ground", "100": "water"}')
    flags[4] = str(tmp_path / "other")
    assert main([*flags, str(tmp_path / "map.json")]) == 2 and not (tmp_path / "other").exists()


def test_masks_that_would_lose_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against ids that a 16-bit file cannot hold, pages that are dropped, and transparent pixels that get the
    class of the color stored under them."""
    pages = [Image.new("L", (3, 1)), Image.new("L", (3, 1))]
    for name, value in (("large", 70_000), ("negative", -1), ("pages", 0)):
        (tmp_path / name).mkdir()
        mask = Image.fromarray(np.array([[0, 1, value]], np.int32)) if value else pages[0]
        mask.save(tmp_path / name / "a.tif", **({} if value else {"save_all": True, "append_images": pages[1:]}))
        flags = ["masks", "--source", str(tmp_path / name), "--output", str(tmp_path / "out")]
        assert main(flags) == 2 and not (tmp_path / "out").exists()
        assert ("has several frames or pages" if value == 0 else f"contains {value}") in capsys.readouterr().err
    (tmp_path / "clear").mkdir()
    painted = np.array([[(255, 0, 0, 255), (255, 0, 0, 0)]], np.uint8)
    Image.fromarray(painted).save(tmp_path / "clear" / "a.png")
    (tmp_path / "c.csv").write_text("name,r,g,b\nred,255,0,0\ngreen,0,255,0\n")
    flags = ["masks", "--source", str(tmp_path / "clear"), "--colors", str(tmp_path / "c.csv"), "--output"]
    assert main([*flags, str(tmp_path / "out"), "--nearest", "-1"]) == 2, "all pixels would be void"
    assert main([*flags, str(tmp_path / "clear" / "out")]) == 2, "the next command would read these masks"
    assert "--nearest is a distance" in (message := capsys.readouterr().err) and "is inside --source" in message
    for number, nearest in enumerate([[], ["--nearest", "20"]]):
        assert main([*flags, str(tmp_path / str(number)), *nearest]) == 0
        assert np.array(Image.open(tmp_path / str(number) / "a.png")).tolist() == [[0, 255]]
