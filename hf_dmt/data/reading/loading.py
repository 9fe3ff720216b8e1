"""Load data sets with `datasets`: from the Hub, parquet files, archives, or a folder written by `save_to_disk`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow.parquet

from ..builtin import BUILTIN_SETS
from ..messages import listed
from .finding import find_images, left_out_in
from .rows import DataError
from .split_names import ROLES, role_of

_PARQUET = "*.[pP][aA][rR][qQ][uU][eE][tT]"
_SHARD = re.compile(r"(.*?)-?(\d+)-of-(\d+)$")


def load_tables(
    name: str, config_name: str | None, token: str | None, notes: list[str]
) -> tuple[dict[str, datasets.Dataset], Path | None]:
    """The splits, and the local folder they come from, if any.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    folder = Path(name).expanduser()
    if (folder.is_absolute() or name.startswith(".") or name.endswith("/")) and not folder.exists():
        raise DataError(f"There is no folder {name!r}. Check the path, or give the id of a data set on the Hub.")
    if is_saved(folder):
        check_no_configuration(config_name, name)
    try:
        if is_saved(folder):
            saved = datasets.load_from_disk(str(folder)).with_format(None)  # formats hide columns
            return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}, folder
        own_files = parquet_files(folder, notes) if config_name is None and folder.is_dir() else None
        if own_files:
            loaded = datasets.load_dataset("parquet", data_files=own_files)
        else:
            loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config_name, token=token)
    except Exception as problem:  # for damaged archives and tables, their readers raise almost anything
        raise _cannot_open(name, folder, problem) from problem
    return dict(loaded), folder if folder.is_dir() else None


def _cannot_open(name: str, folder: Path, problem: Exception) -> DataError:
    """The error for what `datasets` said, with what to do."""
    # the outer message, "An error occurred while generating the dataset", is not informative
    reason = problem.__cause__ or problem
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    text = lines[0].rstrip(".")
    if folder.exists():
        return DataError(
            f"Cannot open the data set in {name!r}: {text}. Give one folder per class, a table with the columns "
            f"file_name and label, or parquet files.{left_out_in(folder, read=True)}"
        )
    if isinstance(problem, (OSError, datasets.exceptions.DatasetNotFoundError)):
        return DataError(
            f"Cannot open the data set {name!r}: there is no such folder here, no embedded set of this name "
            f"({', '.join(BUILTIN_SETS)}), and none that can be read on the Hub or in the local cache ({text}). Check "
            "the spelling, the network and, for a private or gated data set, your token (`hf auth login`)."
        )
    if "scripts are no longer supported" in text:
        return DataError(
            f"The data set {name!r} is made by its own code, which `datasets` does not run ({text}). If its page on "
            f"the Hub shows the images, save them once: datasets.load_dataset({name!r}, "
            "revision='refs/convert/parquet').save_to_disk('folder'). Then give that folder."
        )
    return DataError(
        f"Cannot open the data set {name!r}: {' '.join(lines[:2]).rstrip('.')}. `dataset_config_name` selects one of "
        "several configurations; otherwise choose a data set that datasets.load_dataset can open."
    )


def is_saved(root: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def check_no_configuration(config_name: str | None, name: str) -> None:
    """Raises DataError for a configuration of a data set that can have none."""
    if config_name is not None:
        raise DataError(f"`dataset_config_name` {config_name!r} is for data sets on the Hub, not {name!r}. Omit it.")


def find_parquet(folder: Path) -> list[Path]:
    """The parquet files of a folder and those one level deeper, whatever the case of their extension. Those that macOS
    writes beside them (`._train.parquet`) are none."""
    found = [*folder.glob(_PARQUET), *folder.glob(f"*/{_PARQUET}")]
    return sorted(path for path in found if not path.name.startswith("."))


def parquet_files(folder: Path, notes: list[str]) -> dict[str, list[str]] | None:
    """The parquet files of a local folder by split, from the words in their paths (`data/val-0.parquet`).

    `datasets` uses an `eval` file as the test split and ignores files without a split in their name. None if there are
    no such files, or if the folder itself defines the splits.
    """
    card = folder / "README.md"
    if card.is_file() and "data_files" in card.read_text(encoding="utf-8", errors="replace"):
        return None
    files = find_parquet(folder)
    notes += _missing_shards(files, folder)
    order = list(ROLES)
    named: dict[str, list[str]] = {}
    others = []
    for file in files:
        words = re.split(r"[^a-zA-Z0-9]+", file.relative_to(folder).with_suffix("").as_posix())
        word = next((word for word in words if role_of(word)), None)
        if word:
            named.setdefault(word, []).append(str(file))
        else:
            others.append(file)
    named = dict(sorted(named.items(), key=lambda entry: order.index(role_of(entry[0]) or "train")))
    if not named:
        return {"train": [str(file) for file in files]} if files else None
    if others:
        notes.append(
            f"Warning: skipped {len(others)} parquet files in {str(folder)!r} without a split in their names: "
            f"{listed(file.relative_to(folder).as_posix() for file in others)}."
        )
    roles = [role_of(word) for word in named]
    names = [role if role and roles.count(role) == 1 else word for word, role in zip(named, roles, strict=True)]
    return dict(zip(names, named.values(), strict=True))


def _missing_shards(files: Sequence[Path], folder: Path) -> list[str]:
    """A warning for each data set of which a part is missing, as after an interrupted download."""
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for file in files:
        if part := _SHARD.match(file.relative_to(folder).with_suffix("").as_posix()):
            found[part[1], int(part[3])].add(int(part[2]))
    return [
        f"Warning: {count - len(numbers)} of the {count} parquet files {name}-*-of-{count} are missing in "
        f"{str(folder)!r}, and with them their images. If this is not intended, download them again."
        for (name, count), numbers in found.items()
        if len(numbers) < count
    ]


def check_class_orders(root: Path) -> None:
    """Raises DataError if the files of one set number their classes in different orders: `datasets` uses the first
    order for all, so that numbers in the other files would mean other classes."""
    first: dict[str, tuple[Path, list[str]]] = {}
    for file in sorted(root.rglob(_PARQUET)):
        try:
            written = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}")
        except (OSError, pyarrow.ArrowException):
            continue  # a damaged file, which `datasets` reports
        features = (json.loads(written).get("info") or {}).get("features") or {}
        for column, feature in features.items():
            if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
                continue
            other, names = first.setdefault(column, (file, feature["names"]))
            if names != feature["names"]:
                raise DataError(
                    f"The column {column!r} numbers its classes in a different order in {str(file)!r} "
                    f"({listed(feature['names'], 10)}) than in {str(other)!r} ({listed(names, 10)}). "
                    "Write both with the same order, for example with `dataset.cast_column(...)` after "
                    "`dataset.align_labels_with_mapping(...)`."
                )


def note_on_images_beside(folder: Path, apart: Path | None) -> list[str]:
    """A warning about image files in a folder of parquet files that contain the images themselves."""
    beside = [name for name in find_images(folder, apart).names if role_of(name.partition("/")[0]) != "unlabeled"]
    if not beside:
        return []
    return [
        f"Warning: skipped {len(beside)} image files in {str(folder)!r}, such as {beside[0]!r}: the images are those "
        "in its parquet files. To use the image files, move the parquet files out of the folder."
    ]
