"""The start of a run: its image sets, everything that is compared on a resume, and its records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from ..data.files import write_json
from ..data.members import MEMBERS
from ..data.splitting.contents import digest_of
from ..data.splitting.splits import SPLIT_FILE, describe, image_ids
from .random_state import preserved_rng
from .run.origin import RunOrigin
from .run.protocol import run_facts
from .settings import identity


class RunStart:
    """The images of a run, and facts that only its caller knows.

    Args:
        image_sets: labeled, unlabeled, eval and test; None if missing.

    Attributes:
        settings: further settings that chose images and models, by name, such as those of the command line.
        digests: a hash of each image set by role, if all images were hashed; otherwise some are read.
        split: the contents of `split.json`; by default ids and roles only.
    """

    def __init__(self, image_sets: Mapping[str, Any]) -> None:
        self.image_sets = dict(image_sets)
        self.settings: dict[str, Any] = {}
        self.digests: dict[str, str] | None = None
        self.split: dict[str, Any] | None = None

    def origin(self, trainer: Any) -> RunOrigin:
        """The identity of this start, to be compared with the checkpoint it resumes from.

        Args:
            trainer: a `DMTTrainer`, whose class imports this file.

        Raises:
            ValueError: the processes of this start would not train the same; every process must call this.
        """
        if self.digests is None:
            with preserved_rng():  # a data set may draw random numbers
                sets = self.image_sets.items()
                self.digests = {role: digest_of(images, role=role) for role, images in sets if images is not None}
        args, pair = trainer.args, trainer.model
        first = {f"phase 0 of {name}": _digest_of_rows(trainer.supervised_rows[name]) for name in MEMBERS}
        settings = {**self.settings, "parameters_divided_over_processes": trainer.is_fsdp_enabled}
        now = identity.of_run(args, trainer.knobs, trainer.phases, pair, {**self.digests, **first}, settings)
        _check_processes_agree(now, args.output_dir)
        defaults = identity.defaults(args, pair.task)
        return RunOrigin(now, world_size=args.world_size, accepted=args.accept_changes or (), defaults=defaults)

    def write_split(self, folder: str | Path, class_names: Sequence[str]) -> None:
        """Write `split.json`."""
        roles: dict[str, Sequence[str]]
        roles = {role: image_ids(images) if images is not None else [] for role, images in self.image_sets.items()}
        write_json(Path(folder) / SPLIT_FILE, self.split or describe(roles, class_names=list(class_names)))


def _check_processes_agree(now: Mapping[str, Any], output_dir: str) -> None:
    """Processes exchange labels by the position of an image and gradients by that of a weight.

    Raises ValueError on every process if one has other images, settings or models than the first, such as a list that
    each process has shuffled for itself.
    """
    (first, folder), *others = gather_object([(now, output_dir)])
    for number, (other, other_folder) in enumerate(others, 1):
        found = list(identity.differences(first, other, step=0, accepted=()).refused)
        found += [identity.Change("output_dir", folder, other_folder)] if other_folder != folder else []
        if found:
            lines = "".join(f"\n  {change}" for change in found)
            raise ValueError(
                f"Process {number} would not train what process 0 trains (was: in process 0, now: in process {number})."
                f"{lines}\nGive every process the same settings, and the same images in the same order: sort lists of "
                "files, shuffle with a fixed seed, and build no `output_dir` from the time."
            )


def begin_records(trainer: Any) -> None:
    """Write `split.json`, and start the records or continue them from the restored step.

    Args:
        trainer: a `DMTTrainer`, whose class imports this file.
    """
    args, pair, course = trainer.args, trainer.model, trainer.course
    trainer.telemetry.reset()  # an interrupted train() has not logged its last updates, which are done again
    if args.should_save:
        trainer.start.write_split(args.output_dir, pair.class_names)
    facts = run_facts(args, pair, trainer.knobs, **trainer.start.image_sets)
    facts |= {"num_phases": trainer.phases[-1].index + 1, "changes": trainer.origin.changes}
    number = course.current.index + (course.entry == len(trainer.phases))  # past the last one if all are done
    trainer.records.begin(facts, step=trainer.state.global_step, phase=number, in_the_middle=course.begun)
    if finished := trainer.records.results["phases"]:  # the checkpoint's own weights do not tell
        pair.metadata["phase"] = finished[-1]["phase"]
        trainer.last_scores = finished[-1]["eval"]


def _digest_of_rows(rows: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(rows, dtype=np.int64).tobytes()).hexdigest()[:16]
