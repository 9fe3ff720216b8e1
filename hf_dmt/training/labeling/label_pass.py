"""Between phases: both models label the clean unlabeled images in one pass, and the labels are stored.

With `--labeler graph` the same pass returns features, and a third maker of labels, the graph, labels for both models.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from ...data.drawing.clean_images import resize_mask
from ...data.labels.pseudo_labels import MANIFEST, ImageLabels, PixelLabels, StoreError, read_manifest
from ...data.members import MEMBERS
from ...data.splitting.splits import image_ids, sha256_of_ids
from ...data.tasks import IGNORE_INDEX
from ...method import confidence_histogram, encode_confidence, pseudo_label, select_top_ratio, thresholds_from_histogram
from ...method.selection import selected_count
from ...models.pair import ModelPair
from ...models.weights.sharding import whole
from ..settings.knobs import Knobs
from . import graph, label_quality
from .inference import CleanPass


def phase_folder(output_dir: str | Path, phase: int) -> Path:
    """The folder of a phase's pseudo labels: `pseudo_labels/phase-k`, containing `a`, `b` and possibly `graph`."""
    return Path(output_dir) / "pseudo_labels" / f"phase-{phase}"


def delete_earlier(output_dir: str | Path, phase: int) -> None:
    """Delete the labels of the phases before `phase`: they are not read again, and pixel labels take gigabytes."""
    for number in range(phase):
        folder = phase_folder(output_dir, number)
        for name in MEMBERS:  # first, so that an interrupted deletion does not leave something that looks like a store
            (folder / name / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def label_images(
    clean_pass: CleanPass, unlabeled: Any, folder: Path, *, knobs: Knobs, facts: dict[str, Any], labeled: Any = None
) -> None:
    """Label whole images and write every maker's table.

    `facts` (phase, ratio, hashes) go into the manifests, with a summary for `dmt_results.json`.

    Args:
        labeled: images with true labels, which `--labeler graph` propagates.
    """
    by_graph = knobs.labeler == graph.GRAPH
    count, classes = len(unlabeled), len(clean_pass.pair.class_names)
    rows: list[int] = []
    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in MEMBERS}
    truth: dict[int, int] = {}
    title = f"labeling for phase {facts['phase']}"
    for part in clean_pass.run(unlabeled, title=title, approximate=True, with_features=by_graph):
        rows += part.index
        truth |= {row: int(label) for row, label in zip(part.index, part.truth, strict=True) if label is not None}
        for name in MEMBERS:
            made = pseudo_label(part.logits[name])
            judged = label_quality.student_scores(part.logits, name, *made[:2], knobs)
            extra = (part.features[name], part.logits[name]) if by_graph else ()
            found[name].append(tuple(column.cpu() for column in (*made, *judged, *extra)))
    share = {
        name: [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
        for name, parts in found.items()
        if parts
    }
    gathered = [part for part in gather_object([(rows, share, truth)]) if part[0]]
    known = {row: label for *_, part in gathered for row, label in part.items()}
    true_labels = np.asarray([known.get(row, IGNORE_INDEX) for row in range(count)])
    scored = true_labels != IGNORE_INDEX
    order = np.argsort(np.concatenate([part[0] for part in gathered]))
    columns = {
        name: [np.concatenate(parts)[order] for parts in zip(*(part[1][name] for part in gathered), strict=True)]
        for name in MEMBERS
    }
    if by_graph:
        columns[graph.GRAPH] = _labels_of_graph(clean_pass, labeled, columns, knobs)
    for name, (labels, confidence, doubt, weight, agree, *_) in columns.items():
        selected = select_images(labels, confidence, doubt, facts["ratio"], knobs)
        hit = labels == true_labels
        summary = {
            "selected": float(selected.mean()),
            "accuracy": float(hit[selected & scored].mean()) if (selected & scored).any() else None,
            "class_counts": np.bincount(labels[selected], minlength=classes).tolist(),
            "predicted": np.bincount(labels, minlength=classes).tolist(),
            "separation": label_quality.of_images(
                weight[..., scored], confidence[scored], agree[..., scored], hit[scored]
            ),
        }
        if clean_pass.accelerator.is_main_process:
            stored = ImageLabels(labels, confidence, selected)
            stored.write(folder / name, image_ids(unlabeled), {**facts, "made_by": name, "summary": summary})
    clean_pass.accelerator.wait_for_everyone()


def _labels_of_graph(
    clean_pass: CleanPass, labeled: Any, columns: dict[str, list[np.ndarray]], knobs: Knobs
) -> list[np.ndarray]:
    """The columns of the graph as a maker of labels: label, confidence and doubt of every image, `(N,)`, and weight and
    agreement of both students, `(2, N)`.

    Args:
        columns: of each model, where the last two are features `(N, D)` and logits `(N, C)`.
    """
    known: list[tuple[int, int, dict[str, np.ndarray]]] = []
    title = "labeled images for the graph"
    for part in clean_pass.run(labeled, title=title, approximate=True, with_features=True):
        features = {name: part.features[name].cpu().numpy() for name in MEMBERS}
        for place, (row, label) in enumerate(zip(part.index, part.truth, strict=True)):
            known.append((row, int(label), {name: features[name][place] for name in MEMBERS}))
    known = sorted(gather_object(known), key=lambda entry: entry[0])
    spread: list[Any] = [None]
    if clean_pass.accelerator.is_main_process:
        spread = [
            graph.spread_labels(
                graph.joined([np.stack([entry[2][name] for entry in known]) for name in MEMBERS]),
                np.asarray([entry[1] for entry in known]),
                graph.joined([columns[name][-2] for name in MEMBERS]),
                len(clean_pass.pair.class_names),
            )
        ]
    distribution: np.ndarray = broadcast_object_list(spread)[0]
    labels, confidence = distribution.argmax(axis=1), distribution.max(axis=1)
    judged = [
        label_quality.judgment(
            torch.from_numpy(columns[name][-1]), torch.from_numpy(labels), torch.from_numpy(confidence), knobs
        )
        for name in MEMBERS
    ]
    return [labels, confidence, 1 - confidence, *(torch.stack(column).numpy() for column in zip(*judged, strict=True))]


def select_images(
    labels: np.ndarray, confidence: np.ndarray, doubt: np.ndarray, ratio: float, knobs: Knobs
) -> np.ndarray:
    """`(N,)` bool of the selected images: the most confident ones overall, or equally many selected class by class.

    Images are ranked by doubt, which still distinguishes predictions whose confidence rounds to 1. Class by class, the
    most confident fraction of each predicted class is selected; the total stays that of `ratio`, so that the number of
    steps does not depend on predictions.

    Raises:
        ValueError: the official index arithmetic selects nothing (few images, or that many tied at confidence 1).
    """
    if knobs.official:
        chosen = select_top_ratio(torch.from_numpy(confidence), ratio, rule="official").numpy()
        if not chosen.any():
            raise ValueError(
                f"The official index arithmetic selects none of {len(labels)} images at ratio {ratio:g}: it fails for "
                "few images and for ties at confidence 1. Omit `official`."
            )
        return chosen
    if not knobs.class_balanced:
        return select_top_ratio(torch.from_numpy(-doubt), ratio).numpy()
    # The rank of a unit within its class, as a fraction of the class: the smallest fractions overall are the union of
    # the most confident units of all classes.
    order = np.lexsort((doubt, labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    fraction = np.empty(len(labels))
    fraction[order] = (np.arange(len(labels)) - starts[labels[order]] + 0.5) / counts[labels[order]]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.lexsort((doubt, fraction))[: selected_count(ratio, len(labels))]] = True
    return chosen


def label_pixels(clean_pass: CleanPass, unlabeled: Any, folder: Path, *, knobs: Knobs, facts: dict[str, Any]) -> None:
    """Label every pixel of the unlabeled images, without selection, and compute thresholds per class from a histogram.

    Memory: one batch of logits and, for each model, a histogram of classes x 65536 counts, independent of the number of
    images; three histograms if the true masks are known.
    """
    accelerator, classes = clean_pass.accelerator, len(clean_pass.pair.class_names)
    made_by = f"phase {facts['phase']} {facts.get('weights')}"
    stores = {name: PixelLabels(folder / name, key=f"{made_by} {name}") for name in MEMBERS}
    histograms = {name: torch.zeros(classes, 1 << 16, dtype=torch.int64) for name in MEMBERS}
    # For each model, right and known pixels by class and code, for the accuracy of the kept ones: (2, classes, 65536),
    # created with the first true mask.
    scored: dict[str, Tensor] = {}
    judged = {name: label_quality.PixelSeparation() for name in MEMBERS}
    title = f"labeling for phase {facts['phase']}"
    side = clean_pass.pair.image_size
    for part in clean_pass.run(unlabeled, title=title, shorter_side=side, approximate=True):
        for name in MEMBERS:
            for position, row in enumerate(part.index):
                logits = {member: part.logits[member][position : position + 1] for member in MEMBERS}
                made, confidence, doubt = pseudo_label(logits[name])
                labels, codes = made[0].cpu(), encode_confidence(doubt=doubt)[0].cpu()
                confidence_histogram(codes, labels, classes, out=histograms[name])
                stores[name].write(row, labels.numpy(), codes.numpy())
                if part.truth[position] is not None:
                    truth = torch.from_numpy(resize_mask(part.truth[position], (labels.shape[0], labels.shape[1])))
                    if name not in scored:
                        scored[name] = torch.zeros(2, classes, 1 << 16, dtype=torch.int64)
                    _count_right(labels, codes, truth, classes, *scored[name])
                    weight, agree = label_quality.student_scores(logits, name, made, confidence, knobs)
                    judged[name].add(weight[0].cpu(), agree[0].cpu(), labels, truth)
    truth_known = any(gather_object([bool(scored)]))
    for name in MEMBERS:
        histogram = _sum_over_processes(histograms[name], accelerator)
        thresholds = thresholds_from_histogram(histogram, facts["ratio"])
        kept = torch.arange(1 << 16) >= thresholds[:, None]
        nothing = torch.zeros(2, *(histogram.shape if truth_known else (1, 1)), dtype=torch.int64)
        hits, seen = _sum_over_processes(scored.get(name, nothing), accelerator)
        kept_known = int(seen[kept].sum()) if truth_known else 0
        summary = {
            "selected": int(histogram[kept].sum()) / max(1, int(histogram.sum())),
            "accuracy": int(hits[kept].sum()) / kept_known if kept_known else None,
            "class_counts": (histogram * kept).sum(dim=1).tolist(),
            "predicted": histogram.sum(dim=1).tolist(),
            "separation": judged[name].figures(
                hits.sum(dim=0), seen.sum(dim=0), lambda counts: _sum_over_processes(counts, accelerator)
            ),
        }
        if accelerator.is_main_process:
            stores[name].finish({**facts, "made_by": name, "summary": summary}, thresholds.tolist())
    accelerator.wait_for_everyone()


def makers(knobs: Knobs) -> tuple[str, ...]:
    """Whose labels are stored: those of both models, and those of the graph if it labels."""
    return (*MEMBERS, graph.GRAPH) if knobs.labeler == graph.GRAPH else MEMBERS


def reusable(folder: Path, facts: dict[str, Any], names: tuple[str, ...] = MEMBERS) -> bool:
    """Whether the makers' stores are complete and undamaged, each in its own place, and were made by the same weights
    from the same images. The pixels of an image are checked when they are read."""
    try:
        for name in names:
            manifest = read_manifest(folder / name)
            if not {**facts, "made_by": name}.items() <= manifest.items():
                return False
            if "table_crc32" in manifest:
                ImageLabels.read(folder / name)
    except StoreError:
        return False
    return True


def weights_hash(pair: ModelPair) -> str:
    """A hash of both models' weights, for the manifest."""
    digest = hashlib.sha256()
    for name, value in pair.state_dict().items():
        digest.update(name.encode())
        digest.update(whole(value.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def ids_hash(unlabeled: Any) -> str:
    """A hash of the ids that a store belongs to."""
    return sha256_of_ids(image_ids(unlabeled))[:16]


def read_summary(folder: Path, names: tuple[str, ...] = MEMBERS) -> dict[str, Any]:
    """For each maker, what `dmt_results.json` says about its labels."""
    return {name: read_manifest(folder / name)["summary"] for name in names}


def _count_right(labels: Tensor, codes: Tensor, truth: Tensor, classes: int, right: Tensor, known: Tensor) -> None:
    valid = truth != IGNORE_INDEX
    confidence_histogram(codes[valid], labels[valid], classes, out=known)
    hit = valid & (labels == truth)
    confidence_histogram(codes[hit], labels[hit], classes, out=right)


def _sum_over_processes(counts: Tensor, accelerator: Accelerator) -> Tensor:
    return accelerator.reduce(counts.to(accelerator.device)).cpu()
