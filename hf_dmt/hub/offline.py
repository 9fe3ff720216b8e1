"""Fail fast without a network.

huggingface_hub tries five times over 23 seconds for each file before it looks into the cache. That suits a network that
fails occasionally, but not a machine without one. Until the Hub has answered for the first time, a failed connection
therefore counts as offline mode.
"""

from __future__ import annotations

from typing import Any

from huggingface_hub import set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory

_NO_CONNECTION = ("ConnectError", "ConnectTimeout")  # httpx in one release of the library, httpx2 in another


class HubUnreachable(OfflineModeIsEnabled):
    """The Hub could not be reached, and has not answered before."""


def fail_fast_offline() -> None:
    """From now on, the first failed connection in this process is the last one until the Hub answers."""
    answered = False

    def factory() -> Any:
        client = default_client_factory()
        send = client.send

        def send_once(*args: Any, **kwargs: Any) -> Any:
            nonlocal answered
            try:
                response = send(*args, **kwargs)
            except Exception as problem:
                if answered or type(problem).__name__ not in _NO_CONNECTION:
                    raise
                raise HubUnreachable(f"The Hub cannot be reached ({problem}).") from problem
            answered = True
            return response

        client.send = send_once  # type: ignore[method-assign]
        return client

    set_client_factory(factory)
