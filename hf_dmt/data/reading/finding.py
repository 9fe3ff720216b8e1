"""Find the image files of a folder, and account for all other files.

An image is whatever Pillow opens: its list of extensions decides or, for files without one, their content.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from ..texts import Paths, Texts
from .rows import DataError, check_names

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin"}  # of macOS, Synology and Windows; full of small copies
# In the folders of runs, labeling queues and predicted masks.
_OWN_FILES = {
    ".run.lock",
    "dmt_config.json",
    "dmt_results.json",
    "queue.csv",
    "predictions.csv.about.json",
    ".predictions.csv.parts",
}
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
_ADVICE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pip install 'hf-dmt[heic]' reads them"),
    **dict.fromkeys(_RAW, "camera raw data: export JPEG or TIFF files"),
    **dict.fromkeys((".nd2", ".czi", ".lif", ".svs", ".ndpi", ".mrxs", ".dcm", ".nii"), "export PNG or TIFF files"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".mpg", ".mpeg"), "a video: extract its frames"),
    **dict.fromkeys((".svg", ".pdf", ".xcf", ".kra", ".ai", ".eps", ".ps"), "export PNG files"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5", ".hdf", ".hdf5"), "arrays: save them as PNG or TIFF files"),
    **dict.fromkeys(PACKED, "unpack it first"),
}
_SHOWN = 3


@cache
def image_extensions() -> frozenset[str]:
    """Extensions of formats that Pillow can decode here, in lower case with the dot; includes HEIC if `pillow-heif` is
    installed."""
    found = {extension for extension, format in Image.registered_extensions().items() if format in Image.OPEN}
    undecoded = {extension for extension in found if _only_recognized(Image.registered_extensions()[extension])}
    return frozenset(found - undecoded)


def _only_recognized(format: str) -> bool:
    """Formats that Pillow recognizes but cannot decode itself."""
    opener = Image.OPEN[format][0]
    return format in {"MPEG", "EPS"} or (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile))


@dataclass
class Folder:
    """The files below a folder.

    Attributes:
        names: the images, sorted, as paths relative to `root` with `/`.
        left_out: number of files of each extension that are not images, and some of their names.
        hidden: number of files that are hidden or belong to an operating system.
        empty: folders without any files, as relative paths.
        written: folders that this package wrote, which are not searched, as relative paths.
    """

    root: Path
    names: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    hidden: int = 0
    empty: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    @property
    def images(self) -> Paths:
        return Paths(self.root, Texts(self.names))

    def uncount(self, file: Path) -> None:
        """Remove a file from the count because it was read in another way."""
        extension = file.suffix.lower()
        self.left_out[extension] -= 1
        self.examples[extension] = [name for name in self.examples.get(extension, []) if self.root / name != file]
        self.left_out = +self.left_out

    def notes(self) -> list[str]:
        """Messages about skipped files for the user; warnings if they look like images."""
        lines = []
        for extension, count in sorted(self.left_out.items()):
            advice = _ADVICE.get(extension) or self._advice_by_content(extension)
            shown = ", ".join(self.examples[extension]) + (", ..." if count > _SHOWN else "")
            lines.append(
                f"{'Warning: s' if advice else 'S'}kipped {count} {extension or 'without an extension'} in "
                f"{str(self.root)!r} ({shown})" + (f": {advice}." if advice else ": not images.")
            )
        if self.hidden:
            lines.append(f"Skipped {self.hidden} hidden and system files in {str(self.root)!r}.")
        if self.written:
            shown = ", ".join(self.written[:_SHOWN]) + (", ..." if len(self.written) > _SHOWN else "")
            lines.append(f"Skipped folders in {str(self.root)!r} that hf-dmt wrote: {shown}.")
        return lines

    def _advice_by_content(self, extension: str) -> str:
        name = next(iter(self.examples[extension]), "")
        format = _format_inside(self.root / name)
        return f"{name} is a {format} image: give such files the extension .{format.lower()}" if format else ""


def find_images(folder: str | Path, apart: Path | None = None) -> Folder:
    """All image files in a folder and its subfolders.

    Extensions are case-insensitive. Hidden files and folders, and those of operating systems, are skipped, and so are
    runs, queues and predicted masks in subfolders: their figures and copies are not the user's images. Linked folders
    are followed, each real folder once, so a link to a parent is harmless.

    Args:
        apart: a subfolder that is not searched, because its images have another role.

    Raises:
        DataError: there is no such folder, or the name of an image in it is not valid text.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"No images can be read from {str(folder)!r}: it {what}. Give the path of a folder.")
    found = Folder(root)
    extensions = image_extensions()
    for parent, folders, files, hidden in walk(root, apart):
        found.hidden += hidden
        inside = os.path.relpath(parent, root)
        inside = "" if inside == "." else inside.replace(os.sep, "/") + "/"
        if files is None:
            found.written.append(inside.removesuffix("/"))
            continue
        if not folders and not files and inside:
            found.empty.append(inside.removesuffix("/"))
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if extension in extensions or (not extension and _format_inside(Path(parent, name))):
                found.names.append(inside + name)
            else:
                found.left_out[extension] += 1
                shown = found.examples.setdefault(extension, [])
                if len(shown) < _SHOWN:
                    shown.append(inside + name)
    found.names.sort(key=lambda name: name.split("/"))
    check_names(found.names, root)
    return found


def walk(root: Path, apart: Path | None = None) -> Iterator[tuple[str, list[str], list[str] | None, int]]:
    """`(folder, subfolders, files, number of hidden or system files)`; linked folders are visited once each, and the
    subfolder `apart` never. Files are None for a folder that this package wrote, and nothing in it is visited."""
    seen = {os.path.realpath(root), *([os.path.realpath(apart)] if apart else [])}
    for parent, folders, files in os.walk(root, followlinks=True):
        if parent != str(root) and not _OWN_FILES.isdisjoint([*files, *folders]):
            folders[:] = []
            yield parent, [], None, 0
            continue
        entered, hidden = [], 0
        # A folder before links to it, which would name its images after the link.
        for name in sorted(folders, key=lambda name: (os.path.islink(os.path.join(parent, name)), name)):
            full = os.path.join(parent, name)
            if name.startswith(".") or name.lower() in _SYSTEM_FOLDERS:
                hidden += sum(len(names) for _, _, names in os.walk(full))
                continue
            real = os.path.realpath(full)
            if real not in seen:
                seen.add(real)
                entered.append(name)
        folders[:] = entered
        kept = [name for name in files if not name.startswith(".") and name.lower() not in _SYSTEM_FILES]
        yield parent, entered, kept, hidden + len(files) - len(kept)


def _format_inside(file: Path) -> str | None:
    """The format of an image, from its content alone; None for everything else."""
    try:
        with Image.open(file) as image:
            return None if _only_recognized(image.format or "MPEG") else image.format
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
