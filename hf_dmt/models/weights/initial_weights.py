"""The initial weights of a run, for methods in which every phase starts from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...data.members import MEMBERS
from ...data.pair_file import PAIR_FILE, CheckpointError
from ..pair import ModelPair


class InitialWeights:
    """Both members as first loaded, stored on disk (where every process reads them), so that a resumed run has the
    same.

    Args:
        pair: the pair, with its initial weights unless `resumed`.

    Raises:
        CheckpointError: a resumed run without the folder.
    """

    def __init__(self, pair: ModelPair, folder: Path, *, resumed: bool, writes: bool) -> None:
        self.folder = folder
        if resumed and not (folder / PAIR_FILE).is_file():
            raise CheckpointError(
                f"{folder} is missing, but every phase of this run starts from it (`restart='initial'`). "
                "Restore the folder, or start a new run."
            )
        if not resumed and writes:
            pair.save_pretrained(folder)

    def restore(self, pair: ModelPair, seeds: Sequence[int]) -> None:
        """Restore them in place; heads and from-scratch weights are re-initialized from each member's seed."""
        pair.load_weights(self.folder)
        for name, seed in zip(MEMBERS, seeds, strict=True):
            pair.redraw(name, seed)
