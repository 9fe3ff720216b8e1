"""Keep the random states of training while something else (labeling, evaluation) draws numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Python's, NumPy's and torch's random states are the same after the block as before it.

    Labeling and evaluation must not change what training draws next: a resumed run does not repeat them, and would
    draw other images and other dropout masks than the run that was never interrupted.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
