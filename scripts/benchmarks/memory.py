"""Resident memory while labeling 2,000 and 20,000 images.

    python scripts/benchmarks/memory.py [--quick] [--threads N] [--json FILE]

Tiny members label images that are made when asked for, so what grows is ours. The figure is the highest resident memory
of the process while it labels the larger set / that of the smaller one, less 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from hf_dmt import ModelPair

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.labeling import our_pass
from scripts.benchmarks.measure import Row, finish, options, peak_memory
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, image_pair, pixel_pair


def labeling(pair: ModelPair, count: int) -> Callable[[], None]:
    def job() -> None:
        with tempfile.TemporaryDirectory() as folder:
            our_pass(pair, Pictures(count, pair.image_size), 16, Path(folder), Accelerator(cpu=True))

    return job


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
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
    return finish(rows, args)


if __name__ == "__main__":
    main()
