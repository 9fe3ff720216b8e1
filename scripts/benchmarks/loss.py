"""Time and memory of the dynamic mutual loss against the formula written down naively.

    python scripts/benchmarks/loss.py [--quick] [--threads N] [--cpu_time] [--device cuda] [--json FILE]

Forward and backward, 8 crops of 321x321 with 21 classes (the official VOC batch), float32. Memory is what they add at
the highest point, the gradient of the logits included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_dmt.method import dynamic_mutual_loss

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.measure import Row, finish, in_turns, medians, options, peak_memory, ratios

GAMMA1, GAMMA2 = 5.0, 5.0
SHAPE, QUICK_SHAPE = (8, 21, 321, 321), (2, 21, 129, 129)


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


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv, gpu=True)
    shape = QUICK_SHAPE if args.quick else SHAPE
    inputs = make_inputs(shape, args.device)
    losses, gradients = zip(
        *((forward_backward(name, inputs), inputs[0].grad) for name in IMPLEMENTATIONS), strict=True
    )
    torch.testing.assert_close(*losses)
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
    return finish([time, memory], args)


if __name__ == "__main__":
    main()
