"""The training samples of both models: labeled and unlabeled images with random views, and their loader."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, default_collate

from ..data.drawing.sampler import PhaseBatchSampler
from ..data.drawing.samples import PairDataset
from ..data.drawing.transforms import train_view
from ..data.drawing.workers import leave_signals_to_the_run
from ..models.pair import ModelPair
from .settings.arguments import DMTTrainingArguments
from .settings.knobs import Knobs


def training_set(
    pair: ModelPair, args: DMTTrainingArguments, knobs: Knobs, labeled: Any, unlabeled: Any
) -> tuple[PairDataset, dict[str, Any]]:
    """The training samples and, for each model, the weakly augmented view that an online teacher labels.

    For masks, that view has the student's geometry with unchanged colors.
    """
    pixels, online = pair.task == "semantic-segmentation", knobs.strategy == "online"
    usual = "scale-crop-flip" if pixels and not online else "strong"
    names = {"a": args.augmentation or usual, "b": args.augmentation_b or args.augmentation or usual}
    view = partial(train_view, size=pair.image_size, task=pair.task, hflip=args.horizontal_flip)
    views = {name: view(kind) for name, kind in names.items()}
    weaker = {"strong": "scale-crop-flip"} if pixels else {"strong": "weak"}
    weak_views = {name: view(weaker.get(kind, kind)) for name, kind in names.items()}
    samples = PairDataset(
        labeled,
        unlabeled,
        views,
        task=pair.task,
        image_size=pair.image_size,
        num_classes=len(pair.class_names),
        exact_decoding=args.exact_decoding,
    )
    return samples, weak_views


def phase_loader(samples: PairDataset, sampler: PhaseBatchSampler, args: DMTTrainingArguments) -> DataLoader[Any]:
    """The batches of the current phase. The sampler knows its rank, so accelerate must not shard them again."""
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=default_collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        prefetch_factor=args.dataloader_prefetch_factor,
        worker_init_fn=leave_signals_to_the_run,
        generator=torch.Generator(),  # otherwise every phase draws a base seed from the global random state
    )
    return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)
