"""A million unlabeled images: labels, selection, draws, samples and a resume, with the memory of every process.

    python scripts/benchmarks/million.py [--rows N] [--workers 2] [--quick]

The images are one small JPEG file under a million names (links), so reading is real and disk space is not needed. The
members' forward is a stub that answers from the images' numbers; everything else is what a run does: the files of the
folder, clean batches through workers, the label store, the selection, the draws of the phase, training samples through
workers, and the jump to an update in the middle of the phase. Memory is private memory (USS) of the main process and of
its largest worker. `--samples` says how many rows are decoded where decoding all would only repeat itself.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, default_collate

from hf_dmt.data.drawing.sampler import BatchShape, PhaseBatchSampler
from hf_dmt.data.drawing.samples import PairDataset
from hf_dmt.data.drawing.transforms import ImageView
from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.data.members import MEMBERS
from hf_dmt.data.reading.rows import FileRows
from hf_dmt.data.reading.sources import ImageSet
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.labeling.label_pass import select_images
from hf_dmt.training.settings.methods import Knobs

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, options
from scripts.benchmarks.subjects import Pictures, image_pair

MIB = 2**20


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


def main(argv: Sequence[str] | None = None) -> list[Row]:
    number = {"type": int, "default": 1_000_000, "help": "unlabeled images"}
    workers = {"type": int, "default": 2, "help": "processes that load images"}
    samples = {"type": int, "default": 20_000, "help": "images decoded for labels, and for training"}
    args = options(__doc__, argv, rows=number, workers=workers, samples=samples)
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
            loop = CleanPass(64, num_workers=args.workers)
            first = source.subset(np.arange(shown))
            for part in loop.run(pair, first, Accelerator(cpu=True), title="", approximate=True):
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
    return finish(rows, args)


if __name__ == "__main__":
    main()
