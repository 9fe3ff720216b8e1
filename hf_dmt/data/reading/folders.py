"""Local folders of image files: one folder per class, images with masks, or images only.

`datasets` opens folders, too, but supports fewer image formats, takes the innermost folder as the class, and searches
the tree once for each of some sixty possible split names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..messages import listed
from ..texts import texts
from .finding import Folder, find_images, left_out_in, polygons_in
from .rows import DataError, FileRows, same_letters
from .split_names import role_of, with_role

_ROLES = ("train", "validation", "test")
# The last of each are those of Pascal VOC and CVAT.
IMAGE_FOLDERS = ("images", "image", "img", "imgs", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "segmentation", "gt", "segmentationclass")
# Also train_images and train_masks, or SegmentationObject.
_OF_IMAGES = re.compile(r"(^|[-_ ]|jpeg)(images?|imgs?)$", re.IGNORECASE)
_OF_MASKS = re.compile(rf"(^|[-_ ])({'|'.join(MASK_FOLDERS)})$|^segmentation(class|object)$", re.IGNORECASE)


def open_unlabeled_folder(folder: str, notes: list[str]) -> FileRows:
    """All images in a flat or nested folder.

    Raises:
        DataError: no such folder, or no images in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"`unlabeled_dir` {folder!r} is not a folder. Check the path.")
    found = find_images(root)
    if not found.images:
        raise DataError(
            f"`unlabeled_dir` {folder!r} contains no images (JPEG, PNG, ...). Check the path and the file names."
            + left_out_in(root)
        )
    return FileRows(texts(without_masks(found, notes)), root)


def without_masks(found: Folder, notes: list[str], depth: int = 0) -> list[str]:
    """The images of a folder, without those in `masks/` beside `images/`, which would get labels like any image.

    Args:
        depth: of the folders that are not compared, because their names are those of classes.
    """
    notes += found.notes()
    parted = [name.rpartition("/") for name in sorted({*found.folders} - {*found.without_images})]
    with_images = {above for above, _, last in parted if _OF_IMAGES.search(last)}
    of_masks = tuple(
        f"{above}{slash}{last}/"
        for above, slash, last in parted
        if above in with_images and _OF_MASKS.search(last) and f"{above}{slash}".count("/") >= depth
    )
    kept = [name for name in found.names if not name.startswith(of_masks)]
    if len(kept) < len(found.names):
        notes.append(
            f"Warning: skipped {len(found.names) - len(kept)} masks in {str(found.root)!r} ({listed(of_masks)}), which "
            "are beside a folder of images. If they are images, too, rename their folder."
        )
    return kept


def class_folders(
    root: Path, notes: list[str], apart: Path | None = None
) -> tuple[dict[str, FileRows], list[str]] | None:
    """Splits and class names of a folder with one folder per class, at the root (train) or in split folders.

    The class is the first folder below that, however deeply an image is nested. A folder called `unlabeled` is not a
    class. None if there are no such folders.

    Args:
        apart: the folder of the unlabeled images, which is not a class if it is inside `root`.

    Raises:
        DataError: a folder that is not a class would become one.
    """
    root = only_folder_with_splits(root)
    found = find_images(root, apart)
    in_splits = any(role_of(name) == "train" for name in found.folders if "/" not in name)
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    beside: list[str] = []
    deep: Counter[tuple[str, str]] = Counter()
    said: list[str] = []
    for image in without_masks(found, said, depth=2 if in_splits else 1):
        above = image.split("/")[:-1]
        role = role_of(above[0]) if above else None
        if role == "unlabeled":
            continue
        split = role if in_splits else "train"
        class_and_inner = above[1:] if in_splits else above
        if split is None or not class_and_inner:
            beside.append(image)
            continue
        images.setdefault(split, []).append(image)
        labels.setdefault(split, []).append(same_letters(class_and_inner[0]))
        if len(class_and_inner) > 1:
            deep[class_and_inner[0], class_and_inner[1]] += 1
    if "train" not in images:
        return None
    classes = sorted({label for found_labels in labels.values() for label in found_labels})
    _check_classes(root, classes, in_splits)
    _check_folders_inside(root, deep, classes)
    notes += [*said, *_notes_on_classes(root, found, beside, deep, in_splits)]
    rows = {split: FileRows(texts(chosen), root, labels=labels[split]) for split, chosen in images.items()}
    return rows, classes


def class_like_a_split(names: Sequence[str]) -> str:
    """A hint about a class called train, as in COCO, which makes the folders of the other classes no classes.

    Args:
        names: of images that have no class, relative to their root.
    """
    tops = dict.fromkeys(name.partition("/")[0] for name in names if "/" in name)
    like = next((top for top in tops if role_of(top) == "train"), None)
    others = [top for top in tops if role_of(top) is None]
    if like is None or not others:
        return ""
    return (
        f" The folder {like!r} is named like a split. If it is a class, as {listed(others)} are, move all classes into "
        f"one folder: train/{like}, train/{others[0]}, ..."
    )


def only_folder_with_splits(root: Path) -> Path:
    """The only subfolder, if it contains train/ and the other splits and there is nothing else beside it."""
    if not root.is_dir():
        return root
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if len(folders) == 1 and role_of(folders[0].name) is None:
        inside = [path.name for path in folders[0].iterdir() if path.is_dir()]
        if with_role(inside, "train"):
            return folders[0]
    return root


def _check_classes(root: Path, classes: list[str], in_splits: bool) -> None:
    """Raises DataError if a folder that is not a class would be used as one."""
    if unlabeled := [name for name in classes if role_of(name) == "unlabeled"]:
        raise DataError(
            f"The folder {unlabeled[0]!r} among the class folders of {str(root)!r} would become a class. Move it "
            "beside the folder 'train', or pass it as `unlabeled_dir`."
        )
    with_images, with_masks = ({name for name in classes if kind.search(name)} for kind in (_OF_IMAGES, _OF_MASKS))
    if with_images - with_masks and with_masks - with_images:
        raise DataError(
            f"{str(root)!r} contains images with masks, not one folder per class. Add `task='semantic-segmentation'`."
        )
    others = [name for name in classes if role_of(name) in {"validation", "test"}]
    if others and not in_splits:
        raise DataError(
            f"The folder {others[0]!r} in {str(root)!r} is named like a split, but there is no folder 'train' beside "
            "it. Rename the training folder to 'train', or rename the class."
        )


def _check_folders_inside(root: Path, deep: Counter[tuple[str, str]], classes: list[str]) -> None:
    """Raises DataError if a folder inside a class folder is called like a class or a split.

    Args:
        deep: `(class folder, folder inside it)`.
    """
    for above, inner in sorted(deep, key=lambda pair: pair[1]):
        if inner in classes:
            raise DataError(
                f"{str(root)!r} contains a folder {inner!r} and another one in {above!r}, so the class of the images "
                "in it is unclear. Put all images of a class into one folder at the top level."
            )
        if role_of(inner) in {"validation", "test"}:
            raise DataError(
                f"{str(root)!r} contains {above}/{inner}: a folder named like a split inside a class folder, whose "
                f"images would be trained on. Move the split above the class: {inner}/{above}; or rename {inner!r}."
            )


def _notes_on_classes(
    root: Path, found: Folder, beside: list[str], deep: Counter[tuple[str, str]], in_splits: bool
) -> list[str]:
    notes = []
    if beside:
        notes.append(
            f"Warning: skipped {len(beside)} images in {str(root)!r} that are not in a class folder: "
            f"{listed(beside)}. Move them into the folder of their class, or pass them as `unlabeled_dir`."
        )
    if deep:
        above, below = next(iter(deep))
        times = Counter(inner for _, inner in deep)
        repeated = sorted(inner for inner, classes in times.items() if classes > 1)
        are_classes = len(repeated) > 1  # the same folders in several outer ones
        notes.append(
            f"{'Warning: ' if are_classes else ''}Images in folders inside class folders get the class of the "
            f"outer folder ({sum(deep.values())} in all): those in {above}/{below} are {above!r}."
            + (f" If {listed(repeated)} are the classes, make them the outer folders." if are_classes else "")
        )
    depth = 2 if in_splits else 1
    empty = [name for name in found.without_images if name.count("/") + 1 == depth]
    if empty:
        what = f"{len(empty)} class folders" if len(empty) > 1 else "1 class folder"
        notes.append(f"Warning: skipped {what} without images in {str(root)!r}: {listed(map(repr, empty))}.")
    return notes


def mask_folders(root: Path, notes: list[str], suffix: str = "", apart: Path | None = None) -> dict[str, FileRows]:
    """Splits of a folder with images and masks; empty if there are none.

    `images/` and `masks/` may be at the root (train), inside a folder for each split, or contain split folders
    themselves: `images/training/` beside `annotations/training/`.

    Args:
        suffix: appended to an image's name in the name of its mask, such as `_mask`.

    Raises:
        DataError: images without masks.
    """
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    found: list[tuple[str, Path, Path]] = []  # split, images, masks
    for role in _ROLES:
        for name in with_role(folders, role):
            if both := _images_and_masks(root / name, notes):
                found.append((role, *both))
    has_train = any(role == "train" for role, _, _ in found)
    if both := _images_and_masks(root, notes):
        if has_train:
            notes.append(
                f"Warning: skipped {both[0].name}/ in {str(root)!r}, because there are split folders beside it."
            )
        else:
            inside = [] if found else _splits_inside(*both, notes, apart)
            found = inside or [("train", *both), *found]
    splits: dict[str, FileRows] = {}
    for role, images, masks in found:
        rows = _paired(images, masks, root, suffix, notes, apart)
        splits[role] = _joined(splits[role], rows, root) if role in splits else rows
    return splits


def _joined(one: FileRows, other: FileRows, root: Path) -> FileRows:
    """Two folders of one split: train2012 and train2017."""
    masks = [*(one.masks or ()), *(other.masks or ())]
    return FileRows([*one.images, *other.images], root, masks=masks)


def _images_and_masks(folder: Path, notes: list[str]) -> tuple[Path, Path] | None:
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    all_images, all_masks = (
        [inside[name] for name in names if name in inside] for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    )
    if not all_images:
        return None
    images = all_images[0]
    if not all_masks:
        raise DataError(
            f"{str(images)!r} has no folder 'masks' beside it. Add the masks under the names of the images, or "
            f"pass the images as `unlabeled_dir`.{polygons_in(folder)}"
        )
    for used, *others in (all_images, all_masks):
        if left_out := [other.name for other in others if find_images(other).names]:
            notes.append(
                f"Warning: {', '.join(left_out)} in {str(folder)!r} is not used, because there is also {used.name}. To "
                f"use it, rename or move {used.name}."
            )
    return images, all_masks[0]


def _splits_inside(images: Path, masks: Path, notes: list[str], apart: Path | None) -> list[tuple[str, Path, Path]]:
    """`images/train/` and `images/val/` beside `masks/train/` and `masks/val/`: split, images and masks of each."""
    folders, mask_names = ([path.name for path in folder.iterdir() if path.is_dir()] for folder in (images, masks))
    named = [(role, name) for role in _ROLES for name in with_role(folders, role)]
    if not named:
        return []
    if named[0][0] != "train":
        other = named[0][1]
        raise DataError(
            f"{str(images)!r} has a folder {other!r}, which is named like a split, but none called 'train'. Rename "
            f"the folder of the training images to 'train', or rename {other!r}."
        )
    found = []
    for role, name in named:
        if mask_folders := [name] if name in mask_names else with_role(mask_names, role):
            found.append((role, images / name, masks / mask_folders[0]))
        elif role == "train":
            raise DataError(f"{str(masks)!r} has no folder {name!r} with the masks of {str(images / name)!r}.")
        else:
            notes.append(f"The split {name!r} in {str(images)!r} has no masks and is not used.")
    used = {name for _, name in named}
    others = [name for name in find_images(images, apart).names if name.split("/")[0] not in used]
    if others:
        notes.append(
            f"Warning: skipped {len(others)} images in {str(images)!r} that are in no split folder, such as "
            f"{others[0]!r}. Pass them as `unlabeled_dir`, or move them."
        )
    return found


def _paired(
    image_folder: Path, mask_folder: Path, root: Path, suffix: str, notes: list[str], apart: Path | None
) -> FileRows:
    found, masks = find_images(image_folder, apart), find_images(mask_folder)
    notes += [*found.notes(), *masks.notes()]
    images = found.images
    by_name = _by_name(masks.images, mask_folder, suffix)
    names = [_stem(path, image_folder) for path in images]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"{len(twice)} images in {str(image_folder)!r} differ from another one only in the extension, such as "
            f"{twice[0]!r}, so their masks are ambiguous. Rename or remove one of the two."
        )
    missing = [name for name in names if name not in by_name]
    if missing or not images:
        raise DataError(
            f"{len(missing)} of {len(names)} images in {str(image_folder)!r} have no mask of the same name in "
            f"{str(mask_folder)!r}{f', for example {missing[0]!r}' if missing else ''}. Add the masks, or move images "
            "without one to a separate folder and pass it as `unlabeled_dir`."
            + (f" The masks have names such as {next(iter(by_name))!r}." if by_name else "")
            + _other_ending(missing, masks.images, mask_folder)
            + left_out_in(mask_folder)
            + polygons_in(mask_folder)
        )
    known = set(names)
    if alone := [path for name, path in by_name.items() if name not in known]:
        notes.append(
            f"Warning: skipped {len(alone)} masks in {str(mask_folder)!r} without an image of the same name, such as "
            f"{alone[0].relative_to(mask_folder).as_posix()!r}."
        )
    return FileRows(images, root, masks=[by_name[name] for name in names])


def _stem(path: Path, folder: Path) -> str:
    return same_letters(path.relative_to(folder).with_suffix("").as_posix())


def _by_name(masks: Sequence[Path], folder: Path, suffix: str) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for path in masks:
        name = _stem(path, folder)
        if not name.endswith(suffix):
            continue
        name = name.removesuffix(suffix)
        if name in by_name:
            raise DataError(
                f"{str(by_name[name])!r} and {str(path)!r} are masks for the same image. Remove one of them."
            )
        by_name[name] = path
    return by_name


def _other_ending(missing: Sequence[str], masks: Sequence[Path], folder: Path) -> str:
    """The flag that helps if the names of all masks are those of the images plus the same suffix."""
    stems = [_stem(path, folder) for path in masks]
    # a few images tell; comparing all names with all others would take hours
    endings = Counter(
        stem[len(name) :] for name in missing[:5] for stem in stems if stem.startswith(name) and stem != name
    )
    ending = endings.most_common(1)[0][0] if endings else ""
    # with one mask per object (1_0, 1_1), a suffix would choose one object
    all_have_it = bool(ending) and all(stem.endswith(ending) for stem in stems)
    return f" Their names end in {ending!r}: pass `mask_suffix={ending}`." if all_have_it else ""
