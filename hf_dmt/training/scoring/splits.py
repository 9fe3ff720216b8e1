"""The results file's entries for a scored split: the scores, and how much of a change since phase 0 may be chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .chance import chance_of
from .evaluation import Scores, without_loss
from .image_counts import ImageCounts


class ScoredSplits:
    """Writes scores to the records of phases.

    The contribution of each image to the scores of phase 0 is stored in `scored/`, and later scores are compared with
    it.

    Args:
        writes: whether this process keeps the records; others may not have the file and skip the comparison.
    """

    def __init__(self, folder: str | Path, task: str, class_names: Sequence[str], *, writes: bool) -> None:
        self.folder, self.task, self.class_names, self.writes = Path(folder), task, class_names, writes

    def enter(self, entry: dict[str, Any], split: str, scores: Scores | None, counts: ImageCounts | None) -> None:
        """`entry[split]` becomes the scores of a, b and ensemble, None if nothing was scored.

        In the record of phase 0 (`entry["phase"] == 0`), `entry["classes"][split]` becomes the number of units of each
        class in the truth: images, or valid pixels. In later records, and in one without a phase, each score gets
        `chance` if it is known, see `chance_of`.
        """
        entry[split] = None
        if scores is None or counts is None:
            return
        kept = without_loss(scores)
        entry[split] = kept
        file = self.folder / "scored" / f"{split}-phase-0.npz"
        if entry.get("phase") == 0:
            units = counts.truth.sum(axis=0).tolist()
            entry.setdefault("classes", {})[split] = dict(zip(self.class_names, units, strict=True))
            if self.writes:
                counts.write(file)
        elif self.writes and (before := ImageCounts.read(file)) is not None:
            for name, chance in (chance_of(self.task, before, counts) or {}).items():
                kept[name]["chance"] = chance
