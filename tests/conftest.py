"""The environment every test runs in, set before any Hugging Face library reads it on import.

Nothing may reach the internet, a developer's cache, or a developer's token. The Hub is replaced by a
server on the loopback that knows no repository: an unknown id then fails as it would on the real Hub, in
milliseconds. (A closed port does not: the libraries retry it for 23 seconds per file.) Tests that start a
process inherit all of this through the environment.
"""

import os
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class _EmptyHub(BaseHTTPRequestHandler):
    """Answers every request as the Hub answers for a repository that does not exist."""

    def do_GET(self) -> None:
        # The Hub names the reason in this header; the clients turn it into RepositoryNotFoundError.
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep requests out of the test output."""


_home = tempfile.TemporaryDirectory(prefix="hf-dmt-tests-")
_hub = ThreadingHTTPServer(("127.0.0.1", 0), _EmptyHub)
threading.Thread(target=_hub.serve_forever, daemon=True).start()

# A token, a cache folder or an offline switch in the caller's shell would change what the tests see.
for _name in [name for name in os.environ if name.startswith("HF_") or name == "HUGGING_FACE_HUB_TOKEN"]:
    del os.environ[_name]
os.environ.update(
    HF_HOME=_home.name,
    HF_ENDPOINT=f"http://127.0.0.1:{_hub.server_port}",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_XET="1",
    NO_PROXY="127.0.0.1,localhost",
    no_proxy="127.0.0.1,localhost",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # tiny tensors: threads only fight for the cores
    TOKENIZERS_PARALLELISM="false",
)

import torch  # noqa: E402  (reads OMP_NUM_THREADS on import)

torch.set_num_threads(1)


def pytest_unconfigure(config: pytest.Config) -> None:
    _hub.shutdown()
    _home.cleanup()
