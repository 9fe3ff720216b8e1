"""The dynamic mutual loss, compared with closed forms and a naive reference, and under changes that must not affect
it."""

import math
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_dmt.method import dynamic_mutual_loss, dynamic_weights

Rule = Literal["drop", "keep", "flip"]
RULES: list[Rule] = ["drop", "keep", "flip"]


def batch(
    n: int = 4, num_classes: int = 5, size: tuple[int, ...] = (3, 6), seed: int = 0, scale: float = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random units (images or pixels) with every case in them; about a tenth is ignored, the last sample is labeled."""
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, num_classes, *size, generator=g) * scale).requires_grad_()
    labels = torch.randint(num_classes, (n, *size), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.1] = -100
    confidence = torch.rand(labels.shape, generator=g) * 0.8 + 0.2
    return logits, labels, confidence, torch.arange(n) < n - 1


def naive(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    is_pseudo: Tensor,
    gamma1: float,
    gamma2: float,
    rule: Rule,
) -> tuple[Tensor, Tensor]:
    """The method's table applied unit by unit, in float64 and with autograd's own cross-entropy."""
    z = logits.double().movedim(1, -1).reshape(-1, logits.shape[1])
    p = z.detach().softmax(1)
    pseudo = is_pseudo.view(-1, *[1] * (labels.dim() - 1)).expand(labels.shape).flatten().tolist()
    targets, weights = labels.flatten().clone(), torch.zeros(labels.numel(), dtype=torch.float64)
    for i, (y, c) in enumerate(zip(labels.flatten().tolist(), confidence.flatten().tolist(), strict=True)):
        if y == -100:
            continue
        own = int(p[i].argmax())
        if not pseudo[i]:
            weights[i] = 1.0
        elif own == y:
            weights[i] = p[i, y] ** gamma1
        elif p[i, own] <= c or rule == "keep":
            weights[i] = p[i, y] ** gamma2
        elif rule == "flip":
            weights[i], targets[i] = (1 - c) ** gamma2, own
    valid = targets != -100
    loss = (weights * F.cross_entropy(z, targets, reduction="none")).sum() / max(1, int(valid.sum()))
    return loss, weights.view(labels.shape)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(), (7,), (3, 6)])
@pytest.mark.parametrize(("gamma1", "gamma2"), [(5.0, 5.0), (0.5, 2.0), (0.0, 0.0), (0.0, 3.0)])
def test_matches_the_unit_by_unit_reference(rule: Rule, size: tuple[int, ...], gamma1: float, gamma2: float) -> None:
    """Loss, weights and the hand-written gradient must match the reference, by one rule for images, sequences and
    pixels."""
    logits, labels, confidence, is_pseudo = batch(n=6, size=size)
    out = dynamic_mutual_loss(
        logits, labels, confidence, is_pseudo, gamma1=gamma1, gamma2=gamma2, positive_disagree=rule
    )
    (ours,) = torch.autograd.grad(out.loss, logits)
    expected, weights = naive(logits, labels, confidence, is_pseudo, gamma1, gamma2, rule)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(out.weights.double(), weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(1, 12),
    gammas=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    rule=st.sampled_from(RULES),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_cases_partition_the_pseudo_units(
    seed: int, num_classes: int, gammas: tuple[float, float], rule: Rule, scale: float
) -> None:
    """Guards against a unit that is counted twice or never: every figure of the telemetry would still look
    plausible."""
    logits, labels, confidence, is_pseudo = batch(3, num_classes, (4, 2), seed, scale)
    out = dynamic_mutual_loss(
        logits, labels, confidence, is_pseudo, gamma1=gammas[0], gamma2=gammas[1], positive_disagree=rule
    )
    valid = labels != -100
    assert int(out.valid) == int(valid.sum())
    assert int(out.agree + out.negative_disagree + out.positive_disagree) == int(valid[:-1].sum())
    assert 0 <= float(out.mean_weight) <= 1 + 1e-6
    assert 0 <= out.loss.item() <= float(out.unweighted_loss) * (1 + 1e-5) + 1e-6
    weights = dynamic_weights(
        logits[:-1], labels[:-1], confidence[:-1], gamma1=gammas[0], gamma2=gammas[1], positive_disagree=rule
    )
    assert torch.equal(weights, out.weights[:-1])


def test_closed_form() -> None:
    """Two classes with p = (3/4, 1/4), computed by hand: agreement, negative and positive disagreement, and a labeled
    sample."""
    logits = torch.tensor([[math.log(3.0), 0.0]] * 4, requires_grad=True)
    labels, confidence = torch.tensor([0, 1, 1, 1]), torch.tensor([0.9, 0.8, 0.6, 0.0])
    out = dynamic_mutual_loss(
        logits, labels, confidence, torch.tensor([True, True, True, False]), gamma1=2.0, gamma2=1.0
    )
    torch.testing.assert_close(out.weights, torch.tensor([9 / 16, 1 / 4, 0.0, 1.0]))
    agree, disagree = -math.log(3 / 4), -math.log(1 / 4)
    assert out.loss.item() == pytest.approx((9 / 16 * agree + 1 / 4 * disagree + disagree) / 4)
    assert out.unweighted_loss.item() == pytest.approx((agree + 3 * disagree) / 4)
    assert out.mean_weight.item() == pytest.approx((9 / 16 + 1 / 4 + 1) / 4)
    assert [int(x) for x in (out.agree, out.negative_disagree, out.positive_disagree, out.valid)] == [
        1,
        1,
        1,
        4,
    ]


def test_flip_trains_the_own_argmax() -> None:
    """Guards against training a flipped unit on its old target: the gradient would have the opposite sign."""
    logits = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    out = dynamic_mutual_loss(
        logits,
        torch.tensor([1]),
        torch.tensor([0.3]),
        torch.tensor([True]),
        gamma1=5.0,
        gamma2=2.0,
        positive_disagree="flip",
    )
    out.loss.backward()
    assert out.targets.tolist() == [0]
    assert out.weights.item() == pytest.approx(0.7**2)
    assert logits.grad is not None and logits.grad[0, 0] < 0 < logits.grad[0, 1]


def test_zero_probability_to_the_power_zero_is_one() -> None:
    """Guards against computing 0 ** 0 as exp(0 * -inf): the weight, and then the loss, would be NaN."""
    logits = torch.tensor([[500.0, 0.0], [float("-inf"), 0.0]], requires_grad=True)
    labels, confidence = torch.tensor([1, 0]), torch.ones(2)
    for gamma in (0.0, torch.tensor(0.0)):
        assert dynamic_weights(logits, labels, confidence, gamma1=gamma, gamma2=gamma).tolist() == [1.0, 1.0]
    assert dynamic_weights(logits, labels, confidence, gamma1=5.0, gamma2=5.0).tolist() == [0.0, 0.0]


def test_an_impossible_label_of_weight_zero_costs_nothing() -> None:
    """Guards against NaN for the whole batch when a class is masked with -inf: weight 0 times an infinite
    cross-entropy."""
    logits = torch.tensor([[float("-inf"), 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    labels, confidence = torch.tensor([0, 0]), torch.tensor([0.9, 0.9])
    out = dynamic_mutual_loss(logits, labels, confidence, torch.ones(2).bool(), gamma1=5.0, gamma2=5.0)
    out.loss.backward()
    assert out.weights[0] == 0 and out.loss.isfinite() and out.loss > 0
    assert logits.grad is not None and logits.grad[0].tolist() == [0.0, 0.0, 0.0] and logits.grad[1, 0] < 0


def test_all_ignored_is_zero_with_zero_gradient() -> None:
    """Guards against 0/0 when everything is ignored, which makes the whole model NaN in one step, and against a
    detached 0, which breaks DDP's reduction."""
    logits, labels, confidence, is_pseudo = batch()
    out = dynamic_mutual_loss(logits, torch.full_like(labels, -100), confidence, is_pseudo, gamma1=5.0, gamma2=5.0)
    out.loss.backward()
    assert out.loss.item() == out.unweighted_loss.item() == out.mean_weight.item() == out.valid.item() == 0
    assert logits.grad is not None and logits.grad.abs().max() == 0


def test_ignored_units_do_not_matter() -> None:
    """Whatever is stored under an ignored label must not matter, even a confidence of 255 from padding or a masked
    class."""
    logits, labels, confidence, is_pseudo = batch()
    a = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=1.0, gamma2=1.0)
    ignored = labels == -100
    moved = logits.detach().clone()
    moved[:, 0][ignored] = float("-inf")
    b = dynamic_mutual_loss(
        moved.requires_grad_(),
        labels,
        torch.where(ignored, 255.0, confidence),
        is_pseudo,
        gamma1=1.0,
        gamma2=1.0,
    )
    b.loss.backward()
    torch.testing.assert_close(a.loss, b.loss)
    assert moved.grad is not None
    assert moved.grad.isfinite().all() and moved.grad.abs().amax(1)[ignored].max() == 0


def figures(out: Any) -> list[float]:
    names = [
        "loss",
        "unweighted_loss",
        "mean_weight",
        "agree",
        "negative_disagree",
        "positive_disagree",
        "valid",
    ]
    return [getattr(out, name).item() for name in names]


@pytest.mark.parametrize("rule", RULES)
def test_invariances(rule: Rule) -> None:
    """The order of the samples, pixels passed as images, a constant added to the logits, and the memory layout must not
    change the figures."""
    logits, labels, confidence, is_pseudo = batch(n=5, size=(4, 3))
    knobs: dict[str, Any] = {"gamma1": 2.0, "gamma2": 0.7, "positive_disagree": rule}
    expected = pytest.approx(figures(dynamic_mutual_loss(logits, labels, confidence, is_pseudo, **knobs)), rel=1e-5)

    order = torch.tensor([3, 4, 0, 2, 1])
    shuffled = dynamic_mutual_loss(logits[order], labels[order], confidence[order], is_pseudo[order], **knobs)
    assert figures(shuffled) == expected

    flat = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    images = dynamic_mutual_loss(flat, labels.flatten(), confidence.flatten(), is_pseudo.repeat_interleave(12), **knobs)
    assert figures(images) == expected

    shifted = dynamic_mutual_loss(logits + 50.0, labels, confidence, is_pseudo, **knobs)
    assert figures(shifted) == pytest.approx(expected.expected, rel=1e-4)

    channels_last = logits.detach().contiguous(memory_format=torch.channels_last)
    assert figures(dynamic_mutual_loss(channels_last, labels, confidence, is_pseudo, **knobs)) == expected


def test_processes_add_up() -> None:
    """The losses of two shards, each multiplied by its own `valid`, must add up to the loss of the batch, whatever each
    shard ignores."""
    logits, labels, confidence, is_pseudo = batch(n=4)
    labels[0] = -100
    whole = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=1.0, gamma2=1.0)
    shards = [
        dynamic_mutual_loss(logits[s], labels[s], confidence[s], is_pseudo[s], gamma1=1.0, gamma2=1.0)
        for s in (slice(0, 2), slice(2, 4))
    ]
    total = torch.stack([s.loss * s.valid for s in shards]).sum() / whole.valid
    torch.testing.assert_close(total, whole.loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_dtype_is_computed_in_float32(dtype: torch.dtype) -> None:
    """Guards against half-precision sums over pixels, which lose most of a batch; the result must be the same as for
    logits cast to float32."""
    logits, labels, confidence, is_pseudo = batch(size=(16, 16))
    rounded = logits.detach().to(dtype).requires_grad_()
    reference = rounded.detach().float().requires_grad_()
    out = dynamic_mutual_loss(rounded, labels, confidence, is_pseudo, gamma1=5.0, gamma2=1.0)
    expected = dynamic_mutual_loss(reference, labels, confidence, is_pseudo, gamma1=5.0, gamma2=1.0)
    assert figures(out) == figures(expected)
    assert out.loss.dtype == out.mean_weight.dtype == out.weights.dtype == torch.float32
    out.loss.backward()
    expected.loss.backward()
    assert rounded.grad is not None and reference.grad is not None
    assert torch.equal(rounded.grad, reference.grad.to(dtype))


def test_autocast_changes_nothing() -> None:
    """Guards against autocast running an operation in half precision, which would round the log-sum-exp."""
    logits, labels, confidence, is_pseudo = batch()
    outside = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=5.0, gamma2=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=5.0, gamma2=1.0)
    assert figures(inside) == figures(outside)


@pytest.mark.parametrize("rule", RULES)
def test_extreme_logits_stay_finite(rule: Rule) -> None:
    """Guards against logits of +-1e4 overflowing an unshifted exp; a cross-entropy of 2e4 times a weight of 0 must be
    0."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    labels, confidence, is_pseudo = (
        torch.tensor([0, 0, 2]),
        torch.tensor([1.0, 1.0, 0.2]),
        torch.ones(3).bool(),
    )
    for gamma in (0.0, 5.0):
        out = dynamic_mutual_loss(
            logits, labels, confidence, is_pseudo, gamma1=gamma, gamma2=gamma, positive_disagree=rule
        )
        (gradient,) = torch.autograd.grad(out.loss, logits)
        assert gradient.isfinite().all() and all(map(math.isfinite, figures(out)))


def test_nearly_certain_units_keep_their_gradient() -> None:
    """Guards against computing p - 1 in float32: at p = 1 - 1e-9 it is 0 or one rounding step, but the true gradient is
    -1e-9."""
    logits = torch.tensor([[20.7232658, 0.0]], requires_grad=True)
    one, yes = torch.ones(1), torch.ones(1).bool()
    dynamic_mutual_loss(logits, torch.tensor([0]), one, yes, gamma1=0.0, gamma2=0.0).loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-1e-9, 1e-9], rel=1e-5)


def test_backward_can_be_repeated() -> None:
    """Guards against overwriting a saved tensor with the gradient: the second backward pass would be silently wrong."""
    logits, labels, confidence, is_pseudo = batch()
    loss = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=1.0, gamma2=1.0).loss
    once = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    twice = torch.autograd.grad(3.0 * loss, logits)[0]
    torch.testing.assert_close(twice, 3.0 * once)


def test_only_the_loss_carries_gradient() -> None:
    """Guards against weights with a gradient: they would be minimized themselves, so the model would learn to be less
    confident."""
    logits, labels, confidence, is_pseudo = batch()
    confidence.requires_grad_()
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=1.0, gamma2=1.0)
    assert [name for name, value in vars(out).items() if value.requires_grad] == ["loss"]
    assert torch.autograd.grad(out.loss, confidence, allow_unused=True) == (None,)
    assert not dynamic_weights(logits, labels, confidence, gamma1=1.0, gamma2=1.0).requires_grad


@pytest.mark.parametrize("rule", RULES)
def test_never_waits_for_the_device(rule: Rule) -> None:
    """Guards against waiting for the device: meta tensors have no values, so an .item(), a boolean-mask index or an `if
    tensor` raises on them."""
    logits, labels, confidence, is_pseudo = (x.detach().to("meta").requires_grad_(x.requires_grad) for x in batch())
    for gamma in (5.0, torch.tensor(5.0, device="meta")):
        out = dynamic_mutual_loss(
            logits, labels, confidence, is_pseudo, gamma1=gamma, gamma2=gamma, positive_disagree=rule
        )
        (gradient,) = torch.autograd.grad(out.loss, logits)
        assert gradient.shape == logits.shape and out.agree.dtype == torch.int64


def test_compiles_whole_and_once() -> None:
    """The loss must compile without a graph break, with equal figures and gradients, and not be compiled again when the
    exponents ramp."""
    logits, labels, confidence, is_pseudo = batch()

    def step(z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = dynamic_mutual_loss(z, labels, confidence, is_pseudo, gamma1=gamma, gamma2=gamma)
        return out.loss, out.agree, out.weights

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    compiled(logits, torch.tensor(0.1))
    with torch.compiler.set_stance("fail_on_recompile"):
        for gamma in (torch.tensor(1.0), torch.tensor(5.0)):
            ours, expected = compiled(logits, gamma), step(logits, gamma)
            torch.testing.assert_close(ours, expected)
            gradients = [torch.autograd.grad(x[0], logits)[0] for x in (ours, expected)]
            torch.testing.assert_close(*gradients)


WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, r"labels has shape \(4, 1\).*need \(4, 3, 6\)"),
    ({"labels": torch.zeros(4, 1, 6, dtype=torch.int64)}, r"labels has shape .*nothing is broadcast"),
    ({"confidence": torch.ones(4)}, r"confidence has shape \(4,\)"),
    ({"confidence": torch.ones(4, 1, 1)}, r"confidence has shape \(4, 1, 1\)"),
    ({"is_pseudo": torch.tensor(True)}, r"is_pseudo must be bool of shape \(4,\)"),
    ({"is_pseudo": torch.ones(4, 3, 6, dtype=torch.bool)}, r"is_pseudo must be bool of shape \(4,\)"),
    ({"is_pseudo": torch.ones(4)}, r"is_pseudo must be bool.*float32"),
    ({"labels": torch.rand(4, 3, 6)}, "labels must be integers"),
    ({"labels": torch.full((4, 3, 6), 5)}, r"label 5 is outside 0\.\.4 .*ignore_index=-100"),
    ({"labels": torch.full((4, 3, 6), -1)}, r"label -1 is outside 0\.\.4"),
    ({"logits": torch.zeros(4, 5, 3, 6, dtype=torch.int64)}, "logits must be floating"),
    ({"logits": torch.zeros(4)}, r"logits must be floating \(N, C, \*\)"),
    ({"gamma1": -1.0}, "gamma1 must be >= 0, got -1.0"),
    ({"gamma2": float("nan")}, "gamma2 must be >= 0"),
    ({"gamma2": torch.ones(5)}, "gamma2 must be a number or a 0-dim tensor"),
    ({"positive_disagree": "flipp"}, "'drop', 'keep' or 'flip', got 'flipp'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_CALLS)
def test_refuses_what_would_broadcast_or_index_silently(change: dict[str, Any], message: str) -> None:
    """Guards against wrong shapes that broadcast: labels (4, 1) against (4, 3, 6) units would give a plausible loss."""
    logits, labels, confidence, is_pseudo = batch()
    call: dict[str, Any] = {
        "logits": logits,
        "labels": labels,
        "confidence": confidence,
        "is_pseudo": is_pseudo,
    }
    call |= {"gamma1": 5.0, "gamma2": 5.0} | change
    with pytest.raises(ValueError, match=message):
        dynamic_mutual_loss(**call)
