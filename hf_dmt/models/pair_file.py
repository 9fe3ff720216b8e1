"""Load a saved pair: `dmt_config.json`, and both members with every weight verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel

from ..data.files import read_json
from ..data.members import MEMBERS
from ..hub.repository import LISTING, PAIR_FILE, PEER_FOLDER
from . import loading
from .config_file import LONGEST_SIDE
from .loading import CheckpointError
from .weights.other_conventions import correct_conventions

FORMAT_VERSION = 1


def read_pair_file(folder: Path, source: str) -> dict[str, Any]:
    """The contents of `dmt_config.json`, which says what the pair is and where each member is.

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
        settings: dict[str, Any] = read_json(file)
        version = int(settings["format_version"])
        wrong = [] if version > FORMAT_VERSION else _wrong_entries(settings)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as problem:
        raise CheckpointError(
            f"{PAIR_FILE} of {source!r} is damaged ({problem!r}). Copy or download it again."
        ) from problem
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{source!r} was written in format {version}; this version of hf_dmt reads up to {FORMAT_VERSION}. "
            "Upgrade: pip install -U hf-dmt."
        )
    if wrong:
        named = ", ".join(f"{key} {settings.get(key)!r}"[:100] for key in wrong)
        raise CheckpointError(f"{PAIR_FILE} of {source!r} has invalid entries: {named}. Copy or download it again.")
    settings.pop(LISTING, None)  # describes the repository it came from, not the pair
    return settings


def _wrong_entries(settings: dict[str, Any]) -> list[str]:
    """Names of the entries with invalid values."""

    def is_count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def describes_members(value: Any) -> bool:
        return isinstance(value, dict) and all(
            name in MEMBERS and (about is None or isinstance(about, str)) for name, about in value.items()
        )

    side = settings["image_size"]
    fine = {
        "primary": isinstance(settings["primary"], str) and settings["primary"] in MEMBERS,
        "task": isinstance(settings["task"], str) and settings["task"] in loading.AUTO_CLASSES,
        "image_size": is_count(side) and 0 < side <= LONGEST_SIDE,
        "base_models": describes_members(settings.get("base_models") or {}),
        "base_commits": describes_members(settings.get("base_commits") or {}),
        "phase": settings.get("phase") is None or is_count(settings["phase"]),
    }
    return [key for key, holds in fine.items() if not holds]


def member_folder(folder: Path, settings: dict[str, Any], name: str) -> Path:
    """The folder of member `name`; either member may be at the root."""
    return folder if name == settings["primary"] else folder / PEER_FOLDER


def load_member(
    folder: Path, settings: dict[str, Any], name: str, source: str, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """One member of a saved pair and its image processor.

    Raises:
        CheckpointError: missing, damaged, not safetensors, or code that was not asked for.
    """
    where = member_folder(folder, settings, name)
    if not (where / "config.json").is_file():
        raise CheckpointError(
            f"{source!r} is a pair without its member {name}: {(where / 'config.json').relative_to(folder)} is "
            "missing. Copy, download or push the pair again."
        )
    try:
        # refuses custom code that was not allowed
        config = loading.load_config(str(where), trust_remote_code=trust_remote_code)
        model = loading.load_verified(str(where), task=settings["task"], trust_remote_code=trust_remote_code)
        correct_conventions(model)  # already reported when the pair was created
        return model, loading.load_processor(str(where), config, trust_remote_code=trust_remote_code)
    except CheckpointError as problem:  # name what the user gave, not a cache folder
        raise CheckpointError(str(problem).replace(str(folder), source)) from problem
