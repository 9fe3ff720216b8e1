"""Runs that must not depend on the number of processes. The tests call them in one process and start them in two.

The results are in `<folder>/found-<world size>.pt` and `<folder>/two-only.pt`, written by the main process.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from small_runs import (
    IMAGES,
    PIXELS,
    Kill,
    KillAt,
    images,
    make_pair,
    make_trainer,
    same_weights_on,
    scenes,
    state_of,
)
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torchvision.transforms.functional import to_tensor
from transformers import TrainerCallback

from hf_dmt import DMTTrainer
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.rows import FileRows
from hf_dmt.data.splitting.scan import scan
from hf_dmt.models.weights.sharding import whole_state
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.labeling.label_pass import label_pixels, weights_hash
from hf_dmt.training.scoring.evaluation import evaluate_pair
from hf_dmt.training.settings.knobs import Knobs

# 13 images on two processes: uneven shards. 3 + 2 + 4 updates (3 + 4 + 4 with masks) of SGD, which does not hide a
# wrong scale.
PLAIN: dict[str, Any] = {
    "optim": "sgd",
    # At 0.1 rounding alone grows to 7e-6 in 50 updates, as one process with two micro-batches shows; here to 3e-7.
    "learning_rate": 0.05,
    "phase_epochs": 1,
    "supervised_epochs": 2,
    "logging_steps": 1,
    "per_device_eval_batch_size": 3,
    "keep_pseudo_labels": "all",
}


class Agreement(TrainerCallback):
    """Records how far parameters and buffers of the processes differ, at the end of every phase and after it is
    scored."""

    def __init__(self) -> None:
        self.apart: list[tuple[str, float, float]] = []

    def _measure(self, event: str, model: Any) -> None:
        self.apart.append((event, apart(model.parameters()), apart(model.buffers())))

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._measure("trained", model)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, model: Any = None, **kwargs: Any) -> None:
        self._measure("scored", model)


def apart(tensors: Any) -> float:
    """The largest difference from the main process's tensors."""
    flat = torch.cat([tensor.detach().flatten().double() for tensor in tensors])
    if not torch.distributed.is_initialized():
        return 0.0
    first = flat.clone()
    torch.distributed.broadcast(first, src=0)
    worst = (flat - first).abs().max()
    torch.distributed.all_reduce(worst, op=torch.distributed.ReduceOp.MAX)
    return float(worst)


def gathered(value: Any) -> list[Any]:
    if not torch.distributed.is_initialized():
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def case(folder: Path, name: str, pair: Any, world: int, **settings: Any) -> tuple[DMTTrainer, dict[str, Any]]:
    """Evaluates, trains, and returns what can be compared afterwards."""
    pixels = pair.task == PIXELS
    make = scenes if pixels else images
    agreement = Agreement()
    trainer = make_trainer(
        folder / f"{name}-{world}",
        pair,
        labeled=make(10),
        unlabeled=make(13, seed=1),
        evaluation=make(7, seed=3),
        callbacks=[agreement],
        **{**PLAIN, **settings},
    )
    assert trainer.args.world_size == world == trainer.accelerator.num_processes, "fewer processes than asked for"
    first = trainer.evaluate()
    # The stock evaluation loop, if anything calls it, leaves this behind, and train() then runs without DDP.
    trainer.model._is_accelerate_prepared = True
    trainer.train()
    wrapped = isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    assert wrapped == (world > 1)
    return trainer, {
        "weights": state_of(trainer.model),
        "first": first,
        "last": trainer.evaluate(),
        "apart": agreement.apart,
        "writes": gathered(trainer.records.writes),
    }


def same_store(folder: Path, world: int) -> None:
    """Labels of the same weights, one image at a time: nothing but the number of processes differs."""
    loop = CleanPass(make_pair("segformer", "segformer"), Accelerator(cpu=True), 1)
    facts = {"phase": 1, "ratio": 0.5}
    label_pixels(loop, scenes(13, seed=1), folder / f"store-{world}", knobs=Knobs(), facts=facts)


CHANGED: dict[str, Any] = {
    **PLAIN,
    "save_strategy": "steps",
    "save_steps": 2,
}


def begun(folder: Path, world: int) -> dict[str, Tensor]:
    """Returns the weights of a whole run, and leaves the same run killed in phase 1 for other processes to resume."""
    whole = make_trainer(folder / f"unchanged-{world}", **CHANGED)
    whole.train()
    with suppress(Kill):
        make_trainer(folder / f"begun-by-{world}", callbacks=[KillAt(5)], **CHANGED).train()
    return state_of(whole.model)


def taken_up(folder: Path, by_before: int) -> dict[str, Any]:
    """Resumes a run that was `begun` with another number of processes."""
    trainer = make_trainer(folder / f"begun-by-{by_before}", **CHANGED)
    trainer.train(resume_from_checkpoint=True)
    return {"weights": state_of(trainer.model), "changes": trainer.origin.changes}


class CountedRows(FileRows):
    """Files, and how many times this process read one."""

    reads = 0

    def raw(self, row: int) -> tuple[Any, Any]:
        self.reads += 1
        return super().raw(row)


def look_at_files(folder: Path) -> dict[str, Any]:
    """What every process knows about 7 files, one of them truncated, and how many of them it read."""
    files = sorted((folder / "files").iterdir())
    rows = CountedRows(files, folder, masks=[files[0]] * len(files))
    notes: list[str] = []
    scanned = scan(ImageSet(rows, np.arange(7), PIXELS), "training", skip_corrupt=True, notes=notes)
    return {
        "known": gathered((scanned.images.ids, scanned.values.tolist(), scanned.sizes.tolist(), notes)),
        "reads": gathered(rows.reads),
    }


# Task and number of micro-batches of the runs that are compared in everything, and of those that the slow tests add.
EXACT = {"image-classification-accumulation-1": (IMAGES, 1), "semantic-segmentation-accumulation-2": (PIXELS, 2)}
CROSSED = {"image-classification-accumulation-2": (IMAGES, 2), "semantic-segmentation-accumulation-1": (PIXELS, 1)}


def exact(folder: Path, world: int, cases: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """The results of two train() calls of one trainer, by case."""
    found = {}
    for name, (task, accumulation) in cases.items():
        trainer, made = case(folder, name, same_weights_on(task), world, gradient_accumulation_steps=accumulation)
        trainer.args.overwrite_output_dir = True
        trainer.train()
        assert isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel) == (world > 1)
        found[name] = made | {"second": state_of(trainer.model), "second_apart": apart(trainer.model.parameters())}
    return found


def keep(found: dict[str, Any], folder: Path, world: int) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(found, folder / f"found-{world}.pt")


def run(folder: Path, world: int) -> None:
    """All cases, on as many processes as this was started with."""
    same_store(folder, world)
    found: dict[str, Any] = {"files": look_at_files(folder), "unchanged": begun(folder, world)}
    found |= exact(folder, world, EXACT)
    found |= {
        "online": case(folder, "online", make_pair(), world, strategy="online", label_ratios=[1.0])[1],
        "sequential": case(folder, "sequential", make_pair(), world, exchange="sequential", label_ratios=[0.5])[1],
        "frozen": case(folder, "frozen", make_pair(), world, freeze_backbone=True, label_ratios=[0.5])[1],
    }
    keep(found, folder, world)


def sharded(folder: Path) -> dict[str, Any]:
    """A pair whose parameters are sharded as Accelerate does, which it does only on GPUs: the same calls, on CPUs. 7
    images one by one on two processes: not the same number of forward passes."""
    pair = make_pair()
    loop = CleanPass(pair, Accelerator(cpu=True), 1)

    def seen() -> dict[str, Any]:
        return {
            "scores": evaluate_pair(loop, images(7, seed=3), title="")[0],
            "hash": weights_hash(pair),
        }

    found = {"whole": seen()}
    mesh = init_device_mesh("cpu", (2,))
    for module in list(pair.modules())[1:]:
        if type(module).__name__ in pair._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(pair, mesh=mesh)
    found["divided"] = seen()
    found["again"] = seen()
    pair(a=torch.rand(2, 3, 8, 8), b=torch.rand(2, 3, 8, 8))["a"].sum().backward()
    found["divided gradients"] = all(
        isinstance(parameter.grad, DTensor) for parameter in pair.model_a.parameters() if parameter.grad is not None
    )
    found["units"] = sum(isinstance(module, FSDPModule) for module in pair.modules())
    state = whole_state(pair)
    if loop.accelerator.is_main_process:
        pair.save_pretrained(folder / "sharded", state_dict=state)
    return found


def two_only(folder: Path) -> None:
    """What has no counterpart on one process: batch statistics, random states per process, resume."""
    found: dict[str, Any] = {"sharded": sharded(folder), "taken up": taken_up(folder, by_before=1)}
    trainer, found["batch statistics"] = case(
        folder, "statistics", make_pair("vit", "resnet", dropout=0.2), 2, mixup_alpha=0.5, ema_decay=0.9
    )
    with trainer.weights.ema.applied():  # type: ignore[union-attr]
        found["averages apart"] = apart(trainer.model.buffers())
    with trainer.weights.for_inference():
        found["averages that judge apart"] = apart(trainer.model.buffers())

    trainer = make_trainer(folder / "draws", max_steps=1, augmentation="strong")
    trainer.train()
    draws = next(iter(trainer.sampler))
    found["draws"] = gathered([draw for pair in draws for draw in pair])
    found["views"] = gathered(trainer.train_dataset[draws[0]]["a"]["pixel_values"])

    settings = {"save_strategy": "steps", "save_steps": 2, "augmentation": "strong", "ema_decay": 0.9}
    whole = make_trainer(folder / "whole", make_pair(dropout=0.2), **settings)
    whole.train()
    if torch.distributed.get_rank() > 0:
        whole.save_model(str(folder / "saved by another process"))
    with suppress(Kill):
        make_trainer(folder / "killed", make_pair(dropout=0.2), callbacks=[KillAt(7)], **settings).train()
    resumed = make_trainer(folder / "killed", make_pair(dropout=0.2), **settings)
    resumed.train(resume_from_checkpoint=True)
    found["resumed"] = state_of(resumed.model), state_of(whole.model)

    made = images(5, seed=8)
    logits = resumed.predict(made).predictions
    alone: dict[str, Tensor] = {}
    resumed.model.eval()
    with torch.no_grad(), resumed.weights.ema.applied():  # type: ignore[union-attr]
        alone = resumed.model(torch.stack([to_tensor(item["image"]) for item in made]))
    found["refused"] = gathered([refusal(folder / "refused", **given) for given in different_on_each_process()])
    found["predicted"] = logits, {name: value.numpy() for name, value in alone.items()}
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "two-only.pt")


def different_on_each_process() -> list[dict[str, Any]]:
    rank = torch.distributed.get_rank()
    rows = np.random.default_rng(rank).permutation(12)
    shuffled = [images(12, seed=1).without_truth()[row] for row in rows]
    return [{"unlabeled": shuffled}, {"learning_rate": 0.1 * (rank + 1)}]


def refusal(folder: Path, **given: Any) -> str:
    try:
        make_trainer(folder, **given).train()
    except ValueError as problem:
        return str(problem)
    return ""


def train_and_export(folder: Path, **settings: Any) -> None:
    """A whole run and the pair it ends with."""
    trainer = make_trainer(
        folder, same_weights_on(IMAGES), labeled=images(10), unlabeled=images(13, seed=1), **{**PLAIN, **settings}
    )
    trainer.train()
    trainer.export(folder / "exported")


class DieAt(TrainerCallback):
    """One process fails; the other waits for its gradients."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 and args.process_index == 1:
            raise MemoryError("this process ran out of something")


def main(arguments: list[str]) -> None:
    """One of two processes. Arguments: what to do, and the folder."""
    task, target = arguments[0], Path(arguments[1])
    if task == "die":
        make_trainer(target, callbacks=[DieAt()]).train()
    elif task == "fsdp":
        train_and_export(target, use_cpu=False)
    elif task == "crossed":
        keep(exact(target, 2, CROSSED), target, 2)
    else:
        run(target, 2)
        two_only(target)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
