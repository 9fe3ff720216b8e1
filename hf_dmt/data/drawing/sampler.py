"""Which image is drawn when: the micro-batches of one process, a pure function of (seed, phase, member, position).

The two members draw from independent streams: separate order, augmentation and selection. So ranks never repeat each
other, the number of workers does not matter, and a resumed run draws what the uninterrupted one would have drawn.

This runs in the main process, alongside training, so a batch is drawn as arrays: its seeds are one block of a
counter-based generator, which gives the numbers at any position directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np

from ..members import MEMBERS
from ..seeds import seed_sequence


class Draw(NamedTuple):
    """One sample for one member: the image at `row` of the labeled or unlabeled set, augmented with `seed`."""

    member: str
    is_pseudo: bool
    row: int
    seed: int


@dataclass(frozen=True)
class BatchShape:
    """Images per optimizer update over all processes and accumulation steps, and how they are divided.

    Attributes:
        labeled, pseudo: images per update.
        world_size, accumulation: processes, micro-batches per update.
    """

    labeled: int
    pseudo: int
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulation
        for name, size in (("labeled_batch_size", self.labeled), ("pseudo_batch_size", self.pseudo)):
            if size % parts:
                below, above = size // parts * parts, (size // parts + 1) * parts
                nearest = f"{below} or {above}" if below else f"{above}"
                raise ValueError(
                    f"{name} {size} cannot be divided evenly over {self.world_size} process(es) x {self.accumulation} "
                    f"accumulation step(s). It counts images per update over all of them: use {nearest}."
                )

    def labels_only(self) -> BatchShape:
        """Phase 0: the same number of images, all labeled."""
        return BatchShape(self.labeled + self.pseudo, 0, self.world_size, self.accumulation)


class PhaseBatchSampler:
    """The micro-batches of one process in the current phase: lists of `(draw for a, draw for b)`, or of the draw for
    the only member that trains.

    `begin` sets the phase. Streams are endless: one permutation of the rows after another. `batch_size` and `drop_last`
    are read by accelerate.
    """

    drop_last = False

    def __init__(self, shape: BatchShape, *, rank: int = 0, seed: int = 42) -> None:
        self.shape, self.rank, self.seed = shape, rank, seed
        self.phase, self.steps, self.done = 0, 0, 0
        self.rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def begin(
        self, phase: int, steps: int, labeled: dict[str, np.ndarray], pseudo: dict[str, np.ndarray], *, done: int = 0
    ) -> None:
        """Set the phase: its number of updates and, for each training member, the rows it draws from (empty: none of
        this kind).

        In a phase without pseudo-labeled rows the whole batch is labeled.

        Args:
            done: updates before a resume. The Trainer takes their batches and discards them, so they are empty.
        """
        self.phase, self.steps, self.done = phase, steps, done
        self.rows = {member: (labeled[member], pseudo[member]) for member in labeled}

    @property
    def batch_size(self) -> int:
        """Images per micro-batch and process."""
        return (self.shape.labeled + self.shape.pseudo) // (self.shape.world_size * self.shape.accumulation)

    def __len__(self) -> int:
        return self.steps * self.shape.accumulation

    def __iter__(self) -> Iterator[list[tuple[Draw, ...]]]:
        for _ in range(self.done * self.shape.accumulation):
            yield []
        yield from self._batches(self.done)

    def _batches(self, first: int) -> Iterator[list[tuple[Draw, ...]]]:
        """The micro-batches of the phase, starting at update `first`."""
        streams = [self._member_batches(member, MEMBERS.index(member), first) for member in self.rows]
        for batches in zip(*streams, strict=True):
            yield list(zip(*batches, strict=True))

    def draws_of_updates(self, first: int, last: int) -> list[dict[str, list[Draw]]]:
        """The draws of this process in the phase's updates `first` to `last` (excluded), by member.

        Draws are a function of the seed, so nothing needs to be stored.
        """
        parts = self.shape.accumulation
        batches = list(islice(self._batches(first), (last - first) * parts))
        updates = [batches[start : start + parts] for start in range(0, len(batches), parts)]
        return [
            {
                member: [draw for batch in update for draws in batch for draw in draws if draw.member == member]
                for member in self.rows
            }
            for update in updates
        ]

    def _member_batches(self, member: str, position: int, first: int) -> Iterator[list[Draw]]:
        labeled, pseudo = self.rows[member]
        shape = self.shape if len(pseudo) else self.shape.labels_only()
        parts = shape.world_size * shape.accumulation
        streams = [
            (_Stream(member, is_pseudo, rows, (self.seed, self.phase, position, int(is_pseudo))), size // parts)
            for is_pseudo, rows, size in ((False, labeled, shape.labeled), (True, pseudo, shape.pseudo))
            if size
        ]
        for update in range(first, self.steps):
            for micro in range(shape.accumulation):
                # The update's draws in order; micro-batches and ranks take slices, so that one process with a batch of
                # 16 and two with 8 each train on the same 16 images.
                part = update * parts + micro * shape.world_size + self.rank
                yield [draw for stream, size in streams for draw in stream.draws(part * size, size)]


class _Stream:
    """An endless shuffled stream over rows, with random access."""

    def __init__(self, member: str, is_pseudo: bool, rows: np.ndarray, key: tuple[int, ...]) -> None:
        self.member, self.is_pseudo, self.rows, self.key = member, is_pseudo, rows, key
        self._orders: dict[int, np.ndarray] = {}

    def draws(self, first: int, count: int) -> list[Draw]:
        length, last = len(self.rows), first + count - 1
        # Earlier permutations are not kept: one of a million rows takes 8 MB.
        self._orders = {turn: self._order(turn) for turn in range(first // length, last // length + 1)}
        order = np.concatenate(list(self._orders.values())) if len(self._orders) > 1 else self._orders[first // length]
        start = first % length
        rows = self.rows[order[start : start + count]].tolist()
        return list(map(Draw, repeat(self.member), repeat(self.is_pseudo), rows, self._seeds(first, count)))

    def _order(self, turn: int) -> np.ndarray:
        if turn in self._orders:
            return self._orders[turn]
        return np.random.default_rng(seed_sequence(*self.key, turn)).permutation(len(self.rows))

    def _seeds(self, first: int, count: int) -> list[int]:
        generator = np.random.Philox(seed_sequence(*self.key))
        words = 4  # numbers per step of Philox's counter
        generator.advance(first // words)
        skipped = first % words
        return generator.random_raw(skipped + count)[skipped:].tolist()
