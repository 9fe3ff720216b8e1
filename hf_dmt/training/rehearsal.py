"""Try a few updates of a run and estimate what the whole run will take."""

from __future__ import annotations

import copy
import logging
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..data.splitting.assemble import RunImages
from ..method import Phase
from ..models.pair import ModelPair
from . import phases
from .run.progress import PhaseLines
from .run.protocol import peak_memory
from .settings.arguments import DMTTrainingArguments
from .trainer import DMTTrainer

_UPDATES = (2, 8)  # to try in phase 0 and in a phase with pseudo labels: eight, unless two of each take long
_LONG_S = 20.0


def rehearse(pair: ModelPair, args: DMTTrainingArguments, images: RunImages) -> dict[str, Any]:
    """Train `pair` for a few updates and label a few images, in a temporary folder.

    Returns:
        The estimate of `hf-dmt check --json`: updates and seconds per phase, total seconds, memory in bytes.

    Raises:
        ValueError, RunError: as the run itself would raise, most likely for memory.
    """
    folder = tempfile.TemporaryDirectory() if args.should_save else None
    name = broadcast_object_list([folder.name if folder else None])[0]
    try:
        for updates in _UPDATES:
            start = time.monotonic()
            found = _tried(pair, args, images, f"{name}/{updates}", updates)
            took = broadcast_object_list([time.monotonic() - start])[0]
            if took > _LONG_S:
                break
        return found
    finally:
        if folder:
            folder.cleanup()


def _tried(pair: ModelPair, args: DMTTrainingArguments, images: RunImages, folder: str, updates: int) -> dict[str, Any]:
    """The estimate from a number of updates in each kind of phase."""
    knobs = args.knobs(pair.task)
    few = 2 * args.per_device_eval_batch_size * args.world_size
    trial = copy.copy(args)
    trial.output_dir, trial.max_steps = folder, updates
    trial.official, trial.phase_weights = False, "last"
    trial.label_ratios = [1.0] if knobs.label_ratios else args.label_ratios
    trial.save_strategy, trial.eval_strategy = SaveStrategy.NO, IntervalStrategy.NO
    trial.load_best_model_at_end = trial.push_to_hub = False
    trial.report_to, trial.disable_tqdm = [], True
    trial.metric_is_default, trial.metric_for_best_model, trial.greater_is_better = True, None, None
    unlabeled = images.unlabeled.subset(np.arange(min(few, len(images.unlabeled)))) if images.unlabeled else None
    trainer = DMTTrainer(model=pair, args=trial, train_dataset=images.labeled, unlabeled_dataset=unlabeled)
    trainer.remove_callback(PhaseLines)
    watch = _Stopwatch(trainer)
    trainer.add_callback(watch)
    plan = phases.plan(
        knobs,
        pair.task,
        num_labeled=len(trainer.supervised_rows["a"]),
        num_unlabeled=len(images.unlabeled or ()),
        max_steps=args.max_steps,
        alternate=args.member_schedule == "alternate",
    )
    quiet = logging.getLogger("hf_dmt")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # models look collapsed after a few updates
    try:
        trainer.train()
        shown = images.labeled.subset(np.arange(min(few, len(images.labeled))))
        start = time.monotonic()
        trainer.scores(shown, title="evaluating")
        image = (time.monotonic() - start) / len(shown)
    finally:
        quiet.setLevel(level)
    label_ratios = {phase.index: phase.label_ratio for phase in plan}
    labelings = sum(ratio is not None for ratio in label_ratios.values())
    passes = labelings * len(images.unlabeled or ()) + len(label_ratios) * len(images.evaluation or ())
    passes += min(2, len(label_ratios)) * len(images.test or ())
    update = [watch.seconds(phase) for phase in plan]
    training = sum(seconds * phase.steps for seconds, phase in zip(update, plan, strict=True))
    available = torch.cuda.get_device_properties(args.device).total_memory if args.device.type == "cuda" else None
    return {
        "device": args.device.type,
        "tried": updates,
        "updates": [phase.steps for phase in plan],
        "seconds_per_update": [round(seconds, 4) for seconds in update],
        "clean_images": passes,
        "seconds_per_clean_image": round(image, 5),
        "total_seconds": round(training + image * passes, 1),
        "memory_bytes": peak_memory(args.device),
        "memory_available_bytes": available,
    }


class _Stopwatch(TrainerCallback):
    """Records when each update of each phase, or of a model's turn in it, ended. The first mark is the start, after
    labeling."""

    def __init__(self, trainer: DMTTrainer) -> None:
        self.trainer = trainer
        self.marks: dict[tuple[bool, str | None], list[float]] = {}

    def on_epoch_begin(self, *event: Any, **kwargs: Any) -> None:
        self.marks[self._kind(self.trainer.course.current)] = [self._now()]

    def on_step_end(self, *event: Any, **kwargs: Any) -> None:
        self.marks[self._kind(self.trainer.course.current)].append(self._now())

    @staticmethod
    def _kind(phase: Phase) -> tuple[bool, str | None]:
        return phase.index > 0, phase.trains

    def _now(self) -> float:
        if self.trainer.args.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.args.device)
        return time.monotonic()

    def seconds(self, phase: Phase) -> float:
        """Seconds of a typical update in such a phase, including data loading; the first quarter is warmup."""
        marks = self.marks[self._kind(phase)]
        took = [later - earlier for earlier, later in pairwise(marks)]
        return statistics.median(took[len(took) // 4 :])
