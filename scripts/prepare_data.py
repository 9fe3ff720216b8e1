#!/usr/bin/env python
"""Convert the downloaded data sets of the paper to folders for `hf-dmt train`, with the official splits.

    prepare_data.py voc        --source VOCdevkit/VOC2012 --output data/voc
    prepare_data.py cityscapes --source cityscapes        --output data/cityscapes [--side 512]
    prepare_data.py cifar10    --source uoft-cs/cifar10   --output data/cifar10

VOC needs `SegmentationClassAug/` (the SBD masks as PNG) in the VOC folder. Images are linked unless you pass `--copy`.
`splits/` contains lists for `--labeled_ids` and `--difference_maximized_sampling`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts import official_splits as official

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CITYSCAPES_CLASSES = (
    *(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
    ),
    *("sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
# The values of those classes in *_labelIds.png, in order; every other value is void.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
VOID = 255
# An image's id in `--labeled_ids` is its path in the prepared folder.
VOC_ID, CITYSCAPES_ID = "train/images/{}.jpg", "train/images/{}.png"
# The data sets on which an option has an effect.
OF = {"side": ("cityscapes",), "copy": ("voc", "cityscapes")}


class PrepareError(ValueError):
    """Data that is missing or not as expected."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare one data set; returns 0, or 2 for invalid arguments."""
    args = _parser().parse_args(argv)
    output = Path(args.output)
    try:
        for name, sets in OF.items():
            if args.dataset not in sets and getattr(args, name):
                raise PrepareError(f"--{name} has no effect on {args.dataset}, only on {' and '.join(sets)}. Omit it.")
        if output.is_file() or (output.exists() and any(output.iterdir())):
            raise PrepareError(f"--output {args.output!r} is not an empty folder. Choose another one.")
        match args.dataset:
            case "voc":
                prepare_voc(Path(args.source), output, copy=args.copy)
            case "cityscapes":
                prepare_cityscapes(Path(args.source), output, side=args.side, copy=args.copy)
            case "cifar10":
                prepare_cifar10(args.source, output)
    except (ValueError, OSError) as problem:
        print(f"prepare_data.py: error: {problem}", file=sys.stderr)
        return 2
    return 0


def prepare_voc(source: Path, output: Path, *, copy: bool) -> None:
    """trainaug (10,582 images) and val (1,449) of VOC 2012, and the splits.

    Raises:
        PrepareError: missing lists, images or masks.
    """
    lists = source / "ImageSets" / "Segmentation"
    trainaug_file = next((lists / name for name in ("trainaug.txt", "train_aug.txt") if (lists / name).is_file()), None)
    if trainaug_file is None:
        raise PrepareError(
            f"{lists} has no trainaug.txt: the 10,582 names of the augmented training set, one per line. It comes "
            "with most copies of SegmentationClassAug; put it there."
        )
    trainaug, train, val = (_names(file) for file in (trainaug_file, lists / "train.txt", lists / "val.txt"))
    masks = source / "SegmentationClassAug"
    _place({name: source / "JPEGImages" / f"{name}.jpg" for name in trainaug}, output / "train" / "images", copy)
    _place({name: masks / f"{name}.png" for name in trainaug}, output / "train" / "masks", copy)
    _place({name: source / "JPEGImages" / f"{name}.jpg" for name in val}, output / "validation" / "images", copy)
    val_masks = masks if (masks / f"{val[0]}.png").is_file() else source / "SegmentationClass"
    _place({name: val_masks / f"{name}.png" for name in val}, output / "validation" / "masks", copy)
    _write_classes(output, VOC_CLASSES)

    names = sorted(trainaug)
    _write_splits(output, names, official.VOC_DIVISORS, official.VOC_LABELED_SHA256, VOC_ID)
    for (split, number), subsets in official.voc_difference_maximized(names).items():
        lists_of = {
            member: [VOC_ID.format(name) for name in subset] for member, subset in zip("ab", subsets, strict=True)
        }
        (output / "splits" / f"{split}_subsets_{number}.json").write_text(json.dumps(lists_of) + "\n")
    labeled, unlabeled = official.sbd_split(names, train)
    _write_ids(output / "splits" / "sbd_labeled.txt", [VOC_ID.format(name) for name in labeled])
    print(f"SBD experiment: {len(labeled)} labeled, {len(unlabeled)} unlabeled (officially 1464 and 9118)")


def prepare_cityscapes(source: Path, output: Path, *, side: int | None, copy: bool) -> None:
    """The 2,975 training and 500 validation images with their 19 classes, and the splits.

    Args:
        side: resize images and masks to this shorter side; 512 is the resolution of the official numbers.

    Raises:
        PrepareError: missing images or masks.
    """
    for part, split in (("train", "train"), ("val", "validation")):
        images = sorted((source / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
        if not images:
            raise PrepareError(
                f"{source / 'leftImg8bit' / part} has no */*_leftImg8bit.png. Give the folder that contains "
                "leftImg8bit/ and gtFine/ as --source."
            )
        names = [f"{path.parent.name}/{path.name.removesuffix('_leftImg8bit.png')}" for path in images]
        masks = [source / "gtFine" / part / f"{name}_gtFine_labelIds.png" for name in names]
        _check_files(masks)
        if side is None:
            _place(dict(zip(names, images, strict=True)), output / split / "images", copy)
        else:
            _each(partial(_resized, side=side), images, [output / split / "images" / f"{name}.png" for name in names])
        _each(partial(_train_ids, side=side), masks, [output / split / "masks" / f"{name}.png" for name in names])
        if split == "train":
            _write_splits(
                output, names, official.CITYSCAPES_DIVISORS, official.CITYSCAPES_LABELED_SHA256, CITYSCAPES_ID
            )
    _write_classes(output, CITYSCAPES_CLASSES)


def prepare_cifar10(source: str, output: Path) -> None:
    """49,800 training, 200 validation and 10,000 test images as parquet files, and labeled rows for seeds 1 to 5.

    Args:
        source: a Hub id or a folder that `datasets` can read.

    Raises:
        PrepareError: no labels, or splits with other names.
    """
    tables = dict(datasets.load_dataset(source))
    if not {"train", "test"} <= set(tables):
        raise PrepareError(f"{source!r} has the splits {', '.join(tables)}, but needs train and test.")
    label = next(
        (name for name, kind in tables["train"].features.items() if isinstance(kind, datasets.ClassLabel)), None
    )
    if label is None:
        raise PrepareError(f"{source!r} has no class labels, only: {', '.join(tables['train'].column_names)}.")
    labels = np.asarray(tables["train"][label])
    train, held = official.cifar_train_and_validation(labels)
    output.mkdir(parents=True, exist_ok=True)
    for split, table in (
        ("train", tables["train"].select(train)),
        ("validation", tables["train"].select(held)),
        ("test", tables["test"]),
    ):
        table.to_parquet(output / f"{split}.parquet")
    (output / "splits").mkdir(exist_ok=True)
    classes = int(labels.max()) + 1
    for per_class in (4, 25, 100, 400):
        for seed in range(1, 6):
            rows = official.cifar_labeled(labels[train], per_class, seed)
            _write_ids(output / "splits" / f"{per_class * classes}_seed{seed}.txt", [str(row) for row in rows])
    print(f"{len(train)} training, {len(held)} validation and {len(tables['test'])} test images in {output}")


# ---- files ---------------------------------------------------------------------------------------------------------


def _names(file: Path) -> list[str]:
    """The names in a list; lines such as `/JPEGImages/x.jpg /SegmentationClassAug/x.png` are read as x."""
    if not file.is_file():
        raise PrepareError(f"{file} is missing. Give the VOC2012 folder as --source.")
    return [Path(line.split()[0]).stem for line in file.read_text().splitlines() if line.strip()]


def _check_files(files: Iterable[Path]) -> None:
    listed = list(files)
    missing = [file for file in listed if not file.is_file()]
    if missing:
        raise PrepareError(f"{len(missing)} of {len(listed)} files are missing, for example {missing[0]}.")


def _place(files: dict[str, Path], folder: Path, copy: bool) -> None:
    """Link or copy files into `folder` under the given names, keeping their suffixes."""
    _check_files(files.values())
    for name, file in files.items():
        target = folder / f"{name}{file.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(file, target)
        else:
            os.symlink(file.resolve(), target)
    print(f"{len(files)} files in {folder}")


def _each(convert: partial[Image.Image], sources: Sequence[Path], targets: Sequence[Path]) -> None:
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda source, target: convert(source).save(target), sources, targets))
    print(f"{len(targets)} files in {targets[0].parents[1]}")


def _resized(file: Path, side: int, filter: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    image = Image.open(file)
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), filter)


def _train_ids(file: Path, side: int | None) -> Image.Image:
    table = np.full(256, VOID, dtype=np.uint8)
    table[list(CITYSCAPES_LABEL_IDS)] = np.arange(len(CITYSCAPES_LABEL_IDS))
    image = Image.open(file) if side is None else _resized(file, side, Image.Resampling.NEAREST)
    return Image.fromarray(table[np.asarray(image)])


def _write_classes(output: Path, classes: Sequence[str]) -> None:
    (output / "classes.json").write_text(json.dumps(list(classes)) + "\n")


def _write_ids(file: Path, ids: Sequence[str]) -> None:
    file.write_text("".join(f"{name}\n" for name in ids))


def _write_splits(
    output: Path,
    names: Sequence[str],
    divisors: Mapping[str, float],
    published: Mapping[str, Sequence[str]],
    pattern: str,
) -> None:
    """Write the lists of labeled ids, and report whether they are the published ones."""
    folder = output / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    other = []
    for number, order in enumerate(official.official_orders(names)):
        for split, divisor in divisors.items():
            labeled = order[: official.labeled_count(len(order), divisor)]
            _write_ids(folder / f"{split}_labeled_{number}.txt", [pattern.format(name) for name in labeled])
            if split in published and not official.is_published(labeled, published[split][number]):
                other.append(f"1/{split} number {number}")
    if other:
        print(
            f"Warning: {len(other)} labeled lists differ from the published ones ({other[0]}, ...), because the "
            f"training list with {len(names)} names is not the official one. Results are not comparable with "
            "published ones."
        )
    else:
        print(f"All labeled lists in {folder} match the published ones.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("dataset", choices=("voc", "cityscapes", "cifar10"))
    parser.add_argument("--source", required=True, help="the downloaded data; for CIFAR-10 a Hub id or folder")
    parser.add_argument("--output", required=True, help="a new folder")
    parser.add_argument(
        "--side", type=int, help="Cityscapes: shorter side of images and masks (2048x1024 if not given)"
    )
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
