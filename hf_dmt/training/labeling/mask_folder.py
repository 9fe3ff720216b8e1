"""The label maps of a pair as a folder of PNG files with a table."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ...data.files import write_aside, write_json
from ...data.labels.predictions import Record
from ...data.palette import class_colors, paint
from ...data.reading.image_set import ImageSet
from .inference import CleanLogits
from .predictions import label_maps

TABLE, CLASSES = "predictions.csv", "classes.json"


class MaskFolder:
    """`ensemble/`, `a/` and `b/` with one mask per image under the image's name, and `overlay/` if requested.

    Masks are PNG files whose values are class ids, with a palette; with more than 256 classes, 16 bit without a
    palette.
    """

    def __init__(self, folder: Path, class_names: list[str], *, overlay: bool) -> None:
        self.folder, self.class_names, self.overlay = folder, class_names, overlay
        self.table = folder / TABLE
        self.files: dict[str, str] = {}
        self._palette = class_colors(min(256, len(class_names))).ravel().tolist()

    def name_files(self, done: dict[str, str], ids: Iterable[str]) -> None:
        """Choose a file for each image; `done` are the files of images that are already labeled, by id.

        `scenes/1.jpg` gets `scenes/1.png`, so that the two are paired when they are in `images/` and `masks/`. A second
        image with that name, such as `scenes/1.bmp`, gets `scenes/1.bmp.png`.
        """
        self.files = dict(done)
        taken = set(done.values())
        for name in ids:
            if name not in self.files:
                path = PurePosixPath(name)
                file = path.with_suffix(".png").as_posix()
                self.files[name] = file if file not in taken else f"{name}.png"
                taken.add(self.files[name])

    def write_classes(self) -> None:
        """Write `classes.json`, as read by `--id2label`."""
        write_json(self.folder / CLASSES, {str(number): name for number, name in enumerate(self.class_names)})

    def records(self, found: CleanLogits, images: ImageSet) -> list[Record]:
        """Write the masks of some images; returns one record for each."""
        records = []
        for place, row in enumerate(found.index):
            name = images.id_of(row)
            maps = label_maps({member: values[place] for member, values in found.logits.items()}, found.sizes[place])
            file = self.files[name]
            for maker, labels in maps.labels.items():
                mask = Image.fromarray(labels)
                if labels.dtype == np.uint8:
                    mask.putpalette(self._palette)  # turns mode L into P without changing values
                self._save(mask, maker, file)
            if self.overlay:
                image = images[row]["image"]
                painted = paint(maps.labels["ensemble"].astype(np.int64), len(self.class_names))
                self._save(Image.blend(image, painted, 0.5), "overlay", file)
            height, width = found.sizes[place]
            records.append(
                {
                    "id": name,
                    "mask": file,
                    "size": f"{width}x{height}",
                    "confidence": round(maps.confidence, 6),
                    "disagreement": round(maps.disagreement, 6),
                }
            )
        return records

    def _save(self, image: Image.Image, maker: str, file: str) -> None:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        write_aside(self.folder / maker / file, buffer.getvalue())
