"""Ours against what others write: one training sample, a whole run, one update, the labels of an image.

    python scripts/benchmarks/peers.py [--only samples run official semilearn] [--semilearn PYTHON] [--quick]
        [--threads N]

samples: the usual torchvision example. Both sides decode the same JPEG; the photos are smooth shapes with grain. The
example for photos: decode, RandomResizedCrop, flip, (strong: RandAugment, RandomErasing,) tensor, normalize. For 32
pixels: pad by 4 and crop, flip, RandAugment, Cutout, tensor, normalize. Ours normalizes later, on the device.

run: `hf-dmt train` of a pair, from the command to the report, against `plain_trainer.py` once for each model: as many
updates, images, evaluations and checkpoints, from the same JPEG files. Ours also looks at every file, labels the
unlabeled images and reports. CPU seconds of the processes, whatever `--cpu_time` says.

official: on WRN-28-2 at 32 px, an update of the official code with mixup, and its labels, made in two passes, both
written down from the description of the method. Ours trains two models in an update, theirs one, so times are per
trained image: a labeled or strong view of one model.

semilearn: FixMatch in semilearn 0.3.2 against `--strategy online`, on WRN-28-2 and ViT-tiny, per trained image. It
needs an environment of its own. Its list of requirements cannot be met by this torch, so leave it out:

    python -m venv semilearn-env
    semilearn-env/bin/pip install torch torchvision torchaudio transformers timm scikit-learn scikit-image scipy \
        matplotlib tensorboard ruamel.yaml progress aim wandb
    semilearn-env/bin/pip install --no-deps semilearn==0.3.2
    python scripts/benchmarks/peers.py --only semilearn --threads 1 --cpu_time --semilearn semilearn-env/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_dmt import ModelPair
from hf_dmt.data.drawing.transforms import ImageView
from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.data.members import MEMBERS
from hf_dmt.data.reading.decoding import to_small_rgb
from hf_dmt.data.seeds import seeded
from hf_dmt.method import dynamic_mutual_loss
from hf_dmt.models.networks.wide_resnet import WideResNetConfig, WideResNetForImageClassification

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.labeling import RATIO, our_pass
from scripts.benchmarks.measure import Row, in_turns, medians, ratios, run
from scripts.benchmarks.plain_trainer import whole_run
from scripts.benchmarks.step import Clock, pair_step
from scripts.benchmarks.subjects import IMAGES, Pictures, decoded

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TENSOR = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
SIDE, CLASSES, GAMMA, MIXUP, DECAY = 32, 10, 4.0, 0.75, 0.999
SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "ema_decay": DECAY}

View = Callable[[Image.Image], Tensor]


def file_of(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Pictures(1, 256)[0]["image"].resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def usual(side: int, *, strong: bool) -> View:
    small = side <= 32
    geometry: list[Any] = [v2.RandomCrop(side, padding=4, padding_mode="reflect")] if small else []
    steps = [*(geometry or [v2.RandomResizedCrop(side, antialias=True)]), v2.RandomHorizontalFlip()]
    steps += [v2.RandAugment(2, 9)] if strong else []
    steps += TENSOR
    steps += [v2.RandomErasing(p=1.0, scale=(0.02, 0.15), ratio=(1.0, 1.0))] if strong else []
    compose: View = v2.Compose(steps)
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


def samples(args: argparse.Namespace) -> list[Row]:
    rows = []
    for size, side, count in (((32, 32), 32, 400), ((500, 375), 224, 60), ((4000, 3000), 224, 5)):
        for strong in (False, True):
            few, rounds = (2, 1) if args.quick else (count, 7)
            rows.append(sample(size, side, strong=strong, count=few, rounds=rounds, cpu_time=args.cpu_time))
    return rows


def pair_of(network: str) -> ModelPair:
    """Two networks of a kind for 32 px. The toy stands in for WRN-28-2 in the tests."""
    torch.manual_seed(0)
    made: list[Any]
    if network == "vit_tiny_patch2_32":
        vit = ViTConfig(
            image_size=SIDE,
            patch_size=2,
            hidden_size=192,
            num_hidden_layers=12,
            num_attention_heads=3,
            intermediate_size=768,
            num_labels=CLASSES,
        )
        made = [ViTForImageClassification(vit) for _ in MEMBERS]
    else:
        shape = {"depth": 10, "widen_factor": 1} if network == "toy" else {}
        wide = WideResNetConfig(num_labels=CLASSES, **shape)  # type: ignore[arg-type]
        made = [WideResNetForImageClassification(wide) for _ in MEMBERS]
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD)
    return ModelPair(made[0], made[1], processor, processor, image_size=SIDE)


class Labeled(Dataset[dict[str, Any]]):
    """Images in memory with labels, and with confidences of 1 or those of pseudo labels."""

    def __init__(self, items: Sequence[dict[str, Any]], view: View, *, pseudo: bool = False) -> None:
        self.items, self.view, self.pseudo = items, view, pseudo

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict[str, Any]:
        confidence = (row % 8 + 1) / 8 if self.pseudo else 1.0
        image = self.view(self.items[row]["image"])
        return {"image": image, "label": row % CLASSES, "confidence": confidence, "pseudo": self.pseudo}


def official_weights(logits: Tensor, labels: Tensor, confidence: Tensor, pseudo: Tensor) -> Tensor:
    """(N, C) logits -> (N,): the probability of the label to the power of gamma; 0 where the model is more confident
    in another class; 1 for true labels."""
    probabilities = logits.softmax(dim=1)
    own_confidence, own = probabilities.max(dim=1)
    weights = probabilities.gather(1, labels[:, None])[:, 0] ** GAMMA
    weights[(own != labels) & (own_confidence > confidence)] = 0.0
    return torch.where(pseudo, weights, 1.0)


def official_step(
    model: nn.Module, items: Sequence[dict[str, Any]], steps: int, batch: tuple[int, int], *, cpu_time: bool
) -> float:
    """Seconds of one update of one model as the official code makes it: weights from a first forward pass in train
    mode, mixup of images and weights, a second pass, SGD with a cosine schedule, weight average."""
    now = time.process_time if cpu_time else time.perf_counter
    crop = v2.RandomCrop(SIDE, padding=4, fill=128)
    view: View = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.RandAugment(1, 9), *TENSOR])
    batches = zip(
        *(
            DataLoader(data, size, sampler=RandomSampler(data, replacement=True, num_samples=size * steps))
            for data, size in zip((Labeled(items, view), Labeled(items, view, pseudo=True)), batch, strict=True)
        ),
        strict=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = [value.detach().clone() for value in model.parameters()]
    mixing = torch.distributions.Beta(MIXUP, MIXUP)
    model.train()
    ends = []
    for labeled, pseudo in batches:
        images, labels, confidence, is_pseudo = (torch.cat([labeled[key], pseudo[key]]) for key in labeled)
        with torch.no_grad():
            weights = official_weights(model(images).logits, labels, confidence, is_pseudo)
        share = mixing.sample().item()
        share, order = max(share, 1 - share), torch.randperm(len(labels))
        logits = model(share * images + (1 - share) * images[order]).logits
        loss = share * F.cross_entropy(logits, labels, reduction="none")
        loss = loss + (1 - share) * F.cross_entropy(logits, labels[order], reduction="none")
        ((share * weights + (1 - share) * weights[order]) * loss).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            for kept, value in zip(average, model.parameters(), strict=True):
                kept.mul_(DECAY).add_(value, alpha=1 - DECAY)
        ends.append(now())
    return statistics.median(after - before for before, after in pairwise(ends[1:]))


@torch.no_grad()
def official_labels(model: nn.Module, items: Sequence[dict[str, Any]], batch: int, folder: Path) -> list[int]:
    """The rows that one model labels in two passes, at RATIO: one finds the least confidence, one keeps what has it."""

    def confidences() -> Iterator[tuple[Tensor, Tensor]]:
        for part in DataLoader(Labeled(items, v2.Compose(TENSOR)), batch):
            probabilities = model(part["image"]).logits.softmax(dim=1)
            yield probabilities, probabilities.amax(dim=1)

    model.eval()
    least = torch.cat([top for _, top in confidences()]).sort(descending=True).values[round(RATIO * len(items)) - 1]
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    row = 0
    for probabilities, tops in confidences():
        for distribution, top in zip(probabilities, tops, strict=True):
            if top >= least:
                kept[row] = np.asarray(items[row]["image"]), distribution.numpy()
            row += 1
    (folder / "labels.pickle").write_bytes(pickle.dumps(kept))
    return list(kept)


def official(args: argparse.Namespace) -> list[Row]:
    """An update and the labels of an image, against the official procedures."""
    logits, labels, confidence = torch.randn(64, CLASSES), torch.arange(64) % CLASSES, torch.rand(64)
    pseudo = torch.arange(64) % 2 == 0
    theirs = official_weights(logits, labels, confidence, pseudo)
    ours = dynamic_mutual_loss(logits, labels, confidence, pseudo, gamma1=GAMMA, gamma2=GAMMA)
    torch.testing.assert_close(ours.weights, theirs)
    batch, steps, rounds, count = ((2, 6), 4, 1, 16) if args.quick else ((8, 24), 12, 5, 256)
    network = "toy" if args.quick else "wrn_28_2"
    pair, items = pair_of(network), decoded(Pictures(64, SIDE, IMAGES))

    def update() -> float:
        knobs = {"mixup_alpha": MIXUP, "gamma1": GAMMA, "gamma2": GAMMA, "official": True}
        clock = Clock(cpu_time=args.cpu_time)
        return pair_step(pair, items, steps, batch, clock, **SGD, **knobs) / len(MEMBERS)

    jobs: dict[str, Callable[[], Any]] = {
        "ours": update,
        "official": lambda: official_step(pair.member("a"), items, steps, batch, cpu_time=args.cpu_time),
    }
    found = in_turns(jobs, rounds, warm_up=False)
    details = {name: value / sum(batch) for name, value in medians(found).items()}
    rows = [
        Row(
            f"update per trained image, {network}, mixup",
            "the official step",
            ratios(found, "ours", "official"),
            "of its time",
            "<= 1.05",
            details,
        )
    ]
    pictures, accelerator = decoded(Pictures(count, SIDE)), Accelerator(cpu=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = {
            "ours": partial(our_pass, pair, pictures, 64, folder, accelerator, class_balanced=False),
            "official": lambda: [official_labels(pair.member(member), pictures, 64, folder) for member in MEMBERS],
        }
        found = in_turns(jobs, rounds, cpu_time=args.cpu_time)
        kept = official_labels(pair.member("b"), pictures, 64, folder)
        selected = ImageLabels.read(folder / "b").rows
        assert len(np.intersect1d(selected, kept)) >= 0.9 * len(kept), "other images were labeled"
    details = {name: value / count / len(MEMBERS) for name, value in medians(found).items()}
    faster = ratios(found, "ours", "official")
    rows.append(Row(f"labels per image, {network}", "the official two passes", faster, "of its time", "<= 1", details))
    return rows


def against_semilearn(args: argparse.Namespace, network: str) -> list[Row]:
    """An online update against FixMatch in its two modes: all views in one pass, or the weak ones alone."""
    batch, steps, rounds = ((2, 2), 3, 1) if args.quick else ((8, 24), 8, 5) if "wrn" in network else ((4, 4), 5, 5)
    pair, items = pair_of(network), decoded(Pictures(64, SIDE, IMAGES))

    def update() -> float:
        settings = {"strategy": "online", "online_threshold": 0.95, **SGD}
        return pair_step(pair, items, steps, batch, Clock(cpu_time=args.cpu_time), **settings) / len(MEMBERS)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        images = Path(folder) / "images.npy"
        np.save(images, np.stack([np.asarray(item["image"]) for item in items]))
        command = [args.semilearn, str(Path(__file__).with_name("semilearn_fixmatch.py")), f"--images={images}"]
        command += [f"--net={network}", f"--labeled={batch[0]}", f"--unlabeled={batch[1]}", f"--steps={steps}"]
        command += [f"--threads={args.threads}", *(["--cpu_time"] if args.cpu_time else [])]

        def answering(*flags: str) -> Callable[[], float]:
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                [*command, *flags], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            stack.enter_context(process)
            asking, answers = process.stdin, process.stdout
            assert asking is not None
            assert answers is not None

            def one_round() -> float:
                print(file=asking, flush=True)
                line = answers.readline()
                if not line:
                    raise SystemExit(f"semilearn ended without an answer; run it alone to see why: {' '.join(command)}")
                return float(line)

            return one_round

        jobs = {"ours": update, "one pass": answering("--one_pass"), "separate passes": answering()}
        found = in_turns(jobs, rounds)
    times = {name: value / sum(batch) for name, value in medians(found).items()}
    return [
        Row(
            f"online update per trained image, {network}",
            f"FixMatch in semilearn, {mode}",
            ratios(found, "ours", mode),
            "of its time",
            "<= 1.05",
            {name: times[name] for name in ("ours ms", f"{mode} ms")},
        )
        for mode in ("one pass", "separate passes")
    ]


def semilearn(args: argparse.Namespace) -> list[Row]:
    if not args.semilearn:
        print("FixMatch in semilearn is left out: name an environment's Python with --semilearn (see --help).")
        return []
    networks = ["wrn_28_2"] if args.quick else ["wrn_28_2", "vit_tiny_patch2_32"]
    return [row for network in networks for row in against_semilearn(args, network)]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    python = {"metavar": "PYTHON", "help": "that of an environment with semilearn 0.3.2"}
    parts = {"samples": samples, "run": whole_run, "official": official, "semilearn": semilearn}
    return run(__doc__, argv, parts, semilearn=python)


if __name__ == "__main__":
    main()
