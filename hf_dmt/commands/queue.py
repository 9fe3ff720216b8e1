"""`hf-dmt queue`: export the images on which the two models of a run disagree most, for labeling.

    hf-dmt queue RUN --to FOLDER [--count 100] [the data flags that RUN was started with]

Answer in `FOLDER/queue.csv` (column `label`), or move the images into the folders named after the classes. For
segmentation, answer in the table, or in an annotation tool that reads COCO (`annotations.json`). Then continue
training:

    hf-dmt train --pair RUN --extra_labels FOLDER [the same data flags] --output_dir NEW
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import HfArgumentParser

from ..data.arguments import DataArguments, data_flags
from ..data.builtin import BUILTIN_SETS
from ..data.reading.image_set import ImageSet
from ..data.splitting.assemble import assemble
from ..data.splitting.splits import SPLIT_FILE
from ..report.queue import write_queue
from ..report.run import Run, read_run
from ..report.terminal import command_lines
from ..training.run.protocol import setting_flags
from ..training.settings.terminal import print_error


@dataclass
class QueueArguments:
    """What to export, and where to."""

    to: str = field(metadata={"help": "A new folder for the images and questions."})
    count: int = field(default=100, metadata={"help": "Number of images, or for segmentation of regions."})


def main(argv: Sequence[str] | None = None) -> int:
    """Write the queue; returns 0, or 2 for invalid arguments."""
    parser = HfArgumentParser(
        [QueueArguments, DataArguments],  # type: ignore[arg-type]
        prog="hf-dmt queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", help="output folder of a run")
    given = list(sys.argv[1:] if argv is None else argv)
    queue, data, rest, unknown = parser.parse_args_into_dataclasses(given, return_remaining_strings=True)
    try:
        if unknown:
            raise ValueError(
                f"Unknown argument {unknown[0]!r}. Of the flags of a run, only those for data are used here."
            )
        if queue.count < 1:
            raise ValueError(f"--count must be at least 1, got {queue.count}; try 100.")
        run = read_run(rest.run)
        found = write_queue(rest.run, unlabeled_images(run, data), queue.to, count=queue.count)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    print(f"{found} {'regions' if run.is_pixels else 'images'} to label: {queue.to}")
    print(how_to_go_on(run, queue.to, data))
    return 0


def how_to_go_on(run: Run, to: str, data: DataArguments) -> str:
    """How to answer, and the command that trains on the answers with the settings of the run."""
    answer = (
        f"Write labels into {to}/queue.csv, or open {to}/annotations.json in an annotation tool that reads COCO."
        if run.is_pixels
        else f"Write labels into {to}/queue.csv, or move the files in {to}/images/ into the folders of their classes."
    )
    command = ["hf-dmt", "train", "--pair", str(run.folder), "--extra_labels", *(data.extra_labels or ()), to]
    command += ["--task", run.results["task"]] if run.is_pixels else []
    if run.split.get("unlabeled_from") is None and not _chooses_labeled(data):
        data = replace(data, labeled_ids=str(run.folder / SPLIT_FILE))  # otherwise, all of them would be labeled
    command += data_flags(data, omit=["extra_labels"])
    if data.dataset_name is not None:  # otherwise, the recipe of the embedded set has them
        command += setting_flags(run.results)
    command += ["--output_dir", f"{run.folder}-2"]
    return f"{answer} Then train on them:\n{command_lines(shlex.join(command), '  ')}"


def unlabeled_images(run: Run, data: DataArguments) -> ImageSet:
    """The unlabeled images of a run. The run's own split defines them, unless the flags do.

    Raises:
        ValueError: the flags do not lead to these images.
    """
    origin = run.split.get("dataset") if run.split.get("dataset") in BUILTIN_SETS else run.split.get("dataset_id")
    data = replace(data, dataset_name=data.dataset_name or origin)
    if data.dataset_name is None:
        raise ValueError(
            f"The run in {str(run.folder)!r} was trained on a local folder, and runs do not store paths. Repeat the "
            "data flags that it was started with: --dataset_name, --unlabeled_dir, ..."
        )
    if not _chooses_labeled(data):
        data = replace(data, labeled_ids=str(run.folder / SPLIT_FILE))
    images = assemble(data, run.results["task"], of_pair=run.split).unlabeled
    if images is None:
        raise ValueError("With these flags no image is unlabeled. Repeat the data flags that the run was started with.")
    return images


def _chooses_labeled(data: DataArguments) -> bool:
    return not (data.num_labeled is data.labeled_fraction is data.labeled_ids is None)
