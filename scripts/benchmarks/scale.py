"""What grows with the number of images: time and memory of labeling and of a phase, and a million of them.

    python scripts/benchmarks/scale.py [--only memory time million] [--quick] [--threads N] [--cpu_time]
    python scripts/benchmarks/scale.py --only million [--rows N] [--workers 2] [--samples 20000]

memory: the highest resident memory of the process while tiny models label 20,000 images that are made when asked for,
divided by that of 2,000 images, less 1. So what grows is ours.

time: a run of one phase with all labels kept and one pass over them (labels, then each unlabeled image once) for 1, 2,
4 and 8 times as many images; from the first label to the last update, divided by their number.

million: labels, selection, sampling and a resume for a million unlabeled images, which are one small JPEG file under a
million names, so that disk space is not needed. The forward passes are those of toy models; everything else is what a
run does: clean batches through workers, the label store, the selection, the order of a phase, training samples through
workers, and the jump to an update in the middle of it. Memory is private memory (USS) of the main process and of its
largest worker. `--samples` images are decoded, because decoding all would only repeat itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, default_collate
from transformers import TrainerCallback

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair
from hf_dmt.data.drawing.sampler import BatchShape, PhaseBatchSampler
from hf_dmt.data.drawing.samples import PairDataset
from hf_dmt.data.drawing.transforms import ImageView
from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.data.members import MEMBERS
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.rows import FileRows
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.labeling.label_pass import select_images
from hf_dmt.training.settings.methods import Knobs

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.labeling import our_pass
from scripts.benchmarks.measure import Row, in_turns, peak_memory, ratios, run
from scripts.benchmarks.step import usual_settings
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair

MIB = 2**20


class PhaseClock(TrainerCallback):
    """Seconds from the beginning of the phase, before its labels are made, to its last update."""

    def __init__(self, *, cpu_time: bool) -> None:
        self.now = time.process_time if cpu_time else time.perf_counter
        self.start = self.end = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = self.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.end = self.now()


def phase(pair: ModelPair, labeled: Any, unlabeled: Any, *, cpu_time: bool) -> float:
    clock = PhaseClock(cpu_time=cpu_time)
    batch = 16
    with tempfile.TemporaryDirectory() as folder:
        arguments = DMTTrainingArguments(
            output_dir=folder,
            supervised_epochs=0,
            phase_epochs=1,
            label_ratios=[1.0],
            labeled_batch_size=batch // 4,
            pseudo_batch_size=batch,
            **usual_settings(),
        )
        DMTTrainer(pair, arguments, labeled, unlabeled, callbacks=[clock]).train()
    return (clock.end - clock.start) / len(unlabeled)


def times(args: argparse.Namespace) -> list[Row]:
    """Seconds per image of a phase with ever more images."""
    rounds, unit, size = (1, 4, "toy") if args.quick else (3, 32, "demo")
    factors = (1, 2) if args.quick else (1, 2, 4, 8)
    rows = []
    for task in (IMAGES, PIXELS):
        side = 32
        pair = image_pair(side, size) if task == IMAGES else pixel_pair(side, "toy" if args.quick else "b0")
        labeled = decoded(Pictures(16, side, task))
        jobs = {
            f"x{factor}": partial(phase, pair, labeled, decoded(Pictures(factor * unit, side)), cpu_time=args.cpu_time)
            for factor in factors
        }
        seconds = in_turns(jobs, rounds, warm_up=not args.quick)
        per_image = {f"{name} ms/image": 1e3 * statistics.median(values) for name, values in seconds.items()}
        for fewer, more in pairwise(jobs):
            what, against = f"time per image of a phase, {task}, {more} images", f"{fewer} (x1 is {unit})"
            details = {name: per_image[name] for name in (f"{fewer} ms/image", f"{more} ms/image")}
            rows.append(Row(what, against, ratios(seconds, more, fewer), "of it", "<= 1.1", details))
    return rows


def labeling(pair: ModelPair, count: int) -> Callable[[], None]:
    def job() -> None:
        with tempfile.TemporaryDirectory() as folder:
            our_pass(pair, Pictures(count, pair.image_size), 16, Path(folder), Accelerator(cpu=True))

    return job


def memory(args: argparse.Namespace) -> list[Row]:
    """Resident memory of labeling ten times as many images."""
    few, many = (8, 24) if args.quick else (2000, 20000)
    rows = []
    for task in (IMAGES, PIXELS):
        pair = image_pair(16, "toy") if task == IMAGES else pixel_pair(32, "toy")
        labeling(pair, few)()  # libraries and buffers that any labeling needs
        peaks = {count: peak_memory(labeling(pair, count))[1] for count in (few, many)}
        details = {f"{count} images MiB": value / 2**20 for count, value in peaks.items()}
        growth = peaks[many] / peaks[few] - 1
        rows.append(
            Row(f"resident memory, labeling {many} images, {task}", f"{few}", [growth], "growth", "<= 0.1", details)
        )
    return rows


def private_memory(process: int | str = "self") -> int:
    """Bytes that belong to one process alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def largest_worker() -> int:
    return max((private_memory(child.pid or 0) for child in multiprocessing.active_children()), default=0)


def folder_of_links(folder: Path, count: int) -> list[Path]:
    Pictures(1, 32)[0]["image"].save(folder / "one.jpg")
    # Names alone: the paths of real folders are long, and a link for each would only fill the disk's table of files.
    return [folder / f"photos-of-a-long-name/{number // 10_000:04d}/{number:08d}.jpg" for number in range(count)]


class OneFile(FileRows):
    """A million names, one content."""

    def __init__(self, images: Sequence[Path], root: Path) -> None:
        super().__init__(images, root)
        self.content = (root / "one.jpg").read_bytes()

    def raw(self, row: int) -> tuple[Any, Any]:
        assert self.images[row].suffix == ".jpg"
        return {"bytes": self.content, "path": None}, None


def million(args: argparse.Namespace) -> list[Row]:
    count, shown = (20_000, 256) if args.quick else (args.rows, args.samples)
    rows: list[Row] = []
    start_memory = private_memory()

    def timed(what: str, job: Callable[[], Any], per: int) -> Any:
        before = time.process_time()
        found = job()
        seconds = time.process_time() - before
        details = {
            "s": seconds,
            "main MiB": private_memory() / MIB,
            "added MiB": (private_memory() - start_memory) / MIB,
        }
        rows.append(Row(what, "", [1e6 * seconds / per], "us each", "", details))
        return found

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = timed(
            f"{count} paths become an image set",
            lambda: ImageSet(OneFile(folder_of_links(folder, count), folder), np.arange(count), "image-classification"),
            count,
        )
        pair = image_pair(32, "toy", both=True)
        peak = {"worker": 0}

        def answers() -> None:
            loop = CleanPass(pair, Accelerator(cpu=True), 64, num_workers=args.workers)
            first = source.subset(np.arange(shown))
            for part in loop.run(first, title="", approximate=True):
                assert part.logits["a"].shape[1] == 10
                if part.index[0] % 1024 == 0:
                    peak["worker"] = max(peak["worker"], largest_worker())

        timed(f"labeling {shown} of them, {args.workers} workers", answers, shown)
        rows[-1].details["worker MiB"] = peak["worker"] / MIB  # type: ignore[index]
        draw = np.random.default_rng(0)
        made = {member: (draw.integers(0, 10, count), draw.random(count, dtype=np.float32)) for member in MEMBERS}

        def store() -> dict[str, ImageLabels]:
            found = {}
            for member, (labels, confidence) in made.items():
                selected = select_images(labels, confidence, 1 - confidence, 0.5, Knobs())
                ImageLabels(labels, confidence, selected).write(folder / member, source.ids, {"phase": 1})
                found[member] = ImageLabels.read(folder / member)
            return found

        pseudo = timed("selection, and both stores written and read", store, count)
        sampler = PhaseBatchSampler(BatchShape(64, 192))
        chosen = {member: labels.rows for member, labels in pseudo.items()}
        updates = len(chosen["a"]) // 192
        labeled = dict.fromkeys(MEMBERS, np.arange(100))
        sampler.begin(1, updates, labeled, chosen)
        timed(f"the draws of {updates} updates of 256", lambda: sum(1 for _ in sampler), 512 * updates)
        sampler.begin(1, updates, labeled, chosen, done=updates - 1)
        timed("a resume goes to the last of them", lambda: next(filter(None, sampler)), 1)
        pictures = Pictures(100, 32, "image-classification")
        dataset = PairDataset(
            [pictures[row] for row in range(100)],
            source,
            dict.fromkeys(MEMBERS, ImageView(32, strong=True)),
            task="image-classification",
            image_size=32,
            num_classes=10,
        )
        dataset.pseudo = {member: pseudo[member] for member in MEMBERS}
        sampler.begin(1, updates, labeled, chosen)
        peak["worker"] = 0

        def training() -> None:
            loader = DataLoader(dataset, batch_sampler=sampler, num_workers=args.workers, collate_fn=default_collate)
            for update, batch in enumerate(islice(loader, max(2, shown // 512))):
                assert torch.is_tensor(batch["a"]["pixel_values"])
                if update % 8 == 1:
                    peak["worker"] = max(peak["worker"], largest_worker())

        timed(f"{shown} training samples, {args.workers} workers", training, shown)
        rows[-1].details["worker MiB"] = peak["worker"] / MIB  # type: ignore[index]
    used = private_memory() + args.workers * peak["worker"]
    rows.append(Row("memory of all processes at the end", "", [used / MIB], "MiB", "<= 1500"))
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    number = {"type": int, "default": 1_000_000, "help": "unlabeled images"}
    workers = {"type": int, "default": 2, "help": "processes that load images"}
    samples = {"type": int, "default": 20_000, "help": "images decoded for labels, and for training"}
    parts = {"memory": memory, "time": times, "million": million}
    return run(__doc__, argv, parts, rows=number, workers=workers, samples=samples)


if __name__ == "__main__":
    main()
