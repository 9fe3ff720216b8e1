"""Load the members of a saved pair, with every weight verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel

from ..data.members import MEMBERS
from ..data.pair_file import CheckpointError, member_folder
from ..hub.config_file import read_config
from . import loading
from .other_conventions import correct_conventions


def load_members(
    folder: Path, settings: dict[str, Any], source: str, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedModel, BaseImageProcessor, BaseImageProcessor]:
    """The models a and b of a saved pair, and their image processors.

    Args:
        settings: of the pair, from `read_pair_file`.
        source: what the user gave, for errors; `folder` may be in a cache.

    Raises:
        CheckpointError: a member is missing, damaged, not safetensors, or needs code that was not allowed.
    """
    (model_a, processor_a), (model_b, processor_b) = (
        _load_member(folder, settings, name, source, trust_remote_code) for name in MEMBERS
    )
    return model_a, model_b, processor_a, processor_b


def _load_member(
    folder: Path, settings: dict[str, Any], name: str, source: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    where = member_folder(folder, settings, name)
    if not (where / "config.json").is_file():
        raise CheckpointError(
            f"{source!r} is a pair without its member {name}: {(where / 'config.json').relative_to(folder)} is "
            "missing. Copy, download or push the pair again."
        )
    try:
        read_config(where)
        # refuses custom code that was not allowed
        config = loading.load_config(str(where), trust_remote_code=trust_remote_code)
        model = loading.load_verified(str(where), task=settings["task"], trust_remote_code=trust_remote_code)
        correct_conventions(model)  # already reported when the pair was created
        return model, loading.load_processor(str(where), config, trust_remote_code=trust_remote_code)
    except ValueError as problem:  # name what the user gave, not a cache folder
        raise CheckpointError(str(problem).replace(str(folder), source)) from problem
