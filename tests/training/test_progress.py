"""The output during a run: the real callbacks, given the states and logs of a run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from small_runs import Kill, KillAt, images, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, trainer

from hf_dmt.training.run.progress import PhaseLines, PhaseProgress

LOGS = {
    "loss": 0.64389,
    "phase": 1,
    "a/agree": 0.2083,
    "b/agree": 0.1583,
    "a/mean_weight": 0.004,
    "b/mean_weight": 0.069,
}
SCORES = {"eval_loss": 1.0, "eval_a_accuracy": 0.81, "eval_b_accuracy": 0.7949, "eval_ensemble_accuracy": 1.0}


@pytest.fixture
def args(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


def state_at(step: int, *, of: int = 358) -> TrainerState:
    return TrainerState(global_step=step, max_steps=of, is_world_process_zero=True)


def test_lines_of_a_log_file(args: TrainingArguments, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a log file of bars and control codes, or of raw dicts, which nobody can read."""
    lines, control = PhaseLines(last_phase=5), TrainerControl()
    lines.on_train_begin(args, state_at(0), control)
    lines.on_log(args, state_at(80), control, logs=LOGS)
    lines.on_log(args, state_at(80), control, logs={"a/selected": 0.2, "phase": 1})
    lines.on_evaluate(args, state_at(118), control, metrics=SCORES)
    lines.on_evaluate(args, state_at(118), control, metrics={"eval_b_mean_iou": 0.5})
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.isascii()
    assert shown.out.splitlines() == [
        "phase 1/5  step 80/358  00:00 left  loss 0.644  agree a 21% b 16%  weight a 0% b 7%",
        "step 118  eval accuracy, %:  a 81.0  b 79.5  ensemble 100.0",
        "step 118  eval mean_iou, %:  b 50.0",
    ]


class TableOfNotebooks(TrainerCallback):
    """In the place of the stock class, which needs IPython."""


class OwnProgress(ProgressCallback):
    """A callback of the user."""


@pytest.mark.parametrize("stock", [ProgressCallback, TableOfNotebooks])
def test_there_is_one_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stock: type[TrainerCallback]) -> None:
    """Guards against two displays in a notebook, and against removing the user's own in the place of the stock one."""
    monkeypatch.setattr(trainer, "DEFAULT_PROGRESS_CALLBACK", stock)
    callbacks = make_trainer(tmp_path, disable_tqdm=False, callbacks=[OwnProgress()]).callback_handler.callbacks
    shown = [type(one) for one in callbacks if isinstance(one, (ProgressCallback, TableOfNotebooks))]
    assert shown == [OwnProgress, PhaseProgress]


def test_time_left_counts_from_where_a_run_was_taken_up(
    args: TrainingArguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a speed that counts the 300 steps before a resume: 50 steps in 100 s leave 16 s for the last 8."""
    lines, control, clock = PhaseLines(last_phase=5), TrainerControl(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lines.on_train_begin(args, state_at(300), control)
    clock[0] += 100
    lines.on_log(args, state_at(350), control, logs=LOGS)
    assert "step 350/358  00:16 left" in capsys.readouterr().out


def test_the_bar_names_phase_and_time_left_and_scores_stay_above_it(
    args: TrainingArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against values wider than the terminal, which break the bar into a new line at every update."""
    bar, control = PhaseProgress(last_phase=5), TrainerControl()
    bar.on_train_begin(args, state_at(300), control)
    bar.on_log(args, state_at(340), control, logs=LOGS)
    bar.on_step_end(args, state_at(340), control)
    bar.on_evaluate(args, state_at(340), control, metrics=SCORES)
    bar.on_train_end(args, state_at(340), control)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["step 340  eval accuracy, %:  a 81.0  b 79.5  ensemble 100.0"]
    last = shown.err.replace("\n", "").split("\r")[-1]
    assert last.startswith("phase 1/5 |") and "340/358 [" in last
    assert last.endswith("left, loss 0.644, agree a 21% b 16%]")
    assert len(last) - 10 <= 72  # where there is no terminal the bar takes 10; on one it takes what is left


def test_only_the_first_process_talks(args: TrainingArguments, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against eight processes on two machines that write every line eight times, or twice."""
    other = state_at(10)
    other.is_world_process_zero = False
    for callback in (PhaseLines(5), PhaseProgress(5)):
        callback.on_train_begin(args, other, TrainerControl())
        callback.on_log(args, other, TrainerControl(), logs=LOGS)
        callback.on_evaluate(args, other, TrainerControl(), metrics=SCORES)
    assert capsys.readouterr() == ("", "")


def test_tensorboard_has_one_step_axis_through_phases_and_a_resume(tmp_path: Path) -> None:
    """Guards against curves that start again at 0 in every phase and overlap, and against curves of a and b under one
    name."""
    settings = {"report_to": ["tensorboard"], "logging_steps": 1, "save_strategy": "epoch"}
    with pytest.raises(Kill):
        make_trainer(tmp_path, evaluation=images(6), callbacks=[KillAt(4)], **settings).train()
    make_trainer(tmp_path, evaluation=images(6), **settings).train(resume_from_checkpoint=True)
    found: dict[str, list[int]] = {}
    for folder in sorted({file.parent for file in tmp_path.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.step for event in events.Scalars(tag))
    shares = ("agree", "negative_disagree", "positive_disagree", "mean_weight")
    for name in "ab":
        # Step 4 was killed before it was logged, and done again after the resume from step 3.
        assert sorted(set(found[f"train/{name}/loss"])) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert all(sorted(set(found[f"train/{name}/{share}"])) == [4, 5, 6, 7, 8] for share in shares)
        assert sorted(set(found[f"eval/{name}_accuracy"])) == [3, 5, 8]
    assert sorted(set(found["eval/ensemble_accuracy"])) == [3, 5, 8]
    # TensorBoard shows a tag without a group as a group of its own, above all others: there must be none.
    assert {tag.partition("/")[0] for tag in found} == {"train", "eval"}
