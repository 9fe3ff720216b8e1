"""The phases within one `train()`: number of updates, what is reset in each, and what happens at its end."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from small_runs import (
    IMAGES,
    PIXELS,
    Kill,
    KillAt,
    assert_same,
    images,
    make_pair,
    make_trainer,
    results,
    scenes,
    state_of,
    telemetry,
    without_times,
)
from transformers import TrainerCallback

from hf_dmt.method import Phase
from hf_dmt.training.phases import plan, position
from hf_dmt.training.random_state import preserved_rng
from hf_dmt.training.run.checkpoints import last_complete_checkpoint
from hf_dmt.training.run.results import RunRecords
from hf_dmt.training.run.runtime_errors import RunError
from hf_dmt.training.run.whole_checkpoint import faults, seal
from hf_dmt.training.settings.methods import resolve


def phases(method: str, task: str = IMAGES, *, unlabeled: int = 100, max_steps: int = -1, **knobs: Any) -> Any:
    sizes = {"labeled_batch_size": 8, "pseudo_batch_size": 24, "supervised_epochs": 10, "phase_epochs": 3}
    settings = resolve(method, task, {**sizes, **knobs})
    return plan(settings, task, num_labeled=20, num_unlabeled=unlabeled, max_steps=max_steps)


# ---- the plan
# ---------------------------------------------------------------------------------------------------------


def test_steps_follow_from_counts() -> None:
    """Guards against a budget other than the documented one: ceil(10 * 20 / 32) = 7, ceil(3 * 20 / 24) = 3, ... With
    masks, every phase counts all images."""
    found = phases("dmt")
    assert [phase.steps for phase in found] == [7, 3, 5, 8, 10, 13]
    assert [phase.label_ratio for phase in found] == [None, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [phase.steps for phase in phases("dmt", PIXELS)] == [7, 13, 13, 13, 13, 13]


def test_baselines_get_the_same_budget() -> None:
    """Guards against a baseline that trains less than the method that it is compared with."""
    total = sum(phase.steps for phase in phases("dmt"))
    assert phases("supervised") == [Phase(0, None, total)]
    assert phases("online-st") == [Phase(0, None, 7), Phase(1, None, total - 7)]
    assert phases("supervised", unlabeled=0) == [Phase(0, None, 7)]
    assert phases("dmt", supervised_epochs=0)[0] == Phase(1, 0.2, 3)


@pytest.mark.parametrize("method", ["dmt", "supervised", "cps"])
def test_max_steps_caps_every_phase(method: str) -> None:
    """Guards against a smoke run of N updates that takes its whole budget because the budget is one phase."""
    assert all(phase.steps == 2 for phase in phases(method, max_steps=2))


def test_position_counts_updates_of_unequal_phases() -> None:
    """Guards against a resumed run that starts a phase again or leaves one out."""
    plan_of = [Phase(0, None, 3), Phase(1, 0.5, 1), Phase(2, 1.0, 2)]
    assert [position(plan_of, step) for step in range(7)] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (3, 0)]


# ---- the loop
# ---------------------------------------------------------------------------------------------------------


class Diary(TrainerCallback):
    """Records learning rates and optimizer steps at each update, and the order of events."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.ages: list[int] = []
        self.events: list[tuple[str, int]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        ages = {int(entry["step"]) for entry in optimizer.state.values()}
        assert len(ages) <= 1
        self.ages.append(ages.pop() if ages else 0)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("evaluate", state.global_step))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("save", state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.events.append(("log", state.global_step))


def test_each_phase_starts_anew_on_one_axis(tmp_path: Path) -> None:
    """Guards against carrying Adam's moments and a finished schedule into the next phase, which then hardly trains."""
    diary = Diary()
    trainer = make_trainer(tmp_path, learning_rate_b=4e-2, callbacks=[diary])
    trainer.train()
    assert diary.ages == [0, 1, 2, 0, 1, 0, 1, 2]
    expected = [1, 2 / 3, 1 / 3, 1, 1 / 2, 1, 2 / 3, 1 / 3]
    a, b = 1e-2, 4e-2
    for rates, share in zip(diary.rates, expected, strict=True):
        assert sorted(set(rates)) == pytest.approx([a * share, b * share])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0)  # every schedule reached its end
    steps = [line["step"] for line in telemetry(tmp_path)]
    assert steps == sorted(steps) and steps[-1] == 8 == trainer.state.max_steps
    assert [line["phase"] for line in telemetry(tmp_path) if "loss" in line] == [0, 0, 1, 1, 2, 2]


def test_learning_rate_b_reaches_every_tensor_of_b_alone(tmp_path: Path) -> None:
    """Guards against a rate for b that also applies to a, or not to the tensors without weight decay."""
    trainer = make_trainer(tmp_path, learning_rate_b=4e-2, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    rates = {id(tensor): group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
    for name, rate in (("a", 1e-2), ("b", 4e-2)):
        assert {rates[id(tensor)] for tensor in trainer.model.member(name).parameters()} == {rate}
    decays = {group["weight_decay"] for group in optimizer.param_groups if group["lr"] == 4e-2}
    assert decays == {0.0, 0.1}


@pytest.mark.parametrize("save_strategy", ["steps", "epoch", "best"])
def test_every_phase_ends_with_one_evaluation_and_one_checkpoint(tmp_path: Path, save_strategy: str) -> None:
    """Guards against a phase without a checkpoint (save_strategy best), or one evaluated or saved twice at the same
    step.

    save_steps coincides with the end of the first phase at 3 and with no other end.
    """
    diary = Diary()
    trainer = make_trainer(
        tmp_path,
        evaluation=images(6, seed=3),
        callbacks=[diary],
        save_strategy=save_strategy,
        save_steps=3,
        **({"eval_strategy": "epoch", "metric_for_best_model": "loss"} if save_strategy == "best" else {}),
    )
    trainer.train()
    saved = [step for event, step in diary.events if event == "save"]
    assert [step for event, step in diary.events if event == "evaluate"] == [3, 5, 8]
    assert saved == ([3, 5, 6, 8] if save_strategy == "steps" else [3, 5, 8])
    for step in saved:
        assert faults(tmp_path / f"checkpoint-{step}") == []
        # A checkpoint does not contain the sums since the last log, so each checkpoint needs a log.
        assert ("log", step) in diary.events
    assert [entry["phase"] for entry in results(tmp_path)["phases"]] == [0, 1, 2]
    assert len({(event, step) for event, step in diary.events}) == len(diary.events)


def test_save_strategy_no_saves_nothing_but_records_every_phase(tmp_path: Path) -> None:
    """Guards against checkpoints that the user does not want, and against counting only phases with a checkpoint."""
    make_trainer(tmp_path, save_strategy="no").train()
    assert not list(tmp_path.glob("checkpoint-*"))
    recorded = results(tmp_path)["phases"]
    assert [(entry["phase"], entry["label_ratio"], entry["steps"]) for entry in recorded] == [
        (0, None, 3),
        (1, 0.5, 2),
        (2, 1.0, 3),
    ]
    assert all(entry["eval"] is None and entry["test"] is None for entry in recorded)


def test_save_total_limit_holds_over_phases(tmp_path: Path) -> None:
    """Guards against a disk filled by the checkpoints of finished phases."""
    make_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-7", "checkpoint-8"]


def test_a_stop_asked_for_at_the_end_of_a_phase_is_obeyed(tmp_path: Path) -> None:
    """Guards against ignoring a callback's stop (a cluster's preemption) because a phase ended at that step."""
    trainer = make_trainer(tmp_path, callbacks=[StopAt(3)], save_strategy="epoch")
    trainer.train()
    assert trainer.state.global_step == 3
    assert [entry["phase"] for entry in results(tmp_path)["phases"]] == [0]
    resumed = make_trainer(tmp_path, save_strategy="epoch")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8


class StopAt(TrainerCallback):
    """Sets a switch of the Trainer's control after an update."""

    def __init__(self, step: int, switch: str = "should_training_stop") -> None:
        self.step, self.switch = step, switch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            setattr(control, self.switch, True)


@pytest.mark.parametrize(("step", "settings"), [(2, {}), (4, {}), (8, {"load_best_model_at_end": True})])
def test_what_is_published_has_the_scores_of_the_weights(tmp_path: Path, step: int, settings: dict[str, Any]) -> None:
    """Guards against a card with the scores of the last phase, and a root chosen by them, if the pair is another one: a
    callback of the user stopped within a phase, or the best pair was loaded."""
    if settings:  # the worst is the best: certainly not the last one
        settings |= {"save_strategy": "epoch", "metric_for_best_model": "loss", "greater_is_better": True}
    sets = {"evaluation": images(30, seed=2), "test": images(9, seed=3)}
    trainer = make_trainer(tmp_path, **sets, callbacks=[StopAt(step)], **settings)
    trainer.train()
    run, now = results(tmp_path), trainer.evaluate()
    assert not run["phases"] or run["phases"][-1]["eval"]["a"] != run["eval"]["a"], "this test needs another pair"
    of_test = trainer.evaluate(sets["test"], metric_key_prefix="test")
    for split, found in (("eval", now), ("test", of_test)):
        for name in ("a", "b", "ensemble"):
            assert run[split][name]["accuracy"] == found[f"{split}_{name}_accuracy"]
    trainer.finish()
    shown = [one.metric_value for one in ModelCard.load(tmp_path / "README.md").data.eval_results]
    assert shown[:3] == [round(of_test[f"test_{name}_accuracy"], 4) for name in ("a", "b", "ensemble")]
    better = "b" if now["eval_b_accuracy"] > now["eval_a_accuracy"] else "a"
    assert json.loads((tmp_path / "dmt_config.json").read_text())["primary"] == better


class ScoreOthers(TrainerCallback):
    """Scores other images at an event, as scripts do for a curve of the test split."""

    trainer: Any
    busy = False

    def __init__(self, event: str) -> None:
        setattr(self, event, self.score)

    def score(self, *given: Any, **named: Any) -> None:
        if not self.busy:
            self.busy = True
            self.trainer.evaluate(images(6, seed=9), metric_key_prefix="other")
            self.busy = False


@pytest.mark.parametrize("event", ["on_epoch_end", "on_evaluate", "on_step_end"])
@pytest.mark.parametrize("last", [False, True])
def test_a_callback_may_score_other_images(tmp_path: Path, event: str, last: bool) -> None:
    """Guards against an evaluation in a callback that ends the phase in the place of the run's own: the phase would get
    the scores of another one, or the run would end in a traceback."""
    asked = ScoreOthers(event)
    settings = {"eval_strategy": "steps", "eval_steps": 2, "phase_weights": "best", "max_steps": 3}
    runs = []
    for name in ("plain", "asked"):
        first = [asked] if name == "asked" and not last else []
        trainer = make_trainer(tmp_path / name, evaluation=images(9, seed=3), callbacks=first, **settings)
        if name == "asked":
            asked.trainer = trainer
            if last:
                trainer.add_callback(asked)
        trainer.train()
        looks = [line["step"] for line in telemetry(tmp_path / name) if "eval_accuracy" in line]
        runs.append((without_times(results(tmp_path / name)["phases"]), looks, trainer.state.global_step))
    assert runs[0] == runs[1] and any("other_accuracy" in line for line in telemetry(tmp_path / "asked"))


def test_an_epoch_cannot_stop_within_its_phase(tmp_path: Path) -> None:
    """Guards against a traceback about an empty batch."""
    with pytest.raises(ValueError, match=r"set should_epoch_stop.*phase_epochs"):
        make_trainer(tmp_path, callbacks=[StopAt(4, "should_epoch_stop")]).train()


def test_test_split_is_scored_after_the_first_and_the_last_phase(tmp_path: Path) -> None:
    """Guards against a published gain that is measured against another phase than phase 0."""
    make_trainer(tmp_path, test=images(6, seed=4), evaluation=images(6, seed=3), max_steps=1).train()
    tests = [entry["test"] for entry in results(tmp_path)["phases"]]
    assert tests[1] is None
    for found in (tests[0], tests[2]):
        assert found.keys() == {"a", "b", "ensemble"} and 0 <= found["a"]["accuracy"] <= 1 and "loss" not in found["a"]


@pytest.mark.parametrize("members", [("vit", "resnet"), ("segformer", "segformer")])
def test_labeling_and_evaluation_move_no_random_state(tmp_path: Path, members: tuple[str, str]) -> None:
    """Guards against training that depends on how often it is evaluated; then no resumed run ends like the first."""

    class Watch(TrainerCallback):
        def states(self) -> list[Any]:
            return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index]

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.after = self.states()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:
                assert self.states() == self.after
                self.after = []

    made = (scenes if members[0] == "segformer" else images)(5, seed=3)
    trainer = make_trainer(
        tmp_path,
        make_pair(*members, dropout=0.2),
        evaluation=made,
        test=made,
        callbacks=[Watch()],
        label_ratios=[1.0],
        eval_strategy="steps",
        eval_steps=1,
        augmentation="strong" if members[0] != "segformer" else None,
    )
    trainer.train()
    assert trainer.state.global_step > 3


def test_preserved_rng_gives_back_all_three_states_after_an_error() -> None:
    """Guards against other random numbers after something failed inside."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    with pytest.raises(Kill), preserved_rng():
        random.random(), np.random.rand(), torch.rand(1)
        raise Kill
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_sequential_exchange_leaves_the_idle_member_alone(tmp_path: Path) -> None:
    """Guards against weight decay, momentum or batch statistics that change the model that is not in training."""

    class Ends(TrainerCallback):
        def __init__(self) -> None:
            self.weights: list[dict[str, torch.Tensor]] = []

        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.weights.append(state_of(model))

    ends = Ends()
    pair = make_pair("vit", "resnet")
    trainer = make_trainer(
        tmp_path, pair, exchange="sequential", label_ratios=[0.5], weight_decay=0.1, callbacks=[ends], logging_steps=1
    )
    trainer.train()
    assert [phase.index for phase in trainer.phases] == [0, 1, 2]
    for before, after, idle in zip(ends.weights, ends.weights[1:], ("b", "a"), strict=False):
        for name, value in after.items():
            if name.startswith(f"model_{idle}."):
                assert torch.equal(value, before[name]), name
        moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
        assert any("classifier" in name for name in moved)
    lines = [line for line in telemetry(tmp_path) if "loss" in line]
    assert "a/agree" in lines[-4] and "b/agree" not in lines[-4]
    assert "b/agree" in lines[-1] and "a/agree" not in lines[-1]


def test_rate_of_phase_0_holds_in_phase_0_alone(tmp_path: Path) -> None:
    """Guards against a rate of phase 0 that stays in later phases, reaches only one model, or is missing from the
    results."""
    diary = Diary()
    trainer = make_trainer(tmp_path, supervised_learning_rate=0.1, learning_rate_b=4e-2, callbacks=[diary])
    trainer.train()
    recorded = results(tmp_path)["settings"]
    assert (recorded["supervised_learning_rate"], recorded["image_size"]) == (0.1, trainer.model.image_size)
    assert [sorted(set(rates)) for rates in diary.rates[:1] + diary.rates[3:4]] == [
        pytest.approx([0.1, 0.4]),
        pytest.approx([1e-2, 4e-2]),
    ]


# ---- checkpoints and records
# -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    make_trainer(folder, save_strategy="steps", save_steps=2).train()
    return folder


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Flips one bit; the size of the file stays the same."""
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: (folder / "scheduler.pt").unlink(),
        lambda folder: (folder / "rng_state.pth").unlink(),
        lambda folder: (folder / "peer" / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "dmt_config.json").unlink(),
        lambda folder: (folder / "trainer_state.json").unlink(),
        lambda folder: cut(folder / "trainer_state.json"),
        lambda folder: cut(folder / "optimizer.pt"),
        lambda folder: cut(folder / "rng_state.pth"),
        lambda folder: cut(folder / "model.safetensors"),
        lambda folder: (folder / "peer" / "model.safetensors").write_bytes(b""),
        lambda folder: flip(folder / "peer" / "model.safetensors"),
        lambda folder: flip(folder / "optimizer.pt"),
        lambda folder: (folder / "model.safetensors").replace(folder / "peer" / "model.safetensors"),
        lambda folder: (folder / "dmt_config.json").write_text("{}"),
        lambda folder: (folder / "run.json").write_text("{}"),
        lambda folder: (folder / "trainer_state.json").write_text("[]"),
        lambda folder: change(folder / "trainer_state.json", global_step=999),
        lambda folder: change(folder / "trainer_state.json", logging_steps="x"),
        lambda folder: change(folder / "trainer_state.json", log_history=0),
        lambda folder: shutil.copy(folder.parent / "checkpoint-6" / "optimizer.pt", folder),
        lambda folder: torch.save({}, folder / "scheduler.pt"),
        lambda folder: torch.save({}, folder / "rng_state.pth"),
        lambda folder: change(folder / "trainer_state.json", best_metric=7.0),
        lambda folder: change(folder / "peer" / "preprocessor_config.json", do_normalize=False),
    ],
)
def test_half_written_checkpoints_are_passed_over(tmp_path: Path, finished: Path, damage: Any) -> None:
    """Guards against resuming like the stock Trainer: from the highest number, and without optimizer state if
    optimizer.pt is missing. A whole file from another checkpoint would train on with the momentum of other weights, and
    one with other contents would end in a traceback, without a word in both cases."""
    shutil.copytree(finished, tmp_path / "run")
    assert last_complete_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-8"
    damage(tmp_path / "run" / "checkpoint-8")
    assert last_complete_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-6"
    trainer = make_trainer(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"checkpoint-8.*is not a complete checkpoint.*missing, unreadable or replaced"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))


def test_the_last_complete_checkpoint_is_taken(tmp_path: Path, finished: Path) -> None:
    """Guards against empty checkpoint folders or folders of another name counting as checkpoints, and against the order
    of words, in which 9 comes after 10."""
    for name in ("checkpoint-11", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    for step in (9, 10):
        shutil.copytree(finished / "checkpoint-8", tmp_path / f"checkpoint-{step}")
        state = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"global_step": step}))
        seal(state.parent)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


# test_resume.py resumes with `True` where there is no checkpoint, and `without_word` compares words in lower case.
@pytest.mark.parametrize("asked", ["True", *(pytest.param(word, marks=pytest.mark.slow) for word in (True, "true"))])
def test_resume_as_a_word(tmp_path: Path, asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The stock Trainer takes the word 'True' from a command line for a folder. Without any checkpoint, the run must
    start from the beginning and say so, even if a kill left its first checkpoint incomplete."""
    logging.getLogger("transformers").propagate = True
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "config.json").write_text("{}")
    trainer = make_trainer(tmp_path, max_steps=1)
    with caplog.at_level("WARNING"):
        trainer.train(resume_from_checkpoint=asked)
    assert trainer.state.global_step == 3
    assert any("starting from the beginning" in record.message for record in caplog.records)


@pytest.mark.parametrize("asked", [False, "False", None, ""])
def test_no_resume_as_a_word(tmp_path: Path, finished: Path, asked: Any) -> None:
    """Guards against the word 'False' counting as true."""
    trainer = make_trainer(finished)
    assert trainer.checkpoint_to_resume(asked) is None


def test_a_checkpoint_written_again_is_not_whole_until_it_ends(tmp_path: Path) -> None:
    """Guards against an interrupted overwrite of an older checkpoint of the same step: the old completion mark would
    confirm mixed files."""
    make_trainer(tmp_path, save_strategy="epoch", max_steps=1).train()
    again = {"save_strategy": "epoch", "max_steps": 1, "overwrite_output_dir": True}
    trainer = make_trainer(tmp_path, make_pair(seed=4), **again)

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer._save_rng_state = full_disk
    with pytest.raises(OSError, match="No space"):
        trainer.train()
    assert "trainer_state.json" in faults(tmp_path / "checkpoint-1")


def test_labels_deleted_in_the_middle_of_a_phase_are_an_error(tmp_path: Path) -> None:
    """Guards against labeling again with weights from the middle of a phase, after which the run differs."""
    with pytest.raises(Kill):
        make_trainer(tmp_path, save_strategy="steps", save_steps=1, callbacks=[KillAt(5)]).train()
    shutil.rmtree(tmp_path / "pseudo_labels")
    trainer = make_trainer(tmp_path)
    said = r"labels of phase 1 are missing.*Resume from the checkpoint at the end .*phase\. \(.*\)$"
    with pytest.raises(RunError, match=said):
        trainer.train(resume_from_checkpoint=True)


def test_records_cut_what_is_later_than_the_checkpoint(tmp_path: Path) -> None:
    """Guards against events and phases counted twice after a resume, and against a line cut by a kill that breaks every
    reader."""
    records, facts = RunRecords(tmp_path, writes=True), {"seed": 1, "task": "image-classification", "num_labels": 3}
    records.begin(facts, step=0, phase=0)
    for step in (2, 4, 6):
        records.log(step, 0, {"loss": 1.0 * step})
    records.log(6, 0, {"train_runtime": 1.0, "train_loss": 3.0})
    for phase in (0, 1):
        records.open_phase(phase, label_ratio=None, steps=3)
        records.close_phase()
    with open(tmp_path / "telemetry.jsonl", "a") as file:
        file.write('{"step": 7, "pha')
    again = RunRecords(tmp_path, writes=True)
    again.begin(facts, step=4, phase=1)
    assert len(results(tmp_path)["phases"]) == 2, "a start that fails before it records anything leaves what was there"
    again.save()
    assert [line["step"] for line in telemetry(tmp_path)] == [2, 4]
    assert results(tmp_path)["seed"] == 1 and [entry["phase"] for entry in results(tmp_path)["phases"]] == [0]
    RunRecords(tmp_path / "other", writes=False).log(1, 0, {"loss": 1.0})
    assert not (tmp_path / "other").exists()


def test_a_second_run_in_one_folder_starts_new_records(tmp_path: Path) -> None:
    """Guards against the telemetry of two runs in one file."""
    make_trainer(tmp_path, max_steps=1).train()
    first = telemetry(tmp_path)
    make_trainer(tmp_path, max_steps=1, overwrite_output_dir=True).train()
    assert [line["step"] for line in telemetry(tmp_path)] == [line["step"] for line in first]


def test_what_an_interrupted_train_has_not_logged_is_not_logged_by_the_next(tmp_path: Path) -> None:
    """Guards against updates that count twice if a notebook interrupts `train()` and continues on the same trainer."""
    lines = []
    for name, at in (("whole", 99), ("stopped", 5)):
        kill = KillAt(at)
        settings = {"logging_steps": 100, "save_strategy": "steps", "save_steps": 4}
        trainer = make_trainer(tmp_path / name, callbacks=[kill], **settings)
        if at == 5:
            with pytest.raises(Kill):
                trainer.train()
            kill.step = 99
        trainer.train(resume_from_checkpoint=at == 5)
        lines.append([line["a/pseudo_units"] for line in telemetry(tmp_path / name) if "a/pseudo_units" in line])
    assert lines[0] == lines[1]


def test_train_twice_on_one_trainer(tmp_path: Path) -> None:
    """Guards against a second train() that trains nothing because the schedule of the first one is finished."""
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    before = state_of(trainer.model)
    with pytest.raises(ValueError, match="already contains a run"):
        trainer.train()
    trainer.args.overwrite_output_dir = True
    trainer.train()
    assert trainer.state.global_step == 3
    with pytest.raises(AssertionError):
        assert_same(state_of(trainer.model), before)
