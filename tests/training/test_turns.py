"""`member_schedule alternate`: in each phase first a is trained, then b, with the memory of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    IMAGES,
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

from hf_dmt import DMTTrainer
from hf_dmt.method import Phase
from hf_dmt.models.weights.ema import ExponentialAverage
from hf_dmt.training.inputs import checks
from hf_dmt.training.phases import Course, plan
from hf_dmt.training.run.runtime_errors import RunError
from hf_dmt.training.settings.methods import resolve

PIXELS: dict[str, Any] = {"members": ("segformer", "segformer"), "augmentation": None}
RUNS: dict[str, dict[str, Any]] = {
    "batch statistics, averages": {"members": ("vit", "resnet"), "ema_decay": 0.9, "weight_decay": 0.1},
    "mixup, accumulation": {"mixup_alpha": 0.5, "gradient_accumulation_steps": 2, "gamma_schedule": "ramp"},
    "initial weights, other rates": {"restart": "initial", "learning_rate_b": 4e-2, "supervised_learning_rate": 0.05},
    "sequential exchange": {"exchange": "sequential", "members": ("vit", "resnet")},
    "different labels": {"difference_maximized_sampling": "true", "labeler": "self", "warmup_steps": 1},
    "best looks": {"phase_weights": "best", "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 5e-2},
    "pixels": {**PIXELS, "ema_decay": 0.9, "label_ratios": [0.5]},
}
# The usual tests run two at once where one does not hide the other. The slow tests say which of them is at fault.
AT_ONCE = (
    ("batch statistics, averages", "best looks"),
    ("mixup, accumulation", "initial weights, other rates"),
)
TOGETHER = [
    *[pytest.param(name, marks=pytest.mark.slow) if any(name in pair for pair in AT_ONCE) else name for name in RUNS],
    *[" + ".join(pair) for pair in AT_ONCE],
]
RUNS |= {" + ".join(pair): {**RUNS[pair[0]], **RUNS[pair[1]]} for pair in AT_ONCE}


def run(folder: Path, schedule: str, **settings: Any) -> DMTTrainer:
    members = settings.pop("members", ("vit", "swin"))
    evaluation = (scenes if members[0] == "segformer" else images)(6, seed=3)
    trainer = make_trainer(
        folder,
        make_pair(*members),
        evaluation=evaluation,
        test=evaluation,
        **{"member_schedule": schedule, "save_strategy": "epoch", **settings},
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", TOGETHER)
def test_turns_end_where_training_together_ends(tmp_path: Path, name: str) -> None:
    """Guards against a memory-saving mode that trains something else: labels of half-trained models, averages or
    initial weights that return in the second turn, other images, or a schedule over both turns."""
    together, alternate = (run(tmp_path / schedule, schedule, **RUNS[name]) for schedule in ("together", "alternate"))
    assert_same(state_of(alternate.model), state_of(together.model))
    if together.weights.ema is not None:
        assert alternate.weights.ema is not None
        assert_same(alternate.weights.ema.state, together.weights.ema.state)
    expected, found = (
        [{**entry, "steps": 0} for entry in without_times(results(tmp_path / schedule)["phases"])]
        for schedule in ("together", "alternate")
    )
    assert found == expected
    turns = 1.0 if name == "sequential exchange" else 2.0
    spent = [results(tmp_path / schedule)["phases"][-1]["steps"] for schedule in ("together", "alternate")]
    assert spent[1] == turns * spent[0]


def test_one_member_trains_while_the_other_one_waits(tmp_path: Path) -> None:
    """Guards against a turn that also trains the other model, keeps its Adam moments, or leaves it offloaded when both
    are to label and to be scored.

    A CPU has no second device, so the test reads which model the trainer reports as offloaded.
    """
    trained: list[str] = []
    away: dict[str, set[str | None]] = {"trained": set(), "judged": set()}

    class Listen(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            def ran(name: str, module: torch.nn.Module) -> None:
                if module.training:
                    trained.append(name)
                    assert trainer.weights.away == ("b" if name == "a" else "a")
                away["trained" if module.training else "judged"].add(trainer.weights.away)

            for name in ("a", "b"):
                model.member(name).register_forward_pre_hook(lambda module, _, name=name: ran(name, module))

        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            held = {id(parameter) for parameter in optimizer.state}
            assert held == {id(parameter) for parameter in trainer.model.member(trained[-1]).parameters()}

    trainer = make_trainer(
        tmp_path,
        evaluation=images(6, seed=3),
        member_schedule="alternate",
        callbacks=[Listen()],
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    assert "".join(trained) == "aaabbb" + "aabb" + "aaabbb"
    assert away == {"trained": {"a", "b"}, "judged": {None}} and trainer.weights.away is None
    scored = [line["step"] for line in telemetry(tmp_path) if "eval_accuracy" in line]
    assert scored == [2, 4, 6, 10, 12, 14, 16], "every second update, and of the ends those of phases, not of turns"
    lines = [line for line in telemetry(tmp_path) if "loss" in line]
    assert [line["phase"] for line in lines] == [0] * 6 + [1] * 4 + [2] * 6
    assert all(("a/loss" in line) != ("b/loss" in line) for line in lines)


def test_the_waiting_member_is_moved_with_its_averages(tmp_path: Path) -> None:
    """Guards against a mode that changes the order of training and saves no memory. Tensors on the device `meta` hold
    no data, but show where they would be."""
    trainer = make_trainer(tmp_path, member_schedule="alternate")
    trainer.weights.ema = ExponentialAverage(trainer.model, 0.9)
    trainer.weights.device = torch.device("meta")

    def places(name: str) -> set[str]:
        kept = [value for key, value in trainer.weights.ema.state.items() if key.startswith(f"model_{name}.")]
        return {value.device.type for value in (*trainer.model.member(name).state_dict().values(), *kept)}

    trainer.weights.offload("a")
    assert (places("a"), places("b")) == ({"cpu"}, {"meta"})
    trainer.weights.offload(None)
    assert (places("a"), places("b")) == ({"meta"}, {"meta"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="moves between two devices need a GPU")
@pytest.mark.parametrize("name", ["batch statistics, averages", "mixup, accumulation"])
def test_turns_on_a_gpu(tmp_path: Path, name: str) -> None:
    """Guards against an optimizer that no longer updates a model after the model was moved to the CPU and back."""
    together, alternate = (
        run(tmp_path / schedule, schedule, use_cpu=False, **RUNS[name]) for schedule in ("together", "alternate")
    )
    assert_same(state_of(alternate.model), state_of(together.model), 1e-5)


def test_a_run_is_resumed_with_the_schedule_it_began_with(tmp_path: Path) -> None:
    """Guards against a resume with the other schedule, which counts other updates: a phase would be trained twice or
    left out."""
    run(tmp_path, "together")
    before = (tmp_path / "dmt_results.json").read_bytes()
    trainer = make_trainer(tmp_path, evaluation=images(6, seed=3), member_schedule="alternate", save_strategy="epoch")
    with pytest.raises(ValueError, match='member_schedule: was "together", now "alternate"'):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert (tmp_path / "dmt_results.json").read_bytes() == before


def test_an_interrupted_turn_leaves_the_pair_in_one_place(tmp_path: Path) -> None:
    """Guards against half of the pair staying on the CPU after Ctrl-C in a notebook, so that the next call fails."""
    trainer = make_trainer(tmp_path, member_schedule="alternate", callbacks=[KillAt(4)])
    with pytest.raises(Kill):
        trainer.train()
    assert trainer.weights.away is None


def test_failed_updates_at_the_end_of_a_turn_are_listed(tmp_path: Path) -> None:
    """Guards against listing the images of the next turn, or none, in the file that the error message refers to."""
    pair = make_pair()
    with torch.no_grad():
        next(pair.model_a.parameters()).fill_(float("nan"))
    trainer = make_trainer(tmp_path, pair, member_schedule="alternate", logging_steps=100, max_skipped_updates=2)
    with pytest.raises(RunError, match="had non-finite gradients"):
        trainer.train()
    listed = json.loads((tmp_path / "skipped_batches.json").read_text())
    assert [(sorted(entry), len(entry["a"])) for entry in listed] == [(["a", "update"], 8)] * 2


def test_the_plan_of_turns() -> None:
    """Guards against a phase that trains only one model, or in which b already learns from a's new labels."""
    sizes = {"labeled_batch_size": 8, "pseudo_batch_size": 24, "supervised_epochs": 10, "phase_epochs": 3}
    counts = {"num_labeled": 20, "num_unlabeled": 100}

    def turns(**knobs: Any) -> list[tuple[int, int, str | None]]:
        settings = resolve("dmt", IMAGES, {**sizes, "label_ratios": (0.5,), **knobs})
        return [(phase.index, phase.steps, phase.trains) for phase in plan(settings, IMAGES, **counts, alternate=True)]

    assert turns() == [(0, 7, "a"), (0, 7, "b"), (1, 7, "a"), (1, 7, "b")]
    assert turns(exchange="sequential") == [(0, 7, "a"), (0, 7, "b"), (1, 7, "a"), (2, 7, "b")]


def test_where_a_run_stands() -> None:
    """Guards against a phase that ends after its first turn, or a checkpoint between two turns that counts as its end:
    the weights of half a phase would label."""
    course = Course([Phase(0, None, 2, "a"), Phase(0, None, 2, "b"), Phase(1, 0.5, 1)])
    seen = []
    for step in range(6):
        course.seek(step)
        seen.append((course.current.index, course.trained, course.begun))
    both = ("a", "b")
    assert seen == [
        (0, ("a",), False), (0, ("a",), True), (0, ("b",), True), (0, ("b",), True), (1, both, False), (1, both, False),
    ]  # fmt: skip
    course.entry, course.done = 0, 2
    assert course.turn_is_over and not course.phase_is_over
    course.entry = 1
    assert course.phase_is_over


def test_what_turns_cannot_do(tmp_path: Path) -> None:
    """Guards against labels of an offloaded model, a pair that DDP still holds whole, and a misspelled value."""
    with pytest.raises(ValueError, match="strategy online needs both at every update"):
        make_trainer(tmp_path, member_schedule="alternate", strategy="online", label_ratios=[1.0])
    with pytest.raises(ValueError, match="'in turn' does not exist; choose one of: together, alternate"):
        make_trainer(tmp_path, member_schedule="in turn")
    with pytest.raises(ValueError, match=r"needs a single process, but 2 are running.*shard the pair with FSDP"):
        checks.check_alternate(resolve("dmt", IMAGES, {}), world_size=2)


def test_a_member_left_out_of_a_forward_is_not_run() -> None:
    """Guards against logits of images that were not given."""
    pair, views = make_pair(), torch.rand(2, 3, 8, 8)
    assert pair(b=views).keys() == {"b"}
    assert torch.equal(pair(b=views)["b"], pair(a=views, b=views)["b"])
