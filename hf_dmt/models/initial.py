"""The weights a run started from, for methods whose every phase starts from them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .pair import MEMBERS, ModelPair


class InitialWeights:
    """Both members as first loaded, kept in the output folder so that a resumed run goes back to the same.

    Args:
        pair: the pair, with its first weights unless `resumed`.
        folder: where they are kept. writes: whether this process writes them.
    """

    def __init__(self, pair: ModelPair, folder: Path, *, resumed: bool, writes: bool) -> None:
        if resumed:
            pair = ModelPair.from_pretrained(folder)
        elif writes:
            pair.save_pretrained(folder)
        self._state: list[dict[str, Tensor]] = [
            {key: value.detach().cpu().clone() for key, value in pair.member(name).state_dict().items()}
            for name in MEMBERS
        ]

    def restore(self, pair: ModelPair, seeds: Sequence[int]) -> None:
        """Put them back, in place; heads and from-scratch weights are drawn anew from each member's seed."""
        for name, state, seed in zip(MEMBERS, self._state, seeds, strict=True):
            pair.member(name).load_state_dict(state, strict=True)
            pair.redraw(name, seed)
