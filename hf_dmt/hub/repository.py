"""A repository on the Hub: opened at one commit, written in one commit, and what its refusals mean.

The only file that talks to the Hub. Every failure leaves it as a `HubError` that names the repository, the reason and
what to do; a token never enters a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

PAIR_FILE = "dmt_config.json"
LABELS_FILE = "dmt_labels.json"
PEER_FOLDER = "peer"
LAST_CHECKPOINT = "last-checkpoint"

_MEMBER_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
PAIR_FILES = (*_MEMBER_FILES, *(f"{PEER_FOLDER}/{name}" for name in _MEMBER_FILES), PAIR_FILE)
"""What a pair is made of, as patterns."""
PUBLISHED = (*PAIR_FILES, "README.md", "report.html", "figures/*", "dmt_results.json", "split.json")
"""What a push may contain, as patterns: nothing else of a run's folder ever leaves the machine."""

# The first base is the error of the HTTP library underneath: httpx in one release, another in the next.
_HTTPError: type[BaseException] = HfHubHTTPError.__bases__[0]
_FAILURES = (_HTTPError, OSError, HFValidationError, EntryNotFoundError, RuntimeError)  # RuntimeError: hf_xet's


class HubError(ValueError):
    """The Hub refused or could not be reached: what was tried, why it failed and what to do."""


def open_target(repo_id: str, *, token: str | None, private: bool | None = None, repo_type: str = "model") -> str:
    """Create the repository unless it exists, and make sure that a push into it will be accepted and meant.

    Returns:
        The full id, with the owner.

    Raises:
        HubError: no or a wrong token, no right to write, a model that is not a pair (a data set that is not pseudo
            labels) under this name, or a public repository where a private one was asked for.
    """
    _check_token(token)
    api = HfApi(token=token)
    with _explained(f"Cannot push to {repo_id!r}", token):
        name: str = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True).repo_id
        api.auth_check(name, repo_type=repo_type, write=True)
        files = set(api.list_repo_files(name, repo_type=repo_type))
        is_public = private and not getattr(api.repo_info(name, repo_type=repo_type), "private", False)
    if is_public:
        raise HubError(
            f"{name!r} exists and is public, but a private repository was asked for. Make it private in its settings "
            "on the Hub, or choose another name."
        )
    if repo_type == "model":
        foreign = [file for file in files if file == "config.json" or file.endswith((".safetensors", ".bin"))]
        own, what = PAIR_FILE, "another model"
    else:
        foreign = [file for file in files if file not in (".gitattributes", "README.md")]
        own, what = LABELS_FILE, "another data set"
    if own not in files and foreign:
        raise HubError(
            f"{name!r} holds {what} ({min(foreign)}, no {own}), which this push would overwrite. Choose another name"
            f"{' with --hub_model_id' if repo_type == 'model' else ''}."
        )
    return name


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
    """Send every file of `folder` in one commit, so that no reader ever sees half a pair.

    Files that the repository has already do not travel again, nor do those that arrived before a connection was lost.

    Args:
        revision: branch, made from `main` if there is none. tag: a name for the commit.
        replaces: patterns; files in the repository that match and are not in `folder` are deleted in the same commit,
            so that weights or figures of an earlier push do not stay beside the new ones.

    Raises:
        HubError: the push failed; the revision that was there before is whole.
    """
    _check_token(token)
    api = HfApi(token=token)
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with _explained(f"The push to {repo_id!r} failed", token):
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        there = api.list_repo_files(repo_id, revision=revision, repo_type=repo_type)
        stale = [name for name in there if name not in paths and any(fnmatch(name, pattern) for pattern in replaces)]
        operations: list[Any] = [
            *(CommitOperationDelete(path_in_repo=name) for name in stale),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in paths.items()),
        ]
        # Not upload_folder: with hf_xet it makes several commits of a large folder.
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision, repo_type=repo_type)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=commit.oid, repo_type=repo_type)
    return commit


def fetch_pair(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    with_code: bool = False,
) -> Path:
    """A local folder with the files of a pair, all of one commit; from the cache where the Hub cannot be reached.

    Args:
        with_code: also the Python files that `trust_remote_code` runs.

    Raises:
        HubError: no such repository or revision, or one that is not a pair.
    """
    _check_token(token)
    place: dict[str, Any] = {"token": token, "cache_dir": cache_dir}
    with _explained(f"{repo_id!r} is not a folder, and on the Hub it cannot be opened{_at(revision)}", token):
        try:
            file = Path(hf_hub_download(repo_id, PAIR_FILE, revision=revision, **place))
        except RevisionNotFoundError:
            raise
        except RepositoryNotFoundError as problem:
            if _is_dataset(repo_id, token):
                raise HubError(
                    f"{repo_id!r} is a data set, not a pair. Give it as --dataset_name, and a pair or two models here."
                ) from problem
            raise
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as problem:
            raise HubError(
                f"{repo_id!r} has no {PAIR_FILE}{_at(revision)}, so it is not a pair; it is "
                f"{_description(repo_id, revision, token)}."
            ) from problem
        # The snapshot's folder is named after its commit: a push between two downloads cannot mix two pairs.
        patterns = [*PAIR_FILES, *(["*.py"] if with_code else [])]
        return Path(snapshot_download(repo_id, revision=file.parent.name, allow_patterns=patterns, **place))


def fetch_checkpoint(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """A local folder with `last-checkpoint/` and the results of the run up to it, all of one commit.

    Raises:
        HubError: no such repository, or one without a checkpoint to resume from.
    """
    _check_token(token)
    with _explained(f"{repo_id!r} is not a folder, and on the Hub no run can be resumed from it{_at(revision)}", token):
        patterns = [f"{LAST_CHECKPOINT}/*", "dmt_results.json"]
        folder = Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=patterns))
    if not (folder / LAST_CHECKPOINT).is_dir():
        raise HubError(
            f"{repo_id!r} has no {LAST_CHECKPOINT}/, so there is no run to resume. It is written by runs with "
            f"--hub_strategy checkpoint; to train a finished pair further, give --pair {repo_id}."
        )
    return folder


def licence_of(repo_id: str, token: str | None = None) -> str | None:
    """The licence that a model's card states; None where it states none or cannot be read."""
    try:
        data = HfApi(token=token).model_info(repo_id).card_data
    except _FAILURES:
        return None
    licence = data.get("license") if data else None
    return licence if isinstance(licence, str) else None


@contextmanager
def _explained(attempt: str, token: str | None) -> Iterator[None]:
    try:
        yield
    except HubError:
        raise
    except _FAILURES as problem:
        raise HubError(f"{attempt}: {_reason(problem, token)}") from problem


def _reason(problem: BaseException, token: str | None) -> str:
    """Why a call failed and what to do, from the kind of error and the status that the Hub answered."""
    status = getattr(getattr(problem, "response", None), "status_code", None)
    has_token = bool(token or get_token())
    log_in = "Log in with `hf auth login`, or set HF_TOKEN to a token from https://huggingface.co/settings/tokens"
    if isinstance(problem, OfflineModeIsEnabled):
        return "offline mode is on. Unset HF_HUB_OFFLINE, or try again where there is a network."
    if isinstance(problem, LocalEntryNotFoundError):
        return (
            "it is not (wholly) in the local cache and the Hub cannot be reached. Load it once with a network, or give "
            "a folder."
        )
    if isinstance(problem, HFValidationError):
        return f"that is not a name the Hub allows ({_first_line(problem)}). Write owner/name."
    if isinstance(problem, RevisionNotFoundError):
        return "it has no branch, tag or commit of that name. Look at its revisions on the Hub."
    if isinstance(problem, LocalTokenNotFoundError) or (status == 401 and not has_token):
        return f"there is no token, and without one it does not exist or cannot be read or written. {log_in}."
    if isinstance(problem, RepositoryNotFoundError):
        return (
            "the Hub has no repository of that name and kind that this token may see. Check the spelling and whose "
            "token it is (`hf auth whoami`)."
        )
    reasons = {
        401: f"the Hub does not know the token (it may be expired or cut short). {log_in}.",
        403: "the token has no right to write there. Choose a repository under your own name with --hub_model_id, or "
        "use a token with write access that the owner has granted.",
        404: "the Hub has no repository of that name and kind. Check the spelling.",
        409: "the name is taken by something else, or another change is being made. Choose another name with "
        "--hub_model_id, or try again.",
        412: "somebody else has pushed at the same moment. Push again.",
        429: "the Hub takes no more requests for now. Push again in a few minutes.",
    }
    if status in reasons:
        return reasons[status]
    if status is not None and status >= 500:
        return f"the Hub has a problem of its own (status {status}). Try again later."
    if status is not None:
        return f"the Hub answered {status}: {_first_line(problem)}"
    if isinstance(problem, (_HTTPError, ConnectionError, TimeoutError)):
        return f"the Hub cannot be reached ({type(problem).__name__}: {_first_line(problem)}). Check the network."
    return f"{_first_line(problem)} ({type(problem).__name__})."


def _check_token(token: str | None) -> None:
    """An HTTP library quotes a header that it cannot send, and with it the token."""
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError(
            f"The token of {len(token)} characters contains spaces, line breaks or letters that no token has. Copy it "
            "again from https://huggingface.co/settings/tokens."
        )


def _is_dataset(repo_id: str, token: str | None) -> bool:
    try:
        return HfApi(token=token).repo_exists(repo_id, repo_type="dataset")
    except _FAILURES:
        return False


def _description(repo_id: str, revision: str | None, token: str | None) -> str:
    """What a repository without `dmt_config.json` is."""
    try:
        files = HfApi(token=token).list_repo_files(repo_id, revision=revision)
    except _FAILURES:
        return "something else"
    if "config.json" in files:
        return (
            f"a single model. Give it as --model_a or --model_b (from Python: ModelPair.from_models({repo_id!r}, ...))"
        )
    return f"a repository of {len(files)} files without a model at its root"


def _at(revision: str | None) -> str:
    return f" at revision {revision!r}" if revision else ""


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
