"""The labels of one phase: made once by both models, or read again when a run resumes in the middle of a phase."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list

from ...data.drawing.samples import PseudoLabels
from ...data.labels.pseudo_labels import ImageLabels, PixelLabels, StoreError
from ...data.members import MEMBERS, TEACHERS
from ...method import Phase
from ..settings.knobs import Knobs
from . import label_pass
from .gallery import has_gallery, keep_gallery
from .inference import CleanPass


@dataclass(frozen=True)
class PhaseLabels:
    """What the models learn from in a phase.

    Attributes:
        stores: the store each model learns from, by the student's name.
        summary: for each maker (a, b, possibly the graph), figures of the labels **made by** it.
        seconds: the time it took.
        made_by: a hash of the weights that made them; None if a checkpoint of an earlier version did not say.
    """

    stores: dict[str, PseudoLabels]
    summary: dict[str, Any]
    seconds: float
    made_by: str | None = None

    def shares(self) -> dict[str, float]:
        """For trackers: the share of its labels that each model selected and, if known, the share of them that is
        right."""
        named = {"selected": "selected", "accuracy": "label_accuracy"}
        shares = {f"{name}/{log}": made[key] for name, made in self.summary.items() for key, log in named.items()}
        return {key: value for key, value in shares.items() if value is not None}

    def class_counts(self) -> dict[str, list[int]]:
        """For telemetry: how often each class occurs among each model's selected labels."""
        return {f"{name}/class_counts": made["class_counts"] for name, made in self.summary.items()}


def provide(
    phase: Phase,
    clean_pass: CleanPass,
    unlabeled: Any,
    knobs: Knobs,
    output_dir: str,
    *,
    in_the_middle: bool,
    made_by: str | None = None,
    keep_earlier: bool = False,
    labeled: Any = None,
) -> PhaseLabels:
    """Make the labels of `phase`, unless there is a complete store from these weights and images.

    Args:
        labeled: images with true labels, for `--labeler graph`.
        in_the_middle: the weights are from the middle of the phase, so they did not make its labels.
        made_by: then, a hash of the weights that did, if it is known. Labels of other weights, such as those of another
            run or of an earlier start in this folder, are not used.
        keep_earlier: keep the labels of earlier phases on disk; otherwise they are deleted once these are complete.

    Raises:
        ValueError: the labels are missing and cannot be made again.
    """
    assert phase.label_ratio is not None
    start, pair, writes = time.monotonic(), clean_pass.pair, clean_pass.accelerator.is_main_process
    folder = label_pass.phase_folder(output_dir, phase.index)
    facts = {
        "phase": phase.index,
        "ids": label_pass.ids_hash(unlabeled),
        "ratio": phase.label_ratio,
        # The store keeps every pixel, while the official arithmetic uses every 16th.
        "selection_rule": "official" if knobs.official and pair.task == "image-classification" else "exact",
        "class_balanced": knobs.class_balanced,
        "image_size": pair.image_size,
        "exact_decoding": clean_pass.exact_decoding,
    }
    if not in_the_middle:
        made_by = label_pass.weights_hash(pair)
    if made_by is not None:
        facts["weights"] = made_by
    # Decided once for all processes: a process that is ahead could change the state before a slower one looks.
    makers = label_pass.makers(knobs)
    there = [writes and label_pass.reusable(folder, facts, makers), has_gallery(phase.index, output_dir)]
    broadcast_object_list(there)
    reusable, has_pictures = there
    if not reusable:
        if in_the_middle:
            raise StoreError(
                f"The labels of phase {phase.index} are missing from {folder}, or they belong to other images or to "
                "another run, and weights from the middle of a phase cannot make them again. Resume from the "
                "checkpoint at the end of the previous phase. (Labels are deleted when the next phase has its own, "
                "unless `keep_pseudo_labels='all'`.)"
            )
        if pair.task == "image-classification":
            label_pass.label_images(clean_pass, unlabeled, folder, knobs=knobs, facts=facts, labeled=labeled)
        else:
            label_pass.label_pixels(clean_pass, unlabeled, folder, knobs=knobs, facts=facts)
    # A run killed between the two has the labels but not the gallery.
    if not in_the_middle and not (reusable and has_pictures):
        keep_gallery(phase.index, output_dir, clean_pass, unlabeled, knobs)
    if writes and not keep_earlier:
        label_pass.delete_earlier(output_dir, phase.index)
    teacher = TEACHERS[knobs.labeler]
    store: type[ImageLabels] | type[PixelLabels]
    store = ImageLabels if pair.task == "image-classification" else PixelLabels
    stores = {name: store.read(folder / name) for name in set(teacher.values())}
    return PhaseLabels(
        stores={student: stores[teacher[student]] for student in MEMBERS},
        summary=label_pass.read_summary(folder, makers),
        seconds=round(time.monotonic() - start, 3),
        made_by=made_by,
    )
