"""The C library's allocator while a pair trains on the CPU.

A pair holds the activations of both members until its one backward pass, more than glibc keeps for the next update: it
gives the memory back to the system and takes it again, page by page, every update. That was 4 to 6 % of a SegFormer
pair's step. A GPU's memory is kept by PyTorch itself.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of glibc's malloc.h: the parameter, its value while training, its default.
_TRIM_THRESHOLD = (-1, -1, 128 * 1024)  # -1: never give memory at the top of the heap back
_MMAP_MAX = (-4, 0, 65536)  # 0: no allocation gets a mapping of its own, which is gone when it is freed
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD")


@contextmanager
def freed_memory_is_kept() -> Iterator[None]:
    """Inside the block glibc keeps what is freed for what is needed next; at its end everything is given back.

    Nothing happens with other C libraries (macOS, Windows, musl), and where the environment sets the allocator.
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
        library.gnu_get_libc_version  # noqa: B018 - other libraries may have a mallopt that does nothing, or none
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library of the process
        return None
    return library
