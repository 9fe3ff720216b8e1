"""`hf-dmt predict`: label a folder or data set with a trained pair.

    hf-dmt predict PAIR my_images/ --to labels.csv            classification: a table; .jsonl for JSON lines
    hf-dmt predict PAIR my_scenes/ --to masks/ --overlay      segmentation: PNG masks of a, b and the ensemble
    hf-dmt predict PAIR owner/dataset --split test --to labels.csv --push_to_hub owner/labels

After an interruption, the same command continues where it stopped. After images were added, it labels only those.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..data.arguments import DataArguments
from ..data.labels.predictions import FORMATS, PredictionError, PredictionFile, Record
from ..data.members import MEMBERS
from ..data.messages import listed
from ..data.reading.finding import find_images
from ..data.reading.folders import without_masks
from ..data.reading.image_set import ImageSet
from ..data.reading.opening import open_unlabeled_table
from ..data.reading.rows import DataError, FileRows, Rows
from ..data.reading.tables import columns_there, is_table
from ..data.splitting.scan import scan
from ..data.texts import texts
from ..hub.offline import fail_fast_offline
from ..hub.predictions import push_predictions
from ..hub.repository import check_name
from ..models.pair import ModelPair
from ..training.labeling.inference import CleanLogits, CleanPass
from ..training.labeling.label_pass import weights_hash
from ..training.labeling.mask_folder import MaskFolder
from ..training.labeling.predictions import image_predictions
from ..training.settings.command_line import UsageError
from ..training.settings.terminal import as_flags, command_parser, print_error
from .launch import add_flags, start

PIXELS = "semantic-segmentation"


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; returns 0, 1 if only the push failed, 2 for invalid arguments."""
    return start("predict", sys.argv[1:] if argv is None else argv, run)


def run(argv: Sequence[str]) -> int:
    """Predict in this process, which may be one of several."""
    given = _parser().parse_args(list(argv))
    fail_fast_offline()
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        records, facts = predict(given)
    except (ValueError, OSError) as problem:
        print_error(str(problem).replace("`unlabeled_split`", "--split"))
        return 2
    if given.push_to_hub and records:
        try:
            print(push_predictions(records, facts, given.push_to_hub, private=given.private or None).commit_url)
        except (ValueError, OSError) as problem:
            print_error(f"{problem} The predictions are in {given.to}; run the same command to push them again.")
            return 1
    return 0


def predict(given: argparse.Namespace) -> tuple[list[Record], dict[str, Any]]:
    """Label every image that has no label yet.

    Returns:
        All records, on the main process, and the facts that describe the file.
    """
    _check(given)
    pair = ModelPair.from_pretrained(given.pair, trust_remote_code=given.trust_remote_code)
    masks = _target(given, pair)
    accelerator = Accelerator(cpu=given.use_cpu, mixed_precision="bf16" if given.bf16 else None)
    notes: list[str] = []
    rows = _rows(given, pair.task, notes)
    images = ImageSet(rows, np.arange(len(rows.ids)), task=pair.task).without_targets()
    file = PredictionFile(masks.table if masks else Path(given.to), _identity(given, pair))
    with ExitStack() as held:

        def begin() -> dict[str, str]:
            held.enter_context(file.locked())
            labeled = {record["id"]: record.get("mask", "") for record in file.begin()}
            notes.extend(_notes_on_labeled(labeled, rows, given, file.finished_at()))
            return labeled

        done: dict[str, str] = _on_main(accelerator, begin)
        if masks:
            masks.name_files(done, images.ids)
        missing = images.subset(np.flatnonzero([name not in done for name in images.ids]))
        if len(missing):
            found = scan(missing, "given", skip_corrupt=given.skip_corrupt_images, notes=notes)
            missing = found.images
        if accelerator.is_main_process:
            there = f"; {len(done)} are labeled already" if done else ""
            print(as_flags("\n".join([f"{len(missing)} images to label{there}", *notes])), flush=True)
        seconds = _label(given, pair, missing, file, masks, accelerator) if len(missing) else 0.0
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return [], {}
        facts = {
            "pair": given.pair if not Path(given.pair).is_dir() else Path(given.pair).resolve().name,
            "data": given.data if not Path(given.data).exists() else Path(given.data).resolve().name,
            "hf_dmt": metadata.version("hf-dmt"),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        records = file.finish(facts)
    print(_summary(records, len(missing), seconds, pair.task))
    print(f"predictions: {given.to}")
    if masks:
        masks.write_classes()
    return records, {**file.identity, **facts, "folder": masks.folder if masks else None}


def _notes_on_labeled(
    labeled: Mapping[str, str], rows: Rows, given: argparse.Namespace, finished: float | None
) -> list[str]:
    """Images that are labeled already, but have changed since the file was finished, or are gone."""
    notes = []
    ids = {name: row for row, name in enumerate(rows.ids)}
    gone = sorted(labeled.keys() - ids.keys()) if not Path(given.data).expanduser().is_file() else []
    if gone:
        notes.append(f"{len(gone)} images in {given.to!r} are no longer in {given.data!r}, such as {gone[0]!r}.")
    changed: list[str] = []
    if finished is not None and isinstance(rows, FileRows):
        known = [name for name in labeled if name in ids]
        changed = [name for name in known if rows.images[ids[name]].stat().st_ctime > finished]
    if changed:
        notes.append(
            f"Warning: {len(changed)} images have changed since they were labeled, such as {changed[0]!r}, and keep "
            "their labels. To label them again, delete their rows, or choose another file with --to."
        )
    return notes


def _label(
    given: argparse.Namespace,
    pair: ModelPair,
    images: ImageSet,
    file: PredictionFile,
    masks: MaskFolder | None,
    accelerator: Accelerator,
) -> float:
    """Label this process's share of the images; returns the seconds it took."""
    pair.to(accelerator.device)
    shows_bar = accelerator.is_main_process and sys.stderr.isatty()
    reader = CleanPass(pair, accelerator, given.batch_size, given.num_workers, progress=shows_bar)
    begun = told = time.monotonic()
    count, share = 0, len(reader.share(len(images)))
    with file.adding() as add:
        for found in reader.run(images, title="labeling", at_stride=True):
            add(masks.records(found, images) if masks else image_records(found, images, pair.class_names))
            count += len(found.index)
            if accelerator.is_main_process and not shows_bar and time.monotonic() - told > 30:
                told = time.monotonic()
                rate = count / (told - begun)
                print(f"labeled {count} of {share} images, {(share - count) / rate:.0f} s left", flush=True)
    return time.monotonic() - begun


def image_records(found: CleanLogits, images: ImageSet, class_names: list[str]) -> list[Record]:
    """One record per image: the ensemble's label first, then that of each model."""
    records = []
    for row, each in zip(found.index, image_predictions(found.logits), strict=True):
        record: Record = {"id": images.id_of(row)}
        for name in ("ensemble", *MEMBERS):
            column, sure = ("label", "confidence") if name == "ensemble" else (name, f"{name}_confidence")
            record |= {column: class_names[each.labels[name]], sure: round(each.confidence[name], 6)}
        records.append(record | {"disagreement": round(each.disagreement, 6)})
    return records


def _check(given: argparse.Namespace) -> None:
    if given.batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, got {given.batch_size}.")
    if given.num_workers < 0:
        raise UsageError(f"--num_workers must be at least 0, got {given.num_workers}.")
    if given.private and not given.push_to_hub:
        raise UsageError("--private needs --push_to_hub. Add it, or omit --private.")
    if given.push_to_hub:
        check_name(given.push_to_hub)


def _target(given: argparse.Namespace, pair: ModelPair) -> MaskFolder | None:
    """The folder for masks; None for a table.

    Raises:
        UsageError: `--to` does not fit the task.
    """
    to = Path(given.to)
    if pair.task == PIXELS:
        if to.suffix.lower() in FORMATS or to.is_file():
            raise UsageError(f"--to {given.to!r}: a segmentation pair writes masks. Give a folder, such as masks/.")
        return MaskFolder(to, pair.class_names, overlay=given.overlay)
    if given.overlay:
        raise UsageError("--overlay draws masks on images, but this pair classifies whole images. Omit it.")
    if to.suffix.lower() not in FORMATS or to.is_dir():
        raise UsageError(f"--to {given.to!r}: give a file name that ends in {' or '.join(FORMATS)}.")
    return None


def _identity(given: argparse.Namespace, pair: ModelPair) -> dict[str, Any]:
    """What must stay the same between two commands that write to one file."""
    identity: dict[str, Any] = {
        "format_version": 1,
        "task": pair.task,
        "pair_of_weights": weights_hash(pair),
        "class_names": pair.class_names,
        "source_of_images": _source(given),
    }
    return identity | ({"overlay": given.overlay} if pair.task == PIXELS else {})


def _source(given: argparse.Namespace) -> str:
    """A hash of what the ids refer to: image 1.jpg of another folder is not labeled yet. An image alone has the id that
    it has in its folder."""
    place = Path(given.data).expanduser()
    folder = place.parent if place.is_file() else place
    parts = [str(folder.resolve()) if folder.exists() else given.data, given.split, given.dataset_config_name]
    return hashlib.sha256(json.dumps(parts).encode(errors="surrogatepass")).hexdigest()[:16]


def _rows(given: argparse.Namespace, task: str, notes: list[str]) -> Rows:
    """The images: all images of a folder, a single file, or a split of a data set.

    Raises:
        DataError: there are none.
    """
    place = Path(given.data).expanduser()
    of_table = [given.split, given.dataset_config_name, given.image_column]
    if place.is_file() and not is_table(place):
        rows: Rows = FileRows([place], place.parent)
    elif place.is_dir() and not any(of_table) and (found := find_images(place)).images:
        rows = FileRows(texts(without_masks(found, notes)), place)
    else:
        data = DataArguments(
            dataset_name=given.data,
            dataset_config_name=given.dataset_config_name,
            image_column=given.image_column,
            unlabeled_split=given.split,
        )
        rows = open_unlabeled_table(data, task, notes)
    if isinstance(rows, FileRows):
        if given.image_column and columns_there(place, given.image_column) == [None]:
            raise UsageError(f"--image_column {given.image_column!r} is not in {given.data!r}. Correct it, or omit it.")
        if given.dataset_config_name:
            raise UsageError(f"--dataset_config_name is for data sets on the Hub, not {given.data!r}. Omit it.")
    if not len(rows.ids):
        raise DataError(f"There are no images in {given.data!r}. Check the path, or choose another --split.")
    return rows


def _on_main(accelerator: Accelerator, function: Callable[[], Any]) -> Any:
    """Run a function on the main process and return its result, or raise its error, on all processes, so that none
    waits for one that has stopped."""
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer = [function(), None]
        except (ValueError, OSError) as problem:
            answer = [None, str(problem)]
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise PredictionError(answer[1])
    return answer[0]


def _summary(records: list[Record], new: int, seconds: float, task: str) -> str:
    speed = f" in {seconds:.0f} s ({new / seconds:.0f} images/s)" if new and seconds >= 1 else ""
    lines = [f"labeled {new} images{speed}; {len(records)} in all"]
    if task == PIXELS:
        apart = float(np.mean([record["disagreement"] for record in records]))
        lines.append(f"a and b give different labels to {100 * apart:.1f} % of the pixels")
    else:
        names, counts = np.unique([record["label"] for record in records], return_counts=True)
        most_first = np.argsort(-counts, kind="stable")
        lines.append("labels: " + listed((f"{names[n]} {counts[n]}" for n in most_first), 10))
        differ = sum(record["a"] != record["b"] for record in records)
        lines.append(f"a and b give different labels to {differ} of {len(records)} images: check those first")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("predict", __doc__)
    parser.add_argument("pair", metavar="PAIR", help="output folder of a run, or a repository on the Hub")
    parser.add_argument(
        "data", metavar="DATA", help="folder of images, single image, data set on the Hub, or embedded set"
    )
    parser.add_argument("--to", required=True, metavar="PATH", help="labels.csv, labels.jsonl, or a folder for masks")
    parser.add_argument("--overlay", action="store_true", help="segmentation: also draw the masks on the images")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="publish the predictions as a data set")
    parser.add_argument("--private", action="store_true", help="create that data set as private")
    data = parser.add_argument_group("data")
    data.add_argument("--split", help="split of a data set (default: unlabeled, or the only one)")
    data.add_argument("--dataset_config_name", metavar="NAME", help="configuration of a data set")
    data.add_argument("--image_column", metavar="NAME", help="column with the images (default: detected)")
    data.add_argument("--skip_corrupt_images", action="store_true", help="skip images that cannot be read")
    computing = parser.add_argument_group("computing")
    computing.add_argument("--batch_size", type=int, default=16, metavar="N", help="images per process (default: 16)")
    computing.add_argument(
        "--num_workers",
        type=int,
        default=0 if not torch.accelerator.is_available() else min(8, os.cpu_count() or 1),
        metavar="N",
        help="image-loading processes per labeling process (default: 0, with a GPU up to 8)",
    )
    computing.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    computing.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    computing.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the models")
    add_flags(parser.add_argument_group("processes (Accelerate)"))
    return parser
