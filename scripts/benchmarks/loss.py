"""Time and memory of the dynamic mutual loss against the formula written down naively.

    python -m scripts.benchmarks.loss [--quick] [--threads N] [--cpu_time] [--json FILE]

Forward and backward on the CPU, 8 crops of 321x321 with 21 classes (the official VOC batch), float32. Memory is what
forward and backward add to the resident set at its highest point, the gradient of the logits included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_dmt.method import dynamic_mutual_loss

from .measure import Row, finish, in_turns, medians, options, peak_memory, ratio

GAMMA1, GAMMA2 = 5.0, 5.0
SHAPE, QUICK_SHAPE = (8, 21, 321, 321), (4, 21, 257, 257)


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


def make_inputs(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Half-trained predictions: mostly right, 6 % of the pixels ignored, 7 of 8 samples pseudo-labeled.

    Everything is made in place, so that the peak of the process is what it holds when this returns.
    """
    generator = torch.Generator().manual_seed(0)
    n, num_classes, height, width = shape
    labels = torch.empty((n, height, width), dtype=torch.int64).random_(num_classes, generator=generator)
    logits = torch.empty(shape).normal_(std=2.0, generator=generator)
    for image, truth in zip(logits, labels, strict=True):
        image.scatter_add_(0, truth.unsqueeze(0), torch.full((1, height, width), 4.0))
    labels[:, : height // 16] = -100
    confidence = torch.empty((n, height, width)).uniform_(0.3, 1.0, generator=generator)
    is_pseudo = torch.arange(n) < n - max(1, n // 8)
    return logits.requires_grad_(), labels, confidence, is_pseudo


def forward_backward(name: str, inputs: tuple[Tensor, ...]) -> float:
    inputs[0].grad = None
    loss = IMPLEMENTATIONS[name](*inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv)
    shape = QUICK_SHAPE if args.quick else SHAPE
    inputs = make_inputs(shape)
    losses = {name: forward_backward(name, inputs) for name in IMPLEMENTATIONS}
    assert abs(losses["ours"] - losses["naive"]) < 1e-4 * losses["naive"], losses
    jobs: dict[str, Callable[[], object]] = {name: partial(run, name, inputs) for name in IMPLEMENTATIONS}
    seconds = in_turns(jobs, rounds=2 if args.quick else 9, cpu_time=args.cpu_time)
    what, time_ratio = "loss and weights, " + "x".join(map(str, shape)), ratio(seconds, "ours", "naive")
    rows = [Row(what, "naive", time_ratio, "of its time", ("<=", 1.0), medians(seconds))]
    extra = {}
    for name, job in jobs.items():
        inputs[0].grad = None
        before, peak = peak_memory(job)
        extra[name] = peak - before
    details = {f"{name} MiB": value / 2**20 for name, value in extra.items()}
    share = extra["ours"] / extra["naive"]
    rows.append(Row("loss and weights, extra peak memory", "naive", share, "of its memory", ("<=", 0.6), details))
    return finish(rows, args)


def run(name: str, inputs: tuple[Tensor, ...]) -> None:
    forward_backward(name, inputs)


if __name__ == "__main__":
    main()
