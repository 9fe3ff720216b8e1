"""Read untrusted JSON, YAML and CSV files, and write files atomically."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError


def write_aside(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it: readers see the old file or the new one, never
    a part.

    Only one process at a time may write a path. Leftovers of a killed process are overwritten by the next attempt.

    Raises:
        OSError: with the folder's name, if it is full or not writable; the old file is unchanged.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "wb") as file:
                file.write(content)
            aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the block, an error says what could not be written, where, and what to do.

    Raises:
        OSError: the disk is full, or the folder is not writable; also where safetensors raises its own class.
    """
    try:
        yield
    except (OSError, SafetensorError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        said = f"Cannot write {path.name} in {path.parent} ({reason}). Free disk space or choose another folder"
        raise with_number_of(problem, said) from problem


def with_number_of(problem: BaseException, said: str) -> OSError:
    """An `OSError` with the number of another error, which errors of other libraries lack."""
    number = getattr(problem, "errno", None)
    return OSError(said) if number is None else OSError(number, said)


def read_json(path: Path) -> Any:
    """The contents of an untrusted JSON file.

    Raises:
        OSError: it cannot be read. ValueError: see `from_json`.
    """
    return from_json(path.read_text(encoding="utf-8-sig"))  # Windows editors write a byte order mark


def read_yaml(path: Path) -> Any:
    """The contents of an untrusted YAML file.

    Raises:
        OSError: it cannot be read. ValueError, yaml.YAMLError, RecursionError: it is not valid YAML. Ambiguous: two
            values for one key, of which YAML would keep the last, or a number such as 010.
    """
    loader = _OneMeaning(path.read_text(encoding="utf-8-sig"))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class Ambiguous(ValueError):
    """A valid file in which something has two meanings."""


class _OneMeaning(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
        _check_once(keys)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            return int(node.value, 0)
        except ValueError as problem:
            raise Ambiguous(
                f"the number {node.value} is {super().construct_yaml_int(node)} in YAML 1.1 and something else in YAML "
                "1.2: write it without leading zeros and colons"
            ) from problem


_OneMeaning.add_constructor("tag:yaml.org,2002:int", _OneMeaning.construct_yaml_int)


def from_json(text: str) -> Any:
    """The value of an untrusted JSON text.

    Raises:
        ValueError: it is not valid JSON, or nested too deeply for the parser. Ambiguous: two values for one key, of
            which JSON would keep the last.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem


def _without_duplicates(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once(Counter(key for key, _ in entries))
    return dict(entries)


def _check_once(keys: Counter[str]) -> None:
    if twice := [key for key, count in keys.items() if count > 1]:
        raise Ambiguous(f"it contains the key {twice[0]!r} twice: delete one of them")


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a table from a spreadsheet or editor, separated by commas, semicolons, tabs or bars.

    Cells are stripped and never missing: an empty one is an empty string.

    Raises:
        OSError: it cannot be read. ValueError: it is not text, or not a table.
    """
    content = path.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
    text = content.decode("utf-16" if wide else "utf-8-sig")
    # If the comma is the decimal separator, spreadsheets separate cells by semicolons.
    first = text.lstrip().partition("\n")[0]
    try:
        # Strict: a quote that is never closed is an error, where it would take all rows behind it into one cell.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=first.count), strict=True)
        lines = [[cell.strip() for cell in line] for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as problem:
        raise ValueError(f"it is not a table: {problem}") from problem
    if not lines:
        raise ValueError("it is empty")
    columns, *rows = lines
    if twice := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
        raise ValueError(f"the column {twice[0]!r} is there twice, and which one counts is not known")
    if long := next((number for number, line in enumerate(rows, 2) if len(line) > len(columns)), 0):
        raise ValueError(f"row {long} has more cells than the first row has columns: quote cells with commas in them")
    return columns, [dict(zip(columns, line + [""] * (len(columns) - len(line)), strict=True)) for line in rows]


def write_json(path: Path, value: Any) -> None:
    """`write_aside` for JSON."""
    write_aside(path, (json.dumps(value, indent=2) + "\n").encode())
