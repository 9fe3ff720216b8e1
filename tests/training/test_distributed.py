"""Two processes do the same as one, on CPUs with gloo.

Two processes are started once, with the environment variables that a launcher sets; almost all tests below read what
they wrote. Launchers themselves are used here by the slow tests, and by test_signals.py and
tests/commands/test_predict.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import two_processes
from PIL import Image
from small_runs import assert_same, make_pair, results, state_of, telemetry

from hf_dmt import ModelPair
from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels, read_manifest
from tests import forked

SCRIPT = Path(two_processes.__file__)
ROOT = SCRIPT.parents[2]
RECIPES = ROOT / "scripts" / "recipes" / "accelerate"
EXACT = list(two_processes.EXACT)


def run_on_two(target: Path) -> None:
    """Run the cases of two_processes.py in two processes; what they print is in `said-<rank>.txt`."""
    logs = [target / f"said-{rank}.txt" for rank in range(2)]
    both = forked.start_two(two_processes.main, ["run", str(target)], logs)
    for process in both:
        process.join(280)
        process.kill()
    said = [log.read_text() for log in logs]
    assert [process.exitcode for process in both] == [0, 0], "\n".join(text[-3000:] for text in said)


def launch(*arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`--cpu --num_processes 2` would start one process without a warning; `--multi_gpu` with `use_cpu` starts two."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--config_file", str(config)] if config else ["--multi_gpu"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(SCRIPT), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )


def errors_of(done: subprocess.CompletedProcess[str]) -> str:
    """Each process's own traceback, in the order printed: the end of stderr tells only how the others noticed."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("[rank")]
    return "\n".join(lines or done.stderr.splitlines()[:80])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cases on one process, here, and on two."""
    target = tmp_path_factory.mktemp("processes")
    (target / "files").mkdir()
    for number in range(7):
        Image.new("L", (8, 8), number).save(target / "files" / f"{number}.png")
    (target / "files" / "5.png").write_bytes(b"cut")
    two_processes.run(target, 1)
    for file in (target / "files").iterdir():
        file.touch()  # otherwise the result of the first run is cached and the file is not read again
    run_on_two(target)
    return target


@pytest.fixture(scope="module")
def found(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    one, two = (torch.load(folder / f"found-{world}.pt", weights_only=False) for world in (1, 2))
    return one, two


@pytest.fixture(scope="module")
def two_only(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "two-only.pt", weights_only=False)
    return loaded


@pytest.mark.parametrize("name", [*EXACT, "online", "sequential", "frozen"])
def test_weights_equal_those_of_one_process(found: Any, name: str) -> None:
    """Guards against training without DDP (after evaluate() was called first), a loss divided by each rank's own count,
    and other images than on one process."""
    one, two = found
    assert_same(two[name]["weights"], one[name]["weights"], tolerance=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_a_second_train_is_distributed_too(found: Any, name: str) -> None:
    """Guards against a second train() in the same process that runs without DDP or reduces every gradient twice."""
    one, two = (part[name] for part in found)
    assert two["second_apart"] == 0
    assert_same(two["second"], one["second"], tolerance=2e-6)
    with pytest.raises(AssertionError):
        assert_same(two["second"], two["weights"], tolerance=1e-3)


@pytest.mark.parametrize("name", [*EXACT, "online", "sequential", "frozen"])
def test_parameters_are_equal_on_all_ranks_after_every_phase(found: Any, name: str) -> None:
    """Guards against each process training its own pair."""
    apart = found[1][name]["apart"]
    assert len([event for event, *_ in apart if event == "trained"]) >= 2
    assert all(parameters == 0 for _, parameters, _ in apart)


@pytest.mark.parametrize("name", EXACT)
def test_figures_equal_those_of_one_process(folder: Path, found: Any, name: str) -> None:
    """Guards against images scored twice or left out (7 of them on two processes), and telemetry of one rank only."""
    one, two = (part[name] for part in found)
    for key in ("first", "last"):
        for figure, value in one[key].items():
            if not figure.endswith(("runtime", "per_second")):
                assert two[key][figure] == pytest.approx(value, abs=1e-5), figure
    assert (one["writes"], two["writes"]) == ([True], [True, False])
    lines = [
        [line for line in telemetry(folder / f"{name}-{world}") if "loss" in line and line["step"]] for world in (1, 2)
    ]
    assert len(lines[0]) == sum(entry["steps"] for entry in results(folder / f"{name}-1")["phases"]) > 8
    for of_one, of_two in zip(*lines, strict=True):
        for key, value in of_one.items():
            assert of_two[key] == pytest.approx(value, rel=1e-3, abs=1e-4), (key, of_one["step"])
    assert [results(folder / f"{name}-{world}")["world_size"] for world in (1, 2)] == [1, 2]


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_labels_equal_those_of_one_process(folder: Path, name: str, phase: int) -> None:
    """Guards against images labeled twice or not at all (13 on two processes), and thresholds from one rank's share."""
    for member in ("a", "b"):
        one, two = (folder / f"{name}-{world}" / "pseudo_labels" / f"phase-{phase}" / member for world in (1, 2))
        if name.startswith("image"):
            first, second = ImageLabels.read(one), ImageLabels.read(two)
            assert len(second.labels) == 13
            assert second.labels.tolist() == first.labels.tolist()
            assert second.selected.tolist() == first.selected.tolist()
            assert second.confidence == pytest.approx(first.confidence, abs=1e-5)
            continue
        thresholds = [np.array(read_manifest(store)["code_thresholds"]) for store in (one, two)]
        assert np.abs(thresholds[0] - thresholds[1]).max() <= 2
        for row in range(13):
            (labels, codes), (other_labels, other_codes) = (PixelLabels.read(store).codes(row) for store in (one, two))
            assert (labels == other_labels).mean() > 0.99
            assert np.abs(codes - other_codes).max() <= 2
        summaries = [read_manifest(store)["summary"] for store in (one, two)]
        assert sum(summaries[1]["class_counts"]) == pytest.approx(sum(summaries[0]["class_counts"]), abs=8)
        assert summaries[1]["selected"] == pytest.approx(summaries[0]["selected"], abs=1e-3)


def test_the_store_of_two_processes_is_that_of_one(folder: Path) -> None:
    """Guards against labels, confidence codes or thresholds that depend on the number of processes. The files of one
    pair are compared byte by byte."""
    one, two = (folder / f"store-{world}" for world in (1, 2))
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert len(names) == 2 * (13 + 1)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_files_are_looked_at_once_over_all_processes(found: Any) -> None:
    """Guards against every process reading every file, so that start-up on eight processes costs eight times the
    reading, and against a process that knows only the findings in its own share."""
    one, two = (part["files"] for part in found)
    assert one["reads"] == [7] and sorted(two["reads"]) == [3, 4]
    assert two["known"] == one["known"] * 2 and len(one["known"][0][0]) == 6
    assert "5.png" in one["known"][0][3][0]


def test_batch_statistics_agree_before_they_label_and_score(two_only: Any) -> None:
    """BatchNorm's running statistics differ between ranks after a step. They must agree before labeling and scoring;
    otherwise each rank would label with its own."""
    apart = two_only["batch statistics"]["apart"]
    assert any(buffers > 1e-4 for event, _, buffers in apart if event == "trained"), "they must differ before"
    assert all(buffers == 0 for event, _, buffers in apart if event == "scored")
    assert all(parameters == 0 for _, parameters, _ in apart)
    assert two_only["averages apart"] > 1e-4, "each process averages its own"
    assert two_only["averages that judge apart"] == 0


def test_ranks_draw_and_augment_differently(two_only: Any) -> None:
    """Guards against ranks that draw identical augmentations, as the stock Trainer does without workers."""
    draws = two_only["draws"]
    assert len(draws) == 2 and len(draws[0]) == len(draws[1]) == 8
    assert not {draw.seed for draw in draws[0]} & {draw.seed for draw in draws[1]}
    assert not torch.equal(*two_only["views"])


def test_resume_on_two_processes_is_exact(two_only: Any) -> None:
    """Guards against restoring one rank's random state on both ranks, and against drawing the same images again."""
    assert_same(*two_only["resumed"])


def test_another_number_of_processes_takes_a_run_up(folder: Path, found: Any, two_only: dict[str, Any]) -> None:
    """Guards against a run that starts over or draws other images when it resumes on another number of GPUs. Without
    dropout, mixup and BatchNorm, the weights may differ only by rounding."""
    taken = {2: two_only["taken up"], 1: two_processes.taken_up(folder, by_before=2)}
    for now, before in ((2, 1), (1, 2)):
        assert_same(taken[now]["weights"], found[0]["unchanged"], tolerance=1e-6)
        change = {"step": 4, "setting": "world_size", "before": before, "now": now}
        assert taken[now]["changes"] == [change] == results(folder / f"begun-by-{before}")["changes"]
        assert [entry["steps"] for entry in results(folder / f"begun-by-{before}")["phases"]] == [3, 2, 3]
    said = (folder / "said-0.txt").read_text()
    assert "was trained by 1 process(es) and continues with 2" in said and "no longer bit-identical" in said


def test_processes_with_other_images_or_settings_are_refused(two_only: Any) -> None:
    """Guards against images that each process has shuffled for itself: labels are exchanged by position, so each would
    train on the labels of other images. Guards against models that drift apart, too."""
    first, second = two_only["refused"]
    assert first == second, "every process ends, so none waits for another"
    assert "unlabeled images: other contents, labels or order" in first[0] and "shuffle with a fixed seed" in first[0]
    assert "learning_rate: was 0.1, now 0.2" in first[1]


def test_only_the_main_process_saves(folder: Path, two_only: dict[str, Any]) -> None:
    """Guards against both processes writing one checkpoint: its files would be mixed, or now and then a rename would
    not find its file and end the run."""
    assert (folder / "whole" / "checkpoint-8" / "dmt_config.json").is_file()
    assert not (folder / "saved by another process").exists()


def test_predictions_are_gathered_in_order(two_only: Any) -> None:
    """Guards against rows in the order of the shards, and against padded rows."""
    together, alone = two_only["predicted"]
    for name in ("a", "b"):
        assert together[name].shape == alone[name].shape == (5, 3)
        assert together[name] == pytest.approx(alone[name], abs=1e-5)


def test_divided_parameters_label_and_score_as_whole_ones(folder: Path, two_only: dict[str, Any]) -> None:
    """Under FSDP, a pass over uneven shares must not hang or read only part of the weights, and a pair must be saved
    whole."""
    found = two_only["sharded"]
    assert found["units"] > 3 and found["divided gradients"]
    for name in ("divided", "again"):
        assert found[name]["hash"] == found["whole"]["hash"]
        for member, figures in found["whole"]["scores"].items():
            divided = dict(found[name]["scores"][member])
            assert divided.pop("loss", 0.0) == pytest.approx(figures.get("loss", 0.0), abs=1e-6)
            assert divided == {key: value for key, value in figures.items() if key != "loss"}
    assert_same(state_of(ModelPair.from_pretrained(folder / "sharded")), state_of(make_pair()))


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="FSDP needs two GPUs: accelerate leaves it out on processors, silently"
)
def test_fsdp_trains_what_one_process_trains(tmp_path: Path) -> None:
    """Guards against parameters sharded over two GPUs that train to other weights, or are saved so that no pair can be
    loaded."""
    done = launch("fsdp", str(tmp_path / "two"), config=RECIPES / "eight_gpus_fsdp.yaml")
    assert done.returncode == 0, errors_of(done)
    assert results(tmp_path / "two")["world_size"] == 2
    two_processes.train_and_export(tmp_path / "one", use_cpu=True)
    two, one = (state_of(ModelPair.from_pretrained(tmp_path / name / "exported")) for name in ("two", "one"))
    assert_same(two, one, tolerance=1e-3)


@pytest.mark.slow  # the same with task and number of micro-batches crossed, and from the launcher
def test_weights_equal_those_of_one_process_crossed(tmp_path: Path) -> None:
    """Guards against the same faults as the tests of the weights after the first and the second train() above."""
    two_processes.keep(two_processes.exact(tmp_path, 1, two_processes.CROSSED), tmp_path, 1)
    done = launch("crossed", str(tmp_path))
    assert done.returncode == 0, errors_of(done)
    one, two = (torch.load(tmp_path / f"found-{world}.pt", weights_only=False) for world in (1, 2))
    for name in two_processes.CROSSED:
        assert_same(two[name]["weights"], one[name]["weights"], tolerance=1e-6)
        assert_same(two[name]["second"], one[name]["second"], tolerance=2e-6)


@pytest.mark.slow  # test_signals.py has two processes, one of which fails, in the usual tests
def test_a_process_that_dies_ends_the_job_with_its_error(tmp_path: Path) -> None:
    """When one process fails, the job must end with its error; otherwise the others wait until a timeout of half an
    hour."""
    done = launch("die", str(tmp_path))
    assert done.returncode != 0
    assert "MemoryError: this process ran out of something" in done.stderr
