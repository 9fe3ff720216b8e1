"""An update of a pair: its time against two plain Trainer updates, its loss, and what saves memory.

    python scripts/benchmarks/step.py [--only step loss memory] [--quick] [--threads N] [--cpu_time] [--json FILE]
    python scripts/benchmarks/step.py --device cuda --dtype bf16 [--compile] --workers 8

step: one update of a phase against the two plain `Trainer` updates it replaces, for both tasks. Same models, images,
views, total batch and optimizer. From the end of one update to the end of the next, so loading data counts.

loss: forward and backward of the dynamic mutual loss against the formula written down naively: 8 crops of 321x321 with
21 classes (the official VOC batch), float32. Memory is what they add at the highest point, with the logits' gradient.

memory: what a run of a few updates adds at its highest point (weights, gradients, optimizer state and activations of
both models), with each way to save memory, and its time. For scale also one of the two models in a plain Trainer.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair
from hf_dmt.data.drawing.transforms import train_view
from hf_dmt.data.seeds import seed_for, seeded
from hf_dmt.method import dynamic_mutual_loss

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, in_turns, medians, peak_memory, ratios, run
from scripts.benchmarks.subjects import IMAGES, Pictures, decoded, image_pair, pixel_pair

GAMMA1, GAMMA2 = 5.0, 5.0
SHAPE, QUICK_SHAPE = (8, 21, 321, 321), (2, 21, 129, 129)


# transformers 5.17 knows the older name alone, later ones warn of it.
NEW, OLD = "activation_checkpointing", "gradient_checkpointing"
CHECKPOINTING = NEW if NEW in TrainingArguments.__dataclass_fields__ else OLD
BOTH, ALONE, ALTERNATE = "both members at once", "one model, plain Trainer", "--member_schedule alternate"
MODES: dict[str, dict[str, Any]] = {
    BOTH: {},
    "--freeze_backbone": {"freeze_backbone": True},
    f"--{CHECKPOINTING}": {CHECKPOINTING: True},
    ALTERNATE: {"member_schedule": "alternate"},
}


class Clock(TrainerCallback):
    """Seconds between the ends of consecutive updates."""

    def __init__(self, *, cpu_time: bool) -> None:
        self.now = time.process_time if cpu_time else time.perf_counter
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(self.now())

    def median(self) -> float:
        steps = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(steps[1:])  # the first holds the start of the workers and of the allocator


class Views(torch.utils.data.Dataset[dict[str, Any]]):
    """The views of one member as a plain fine-tuning script has them: augmented and normalized one by one."""

    def __init__(self, images: Sequence[dict[str, Any]], pair: ModelPair, member: str, count: int) -> None:
        self.images, self.task, self.count = images, pair.task, count
        self.view: Any = train_view("strong" if pair.task == IMAGES else "scale-crop-flip", pair.image_size, pair.task)
        normalizer = pair.view_a if member == "a" else pair.view_b
        self.scale = normalizer.matrix.diagonal()[:, None, None].clone()
        self.offset = normalizer.offset[:, None, None].clone()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.images[index % len(self.images)]
        with seeded(seed_for(index)):
            if self.task == IMAGES:
                pixels, labels = self.view(item["image"]), item["label"]
            else:
                pixels, labels, _ = self.view(item["image"], item["mask"], None)
        return {"pixel_values": pixels * self.scale + self.offset, "labels": labels}


class SemanticTrainer(Trainer):
    """Cross-entropy at label resolution with -100 ignored; models' own losses ignore other values."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(pixel_values=inputs["pixel_values"]).logits
        size = inputs["labels"].shape[-2:]
        logits = torch.nn.functional.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return torch.nn.functional.cross_entropy(logits, inputs["labels"], ignore_index=-100)


def pair_step(
    pair: ModelPair, items: Sequence[dict[str, Any]], steps: int, batch: tuple[int, int], clock: Clock, **settings: Any
) -> float:
    """Seconds of one update of a phase, median over `steps`."""
    labeled, pseudo = batch
    with tempfile.TemporaryDirectory() as folder:
        arguments = DMTTrainingArguments(
            output_dir=folder,
            supervised_epochs=0,
            phase_epochs=steps * pseudo / len(items),
            label_ratios=[1.0],
            labeled_batch_size=labeled,
            pseudo_batch_size=pseudo,
            **{**usual_settings(), **settings},
        )
        unlabeled = [{"image": item["image"]} for item in items]
        DMTTrainer(pair, arguments, items, unlabeled, callbacks=[clock]).train()
    return clock.median()


def plain_step(
    pair: ModelPair, member: str, items: Sequence[dict[str, Any]], steps: int, batch: int, clock: Clock, **settings: Any
) -> float:
    """Seconds of one update of a plain Trainer on one member."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=str(Path(folder)),
            max_steps=steps,
            per_device_train_batch_size=batch,
            remove_unused_columns=False,
            **{**usual_settings(), **settings},
        )
        trainer_class = Trainer if pair.task == IMAGES else SemanticTrainer
        data = Views(items, pair, member, steps * batch)
        trainer_class(pair.member(member), arguments, train_dataset=data, callbacks=[clock]).train()
    return clock.median()


def usual_settings() -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    }


def compare(
    pair: ModelPair, items: Any, steps: int, batch: tuple[int, int], rounds: int, *, cpu_time: bool, **settings: Any
) -> Row:
    def timed(step: Callable[..., float], *arguments: Any) -> Callable[[], float]:
        return lambda: step(*arguments, Clock(cpu_time=cpu_time), **settings)

    jobs = {
        "pair": timed(partial(pair_step, pair, items, steps, batch)),
        "a": timed(partial(plain_step, pair, "a", items, steps, sum(batch))),
        "b": timed(partial(plain_step, pair, "b", items, steps, sum(batch))),
    }
    seconds = in_turns(jobs, rounds, cpu_time=cpu_time, warm_up=False)
    found = ratios(seconds, "pair", "a", "b")
    details = {**medians(seconds), "images/s of each member": sum(batch) / statistics.median(seconds["pair"])}
    what = f"phase step of a pair, {pair.task}, {pair.image_size} px"
    return Row(what, "two plain Trainer steps", found, "of their time", "<= 1.05", details)


def gpu_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of a run that are those of the benchmark."""
    return {
        "use_cpu": args.device == "cpu",
        "bf16": args.dtype == "bf16",
        "torch_compile": args.compile,
        "dataloader_num_workers": args.workers,
    }


def updates(args: argparse.Namespace) -> list[Row]:
    rounds, steps = (1, 4) if args.quick else (5, 12)
    if args.quick:
        cases = [(pixel_pair(32, "toy"), (2, 2)), (image_pair(32, "toy"), (2, 6))]
    elif args.device == "cuda":
        cases = [(pixel_pair(512, "b2"), (4, 12)), (image_pair(224, "base", both=True), (16, 48))]
    else:
        cases = [(pixel_pair(64, "b0", classes=11), (4, 12)), (image_pair(32, "demo"), (8, 24))]
    rows = []
    for pair, batch in cases:
        items = decoded(Pictures(64, pair.image_size, pair.task))
        rows.append(compare(pair, items, steps, batch, rounds, cpu_time=args.cpu_time, **gpu_settings(args)))
    return rows


def ours(logits: Tensor, labels: Tensor, confidence: Tensor, is_pseudo: Tensor) -> Tensor:
    return dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=GAMMA1, gamma2=GAMMA2).loss


def naive(logits: Tensor, labels: Tensor, confidence: Tensor, is_pseudo: Tensor) -> Tensor:
    """The equations line by line: a softmax beside the cross-entropy's own, masks for the three cases."""
    probabilities = logits.softmax(dim=1).clone().detach()
    top, own = probabilities.max(dim=1).values, probabilities.argmax(dim=1)
    valid = labels != -100
    q = probabilities.gather(1, torch.where(valid, labels, 0).unsqueeze(1)).squeeze(1)
    pseudo = valid & is_pseudo.view(-1, 1, 1)
    agree = pseudo & (own == labels)
    negative = pseudo & (own != labels) & (top <= confidence)
    positive = pseudo & (own != labels) & (top > confidence)
    weights = torch.ones_like(q)
    weights[agree] = q[agree] ** GAMMA1
    weights[negative] = q[negative] ** GAMMA2
    weights[positive] = 0.0
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    return (weights * cross_entropy).sum() / valid.sum()


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {"naive": naive, "ours": ours}


def make_inputs(shape: tuple[int, ...], device: str) -> tuple[Tensor, ...]:
    """Half-trained predictions: mostly right, 6 % of the pixels ignored, 7 of 8 samples pseudo-labeled."""
    generator = torch.Generator().manual_seed(0)
    n, num_classes, height, width = shape
    labels = torch.randint(num_classes, (n, height, width), generator=generator)
    logits = 2 * torch.randn(shape, generator=generator) + 4 * F.one_hot(labels, num_classes).movedim(-1, 1)
    labels[:, : height // 16] = -100
    confidence = torch.rand((n, height, width), generator=generator) * 0.7 + 0.3
    is_pseudo = torch.arange(n) < n - max(1, n // 8)
    return logits.to(device).requires_grad_(), labels.to(device), confidence.to(device), is_pseudo.to(device)


def forward_backward(name: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """The loss; the gradient is left in the logits."""
    inputs[0].grad = None
    loss = IMPLEMENTATIONS[name](*inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def losses(args: argparse.Namespace) -> list[Row]:
    shape = QUICK_SHAPE if args.quick else SHAPE
    inputs = make_inputs(shape, args.device)
    values, gradients = zip(
        *((forward_backward(name, inputs), inputs[0].grad) for name in IMPLEMENTATIONS), strict=True
    )
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    del gradients
    jobs = {name: partial(forward_backward, name, inputs) for name in IMPLEMENTATIONS}
    seconds = in_turns(jobs, rounds=2 if args.quick else 9, cpu_time=args.cpu_time)
    what = "loss and weights, " + "x".join(map(str, shape))
    time = Row(what, "the formula, naively", ratios(seconds, "ours", "naive"), "of its time", "<= 1", medians(seconds))
    extra = {}
    for name, job in jobs.items():
        inputs[0].grad = None
        before, peak = peak_memory(job, args.device)
        extra[name] = peak - before
    details = {f"{name} MiB": value / 2**20 for name, value in extra.items()}
    share = extra["ours"] / extra["naive"]
    memory = Row("extra peak memory of it", "the formula, naively", [share], "of its memory", "<= 0.6", details)
    return [time, memory]


def memory_of(
    make: Callable[[], ModelPair], batch: tuple[int, int], steps: int, rounds: int, *, cpu_time: bool, **settings: Any
) -> list[Row]:
    task, side = make().task, make().image_size
    items = decoded(Pictures(sum(batch), side, task))

    def run(mode: str) -> float:
        gc.collect()  # a trainer and its model refer to each other: the one before would be counted here
        clock = Clock(cpu_time=cpu_time)
        if mode == ALONE:
            return plain_step(make(), "a", items, steps, sum(batch), clock, **settings)
        update = pair_step(make(), items, steps, batch, clock, **{**settings, **MODES[mode]})
        return 2 * update if mode == ALTERNATE else update  # one of a and one of b, which are alike

    jobs = {mode: partial(run, mode) for mode in (*MODES, ALONE)}
    seconds = in_turns(jobs, rounds, cpu_time=cpu_time, warm_up=False)
    extra = {}
    for mode, job in jobs.items():
        gc.collect()
        before, peak = peak_memory(job, "cpu" if settings["use_cpu"] else "cuda")
        extra[mode] = (peak - before) / 2**20
    rows = []
    for mode in (*MODES, ALONE):
        details = {"step ms": 1e3 * statistics.median(seconds[mode]), "MiB": extra[mode]}
        details["of the time of a step"] = statistics.median(ratios(seconds, mode, BOTH))
        what = f"peak memory, {mode}, {task}, {side} px"
        rows.append(Row(what, BOTH, [extra[mode] / extra[BOTH]], "of its memory", "", details))
    return rows


def memory_modes(args: argparse.Namespace) -> list[Row]:
    steps, rounds = (3, 1) if args.quick else (4, 3)
    if args.quick:
        cases = [(partial(image_pair, 32, "toy", both=True), (2, 2))]
    elif args.device == "cuda":
        cases = [(partial(image_pair, 224, "base", both=True), (16, 48)), (partial(pixel_pair, 512, "b2"), (4, 12))]
    else:
        cases = [(partial(image_pair, 112, "tiny", both=True), (4, 12)), (partial(pixel_pair, 128, "b0"), (2, 6))]
    settings = {"use_cpu": args.device == "cpu", "bf16": args.dtype == "bf16"}
    rows = [
        row
        for make, batch in cases
        for row in memory_of(make, batch, steps, rounds, cpu_time=args.cpu_time, **settings)
    ]
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    compiled: dict[str, Any] = {"action": "store_true", "help": "torch.compile, of the pair and of the plain models"}
    workers: dict[str, Any] = {"type": int, "default": 0, "help": "processes that load the data, in each of the three"}
    parts = {"step": updates, "loss": losses, "memory": memory_modes}
    return run(__doc__, argv, parts, gpu=True, compile=compiled, workers=workers)


if __name__ == "__main__":
    main()
