"""Seeds that are a function of a few numbers, and blocks whose random numbers follow from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_for(*parts: int) -> int:
    """One 64-bit seed from non-negative integers, the same on every platform and in every process.

    Raises:
        OverflowError: a part is negative or does not fit in 64 bits.
    """
    return int(seed_sequence(*parts).generate_state(1, np.uint64)[0])


def seed_sequence(*parts: int) -> np.random.SeedSequence:
    """A seed for NumPy's generators that is unique to `parts`.

    The number of parts is written first, and each part has a fixed width: by default, `np.random.SeedSequence` gives
    the same seed to `[1]` and `[1, 0]`, or to `[2**32]` and `[0, 1]`.

    Raises:
        OverflowError: a part is negative or does not fit in 64 bits.
    """
    words = np.array([len(parts), *parts], dtype="<u8").view("<u4")
    return np.random.SeedSequence(words.tolist())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore its state afterwards.

    `torch.manual_seed` would also seed the accelerators' generators, which `fork_rng(devices=[])` does not restore:
    with `num_workers=0`, every sample would then reset the dropout of the running model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
