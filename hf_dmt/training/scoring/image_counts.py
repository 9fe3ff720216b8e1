"""The contribution of each image of a split to the scores: small counts per class, from which all scores can be
recomputed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ...data.files import write_aside
from ...data.members import SCORED

# Blocks of C columns each: the truth, then what each of SCORED got right, then what it predicted.
BLOCKS = 1 + 2 * len(SCORED)


@dataclass(frozen=True)
class ImageCounts:
    """Units (one per image, or its valid pixels) of N images by class.

    Attributes:
        table: (N, 7 C) int64, sparse, in the order of the images' rows.
    """

    table: sparse.csr_array

    @property
    def num_classes(self) -> int:
        return int(self.table.shape[1]) // BLOCKS

    @property
    def truth(self) -> sparse.csr_array:
        """(N, C): units of each class."""
        return self._block(0)

    def right(self, name: str) -> sparse.csr_array:
        """(N, C): units of each class that `name` ('a', 'b' or 'ensemble') predicted as that class."""
        return self._block(1 + SCORED.index(name))

    def predicted(self, name: str) -> sparse.csr_array:
        """(N, C): units that `name` predicted as each class, right or wrong."""
        return self._block(1 + len(SCORED) + SCORED.index(name))

    def _block(self, number: int) -> sparse.csr_array:
        c = self.num_classes
        return self.table[:, number * c : (number + 1) * c]

    @classmethod
    def of_images(cls, truth: Tensor, predictions: dict[str, Tensor], num_classes: int) -> ImageCounts:
        """From class ids (N,) of whole images; a label outside the classes is ignored."""
        rows = np.flatnonzero(((truth >= 0) & (truth < num_classes)).cpu().numpy())
        actual = truth.cpu().numpy()[rows]
        places = [(rows, actual)]
        said = {name: predictions[name].cpu().numpy()[rows] for name in SCORED}
        for number, name in enumerate(SCORED, start=1):
            hit = said[name] == actual
            places.append((rows[hit], actual[hit] + number * num_classes))
            places.append((rows, said[name] + (number + len(SCORED)) * num_classes))
        at = tuple(np.concatenate(part) for part in zip(*places, strict=True))
        ones = np.ones(len(at[0]), dtype=np.int64)
        return cls(sparse.csr_array((ones, at), shape=(len(truth), BLOCKS * num_classes)))

    @classmethod
    def of_totals(cls, totals: Iterable[Tensor], num_classes: int) -> ImageCounts:
        """From one (7, C) tensor of blocks per image."""
        lines = [part.reshape(1, -1) for part in totals]
        dense = torch.cat(lines).cpu().numpy() if lines else np.empty((0, BLOCKS * num_classes), dtype=np.int64)
        return cls(sparse.csr_array(dense))

    @classmethod
    def joined(cls, parts: Iterable[tuple[list[int], ImageCounts]]) -> ImageCounts:
        """Concatenate parts of a split, each given with the rows of its images, in the order of the rows."""
        pairs = list(parts)
        order = np.argsort(np.concatenate([np.asarray(rows, dtype=np.int64) for rows, _ in pairs]), kind="stable")
        return cls(sparse.csr_array(sparse.vstack([counts.table for _, counts in pairs], format="csr")[order]))

    def write(self, path: Path) -> None:
        """Written to a temporary file and renamed, like every file of a run."""
        buffer = io.BytesIO()
        sparse.save_npz(buffer, self.table)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> ImageCounts | None:
        """None if there is no readable file."""
        try:
            table = sparse.csr_array(sparse.load_npz(path))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return cls(table) if table.ndim == 2 and table.shape[1] % BLOCKS == 0 else None
