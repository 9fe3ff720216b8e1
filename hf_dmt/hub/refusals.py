"""Explain errors of the Hub, and retry those that may succeed later.

Every failed call becomes a `HubError` that says what was attempted, why it failed and what to do; tokens never appear
in a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import get_token
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
from transformers.utils import logging

from ..data.messages import first_line
from .offline import HubUnreachable

logger = logging.get_logger(__name__)

_WAITS = (0.5, 3.0)  # seconds before another attempt, if the Hub does not specify
_LONGEST_WAIT = 120  # seconds; longer delays are reported instead of waited for
_BUSY = (429, 502, 503, 504)
_LOST = {"RemoteProtocolError", "ReadError", "WriteError", "ReadTimeout", "ConnectionResetError"}  # names from httpx
_Result = TypeVar("_Result")

# The first base class is the error of the underlying HTTP library, which differs between versions.
_HTTPError: type[BaseException] = HfHubHTTPError.__bases__[0]
FAILURES = (_HTTPError, OSError, HFValidationError, EntryNotFoundError, RuntimeError)  # RuntimeError: from hf_xet


class HubError(ValueError):
    """The Hub refused a call or could not be reached: what was attempted, why it failed and what to do."""


@contextmanager
def explained(attempt: str, token: str | None, *, writes: bool = False) -> Iterator[None]:
    try:
        yield
    except HubError:
        raise
    except FAILURES as problem:
        raise HubError(f"{attempt}: {_reason(problem, token, writes)}") from problem


def _reason(problem: BaseException, token: str | None, writes: bool) -> str:
    """Why a call failed and what to do, from the error and the status code."""
    status = getattr(getattr(problem, "response", None), "status_code", None)
    cause = problem.__cause__
    if isinstance(problem, LocalEntryNotFoundError) and getattr(cause, "response", None) is not None:
        # The library says that it is not in the cache even if the Hub has answered and refused.
        assert cause is not None
        return _reason(cause, token, writes)
    has_token = bool(token or get_token())
    log_in = "Log in with `hf auth login`, or set HF_TOKEN to a token from https://huggingface.co/settings/tokens"
    if isinstance(problem, HubUnreachable):
        return "the Hub cannot be reached. Check the network, or give a folder."
    if isinstance(problem, OfflineModeIsEnabled):
        return "offline mode is on. Unset HF_HUB_OFFLINE, or try again with a network."
    if isinstance(problem, LocalEntryNotFoundError):
        return (
            "it is not (fully) in the local cache and the Hub cannot be reached. Load it once with a network, or give "
            "a folder."
        )
    if isinstance(problem, HFValidationError):
        return f"that is not a valid name on the Hub ({first_line(problem)}). Write owner/name."
    if isinstance(problem, RevisionNotFoundError):
        return "it has no branch, tag or commit with that name. Check its revisions on the Hub."
    if isinstance(problem, LocalTokenNotFoundError) or (status == 401 and not has_token):
        return f"it does not exist, or it needs a token and there is none. {log_in}."
    if isinstance(problem, RepositoryNotFoundError):
        return (
            "the Hub has no such repository that this token can access. Check the spelling and the owner of the token "
            "(`hf auth whoami`)."
        )
    reasons = {
        401: f"the Hub rejects the token (it may be expired or incomplete). {log_in}.",
        403: (
            "the token has no write access. Choose a repository under your own name, or use a "
            "token with write access from the owner."
        )
        if writes
        else "the token has no read access. Request access on its page, or use a token that has it.",
        404: "the Hub has no such repository. Check the spelling.",
        409: (
            "the name is taken by something else, or another change is in progress. Choose another name, or try again."
        ),
        412: "somebody else pushed at the same time. Push again.",
        429: f"rate limit reached. {'Push' if writes else 'Try'} again in a few minutes.",
    }
    if status in reasons:
        return reasons[status]
    if status is not None and status >= 500:
        return f"the Hub has an internal error (status {status}). Try again later."
    if status is not None:
        return f"the Hub answered {status}: {first_line(problem)}"
    if isinstance(problem, (_HTTPError, ConnectionError, TimeoutError)):
        return f"the Hub cannot be reached ({type(problem).__name__}: {first_line(problem)}). Check the network."
    return f"{first_line(problem)} ({type(problem).__name__})."


def patiently(attempt: Callable[[], _Result]) -> _Result:
    """The result of a call that may be repeated; waits as long as the Hub asks for, and retries after lost answers."""
    for wait in _WAITS:
        try:
            return attempt()
        except FAILURES as problem:
            delay = _delay(problem, wait)
            if delay is None:
                raise
            logger.warning(f"The Hub is not responding normally ({first_line(problem)}); retrying in {delay:g} s.")
            time.sleep(delay)
    return attempt()


def _delay(problem: BaseException, wait: float) -> float | None:
    """Seconds after which another attempt may succeed; None if none will."""
    response = getattr(problem, "response", None)
    status = getattr(response, "status_code", None)
    if status in _BUSY:
        asked = (getattr(response, "headers", None) or {}).get("Retry-After", "")
        seconds = float(asked) if str(asked).isdigit() else wait
        return seconds if seconds <= _LONGEST_WAIT else None
    return wait if status is None and type(problem).__name__ in _LOST else None


def check_token(token: str | None) -> None:
    """Check the characters of a token: an HTTP library quotes a header that it cannot send, including the token."""
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError(
            f"The token of {len(token)} characters contains spaces, line breaks or other invalid characters. Copy it "
            "again from https://huggingface.co/settings/tokens."
        )
