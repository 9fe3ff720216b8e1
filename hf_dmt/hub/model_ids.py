"""Find mistyped names of models before torch is imported, with huggingface_hub alone.

Importing torch and transformers takes seconds. `hf-dmt train` and `hf-dmt check` look their models up before that, so
that a mistyped id fails at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .offline import fail_fast_offline


def cannot_load(source: str, reason: str) -> str:
    """The error for a name that is neither a folder with a model nor a model on the Hub."""
    if missing := _no_such_folder(source):
        return f"Cannot load a model: {missing}"
    return (
        f"Cannot load a model from {source!r} ({reason.rstrip('.')}). Give a folder with config.json and "
        "model.safetensors, or a model id on the Hub: check the spelling, the network and, for a private model, your "
        "token (`hf auth login`)."
    )


def not_found(argv: Sequence[str]) -> str | None:
    """The error for the first model in the flags of `hf-dmt train`, or in its config file, that does not exist.

    None if a single request cannot tell; the command itself reports such problems.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--model_a", "--model_b", "--hub_token"):
        parser.add_argument(flag)
    try:
        given, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return None
    config = _config(argv[0]) if argv and not argv[0].startswith("-") else {}
    fail_fast_offline()
    token = given.hub_token or config.get("hub_token")
    token = os.path.expandvars(token) if isinstance(token, str) else None
    for name in ("model_a", "model_b"):
        source = getattr(given, name) or config.get(name)
        if isinstance(source, str) and (problem := _missing(source, token)):
            return problem
    return None


def _config(file: str) -> dict[str, object]:
    """The settings in a config file; empty if it cannot be read."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        content = json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _missing(source: str, token: str | None) -> str | None:
    """The error if no such model exists. An id without owner may be a model of timm, which takes a second to import."""
    if ":" in source or Path(source).is_dir():
        return None
    try:
        validate_repo_id(source)
        if Path(source).is_file():
            return cannot_load(source, "it is a file")
        if "/" not in source:
            return None
        hf_hub_download(source, "config.json", token=token)
    except HFValidationError:
        return cannot_load(source, "it is neither a folder nor a model id")
    except RepositoryNotFoundError:
        return cannot_load(source, "the Hub has no such model, or it is private or gated")
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        return cannot_load(source, "it is not in the cache, and the Hub cannot be reached")
    except Exception:  # anything else is for transformers to judge
        return None
    return None


def _no_such_folder(source: str) -> str | None:
    """The message for a name that cannot be a Hub id, or is nearly that of a folder; None for other names."""
    path = Path(source)
    if path.is_dir():
        return None
    if path.is_file():
        return f"{source!r} is a file. Give the folder that contains it."
    try:
        inside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:  # none, or not ours to read
        inside = []
    near = difflib.get_close_matches(path.name, inside, n=1)
    meant = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return f"there is no folder {source!r}, and it is not a valid model id on the Hub either.{meant}"
    return f"there is no folder {source!r}, and no model of that id can be reached on the Hub.{meant}" if near else None
