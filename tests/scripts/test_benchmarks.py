"""The benchmarks must run and compare like with like. Their timings mean nothing here and are never asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_dmt.data.labels.pseudo_labels import ImageLabels
from scripts.benchmarks import gpu_check, labeling, peers, scale, startup, step
from scripts.benchmarks.labeling import check_same_classes, model_ready
from scripts.benchmarks.measure import Row, in_turns, options, peak_memory, ratios
from scripts.benchmarks.subjects import Pictures, decoded, image_pair

BENCHMARKS: list[Any] = [
    *(pytest.param(module, marks=pytest.mark.slow) for module in (gpu_check, peers, scale)),  # whole runs
    labeling,
    startup,
    step,
]


@pytest.fixture(autouse=True)
def own_threads() -> Any:
    """A benchmark sets the number of torch threads for its process, which it shares with the other tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda module: str(module.__name__).rpartition(".")[2])
def test_every_benchmark_runs_and_ends_with_its_table(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a benchmark that no longer fits the code, which would be noticed months later by whoever needs its
    numbers.

    Each one checks by itself that the things it compares compute the same.
    """
    rows = benchmark.main(["--quick", "--threads", "1", "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out.splitlines()
    table = [line for line in printed if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table[2:]] == [row.what for row in rows]
    written = json.loads((tmp_path / "figures.json").read_text())
    assert {"command", "date", "hardware", "versions"} <= written.keys()
    assert [row["value"] for row in written["rows"]] == [row.value for row in rows]
    assert all(len(row.values) and torch.tensor(row.values).isfinite().all() for row in rows)


def test_a_part_is_measured_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a part that measures everything, and against a wrong name that measures nothing: either costs an
    afternoon."""
    rows = step.main(["--only", "loss", "--quick", "--threads", "1"])
    assert [row.what for row in rows] == ["loss and weights, 2x21x129x129", "extra peak memory of it"]
    with pytest.raises(SystemExit):
        step.main(["--only", "losses", "--quick"])


def test_jobs_take_turns_in_changing_order() -> None:
    """Guards against measuring jobs one after the other: a temporary slowdown of the machine would count against one of
    them."""
    called: list[str] = []

    def job(name: str, seconds: float) -> float:
        called.append(name)
        return seconds

    seconds = in_turns({"a": lambda: job("a", 2.0), "b": lambda: job("b", 4.0)}, 3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"  # the first round warms up
    assert ratios(seconds, "a", "b") == [0.5] * 3


def test_goals_are_judged_in_their_direction() -> None:
    """Guards against a goal read the wrong way round, which would call every miss a success."""
    assert [Row("", "", values, "", "<= 1.05").met for values in ([1.0, 9.0, 1.05], [1.0, 1.1, 1.2])] == [True, False]
    assert [Row("", "", [value], "", ">= 8").met for value in (8.0, 7.9)] == [True, False]
    assert Row("", "", [1.0], "").met is None


def test_peak_memory_sees_what_was_freed_in_the_job() -> None:
    """Guards against memory that an earlier job left with the allocator hiding what this job needs."""
    size = 64 << 20

    def job() -> None:
        torch.ones(size, dtype=torch.uint8)

    job()
    before, peak = peak_memory(job)
    assert 0.9 * size < peak - before < 1.5 * size


def test_labels_of_other_images_are_noticed(tmp_path: Path) -> None:
    """Guards against reporting a speed-up that in fact labels something else."""
    pair, accelerator = image_pair(32, "toy"), labeling.Accelerator(cpu=True)
    images = decoded(Pictures(16, 32))
    batches = model_ready(pair, images, 8)
    labeling.our_pass(pair, images, 8, tmp_path, accelerator)
    check_same_classes(pair, batches, tmp_path, accelerator)
    stored = ImageLabels.read(tmp_path / "b")
    labels = (stored.labels + 1) % 10
    ImageLabels(labels, stored.confidence, stored.selected).write(tmp_path / "b", [str(row) for row in range(16)], {})
    with pytest.raises(AssertionError, match="other classes of b"):
        check_same_classes(pair, batches, tmp_path, accelerator)


def test_flags_of_a_gpu_are_only_where_they_do_something() -> None:
    """Guards against a flag that is accepted and ignored, which would put a GPU's name over a CPU's numbers."""
    assert options("", ["--device", "cpu"], gpu=True).device == "cpu"
    with pytest.raises(SystemExit):
        options("", ["--device", "cpu"])
