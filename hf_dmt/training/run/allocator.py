"""Tune the C library's memory allocator while a pair trains on the CPU.

The activations of an update are more than glibc keeps for reuse, so it returns the memory to the system and requests it
again, page by page, at every update: 2 % of a SegFormer pair's step, and 13 % where the activations of both models are
in memory at once, as on several processes. On GPUs, PyTorch caches memory itself.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# From glibc's malloc.h: the parameter, its value during training, its default.
_TRIM_THRESHOLD = (-1, -1, 128 * 1024)  # -1: never return memory at the top of the heap
_MMAP_MAX = (-4, 0, 65536)  # 0: no allocation gets its own mapping, which would be unmapped when freed
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD")


@contextmanager
def freed_memory_is_kept() -> Iterator[None]:
    """Inside the block glibc keeps freed memory for reuse; afterwards it is returned to the system.

    Does nothing with other C libraries (macOS, Windows, musl) or if the environment configures the allocator.
    """
    library = _glibc()
    if library is None:
        yield
        return
    for parameter, value, _ in (_TRIM_THRESHOLD, _MMAP_MAX):
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, _, default in (_TRIM_THRESHOLD, _MMAP_MAX):
            library.mallopt(parameter, default)
        library.malloc_trim(0)


def _glibc() -> Any | None:
    if any(os.environ.get(name) for name in _SET_BY_USER):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - in other libraries mallopt may be missing or do nothing
    except (OSError, AttributeError, TypeError):  # TypeError: on Windows, CDLL(None) does not exist
        return None
    return library
