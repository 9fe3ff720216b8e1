"""The data flags of the command line: which images are labeled or unlabeled, and what the classes are called."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """Flags of `hf-dmt train` that choose images. The default is an embedded data set."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder, or an embedded data set: digits, digit-scenes."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_split: str | None = field(default=None, metadata={"help": "Split with the training images (train)."})
    eval_split: str | None = field(
        default=None,
        metadata={
            "help": "Split to evaluate on (validation, unless that is the test split; "
            "without one, 20 %% of the labeled images)."
        },
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split for final scores, never used to choose anything (test)."}
    )
    test_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Without a test split, hold out this fraction of the labeled images for final scores (0: none)."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column with the images (default: detected)."})
    label_column: str | None = field(
        default=None, metadata={"help": "Column with the labels or masks (default: detected)."}
    )
    num_labeled: int | None = field(
        default=None, metadata={"help": "Use the labels of this many training images; the others become unlabeled."}
    )
    labeled_fraction: float | None = field(
        default=None, metadata={"help": "Use the labels of this fraction of the training images."}
    )
    labeled_ids: str | None = field(
        default=None, metadata={"help": "File with the ids of the labeled images, one per line, or a split.json."}
    )
    extra_labels: list[str] | None = field(
        default=None,
        metadata={"help": "Labels added later: a folder written by `hf-dmt queue`, or a CSV with id,label."},
    )
    split_seed: int = field(default=0, metadata={"help": "Seed for choosing the labeled and eval images."})
    id2label: str | None = field(
        default=None, metadata={"help": 'JSON file with the classes: {"0": "cat", ...} or ["cat", ...].'}
    )
    ignore_index: int = field(default=255, metadata={"help": "Mask value that means 'no label'."})
    reduce_labels: bool = field(
        default=False, metadata={"help": "Masks use 0 for 'no label' and k + 1 for class k (as in ADE20K)."}
    )
    mask_colors: str | None = field(
        default=None,
        metadata={"help": "Classes of color masks: a CSV with name,r,g,b or a JSON with {name: [r, g, b]}."},
    )
    mask_band: int | None = field(
        default=None, metadata={"help": "Channel of the mask files that holds the class ids, counted from 1."}
    )
    mask_suffix: str | None = field(
        default=None, metadata={"help": "Suffix of mask file names, such as _mask for 1_mask.png."}
    )
    skip_corrupt_images: bool = field(default=False, metadata={"help": "Skip images that cannot be read."})
    unlabeled_dataset_name: str | None = field(default=None, metadata={"help": "Hub id or folder of unlabeled images."})
    unlabeled_split: str | None = field(
        default=None, metadata={"help": "Its split (unlabeled, or the only one); alone, a split of --dataset_name."}
    )
    unlabeled_dir: str | None = field(
        default=None, metadata={"help": "Folder of unlabeled images, searched recursively."}
    )
