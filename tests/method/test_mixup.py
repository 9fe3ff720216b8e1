"""Mixup of weighted labels; the official numbers are in test_golden.py."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hf_dmt.method import draw_mixup, mix, mixup_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_are_a_function_of_the_generator() -> None:
    """Guards against draws from a global generator, which would differ between a resumed run and the one it
    continues."""
    lam, permutation = draw_mixup(16, 0.75, generator=generator(3))
    torch.manual_seed(99)
    again, same = draw_mixup(16, 0.75, generator=generator(3))
    assert lam == again and torch.equal(permutation, same)
    assert sorted(permutation.tolist()) == list(range(16))
    g = generator(3)
    assert draw_mixup(16, 0.75, generator=g)[0] != draw_mixup(16, 0.75, generator=g)[0]


@pytest.mark.parametrize("alpha", [0.2, 0.75, 4.0])
def test_ratios_are_beta_distributed(alpha: float) -> None:
    """The ratio must have mean 1/2 and variance 1 / (8 alpha + 4); `keep_max` must fold it into the upper half."""
    g = generator()
    draws = torch.tensor([draw_mixup(1, alpha, generator=g, keep_max=False)[0] for _ in range(4000)])
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.var().item() == pytest.approx(1 / (8 * alpha + 4), rel=0.1)
    assert min(draw_mixup(1, alpha, generator=g)[0] for _ in range(200)) >= 0.5


def test_mix_keeps_dtype_and_shape() -> None:
    x = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 3).to(torch.bfloat16)
    mixed = mix(x, 0.75, torch.tensor([1, 0, 3, 2]))
    assert mixed.dtype == torch.bfloat16 and mixed.shape == x.shape
    assert mixed[:, 0, 0].tolist() == [0.25, 0.75, 2.25, 2.75]
    assert mix(x, torch.tensor(0.75), torch.tensor([1, 0, 3, 2])).dtype == torch.bfloat16


def test_rejected_labels_pull_only_when_weights_are_mixed() -> None:
    """With weights (0, 1) and lam 0.7, the official form ("mixed") still trains row 0 on its rejected class; "per_term"
    must not."""
    labels, weights, permutation = torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), torch.tensor([1, 0])
    gradients = {}
    for weighting in ("mixed", "per_term"):
        logits = torch.zeros(2, 2, requires_grad=True)
        mixup_loss(logits, labels, weights, 0.7, permutation, weighting=weighting).backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        gradients[weighting] = logits.grad[0, 0].item()
    assert gradients["mixed"] < 0 < gradients["per_term"]


@pytest.mark.parametrize("size", [(), (3, 2)])
@pytest.mark.parametrize("weighting", ["mixed", "per_term"])
def test_matches_autograd(weighting: Any, size: tuple[int, ...]) -> None:
    g = generator()
    logits = torch.randn(6, 4, *size, generator=g).requires_grad_()
    labels = torch.randint(4, (6, *size), generator=g)
    weights = torch.rand(labels.shape, generator=g)
    lam, permutation = draw_mixup(6, 0.75, generator=g)
    loss = mixup_loss(logits, labels, weights, lam, permutation, weighting=weighting)
    (ours,) = torch.autograd.grad(loss, logits)

    own = F.cross_entropy(logits, labels, reduction="none")
    other = F.cross_entropy(logits, labels[permutation], reduction="none")
    if weighting == "mixed":
        expected = mix(weights, lam, permutation) * (lam * own + (1 - lam) * other)
    else:
        expected = lam * weights * own + (1 - lam) * weights[permutation] * other
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(ours, torch.autograd.grad(expected.mean(), logits)[0])


def test_ratio_one_is_the_plain_weighted_loss() -> None:
    logits, labels, weights = (
        torch.randn(5, 3, generator=generator()),
        torch.tensor([0, 1, 2, 1, 0]),
        torch.rand(5),
    )
    expected = (weights * F.cross_entropy(logits, labels, reduction="none")).mean()
    for weighting in ("mixed", "per_term"):
        loss = mixup_loss(logits, labels, weights, 1.0, torch.tensor([1, 0, 3, 4, 2]), weighting=weighting)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, expected)


def test_ignored_labels_add_no_term() -> None:
    """Row 0 has no label, so only the label of row 1 may count: in its own row and in the mixture of row 0."""
    logits = torch.randn(2, 3, generator=generator()).requires_grad_()
    labels, weights, permutation = torch.tensor([-100, 1]), torch.tensor([0.0, 1.0]), torch.tensor([1, 0])
    loss = mixup_loss(logits, labels, weights, 0.7, permutation, weighting="per_term")
    expected = 0.3 * F.cross_entropy(logits[:1], labels[1:]) + 0.7 * F.cross_entropy(logits[1:], labels[1:])
    torch.testing.assert_close(loss, expected)
    nothing = mixup_loss(logits, torch.tensor([-100, -100]), weights, 0.7, permutation)
    assert nothing.item() == 0 and torch.autograd.grad(nothing, logits)[0].abs().max() == 0


def test_never_waits_for_the_device() -> None:
    """Guards against waiting for the device: meta tensors have no values, so reading one raises."""
    logits = torch.zeros(4, 3, device="meta", requires_grad=True)
    labels, weights = torch.zeros(4, dtype=torch.int64, device="meta"), torch.ones(4, device="meta")
    mixup_loss(logits, labels, weights, 0.7, torch.zeros(4, dtype=torch.int64, device="meta")).backward()


def test_refuses_wrong_arguments() -> None:
    logits, labels, permutation = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([1, 0])
    with pytest.raises(ValueError, match=r"weights has shape \(2, 1\)"):
        mixup_loss(logits, labels, torch.ones(2, 1), 0.7, permutation)
    with pytest.raises(ValueError, match=r"permutation must be \(2,\)"):
        mixup_loss(logits, labels, torch.ones(2), 0.7, torch.tensor([0]))
    with pytest.raises(ValueError, match="'mixed' or 'per_term', got 'both'"):
        mixup_loss(logits, labels, torch.ones(2), 0.7, permutation, weighting="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label 3 is outside"):
        mixup_loss(logits, torch.tensor([0, 3]), torch.ones(2), 0.7, permutation)
    with pytest.raises(ValueError, match="alpha of mixup must be above 0"):
        draw_mixup(2, 0.0, generator=generator())
