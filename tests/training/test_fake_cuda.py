"""What a step does on a GPU, without one: fake tensors that know their device and have no values.

A tensor on the wrong device raises, and so does reading a value (`.item()`, `if tensor:`), which on a GPU waits for all
earlier work. Backward needs a device and is not tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from small_runs import CLASSES, IMAGES, PIXELS, make_pair
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hf_dmt.data.members import MEMBERS
from hf_dmt.method import confidence_histogram, encode_confidence, pseudo_label
from hf_dmt.models.pair import ModelPair
from hf_dmt.models.weights.ema import ExponentialAverage
from hf_dmt.training import step
from hf_dmt.training.labeling.label_quality import student_scores
from hf_dmt.training.labeling.online import label_online
from hf_dmt.training.optimizer import clip_by_member
from hf_dmt.training.run.telemetry import Telemetry
from hf_dmt.training.scoring.member_scores import MemberScores
from hf_dmt.training.settings.methods import Knobs

CUDA = torch.device("cuda:0")
KINDS = {IMAGES: ("vit", "resnet"), PIXELS: ("segformer", "segformer")}


class Autocast:
    """The part of an accelerator that labeling uses."""

    @staticmethod
    def autocast() -> Any:
        return torch.autocast("cuda", dtype=torch.bfloat16)


@pytest.fixture(params=[IMAGES, PIXELS])
def pair(request: pytest.FixtureRequest) -> Iterator[ModelPair]:
    """A pair on a GPU that does not exist; the test runs inside the fake mode."""
    made = make_pair(*KINDS[request.param])
    with FakeTensorMode():
        for module in made.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(on_cuda(value))
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = on_cuda(value)
        yield made.train()


def on_cuda(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device=CUDA)


def batch(pair: ModelPair, *, weak: bool = False) -> dict[str, dict[str, Tensor]]:
    """What the loader puts on the device, for both members."""
    units = (4,) if pair.task == IMAGES else (4, 16, 16)

    def of_member() -> dict[str, Tensor]:
        pixels = torch.rand(4, 3, 16, 16, device=CUDA)
        return {
            "pixel_values": pixels,
            "labels": torch.zeros(units, dtype=torch.int64, device=CUDA),
            "confidence": torch.rand(units, device=CUDA),
            "is_pseudo": torch.ones(4, dtype=torch.bool, device=CUDA),
            **({"weak": pixels} if weak else {}),
        }

    return {name: of_member() for name in MEMBERS}


SETTINGS: list[dict[str, Any]] = [
    {},
    {"positive_disagree": "flip"},
    {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"},
    {"gamma_schedule": "ramp"},
    {"mixup_alpha": 0.75},
    {"mixup_alpha": 0.75, "official": True},
]


def test_a_step_stays_on_the_device(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a step that waits for the device several times, or computes part of the loss on the CPU."""
    # The mixup ratio and order are drawn on the CPU and copied to the device once.
    monkeypatch.setattr(step, "draw_mixup", lambda n, alpha, generator: (0.7, torch.arange(n)))
    for amp, settings in [*product([False], SETTINGS), (True, SETTINGS[0]), (True, SETTINGS[-1])]:
        knobs, inputs, telemetry = Knobs(**settings), batch(pair), Telemetry(CUDA)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=amp):
            steps, logits = step.member_steps(
                pair,
                inputs,
                knobs,
                ramp=step.exponent_ramp(knobs, 3, 10),
                pseudo_weight=step.pseudo_weight(knobs, 3, 10),
                mixup_seeds=(1, 2),
            )
            loss = step.total_loss(steps, logits, torch.ones(2, dtype=torch.int64, device=CUDA), 2)
        for number, name in enumerate(MEMBERS):
            telemetry.add(number, steps[name].cases, inputs[name]["is_pseudo"])
        assert loss.device == telemetry._sums.device == CUDA and loss.dtype == torch.float32 and loss.shape == ()
        assert loss.requires_grad


def test_after_the_gradients_nothing_waits(pair: ModelPair) -> None:
    """Guards against gradient clipping and averaging that read a norm from the device for every parameter."""
    for parameter in pair.parameters():
        parameter.grad = torch.empty_like(parameter)
    norms = clip_by_member(pair, MEMBERS, 1.0)
    average = ExponentialAverage(pair, 0.9)
    average.update()
    assert all(norm.device == CUDA for norm in norms.values())
    assert all(value.device == CUDA for value in average.state.values())


def test_labels_are_made_and_judged_on_the_device(pair: ModelPair) -> None:
    """Guards against copying full-size logits to the CPU where labels and confidence codes are enough."""
    side = 8 if pair.task == IMAGES else 16
    pixels = torch.rand(4, 3, side, side, device=CUDA)
    with torch.no_grad(), Autocast.autocast():
        logits = {name: pair.clean_logits(name, pixels, (side, side)).float() for name in MEMBERS}
    for name in MEMBERS:
        labels, confidence, doubt = pseudo_label(logits[name])
        weight, agree = student_scores(logits, name, labels, confidence, Knobs())
        codes = encode_confidence(doubt=doubt)
        found = (labels, confidence, doubt, weight, agree, codes)
        assert all(value.device == CUDA and value.shape == labels.shape for value in found)
        counts = confidence_histogram(codes, labels, CLASSES)
        assert counts.shape == (CLASSES, 1 << 16)


@torch.no_grad()
def test_labels_at_every_step_stay_on_the_device(pair: ModelPair) -> None:
    """Guards against online training that waits for the teacher's labels."""
    accelerator: Any = Autocast()
    found = label_online(pair, batch(pair, weak=True), Knobs(strategy="online", online_threshold=0.5), accelerator)
    assert all(value.device == CUDA for sample in found.values() for value in sample.values())
    assert pair.training and "weak" not in found["a"]


def test_scores_are_counted_on_the_device(pair: ModelPair) -> None:
    """Guards against an evaluation that copies every mask and all logits from the device."""
    units = (4,) if pair.task == IMAGES else (4, 16, 16)
    scores = MemberScores(CLASSES, pair.task, pair.class_names, device=CUDA)
    logits = {name: torch.rand(4, CLASSES, *units[1:], device=CUDA) for name in MEMBERS}
    scores.update(logits, torch.zeros(units, dtype=torch.int64, device=CUDA))
    assert all(matrix._counts.device == CUDA for matrix in scores._matrices.values())
    assert scores._loss_sums.device == CUDA


def test_the_fake_device_does_refuse() -> None:
    """The fake device must raise on mixed devices and on reading a value; otherwise the tests above could not fail."""
    with FakeTensorMode():
        there, here = torch.ones(2, device=CUDA), torch.ones(2)
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            there + here
