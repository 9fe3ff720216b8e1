"""One training sample against what others write: the usual torchvision example, and the usual augmentation of CIFAR.

    python scripts/benchmarks/peers.py --threads 1 --cpu_time [--quick] [--json FILE]

The photos are made: smooth shapes with grain, as JPEG files. Both sides decode the same bytes. The usual example for
photos: decode, RandomResizedCrop, flip, (strong: RandAugment, RandomErasing,) tensor, normalize. For 32 pixels: pad by
4 and crop, flip, RandAugment, Cutout, tensor, normalize. Ours normalizes later, on the device.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from hf_dmt.data.drawing.transforms import ImageView
from hf_dmt.data.reading.small import to_small_rgb
from hf_dmt.data.seeds import seeded

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, medians, options, ratios
from scripts.benchmarks.subjects import Pictures

NORMALIZE = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def file_of(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Pictures(1, 256)[0]["image"].resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def usual(side: int, *, strong: bool) -> Callable[[Image.Image], torch.Tensor]:
    small = side <= 32
    geometry: list[Any] = [v2.RandomCrop(side, padding=4, padding_mode="reflect")] if small else []
    steps = [*(geometry or [v2.RandomResizedCrop(side, antialias=True)]), v2.RandomHorizontalFlip()]
    steps += [v2.RandAugment(2, 9)] if strong else []
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), NORMALIZE]
    steps += [v2.RandomErasing(p=1.0, scale=(0.02, 0.15), ratio=(1.0, 1.0))] if strong else []
    compose: Callable[[Image.Image], torch.Tensor] = v2.Compose(steps)
    return compose


def sample(size: tuple[int, int], side: int, *, strong: bool, count: int, rounds: int, cpu_time: bool) -> Row:
    content, view, theirs = file_of(size), ImageView(side, strong=strong), usual(side, strong=strong)

    def ours() -> None:
        for seed in range(count):
            image, _ = to_small_rgb(content, side)
            with seeded(seed):
                assert view(image).shape == (3, side, side)

    def example() -> None:
        for _ in range(count):
            assert theirs(Image.open(io.BytesIO(content)).convert("RGB")).shape == (3, side, side)

    seconds = in_turns({"ours": ours, "example": example}, rounds, cpu_time=cpu_time)
    what = f"{'strong' if strong else 'weak'} sample of {side} px from a {size[0]} x {size[1]} JPEG"
    details = {name: value / count for name, value in medians(seconds).items()}
    return Row(what, "the usual example", ratios(seconds, "ours", "example"), "of its time", "<= 1.1", details)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    rows = []
    for size, side, count in (((32, 32), 32, 400), ((500, 375), 224, 60), ((4000, 3000), 224, 5)):
        for strong in (False, True):
            few, rounds = (2, 1) if args.quick else (count, 7)
            rows.append(sample(size, side, strong=strong, count=few, rounds=rounds, cpu_time=args.cpu_time))
    return finish(rows, args)


if __name__ == "__main__":
    main()
