"""Progress display: one bar over all phases, or in log files one line per log event."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState, trainer

from ...data.members import MEMBERS, SCORED
from ...data.tasks import TASKS


class PhaseProgress(ProgressCallback):
    """The stock progress bar over the updates of all phases, with the latest metrics beside it instead of printed
    dicts.

    The time left is based on the average update so far, including labeling and evaluation. The stock bar uses the last
    few updates, so its estimate triples for a while after each labeling.
    """

    def __init__(self, last_phase: int) -> None:
        super().__init__()
        self.last_phase = last_phase

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,  # updates before a resume do not count for the speed
                smoothing=0,
                dynamic_ncols=True,
                desc="training",
                bar_format="{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]",
            )

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_description_str(_phase(logs, self.last_phase), refresh=False)
            self.training_bar.set_postfix_str(", ".join(_figures(logs, short=True)))

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        if self.training_bar is not None and (line := _scores(metrics)):
            self.training_bar.write(f"step {state.global_step}  {line}")


class PhaseLines(TrainerCallback):
    """For output that is not a terminal: one line per log event and evaluation with the main figures."""

    def __init__(self, last_phase: int) -> None:
        self.last_phase = last_phase
        self._begun, self._first_step = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._begun, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            done = state.global_step - self._first_step
            left = (time.monotonic() - self._begun) / max(1, done) * (state.max_steps - state.global_step)
            print(
                f"{_phase(logs, self.last_phase)}  step {state.global_step}/{state.max_steps}",
                f"{tqdm.format_interval(left)} left",
                *_figures(logs),
                sep="  ",
                flush=True,
            )

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and (line := _scores(metrics)):
            print(f"step {state.global_step}  {line}", flush=True)


def without_stock_display(callbacks: list[TrainerCallback]) -> list[TrainerCallback]:
    """The callbacks without the one that the stock Trainer displays its progress with; in notebooks it is a table."""
    return [one for one in callbacks if type(one) not in (trainer.DEFAULT_PROGRESS_CALLBACK, PrinterCallback)]


def _phase(logs: dict[str, Any], last: int) -> str:
    return f"phase {logs['phase']}/{last}"


def _figures(logs: dict[str, Any], *, short: bool = False) -> list[str]:
    """The loss and, for each model, the share of pseudo labels it agrees with and their mean weight."""
    found = [f"loss {logs['loss']:.3g}"]
    for key, title in (("agree", "agree"), ("mean_weight", "weight"))[: 1 if short else 2]:
        values = {name: logs[f"{name}/{key}"] for name in MEMBERS if f"{name}/{key}" in logs}
        if values:
            found.append(title + "".join(f" {name} {100 * value:.0f}%" for name, value in values.items()))
    return found


def _scores(metrics: dict[str, Any] | None) -> str:
    """`eval accuracy  a 83.0  b 81.0  ensemble 85.0`; empty if there are no scores of a or b."""
    for key in [task.metric for task in TASKS.values()]:
        for prefix in ("eval", "test"):
            values = {name: (metrics or {}).get(f"{prefix}_{name}_{key}") for name in SCORED}
            known = {name: value for name, value in values.items() if value is not None}
            if known:
                return f"{prefix} {key}, %:" + "".join(f"  {name} {100 * v:.1f}" for name, v in known.items())
    return ""
