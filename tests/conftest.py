"""The environment every test runs in, set before any Hugging Face library reads it on import.

Nothing may reach the internet, a developer's cache, or a developer's token. The Hub is replaced by a
server on the loopback that is empty when a test begins: an unknown id then fails as it would on the real Hub, in
milliseconds. (A closed port does not: the libraries retry it for 23 seconds per file.) Tests that start a
process inherit all of this through the environment.
"""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.hub_server import HubServer  # imports no Hugging Face library

# The tests write and delete 3 GB of small files, which takes a tenth of their time on a disk. No test fills more than a
# few megabytes at once.
_MEMORY = "/dev/shm"
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**31:
    os.environ["TMPDIR"] = tempfile.tempdir = _MEMORY

_hub = HubServer(users={"me": "hf_mine", "other": "hf_other"}, read_only={"me": "hf_mine_read_only"})
_home = tempfile.TemporaryDirectory(prefix="hf-dmt-tests-")

# A token, a cache folder or an offline switch in the caller's shell would change what the tests see.
for _name in [name for name in os.environ if name.startswith("HF_") or name == "HUGGING_FACE_HUB_TOKEN"]:
    del os.environ[_name]
os.environ.update(
    HF_HOME=_home.name,
    HF_ENDPOINT=_hub.endpoint,
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


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The Hub that `HF_ENDPOINT` names, as empty after the test as before it."""
    yield _hub
    for memory in (_hub.hub.repos, _hub.hub.uploads, _hub.requests, _hub.faults):
        memory.clear()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """torch is imported here, where tests run: the process that only distributes them would load it for nothing."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _modules_out_of_the_garbage_collection() -> None:
    """Every training ends with `gc.collect()`, which traverses all objects of the libraries: 0.4 s each time.

    Frozen objects are skipped by that traversal, and are still freed when nothing refers to them.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def figures_drawn() -> Iterator[None]:
    """Runs draw no figures, which take longer than the rest of a run here. tests/report draws all of them."""
    from hf_dmt.report import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "PANELS", [])
        yield


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw only the first figure: every other panel is drawn and written in the same way."""
    from hf_dmt.report import figures, panels

    monkeypatch.setattr(figures, "PANELS", panels.PANELS[:1])


# Files that start processes or train for long come first, then the others by size. At the end, a long one would run on
# while the other worker has nothing left to do.
_LONGEST = (
    "test_distributed.py",
    "test_resume.py",
    "test_signals.py",
    "test_kills.py",
    "test_documents.py",
    "test_benchmarks.py",
    "test_recipes.py",
    "test_runs.py",
    "test_compare.py",
    "test_demo.py",
    "test_report.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(_LONGEST)}
    size = {path: path.stat().st_size for path in {item.path for item in items}}
    items.sort(key=lambda item: (place.get(item.path.name, len(place)), -size[item.path], str(item.path)))


def pytest_unconfigure(config: pytest.Config) -> None:
    _hub.close()
    _home.cleanup()
