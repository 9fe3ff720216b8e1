"""The data flags of the command line: which images are labeled or unlabeled, and what the classes are called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any


def _flag(help: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """Flags of `hf-dmt train` that choose images. The default is an embedded data set."""

    dataset_name: str | None = _flag("Hub id, local folder, or an embedded data set: digits, digit-scenes.")
    dataset_config_name: str | None = _flag("Configuration of the data set.")
    train_split: str | None = _flag("Split with the training images (train).")
    eval_split: str | None = _flag(
        "Split to evaluate on (validation, unless that is the test split; without one, 20 %% of the labeled images)."
    )
    test_split: str | None = _flag("Split for final scores, never used to choose anything (test).")
    test_fraction: float | None = _flag(
        "Without a test split, hold out this fraction of the labeled images for final scores (0: none)."
    )
    image_column: str | None = _flag("Column with the images (default: detected).")
    label_column: str | None = _flag("Column with the labels or masks (default: detected).")
    num_labeled: int | None = _flag("Use the labels of this many training images; the others become unlabeled.")
    labeled_fraction: float | None = _flag("Use the labels of this fraction of the training images.")
    labeled_ids: str | None = _flag("File with the ids of the labeled images, one per line, or a split.json.")
    extra_labels: list[str] | None = _flag(  # noqa: RUF009
        "Labels added later: a folder written by `hf-dmt queue`, or a CSV with id,label."
    )
    split_seed: int = _flag("Seed for choosing the labeled and eval images.", 0)
    id2label: str | None = _flag('JSON file with the classes: {"0": "cat", ...} or ["cat", ...].')
    ignore_index: int = _flag("Mask value that means 'no label'.", 255)
    reduce_labels: bool = _flag("Masks use 0 for 'no label' and k + 1 for class k (as in ADE20K).", False)
    mask_colors: str | None = _flag("Classes of color masks: a CSV with name,r,g,b or a JSON with {name: [r, g, b]}.")
    mask_band: int | None = _flag("Channel of the mask files that holds the class ids, counted from 1.")
    mask_suffix: str | None = _flag("Suffix of mask file names, such as _mask for 1_mask.png.")
    skip_corrupt_images: bool = _flag("Skip images that cannot be read.", False)
    unlabeled_dataset_name: str | None = _flag("Hub id or folder of unlabeled images.")
    unlabeled_split: str | None = _flag("Its split (unlabeled, or the only one); alone, a split of --dataset_name.")
    unlabeled_dir: str | None = _flag("Folder of unlabeled images, searched recursively.")


def data_flags(data: DataArguments, *, omit: Collection[str] = ()) -> list[str]:
    """The flags that set these data arguments, as words of a command."""
    words = []
    for flag in fields(data):
        value = getattr(data, flag.name)
        if flag.name not in omit and value != flag.default:
            words += [f"--{flag.name}", *map(str, value if isinstance(value, list) else [value])]
    return words
