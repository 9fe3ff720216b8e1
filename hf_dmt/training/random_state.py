"""Keep the random states of training unchanged while labeling or evaluation uses random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch at the end of the block.

    Labeling and evaluation must not affect training: a resumed run does not repeat them, so it would draw different
    images and dropout masks than an uninterrupted run.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
