"""The results of checking a file, cached so that an unchanged file is not read again.

They are kept in the user's cache folder, in one small database for all runs and processes. A result depends on the file
alone, never on a run's flags, so runs with different flags share it. Failures are not cached: another version of
Pillow, or another plugin, may be able to read the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from .decoding import (
    FIRST_TRANSPOSED,
    ImageSource,
    contained,
    decode_to_the_end,
    identify,
    opening,
    orientation,
    stored_remark,
    to_rgb,
    unused_part,
    upright_size,
)
from .masks import PLAIN, MaskReading, to_mask
from .rows import Place

logger = logging.getLogger(__name__)

_TABLE = "looks_5"  # count up when a look finds something else in the same file
_BATCH = 1000  # results per transaction
_LARGEST = 2**31  # bytes; entries of deleted files are never removed individually


class Look(NamedTuple):
    """Facts about one image or mask.

    Attributes:
        width, height: of the upright image, in pixels.
        mode: how it is stored: Pillow's mode, or the type of an array.
        remark: what part of the file is not used, as the end of a sentence; empty for nearly all files.
        content: 32 hex digits, a hash of the file's bytes (of the pixels if there is no file).
        orientation: by the EXIF data of the file, 1 to 8; 1 is as stored, and from 5 on width and height are swapped.
        values: for a mask, its distinct values in ascending order, including void; None for images.
        colors: of a mask with a palette, the color of each of these values, as six hex digits; otherwise empty.
    """

    width: int
    height: int
    mode: str
    remark: str
    content: str
    orientation: int = 1
    values: tuple[int, ...] | None = None
    colors: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def turned(self) -> bool:
        """Whether the EXIF data of the file swaps its width and height."""
        return self.orientation >= FIRST_TRANSPOSED

    @property
    def looks_unturned(self) -> bool:
        """Whether the file has a size that does not show if the EXIF data was applied."""
        return self.orientation != 1 and (not self.turned or self.width == self.height)

    @classmethod
    def from_json(cls, text: str) -> Look:
        return cls._make(tuple(fact) if isinstance(fact, list) else fact for fact in json.loads(text))


def look_at_image(image: ImageSource, name: str) -> Look:
    """Read an image to its end, where truncation becomes visible.

    JPEG is decoded at an eighth of its size, which reads every byte but takes a quarter of the time.

    Raises:
        CorruptImage, ValueError, TypeError: as `to_rgb`.
    """
    if not isinstance(image, (bytes, str, Path, Mapping)):
        picture = to_rgb(image, name)
        mode = str(image.dtype) if isinstance(image, (np.ndarray, Tensor)) else image.mode
        return Look(*picture.size, mode, "", _digest(picture.tobytes() + repr(picture.size).encode()))
    with opening(image, name):
        content = contained(image)
        opened = identify(content)
        size, mode = upright_size(opened), opened.mode
        turn = orientation(opened)
        remark = stored_remark(opened)
        if mode == "F" or mode.startswith("I"):
            to_rgb(opened, name)  # its values may not be meaningful as an image
        else:
            decode_to_the_end(opened)
    return Look(*size, mode, remark, _digest(content), turn)


def look_at_mask(mask: Any, name: str, reading: MaskReading) -> Look:
    """Read a mask to its end and list its values.

    Raises:
        CorruptImage, ValueError, TypeError: as `to_mask`.
    """
    source = mask
    if isinstance(mask, (bytes, str, Path, Mapping)):
        with opening(mask, name):
            source = contained(mask)
    ids = to_mask(source, name, reading)
    content = source if isinstance(source, bytes) else ids.tobytes() + repr(ids.shape).encode()
    # Counting takes half the time of sorting, but 32-bit ids would need a table with billions of entries.
    narrow = ids.dtype.kind == "u" and ids.dtype.itemsize <= 2
    values = np.flatnonzero(np.bincount(ids.ravel())) if narrow else np.unique(ids)
    height, width = ids.shape
    stored = identify(source) if isinstance(source, bytes) else source
    remark = unused_part(stored) if isinstance(stored, Image.Image) else ""
    colors = _palette_colors(stored, values) if reading == PLAIN and getattr(stored, "mode", "") == "P" else ()
    known = tuple(values.tolist())
    return Look(width, height, str(ids.dtype), remark, _digest(content), values=known, colors=colors)


def _palette_colors(mask: Image.Image, values: np.ndarray) -> tuple[str, ...]:
    """The color of each value, black if the palette has no color for it; () for GIF files, of which gray values
    count."""
    palette = bytes(mask.getpalette("RGB") or ())
    found = (palette[3 * value : 3 * value + 3].hex() or "000000" for value in values.tolist())
    return () if mask.format == "GIF" else tuple(found)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def cache_file() -> Path:
    """`looks.sqlite` in the Hub library's folder for regenerable files."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    assets = os.environ.get("HF_ASSETS_CACHE") or os.path.join(home, "assets")
    return Path(os.path.expandvars(assets)).expanduser() / "hf_dmt" / "looks.sqlite"


def _connected(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=30, check_same_thread=False, isolation_level=None)
    try:
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {_TABLE} (folder TEXT, name TEXT, kind TEXT, stamp TEXT, look TEXT, "
            "PRIMARY KEY (folder, name, kind)) WITHOUT ROWID"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database


class LookCache:
    """Cached results for any number of threads and processes; a context manager.

    If the folder cannot be used, every file is checked again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, dict[tuple[str, str], tuple[str, str]]] = {}
        self._new: list[tuple[str, ...]] = []
        self._database: sqlite3.Connection | None = None
        file = cache_file()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists() and file.stat().st_size > _LARGEST:
                file.unlink()
            self._database = self._open(file)
        except (sqlite3.Error, OSError) as problem:
            self._give_up(problem)

    def __enter__(self) -> LookCache:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._flush()
            if self._database is not None:
                self._database.close()
                self._database = None

    def of(self, place: Place | None, kind: str, look: Callable[[], Look]) -> Look:
        """The cached result for `place`, or else a new one, which is then cached.

        Args:
            kind: distinguishes results for the same file: as an image, or as a mask read in some way.
            look: computes the result; its errors are passed on.
        """
        if place is None:
            return look()
        if (found := self.known(place, kind)) is not None:
            return found
        fresh = look()
        with self._lock:
            self._new.append((place.folder, place.name, kind, place.stamp, json.dumps(fresh)))
            if len(self._new) >= _BATCH:
                self._flush()
        return fresh

    def known(self, place: Place, kind: str) -> Look | None:
        """The cached result, if there is one and the file is unchanged."""
        with self._lock:
            found = self._in_folder(place.folder).get((place.name, kind))
        return Look.from_json(found[1]) if found is not None and found[0] == place.stamp else None

    @staticmethod
    def _open(file: Path) -> sqlite3.Connection:
        try:
            return _connected(file)
        except sqlite3.OperationalError:  # locked for half a minute, or a folder without write permission
            raise
        except sqlite3.DatabaseError:  # not a database: damaged by a crash, or a different file
            file.unlink()
            return _connected(file)

    def _in_folder(self, folder: str) -> dict[tuple[str, str], tuple[str, str]]:
        """Stamp and look of everything known in a folder, by name and kind: one query instead of one per file."""
        if folder not in self._known:
            self._known[folder] = {}
            if self._database is not None:
                try:
                    rows = self._database.execute(
                        f"SELECT name, kind, stamp, look FROM {_TABLE} WHERE folder = ?", (folder,)
                    )
                    self._known[folder] = {(name, kind): (stamp, look) for name, kind, stamp, look in rows}
                except UnicodeError:  # a path that is not UTF-8 cannot be stored
                    pass
                except sqlite3.Error as problem:
                    self._give_up(problem)
        return self._known[folder]

    def _flush(self) -> None:
        rows, self._new = self._new, []
        if self._database is None or not rows:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?,?,?,?,?)", rows)
            self._database.execute("COMMIT")
        except (sqlite3.Error, UnicodeError) as problem:
            self._give_up(problem)

    def _give_up(self, problem: Exception) -> None:
        logger.warning(
            f"Results of reading image files cannot be cached in {cache_file()} ({problem}), so every start reads "
            "every file. Set HF_HOME to a writable folder."
        )
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        self._database = None


class NotCached(Exception):
    """The file would have to be read."""


class CachedLooks:
    """The cached results alone: raises `NotCached` where a file would have to be read."""

    def __init__(self, looks: LookCache) -> None:
        self._looks = looks

    def of(self, place: Place | None, kind: str, look: Callable[[], Look]) -> Look:
        found = None if place is None else self._looks.known(place, kind)
        if found is None:
            raise NotCached
        return found
