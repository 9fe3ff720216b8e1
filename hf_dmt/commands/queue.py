"""`hf-dmt queue`: export the images on which a run's two models contradict each other most, for a person to label.

    hf-dmt queue RUN --to FOLDER [--count 100] [the data flags that RUN was started with]

Answer in `FOLDER/queue.csv` (column `label`), or move images into the folders named as the classes; for segmentation in
the table, or in an annotation program that reads COCO (`annotations.json`). Then train the pair further:

    hf-dmt train --pair RUN --extra_labels FOLDER [the same data flags] --output_dir NEW
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import HfArgumentParser

from ..data.arguments import DataArguments
from ..data.reading.builtin import BUILTIN_SETS
from ..data.reading.sources import ImageSet
from ..data.splitting.assemble import assemble
from ..data.splitting.splits import SPLIT_FILE
from ..report.queue import write_queue
from ..report.run import Run, read_run
from ..training.settings.command_line import print_error


@dataclass
class QueueArguments:
    """What is exported, and where to."""

    to: str = field(metadata={"help": "A new folder for the images and questions."})
    count: int = field(default=100, metadata={"help": "How many images; for segmentation, how many regions."})


def main(argv: Sequence[str] | None = None) -> int:
    """Write the queue; returns 0, or 2 for a mistake in what was given."""
    parser = HfArgumentParser(
        [QueueArguments, DataArguments],  # type: ignore[arg-type]
        prog="hf-dmt queue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", help="output folder of a run")
    queue, data, rest = parser.parse_args_into_dataclasses(list(sys.argv[1:] if argv is None else argv))
    try:
        if queue.count < 1:
            raise ValueError(f"--count is {queue.count}; give how many questions you want to answer, such as 100.")
        run = read_run(rest.run)
        found = write_queue(rest.run, unlabeled_images(run, data), queue.to, count=queue.count)
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    print(f"{found} {'regions' if run.is_pixels else 'images'} to label: {queue.to}")
    return 0


def unlabeled_images(run: Run, data: DataArguments) -> ImageSet:
    """The images that a run labeled; its own split decides which, unless the flags say so.

    Raises:
        ValueError: the flags do not lead to them.
    """
    origin = run.split.get("dataset") if run.split.get("dataset") in BUILTIN_SETS else run.split.get("dataset_id")
    data = replace(data, dataset_name=data.dataset_name or origin)
    if data.dataset_name is None:
        raise ValueError(
            f"The run in {str(run.folder)!r} was trained on a local folder, and a run keeps no paths. Give the data "
            "flags that it was started with: --dataset_name, --unlabeled_dir, ..."
        )
    if data.num_labeled is data.labeled_fraction is data.labeled_ids is None:
        data = replace(data, labeled_ids=str(run.folder / SPLIT_FILE))
    images = assemble(data, run.results["task"]).unlabeled
    if images is None:
        raise ValueError("These flags leave no image unlabeled. Give those that the run was started with.")
    return images
