"""The dry run behind `hf-dmt check`: find out before training what a run would run into."""

from __future__ import annotations

import copy
import json
import logging
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..data.arguments import DataArguments
from ..data.members import MEMBERS
from ..data.reading.rows import DataError
from ..data.splitting.assemble import RunImages, assemble
from ..data.splitting.classes import ModelClasses
from ..data.splitting.copies import can_compare, overlaps, signatures
from ..data.splitting.scan import UNREADABLE
from ..method import Phase
from ..models.pair import ModelPair
from ..models.timm_members import architecture
from ..training import phases
from ..training.run.folder import check_output_folder
from ..training.run.progress import PhaseLines
from ..training.run.protocol import peak_memory
from ..training.run.runtime_errors import RunError, too_large_for_this_machine
from ..training.settings.arguments import DMTTrainingArguments
from ..training.settings.command_line import ModelArguments, as_flags
from ..training.settings.late_settings import check_late_settings
from ..training.trainer import DMTTrainer
from .opening import build_pair, look_up_models

_UPDATES = (2, 8)  # to try in phase 0 and in a phase with pseudo labels: eight, unless two of each take long
_LONG_S = 20.0
_SHOWN = 5
_CLASSES_SHOWN = 12


@dataclass
class Preflight:
    """The findings. Problems would stop a run, warnings would not.

    Attributes:
        images: for each role (labeled, unlabeled, eval, test) count, modes, and sizes as [width, height].
        classes: for each class `name`, the number of `labeled_images` that show it and, for masks, `value` in the
            files.
        copies: images that are in two roles; None if they were not searched for.
        models: for each model, architecture, parameters, and whether its head is new.
        estimate: time in seconds and memory in bytes; None if no update could be tried.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    copies: list[dict[str, Any]] | None = None
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    estimate: dict[str, Any] | None = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Record an error inside the block as a problem and continue the check after it."""
        try:
            yield
        except (ValueError, OSError, RunError) as problem:
            self.problems.append(str(problem))

    @property
    def verdict(self) -> str:
        if self.problems:
            return "not ready"
        return "ready, with warnings" if self.warnings else "ready"

    def as_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}

    # ---- looking ---------------------------------------------------------------------------------------------------

    def open_images(
        self, args: DataArguments, task: str, *, token: str | None, model_classes: ModelClasses | None
    ) -> RunImages | None:
        """Open the image sets as the run would. If some images cannot be read, the others are checked anyway."""
        try:
            return assemble(args, task, token=token, model_classes=model_classes)
        except DataError as problem:
            self.problems.append(str(problem))
        try:
            lenient = replace(args, skip_corrupt_images=True)
            images = assemble(lenient, task, token=token, model_classes=model_classes)
        except DataError:
            return None
        # The problem above lists the unreadable images already.
        return replace(images, notes=[note for note in images.notes if UNREADABLE not in note])

    def look_at_images(self, images: RunImages, args: DataArguments) -> None:
        """Count images and classes by mode and size, and find copies, for which every image is decoded."""
        masks = images.labeled.task == "semantic-segmentation"
        self.classes = [
            {"name": name, "labeled_images": count, **({"value": index + args.reduce_labels} if masks else {})}
            for index, (name, count) in enumerate(zip(images.class_names, images.images_per_class, strict=True))
        ]
        for note in images.notes:
            warned = note.removeprefix("Warning: ")
            (self.notes if warned == note else self.warnings).append(warned)
        for role, sizes in images.sizes.items():
            pixels = sizes.prod(axis=1)
            self.images[role] = {
                "count": len(sizes),
                "modes": images.modes[role],
                "smallest": sizes[pixels.argmin()].tolist(),
                "median": np.median(sizes, axis=0).astype(int).tolist(),
                "largest": sizes[pixels.argmax()].tolist(),
            }
        if not can_compare():
            self.notes.append(
                "Copies between the sets were not searched for: pip install 'hf-dmt[check]' enables that."
            )
            return
        self.copies = []
        sets = {"labeled": images.labeled, "unlabeled": images.unlabeled, "eval": images.evaluation}
        compared = {role: signatures(found, role) for role, found in {**sets, "test": images.test}.items() if found}
        for roles, pairs in overlaps(compared).items():
            self.copies.append({"roles": list(roles), "count": len(pairs), "examples": pairs[:_SHOWN]})
            if scored := {"eval", "test"} & set(roles):
                count = f"{len(pairs)} images are" if len(pairs) > 1 else "1 image is"
                self.warnings.append(
                    f"{count} in {' and '.join(roles)} at once, so scores on {scored.pop()} will be too high. Remove "
                    "them from one of the two."
                )

    def look_at_models(self, pair: ModelPair, images: RunImages) -> None:
        for name in MEMBERS:
            model, fresh = pair.member(name), pair.fresh[name]
            self.models[name] = {
                "architecture": architecture(model.config),
                "parameters": model.num_parameters(),
                "new": "all weights" if len(fresh) >= len(model.state_dict()) else "head" if fresh else None,
            }
        self.warnings += [note.removeprefix("Warning: ") for note in images.view_notes(pair.image_size)]

    def rehearse(self, pair: ModelPair, args: DMTTrainingArguments, images: RunImages) -> None:
        """Try a few updates and label a few images in a temporary folder, and estimate what the run will take.

        Raises:
            ValueError, RunError: as the run itself would raise, most likely for memory.
        """
        if warning := too_large_for_this_machine(pair, args, args.knobs(pair.task)):
            self.warnings.append(warning)
            return
        if args.should_save and sys.stderr.isatty():
            print("trying a few updates, to estimate time and memory ...", file=sys.stderr)
        folder = [tempfile.TemporaryDirectory() if args.should_save else None]
        name = broadcast_object_list([folder[0].name if folder[0] else None])[0]
        try:
            self.estimate = _rehearse(pair, args, images, name)
        finally:
            if folder[0]:
                folder[0].cleanup()

    # ---- telling ---------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The findings for a terminal, 100 columns wide."""
        lines = []
        if self.images:
            lines.append("images")
            for role, seen in self.images.items():
                smallest, median, largest = ("x".join(map(str, seen[key])) for key in ("smallest", "median", "largest"))
                sizes = smallest if smallest == largest else f"{smallest} to {largest}, median {median}"
                modes = ", ".join(
                    f"{mode} {count}" if len(seen["modes"]) > 1 else mode for mode, count in seen["modes"].items()
                )
                lines.append(f"  {role:10}{seen['count']:>8}  {sizes}; {modes}")
        if self.classes:
            lines.append(f"classes, with the number of labeled images for each\n{_indented(class_line(self.classes))}")
        if self.copies is not None:
            lines += ["copies between sets", *(_indented(self._copy_line(copies)) for copies in self.copies)]
            lines += ["  none"] if not self.copies else []
        if self.models:
            lines.append("models")
            for name, model in self.models.items():
                new = f"{model['new']} newly initialized" if model["new"] else "head kept: it has these classes"
                lines.append(f"  {name}  {model['architecture']}, {model['parameters'] / 1e6:.1f} M parameters, {new}")
        if self.estimate:
            lines += ["estimate", *(f"  {line}" for line in _estimate_lines(self.estimate))]
        for title in ("notes", "warnings", "problems"):
            found = getattr(self, title)
            lines += [title, *(_indented(text, "- ") for text in found)] if found else []
        if self.problems:
            count = f"{len(self.problems)} problems" if len(self.problems) > 1 else "problem"
            last = f"Not ready: fix the {count} and check again."
        else:
            warned = len(self.warnings)
            last = f"Ready{f', with {warned} warning' + 's' * (warned > 1) if warned else ''}."
        return "\n".join([*lines, last])

    def _copy_line(self, copies: dict[str, Any]) -> str:
        first, second = copies["roles"]
        return f"{first} and {second}: {copies['count']}, such as {_listed(copies['examples'])}"


def class_line(classes: list[dict[str, Any]]) -> str:
    """`cat: 10, dog: 10`, with mask values if there are any; for many classes, the range and the rarest."""

    def called(entry: dict[str, Any]) -> str:
        value = entry.get("value")
        name = entry["name"] if value is None or str(value) == entry["name"] else f"{value} = {entry['name']}"
        return f"{name}: {entry['labeled_images']}"

    if len(classes) <= _CLASSES_SHOWN:
        return ", ".join(map(called, classes))
    counts = [entry["labeled_images"] for entry in classes]
    rarest = sorted(classes, key=lambda entry: entry["labeled_images"])[:_SHOWN]
    return (
        f"{len(classes)} classes, {min(counts)} to {max(counts)} images each, median {statistics.median(counts):g}; "
        f"rarest: {', '.join(map(called, rarest))}"
    )


def check(model_args: ModelArguments, data_args: DataArguments, args: DMTTrainingArguments) -> int:
    """Print what a run with these flags would run into; writes nothing.

    Returns:
        The exit code: 0 if the run can start, 1 if there is a problem.
    """
    found = Preflight()
    with found.collecting():
        check_output_folder(args)
    model_classes = None
    with found.collecting():
        model_classes = look_up_models(model_args, args)
    with found.collecting():
        images = found.open_images(data_args, model_args.task, token=args.hub_token, model_classes=model_classes)
        if images is not None:
            found.look_at_images(images, data_args)
        if images is not None and model_classes is not None:
            pair = build_pair(model_args, args, images.class_names)
            found.look_at_models(pair, images)
            check_late_settings(args, pair)
            found.rehearse(pair, args, images)
    if args.should_save:
        print(as_flags(json.dumps(found.as_json(), indent=1) if model_args.json else found.text()))
    return 1 if found.problems else 0


# ---- the rehearsal ---------------------------------------------------------------------------------------------------


class _Stopwatch(TrainerCallback):
    """Records when each update of each phase, or of a model's turn in it, ended. The first mark is the start, after
    labeling."""

    def __init__(self, trainer: DMTTrainer) -> None:
        self.trainer = trainer
        self.marks: dict[tuple[bool, str | None], list[float]] = {}

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.marks[self._kind(self.trainer.course.current)] = [self._now()]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
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


def _rehearse(pair: ModelPair, args: DMTTrainingArguments, images: RunImages, folder: str) -> dict[str, Any]:
    """The estimate. It trains `pair` a little."""
    for updates in _UPDATES:
        start = time.monotonic()
        found = _tried(pair, args, images, f"{folder}/{updates}", updates)
        took = broadcast_object_list([time.monotonic() - start])[0]
        if took > _LONG_S:
            break
    return found


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
    trial.metric_is_default, trial.metric_for_best_model = True, None
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
        max_steps=args.max_steps if args.max_steps > 0 else None,
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


def _estimate_lines(found: dict[str, Any]) -> list[str]:
    updates, seconds = found["updates"], found["seconds_per_update"]
    each = dict.fromkeys(f"{took:.2g}" if took < 10 else f"{took:.0f}" for took in (min(seconds), max(seconds)))
    memory = f", {found['memory_bytes'] / 2**30:.1f} GiB of memory" if found["memory_bytes"] else ""
    if found["memory_available_bytes"]:
        memory += f" of {found['memory_available_bytes'] / 2**30:.1f} GiB"
    return [
        f"{duration(found['total_seconds'])} on {found['device']}{memory}, without evaluations within phases",
        f"{sum(updates)} updates of {' to '.join(each)} s, and {found['clean_images']} images to label or score at "
        f"{1000 * found['seconds_per_clean_image']:.0f} ms each (measured on {found['tried']} updates per phase)",
    ]


def duration(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 3.4 h`."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} h"


def _listed(pairs: list[Any]) -> str:
    shown = ", ".join(f"{first} = {second}" for first, second in pairs[:_SHOWN])
    return shown + (", ..." if len(pairs) > _SHOWN else "")


def _indented(text: str, mark: str = "") -> str:
    """Wrap at 100 columns, indented below the mark; keeps existing line breaks."""
    wrapped = [
        textwrap.fill(
            line, 100, initial_indent="  " + mark, subsequent_indent="  " + " " * len(mark), break_on_hyphens=False
        )
        if number == 0
        else "  " + " " * len(mark) + line
        for number, line in enumerate(text.splitlines())
    ]
    return "\n".join(wrapped)
