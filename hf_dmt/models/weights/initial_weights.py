"""The weights a run started from, for methods whose every phase starts from them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...data.members import MEMBERS
from ..loading import CheckpointError
from ..pair import PAIR_FILE, ModelPair


class InitialWeights:
    """Both members as first loaded, kept on disk (every process reads them there), so that a resumed run has the same.

    Args:
        pair: the pair, with its first weights unless `resumed`.
        folder: where they are kept. writes: whether this process writes them.

    Raises:
        CheckpointError: a resumed run without the folder.
    """

    def __init__(self, pair: ModelPair, folder: Path, *, resumed: bool, writes: bool) -> None:
        self.folder = folder
        if resumed and not (folder / PAIR_FILE).is_file():
            raise CheckpointError(
                f"{folder} is gone, and with it the weights that every phase of this run starts from "
                "(`restart='initial'`). Put the folder back, or start a new run."
            )
        if not resumed and writes:
            pair.save_pretrained(folder)

    def restore(self, pair: ModelPair, seeds: Sequence[int]) -> None:
        """Put them back, in place; heads and from-scratch weights are drawn anew from each member's seed."""
        pair.load_weights(self.folder)
        for name, seed in zip(MEMBERS, seeds, strict=True):
            pair.redraw(name, seed)
