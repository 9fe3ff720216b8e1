"""Time and memory of the dynamic mutual loss against the formula written down naively.

    python scripts/benchmarks/loss.py [--quick] [--threads N] [--json FILE]

Forward and backward on the CPU, 8 crops of 321x321 with 21 classes (the official VOC batch), float32. Times
are medians of interleaved repetitions in one process. Memory is what forward and backward add to the peak
resident set of a fresh process that holds the inputs already, the gradient of the logits included. The last
line is `ratio <time> memory_ratio <memory>`, ours / naive: below 1 is better.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_dmt.method import dynamic_mutual_loss

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


def extra_peak_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Measured in this process, which must be a fresh one: a peak is never forgotten."""
    forward_backward(name, make_inputs((2, 3, 16, 16)))  # libraries and thread pools are not the loss's
    inputs = make_inputs(shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward_backward(name, inputs)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def median_times(shape: tuple[int, ...], repetitions: int) -> dict[str, float]:
    inputs = make_inputs(shape)
    losses = {name: forward_backward(name, inputs) for name in IMPLEMENTATIONS}  # also the warm-up
    assert abs(losses["ours"] - losses["naive"]) < 1e-4 * losses["naive"], losses
    times: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(repetitions):
        for name in IMPLEMENTATIONS:
            start = time.perf_counter()
            forward_backward(name, inputs)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batch, few repetitions: seconds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--measure-memory", choices=list(IMPLEMENTATIONS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    shape = QUICK_SHAPE if args.quick else SHAPE
    if args.measure_memory:
        print(extra_peak_bytes(args.measure_memory, shape))
        return

    memory = {}
    for name in IMPLEMENTATIONS:
        command = [sys.executable, __file__, "--measure-memory", name, "--threads", str(args.threads)]
        command += ["--quick"] * args.quick
        memory[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = median_times(shape, repetitions=5 if args.quick else 9)

    print(f"{shape} float32, forward + backward, {args.threads} CPU threads, torch {torch.__version__}")
    print(f"{'':8}{'median ms':>12}{'extra peak MiB':>16}")
    for name in IMPLEMENTATIONS:
        print(f"{name:8}{times[name] * 1e3:12.1f}{memory[name] / 2**20:16.1f}")
    ratio, memory_ratio = times["ours"] / times["naive"], memory["ours"] / memory["naive"]
    if args.json:
        figures = {"ratio": ratio, "memory_ratio": memory_ratio, "seconds": times, "extra_peak_bytes": memory}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"ratio {ratio:.3f} memory_ratio {memory_ratio:.3f}")


if __name__ == "__main__":
    main()
