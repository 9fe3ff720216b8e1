"""The phases in the Trainer's own loop: one Trainer epoch is one phase, with its own length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainerCallback, TrainerControl
from transformers.trainer_utils import SaveStrategy

from ..data.members import MEMBERS
from ..data.tasks import TASKS
from ..method import Phase, plan_phases
from .labeling.graph import GRAPH, check_size
from .settings.knobs import Knobs


def plan(
    knobs: Knobs, task: str, *, num_labeled: int, num_unlabeled: int, max_steps: int = -1, alternate: bool = False
) -> list[Phase]:
    """The run's phases. Without label ratios (`supervised`), phase 0 gets as many updates as a whole dmt run, and
    `online` uses the updates of all its phases in one, so that methods are compared at equal updates. `max_steps` caps
    every phase, including these; -1 is no limit, as in the stock arguments.

    With sequential exchange, odd phases train a and even ones b. `alternate` divides each phase that trains both models
    into two turns of its length, one for each model: entries that share their index.

    Raises:
        ValueError: more unlabeled images than `--labeler graph` can handle.
    """
    if knobs.labeler == GRAPH:
        check_size(num_unlabeled)
    counts: dict[str, Any] = {
        "num_labeled": num_labeled,
        "supervised_epochs": knobs.supervised_epochs,
        "phase_epochs": knobs.phase_epochs,
        "labeled_batch_size": knobs.labeled_batch_size,
        "pseudo_batch_size": knobs.pseudo_batch_size,
        "select_units": TASKS[task].units,
    }
    ratios = knobs.label_ratios or (Knobs().label_ratios if num_unlabeled else ())
    if knobs.exchange == "sequential":
        ratios = tuple(ratio for ratio in ratios for _ in range(2))
    phases = plan_phases(num_unlabeled=num_unlabeled, label_ratios=ratios, **counts)
    total = sum(phase.steps for phase in phases)
    if not knobs.label_ratios:
        phases = [Phase(0, None, total)]
    elif knobs.strategy == "online":
        first = [phase for phase in phases if phase.index == 0]
        phases = [*first, Phase(1, None, total - sum(phase.steps for phase in first))]
    if max_steps > 0:
        phases = [replace(phase, steps=min(phase.steps, max_steps)) for phase in phases]
    if knobs.exchange == "sequential":
        phases = [replace(phase, trains=MEMBERS[(phase.index - 1) % 2]) if phase.index else phase for phase in phases]
    if alternate:
        turns = [(phase, [phase.trains] if phase.trains else MEMBERS) for phase in phases]
        phases = [replace(phase, trains=name) for phase, names in turns for name in names]
    return phases


@dataclass
class Course:
    """The position of a run: the current entry of its plan, and the updates done in it.

    If the models take turns, a phase has two entries and ends with the second one.
    """

    phases: list[Phase]
    entry: int = 0
    done: int = 0

    def seek(self, global_step: int) -> None:
        self.entry, self.done = position(self.phases, global_step)

    def advance(self) -> None:
        self.entry, self.done = self.entry + 1, 0

    @property
    def current(self) -> Phase:
        """The current phase; the last one when all are done."""
        return self.phases[min(self.entry, len(self.phases) - 1)]

    @property
    def trained(self) -> tuple[str, ...]:
        """The models that are training."""
        return (name,) if (name := self.current.trains) else MEMBERS

    @property
    def waiting(self) -> str | None:
        """The model that is not training, if any."""
        return next((name for name in MEMBERS if name not in self.trained), None)

    @property
    def begun(self) -> bool:
        """Whether training in the current phase has started, so that the current weights are not the ones that made its
        labels."""
        earlier = self.phases[max(0, self.entry - 1) : self.entry]
        return self.entry < len(self.phases) and (
            self.done > 0 or any(phase.index == self.current.index for phase in earlier)
        )

    @property
    def turn_is_over(self) -> bool:
        return self.entry < len(self.phases) and self.done == self.current.steps

    @property
    def phase_is_over(self) -> bool:
        following = self.phases[self.entry + 1 : self.entry + 2]
        return self.turn_is_over and all(phase.index != self.current.index for phase in following)


def position(phases: Sequence[Phase], global_step: int) -> tuple[int, int]:
    """`(index into phases, updates done in it)` after `global_step` updates; past the end for a finished run."""
    for index, phase in enumerate(phases):
        if global_step < phase.steps:
            return index, global_step
        global_step -= phase.steps
    return len(phases), 0


class PhaseCallback(TrainerCallback):
    """Starts and ends phases; every phase ends with an evaluation and a checkpoint.

    Args:
        trainer: a `DMTTrainer`, whose class imports this file.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.course: Course = trainer.course

    def on_epoch_begin(self, *event: Any, **kwargs: Any) -> None:
        self.trainer.begin_phase()

    def on_pre_optimizer_step(self, *event: Any, **kwargs: Any) -> None:
        # The optimizer skips parameters without gradient: no decay, no momentum.
        if waiting := self.course.waiting:
            for parameter in self.trainer.model.member(waiting).parameters():
                parameter.grad = None

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.course.done += 1
        self.trainer.weights.updated(self.course.trained)
        if self.course.turn_is_over:
            # Evaluation and checkpoint happen once, in on_epoch_end, when the record is complete.
            control.should_evaluate = control.should_save = False
        # A checkpoint does not store the sums since the last log, so they must be logged before it.
        control.should_log |= control.should_save or control.should_evaluate

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if not self.course.turn_is_over:
            if not control.should_training_stop:
                raise ValueError(
                    "A callback has set should_epoch_stop, but an epoch is a phase here, and the next one cannot begin "
                    "in its middle. Set should_training_stop, or give shorter phases (`phase_epochs`)."
                )
            return
        # Not between two turns, where the other model has not trained in this phase yet.
        control.should_evaluate = self.course.phase_is_over
        control.should_save = args.save_strategy != SaveStrategy.NO
        control.should_log = True
