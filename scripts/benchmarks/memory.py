"""Resident memory while labeling 2,000 and 20,000 images.

    python -m scripts.benchmarks.memory [--quick] [--threads N] [--json FILE]

Tiny members label images that are made when asked for, so what grows is ours. The figure is the highest resident memory
of the process while it labels the larger set / that of the smaller one, less 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .labeling import our_pass
from .measure import Row, finish, options, peak_memory
from .subjects import IMAGES, PIXELS, Pictures, image_pair, pixel_pair


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    few, many = (20, 60) if args.quick else (2000, 20000)
    rows = []
    for task in (IMAGES, PIXELS):
        pair = image_pair(16, "toy") if task == IMAGES else pixel_pair(32, "toy")
        passes = {n: partial(our_pass, pair, Pictures(n, pair.image_size), batch_size=16) for n in (few, many)}
        passes[few]()  # libraries and buffers that any labeling needs
        peaks = {count: peak_memory(labeling)[1] for count, labeling in passes.items()}
        details = {f"{count} images MiB": value / 2**20 for count, value in peaks.items()}
        growth = peaks[many] / peaks[few] - 1
        what = f"resident memory while labeling, {task}"
        rows.append(Row(what, f"{few} images", growth, f"growth to {many}", ("<=", 0.1), details))
    return finish(rows, args)


if __name__ == "__main__":
    main()
