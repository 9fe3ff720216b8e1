"""Cached results for files: outdated and failed ones are not used, and all processes see the same."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.reading import rows as reading_rows
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.looks import Look, LookCache, cache_file
from hf_dmt.data.reading.masks import MaskReading
from hf_dmt.data.reading.opening import open_splits
from hf_dmt.data.reading.rows import DataError, FileRows, Place
from hf_dmt.data.splitting import scan as scanning
from hf_dmt.data.splitting.scan import ScannedImages, scan
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that are read, starting with an empty cache in which even files that just changed are
    stored."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reading_rows, "_SETTLED", 0)
    found: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (found.append(path.name), read_bytes(path))[1])
    yield found


def look(folder: Path, task: str = PIXELS, **settings: object) -> ScannedImages:
    images, masks = (sorted((folder / name).iterdir()) for name in ("images", "masks"))
    rows = FileRows(images, folder, masks=masks)
    found = ImageSet(rows, np.arange(len(images)), task, **settings)  # type: ignore[arg-type]
    return scan(found, "training", skip_corrupt=False, notes=[])


def test_the_second_start_reads_nothing(tmp_path: Path, reads: list[str]) -> None:
    """Guards against reading every file again at every start and every resume of a run: 82 minutes for a million
    files."""
    files.scene_folder(tmp_path, [(0, 1), (1, 255), (2,)])
    first = look(tmp_path)
    assert len(reads) == 6
    reads.clear()
    again = look(tmp_path)
    assert reads == [] and again.values.tolist() == first.values.tolist() == [(0, 1), (1,), (2,)]
    assert (again.contents == first.contents).all() and (again.sizes == first.sizes).all()
    assert len(set(first.contents.tolist())) == 3 and len(first.contents[0]) == 32
    assert look(tmp_path, ignore_index=1).values.tolist() == [(0,), (255,), (2,)], "flags are no facts of a file"
    assert reads == []


@pytest.mark.parametrize("how", ["new content", "same size and time"])
def test_a_changed_file_is_read_again(how: str, tmp_path: Path, reads: list[str]) -> None:
    """Guards against training on the old version of a mask that was corrected."""
    files.scene_folder(tmp_path, [(0, 1), (1, 2)])
    path = tmp_path / "masks" / "01.png"
    files.mask([1, 2]).save(path, compress_level=0)
    look(tmp_path)
    reads.clear()
    before = path.stat()
    files.mask([0, 2]).save(path, compress_level=6 if how == "new content" else 0)
    if how != "new content":
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = look(tmp_path)
    assert reads == ["01.png"] and found.values.tolist() == [(0, 1), (0, 2)]


def test_only_what_must_be_read_goes_to_threads(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against using threads for 100,000 cached results, which takes longer than one thread, and against
    assigning results to the wrong images when only some are cached."""
    root = files.scene_folder(tmp_path / "scenes", [(0, 1), (1, 2), (0, 2), (1, 0)])
    first = look(root)
    changed = sorted((root / "images").iterdir())[2]
    files.save(files.image(9), changed)
    sent: list[int] = []
    in_threads = scanning._in_threads
    monkeypatch.setattr(
        scanning, "_in_threads", lambda run, places, title: (sent.extend(places), in_threads(run, places, title))[1]
    )
    second = look(root)
    assert sent == [2]
    assert [one == other for one, other in zip(first.contents, second.contents, strict=True)] == [True] * 2 + [
        False,
        True,
    ]
    assert list(first.values) == list(second.values)


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against caching the result of a file that has just changed: two versions within one tick of the file
    system's clock look the same."""
    monkeypatch.setattr(reading_rows, "_SETTLED", 60)
    files.scene_folder(tmp_path, [(0, 1)])
    look(tmp_path)
    look(tmp_path)
    assert len(reads) == 4


def test_failures_are_not_remembered(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against caching failures: a photo that could not be read would stay left out after `pip install
    pillow-heif`."""
    files.scene_folder(tmp_path, [(0, 1)])
    whole = (tmp_path / "images" / "00.jpg").read_bytes()
    files.cut(tmp_path / "images" / "00.jpg")
    for _ in range(2):
        reads.clear()
        with pytest.raises(DataError, match=r"00\.jpg"):
            look(tmp_path)
        assert "00.jpg" in reads
    (tmp_path / "images" / "00.jpg").write_bytes(whole)
    assert len(look(tmp_path)) == 1


def test_masks_read_in_another_way_are_looked_at_anew(tmp_path: Path, reads: list[str]) -> None:
    """Guards against reusing cached class ids that come from an outdated color table."""
    files.scene_folder(tmp_path, [(0, 1)])
    look(tmp_path)
    reads.clear()
    colors = (("black", (0, 0, 0)), ("almost", (1, 1, 1)))
    assert look(tmp_path, reading=MaskReading(colors)).values.tolist() == [(0, 1)]
    assert look(tmp_path, reading=MaskReading(colors[::-1])).values.tolist() == [(0, 1)]
    assert reads == ["00.png", "00.png"]


def test_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against two runs that start together losing each other's results or waiting forever."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def work(number: int) -> None:
        with LookCache() as looks:
            for row in range(1500):
                place = Place(f"folder {number}", str(row), "then")
                looks.of(place, "image", lambda row=row: Look(number, row, "RGB", "", "x"))  # type: ignore[misc]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with LookCache() as looks:
        for number in range(4):
            found = looks.of(Place(f"folder {number}", "1499", "then"), "image", lambda: Look(0, 0, "", "", ""))
            assert found == Look(number, 1499, "RGB", "", "x")


@pytest.mark.parametrize("kind", ["garbage", "cut", "folder in its place"])
def test_a_broken_memory_stops_nothing(
    kind: str, tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A broken cache must never prevent a run from starting."""
    files.scene_folder(tmp_path / "scenes", [(0, 1)])
    look(tmp_path / "scenes")
    file = cache_file()
    content = file.read_bytes()
    file.unlink()
    if kind == "folder in its place":
        file.mkdir()
    else:
        file.write_bytes(b"no database at all" * 100 if kind == "garbage" else content[:5000])
    assert look(tmp_path / "scenes").values.tolist() == [(0, 1)]
    if kind == "folder in its place":
        assert "Set HF_HOME to a writable folder" in caplog.text
    else:
        reads.clear()
        look(tmp_path / "scenes")
        look(tmp_path / "scenes")
        assert len(reads) <= 2, "a new one was begun"


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against a cache in a home folder with a quota although the user moved the other Hugging Face caches."""
    for name in ("HF_HOME", "HF_ASSETS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ours = Path("hf_dmt", "looks.sqlite")
    assert cache_file() == tmp_path / ".cache" / "huggingface" / "assets" / ours
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_file() == Path("/x/huggingface/assets") / ours
    monkeypatch.setenv("HF_HOME", "/hf")
    assert cache_file() == Path("/hf/assets") / ours
    monkeypatch.setenv("HF_ASSETS_CACHE", "/assets")
    assert cache_file() == Path("/assets") / ours


def test_tables_are_remembered_too(tmp_path: Path, reads: list[str]) -> None:
    """Guards against decoding the images inside parquet files at every start."""
    import datasets

    from hf_dmt.data.reading.rows import TableRows

    rows = files.table({"image": [files.encoded(files.image(shade)) for shade in (1, 2)], "label": [0, 1]})
    root = files.parquet(tmp_path / "data", train=rows)
    table = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))["train"]
    places_of = TableRows(table, "image", "label").images
    assert places_of[0] is not None and places_of[0] != places_of[1]
    with LookCache() as looks:
        looks.of(places_of[0], "image", lambda: Look(1, 2, "RGB", "", "x"))
    with sqlite3.connect(cache_file()) as database:
        assert database.execute("SELECT COUNT(*) FROM looks_5").fetchone() == (1,)
    again = TableRows(datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))["train"], "image", "label")
    assert again.images[0] == places_of[0]


@pytest.mark.parametrize("form", ["absolute", "relative to the table"])
def test_files_that_a_table_names_are_looked_at_when_they_change(form: str, tmp_path: Path, reads: list[str]) -> None:
    """Guards against a resume with replaced images, because the table that names them is unchanged, and against the
    error that a file does not exist although it lies beside its table."""
    root = tmp_path / "data"
    paths = [files.save(files.image(number), root / "img" / f"{number}.png") for number in range(2)]
    cells = [str(path if form == "absolute" else path.relative_to(root)) for path in paths]
    files.table({"image": cells, "label": [0, 1]}).save_to_disk(str(root / "saved"))
    if form != "absolute":
        (root / "img").rename(root / "saved" / "img")
        paths = [root / "saved" / "img" / path.name for path in paths]

    def contents() -> list[bytes]:
        rows = open_splits(DataArguments(str(root / "saved")), IMAGES, [])[0]["train"]
        assert list(rows.ids) == (["0", "1"] if form == "absolute" else ["img/0.png", "img/1.png"])
        found = ImageSet(rows, np.arange(2), IMAGES)
        return scan(found, "training", skip_corrupt=False, notes=[]).contents.tolist()

    before = contents()
    reads.clear()
    assert contents() == before and reads == []
    files.save(files.image(99), paths[1])
    after = contents()
    assert after[0] == before[0] and after[1] != before[1]
