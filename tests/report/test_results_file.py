"""Damaged or edited files of a run: the error names the file, the entry, and what it must be."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hf_dmt.data.forms import fault_of
from hf_dmt.report.results_file import EVENT, RESULTS, SPLIT, read_events, read_results, read_split
from hf_dmt.report.run import read_run

SCORES = {
    name: {"accuracy": 0.5, "per_class_accuracy": {"cat": 1.0, "dog": None}, "confusions": [["dog", "cat", 3]]}
    for name in ("a", "b", "ensemble")
}
WHOLE: dict[str, Any] = {
    "task": "image-classification",
    "knobs": {"label_ratios": [0.5, 1.0], "labeler": "peer"},
    "num_labels": 2,
    "class_names": ["cat", "dog"],
    "num_unlabeled": 6,
    "phases": [
        {"phase": 0, "steps": 4, "label_ratio": None, "pseudo_labels": None, "eval": SCORES, "test": None},
        {"phase": 1, "steps": 2, "pseudo_labels": {"a": {"selected": 1.0, "class_counts": [4, 2]}, "b": None}},
    ],
}
# Where, what is put there (None: the entry is removed), and what the error says of it.
DAMAGE: list[tuple[str, Any, str]] = [
    ("task", "detection", "task is 'detection', but must be one of: image-classification, semantic-segmentation"),
    ("task", ["x"], "task is ['x'], but must be one of: image-classification, semantic-segmentation"),
    ("task", None, "it has no task"),
    ("num_labels", None, "it has no num_labels"),
    ("num_labels", "2", "num_labels is '2', but must be a whole number of at least 0"),
    ("num_labels", 10**30, "num_labels is 1000"),
    ("num_labels", 3, "class_names has 2 names, but num_labels is 3"),
    ("num_unlabeled", True, "num_unlabeled is True"),
    ("class_names", {"0": "cat"}, "class_names is {'0': 'cat'}, but must be a list"),
    ("class_names", ["cat", 7], "class_names[1] is 7, but must be a text"),
    ("knobs", [], "knobs is [], but must be a map"),
    ("knobs.label_ratios", [0.5, "x"], "knobs.label_ratios[1] is 'x', but must be a number from 0 to 1"),
    ("knobs.labeler", {}, "knobs.labeler is {}, but must be a text"),
    ("phases", None, "it has no phases"),
    ("phases", {}, "phases is {}, but must be a list"),
    ("phases", [None], "phases[0] is null"),
    ("phases.0", 5, "phases[0] is 5, but must be a map"),
    ("phases.0.phase", None, "phases[0] has no phase"),
    ("phases.0.steps", -1, "phases[0].steps is -1, but must be a whole number of at least 0"),
    ("phases.0.eval", 0.9, "phases[0].eval is 0.9, but must be a map"),
    ("phases.0.eval.a.accuracy", 93.5, "phases[0].eval['a'].accuracy is 93.5, but must be a number from 0 to 1"),
    ("phases.0.eval.a.accuracy", float("inf"), "accuracy is inf"),
    ("phases.0.eval.a.accuracy", "0.9", "accuracy is '0.9'"),
    ("phases.0.eval.b.per_class_accuracy", [1.0], "per_class_accuracy is [1.0], but must be a map"),
    ("phases.0.eval.b.confusions", [["dog", "cat"]], "must be a list of [true class, predicted class, count]"),
    ("phases.1.phase", 0, "phases has the numbers [0, 0], but each must be higher than the one before"),
    ("phases.1.pseudo_labels", ["a"], "phases[1].pseudo_labels is ['a'], but must be a map"),
    ("phases.1.pseudo_labels.a.selected", 2.0, "phases[1].pseudo_labels['a'].selected is 2.0"),
    ("phases.1.pseudo_labels.a.class_counts", [1, 2, 3], "counts the labels of a in 3 classes of 2"),
]


def damaged(place: str, value: Any) -> dict[str, Any]:
    whole = copy.deepcopy(WHOLE)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inside: Any = whole
    for part in path:
        inside = inside[part]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return whole


@pytest.mark.parametrize(("place", "value", "message"), DAMAGE, ids=[f"{d[0]}={str(d[1])[:20]}" for d in DAMAGE])
def test_damaged_results_name_the_entry(place: str, value: Any, message: str, tmp_path: Path) -> None:
    """Guards against a model card that shows 93.5 as a fraction, and against a KeyError later, when the page is
    written."""
    (tmp_path / "dmt_results.json").write_text(json.dumps(damaged(place, value)))
    with pytest.raises(ValueError) as caught:
        read_run(tmp_path)
    assert message in str(caught.value) and "dmt_results.json" in str(caught.value)
    assert "Give the output folder of a run, or restore the file" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[", b"[" * 100_000, b"\xff\x00", b'{"task": 1, "task": 2}', b"null", b"5"])
def test_what_is_no_results_file(content: bytes, tmp_path: Path) -> None:
    """Guards against a traceback from the JSON parser, and against taking the second of two values for one key."""
    (tmp_path / "dmt_results.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"dmt_results\.json' is damaged"):
        read_results(tmp_path / "dmt_results.json")


def test_whole_files_are_accepted(tmp_path: Path) -> None:
    """Guards against a check that refuses valid runs: those of today, and those of a later version with more
    entries."""
    later = {**WHOLE, "new_entry": {"x": [1]}, "environment": {"python": "3.13"}, "total_seconds": 3}
    for whole in (WHOLE, later):
        (tmp_path / "dmt_results.json").write_text("\ufeff" + json.dumps(whole), encoding="utf-8")
        assert read_run(tmp_path).results == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labeled": "a.jpg"}', "labeled is 'a.jpg', but must be a list"),
        ('{"unlabeled": [1]}', "unlabeled[0] is 1, but must be a text"),
        ('{"dataset": {}}', "dataset is {}, but must be a text"),
        ('{"sha256": []}', "sha256 is [], but must be a map"),
        ("[]", "it is [], but must be a map"),
        ('{"labeled": ["a', "Unterminated string"),
    ],
)
def test_a_damaged_split_is_not_an_absent_one(content: str, message: str, tmp_path: Path) -> None:
    """Guards against taking a damaged split for an absent one: `hf-dmt queue` took it for a run without unlabeled
    images."""
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError) as caught:
        read_split(tmp_path / "split.json")
    assert message in str(caught.value) and "split.json" in str(caught.value)
    assert read_split(tmp_path / "absent.json") == {}


@pytest.mark.parametrize("line", ["5", "[]", "null", '{"step": 1}', '{"step": "1", "phase": 0}', "{", '"a/loss"'])
def test_telemetry_is_read_up_to_the_first_damaged_line(line: str, tmp_path: Path) -> None:
    """Guards against a TypeError when a line holds a number instead of an event, and against figures drawn from the
    lines after it."""
    good = '{"step": 1, "phase": 0, "a/loss": NaN}'
    (tmp_path / "telemetry.jsonl").write_text("\n".join([good, line, good]))
    assert [event["step"] for event in read_events(tmp_path / "telemetry.jsonl")] == [1]


def test_forms_describe_what_runs_write() -> None:
    """Guards against a check of an entry that no run writes: a misspelled key would check nothing."""
    assert fault_of({"step": 1, "phase": 0, "b/agree": []}, EVENT) == "b/agree is [], but must be a number, or null"
    assert {"task", "phases", "num_labels", "class_names"} < set(RESULTS) and "labeled" in SPLIT
