"""The images of a run's last gallery, as parts of a page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ..data.members import MEMBERS
from ..data.palette import class_colors
from .run import Run

_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def last_gallery(run: Run) -> dict[str, Any] | None:
    """The gallery of the last phase that has a readable one, with thumbnails as `data:` URLs.

    Returns:
        `{phase, agree, images, legend}`; `agree` is the fraction of images or pixels that a and b label alike, `legend`
        the names and colors of the classes in the label maps. None without a gallery.
    """
    for entry in reversed(run.labeled_phases):
        folder = run.folder / "gallery" / f"phase-{entry['phase']}"
        try:
            found = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
            images = [_image(run, folder, image) for image in found["images"]]
        except (OSError, ValueError, LookupError, TypeError):  # missing or incomplete
            continue
        present = sorted({number for image in found["images"] for number in image.get("classes", ())})
        colors = class_colors(len(run.class_names)).tolist()
        legend = [(run.class_names[number], "#{:02x}{:02x}{:02x}".format(*colors[number])) for number in present]
        return {"phase": found["phase"], "agree": found["agree"], "images": images, "legend": legend}
    return None


def _image(run: Run, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    file, names, truth = folder / entry["file"], run.class_names, entry["truth"]
    # Tiny images are stored as PNG, because eight pixels enlarged with interpolation are a blur.
    shown: dict[str, Any] = {"id": entry["id"], "image": _address(file), "tiny": file.suffix == ".png"}
    if not run.is_pixels:
        labels = {
            name: {**entry[name], "label": names[entry[name]["label"]], "right": truth == entry[name]["label"]}
            for name in MEMBERS
        }
        return {**shown, **labels, "truth": None if truth is None else names[truth]}
    maps = {
        name: {
            "labels": _address(folder / entry[name]["labels_file"]),
            "weights": _address(folder / entry[name]["weight_file"]),
            "weight": entry[name]["weight"],
        }
        for name in MEMBERS
    }
    return {**shown, **maps, "differ": entry["differ"], "truth": _address(folder / truth) if truth else None}


def _address(file: Path) -> str:
    return f"data:{_TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
