"""The C library's allocator while a pair trains on the CPU."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from hf_dmt.training.run import allocator

COUNT_FAULTS = """
import resource
from hf_dmt.training.run.allocator import freed_memory_is_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
with freed_memory_is_kept():
    for _ in range(10):
        faults()
    kept = faults()
print(usual, kept)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against mallopt settings without effect: every update would request its memory from the system again."""
    for name in allocator._SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert kept < usual / 10
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert allocator._glibc() is None, "whoever sets the allocator decides"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that ends on macOS or with musl because their C library lacks the function."""
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    with allocator.freed_memory_is_kept():
        assert torch.ones(1).item() == 1
