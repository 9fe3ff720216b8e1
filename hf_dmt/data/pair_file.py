"""`dmt_config.json`, which says what a saved pair is and where each of its members is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import read_json
from .members import MEMBERS
from .tasks import TASKS

PAIR_FILE = "dmt_config.json"
PEER_FOLDER = "peer"
LISTING = "published"
"""Where `dmt_config.json` (of labels `dmt_labels.json`) on the Hub says which files pushes of ours brought: only these
are replaced or removed by another one."""
FORMAT_VERSION = 1
LONGEST_SIDE = 16_384
"""Of the training view, in pixels."""


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
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{PAIR_FILE} of {source!r} is damaged: it contains a {type(settings).__name__} instead of settings. Copy "
            "or download it again."
        )
    version: Any = settings.get("format_version")
    if _is_count(version) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{source!r} was written in format {version}; this version of hf_dmt reads up to {FORMAT_VERSION}. "
            "Upgrade: pip install -U hf-dmt."
        )
    if wrong := _wrong_entries(settings):
        named = ", ".join(f"{key} {settings[key]!r}"[:100] if key in settings else f"no {key}" for key in wrong)
        raise CheckpointError(f"{PAIR_FILE} of {source!r} has invalid entries: {named}. Copy or download it again.")
    settings.pop(LISTING, None)  # describes the repository it came from, not the pair
    return settings


def member_folder(folder: Path, settings: dict[str, Any], name: str) -> Path:
    """The folder of member `name`; either member may be at the root."""
    return folder if name == settings["primary"] else folder / PEER_FOLDER


def base_of(settings: dict[str, Any], entry: str, name: str) -> str | None:
    """What `base_models` or `base_commits` says of a member, if anything."""
    found: str | None = (settings.get(entry) or {}).get(name)
    return found


def _wrong_entries(settings: dict[str, Any]) -> list[str]:
    """Names of the entries with invalid values, or that are missing."""

    def describes_members(value: Any) -> bool:
        return value is None or (
            isinstance(value, dict)
            and all(name in MEMBERS and (about is None or isinstance(about, str)) for name, about in value.items())
        )

    primary, task = settings.get("primary"), settings.get("task")
    side: Any = settings.get("image_size")
    fine = {
        "format_version": _is_count(settings.get("format_version")) and settings["format_version"] > 0,
        "primary": isinstance(primary, str) and primary in MEMBERS,
        "task": isinstance(task, str) and task in TASKS,
        "image_size": _is_count(side) and 0 < side <= LONGEST_SIDE,
        "base_models": describes_members(settings.get("base_models")),
        "base_commits": describes_members(settings.get("base_commits")),
        "seed": settings.get("seed") is None or type(settings["seed"]) is int,
        "phase": settings.get("phase") is None or _is_count(settings["phase"]),
        "continued": settings.get("continued") is None or isinstance(settings["continued"], bool),
    }
    return [key for key, holds in fine.items() if not holds]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
