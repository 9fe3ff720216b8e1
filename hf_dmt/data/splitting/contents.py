"""A short hash of an image set, by which a resumed run checks that its images are unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..labels.items import evenly_spread, labels_at_hand
from ..messages import listed
from ..reading.image_set import reading_an_item
from .scan import ScannedImages
from .splits import held_out_before, image_ids

_LOOKED_AT = 16  # items of a set that was not hashed completely


def digest_of(images: Any, *, role: str = "this set") -> str:
    """16 hex digits over the number of items of an image set, their ids and labels, and the content of a few.

    Labels count if they are known without decoding images. 16 items, evenly spread, are read; those that differ at
    every access do not count.

    Args:
        images: map-style, `{'image': ..., 'label' or 'mask': ...}`.
        role: the name of the set in errors.

    Raises:
        DataError: an item cannot be read.
    """
    digest = _of_ids_and_labels(images)
    for row in evenly_spread(len(images), _LOOKED_AT):
        with reading_an_item(f"Item {row} of the {role} images"):
            item, again = _hash_of_item(images[row]), _hash_of_item(images[row])
        if item == again:
            digest.update(item)
    return digest.hexdigest()[:16]


def digest_of_scanned(found: ScannedImages) -> str:
    """Like `digest_of`, over the whole content of all files."""
    digest = _of_ids_and_labels(found.images)
    digest.update(b"\n".join([*found.contents, *found.mask_contents]))
    return digest.hexdigest()[:16]


def _of_ids_and_labels(images: Any) -> Any:
    digest = hashlib.sha256(f"{len(images)}\n".encode())
    digest.update("".join(f"{name}\n" for name in image_ids(images)).encode(errors="surrogateescape"))
    labels = getattr(images, "labels", None)
    if isinstance(labels, np.ndarray):
        digest.update(labels.astype(np.int64).tobytes())
    else:
        digest.update("".join(f"{label}\n" for label in labels_at_hand(images) or ()).encode())
    return digest


def of_same_data(
    of_pair: Mapping[str, Any] | None, everything: ScannedImages, here: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The `split.json` of the pair that is trained further if it is of this data set, by its name or, if the folder was
    renamed, by the contents of the images that were held out; otherwise {}.

    Args:
        everything: the training images, including those that may be held out.
        here: the origin of this data set.
    """
    if not of_pair or all(of_pair.get(key) == value for key, value in here.items()):
        return of_pair or {}
    for role in ("test", "eval"):
        rows = held_out_before(role, of_pair, everything.images.ids)
        found = everything.subset(rows) if rows is not None else None
        if found is not None and digest_of_scanned(found) == of_pair.get("contents", {}).get(role):
            return of_pair
    return {}


def notes_on_moved_rows(earlier: Mapping[str, Any], everything: ScannedImages) -> list[str]:
    """A warning if an earlier run knew its images by the numbers of rows that contain other images or labels now.

    Args:
        earlier: the `split.json` of that run, or {}.
        everything: the training images, including those that may be held out.
    """
    hashes = earlier.get("contents") or {}
    changed = []
    for role in ("labeled", *(earlier.get("held_out") or ())):
        numbers = {str(name) for name in earlier.get(role) or () if str(name).isdigit()}
        if not numbers or role not in hashes or (role == "labeled" and "extra_labeled" in earlier):
            continue  # the hash of the labeled images is also over those that were labeled later
        rows = [row for row, name in enumerate(everything.images.ids) if name in numbers]
        if digest_of_scanned(everything.subset(np.array(rows, dtype=np.int64))) != hashes[role]:
            changed.append(role)
    if not changed:
        return []
    return [
        f"Warning: the rows of the {listed(changed)} images of the earlier run contain other images or labels now. If "
        "rows have moved, its row numbers mean other images, and images that were trained on are scored. New rows are "
        "safe at the end of the table. In another order, choose images anew: without `labeled_ids`, from untrained "
        "models."
    ]


def _hash_of_item(item: Any) -> bytes:
    digest = hashlib.sha256()
    for key, value in sorted(item.items()) if isinstance(item, Mapping) else [("", item)]:
        digest.update(f"{key}:".encode())
        if isinstance(value, Image.Image):
            digest.update(f"{value.mode}{value.size}".encode() + value.tobytes())
        elif hasattr(value, "shape"):
            array = np.asarray(value)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif value is None or isinstance(value, (str, int, float, bool)):
            digest.update(json.dumps(value).encode())
    return digest.digest()
