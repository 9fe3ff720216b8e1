"""Real processes killed with real signals at random instants of the whole command line, and resumed.

Three instants in the normal tests; `make test-slow` kills at 100 for each task, some in every stage, two at a time, in
runs with two data workers.
"""

from __future__ import annotations

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import STAGES, Runs, write_images
from small_runs import assert_same_nested, telemetry, without_times

from hf_dmt.data.files import write_json

MEMBERS = {
    "image-classification": ["tiny:vit", "tiny:resnet"],
    "semantic-segmentation": ["tiny:segformer", "tiny:upernet"],
}
KILLS = 100
SEED = 7


def arguments(data: Path, task: str, workers: int) -> list[str]:
    a, b = MEMBERS[task]
    return (
        f"--task {task} --dataset_name {data} --num_labeled 12 --model_a {a} --model_b {b} --image_size 16 "
        "--max_steps 3 --labeled_batch_size 4 --pseudo_batch_size 4 --label_ratios 0.5 1.0 --save_strategy steps "
        "--save_steps 2 --save_total_limit 2 --logging_steps 2 --ema_decay 0.9 --use_cpu true "
        f"--dataloader_num_workers {workers}"
    ).split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The uninterrupted run of each task, once."""
    made: dict[tuple[str, int], Runs] = {}

    def of(task: str, workers: int = 0) -> Runs:
        if (task, workers) not in made:
            work = tmp_path_factory.mktemp(task)
            data = write_images(work / "data", task)
            made[task, workers] = Runs(data, work, arguments(data, task, workers))
        return made[task, workers]

    return of


def facts(folder: Path) -> dict[str, Any]:
    found = without_times(json.loads((folder / "dmt_results.json").read_text()))
    found.pop("peak_memory_bytes")
    return found


def assert_nothing_was_lost(found: Path, expected: Path, *, same_logs: bool = True) -> None:
    """Weights of both members, results, split, labels and optimizer, bit by bit."""
    exact = ["model.safetensors", "peer/model.safetensors", "split.json", "dmt_config.json"]
    labels = [path.relative_to(expected) for path in (expected / "pseudo_labels").rglob("*") if path.is_file()]
    for name in [*exact, *labels]:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert facts(found) == facts(expected)
    if same_logs:
        assert without_times(telemetry(found)) == without_times(telemetry(expected))
    assert not list(found.rglob(".*.partial")), "what a killed process was writing is still there"
    last = max(expected.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])).name
    states = [torch.load(folder / last / "optimizer.pt", weights_only=True) for folder in (found, expected)]
    assert_same_nested(*states)


def kill_and_resume(runs: Runs, instant: int, half_written: int | None) -> None:
    folder = runs.work / f"killed-{instant}-{half_written}"
    code = runs.run(folder, kill_at=instant, half_written=half_written)
    if half_written is None:
        assert code == -signal.SIGKILL, runs.output(folder)
    else:  # 0 if no longer file was written after that instant; the shared memory of new data workers is a file, too
        worker_died = "A data-loading worker was killed" in runs.output(folder)
        assert code in (-signal.SIGXFSZ, 0) or worker_died, runs.output(folder)
    assert runs.run(folder, resume=True) == 0, runs.output(folder)
    assert_nothing_was_lost(folder, runs.expected)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("task", "stage", "half_written"),
    [
        ("image-classification", "saving a checkpoint", 20_000),
        ("image-classification", "final export", None),
        pytest.param("image-classification", "updates of a later phase", None, marks=pytest.mark.slow),  # see SIGTERM
        ("image-classification", "writing the store", None),
    ],
)
def test_killed_at_a_drawn_instant(runs: Any, task: str, stage: str, half_written: int | None) -> None:
    """Guards against a half-written checkpoint or label store that counts as complete, an export of mixed weights, and
    lost records."""
    of_task = runs(task)
    kill_and_resume(of_task, of_task.draw(stage, seed=SEED + 1)[0], half_written)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("task", MEMBERS)
def test_killed_at_a_hundred_instants(runs: Any, task: str) -> None:
    """Guards against the same faults in the stages and the task that the few instants above do not cover."""
    of_task = runs(task, workers=2)
    drawn = {stage: of_task.draw(stage, seed=SEED) for stage in STAGES}
    assert all(drawn.values()), "a stage of the run has no instant"
    in_turn = (instant for one_of_each in zip_longest(*drawn.values()) for instant in one_of_each if instant)
    chosen = list(islice(in_turn, KILLS))
    assert len(chosen) == KILLS
    # Every seventh dies in the middle of a write: of a small file, or of a member's weights.
    half = [(300 if instant % 2 else 30_000) if number % 7 == 1 else None for number, instant in enumerate(chosen)]
    with ThreadPoolExecutor(2) as two:
        for _ in two.map(lambda how: kill_and_resume(of_task, *how), zip(chosen, half, strict=True)):
            pass
    print(f"{task}: killed at {len(chosen)} of {len(of_task.stages)} instants")


# A stop at the last update of phase 0 is also in test_phases.py, in one process.
@pytest.mark.parametrize("update", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3)), 5])
def test_sigterm_saves_and_a_resumed_run_ends_the_same(runs: Any, update: int) -> None:
    """Guards against a preempted job that loses everything since its last checkpoint, or exports a half-trained pair as
    finished.

    In the middle of phase 0, at its last update (whose checkpoint needs the phase's record), and in a later phase.
    """
    of_task = runs("image-classification")
    folder = of_task.work / f"preempted-{update}"
    assert of_task.run(folder, sigterm_at=update) == 128 + signal.SIGTERM, of_task.output(folder)
    assert "--resume_from_checkpoint true" in of_task.output(folder)
    assert (folder / f"checkpoint-{update}" / "trainer_state.json").is_file()
    assert not (folder / "model.safetensors").exists()
    assert of_task.run(folder, resume=True) == 0, of_task.output(folder)
    assert_nothing_was_lost(folder, of_task.expected, same_logs=False)


def test_a_data_set_that_changed_is_refused_on_resume(runs: Any, tmp_path: Path) -> None:
    """Guards against a pair that looks finished but was trained on labels and stream positions that belong to other
    images."""
    of_task = runs("image-classification")
    folder = tmp_path / "run"
    shutil.copytree(of_task.expected, folder)
    split = json.loads((folder / "split.json").read_text())
    split["unlabeled"] = split["unlabeled"][1:]
    split["sha256"]["unlabeled"] = "0" * 64
    write_json(folder / "split.json", split)
    assert of_task.run(folder, resume=True) == 2
    assert "unlabeled images have changed" in of_task.output(folder) and "1 new" in of_task.output(folder)
