"""Find the image files of a folder, or those that a table names, and account for all other files.

An image is whatever Pillow opens: its list of extensions decides or, for files without one, their content.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image, ImageFile, UnidentifiedImageError

from ..messages import listed
from ..texts import Paths, texts
from .rows import DataError, check_names, same_letters

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
# Of macOS, Synology and Windows, full of small copies; and those at the root of a disk, which users may not read.
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
# In the folders of runs, comparisons, labeling queues and predicted masks.
_OWN_FILES = {
    ".run.lock",
    "dmt_config.json",
    "dmt_results.json",
    "comparison.json",
    "queue.csv",
    "predictions.csv.about.json",
    ".predictions.csv.parts",
}
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
_ADVICE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pip install 'hf-dmt[heic]' reads them"),
    **dict.fromkeys(_RAW, "camera raw data: export JPEG or TIFF files"),
    **dict.fromkeys(
        (".nd2", ".czi", ".lif", ".svs", ".ndpi", ".mrxs", ".dcm", ".nii", ".nii.gz"), "export PNG or TIFF files"
    ),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".mpg", ".mpeg"), "a video: extract its frames"),
    **dict.fromkeys((".svg", ".pdf", ".xcf", ".kra", ".ai", ".eps", ".ps"), "export PNG files"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5", ".hdf", ".hdf5"), "arrays: save them as PNG or TIFF files"),
    **dict.fromkeys(PACKED, "unpack it first"),
}

_POLYGONS = (b'"segmentation"', b'"shapes"', b"<polygon")  # of COCO, labelme, CVAT


def polygons_in(path: Path) -> str:
    """What to do with outlines of objects in a file, or in a file of a folder, as the end of an error about missing
    masks; empty if there are none."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix.lower() in (".json", ".xml") and file.is_file():
            content = file.read_bytes()
            if any(word in content for word in _POLYGONS):
                return (
                    f" {file.name} contains polygons, which are not read: draw them into a PNG of class ids per image."
                )
    return ""


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
        left_out: files that are not images, by extension, as relative paths.
        hidden: number of files that are hidden or belong to an operating system.
        linked: links that are not followed, as relative paths, each with the reason.
        folders: all folders that were searched, as relative paths.
        written: folders that this package wrote, which are not searched, as relative paths.
    """

    root: Path
    names: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    hidden: int = 0
    linked: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    @property
    def images(self) -> Paths:
        return Paths(self.root, texts(self.names))

    @property
    def without_images(self) -> list[str]:
        """Folders without an image, at any depth; without those that this package wrote."""
        full = {""}
        for folder in {*(name.rpartition("/")[0] for name in self.names), *self.written}:
            while folder not in full:
                full.add(folder)
                folder = folder.rpartition("/")[0]
        return [name for name in self.folders if name not in full]

    def notes(self) -> list[str]:
        """Messages about skipped files for the user; warnings if they look like images."""
        lines = []
        for extension, names in sorted(self.left_out.items()):
            advice = _ADVICE.get(extension) or _advice_by_content(self.root, names[0])
            lines.append(
                f"{'Warning: s' if advice else 'S'}kipped {len(names)} {extension or 'without an extension'} in "
                f"{str(self.root)!r} ({listed(names, 3)}): {advice or 'not images'}."
            )
        if self.hidden:
            lines.append(f"Skipped {self.hidden} hidden and system files in {str(self.root)!r}.")
        for reason in dict.fromkeys(self.linked.values()):
            names = [name for name, other in self.linked.items() if other == reason]
            lines.append(f"Warning: skipped {len(names)} links in {str(self.root)!r} {reason}: {listed(names, 3)}.")
        if self.written:
            lines.append(f"Skipped folders in {str(self.root)!r} that hf-dmt wrote: {listed(self.written, 3)}.")
        return lines


def find_images(folder: str | Path, apart: Path | None = None, *, tables: Iterable[Path] = ()) -> Folder:
    """All image files in a folder and its subfolders.

    Extensions are case-insensitive. Hidden files and folders, and those of operating systems, are skipped, and so are
    runs, comparisons, queues and predicted masks in subfolders: their figures and copies are not the user's images.
    Linked folders are followed, each real folder once, so a link to a parent is harmless.

    Args:
        apart: a subfolder that is not searched, because its images have another role.
        tables: files that are read as tables, which are not left out.

    Raises:
        DataError: there is no such folder, a folder in it cannot be read, or the name of an image is not valid text.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"No images can be read from {str(folder)!r}: it {what}. Give the path of a folder.")
    found = Folder(root)
    extensions = image_extensions()
    read = set(tables)
    for inside, files in _walk(found, apart):
        for name in files:
            extension = ".nii.gz" if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1].lower()
            if extension in extensions or (not extension and _format_inside(root / inside / name)):
                found.names.append(inside + name)
            elif not os.path.exists(root / inside / name):
                found.linked[inside + name] = "to files or folders that do not exist"
            elif root / inside / name not in read:
                found.left_out.setdefault(extension, []).append(inside + name)
    found.names.sort(key=lambda name: name.split("/"))
    check_names(found.names, root)
    return found


def left_out_in(folder: Path, *, read: bool = False) -> str:
    """What is in a folder beside images, and what to do with it, as further sentences of an error.

    Args:
        read: files without advice are not listed, because they were read as tables.
    """
    notes = find_images(folder).notes() if folder.is_dir() else []
    return "".join(f" {note.replace('Warning: s', 'S', 1)}" for note in notes if note.startswith("Warning") or not read)


def files_of(file: Path, cells: Sequence[Any], notes: list[str]) -> tuple[list[Path], list[str]]:
    """`(the files, names of missing ones)`, relative to the table's folder, to the only folder in it that has all,
    or to those that have one each."""
    paths, missing = _files(file.parent, cells)
    inside = [path for path in sorted(file.parent.iterdir()) if path.is_dir()] if missing else []
    complete = [folder for folder in inside if not _files(folder, cells)[1]]
    found = _files(complete[0], cells)[0] if len(complete) == 1 else _spread(inside, cells)
    if not found:
        return paths, missing
    folders = listed(sorted({os.path.relpath(parent, file.parent) for parent in {path.parent for path in found}}))
    if (note := f"The files of {file.name!r} are those in {str(file.parent)!r}: {folders}.") not in notes:
        notes.append(note)
    return found, []


def _spread(folders: Sequence[Path], cells: Sequence[Any]) -> list[Path]:
    """The files, if each is in exactly one of the folders, such as `images_part_1` and `images_part_2`; or else []."""
    known: dict[Path, dict[str, str]] = {}
    found: list[Path] = []
    for cell in cells:
        paths = [path for folder in folders if (path := _existing(folder, str(cell).strip(), known))]
        if len(paths) != 1:
            return []
        found += paths
    return found


def _files(folder: Path, cells: Sequence[Any]) -> tuple[list[Path], list[str]]:
    """`(the files, names of missing ones)`; names may lack the extension, as in tables of ids."""
    found, missing = [], []
    folders: dict[Path, dict[str, str]] = {}
    for cell in cells:
        text = str(cell).strip()
        path = _existing(folder, text, folders) or _existing(folder, text.replace("\\", "/"), folders)
        if path is None:
            missing.append(text)
        else:
            found.append(path)
    return found, missing


def _existing(folder: Path, name: str, folders: dict[Path, dict[str, str]]) -> Path | None:
    path = folder / (name.removeprefix(f"{folder.absolute()}{os.sep}") if os.path.isabs(name) else name)
    if path.parent not in folders:
        files = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        images = [entry for entry in files if Path(entry).suffix.lower() in image_extensions()]
        stems = Counter(same_letters(Path(entry).stem) for entry in images)
        folders[path.parent] = {
            **{stem: entry for entry in images if stems[stem := same_letters(Path(entry).stem)] == 1},
            **{same_letters(entry): entry for entry in files},
        }
    stored = folders[path.parent].get(same_letters(path.name))
    return path.with_name(stored) if stored else None


def _walk(found: Folder, apart: Path | None) -> Iterator[tuple[str, list[str]]]:
    """`("a/b/", names of the files in it)` for each folder below `found.root`; what is not searched is recorded.

    Links are followed last, so that images below the root are listed under their own path and not under a link's.

    Raises:
        DataError: a folder cannot be read.
    """
    not_here = os.path.realpath(apart) if apart else None
    seen: set[str] = set()
    starts = [str(found.root)]
    for start in starts:  # links are appended
        for parent, folders, files in os.walk(start, onerror=_unreadable):
            inside = os.path.relpath(parent, found.root).replace(os.sep, "/")
            real, all_folders = os.path.realpath(parent), sorted(folders)
            folders[:] = []
            if real == not_here:
                continue
            if real in seen:
                if not Path(start).parent.resolve().is_relative_to(real):  # a link to a parent hides nothing
                    found.linked[inside] = "to folders that are searched already"
                continue
            seen.add(real)
            if inside != "." and not _OWN_FILES.isdisjoint([*files, *all_folders]):
                found.written.append(inside)
                continue
            for name in all_folders:
                full = os.path.join(parent, name)
                if name.startswith(".") or name.lower() in _SYSTEM_FOLDERS:
                    found.hidden += sum(len(names) for _, _, names in os.walk(full))
                elif os.path.islink(full):
                    starts.append(full)
                else:
                    folders.append(name)
            kept = [name for name in files if not name.startswith(".") and name.lower() not in _SYSTEM_FILES]
            found.hidden += len(files) - len(kept)
            found.folders += [inside] if inside != "." else []
            yield "" if inside == "." else f"{inside}/", kept


def _unreadable(problem: OSError) -> NoReturn:
    """`os.walk` would skip the folder."""
    raise DataError(
        f"The folder {problem.filename!r} cannot be read ({problem.strerror}). Change its permissions, or move it away."
    ) from problem


def _advice_by_content(root: Path, name: str) -> str:
    """What to do with files of an unknown extension, or of none; empty if they are nothing that we know."""
    if format := _format_inside(root / name):
        return f"{name} is a {format} image: give such files the extension .{format.lower()}"
    with suppress(OSError), open(root / name, "rb") as content:
        if not Path(name).suffix and content.read(132)[128:] == b"DICM":  # hospitals export them without an extension
            return f"{name} is a DICOM file: {_ADVICE['.dcm']}"
    return ""


def _format_inside(file: Path) -> str | None:
    """The format of an image, from its content alone; None for everything else."""
    try:
        with Image.open(file) as image:
            return None if _only_recognized(image.format or "MPEG") else image.format
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
