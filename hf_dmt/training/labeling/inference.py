"""Run both models on clean images: the loop used for labeling and evaluation.

It always runs the unwrapped pair, never the Trainer's `evaluation_loop`, which marks the unwrapped module as prepared
so that a later `train()` silently runs without DDP (transformers 5.17 and 5.23). Each process takes its own share of
the images, so no image is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...data.drawing.clean_images import CleanBatch, CleanCollator, CleanDataset
from ...data.drawing.workers import leave_signals_to_the_run
from ...data.members import MEMBERS
from ...method.selection import DivergedError
from ...models.heads import recorded_head_inputs
from ...models.pair import ModelPair
from ...models.preprocessing import clean_inputs, native_size
from ...models.weights.sharding import whole_parameters
from ..settings.arguments import DMTTrainingArguments


@dataclass(frozen=True)
class CleanLogits:
    """The logits of both models for images that share their sizes.

    Attributes:
        index: (n,) rows of the source.
        logits: for each model, (n, C) or (n, C, H, W).
        truth: n labels or masks, None if unknown.
        sizes: `(H, W)` of the images.
        features: for each model, the `(n, D)` inputs of its head, if requested.
    """

    index: list[int]
    logits: dict[str, Tensor]
    truth: list[Any]
    sizes: list[tuple[int, int]]
    features: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class CleanPass:
    """How a pair looks at clean images: images per batch, workers, and this process's share.

    `exact_decoding` decodes every pixel even if fewer would do.
    """

    pair: ModelPair
    accelerator: Accelerator
    batch_size: int
    num_workers: int = 0
    progress: bool = False
    exact_decoding: bool = False

    @classmethod
    def of(cls, pair: ModelPair, accelerator: Accelerator, args: DMTTrainingArguments) -> CleanPass:
        """From the settings of a run."""
        return cls(
            pair,
            accelerator,
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm and args.local_process_index == 0,
            exact_decoding=args.exact_decoding,
        )

    def share(self, count: int) -> np.ndarray:
        """This process's rows of `count`; over all processes, every row occurs exactly once."""
        return np.arange(self.accelerator.process_index, count, self.accelerator.num_processes)

    @torch.no_grad()
    def run(
        self,
        source: Any,
        *,
        title: str,
        shorter_side: int | None = None,
        to_score: bool = False,
        approximate: bool = False,
        with_features: bool = False,
        at_stride: bool = False,
    ) -> Iterator[CleanLogits]:
        """Logits for this process's share of `source`, in eval mode and with the run's mixed precision.

        The random state of the process is unchanged, and the pair's training mode is restored.

        Args:
            shorter_side: segmentation: images are first resized to this shorter side, and logits to their size.
            to_score: every image needs a valid label or mask; logits of pixels are resized to each mask's size instead.
            approximate: large images may be decoded smaller (labeling). Not for scores, which match `pipeline()`.
            with_features: classification: also return the inputs of the heads.
            at_stride: segmentation: logits keep the stride of each model.
        """
        pair, rows = self.pair, self.share(len(source))
        pixels = pair.task == "semantic-segmentation" and not at_stride
        loader: DataLoader[Any] = DataLoader(
            CleanDataset(
                source,
                rows,
                task=pair.task,
                shorter_side=shorter_side,
                view_side=view_side(pair) if approximate and not self.exact_decoding else None,
                scored_as=pair.class_names if to_score else None,
            ),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            collate_fn=CleanCollator(_preparations(pair), by_size=pixels, at_mask_size=to_score and pixels),
            worker_init_fn=leave_signals_to_the_run,
            # Without its own generator, iterating draws a seed from the global one, which would affect training.
            generator=torch.Generator(),
        )
        training = pair.training
        pair.eval()
        try:
            with ExitStack() as stack:
                stack.enter_context(whole_parameters(pair, self.accelerator))
                recorded = {
                    name: stack.enter_context(recorded_head_inputs(pair.member(name)))
                    for name in (MEMBERS if with_features else ())
                }
                # `tqdm.auto` iterates over what it is given twice; a loader would start its workers both times.
                batches = iter(loader)
                hidden = not self.progress
                for groups in tqdm(batches, title, len(loader), leave=False, unit="batch", disable=hidden):
                    for batch in groups:
                        part = self._logits(batch, batch.sizes[0] if pixels else None)
                        yield replace(part, features={name: seen.pop() for name, seen in recorded.items()})
        finally:
            pair.train(training)

    def _logits(self, batch: CleanBatch, size: tuple[int, int] | None) -> CleanLogits:
        pair = self.pair
        # If both models take the same pixels, they are moved to the device once.
        there = {id(pixels): pixels.to(pair.device, non_blocking=True) for pixels in batch.inputs.values()}
        with self.accelerator.autocast():
            logits = {name: pair.clean_logits(name, there[id(batch.inputs[name])], size).float() for name in MEMBERS}
        # The argmax of NaNs is the first class, with apparently maximal confidence.
        finite = torch.stack([logits[name].sum().isfinite() for name in MEMBERS]).tolist()
        for name, fine in zip(MEMBERS, finite, strict=True):
            if not fine and not bool(logits[name].isfinite().all()):
                raise DivergedError(
                    f"Model {name} predicts non-finite numbers for image {batch.index[0]} or one near it: training "
                    "has diverged, or values exceed the range of `fp16`. Lower `learning_rate`, or use `bf16`"
                )
        return CleanLogits(batch.index, logits, batch.labels, batch.sizes)


def _preparations(pair: ModelPair) -> dict[str, Callable[[list[Any]], list[Tensor]]]:
    """Each model's processor as a function; a single one if both produce the same from every image."""
    a, b = pair.processor_a, pair.processor_b
    same = type(a) is type(b) and a.to_dict() == b.to_dict()
    prepare_a = partial(clean_inputs, a)
    return {"a": prepare_a, "b": prepare_a if same else partial(clean_inputs, b)}


def view_side(pair: ModelPair) -> int:
    """The side at which images are needed: the larger of the training views and the processors' output."""
    return max(pair.image_size, *(native_size(pair.processor(name)) for name in MEMBERS))


def broadcast_buffers(module: nn.Module, accelerator: Accelerator) -> None:
    """Copy the main process's buffers to every process: after a step, BatchNorm's running statistics differ between
    ranks."""
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point() or buffer.dtype == torch.int64:
                torch.distributed.broadcast(buffer, src=0)
