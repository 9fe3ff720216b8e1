"""A repository on the Hub: read at one commit, written in one commit.

The only file that talks to the Hub. Every failure is raised as a `HubError` with the repository, the reason and what to
do; tokens never appear in a message.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..data.files import read_json, write_json
from ..data.pair_file import LISTING, PAIR_FILE, PEER_FOLDER
from .refusals import FAILURES, HubError, check_token, explained, patiently

logger = logging.get_logger(__name__)

LABELS_FILE = "dmt_labels.json"
PREDICTIONS_FILE = "dmt_predictions.json"
LAST_CHECKPOINT = "last-checkpoint"

_MEMBER_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
PAIR_FILES = (*_MEMBER_FILES, *(f"{PEER_FOLDER}/{name}" for name in _MEMBER_FILES), PAIR_FILE)
"""What a pair is made of, as patterns."""
PUBLISHED = (*PAIR_FILES, "README.md", "report.html", "figures/*", "dmt_results.json", "split.json")
"""What a push may contain, as patterns: nothing else of a run's folder ever leaves the machine."""

# Files that a push by a version without the list certainly uploaded.
_WEIGHT_FILES = {f"{place}model.safetensors" for place in ("", f"{PEER_FOLDER}/")}
_SURELY_OURS = {name for name in PUBLISHED if "*" not in name} | _WEIGHT_FILES
# Weights of any kind: this is somebody's model.
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".onnx", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".tflite")
# A stale one would be loaded instead of the weights that were just pushed.
_INDEXES = {f"{place}model.safetensors.index.json" for place in ("", f"{PEER_FOLDER}/")}


def open_target(
    repo_id: str,
    *,
    token: str | None,
    private: bool | None = None,
    repo_type: str = "model",
    revision: str | None = None,
    own_file: str = LABELS_FILE,
) -> str:
    """Create the repository if necessary, and make sure that a push will be accepted and is intended.

    Args:
        own_file: for a data set: a file that shows it was pushed by the same command.

    Returns:
        The full id, with the owner.

    Raises:
        HubError: a missing or wrong token, no write access, a model that is not a pair (or a data set that is not
            pseudo labels) with this name, a file that the push would overwrite but did not create, or a public
            repository although a private one was requested.
    """
    check_token(token)
    api = HfApi(token=token)

    def look() -> tuple[str, set[str], set[str], bool]:
        name: str = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True).repo_id
        api.auth_check(name, repo_type=repo_type, write=True)
        there = _files(api, name, revision, repo_type)
        is_public = private and not getattr(api.repo_info(name, repo_type=repo_type), "private", False)
        return name, there, _ours(api, name, revision, repo_type, there), bool(is_public)

    with explained(f"Cannot push to {repo_id!r}", token, writes=True):
        name, there, ours, is_public = patiently(look)
    if is_public:
        raise HubError(
            f"{name!r} exists and is public, but a private repository was requested. Make it private in its settings "
            "on the Hub, or choose another name."
        )
    if repo_type == "model":
        foreign = [file for file in there if file == "config.json" or file.endswith(_WEIGHTS)]
        own, what, brings = PAIR_FILE, "another model", {*_WEIGHT_FILES, "README.md", "peer/config.json"}
    else:
        foreign = [file for file in there if file not in (".gitattributes", "README.md")]
        own, what, brings = own_file, "another data set", {own_file, "README.md"}
    if own not in there and foreign:
        raise HubError(
            f"{name!r} contains {what} ({min(foreign)}, no {own}), which this push would overwrite. Choose another "
            "name."
        )
    _refuse_foreign(name, brings, there, ours)
    return name


def check_name(repo_id: str) -> None:
    """Raises HubError for a name that no repository can have."""
    with explained(f"Cannot push to {repo_id!r}", None):
        validate_repo_id(repo_id)


def check_target(repo_id: str, *, token: str | None) -> None:
    """Find out without creating anything whether a push could begin.

    Raises:
        HubError: an invalid name, or a missing, wrong or read-only token.
    """
    check_token(token)
    check_name(repo_id)
    with explained(f"Cannot push to {repo_id!r}", token, writes=True):
        found = patiently(HfApi(token=token).whoami)
    if (found.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"Cannot push to {repo_id!r}: the token can only read. Use a token with write access.")


def publish(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    repo_type: str = "model",
    replaces: Sequence[str] = PUBLISHED,
) -> CommitInfo:
    """Upload every file of `folder` in one commit, so that no reader ever sees half a pair.

    Files that the repository already has are not uploaded again, nor are those that arrived before a connection was
    lost. Requests are retried if the Hub is busy or its answer is lost.

    Args:
        folder: a staging folder; the list of pushed files is written to one of its files.
        revision: branch, created from `main` if necessary.
        tag: a new name for the commit.
        replaces: patterns; matching files that an earlier push uploaded and that are not in `folder` are deleted in the
            same commit, so that old weights or figures do not stay beside the new ones.

    Raises:
        HubError: the push failed, would overwrite a file that no earlier push uploaded, or the tag is taken; the
            previous revision is intact.
    """
    check_token(token)
    api = HfApi(token=token)

    def push() -> CommitInfo:
        if tag is not None and tag in (ref.name for ref in api.list_repo_refs(repo_id, repo_type=repo_type).tags):
            raise HubError(
                f"{repo_id!r} has the tag {tag!r} already, for an earlier push, so nothing was pushed. Choose another "
                "tag, or delete that one on the Hub."
            )
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        there = _files(api, repo_id, revision, repo_type)
        ours = _ours(api, repo_id, revision, repo_type, there)
        _refuse_foreign(repo_id, paths, there, ours)
        gone = {name for name in ours - paths.keys() if any(fnmatch(name, pattern) for pattern in replaces)}
        _write_listing(folder, {*paths, *(ours - gone)})
        operations: list[Any] = [
            *(CommitOperationDelete(path_in_repo=name) for name in sorted(gone)),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in paths.items()),
        ]
        # Not upload_folder: with hf_xet it splits a large folder into several commits.
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision, repo_type=repo_type)

    with explained(f"The push to {repo_id!r} failed", token, writes=True):
        commit = patiently(push)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=commit.oid, repo_type=repo_type)
    return commit


def _files(api: HfApi, repo_id: str, revision: str | None, repo_type: str) -> set[str]:
    """The files of a repository; a branch that does not exist yet is created from `main`."""
    try:
        return set(api.list_repo_files(repo_id, revision=revision, repo_type=repo_type))
    except RevisionNotFoundError:
        return set(api.list_repo_files(repo_id, repo_type=repo_type))


def _ours(api: HfApi, repo_id: str, revision: str | None, repo_type: str, there: set[str]) -> set[str]:
    """The existing files that were uploaded by our pushes."""
    kinds = (PAIR_FILE,) if repo_type == "model" else (LABELS_FILE, PREDICTIONS_FILE)
    own = next((kind for kind in kinds if kind in there), None)
    if own is None:
        return set()
    listed = None
    # Not into the cache: a snapshot with this single file would later look like a pair without its models.
    with tempfile.TemporaryDirectory(prefix="hf-dmt-") as aside:
        try:
            file = api.hf_hub_download(repo_id, own, revision=revision, repo_type=repo_type, local_dir=aside)
        except RevisionNotFoundError:
            file = api.hf_hub_download(repo_id, own, repo_type=repo_type, local_dir=aside)
        try:
            listed = read_json(Path(file)).get(LISTING)
        except (OSError, ValueError, AttributeError):
            logger.warning(f"{own} of {repo_id!r} cannot be read; only files with the usual names are replaced.")
    if isinstance(listed, list):
        return {str(name) for name in listed} & there
    return (_SURELY_OURS if repo_type == "model" else {own, "README.md"}) & there


def _write_listing(folder: Path, names: set[str]) -> None:
    for own in (PAIR_FILE, LABELS_FILE, PREDICTIONS_FILE):
        if (folder / own).is_file():
            write_json(folder / own, {**read_json(folder / own), LISTING: sorted(names)})


def _refuse_foreign(repo_id: str, brings: Iterable[str], there: set[str], ours: set[str]) -> None:
    foreign = there - ours - {".gitattributes"}
    taken = foreign & set(brings)
    if misleading := foreign & _INDEXES - set(brings):
        raise HubError(
            f"{repo_id!r} contains {min(misleading)}, which no earlier push uploaded and which programs would load "
            "instead of the weights of this one. Delete it there, or choose another repository."
        )
    if taken:
        raise HubError(
            f"{repo_id!r} contains {', '.join(sorted(taken)[:3])}, which no earlier push of hf_dmt uploaded and this "
            "one would overwrite. Delete or rename it there, or choose another repository."
        )


def fetch_pair(
    source: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    with_code: bool = False,
) -> Path:
    """A local folder with the files of a pair, and the `split.json` beside them: the source itself, or those of one
    commit on the Hub; from the cache if the Hub cannot be reached.

    Args:
        source: a folder or a Hub id.
        with_code: include the Python files that `trust_remote_code` runs.

    Raises:
        HubError: no such repository or revision, or one that is not a pair.
    """
    if Path(source).is_dir():
        return Path(source)
    check_token(token)
    place: dict[str, Any] = {"token": token, "cache_dir": cache_dir}
    with explained(f"{source!r} is not a folder and cannot be loaded from the Hub{_at(revision)}", token):
        try:
            file = Path(hf_hub_download(source, PAIR_FILE, revision=revision, **place))
        except RevisionNotFoundError:
            raise
        except RepositoryNotFoundError as problem:
            if _is_dataset(source, token):
                raise HubError(f"{source!r} is a data set, not a pair. Give a pair or two models here.") from problem
            raise
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as problem:
            raise HubError(
                f"{source!r} has no {PAIR_FILE}{_at(revision)}, so it is not a pair; it is "
                f"{_description(source, revision, token)}."
            ) from problem
        # The snapshot folder is named after its commit, so a push between two downloads cannot mix two pairs.
        patterns = [*PAIR_FILES, "split.json", *(["*.py"] if with_code else [])]
        return Path(snapshot_download(source, revision=file.parent.name, allow_patterns=patterns, **place))


def fetch_checkpoint(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """A local folder with `last-checkpoint/` and the results of the run so far, all from one commit.

    Raises:
        HubError: no such repository, or one without a checkpoint to resume from.
    """
    check_token(token)
    with explained(f"{repo_id!r} is not a folder, and no run can be resumed from the Hub{_at(revision)}", token):
        patterns = [f"{LAST_CHECKPOINT}/*", "dmt_results.json"]
        folder = Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=patterns))
    if not (folder / LAST_CHECKPOINT).is_dir():
        raise HubError(
            f"{repo_id!r} has no {LAST_CHECKPOINT}/, so there is no run to resume. Runs with "
            f"`hub_strategy='checkpoint'` create it; to train a finished pair further, open it with "
            f"`ModelPair.from_pretrained` {repo_id}."
        )
    return folder


def license_of(repo_id: str, token: str | None = None) -> str | None:
    """The license stated in a model's card; None if there is none or it cannot be read."""
    try:
        data = HfApi(token=token).model_info(repo_id).card_data
    except FAILURES:
        return None
    license = data.get("license") if data else None
    return license if isinstance(license, str) else None


def _is_dataset(repo_id: str, token: str | None) -> bool:
    try:
        return HfApi(token=token).repo_exists(repo_id, repo_type="dataset")
    except FAILURES:
        return False


def _description(repo_id: str, revision: str | None, token: str | None) -> str:
    """What a repository without `dmt_config.json` is."""
    try:
        files = HfApi(token=token).list_repo_files(repo_id, revision=revision)
    except FAILURES:
        return "something else"
    if "config.json" in files:
        return "a single model. Give it as `model_a` or `model_b` of ModelPair.from_models(model_a, model_b, ...)"
    return f"a repository with {len(files)} files and no model at its root"


def _at(revision: str | None) -> str:
    return f" at revision {revision!r}" if revision else ""
