"""Checks of a folder before a push: what nobody could load is refused before a repository is created."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_dmt.commands.push import main
from hf_dmt.hub.card import write_card
from hf_dmt.hub.push import check_folder, stage_finished

PAIR = {"format_version": 1, "task": "image-classification", "primary": "a", "image_size": 16}
CONFIG = {"model_type": "vit", "architectures": ["ViT"], "id2label": {"0": "cat", "1": "dog"}}
# File, entry, value (None: removed), message.
DAMAGE: list[tuple[str, str, Any, str]] = [
    ("dmt_config.json", "task", "detection", "task is 'detection', but must be one of"),
    ("dmt_config.json", "task", None, "it has no task"),
    ("dmt_config.json", "primary", "c", "primary is 'c', but must be a or b"),
    ("dmt_config.json", "format_version", None, "it has no format_version"),
    ("dmt_config.json", "format_version", "1", "format_version is '1'"),
    ("dmt_config.json", "format_version", 0, "format_version is 0"),
    ("dmt_config.json", "format_version", 9, "was written in format 9"),
    ("dmt_config.json", "base_models", ["x", "y"], "base_models is"),
    ("dmt_config.json", "base_commits", {"a": 5}, "base_commits.a is 5"),
    ("dmt_config.json", "seed", "x", "seed is 'x'"),
    ("dmt_config.json", "continued", "yes", "continued is 'yes'"),
    ("config.json", "model_type", 5, "its model_type is 5"),
    ("config.json", "id2label", ["cat", "dog"], "its id2label is not a map"),
    ("config.json", "id2label", {"0": "cat", "2": "dog"}, "must count from 0 without a gap"),
    ("peer/config.json", "id2label", {"0": "cat", "1": None}, "is called None, which is not a name"),
    ("peer/config.json", "label_names", 3, "its label_names is 3, but must be a list"),
    ("peer/config.json", "num_labels", -1, "its num_labels is -1"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "peer").mkdir()
    (tmp_path / "dmt_config.json").write_text(json.dumps(PAIR))
    for name in ("config.json", "peer/config.json"):
        (tmp_path / name).write_text(json.dumps(CONFIG))
    for name in ("model.safetensors", "peer/model.safetensors"):
        save_file({"weight": np.zeros(8)}, tmp_path / name)
    check_folder(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("file", "entry", "value", "message"), DAMAGE, ids=[f"{d[1]}={d[2]}" for d in DAMAGE])
def test_damaged_descriptions(
    file: str, entry: str, value: Any, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against pushing a pair that no one can open, or writing its card, and against a KeyError instead of
    advice."""
    content = json.loads((folder / file).read_text()) | {entry: value}
    (folder / file).write_text(json.dumps({key: each for key, each in content.items() if each is not None}))
    for flags in ([str(folder), "me/pair"], [str(folder), "--card"]):
        assert main(flags) == 2
        error = capsys.readouterr().err
        assert message in error and ("again" in error or "Upgrade" in error)
        assert Path(file).name in error or value == 9
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("file", ["dmt_config.json", "config.json", "peer/config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"null", b"[]", b"\xff\x00", b'{"a": 1, "a": 2}'])
def test_what_is_no_description(file: str, content: bytes, folder: Path) -> None:
    """Guards against a traceback from the JSON parser, and against taking the second of two values for one key."""
    (folder / file).write_bytes(content)
    for check in (check_folder, write_card):
        with pytest.raises(ValueError, match=r"is damaged") as caught:
            check(folder)
        assert Path(file).name in str(caught.value)


def test_truncated_weights(folder: Path) -> None:
    """Guards against pushing a truncated copy of the weights, which would fail for everyone who downloads it."""
    weights = folder / "peer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"peer/model\.safetensors' is damaged"):
        check_folder(folder)


def test_damaged_results(folder: Path) -> None:
    """Guards against publishing results that no reader could use, or that were edited."""
    (folder / "dmt_results.json").write_text('{"task": "image-classification", "num_labels": 2, "phases": [1]}')
    with pytest.raises(ValueError, match=r"phases\[0\] is 1"):
        check_folder(folder)


def test_a_folder_that_cannot_be_written_to_is_staged_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a push that fails because the run is on a read-only disk, and against writing to a folder that is
    only to be read."""
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    staging = stage_finished(folder)
    assert folder not in staging.folder.parents
    assert {path.relative_to(staging.folder) for path in staging.folder.rglob("*")} == before
    assert {path.relative_to(folder) for path in folder.rglob("*")} == before
    staging.discard()
