"""A few unlabeled images on which the members contradict each other most, kept with every phase for people to look at.

`gallery/phase-k/` in the run's folder: thumbnails and, written last, `gallery.json`. It stays on the machine: what is
published names images but does not show them.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from ..data.batches import resize_mask
from ..data.decoding import to_rgb
from ..data.disagreement import contradicting_images, contradicting_masks
from ..data.files import write_aside, write_json
from ..data.palette import paint
from ..data.pseudo_labels import ImageLabels, PixelLabels
from ..method import pseudo_label
from ..models.pair import MEMBERS, ModelPair
from . import labeling, separation
from .inference import CleanLogits, CleanPass
from .methods import Knobs

GALLERY_FILE = "gallery.json"
SHOWN = {"image-classification": 24, "semantic-segmentation": 8}
_SIDE = 224  # longer side of a thumbnail in pixels

Files = dict[str, bytes]


def keep_gallery(
    phase: int,
    output_dir: str | Path,
    pair: ModelPair,
    unlabeled: Any,
    clean_pass: CleanPass,
    accelerator: Accelerator,
    knobs: Knobs,
) -> None:
    """Choose images from a phase's label store and write their gallery; every process takes part.

    The members see the chosen images once more, because the store does not hold what a weight is made of: the student's
    probability for the other's label. For pixels, choosing reads the store once.
    """
    store = labeling.phase_folder(output_dir, phase)
    share = replace(clean_pass, progress=False, num_workers=0)
    if pair.task == "image-classification":
        rows = contradicting_images(ImageLabels.read(store / "a"), ImageLabels.read(store / "b"))
        facts = {"agree": 1 - len(rows) / max(1, len(unlabeled))}
    else:
        mine = share.share(len(unlabeled))
        found = contradicting_masks(PixelLabels.read(store / "a"), PixelLabels.read(store / "b"), mine)
        parts = gather_object([(mine, found)])
        everything, scores = (np.concatenate([part[column] for part in parts]) for column in range(2))
        rows = everything[np.lexsort((everything, -scores[:, 0]))]
        rows = rows[: int((scores[:, 0] > 0).sum())]
        facts = {"agree": 1 - float(scores[:, 1].mean()) if len(scores) else 1.0}
    rows = rows[: SHOWN[pair.task]].tolist()
    side = pair.image_size if pair.task == "semantic-segmentation" else None
    shown: list[tuple[int, dict[str, Any], Files]] = []
    for part in share.run(pair, Subset(unlabeled, rows), accelerator, title="gallery", shorter_side=side):
        for position, place in enumerate(part.index):
            image = to_rgb(unlabeled[rows[place]]["image"])
            entry, files = _entry(part, position, image, pair, knobs, stem=f"{place:02d}")
            shown.append((place, {"row": rows[place], **entry}, files))
    shown = sorted(gather_object(shown), key=lambda item: item[0])
    if not accelerator.is_main_process:
        return
    ids = labeling.unlabeled_ids(unlabeled)
    folder = Path(output_dir) / "gallery" / f"phase-{phase}"
    (folder / GALLERY_FILE).unlink(missing_ok=True)
    for _, _, files in shown:
        for name, content in files.items():
            write_aside(folder / name, content)
    entries = [{"id": ids[entry["row"]], **entry} for _, entry, _ in shown]
    write_json(folder / GALLERY_FILE, {"phase": phase, "labeler": knobs.labeler, **facts, "images": entries})


def _entry(
    part: CleanLogits, position: int, image: Image.Image, pair: ModelPair, knobs: Knobs, *, stem: str
) -> tuple[dict[str, Any], Files]:
    """What `gallery.json` says of one image, and its thumbnails by file name.

    Of the labels that each member made: for images class, confidence and the weight that the student gives; for pixels
    the same as pictures, and the mean weight.
    """
    logits = {name: part.logits[name][position : position + 1] for name in MEMBERS}
    made: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name in MEMBERS:
        labels, confidence, _ = pseudo_label(logits[name])
        weight, _ = separation.student_scores(logits, name, labels, confidence, knobs)
        made[name] = labels[0].cpu(), confidence[0].cpu(), weight[0].cpu()
    entry: dict[str, Any] = {"file": f"{stem}-image{_kind(image)}"}
    files = {entry["file"]: _encoded(image)}
    truth = part.truth[position]
    if pair.task == "image-classification":
        for name, (label, confidence, weight) in made.items():
            entry[name] = {"label": int(label), "confidence": float(confidence), "weight": float(weight)}
        entry["truth"] = None if truth is None or int(truth) < 0 else int(truth)
        return entry, files
    classes = len(pair.class_names)
    present: set[int] = set()
    for name, (labels, _, weight) in made.items():
        maps = {"labels": paint(labels.numpy(), classes), "weight": _grey(weight)}
        entry[name] = {"weight": float(weight.mean())}
        for what, picture in maps.items():
            entry[name][f"{what}_file"] = f"{stem}-{name}-{what}.png"
            files[f"{stem}-{name}-{what}.png"] = _encoded(picture, flat=True)
        present |= set(labels.unique().tolist())
    entry["differ"] = float((made["a"][0] != made["b"][0]).float().mean())
    entry["truth"] = None
    if truth is not None:
        mask = resize_mask(np.asarray(truth), tuple(made["a"][0].shape))  # type: ignore[arg-type]
        entry["truth"] = f"{stem}-truth.png"
        files[entry["truth"]] = _encoded(paint(mask, classes), flat=True)
        present |= {int(value) for value in np.unique(mask) if 0 <= value < classes}
    entry["classes"] = sorted(present)
    return entry, files


def _grey(weight: Tensor) -> Image.Image:
    return Image.fromarray((weight * 255).round().to(torch.uint8).numpy())


def _kind(image: Image.Image) -> str:
    return ".png" if max(image.size) <= 64 else ".jpg"


def _encoded(image: Image.Image, *, flat: bool = False) -> bytes:
    """A thumbnail's file: PNG for maps and tiny images, which JPEG would smear; maps are not blended when shrunk."""
    if max(image.size) > _SIDE:
        shape = [max(1, round(length * _SIDE / max(image.size))) for length in image.size]
        image = image.resize((shape[0], shape[1]), Image.Resampling.NEAREST if flat else Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if flat or _kind(image) == ".png":
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
