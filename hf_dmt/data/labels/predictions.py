"""Predictions of a pair in one file, written so that an interrupted command can continue.

While images are labeled, each process appends complete lines to its own part in a folder beside the file. A truncated
last line is ignored. At the end, the parts become the file in one rename. `FILE.about.json` says which pair made it:
the same command can then add new images, and predictions of different pairs are never mixed.
"""

from __future__ import annotations

import csv
import io
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..escaping import csv_cell, from_csv_cell
from ..files import read_json, write_aside, write_json

Record = dict[str, Any]
"""One image: its `id` and the predictions for it, as texts and numbers."""

FORMATS = (".csv", ".jsonl")


class PredictionError(ValueError):
    """A file that these predictions cannot be written to, and what to do."""


class PredictionFile:
    """A table of predictions, finished or not.

    Args:
        path: ends in .csv or .jsonl.
        identity: what the predictions are of and how they are made; files with different identities are never mixed.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.about = path.with_name(f"{path.name}.about.json")
        self.parts = path.with_name(f".{path.name}.parts")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one command at a time may write a file.

        Raises:
            PredictionError: another one is writing, or the folder cannot be written to.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        held = FileLock(lock, timeout=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
        except Timeout as problem:
            raise PredictionError(
                f"Another hf-dmt predict is writing {str(self.path)!r}. Wait for it, or choose another file with --to."
            ) from problem
        except OSError as problem:
            raise PredictionError(
                f"{str(self.path)!r} cannot be written ({problem.strerror}). Choose another place with --to."
            ) from problem
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            held.release()

    def begin(self) -> list[Record]:
        """What is already known, finished lines first; from here on `add` may be called.

        Raises:
            PredictionError: the file, or unfinished work of an earlier command, is from another pair, or the columns of
                the file were changed.
        """
        if self.parts.is_dir() and not any(part.stat().st_size for part in self.parts.glob("part-*.jsonl")):
            shutil.rmtree(self.parts)  # of a command that was refused before it labeled anything
        if self.parts.is_dir():
            self._check(self.parts / "about.json", f"{str(self.parts)!r} contains unfinished predictions", self.parts)
        else:
            if self.path.exists():
                self._check(self.about, f"{str(self.path)!r} already exists", self.path)
            write_json(self.parts / "about.json", self.identity)
        return self._known()

    def finished_at(self) -> float | None:
        """When the last command finished, in seconds since 1970; None if none did."""
        return self.about.stat().st_mtime if self.about.is_file() else None

    @contextmanager
    def adding(self) -> Iterator[Any]:
        """A function that stores records, for one process; each call leaves complete lines on disk."""
        with open(self.parts / f"part-{secrets.token_hex(8)}.jsonl", "w", encoding="utf-8") as part:

            def add(records: Iterable[Record]) -> None:
                part.write("".join(json.dumps(record) + "\n" for record in records))
                part.flush()

            yield add

    def finish(self, facts: dict[str, Any]) -> list[Record]:
        """Assemble the file from all parts; returns its records."""
        records = self._known()
        write_json(self.about, {**self.identity, **facts, "images": len(records), "columns": list(records[0])})
        text = _as_csv(records) if self.path.suffix.lower() == ".csv" else _as_jsonl(records)
        write_aside(self.path, text)
        shutil.rmtree(self.parts)
        return records

    def _known(self) -> list[Record]:
        """Each image once, those of the finished file first."""
        finished = _read(self.path) if self.path.exists() else []
        parts = [record for part in sorted(self.parts.glob("part-*.jsonl")) for record in _whole_lines(part)]
        if finished:
            written = _about(self.about).get("columns") or list((parts or finished)[0])
            for record in finished:
                self._check_columns(record, written)
        known: dict[str, Record] = {}
        for record in (*finished, *parts):
            known.setdefault(record["id"], record)
        return list(known.values())

    def _check_columns(self, record: Record, written: list[str]) -> None:
        changes = (
            *(f"{name!r} is missing" for name in written if name not in record),
            *(f"{name!r} was added" for name in record if name not in written),
        )
        if changes:
            raise PredictionError(
                f"{str(self.path)!r} no longer has the columns that hf-dmt predict wrote: {', '.join(changes)}. "
                "Nothing can be added to it like this. Restore the columns, or choose another name with --to."
            )

    def _check(self, about: Path, there: str, delete: Path) -> None:
        found = _about(about)
        if self.identity.items() <= found.items():
            return
        differs = [key for key in self.identity if found.get(key) != self.identity[key]]
        why = (
            f"made with a different {differs[0].replace('_', ' ')}" if found else "and the pair that made it is unknown"
        )
        raise PredictionError(f"{there}, {why}. Choose another name with --to, or delete {str(delete)!r}.")


def _about(file: Path) -> dict[str, Any]:
    """The contents of an `about.json`; empty if it is missing or damaged."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole_lines(part: Path) -> Iterator[Record]:
    with open(part, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # otherwise it was truncated by a kill
                yield json.loads(line)


def _read(path: Path) -> list[Record]:
    """A finished file, as it was written.

    Raises:
        PredictionError: it was changed to something else.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # line ends as they are: a name may hold some
        if path.suffix.lower() == ".jsonl":
            records = [json.loads(line) for line in text.split("\n") if line]
        else:
            rows = csv.DictReader(io.StringIO(text, newline=""))
            records = [{key: _value(key, value) for key, value in row.items()} for row in rows]
        if all("id" in record for record in records):
            return records
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):  # of rows longer or shorter than the first
        pass
    raise PredictionError(
        f"{str(path)!r} is no longer a table written by hf-dmt predict, so nothing can be added to it. Choose another "
        "name with --to, or move it away."
    )


def _value(column: str, text: str) -> Any:
    return float(text) if is_number(column) else from_csv_cell(text)


def is_number(column: str) -> bool:
    """Whether a column contains fractions in [0, 1]; all others contain text."""
    return column.endswith("confidence") or column == "disagreement"


def _as_csv(records: list[Record]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]))  # by name: a spreadsheet may have moved columns
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in record.items()} for record in records)
    return text.getvalue().encode("utf-8-sig")  # without the byte order mark, Excel garbles names


def _as_jsonl(records: list[Record]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8")
