"""A few unlabeled images on which the models disagree most, saved in every phase for people to look at.

`gallery/phase-k/` in the run's folder contains thumbnails and `gallery.json`, which is written last. It stays on the
machine: published files name images but do not show them.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from ...data.drawing.clean_images import resize_mask
from ...data.files import write_aside, write_json
from ...data.labels.disagreement import contradicting_images, contradicting_masks
from ...data.labels.pseudo_labels import ImageLabels, PixelLabels
from ...data.members import MEMBERS
from ...data.palette import paint
from ...data.reading.decoding import to_rgb
from ...data.reading.image_set import at_side
from ...data.splitting.splits import image_ids
from ...method import pseudo_label
from ...models.pair import ModelPair
from ..settings.knobs import Knobs
from . import label_pass, label_quality
from .inference import CleanLogits, CleanPass, view_side

GALLERY_FILE = "gallery.json"
SHOWN_IMAGES, SHOWN_MASKS = 24, 8
_SIDE = 224  # longer side of a thumbnail in pixels

Entry = dict[str, Any]
Files = dict[str, bytes]


def has_gallery(phase: int, output_dir: str | Path) -> bool:
    """Whether a phase's gallery exists and is complete."""
    return (_folder(phase, output_dir) / GALLERY_FILE).is_file()


def keep_gallery(phase: int, output_dir: str | Path, clean_pass: CleanPass, unlabeled: Any, knobs: Knobs) -> None:
    """Choose images from a phase's label store and write their gallery; every process takes part."""
    store = label_pass.phase_folder(output_dir, phase)
    writes = clean_pass.accelerator.is_main_process
    if clean_pass.pair.task == "image-classification":
        agree, shown = _images(store, unlabeled) if writes else (0.0, [])
    else:
        agree, shown = _masks(store, clean_pass, unlabeled, knobs)
    if not writes:
        return
    ids = image_ids(unlabeled)
    folder = _folder(phase, output_dir)
    (folder / GALLERY_FILE).unlink(missing_ok=True)
    for _, files in shown:
        for name, content in files.items():
            write_aside(folder / name, content)
    entries = [{"id": ids[entry["row"]], **entry} for entry, _ in shown]
    write_json(folder / GALLERY_FILE, {"phase": phase, "agree": agree, "images": entries})


def _folder(phase: int, output_dir: str | Path) -> Path:
    return Path(output_dir) / "gallery" / f"phase-{phase}"


def _images(store: Path, unlabeled: Any) -> tuple[float, list[tuple[Entry, Files]]]:
    """The fraction of images with the same label from both models, and for each shown image the labels and confidences
    of both models, and the true label."""
    made = {name: ImageLabels.read(store / name) for name in MEMBERS}
    differ = contradicting_images(made["a"], made["b"])
    unlabeled = at_side(unlabeled, _SIDE)
    shown = []
    for place, row in enumerate(differ[:SHOWN_IMAGES].tolist()):
        item = unlabeled[row]
        image, truth = to_rgb(item["image"]), item.get("label")
        entry = {
            "row": row,
            "file": f"{place:02d}-image{_kind(image)}",
            "truth": None if truth is None or truth < 0 else int(truth),
            **{
                name: {"label": int(labels.labels[row]), "confidence": float(labels.confidence[row])}
                for name, labels in made.items()
            },
        }
        shown.append((entry, {entry["file"]: _encoded(image)}))
    return 1 - len(differ) / max(1, len(unlabeled)), shown


def _masks(store: Path, clean_pass: CleanPass, unlabeled: Any, knobs: Knobs) -> tuple[float, list[tuple[Entry, Files]]]:
    """The fraction of pixels with the same label from both models, and the shown images as maps.

    Choosing reads the store once, each process its share. Both models run again on the chosen images, because the store
    does not contain what a weight is computed from: the student's probability for the other's label.
    """
    pair, mine = clean_pass.pair, clean_pass.share(len(unlabeled))
    found = contradicting_masks(PixelLabels.read(store / "a"), PixelLabels.read(store / "b"), mine)
    parts = gather_object([(mine, found)])
    rows, scores = (np.concatenate([part[column] for part in parts]) for column in range(2))
    best = np.lexsort((rows, -scores[:, 0]))[:SHOWN_MASKS]
    chosen = rows[best[scores[best, 0] > 0]].tolist()
    loop = replace(clean_pass, progress=False, num_workers=0)
    shown: list[tuple[int, Entry, Files]] = []
    # At the size they were labeled at, which a subset does not know.
    few = at_side(unlabeled, None if clean_pass.exact_decoding else view_side(pair))
    shown_set = Subset(few, chosen)
    for part in loop.run(shown_set, title="", shorter_side=pair.image_size, approximate=True):
        for position, place in enumerate(part.index):
            image = to_rgb(few[chosen[place]]["image"])
            entry, files = _maps(part, position, image, pair, knobs, stem=f"{place:02d}")
            shown.append((place, {"row": chosen[place], **entry}, files))
    shown = sorted(gather_object(shown), key=lambda item: item[0])
    agree = 1 - float(scores[:, 1].mean()) if len(scores) else 1.0
    return agree, [(entry, files) for _, entry, files in shown]


def _maps(
    part: CleanLogits, position: int, image: Image.Image, pair: ModelPair, knobs: Knobs, *, stem: str
) -> tuple[Entry, Files]:
    """The entry of one image in `gallery.json`, and its files by name: the image, both models' labels, the weights
    given by their students, and the truth."""
    logits = {name: part.logits[name][position : position + 1] for name in MEMBERS}
    made: dict[str, tuple[Tensor, Tensor]] = {}
    for name in MEMBERS:
        labels, confidence, _ = pseudo_label(logits[name])
        weight, _ = label_quality.student_scores(logits, name, labels, confidence, knobs)
        made[name] = labels[0].cpu(), weight[0].cpu()
    classes = len(pair.class_names)
    entry: Entry = {"file": f"{stem}-image{_kind(image)}", "truth": None}
    files = {entry["file"]: _encoded(image)}
    present: set[int] = set()
    for name, (labels, weight) in made.items():
        entry[name] = {"weight": float(weight.mean())}
        for what, picture in (("labels", paint(labels.numpy(), classes)), ("weight", _gray(weight))):
            entry[name][f"{what}_file"] = f"{stem}-{name}-{what}.png"
            files[f"{stem}-{name}-{what}.png"] = _encoded(picture, flat=True)
        present |= set(labels.unique().tolist())
    entry["differ"] = float((made["a"][0] != made["b"][0]).float().mean())
    if part.truth[position] is not None:
        height, width = made["a"][0].shape
        mask = resize_mask(part.truth[position], (height, width))
        entry["truth"] = f"{stem}-truth.png"
        files[entry["truth"]] = _encoded(paint(mask, classes), flat=True)
        present |= {int(value) for value in np.unique(mask) if 0 <= value < classes}
    return {**entry, "classes": sorted(present)}, files


def _gray(weight: Tensor) -> Image.Image:
    return Image.fromarray((weight * 255).round().to(torch.uint8).numpy())


def _kind(image: Image.Image) -> str:
    return ".png" if max(image.size) <= 64 else ".jpg"


def _encoded(image: Image.Image, *, flat: bool = False) -> bytes:
    """The file of a thumbnail: PNG for maps and tiny images, which JPEG would blur; maps are shrunk without
    interpolation."""
    if max(image.size) > _SIDE:
        shape = [max(1, round(length * _SIDE / max(image.size))) for length in image.size]
        image = image.resize((shape[0], shape[1]), Image.Resampling.NEAREST if flat else Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if flat or _kind(image) == ".png":
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
