"""Where the two models disagree on the unlabeled images, read from the pseudo-label store."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data.labels.disagreement import contradicting_images
from ..data.labels.pseudo_labels import ImageLabels, StoreError, is_complete, read_manifest
from ..data.members import MEMBERS
from ..method import decode_confidence
from .run import Run

SHOWN_IMAGES, SHOWN_PAIRS = 20, 10
_COLUMNS = ("label", "confidence", "selected")


@dataclass(frozen=True)
class Disagreement:
    """Both models' labels of the unlabeled images in one phase, compared.

    Attributes:
        agree: fraction of all images with the same label.
        images: the most confident disagreements, `{id, a, b, a_confidence, b_confidence}` with class names.
        pairs: the most frequent disagreements, `(class of a, class of b, images)`.
    """

    phase: int
    agree: float
    total: int
    images: list[dict[str, Any]]
    pairs: list[tuple[str, str, int]]


def last_disagreement(run: Run) -> Disagreement | None:
    """The disagreements in the last phase whose image labels are in the folder; None for pixels or without a store."""
    if run.is_pixels:
        return None
    for entry in reversed(run.labeled_phases):
        tables = [_read_table(_folder(run, entry, member)) for member in MEMBERS]
        if all(table is not None for table in tables):
            return _compare(run, entry["phase"], *tables)
    return None


def class_thresholds(run: Run, entry: dict[str, Any]) -> dict[str, list[float | None]] | None:
    """For each model, the confidence from which labels of each class were used in a phase; None without a store.

    For classification this is the confidence of the least confident selected label of the class. None for a class
    without selected labels, or if every label is used.
    """
    folders = {member: _folder(run, entry, member) for member in MEMBERS}
    if not run.is_pixels:
        tables = {member: _read_table(folder) for member, folder in folders.items()}
        lowest = {member: _least_confident(table, run) for member, table in tables.items() if table is not None}
        return lowest if len(lowest) == len(MEMBERS) else None
    try:
        codes = {member: torch.tensor(read_manifest(folder)["code_thresholds"]) for member, folder in folders.items()}
    except StoreError:  # missing, or damaged, which matters to training only
        return None
    return {member: [value or None for value in decode_confidence(values).tolist()] for member, values in codes.items()}


def _folder(run: Run, entry: dict[str, Any], member: str) -> Path:
    return run.folder / "pseudo_labels" / f"phase-{entry['phase']}" / member


def _read_table(folder: Path) -> pa.Table | None:
    file = folder / "labels.parquet"
    try:
        return pq.read_table(file) if is_complete(folder) else None
    except (OSError, ValueError):
        return None


def _least_confident(table: pa.Table, run: Run) -> list[float | None]:
    used = table["selected"].to_numpy(zero_copy_only=False)
    labels, confidence = table["label"].to_numpy()[used], table["confidence"].to_numpy()[used]
    lowest = np.full(len(run.class_names), np.inf)
    np.minimum.at(lowest, labels, confidence)
    return [float(value) if np.isfinite(value) else None for value in lowest]


def _compare(run: Run, phase: int, a: pa.Table, b: pa.Table) -> Disagreement | None:
    if a.num_rows != b.num_rows or not a.num_rows:
        return None
    label_a, label_b = (table["label"].to_numpy() for table in (a, b))
    confidence_a, confidence_b = (table["confidence"].to_numpy() for table in (a, b))
    differ = contradicting_images(
        *(ImageLabels(*(table[key].to_numpy(zero_copy_only=False) for key in _COLUMNS)) for table in (a, b))
    )
    names = run.class_names
    images = [
        {
            "id": a["id"][row].as_py(),
            "a": names[label_a[row]],
            "b": names[label_b[row]],
            "a_confidence": float(confidence_a[row]),
            "b_confidence": float(confidence_b[row]),
        }
        for row in differ[:SHOWN_IMAGES].tolist()
    ]
    counted = Counter(zip(label_a[differ].tolist(), label_b[differ].tolist(), strict=True))
    pairs = [(names[left], names[right], count) for (left, right), count in counted.most_common(SHOWN_PAIRS)]
    return Disagreement(phase, 1 - len(differ) / len(label_a), len(label_a), images, pairs)
