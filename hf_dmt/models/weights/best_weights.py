"""Each member's best weights on the eval split within a phase, for phases that end with them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...data.members import MEMBERS
from ...data.pair_file import CheckpointError
from ..pair import ModelPair

BEST_FILE = "best.safetensors"


class BestMembers:
    """The best weights of each member so far, which may be from different updates. Kept on the CPU.

    Of equal scores the later one is kept, because it has trained longer.
    """

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}

    def update(self, pair: ModelPair, scores: dict[str, float]) -> None:
        """Keep the weights of members whose score, a fraction, is at least their best."""
        for name, score in scores.items():
            if score >= self.scores.get(name, score):
                self.scores[name] = score
                self.weights[name] = {
                    key: value.detach().cpu().clone() for key, value in pair.member(name).state_dict().items()
                }

    def restore(self, pair: ModelPair) -> None:
        """Give each member its best weights, and start over."""
        for name, weights in self.weights.items():
            pair.member(name).load_state_dict(weights, strict=True)
        self.scores, self.weights = {}, {}

    def save(self, folder: str | Path) -> None:
        """Save beside a checkpoint in the middle of a phase; nothing before the first evaluation."""
        if self.weights:
            tensors = {f"{name}/{key}": value for name in self.weights for key, value in self.weights[name].items()}
            save_file(tensors, Path(folder) / BEST_FILE, {"scores": json.dumps(self.scores)})

    def load(self, folder: str | Path) -> None:
        """Continue from a checkpoint; one without the file is from before the first evaluation of its phase.

        Raises:
            CheckpointError: the file cannot be read.
        """
        self.scores, self.weights = {}, {}
        file = Path(folder) / BEST_FILE
        if not file.is_file():
            return
        try:
            with safe_open(file, framework="pt") as saved:
                self.scores = json.loads(saved.metadata()["scores"])
                for key in saved.keys():  # noqa: SIM118  (a safe_open has no iterator)
                    name, _, rest = key.partition("/")
                    self.weights.setdefault(name, {})[rest] = saved.get_tensor(key)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as problem:
            raise CheckpointError(f"{file} cannot be read ({problem}). Resume from another checkpoint.") from problem
        if set(self.scores) != set(self.weights) or not set(self.scores) <= set(MEMBERS):
            raise CheckpointError(f"{file} does not belong to a pair. Resume from another checkpoint.")
