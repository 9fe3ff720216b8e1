"""The records of a run for people and for the report: `dmt_results.json` and `telemetry.jsonl`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from ...data.files import write_aside, write_json, writing
from ...data.members import MEMBERS
from ...report.results_file import RESULTS_FILE, TELEMETRY_FILE, read_events, read_results
from .runtime_errors import RunError

logger = logging.get_logger(__name__)


class RunRecords:
    """The run's results and log events, always up to date on disk; only the main process writes."""

    def __init__(self, folder: str | Path, *, writes: bool) -> None:
        self.folder, self.writes = Path(folder), writes
        self.results: dict[str, Any] = {"phases": []}
        self._open: dict[str, Any] | None = None  # the entry of the current phase
        self._kept: list[dict[str, Any]] | None = None  # log events to keep, while later ones are still on disk
        self._opened = time.monotonic()

    def begin(self, facts: dict[str, Any], *, step: int, phase: int, in_the_middle: bool = False) -> None:
        """Start, or continue from `step` in `phase`. Records later than the checkpoint are deleted, so a resumed run
        ends with the same records as an uninterrupted one. At a phase boundary (not `in_the_middle`), this includes
        what the next phase had already logged at the checkpoint's step.

        The files are cut back with the first new event or record. A start that fails before that, for example because
        its labels are missing, leaves the records of the finished phases as they were.

        Raises:
            RunError: the earlier results are damaged, or updates were counted differently.
        """
        earlier = self._read_results() if step else {}
        begun, now = (
            (about.get("settings") or {}).get("member_schedule", "together") for about in (earlier or facts, facts)
        )
        if begun != now:
            raise RunError(
                f"This run was started with `member_schedule` {begun!r}, but {now!r} counts updates differently, so "
                f"finished work would be repeated. Resume with {begun!r}, or use another `output_dir` and continue "
                "from its pair (`ModelPair.from_pretrained`)."
            )
        self._open = self._kept = None
        phases = [entry for entry in earlier.get("phases", []) if entry["phase"] < phase]
        self.results = {**facts, "phases": phases}
        if not self.writes:
            return
        self._kept = [
            line
            for line in self._telemetry_lines()
            if step and line["step"] <= step and (in_the_middle or line["phase"] < phase)
        ]
        if not step:
            self.save()

    def log(self, step: int, phase: int, logs: dict[str, Any]) -> None:
        """Append one log event. The Trainer's final metrics describe one call of train(), not the run."""
        if self.writes and "train_runtime" not in logs:
            self._cut_back()
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / TELEMETRY_FILE
            with writing(path), open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "phase": phase, **logs}) + "\n")

    @property
    def phase_is_open(self) -> bool:
        return self._open is not None

    @property
    def entry(self) -> dict[str, Any]:
        """The entry of the current phase."""
        assert self._open is not None
        return self._open

    def open_phase(self, phase: int, *, label_ratio: float | None, steps: int) -> None:
        """Start the entry and the clock of a phase."""
        self._opened = time.monotonic()
        self._open = {
            "phase": phase,
            "label_ratio": label_ratio,
            "steps": steps,
            "labeling_seconds": 0.0,
            "pseudo_labels": None,
        }

    def note(self, **facts: Any) -> None:
        """Add facts to the entry of the current phase."""
        self.entry.update(facts)

    def close_phase(self) -> None:
        """Record the current phase as finished, replacing any earlier record of it."""
        number = self.entry["phase"]
        entry = self.entry | {"seconds": round(time.monotonic() - self._opened, 3)} | self.sums(number)
        self._open = None
        self.results["phases"] = [*(old for old in self.results["phases"] if old["phase"] < number), entry]
        self.save()

    def save(self, **facts: Any) -> None:
        """Write the results, with additional top-level facts."""
        self.results |= facts
        if self.writes:
            self._cut_back()
            write_json(self.folder / RESULTS_FILE, self.results)

    def _cut_back(self) -> None:
        if self._kept is None:
            return
        kept, self._kept = self._kept, None
        write_aside(self.folder / TELEMETRY_FILE, "".join(json.dumps(line) + "\n" for line in kept).encode())
        write_json(self.folder / RESULTS_FILE, self.results)

    def lines(self, phase: int) -> list[dict[str, Any]]:
        """The log events of one phase so far."""
        return [line for line in self._telemetry_lines() if line["phase"] == phase]

    def alarms(self, phase: int) -> dict[str, list[str]]:
        """The signs of collapse that were logged for a phase as `alarms`, identical on every process."""
        logged = [{"alarms": line["alarms"]} for line in self.lines(phase) if "alarms" in line]
        # only the main process has the log
        found: list[dict[str, list[str]]] = broadcast_object_list([*logged, {}][:1])
        return found[0]

    def sums(self, phase: int) -> dict[str, Any]:
        """Totals over the log events of a phase for its entry: `skipped_updates`, if any, and `overruled`, for each
        model the share of pseudo-labeled units on which it was more confident than its teacher.

        Counts are summed as integers, so the entry does not depend on how the log events divide the phase.
        """
        lines = self.lines(phase)
        entry: dict[str, Any] = {}
        if skipped := int(sum(line.get("skipped_updates", 0) for line in lines)):
            entry["skipped_updates"] = skipped
        for name in MEMBERS:
            of_member = [line for line in lines if f"{name}/pseudo_units" in line]
            units = sum(line[f"{name}/pseudo_units"] for line in of_member)
            surer = sum(round(line[f"{name}/positive_disagree"] * line[f"{name}/pseudo_units"]) for line in of_member)
            if units:
                entry.setdefault("overruled", {})[name] = surer / units
        return entry

    def _read_results(self) -> dict[str, Any]:
        """The results of an earlier start; empty if there is no file.

        Raises:
            RunError: the file is damaged. Continuing would silently lose the figures of the finished phases.
        """
        file = self.folder / RESULTS_FILE
        try:
            return read_results(file)
        except FileNotFoundError:
            logger.warning(f"{file} is gone, and with it the figures of the finished phases: they will be missing.")
            return {}
        except ValueError as problem:
            raise RunError(
                f"{problem}. With it the figures of the finished phases are lost. Restore it, or delete it to continue "
                "without them."
            ) from problem

    def _telemetry_lines(self) -> list[dict[str, Any]]:
        """All log events up to the first unreadable line, which a killed run may leave at the end."""
        if self._kept is not None:
            return self._kept
        return read_events(self.folder / TELEMETRY_FILE)
