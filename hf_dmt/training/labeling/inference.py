"""Clean images through both members: the one loop under labeling and evaluation.

Always the raw pair, never the Trainer's `evaluation_loop`: that marks the raw module as prepared, and a later `train()`
then runs without DDP, silently (`ecosystem` of transformers 5.17 and 5.23). Each process takes its own share of the
images, so no image is seen twice, whatever the number of processes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...data.drawing.clean_images import CleanCollator, CleanDataset
from ...data.members import MEMBERS
from ...models.pair import ModelPair
from ...models.preprocessing import clean_inputs
from ..sharding import whole_parameters


@dataclass(frozen=True)
class CleanLogits:
    """Both members' logits of images that share their sizes.

    Attributes:
        index: (n,) rows of the source. logits: per member, (n, C) or (n, C, H, W).
        truth: n labels or masks, None where unknown. sizes: `(H, W)` of the images.
    """

    index: list[int]
    logits: dict[str, Tensor]
    truth: list[Any]
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class CleanPass:
    """How clean images are loaded: images per batch, workers, and this process's share."""

    batch_size: int
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1
    progress: bool = False

    def share(self, count: int) -> np.ndarray:
        """This process's rows of `count`; over all processes every row exactly once."""
        return np.arange(self.rank, count, self.world_size)

    @torch.no_grad()
    def run(
        self,
        pair: ModelPair,
        source: Any,
        accelerator: Accelerator,
        *,
        title: str,
        shorter_side: int | None = None,
        at_mask_size: bool = False,
    ) -> Iterator[CleanLogits]:
        """Logits of this process's share of `source`, in eval mode and under the run's mixed precision.

        The random state of the process does not move, and the pair's training mode is restored.

        Args:
            shorter_side: pixels: images are brought to this shorter side first, and logits to their size.
            at_mask_size: pixels: logits are brought to each mask's size instead (evaluation).
        """
        rows = self.share(len(source))
        loader: DataLoader[Any] = DataLoader(
            CleanDataset(source, rows, task=pair.task, shorter_side=shorter_side),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=False,
            collate_fn=CleanCollator({name: partial(clean_inputs, pair.processor(name)) for name in MEMBERS}),
            # Without a generator of its own, iterating draws a seed from the global one and shifts what training draws.
            generator=torch.Generator(),
        )
        training = pair.training
        pair.eval()
        try:
            with whole_parameters(pair, accelerator):
                for batch in tqdm(loader, desc=title, unit="batch", disable=not self.progress, leave=False):
                    yield from self._batch(pair, batch, accelerator, at_mask_size)
        finally:
            pair.train(training)

    def _batch(
        self, pair: ModelPair, batch: dict[str, Any], accelerator: Accelerator, at_mask_size: bool
    ) -> Iterator[CleanLogits]:
        sizes = [
            mask.shape if at_mask_size else size for mask, size in zip(batch["labels"], batch["sizes"], strict=True)
        ]
        groups: dict[Any, list[int]] = defaultdict(list)
        for position, (a, b, size) in enumerate(zip(batch["a"], batch["b"], sizes, strict=True)):
            groups[a.shape, b.shape, size if pair.task == "semantic-segmentation" else None].append(position)
        for (*_, size), positions in groups.items():
            with accelerator.autocast():
                logits = {
                    name: pair.clean_logits(name, torch.stack([batch[name][i] for i in positions]), size).float()
                    for name in MEMBERS
                }
            yield CleanLogits(
                index=[int(batch["index"][i]) for i in positions],
                logits=logits,
                truth=[batch["labels"][i] for i in positions],
                sizes=[sizes[i] for i in positions],
            )


def broadcast_buffers(module: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the main process's buffers: after a step, BatchNorm's running statistics differ between
    ranks."""
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point() or buffer.dtype == torch.int64:
                torch.distributed.broadcast(buffer, src=0)
