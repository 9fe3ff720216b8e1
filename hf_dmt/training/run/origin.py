"""The identity of a run and the changes made by later starts: stored in the output folder and in every checkpoint."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...data.files import read_json, write_json
from ..settings import identity
from ..settings.resuming import ACCEPTABLE, HARMLESS
from .whole_checkpoint import CHECKPOINT_RECORD, checksums, read_record, steps_done

IDENTITY_FILE = ".run.json"

logger = logging.get_logger(__name__)


class RunOrigin:
    """The identity of a run over all its starts.

    Args:
        now: what this start would train, from `identity.of_run`.
        world_size: number of processes of this start.
        accepted: names of settings that this start may change.
        defaults: from `identity.defaults`.

    Attributes:
        changes: what later starts changed, each `{"step", "setting", "before", "now"}`, for the results.
        run_id: random, drawn at the first start; tells runs with equal settings apart.
        labels_made_by: a hash of the weights that made the labels of the current phase; None before the first ones.
    """

    def __init__(
        self, now: dict[str, Any], *, world_size: int, accepted: Sequence[str], defaults: Mapping[str, Any] = {}
    ) -> None:
        self.identity, self.world_size, self.accepted, self.defaults = now, world_size, tuple(accepted), defaults
        self.changes: list[dict[str, Any]] = []
        self.run_id = uuid.uuid4().hex
        self.labels_made_by: str | None = None

    def continue_from(self, checkpoint: str | Path, output_dir: str | Path) -> None:
        """Compare this start with the run that wrote a checkpoint, and record accepted changes.

        Raises:
            ValueError: it is a different run (all differences are listed), the output folder contains a different one,
                or the checkpoint does not say which run it is from.
        """
        try:
            record = read_record(checkpoint)
            step = steps_done(checkpoint)
            how: dict[str, Any] = {"step": step, "accepted": self.accepted, "defaults": self.defaults}
            found = identity.differences(record["identity"], self.identity, **how)
        except (OSError, ValueError) as problem:
            raise ValueError(
                f"The checkpoint {str(checkpoint)!r} does not say which run it belongs to ({problem}), so it is "
                "unknown whether it fits this run. Resume from another checkpoint, or start a new run."
            ) from problem
        if found.refused:
            raise ValueError(identity.refusal(found.refused, str(checkpoint)))
        self._check_folder(record.get("run_id"), checkpoint, Path(output_dir))
        self.run_id, self.labels_made_by = record.get("run_id", self.run_id), record.get("labels_made_by")
        self.changes = list(record.get("changes") or [])
        noted = [{"setting": change.name, "before": change.before, "now": change.now} for change in found.allowed]
        if record["world_size"] != self.world_size:
            noted.append({"setting": "world_size", "before": record["world_size"], "now": self.world_size})
            logger.warning(
                f"This run was trained by {record['world_size']} process(es) and continues with {self.world_size}. "
                "Images, labels and updates stay the same, but the result is no longer bit-identical to an unchanged "
                "run: gradients are summed in a different order; dropout, mixup and BatchNorm see different parts of "
                "an update."
            )
        for change in found.allowed:
            if change.name in ACCEPTABLE or change.name not in HARMLESS:
                logger.warning(f"Changed from update {step} on: {change}.")
        self.changes += [{"step": step, **change} for change in noted]

    def _check_folder(self, run_id: str | None, checkpoint: str | Path, folder: Path) -> None:
        """Raise a ValueError if the output folder has the records and labels of another run, which would be taken for
        those of this one."""
        try:
            there = read_json(folder / IDENTITY_FILE).get("run_id")
        except (OSError, ValueError, AttributeError):  # none, or unreadable: nothing to compare
            return
        if run_id is not None and there is not None and there != run_id:
            raise ValueError(
                f"The checkpoint {str(checkpoint)!r} is from another run than the results and pseudo labels in "
                f"`output_dir` {str(folder)!r}, so resuming would mix two runs. Resume from a checkpoint of the run in "
                "this folder, or choose the folder of the checkpoint's own run or an empty one."
            )

    def write(self, folder: str | Path) -> None:
        """Write to the output folder; only the main process does."""
        write_json(Path(folder) / IDENTITY_FILE, self._record({}))

    def save(self, checkpoint: str | Path) -> None:
        """Write to a checkpoint whose weights have been written."""
        write_json(Path(checkpoint) / CHECKPOINT_RECORD, self._record(checksums(checkpoint)))

    def _record(self, weights: dict[str, int]) -> dict[str, Any]:
        return {
            "world_size": self.world_size,
            "weights": weights,
            "identity": self.identity,
            "changes": self.changes,
            "run_id": self.run_id,
            "labels_made_by": self.labels_made_by,
        }
