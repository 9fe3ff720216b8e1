"""The dry run behind `hf-dmt check`: find out before training what a run would run into."""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..data.arguments import DataArguments
from ..data.escaping import without_tokens
from ..data.members import MEMBERS
from ..data.reading.rows import DataError
from ..data.splitting.assemble import RunImages, assemble
from ..data.splitting.duplicates import can_compare, overlaps, signatures
from ..data.splitting.scan import UNREADABLE
from ..hub.repository import check_target
from ..models.pair import ModelPair
from ..models.timm_members import architecture
from ..training.inputs.checks import check_inputs
from ..training.publishing import repository_of
from ..training.rehearsal import rehearse
from ..training.run.folder import check_output_folder
from ..training.run.runtime_errors import RunError, too_large_for_this_machine
from ..training.settings.arguments import DMTTrainingArguments
from ..training.settings.command_line import ModelArguments
from ..training.settings.help import terminal_width
from ..training.settings.terminal import as_flags
from .opening import FoundModels, build_pair, look_up_models

_SHOWN = 5
_CLASSES_SHOWN = 12


@dataclass
class Preflight:
    """The findings. Problems would stop a run, warnings would not.

    Attributes:
        images: for each role (labeled, unlabeled, eval, test) count, modes, and sizes as [width, height].
        classes: for each class `name`, the number of `labeled_images` that show it and, for masks, the first `value`
            in the files.
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
            self.problems.append(without_tokens(str(problem)))

    @property
    def verdict(self) -> str:
        if self.problems:
            return "not ready"
        return "ready, with warnings" if self.warnings else "ready"

    def as_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}

    # ---- looking ---------------------------------------------------------------------------------------------------

    def open_images(
        self, args: DataArguments, task: str, *, token: str | None, models: FoundModels | None
    ) -> RunImages | None:
        """Open the image sets as the run would. If some images cannot be read, the others are checked anyway."""
        known: dict[str, Any] = {"model_classes": models.classes, "of_pair": models.split} if models else {}
        try:
            return assemble(args, task, token=token, **known)
        except DataError as problem:
            self.problems.append(without_tokens(str(problem)))
        try:
            lenient = replace(args, skip_corrupt_images=True)
            images = assemble(lenient, task, token=token, **known)
        except DataError:
            return None
        # The problem above lists the unreadable images already.
        return replace(images, notes=[note for note in images.notes if UNREADABLE not in note])

    def look_at_images(self, images: RunImages) -> None:
        """Count images and classes by mode and size, and find copies, for which every image is decoded."""
        values: dict[int, Any] = {}
        if images.labeled.task == "semantic-segmentation" and not images.labeled.reading.colors:
            for value, index in images.labeled.classes_of_values(len(images.class_names)).items():
                values.setdefault(index, value)
        self.classes = [
            {"name": name, "labeled_images": count, **({"value": values[index]} if index in values else {})}
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
        self.estimate = rehearse(pair, args, images)

    # ---- telling ---------------------------------------------------------------------------------------------------

    def about_images(self) -> str:
        """Images, classes and copies, for a terminal."""
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
        return "\n".join(lines)

    def about_models(self) -> str:
        """Both models, for a terminal."""
        lines = ["models"] if self.models else []
        for name, model in self.models.items():
            new = f"{model['new']} newly initialized" if model["new"] else "head kept: it has these classes"
            lines.append(f"  {name}  {model['architecture']}, {model['parameters'] / 1e6:.1f} M parameters, {new}")
        return "\n".join(lines)

    def conclusion(self) -> str:
        """The estimate, what to know and to mend, and whether the run can start, for a terminal."""
        lines = []
        if self.estimate:
            lines += ["estimate", *map(_indented, _estimate_lines(self.estimate))]
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
        examples = ", ".join(f"{one} = {other}" for one, other in copies["examples"])
        return f"{first} and {second}: {copies['count']}, such as {examples}"


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

    def tell(text: str) -> None:
        """At once: opening many images or trying updates may take minutes."""
        if text and args.should_save and not model_args.json:
            print(as_flags(text), flush=True)

    with found.collecting():
        check_output_folder(args)
    if args.push_to_hub:
        with found.collecting():
            check_target(repository_of(args), token=args.hub_token)
    models = None
    with found.collecting():
        models = look_up_models(model_args, args)
    with found.collecting():
        images = found.open_images(data_args, model_args.task, token=args.hub_token, models=models)
        if images is not None:
            found.look_at_images(images)
            tell(found.about_images())
        if images is not None and models is not None:
            pair = build_pair(model_args, args, images.class_names, models.folder)
            found.look_at_models(pair, images)
            tell(found.about_models())
            check_inputs(pair, args, images.labeled, images.evaluation, images.test, None, (), None)
            found.rehearse(pair, args, images)
    tell(found.conclusion())
    if args.should_save and model_args.json:
        print(as_flags(json.dumps(found.as_json(), indent=1)))
    return 1 if found.problems else 0


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


def _indented(text: str, mark: str = "") -> str:
    """Wrap at the width of the terminal, at most 100 columns, indented below the mark; keeps existing line breaks."""
    width = terminal_width()
    wrapped = [
        textwrap.fill(
            line,
            width,
            initial_indent="  " + mark,
            subsequent_indent="  " + " " * len(mark),
            break_on_hyphens=False,
            break_long_words=False,
        )
        if number == 0
        else "  " + " " * len(mark) + line
        for number, line in enumerate(text.splitlines())
    ]
    return "\n".join(wrapped)
