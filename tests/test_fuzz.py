"""Damaged or malicious files: the result is an error that says so, and nothing is ever partially written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_dmt.commands.train import RECIPES
from hf_dmt.data.files import write_json
from hf_dmt.data.pair_file import CheckpointError, read_pair_file
from hf_dmt.data.reading.decoding import CorruptImage
from hf_dmt.data.reading.looks import look_at_image
from hf_dmt.data.reading.masks import to_mask
from hf_dmt.data.reading.rows import DataError
from hf_dmt.data.splitting.class_map import read_class_map
from hf_dmt.data.splitting.splits import describe, member_rows, read_ids
from hf_dmt.training.run.folder import check_split
from hf_dmt.training.run.results import RunRecords
from hf_dmt.training.run.runtime_errors import RunError
from hf_dmt.training.settings.command_line import UsageError, parse

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def damaged(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A document with one entry replaced or gone, other JSON, a part of the file, or noise."""
    text = json.dumps(whole).encode()
    replaced = st.tuples(st.sampled_from(sorted(whole)), anything).map(lambda change: {**whole, change[0]: change[1]})
    without = st.sampled_from(sorted(whole)).map(lambda key: {name: whole[name] for name in whole if name != key})
    documents = (replaced | without | anything).map(lambda value: json.dumps(value).encode())
    return documents | st.integers(0, len(text)).map(lambda length: text[:length]) | st.binary(max_size=40)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert not list(tmp_path.rglob("*.partial")), "a half-written file"


PAIR = {"format_version": 1, "task": "image-classification", "primary": "a", "image_size": 16, "phase": 2}
SPLIT = describe({"labeled": ["a.jpg", "b.jpg"], "unlabeled": ["c.jpg"], "eval": []}, split_seed=0)
RESULTS = {
    "task": "image-classification",
    "num_labels": 2,
    "phases": [{"phase": 0, "steps": 3, "eval": None}, {"phase": 1, "steps": 2}],
    "seed": 42,
}


@quick
@given(damaged(PAIR))
@example(b"[" * 100_000)
@example(b'{"format_version": 1, "task": [], "primary": "a", "image_size": 1}')
@example(b'{"format_version": Infinity}')
def test_pair_metadata(folder: Path, content: bytes) -> None:
    """Guards against a pair from the Hub that ends a program with a KeyError."""
    (folder / "dmt_config.json").write_bytes(content)
    try:
        found = read_pair_file(folder, "me/pair")
    except CheckpointError as problem:
        assert "me/pair" in str(problem)
    else:
        assert found["primary"] in ("a", "b") and found["image_size"] > 0


@quick
@given(damaged(SPLIT))
@example(b"[" * 100_000)
def test_split_and_id_files(folder: Path, content: bytes) -> None:
    """Guards against a split that is taken for another one, and against a run that continues with other images than it
    began with."""
    (folder / "split.json").write_bytes(content)
    (folder / "ids.txt").write_bytes(content)
    for name in ("split.json", "ids.txt"):
        try:
            ids = read_ids(folder / name)
        except ValueError as problem:
            assert type(problem) is ValueError and name in str(problem)
        else:
            assert ids and all(isinstance(one, str) for one in ids)
    try:
        check_split(folder, SPLIT)
    except ValueError as problem:
        assert type(problem) is ValueError and str(folder) in str(problem)
    else:
        assert json.loads(content)["sha256"] == SPLIT["sha256"]


Y_THEN_X = (b'["y", "x"]', b'{"10": "x", "9": "y"}', b'{"x": 10, "y": 9}')


@quick
@given(damaged({"a": ["x"], "b": ["y"]}))
@example(b"[" * 100_000)
@example(Y_THEN_X[0])
@example(Y_THEN_X[1])
@example(Y_THEN_X[2])
def test_class_maps_and_lists_of_members(folder: Path, content: bytes) -> None:
    """Guards against a class map with missing or duplicate names, or names in another order than their ids, and against
    a list of ids that leaves out a model."""
    (folder / "map.json").write_bytes(content)
    try:
        names = read_class_map(str(folder / "map.json")).names
    except DataError as problem:
        assert "map.json" in str(problem)
    else:
        assert names and len(set(names)) == len(names)
        assert content not in Y_THEN_X or names == ["y", "x"]
    try:
        rows = member_rows(str(folder / "map.json"), ["x", "y", "z"], 0)
    except ValueError as problem:
        assert "map.json" in str(problem)
    else:
        assert set(rows) == {"a", "b"}


@quick
@given(damaged(RESULTS), st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
@example(json.dumps(RESULTS).encode(), b'{"step": 1, "phase": 0}\n{"step": [], "phase": 0}\n')
def test_results_and_telemetry(folder: Path, results: bytes, telemetry: bytes) -> None:
    """Guards against a resumed run that silently discards the scores of finished phases."""
    (folder / "dmt_results.json").write_bytes(results)
    (folder / "telemetry.jsonl").write_bytes(telemetry)
    records = RunRecords(folder, writes=True)
    try:
        records.begin({"seed": 1}, step=5, phase=2)
    except RunError as problem:
        assert "dmt_results.json" in str(problem)
        assert (folder / "dmt_results.json").read_bytes() == results, "what may be restored is left alone"
    else:
        records.save()
        kept = [entry["phase"] for entry in json.loads(results)["phases"] if entry["phase"] < 2]
        assert [entry["phase"] for entry in json.loads((folder / "dmt_results.json").read_text())["phases"]] == kept


KEYS = [
    "learning_rate",
    "label_ratios",
    "class_balanced",
    "model_a",
    "seed",
    "max_steps",
    "task",
    "report_to",
    "no_such",
]


@quick
@given(
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=3).map(lambda value: json.dumps(value).encode())
    | anything.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=40),
    st.sampled_from(["run.json", "run.yaml"]),
)
@example(b"[" * 100_000, "run.yaml")
@example(b"[" * 100_000, "run.json")
@example(b"a: &a [*a]", "run.yaml")
@example(b"learning_rate: 1_0\nseed: 0x10", "run.yaml")
@example(b'{"model_a": "\\ud800\\udc00"}', "run.yaml")
def test_config_files(folder: Path, content: bytes, name: str) -> None:
    """A damaged config file must end in an error with a message, not in a traceback, and create no output folder."""
    (folder / name).write_bytes(content)
    try:
        parse([str(folder / name), "--output_dir", str(folder / "out"), "--use_cpu"], RECIPES)
    except ValueError as problem:
        assert str(problem) and (isinstance(problem, UsageError) or type(problem) is ValueError)
    assert not (folder / "out").exists()


def encoded(shape: tuple[int, int], kind: str, image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)).convert(kind).save(
        buffer, image_format
    )
    return buffer.getvalue()


FILES = [encoded((7, 9), kind, form) for kind in ("L", "P", "RGB") for form in ("PNG", "GIF", "TIFF", "BMP")]


@settings(quick, max_examples=200)
@given(st.sampled_from(FILES), st.integers(0, 400), st.binary(min_size=1, max_size=6), st.booleans())
def test_masks_and_images(content: bytes, at: int, noise: bytes, cut: bool) -> None:
    """Guards against one broken file ending the scan of a million files with one of Pillow's own errors."""
    content = content[:at] if cut else content[:at] + noise + content[at + len(noise) :]
    for read in (partial(look_at_image, name="x"), to_mask):
        try:
            found = read(content)
        except CorruptImage:
            continue
        except ValueError as problem:
            assert "mask" in str(problem), "a color image is no mask; an image has no other reason to fail"
        else:
            assert found.ndim == 2 if read is to_mask else min(found.size) >= 1


@given(anything)
@settings(quick, max_examples=30)
def test_a_write_that_fails_leaves_the_old_file(folder: Path, value: Any) -> None:
    """Guards against a failed write that leaves half a split or results file; the old file must stay."""
    file = folder / "split.json"
    write_json(file, {"old": 1})
    try:
        write_json(file, {"new": value, "bad": object()})
    except TypeError:
        assert json.loads(file.read_text()) == {"old": 1}
    write_json(file, {"new": value})
    assert "new" in json.loads(file.read_text())
