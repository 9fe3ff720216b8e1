"""Local folders of image files: one folder per class, images beside masks, or images and nothing else.

`datasets` opens folders too, but searches the tree once for each of some sixty names that a split may have: for 100,000
images that takes minutes at every start, and walking the tree once takes a second. It is left to folders of other
shapes: with tables or metadata files, or with split names of its own invention.
"""

from __future__ import annotations

from pathlib import Path

from .decoding import IMAGE_EXTENSIONS, find_files, find_images
from .rows import DataError, FileRows

IMAGE_FOLDERS = ("images", "image", "img")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels")
UNLABELED_FOLDERS = ("unlabeled", "unlabelled")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_DATA_FILES = {".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".zip", ".tar", ".gz"}


def open_unlabeled_folder(folder: str) -> FileRows:
    """All images in a flat or nested folder; other files are passed over.

    Raises:
        DataError: no such folder, or no image in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"--unlabeled_dir {folder!r} is not a folder. Check the path.")
    images = find_images(root)
    if not images:
        raise DataError(
            f"--unlabeled_dir {folder!r} holds no images (JPEG, PNG, ...). Check the path and the file names."
        )
    return FileRows(images, root)


def class_folders(root: Path) -> tuple[dict[str, FileRows], list[str]] | None:
    """Splits and class names of a folder with one folder per class, at the root (train) or in folders named as splits.

    The class is the name of the folder that an image lies in. None for any other shape.

    Raises:
        DataError: a folder that is no class would become one.
    """
    if not root.is_dir():
        return None
    folders = {
        split: [root / name for name in names if (root / name).is_dir()] for split, names in SPLIT_FOLDERS.items()
    }
    split_folders = {split: found[0] for split, found in folders.items() if found}
    splits = split_folders or {"train": root}
    images: dict[str, list[Path]] = {split: [] for split in splits}
    for path in find_files(root):
        if path.suffix.lower() in _DATA_FILES:
            return None
        aside = split_folders and path.relative_to(root).parts[0] in UNLABELED_FOLDERS
        if aside or path.suffix.lower() not in IMAGE_EXTENSIONS:
            continue
        split = next((split for split, folder in splits.items() if path.parent.parent == folder), None)
        if split is None:
            return None
        images[split].append(path)
    classes = sorted({path.parent.name for found in images.values() for path in found})
    if len(classes) < 2 or not all(images.values()):
        return None
    check_class_names(root, set(classes))
    rows = {
        split: FileRows(found, root, labels=[path.parent.name for path in found])
        for split, found in ((split, sorted(found)) for split, found in images.items())
    }
    return rows, classes


def mask_folders(root: Path) -> dict[str, FileRows]:
    """Splits of a folder with `images/` and `masks/` inside, at the root (train) or per split; empty without them.

    Raises:
        DataError: images without masks.
    """
    splits: dict[str, FileRows] = {}
    for split, names in SPLIT_FOLDERS.items():
        for folder in [root / name for name in names] + ([root] if split == "train" else []):
            if split not in splits and (rows := _image_and_mask_files(folder, root)) is not None:
                splits[split] = rows
    return splits


def check_class_names(root: Path, classes: set[str]) -> None:
    """Raises DataError where a folder that is no class would be taken for one."""
    if unlabeled := classes & set(UNLABELED_FOLDERS):
        raise DataError(
            f"The folder {min(unlabeled)!r} in {str(root)!r} would become a class. Move it out and pass it as "
            "--unlabeled_dir."
        )
    if classes & set(IMAGE_FOLDERS) and classes & set(MASK_FOLDERS):
        raise DataError(
            f"{str(root)!r} holds images beside masks, not one folder per class. Add --task semantic-segmentation."
        )


def _image_and_mask_files(folder: Path, root: Path) -> FileRows | None:
    image_folder = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    mask_folder = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    if image_folder is None:
        return None
    if mask_folder is None:
        raise DataError(
            f"{str(image_folder)!r} has no folder 'masks' beside it. Add the masks under the names of the images, or "
            "pass the images as --unlabeled_dir."
        )
    images = find_images(image_folder)
    by_name = {path.relative_to(mask_folder).with_suffix("").as_posix(): path for path in find_images(mask_folder)}
    names = [path.relative_to(image_folder).with_suffix("").as_posix() for path in images]
    missing = [name for name in names if name not in by_name]
    if missing or not images:
        raise DataError(
            f"{len(missing)} of {len(names)} images in {str(image_folder)!r} have no mask of the same name in "
            f"{str(mask_folder)!r}{f', for example {missing[0]!r}' if missing else ''}. Add the masks, or move images "
            "without one to a folder of their own and pass it as --unlabeled_dir."
        )
    return FileRows(images, root, masks=[by_name[name] for name in names])
