"""What a person sees in the terminal while a run goes on: one bar over all phases and one compact line per phase."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SHOWN = ("loss", "a/agree", "b/agree", "a/mean_weight", "b/mean_weight")


class PhaseProgress(ProgressCallback):
    """The stock bar, which counts updates over all phases, with the newest figures beside it instead of printed
    dicts."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(
                {"phase": logs.get("phase"), **{key: f"{logs[key]:.3g}" for key in _SHOWN[:3] if key in logs}}
            )


class PhaseLines(TrainerCallback):
    """For output that is not a terminal: a line per log event with the figures that matter."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_local_process_zero and logs and "loss" in logs:
            figures = "  ".join(f"{key} {logs[key]:.4g}" for key in _SHOWN if key in logs)
            print(f"phase {logs.get('phase')}  step {state.global_step}/{state.max_steps}  {figures}", flush=True)
