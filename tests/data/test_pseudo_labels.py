"""The store of pseudo labels: it returns what was written, keeps the order of confidences close to 1, and is never read
when only half of it was written."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hf_dmt.data.files import write_aside, write_json
from hf_dmt.data.labels.pseudo_labels import MANIFEST, ImageLabels, PixelLabels, StoreError, is_complete
from hf_dmt.method import confidence_histogram, encode_confidence, pseudo_label, thresholds_from_histogram
from tests.hub_server import HubServer

CLASSES = 4


def maps(count: int = 6, margin: float = 12.0, size: tuple[int, int] = (40, 50)) -> list[tuple[np.ndarray, ...]]:
    """Labels, codes and doubts of a model. With a margin of 25, most of its confidences exceed 0.999."""
    torch.manual_seed(0)
    found = []
    for _ in range(count):
        logits = torch.randn(1, CLASSES, *size)
        logits.scatter_add_(1, torch.randint(CLASSES, (1, 1, *size)), margin * torch.rand(1, 1, *size).sqrt())
        labels, _, doubt = pseudo_label(logits)
        codes = encode_confidence(doubt=doubt)
        found.append((labels[0].numpy(), codes[0].numpy(), doubt[0].numpy()))
    return found


def written(folder: Path, made: list[tuple[np.ndarray, ...]], ratio: float = 0.5) -> PixelLabels:
    store = PixelLabels(folder)
    histogram = torch.zeros(CLASSES, 1 << 16, dtype=torch.int64)
    for row, (labels, codes, _) in enumerate(made):
        store.write(row, labels, codes)
        confidence_histogram(torch.from_numpy(codes), torch.from_numpy(labels), CLASSES, out=histogram)
    store.finish({"ratio": ratio, "summary": {}}, thresholds_from_histogram(histogram, ratio).tolist())
    return PixelLabels.read(folder)


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("margin", [3.0, 25.0, 60.0])
def test_every_class_keeps_its_ratio_however_sharp_the_model(margin: float, ratio: float, tmp_path: Path) -> None:
    """Guards against codes that treat all confidences above 0.999 as equal: the most confident fifth would be chosen at
    random, or everything would be kept."""
    made = maps(margin=margin)
    store = written(tmp_path, made, ratio)
    labels, doubt = (np.concatenate([image[part].ravel() for image in made]) for part in (0, 2))
    if margin > 20:
        assert np.median(doubt) < 1e-3
    selected, confidence = (
        np.concatenate([store.selected(row)[part].ravel() for row in range(len(made))]) for part in (0, 1)
    )
    kept = selected != -100
    for label in range(CLASSES):
        mine = labels == label
        # Only whole bins are kept, each 1/512 of a power of two in doubt, so slightly more than the ratio is kept.
        assert ratio - 1 / mine.sum() <= kept[mine].mean() <= ratio + 0.02
        if ratio < 1:
            assert doubt[kept & mine].max() <= doubt[mine & ~kept].min() * (1 + 1 / 256)
    assert (selected[kept] == labels[kept]).all()
    assert np.abs(confidence - (1 - doubt)).max() <= 1 / 512


def test_one_store_serves_any_ratio(tmp_path: Path) -> None:
    """Guards against filtering labels when they are written: another label ratio would require running the models
    again."""
    made = maps(2)
    few, many = written(tmp_path / "few", made, 0.1), written(tmp_path / "many", made, 0.9)
    for row in range(2):
        for one, two in zip(few.codes(row), many.codes(row), strict=True):
            assert np.array_equal(one, two)
        assert (few.selected(row)[0] != -100).sum() < (many.selected(row)[0] != -100).sum()


@pytest.mark.parametrize("highest", [0, 255, 256, 65_535])
def test_class_ids_of_8_and_16_bit(highest: int, tmp_path: Path) -> None:
    """Guards against storing class 256 in 8 bits, which turns it into class 0."""
    labels = np.array([[0, highest], [highest, 0]])
    PixelLabels(tmp_path).write(0, labels, np.array([[1, 2], [65_535, 0]]))
    read, codes = PixelLabels(tmp_path).codes(0)
    assert read.tolist() == labels.tolist() and codes.tolist() == [[1, 2], [65_535, 0]]
    assert read.dtype.itemsize == (1 if highest < 256 else 2)
    store = PixelLabels(tmp_path)
    store.finish({}, [0] * (highest + 1))
    assert PixelLabels.read(tmp_path).selected(0)[0].tolist() == labels.tolist()


class Selected(Dataset[Any]):
    def __init__(self, store: PixelLabels) -> None:
        self.store = store

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        labels, confidence = self.store.selected(row)
        return labels.astype(np.int64), confidence


def test_workers_read_what_the_process_reads(tmp_path: Path) -> None:
    """Guards against sharing open files between processes, which makes them read parts of the wrong files."""
    store = written(tmp_path, maps())
    alone, workers = (list(DataLoader(Selected(store), num_workers=count)) for count in (0, 2))
    assert all(
        torch.equal(a, b) for one, two in zip(alone, workers, strict=True) for a, b in zip(one, two, strict=True)
    )


class TestHalfAStore:
    def test_without_a_manifest_it_is_none(self, tmp_path: Path) -> None:
        """Guards against a phase that trains on an unfinished store, with labels only for the images that came
        first."""
        PixelLabels(tmp_path).write(0, *maps(1)[0][:2])
        assert not is_complete(tmp_path)
        with pytest.raises(ValueError, match=r"not complete.*Resume from the last checkpoint"):
            PixelLabels.read(tmp_path)
        with pytest.raises(ValueError, match="still being written"):
            PixelLabels(tmp_path).selected(0)
        with pytest.raises(ValueError, match="not complete"):
            ImageLabels.read(tmp_path)

    def test_writing_again_takes_the_manifest_away_first(self, tmp_path: Path) -> None:
        """Guards against a store with labels of two models that counts as complete because of the first one's
        manifest."""
        written(tmp_path, maps(2))
        PixelLabels(tmp_path).write(0, *maps(1)[0][:2])
        assert not is_complete(tmp_path)
        tables = ImageLabels(np.zeros(2, dtype=np.int64), np.ones(2, dtype=np.float32), np.ones(2, dtype=bool))
        tables.write(tmp_path / "images", ["x", "y"], {"phase": 1})
        assert is_complete(tmp_path / "images")

    @pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
    def test_a_damaged_file_is_named(self, damage: str, tmp_path: Path) -> None:
        """Guards against training on wrong labels from a damaged file: zstd decodes many damaged files without an
        error."""
        store = written(tmp_path, maps(2))
        path = next(path for path in tmp_path.rglob("*.zst") if path.stem.endswith("1"))
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(
                {"cut": content[:middle], "empty": b"",
                 "flipped": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]}[damage]
            )  # fmt: skip
        store.selected(0)
        with pytest.raises(ValueError, match=rf"{path.name}.*deleted or damaged.*delete the folder.*resume"):
            store.selected(1)

    def test_killed_while_writing(self, tmp_path: Path) -> None:
        """A process killed at any instant (kill -9) must leave only whole files, and writing again must give the same
        store."""

        def write_again_and_again() -> None:
            while True:
                written(tmp_path, maps(3))

        process = multiprocessing.get_context("fork").Process(target=write_again_and_again)
        process.start()
        while not is_complete(tmp_path):
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        process.join()
        expected, found = maps(3), PixelLabels(tmp_path)
        for row, (labels, codes, _) in enumerate(expected):
            assert np.array_equal(found.codes(row)[0], labels) and np.array_equal(found.codes(row)[1], codes)
        if is_complete(tmp_path):
            assert json.loads((tmp_path / MANIFEST).read_text())["ratio"] == 0.5
        again = written(tmp_path, expected)
        assert np.array_equal(again.codes(2)[0], expected[2][0])
        assert not list(tmp_path.rglob("*.partial")), (
            "what the kill left beside a file is gone once it is written again"
        )


def test_images(tmp_path: Path) -> None:
    """Guards against a table of image labels whose rows lose their ids, or whose unselected rows are trained on."""
    labels = ImageLabels(
        np.array([2, 0, 1]), np.array([0.5, 1.0, 0.25], dtype=np.float32), np.array([True, False, True])
    )
    labels.write(tmp_path, ["a.png", "b.png", "c.png"], {"phase": 1})
    read = ImageLabels.read(tmp_path)
    assert read.labels.tolist() == [2, 0, 1] and read.confidence.tolist() == [0.5, 1.0, 0.25]
    assert read.rows.tolist() == [0, 2]
    table = datasets.Dataset.from_parquet(str(tmp_path / "labels.parquet"))
    assert table["id"][:] == ["a.png", "b.png", "c.png"], "any table tool opens it"
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"labels.parquet cannot be read.*resume"):
        ImageLabels.read(tmp_path)


def table_of(folder: Path, count: int = 9, phase: int = 1) -> ImageLabels:
    rng = np.random.default_rng(phase)
    labels = ImageLabels(rng.integers(0, 3, count), rng.random(count).astype(np.float32), rng.random(count) < 0.5)
    labels.write(folder, [f"{row}.png" for row in range(count)], {"phase": phase})
    return labels


def _rewrite(folder: Path, rows: list[int]) -> None:
    table = pq.read_table(folder / "labels.parquet")
    pq.write_table(table.take(rows), folder / "labels.parquet")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder, other: _rewrite(folder, list(range(8, -1, -1))), id="rows-reversed"),
        pytest.param(lambda folder, other: _rewrite(folder, [0, 1, 2]), id="a-third-of-the-rows"),
        pytest.param(
            lambda folder, other: shutil.copy(other / "labels.parquet", folder / "labels.parquet"),
            id="another-phase's",
        ),
        pytest.param(
            lambda folder, other: edit_json(folder / MANIFEST, phase=7), id="a-manifest-that-says-another-phase"
        ),
        pytest.param(lambda folder, other: (folder / MANIFEST).write_text("[]"), id="a-manifest-that-is-a-list"),
    ],
)
def test_a_table_that_was_changed_is_not_read(tmp_path: Path, damage: Any) -> None:
    """Guards against training images on the labels of other images in a run that looks like any other."""
    folder, other = tmp_path / "phase-1", tmp_path / "phase-2"
    written_labels = table_of(folder)
    table_of(other, phase=2)
    assert ImageLabels.read(folder).labels.tolist() == written_labels.labels.tolist()
    damage(folder, other)
    with pytest.raises(StoreError, match="makes them again"):
        ImageLabels.read(folder)


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("where", [0, 3, 4, 7, 8, 11, 12, 20, -1])
def test_no_byte_of_an_image_can_change(tmp_path: Path, where: int) -> None:
    """Guards against a changed byte in a stored label map: a wrong height or width would rotate the labels or allocate
    gigabytes."""
    store = written(tmp_path, maps(1))
    file = tmp_path / "00000" / "00000000.zst"
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="checksum"):
        store.codes(0)


def test_height_and_width_cannot_be_exchanged_nor_images_or_stores(tmp_path: Path) -> None:
    """Guards against a label map whose height and width are swapped, or that belongs to another image, the other model
    or another phase."""
    names = ("phase 1 a", "phase 1 b", "phase 2 a")
    for name in names:
        store = PixelLabels(tmp_path / name, key=name)
        for row, (labels, codes, _) in enumerate(maps(2)):
            store.write(row, labels, codes)
        store.finish({}, [0] * CLASSES)
    files = [tmp_path / name / "00000" / f"0000000{row}.zst" for name in names for row in (0, 1)]
    first, second, of_b, _, of_phase_2, _ = (file.read_bytes() for file in files)
    for wrong in (first[4:8] + first[:4] + first[8:], second, of_b, of_phase_2, first[:10], b""):
        files[0].write_bytes(wrong)
        with pytest.raises(StoreError, match="cannot be read"):
            PixelLabels.read(tmp_path / "phase 1 a").codes(0)
    files[0].write_bytes(first)
    PixelLabels.read(tmp_path / "phase 1 a").codes(0)


def test_a_person_can_open_and_publish_it(hub: HubServer, tmp_path: Path) -> None:
    """The store must be publishable as a data set with maps of class ids, confidence and selection, in the order of the
    ids."""
    made = maps(3)
    store = written(tmp_path, made)
    table = store.as_dataset([f"{row}.jpg" for row in range(3)])
    table.push_to_hub("me/pseudo-labels", token="hf_mine")
    again = datasets.load_dataset("me/pseudo-labels", split="train", token="hf_mine")
    assert again["id"][:] == ["0.jpg", "1.jpg", "2.jpg"]
    for row, item in enumerate(again):
        selected, confidence = store.selected(row)
        assert np.array_equal(np.asarray(item["label"]), made[row][0])
        assert np.array_equal(np.asarray(item["kept"]) > 0, selected != -100)
        assert np.abs(np.asarray(item["confidence"]) / 255 - confidence).max() <= 0.5 / 255 + 1e-6


class TestFiles:
    def test_an_error_leaves_the_old_file(self, tmp_path: Path) -> None:
        """Guards against losing the old results because the new ones could not be written."""
        write_json(tmp_path / "deep" / "a.json", {"x": 1})
        assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"x": 1}
        (tmp_path / "deep" / ".a.json.partial").mkdir()
        with pytest.raises(OSError, match=r"Cannot write a.json in .*deep.*Free disk space or choose another folder"):
            write_aside(tmp_path / "deep" / "a.json", b"new")
        assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"x": 1}
