"""A run that is killed and resumed ends as if nothing had happened: weights, records, labels, exported pair.

The stock Trainer fails this silently for ViT and Swin: it loads raw checkpoint files without strictness, so most
weights stay as they were.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import (
    Kill,
    KillAt,
    assert_same,
    assert_same_nested,
    images,
    make_pair,
    make_trainer,
    results,
    scenes,
    state_of,
    telemetry,
    without_times,
)
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_dmt import DMTTrainer

PIXELS: dict[str, Any] = {"members": ("segformer", "segformer")}
RUNS: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2},
    "warm-up": {"warmup_steps": 2, "lr_scheduler_type": "cosine"},
    "ema": {"dropout": 0.2, "ema_decay": 0.9},
    "mixup": {"mixup_alpha": 0.5, "members": ("vit", "resnet")},
    "initial": {"restart": "initial", "members": ("vit", "resnet")},
    "online": {"strategy": "online", "dropout": 0.2, "label_ratios": [1.0]},
    "accumulation": {"gradient_accumulation_steps": 2, "dropout": 0.2, "gamma_schedule": "ramp"},
    "sequential": {"exchange": "sequential", "label_ratios": [1.0], "members": ("vit", "resnet"), "warmup_steps": 1},
    "rate-of-phase-0": {
        "supervised_learning_rate": 0.05,
        "learning_rate_b": 0.02,
        "dropout": 0.2,
        "label_ratios": [0.1],
    },
    "frozen": {"freeze_backbone": True, "ema_decay": 0.9, "dropout": 0.2, "members": ("vit", "resnet")},
    "best": {
        "phase_weights": "best",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "dropout": 0.2,
        "ema_decay": 0.5,
        "learning_rate": 5e-2,
    },
    "alternate": {
        "member_schedule": "alternate",
        "ema_decay": 0.9,
        "dropout": 0.2,
        "members": ("vit", "resnet"),
        "warmup_steps": 1,
    },
    "parts": {
        "train": "norms",
        "train_b": "last:1",
        "layer_decay": 0.5,
        "ema_decay": 0.9,
        "members": ("vit", "resnet"),
        "dropout": 0.2,
    },
    "parts-in-turn": {
        "member_schedule": "alternate",
        "train": "last:1",
        "train_b": "norms",
        "layer_decay": 0.5,
        "ema_decay": 0.9,
        "members": ("vit", "resnet"),
        "warmup_steps": 1,
    },
    "timm": {"members": ("timm:test_vit", "timm:test_resnet"), "freeze_batch_norm": True},
    "strong": {"augmentation": "strong", "dropout": 0.2},
    "pixels": {**PIXELS, "dropout": 0.2, "augmentation": None},
    "pixels-ema": {**PIXELS, "ema_decay": 0.9},
    "workers": {"dataloader_num_workers": 2, "dropout": 0.2, "label_ratios": [1.0]},
}
# The usual tests resume two at once where one does not hide the other. The slow tests say which of them is at fault.
AT_ONCE = (("mixup", "accumulation"), ("online", "workers"))
RUNS |= {"+".join(pair): {**RUNS[pair[0]], **RUNS[pair[1]]} for pair in AT_ONCE}


def run(
    folder: Path, settings: dict[str, Any], resume: Any = None, callbacks: Sequence[TrainerCallback] = ()
) -> DMTTrainer:
    """Train as a new process would: a new pair, a new trainer, another random state; then export."""
    settings = dict(settings)
    members, dropout = settings.pop("members", ("vit", "swin")), settings.pop("dropout", 0.0)
    evaluation = (scenes if members[0] == "segformer" else images)(6, seed=3)
    pair = make_pair(*members, dropout=dropout)
    torch.rand(7 if resume is None else 70)
    trainer = make_trainer(
        folder,
        pair,
        evaluation=evaluation,
        test=evaluation,
        callbacks=list(callbacks),
        # Logs at other steps than checkpoints: the sums between two logs must survive too.
        **{"save_strategy": "steps", "save_steps": 2, "logging_steps": 5, **settings},
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.export()
    return trainer


class CopyAfterUpdates(TrainerCallback):
    """Copies the output folder right after every update, before anything is logged or saved at it."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir))
        shutil.copytree(folder, folder.with_name(f"after-{state.global_step}"))


class Runs:
    """Each of RUNS is run once, to its end. A killed run is a copy of what was on the disk at that moment."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def finished(self, name: str) -> Path:
        """The folder of a run that was left alone."""
        home = self.root / name
        if not home.exists():
            run(home / "run", RUNS[name], callbacks=[CopyAfterUpdates()])
            (home / "run").rename(home / "finished")
        return home / "finished"

    def killed(self, name: str, step: int) -> Path:
        """The folder that a run leaves if its process is killed right after an update, at the path it had then."""
        folder = self.finished(name).with_name("run")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folder.with_name(f"after-{step}"), folder)
        return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def assert_same_run(found: Path, expected: Path) -> None:
    for member in (".", "peer"):
        weights = [load_file(folder / member / "model.safetensors") for folder in (found, expected)]
        assert_same(*weights)
    for name in ("dmt_config.json", "config.json", "peer/config.json"):
        assert json.loads((found / name).read_text()) == json.loads((expected / name).read_text()), name
    assert without_times(results(found)) == without_times(results(expected))
    assert without_times(telemetry(found)) == without_times(telemetry(expected))
    last = max(int(path.name.split("-")[1]) for path in expected.glob("checkpoint-*"))
    for kind in ("optimizer.pt", "scheduler.pt"):
        states = [torch.load(folder / f"checkpoint-{last}" / kind, weights_only=True) for folder in (found, expected)]
        assert_same_nested(*states)


# Phases end at steps 3, 5 and 8; checkpoints are at 2, 3, 4, 5, 6 and 8.
# Other runs below are killed at the steps marked slow: "rate-of-phase-0" at 3, the others at 7.
@pytest.mark.parametrize("kill_at", [1, 4, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5, 6, 7))])
def test_killed_at_any_step(runs: Runs, kill_at: int) -> None:
    """Guards against weights that stay unloaded, dropout that draws differently, a phase begun twice, and records
    counted twice.

    Killed before any checkpoint, in phase 0 after one, right after a phase's end, in the middle of later phases, and at
    the last step before its checkpoint.
    """
    folder = runs.killed("dropout", kill_at)
    run(folder, RUNS["dropout"], resume=True)
    assert_same_run(folder, runs.finished("dropout"))


# Other runs cover their parts: "pixels-ema", "parts-in-turn", weak views (drawn in the same way), the warm-up of
# "sequential", the averages of "frozen", and the four kills of "alternate" below.
ELSEWHERE = ("pixels", "parts", "strong", "warm-up", "ema", "alternate", *(name for pair in AT_ONCE for name in pair))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ELSEWHERE else []) for name in RUNS if name != "dropout"],
)
def test_every_kind_of_run_resumes_exactly(runs: Runs, name: str) -> None:
    """Guards against faults in the middle of a phase: averages restarted, mixup drawn again, a warm-up's rate of 0 for
    one update, backbones restored twice, a ramp that starts again, and labels made by weights from the middle of the
    phase."""
    # Between two checkpoints of a phase, the first of which is in its middle. Phases: 3, 2, 3; two of 3.
    folder = runs.killed(name, {"online": 6, "workers": 6, "online+workers": 6, "rate-of-phase-0": 3}.get(name, 7))
    run(folder, RUNS[name], resume="True")
    assert_same_run(folder, runs.finished(name))


# Turns end at steps 3, 6, 8, 10, 13 and 16, phases at every second of these.
@pytest.mark.parametrize("kill_at", [5, 9, 10, 12])
def test_killed_in_either_turn(runs: Runs, kill_at: int) -> None:
    """Guards against a second turn that begins on labels of the first turn's weights, and against repeating the first
    turn.

    Killed in the second turn of phase 0, right after the end of a first turn and of a second one, and in a first one.
    """
    folder = runs.killed("alternate", kill_at)
    run(folder, RUNS["alternate"], resume=True)
    assert_same_run(folder, runs.finished("alternate"))


@pytest.mark.parametrize("name", ["ema", "initial", "pixels", "best"])
def test_resume_where_a_phase_ended(runs: Runs, name: str) -> None:
    """Guards against labels of the next phase made by other weights (live instead of averaged, restored instead of
    trained)."""
    ends = 6 if name == "pixels" else 5
    folder = runs.killed(name, ends + 1)
    run(folder, RUNS[name], resume=str(folder / f"checkpoint-{ends}"))
    assert_same_run(folder, runs.finished(name))


@pytest.mark.parametrize(("name", "phase", "begins"), [("dropout", 1, 3), ("pixels", 2, 6)])
def test_killed_between_the_labels_and_their_gallery(runs: Runs, name: str, phase: int, begins: int) -> None:
    """Guards against a report without images of a phase: the resumed run finds complete labels and makes none, but
    their gallery is missing."""
    folder = runs.killed(name, begins + 1)
    shown, expected = (where / f"gallery/phase-{phase}/gallery.json" for where in (folder, runs.finished(name)))
    shown.unlink()
    run(folder, RUNS[name], resume=str(folder / f"checkpoint-{begins}"))
    assert shown.read_bytes() == expected.read_bytes()
    assert_same_run(folder, runs.finished(name))


def test_finished_run_resumed_exports_the_same_root(tmp_path: Path) -> None:
    """Guards against exporting a to the root after a kill in the final export, because the resumed run does not
    evaluate again."""
    settings = {"members": ("vit", "resnet"), "learning_rate": 1e-5, "learning_rate_b": 2e-2, "supervised_epochs": 8}
    first = run(tmp_path, settings)
    before = json.loads((tmp_path / "dmt_config.json").read_text())
    assert before["primary"] == "b" and before["phase"] == 2, "this test needs a run that b wins"
    recorded, logged = results(tmp_path), telemetry(tmp_path)
    second = run(tmp_path, settings, resume=True)
    assert json.loads((tmp_path / "dmt_config.json").read_text()) == before
    assert (results(tmp_path), telemetry(tmp_path)) == (recorded, logged)
    assert_same(state_of(second.model), state_of(first.model))


def test_killed_twice(runs: Runs) -> None:
    """Guards against a resumed run that cannot be resumed again (order of the optimizer state, phase, averages)."""
    folder = runs.killed("ema", 4)
    with pytest.raises(Kill):
        run(folder, RUNS["ema"], resume=True, callbacks=[KillAt(7)])
    run(folder, RUNS["ema"], resume=True)
    assert_same_run(folder, runs.finished("ema"))


def test_stock_loading_would_fail_this(tmp_path: Path) -> None:
    """Our own loading is still needed: if this test fails, the stock Trainer was fixed and ours can be removed."""
    trainer = run(tmp_path, {})
    saved = state_of(trainer.model)
    other = make_trainer(tmp_path / "other", make_pair(seed=5))
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        Trainer._load_from_checkpoint(other, str(max(tmp_path.glob("checkpoint-*"), key=lambda path: path.name)))
    with pytest.raises(AssertionError):
        assert_same(state_of(other.model), saved)


def test_best_pair_is_loaded_whole(tmp_path: Path) -> None:
    """Guards against a mixture of the best and the last weights, which the stock load_best_model_at_end returns for ViT
    and Swin."""
    evaluation = images(9, seed=3)
    trainer = make_trainer(
        tmp_path,
        evaluation=evaluation,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        learning_rate=2e-3,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the worst is the best: certainly not the last one
    )
    trainer.train()
    best = Path(str(trainer.state.best_model_checkpoint))
    assert best.name == "checkpoint-3" or best.name == "checkpoint-5", "this test needs a best that is not the last"
    found = {
        f"model_{name}.{key}": value for name in "ab" for key, value in state_of(trainer.model.member(name)).items()
    }
    expected = make_pair(seed=9)
    expected.load_weights(best)
    assert_same(found, {key: value for key, value in state_of(expected).items() if key in found})
    losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[int(best.name.split("-")[1])], abs=1e-6)
