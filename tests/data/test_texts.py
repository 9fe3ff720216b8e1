"""Ids and paths that are stored in one block of memory come back unchanged."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from hf_dmt.data.reading.rows import FileRows
from hf_dmt.data.texts import Paths, texts

NAMES = ["a/ä é.jpg", "", "x" * 300, "2.jpg", "日本/写真.png", "2.jpg"]


def test_strings_come_back_as_they_were() -> None:
    """Guards against changing names with accents, long or empty names, also when they are pickled for workers that are
    spawned instead of forked."""
    names = texts(iter(NAMES))
    assert names.tolist() == list(names) == NAMES and len(texts([])) == 0
    assert type(names[0]) is str and type(names[np.int64(3)]) is str
    assert pickle.loads(pickle.dumps(names)).tolist() == NAMES


def test_paths_are_those_of_the_folder(tmp_path: Path) -> None:
    """Guards against ids that no longer lead to their files."""
    files = [tmp_path / "cat" / "1.jpg", tmp_path / "dog" / "2.jpg"]
    masks = [tmp_path.parent / "masks" / "1.png", tmp_path.parent / "masks" / "2.png"]
    rows = FileRows(files, tmp_path, masks=masks)
    assert rows.ids.tolist() == ["cat/1.jpg", "dog/2.jpg"]
    assert list(rows.images) == files and rows.images[:1] == files[:1]
    assert rows.raw(1) == (files[1], masks[1])
    assert Paths(tmp_path, rows.ids)[1] == files[1]
