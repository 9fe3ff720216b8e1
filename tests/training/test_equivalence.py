"""One phase compared with a plain loop over the official phase, step by step, from the same weights and images.

The loop is written from the official code's behavior and shares nothing with the package but the drawn images: it
normalizes, labels, selects, weights, mixes, schedules and steps on its own. After twenty updates the weights agree to
1e-6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CLASSES, images, make_pair, make_trainer, scenes
from torch import Tensor, nn
from torch.nn import functional as F

from hf_dmt import DMTTrainer, ModelPair
from hf_dmt.data.labels.pseudo_labels import PixelLabels
from hf_dmt.data.seeds import seed_for
from hf_dmt.method import draw_mixup

STEPS, RATE, MOMENTUM, DECAY = 20, 0.005, 0.9, 5e-4
TEACHER = {"a": "b", "b": "a"}

# What the official scripts have in common: SGD on everything, no clipping, one phase from given weights.
OFFICIAL: dict[str, Any] = {
    "supervised_epochs": 0,
    "phase_epochs": 1000,
    "max_steps": STEPS,
    "optim": "sgd",
    "optim_args": f"momentum={MOMENTUM}",
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "official": True,
    "max_grad_norm": 0.0,
}


class PlainSGD:
    """Momentum and weight decay on every parameter; the rate is given at each step."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.momentum: list[Tensor | None] = [None] * len(self.parameters)

    @torch.no_grad()
    def step(self, loss: Tensor, rate: float) -> None:
        gradients = torch.autograd.grad(loss, self.parameters)
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            gradient = gradient + DECAY * parameter
            before = self.momentum[index]
            self.momentum[index] = gradient if before is None else MOMENTUM * before + gradient
            parameter -= rate * self.momentum[index]


def normalized(pair: ModelPair, name: str, views: Tensor) -> Tensor:
    """Views in [0, 1] as the member's image processor would have them."""
    processor = pair.processor(name)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return (views - mean) / std


def in_0_1(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def poly(step: int) -> float:
    return RATE * (1 - step / STEPS) ** 0.9


def cosine(step: int) -> float:
    return RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))


def weights_of(p: Tensor, labels: Tensor, confidence: Tensor, gamma: float) -> Tensor:
    """Dynamic weights from probabilities (n, C), a label and a confidence each: one case after the other."""
    q = p[torch.arange(len(p)), labels]
    found, top = p.max(dim=1)
    weights = torch.ones_like(q)
    weights[top == labels] = q[top == labels] ** gamma
    weaker = (top != labels) & (found <= confidence)
    weights[weaker] = q[weaker] ** gamma
    weights[(top != labels) & (found > confidence)] = 0
    return weights


def batches(trainer: DMTTrainer, name: str) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """The draws and the stacked samples of one member, update by update, as the trainer had them."""
    for draws in trainer.sampler:
        samples = [trainer.train_dataset[pair][name] for pair in draws]
        yield (
            [pair["ab".index(name)] for pair in draws],
            {key: torch.stack([torch.as_tensor(sample[key]) for sample in samples]) for key in samples[0]},
        )


def assert_close(trained: nn.Module, plain: nn.Module) -> None:
    """Weights to 1e-6; BatchNorm's running variances, which are larger, to 5e-6 of their value."""
    assert trained.state_dict().keys() == plain.state_dict().keys()
    for key, theirs in plain.state_dict().items():
        difference = (trained.state_dict()[key].double() - theirs.double()).abs()
        if "running_" in key:
            difference = difference / theirs.double().abs().clamp(min=1) / 5
        assert difference.max() <= 1e-6, f"{key} differs by {difference.max():.2g}"


@pytest.mark.parametrize("members", [("vit", "resnet"), pytest.param(("resnet", "vit"), marks=pytest.mark.slow)])
def test_classification_with_mixup(tmp_path: Path, members: tuple[str, str]) -> None:
    """Guards against any difference from the official classification phase: the threshold by index, the ramp and its
    first step, weights from a separate pass that updates BatchNorm, one mixup of all samples, mixed weights, division
    by the batch size, and EMA."""
    gamma, ratio, alpha = 2.0, 0.6, 0.75
    labeled, unlabeled = images(12), images(40, seed=1)
    pair = make_pair(*members)
    before = copy.deepcopy(pair)
    trainer = make_trainer(
        tmp_path,
        pair,
        labeled=labeled,
        unlabeled=unlabeled,
        **OFFICIAL
        | {"label_ratios": [ratio], "labeled_batch_size": 4, "pseudo_batch_size": 8, "gamma1": gamma, "gamma2": gamma},
        gamma_schedule="ramp",
        mixup_alpha=alpha,
        lr_scheduler_type="cosine",
        ema_decay=0.999,
    )
    trainer.train()
    cases = set()
    for number, name in enumerate("ab"):
        teacher = before.member(TEACHER[name]).eval()
        with torch.no_grad():
            pixels = torch.stack([in_0_1(item["image"]) for item in unlabeled])
            p = teacher(normalized(before, TEACHER[name], pixels)).logits.softmax(dim=1)
        stored_confidence, stored_label = p.max(dim=1)
        threshold = sorted(stored_confidence.tolist())[int(-ratio * len(unlabeled) + 1)]
        kept = {row for row, value in enumerate(stored_confidence.tolist()) if value > threshold}
        assert len(kept) == ratio * len(unlabeled) - 2

        model = copy.deepcopy(before).member(name).train()
        average = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = PlainSGD(model)
        for step, (draws, batch) in enumerate(batches(trainer, name)):
            pseudo = torch.tensor([draw.is_pseudo for draw in draws])
            rows = [draw.row for draw in draws]
            assert {row for row, draw in zip(rows, draws, strict=True) if draw.is_pseudo} <= kept
            labels = torch.where(
                pseudo,
                torch.tensor([int(stored_label[row]) if flag else 0 for row, flag in zip(rows, pseudo, strict=True)]),
                torch.tensor([0 if flag else labeled[row]["label"] for row, flag in zip(rows, pseudo, strict=True)]),
            )
            confidence = torch.tensor(
                [float(stored_confidence[row]) if flag else 1.0 for row, flag in zip(rows, pseudo, strict=True)]
            )
            x = normalized(before, name, batch["pixel_values"])
            with torch.no_grad():
                p = model(x).logits.softmax(dim=1)
            ramp = 1.0 if step == 0 else math.exp(-5 * (1 - (step + 1) / STEPS) ** 2)
            weights = torch.where(pseudo, weights_of(p, labels, confidence, gamma * ramp), 1.0)
            cases |= set((weights == 0).tolist())
            generator = torch.Generator().manual_seed(seed_for(trainer.args.seed, 1, step, 0, 0, number))
            lam, order = draw_mixup(len(x), alpha, generator=generator)
            assert lam >= 0.5
            views = batch["pixel_values"]
            logits = model(normalized(before, name, lam * views + (1 - lam) * views[order])).logits
            losses = lam * F.cross_entropy(logits, labels, reduction="none")
            losses = losses + (1 - lam) * F.cross_entropy(logits, labels[order], reduction="none")
            loss = ((lam * weights + (1 - lam) * weights[order]) * losses).sum() / len(x)
            optimizer.step(loss, cosine(step))
            for shadow, parameter in zip(average, model.parameters(), strict=True):
                shadow -= 0.999 * (shadow - parameter.detach())
        assert_close(trainer.model.member(name), model)
        for key, shadow in zip(dict(model.named_parameters()), average, strict=True):
            assert (trainer.weights.ema.state[f"model_{name}.{key}"] - shadow).abs().max() <= 1e-6
    assert cases == {True, False}, "the run must meet positive disagreements, or the gate is not tested"


# The losses of the ablations are compared with official results in tests/method/test_golden.py.
@pytest.mark.parametrize(
    "method", ["dmt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flip", "naive", "mutual"))]
)
def test_segmentation(tmp_path: Path, method: str) -> None:
    """Guards against any difference from the official segmentation phase and its ablations: per-class selection, the
    weights of each case, the poly schedule, and the loss summed over the valid pixels of labeled and pseudo-labeled
    crops together and divided by their number."""
    gamma, ratio = (0.0 if method == "mutual" else 1.0), 0.6
    labeled, unlabeled = scenes(12), scenes(16, seed=1)
    pair = make_pair("segformer", "segformer")
    for name in "ab":
        taught(pair, name, labeled)
    before = copy.deepcopy(pair)
    trainer = make_trainer(
        tmp_path,
        pair,
        labeled=labeled,
        unlabeled=unlabeled,
        **OFFICIAL
        | {"label_ratios": [ratio], "labeled_batch_size": 1, "pseudo_batch_size": 7, "gamma1": gamma, "gamma2": gamma},
        method=method,
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0},
        augmentation="scale-crop-flip",
    )
    trainer.train()
    positive = 0
    for name in "ab":
        check_store(before, trainer.train_dataset.pseudo[name], TEACHER[name], unlabeled, ratio)
        model = copy.deepcopy(before).member(name).train()
        optimizer = PlainSGD(model)
        for step, (_, batch) in enumerate(batches(trainer, name)):
            logits = model(normalized(before, name, batch["pixel_values"])).logits
            logits = F.interpolate(logits, batch["labels"].shape[-2:], mode="bilinear", align_corners=False)
            valid = batch["labels"] != -100
            pixels = logits.permute(0, 2, 3, 1)[valid]
            labels, confidence = batch["labels"][valid], batch["confidence"][valid]
            pseudo = batch["is_pseudo"][:, None, None].expand_as(valid)[valid]
            p = pixels.detach().softmax(dim=1)
            found, top = p.max(dim=1)
            sure = pseudo & (top != labels) & (found > confidence)
            positive += int(sure.sum())
            weights = weights_of(p, labels, confidence, gamma)
            if method in ("naive", "mutual"):
                weights = p[torch.arange(len(p)), labels] ** gamma
            if method == "flip":
                weights = torch.where(sure, (1 - confidence) ** gamma, weights)
                labels = torch.where(sure, top, labels)
            weights = torch.where(pseudo, weights, 1.0)
            loss = (weights * F.cross_entropy(pixels, labels, reduction="none")).sum() / valid.sum()
            optimizer.step(loss, poly(step))
        assert_close(trainer.model.member(name), model)
    assert positive > 100, "the run must meet positive disagreements, or what becomes of them is not tested"


def taught(pair: ModelPair, name: str, labeled: Any) -> None:
    """Trains a model a few steps on labels: an untrained one is equally unsure of every pixel, and ties select nothing.
    Each model learns other classes wrongly, so that they disagree."""
    model = pair.member(name).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    pixels = normalized(pair, name, torch.stack([in_0_1(item["image"]) for item in labeled]))
    labels = torch.stack([torch.from_numpy(item["mask"]) for item in labeled])
    swapped = (labels == "ab".index(name)) & (torch.arange(len(labels)) % 3 > 0)[:, None, None]
    labels = torch.where(swapped, 2, labels)
    for _ in range(25):
        logits = F.interpolate(model(pixels).logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels, ignore_index=-100).backward()
        optimizer.step()
    optimizer.zero_grad()


def check_store(pair: ModelPair, store: PixelLabels, teacher: str, unlabeled: Any, ratio: float) -> None:
    """What was stored is what the teacher says of the clean images; per class the most confident part was selected."""
    model = pair.member(teacher).eval()
    labels, confidences, kept = [], [], []
    for row, item in enumerate(unlabeled):
        pixels = in_0_1(item["image"])[None]
        with torch.no_grad():
            logits = model(normalized(pair, teacher, pixels)).logits
        p = F.interpolate(logits, pixels.shape[-2:], mode="bilinear", align_corners=False).softmax(dim=1)
        confidence, label = (part[0].numpy() for part in p.max(dim=1))
        stored_label, stored_confidence = store.selected(row)
        chosen = stored_label != -100
        assert (stored_label[chosen] == label[chosen]).all()
        assert np.abs(stored_confidence - confidence).max() < 1 / 512
        labels.append(label), confidences.append(confidence), kept.append(chosen)
    label, confidence, chosen = (np.stack(parts) for parts in (labels, confidences, kept))
    for number in range(CLASSES):
        values, selected = confidence[label == number], chosen[label == number]
        if not len(values):
            continue
        wanted, step = max(1, round(ratio * len(values))), 1 / 512  # confidences are stored in steps of at most that
        assert wanted <= selected.sum() and (values > values[selected].min() + step).sum() < wanted
        assert selected.all() or values[selected].min() >= values[~selected].max() - step
