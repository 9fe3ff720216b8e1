"""`dmt_config.json`, which says what a saved pair is and where each of its members is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import forms
from .files import read_json
from .forms import Needs, Test, fault_of
from .members import MEMBERS

PAIR_FILE = "dmt_config.json"
PEER_FOLDER = "peer"
LISTING = "published"
"""The entry of `dmt_config.json` (for labels, `dmt_labels.json`) on the Hub that lists the files which our pushes
uploaded: only these are replaced or removed by a later push."""
FORMAT_VERSION = 1
LONGEST_SIDE = 16_384
"""Of the training view, in pixels."""


_SIDE = Test(
    f"a whole number from 1 to {LONGEST_SIDE}", lambda value: forms.is_count(value) and 1 <= value <= LONGEST_SIDE
)
_VERSION = Test("a whole number of at least 1", lambda value: forms.is_count(value) and value > 0)

PAIR = Needs(
    "format_version",
    "primary",
    "task",
    "image_size",
    format_version=_VERSION,
    primary=Test("a or b", lambda value: value in MEMBERS),
    task=forms.task,
    image_size=_SIDE,
    base_models=dict.fromkeys(MEMBERS, forms.text),
    base_commits=dict.fromkeys(MEMBERS, forms.text),
    seed=forms.number,
    phase=forms.count,
    continued=Test("true or false", lambda value: isinstance(value, bool)),
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be a member or a pair, and what to use instead."""


def read_pair_file(folder: Path, source: str) -> dict[str, Any]:
    """The contents of `dmt_config.json`.

    Args:
        source: what the user gave, for messages; `folder` may be in a cache.

    Raises:
        CheckpointError: not a pair, a newer format, or damaged.
    """
    file = folder / PAIR_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{source!r} has no {PAIR_FILE}, so it is not a pair saved by hf_dmt. Give the folder of a pair."
        )
    try:
        settings: Any = read_json(file)
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{PAIR_FILE} of {source!r} is damaged ({problem}). Copy or download it again.") from (
            problem
        )
    version = settings.get("format_version") if isinstance(settings, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{source!r} was written in format {version}; this version of hf_dmt reads up to {FORMAT_VERSION}. "
            "Upgrade: pip install -U hf-dmt."
        )
    if fault := fault_of(settings, PAIR):
        raise CheckpointError(f"{PAIR_FILE} of {source!r} is damaged: {fault}. Copy or download it again.")
    settings.pop(LISTING, None)  # describes the repository it came from, not the pair
    return settings


def member_folder(folder: Path, settings: dict[str, Any], name: str) -> Path:
    """The folder of member `name`; either member may be at the root."""
    return folder if name == settings["primary"] else folder / PEER_FOLDER


def base_of(settings: dict[str, Any], entry: str, name: str) -> str | None:
    """What `base_models` or `base_commits` says of a member, if anything."""
    found: str | None = (settings.get(entry) or {}).get(name)
    return found
