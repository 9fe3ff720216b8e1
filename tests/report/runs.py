"""Folders as a run leaves them, in the exact format of the trainer, with numbers from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.data.splitting.splits import describe
from hf_dmt.report.run import MEASURES
from hf_dmt.training.settings.knobs import as_results
from hf_dmt.training.settings.methods import resolve

NAMES = ("a", "b", "ensemble")


def write_run(
    folder: Path,
    *,
    classes: Sequence[str] = ("cat", "dog"),
    pixels: bool = False,
    has_eval: bool = True,
    has_test: bool = True,
    truth_known: bool = True,
    method: str = "dmt",
    phases: int | None = None,
    split: bool = True,
    store: bool = True,
    ids: Sequence[str] | None = None,
    steps: int = 40,
    log_every: int = 10,
    gallery: bool = False,
) -> Path:
    """Write a run's folder; `phases` cuts it off before the end."""
    random = np.random.default_rng(len(classes))
    task = "semantic-segmentation" if pixels else "image-classification"
    knobs = resolve(method, task, {})
    names = list(classes)
    unlabeled = list(ids) if ids is not None else [f"images/{row:04d}.jpg" for row in range(200)]
    planned: list[float | None] = [None, *knobs.label_ratios] if knobs.strategy == "phases" else [None, None]
    num_phases = len(planned)
    planned = planned[:phases]

    entries, lines, step = [], [], 0
    for number, ratio in enumerate(planned):
        quality = 0.55 + 0.05 * number
        made = None
        if ratio is not None:
            made = {
                member: _labels(folder, random, number, member, ratio, names, unlabeled, pixels, truth_known, store)
                for member in "ab"
            }
        for at in range(step + log_every, step + steps + 1, log_every):
            lines.append(_event(random, at, number, learns_from_pseudo=number > 0))
        step += steps
        lines.append({"step": step, "phase": number, "eval_loss": 1.0, "eval_accuracy": quality, "epoch": 1.0 + number})
        tested = has_test and number in (0, len(planned) - 1)
        entries.append(
            {
                "phase": number,
                "label_ratio": ratio,
                "steps": steps,
                "labeling_seconds": 2.5 if ratio is not None else 0.0,
                "pseudo_labels": made,
                "seconds": 20.0 + number,
                "eval": _scores(random, quality, names, pixels) if has_eval else None,
                "test": _scores(random, quality - 0.02, names, pixels) if tested else None,
            }
        )
        if number:
            for split in ("eval", "test"):
                for figures in (entries[-1][split] or {}).values():
                    figures["chance"] = dict.fromkeys(MEASURES[task], 0.02)
        else:
            entries[-1]["classes"] = {"test": dict.fromkeys(names, 10) | {names[0]: 30}}
    results: dict[str, Any] = {
        "task": task,
        "method": method,
        "knobs": as_results(knobs),
        "num_labels": len(names),
        "class_names": names,
        "num_labeled": 2 * len(names),
        "num_unlabeled": len(unlabeled),
        "num_eval": 100 if has_eval else 0,
        "num_test": 400 if has_test else 0,
        "world_size": 1,
        "seed": 42,
        "num_phases": num_phases,
        "phases": entries,
    }
    if phases is None:
        last = entries[-1]["test"] if entries else None
        results |= {"test": last, "peak_memory_bytes": 2**30, "total_seconds": 150.0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dmt_results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if gallery:
        _write_gallery(
            folder / "gallery" / f"phase-{len(planned) - 1}", random, len(planned) - 1, names, unlabeled, pixels
        )
    if split:
        roles = {"labeled": ["1", "2"], "unlabeled": unlabeled, "eval": ["3"], "test": []}
        (folder / "split.json").write_text(json.dumps(describe(roles, split_seed=0, dataset="pets/")))
        pair = {"format_version": 1, "task": task, "primary": "a", "image_size": 32}
        bases = {"a": "tiny:vit", "b": "tiny:resnet"}
        (folder / "dmt_config.json").write_text(json.dumps({**pair, "base_models": bases}))
    return folder


def _labels(
    folder: Path,
    random: np.random.Generator,
    phase: int,
    member: str,
    ratio: float,
    names: list[str],
    unlabeled: list[str],
    pixels: bool,
    truth_known: bool,
    store: bool,
) -> dict[str, Any]:
    units = 10_000 if pixels else len(unlabeled)
    # The last class is never predicted by a; b favors the first ones.
    labels = random.integers(0, max(1, len(names) - (member == "a")), units)
    confidence = random.uniform(0.3, 1.0, units).astype(np.float32)
    selected = confidence >= np.quantile(confidence, 1 - ratio)
    summary = {
        "selected": float(selected.mean()),
        "accuracy": 0.95 - 0.03 * phase if truth_known else None,
        "class_counts": np.bincount(labels[selected], minlength=len(names)).tolist(),
        "separation": _separation(phase) if truth_known else None,
    }
    place, manifest = folder / "pseudo_labels" / f"phase-{phase}" / member, {"phase": phase, "summary": summary}
    if store and not pixels:
        ImageLabels(labels, confidence, selected).write(place, unlabeled, manifest)
    elif store:
        PixelLabels(place, {}).finish(manifest, [30_000 + 10 * index for index in range(len(names))])
    return summary


def _write_gallery(
    folder: Path, random: np.random.Generator, phase: int, names: list[str], ids: list[str], pixels: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    for number, name in enumerate(ids[:5]):
        entry: dict[str, Any] = {"id": name, "row": number, "file": f"{number:02d}-image.png", "truth": None}
        files = [entry["file"]]
        for member in "ab":
            if pixels:
                kinds = {f"{kind}_file": f"{number:02d}-{member}-{kind}.png" for kind in ("labels", "weight")}
                entry[member] = {"weight": 0.25, **kinds}
                files += kinds.values()
            else:
                label = (number + (member == "b")) % len(names)
                entry |= {member: {"label": label, "confidence": 0.9}, "truth": number // 2 % len(names)}
        if pixels:
            entry |= {"differ": 0.4, "truth": f"{number:02d}-truth.png", "classes": [0, len(names) - 1]}
            files.append(entry["truth"])
        for file in files:
            Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / file)
        images.append(entry)
    (folder / "gallery.json").write_text(json.dumps({"phase": phase, "agree": 0.7, "images": images}))


def _separation(phase: int) -> dict[str, Any]:
    bins = [{"confidence": 0.3 + 0.07 * n, "accuracy": 0.2 + 0.08 * n, "count": 20} for n in range(10)]
    auroc = {"weight": 0.9 - 0.02 * phase, "confidence": 0.8 - 0.02 * phase, "disagreement": 0.85 - 0.02 * phase}
    return {**auroc, "calibration": bins}


def _event(random: np.random.Generator, step: int, phase: int, *, learns_from_pseudo: bool) -> dict[str, Any]:
    event: dict[str, Any] = {"step": step, "phase": phase, "loss": 2.0, "grad_norm": 1.5, "learning_rate": 1e-3}
    for member in "ab":
        event |= {f"{member}/loss": float(random.uniform(0.5, 1.5)), f"{member}/grad_norm": float(random.uniform(1, 9))}
        if learns_from_pseudo:
            agree, negative, positive = random.dirichlet([6, 2, 1])
            event |= {
                f"{member}/mean_weight": float(random.uniform(0.3, 0.6)),
                f"{member}/agree": float(agree),
                f"{member}/negative_disagree": float(negative),
                f"{member}/positive_disagree": float(positive),
            }
    return {**event, "epoch": phase + 0.5}


def _scores(random: np.random.Generator, quality: float, names: list[str], pixels: bool) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for offset, name in zip((0.0, 0.03, 0.06), NAMES, strict=True):
        value = quality + offset
        if not pixels:
            found: list[float | None] = random.uniform(0.1, 0.9, len(names)).tolist()
            scores[name] = {
                "accuracy": value,
                "mean_accuracy": value - 0.01,
                "per_class_accuracy": dict(zip(names, found, strict=True)),
                "confusions": [[names[0], names[-1], 7]],
            }
            continue
        ious: list[float | None] = random.uniform(0.1, 0.9, len(names)).tolist()
        if len(names) > 3:
            ious[-1] = None  # a class that the split does not have
        scores[name] = {
            "mean_iou": value,
            "overall_accuracy": value + 0.1,
            "mean_accuracy": value + 0.05,
            "per_class_iou": dict(zip(names, ious, strict=True)),
            "confusions": [[names[0], names[1], 7000]],
        }
    return scores
