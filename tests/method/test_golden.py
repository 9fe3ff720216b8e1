"""The official code's own numbers: a wrong case, denominator, tie rule or index fails here first."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from torch import Tensor

from hf_dmt.method import (
    MutualLoss,
    class_balanced_thresholds,
    dynamic_mutual_loss,
    dynamic_weights,
    gaussian_ramp,
    mixup_loss,
    pseudo_label,
    select_top_ratio,
)


def close(actual: Tensor | float, expected: Any, rtol: float = 2e-6, atol: float = 2e-7) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=rtol,
        atol=atol,
    )


def first(count: int, total: int) -> Tensor:
    return torch.arange(total) < count


def online_targets(logits: Tensor, labels: Tensor, is_pseudo: Tensor, threshold: float, ignore_index: int) -> Tensor:
    """The model's own current predictions as labels of the pseudo-labeled samples, where it is confident enough."""
    own, confidence, _ = pseudo_label(logits)
    own = torch.where(confidence > threshold, own, ignore_index)
    return torch.where(is_pseudo.view(-1, 1, 1), own, labels)


def settings(name: str, gamma1: float, gamma2: float) -> dict[str, Any]:
    """The official loss class of this name, as three settings of ours."""
    if name.startswith("naive"):
        return {"gamma1": 5.0, "gamma2": 5.0, "positive_disagree": "keep"}
    if name.startswith("online") or gamma1 == gamma2 == 0:
        return {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"}
    return {"gamma1": gamma1, "gamma2": gamma2, "positive_disagree": "flip" if name == "flip" else "drop"}


def check_counts(out: MutualLoss, expected: dict[str, float]) -> None:
    """The official counts are -1 where its rule is switched off."""
    if expected["disagree"] >= 0:
        assert int(out.negative_disagree + out.positive_disagree) == expected["disagree"]
        assert int(out.positive_disagree) == expected["current_win"]


# --- losses of golden.json -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dmt", "flip", "naive_gamma5", "online_threshold0.9"])
@pytest.mark.parametrize("case", [f"pixel_0{i}" for i in range(1, 7)])
def test_pixel_losses(case: str, name: str, golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    facts = golden[case]
    expected = facts["expected"][name]
    logits = golden_tensors[f"{case}.logits"].clone().requires_grad_()
    labels, confidence = golden_tensors[f"{case}.labels"], golden_tensors[f"{case}.confidence"]
    is_pseudo = first(facts["num_pseudo"], len(logits))
    if name.startswith("online"):
        labels = online_targets(logits, labels, is_pseudo, 0.9, facts["ignore_index"])
    knobs = settings(name, facts["gamma_agree"], facts["gamma_disagree"])
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, ignore_index=facts["ignore_index"], **knobs)
    out.loss.backward()

    close(out.loss.detach(), expected["loss"])
    assert logits.grad is not None
    close(logits.grad, golden_tensors[f"{case}.{name}.grad"], rtol=1e-5, atol=1e-8)
    if not name.startswith("online"):
        close(out.mean_weight, expected["avg_weights"])
        close(out.unweighted_loss, expected["unweighted_loss"])
        check_counts(out, expected)


def image_inputs(case: str, golden_tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The official code stores soft labels and uses their argmax and maximum."""
    confidence, labels = golden_tensors[f"{case}.pseudo_probabilities"].max(dim=1)
    return golden_tensors[f"{case}.logits"].clone().requires_grad_(), labels, confidence


@pytest.mark.parametrize("case", ["image_01", "image_02", "image_03"])
def test_image_losses(case: str, golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    facts = golden[case]
    expected = facts["expected"]["dmt"]
    logits, labels, confidence = image_inputs(case, golden_tensors)
    is_pseudo = first(facts["num_pseudo"], len(logits))
    knobs = settings("dmt", facts["gamma_agree"], facts["gamma_disagree"])
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, **knobs)
    out.loss.backward()

    # With both exponents 0, the official code also divides by the number of classes; the plain mean is expected.
    classes = logits.shape[1] if case == "image_03" else 1
    close(out.loss.detach(), expected["loss"] * classes)
    close(out.unweighted_loss, expected["mean_cross_entropy"])
    close(out.mean_weight, expected["avg_weights"])
    assert logits.grad is not None
    close(logits.grad, golden_tensors[f"{case}.dmt.grad"] * classes, rtol=1e-5, atol=1e-8)
    check_counts(out, expected)


@pytest.mark.parametrize("step", ["1", "10", "50", "100"])
@pytest.mark.parametrize("case", ["image_01", "image_02", "image_03"])
def test_image_ramp_and_mixup(case: str, step: str, golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    facts = golden[case]
    expected = facts["ramp_T_max_100"][step]
    logits, labels, confidence = image_inputs(case, golden_tensors)
    is_pseudo = first(facts["num_pseudo"], len(logits))
    ramp = gaussian_ramp(int(step) - 1, 100, official=True)
    gamma1, gamma2 = facts["gamma_agree"] * ramp, facts["gamma_disagree"] * ramp
    close(gamma1, expected["gamma1"])
    close(gamma2, expected["gamma2"])

    prefix = f"{case}.ramp_step{step}"
    first_pass = dynamic_mutual_loss(logits.detach(), labels, confidence, is_pseudo, **settings("dmt", gamma1, gamma2))
    close(first_pass.weights, golden_tensors[f"{prefix}.weights"])
    # These cases feed the same logits to the second pass, as if the model gave them for the mixed images.
    permutation = golden_tensors[f"{prefix}.perm"]
    loss = mixup_loss(logits, labels, first_pass.weights, 0.7, permutation)
    loss.backward()
    close(loss.detach(), expected["mixup_loss_lam0.7"])
    assert logits.grad is not None
    close(logits.grad, golden_tensors[f"{prefix}.mixup.grad"], rtol=1e-5, atol=1e-8)


# --- losses of paper_golden.json: inputs S (pixels) and K (images) ---------------------------------


def pixel_stream() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits = torch.from_numpy((RandomState(0).randn(4, 5, 6, 7) * 2).astype(np.float32)).requires_grad_()
    labels = torch.from_numpy(RandomState(1).randint(0, 5, (4, 6, 7)))
    confidence = torch.from_numpy(RandomState(2).uniform(0.2, 1, (4, 6, 7)).astype(np.float32))
    labels[torch.from_numpy(RandomState(3).rand(4, 6, 7) < 0.1)] = 255
    confidence[3] = 1.0
    return logits, labels, confidence, first(3, 4)


@pytest.mark.parametrize(
    ("case", "name", "gamma1", "gamma2"),
    [
        ("seg_dmt_g5_5", "dmt", 5, 5),
        ("seg_dmt_g3_3", "dmt", 3, 3),
        ("seg_dmt_g5_0", "dmt", 5, 0),
        ("seg_dmt_g0_5", "dmt", 0, 5),
        ("seg_dmt_g0_0", "dmt", 0, 0),
        ("seg_flip_g5_5", "flip", 5, 5),
        ("seg_naive", "naive", 5, 5),
        ("seg_online", "online", 0, 0),
    ],
)
def test_pixel_stream(case: str, name: str, gamma1: float, gamma2: float, paper_golden: dict[str, Any]) -> None:
    """Guards against a wrong gradient behind a correct loss: the norms of the gradient must match the official code,
    too."""
    expected = paper_golden[case]
    logits, labels, confidence, is_pseudo = pixel_stream()
    if name == "online":
        labels = online_targets(logits, labels, is_pseudo, 0.9, 255)
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, ignore_index=255, **settings(name, gamma1, gamma2))
    out.loss.backward()
    close(out.loss.detach(), expected["loss"], atol=1e-7)
    assert logits.grad is not None
    close(logits.grad.norm(), expected["grad_l2"], rtol=0, atol=1e-7)
    close(logits.grad.abs().sum(), expected["grad_abs_sum"], rtol=2e-6, atol=1e-6)
    if name != "online":
        close(out.mean_weight, expected["stats"]["avg_weights"], rtol=0, atol=1e-6)
        close(out.unweighted_loss, expected["stats"]["loss"], rtol=0, atol=1e-6)
        check_counts(out, expected["stats"])


def test_labels_alone_are_the_plain_mean(paper_golden: dict[str, Any]) -> None:
    """Without a pseudo-labeled sample, the loss must be the plain mean, whatever the exponents."""
    logits, labels, confidence, is_pseudo = pixel_stream()
    out = dynamic_mutual_loss(
        logits, labels, confidence, torch.zeros_like(is_pseudo), gamma1=5, gamma2=5, ignore_index=255
    )
    close(out.loss.detach(), paper_golden["seg_dmt_split_none"]["loss"])


def test_tie_goes_to_negative_disagree(paper_golden: dict[str, Any]) -> None:
    """Equal confidence must count as negative disagreement; as positive disagreement, the unit would silently be
    dropped."""
    logits = torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1)
    confidence = logits.softmax(1).max(1).values
    labels, is_pseudo = torch.ones(1, 1, 1, dtype=torch.int64), torch.tensor([True])
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=2.0, gamma2=2.0)
    close(out.loss, paper_golden["seg_tie"]["loss"])
    assert (int(out.negative_disagree), int(out.positive_disagree)) == (1, 0)


def image_stream() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    logits = torch.from_numpy((RandomState(10).randn(10, 6) * 2).astype(np.float32))
    soft = torch.from_numpy((RandomState(11).randn(10, 6) * 2).astype(np.float32)).softmax(1)
    soft[7:] = torch.nn.functional.one_hot(torch.from_numpy(RandomState(12).randint(0, 6, 3)), 6).float()
    mixed = torch.from_numpy((RandomState(13).randn(10, 6) * 2).astype(np.float32)).requires_grad_()
    confidence, labels = soft.max(dim=1)
    return logits, labels, confidence, first(7, 10), mixed, torch.from_numpy(RandomState(14).permutation(10))


@pytest.mark.parametrize("steps_done", [0, 1, 49, 98, 99])
def test_image_stream_mixup(steps_done: int, paper_golden: dict[str, Any]) -> None:
    """The ramp, the weights of the clean pass, and the mixed weight times the mixed loss must match the official code,
    with its gradient."""
    expected = paper_golden[f"cls_mixup_after_{steps_done}_steps"]
    logits, labels, confidence, is_pseudo, mixed, permutation = image_stream()
    assert labels.tolist() == paper_golden["hard"]
    assert permutation.tolist() == paper_golden["perm"]
    gamma = 4.0 * gaussian_ramp(steps_done, 100, official=True)
    close(gamma, expected["gamma"], rtol=0, atol=1e-7)
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, gamma1=gamma, gamma2=gamma)
    close(out.weights, expected["weights"], rtol=0, atol=1e-6)
    close(out.mean_weight, expected["stats"]["avg_weights"], rtol=0, atol=1e-6)
    check_counts(out, expected["stats"])
    weights = dynamic_weights(logits[:7], labels[:7], confidence[:7], gamma1=gamma, gamma2=gamma)
    assert torch.equal(weights, out.weights[:7])

    loss = mixup_loss(mixed, labels, out.weights, 0.7, permutation)
    loss.backward()
    close(loss.detach(), expected["loss"], rtol=1e-6)
    assert mixed.grad is not None
    close(mixed.grad.norm(), expected["grad_l2"], rtol=0, atol=2e-7)
    close(mixup_loss(mixed.detach(), labels, torch.ones(10), 0.7, permutation), expected["true_loss"])


@pytest.mark.parametrize(("case", "gamma"), [("cls_plain_g4", 4.0), ("cls_plain_g0", 0.0)])
def test_image_stream_plain(case: str, gamma: float, paper_golden: dict[str, Any]) -> None:
    """The loss must match the official code; at exponent 0, the official figure is divided by the 6 classes once too
    often."""
    expected = paper_golden[case]
    logits, labels, confidence, is_pseudo, _, _ = image_stream()
    logits.requires_grad_()
    out = dynamic_mutual_loss(logits, labels, confidence, is_pseudo, **settings("dmt", gamma, gamma))
    out.loss.backward()
    factor = 6 if gamma == 0 else 1
    close(out.loss.detach(), expected["loss"] * factor, atol=1e-6)
    close(out.unweighted_loss, expected["true_loss"])
    assert logits.grad is not None
    close(logits.grad.norm(), expected["grad_l2"] * factor, rtol=0, atol=1e-6)
    check_counts(out, expected["stats"])


def test_ramp_of_ten_steps() -> None:
    """The official code uses the full exponent once, before its ramp begins."""
    official = [4, 0.16305, 0.34517, 0.6612, 1.14602, 1.79732, 2.55051, 3.27492, 3.80492, 4]
    close(
        torch.tensor([4 * gaussian_ramp(i, 10, official=True) for i in range(10)]),
        official,
        rtol=0,
        atol=6e-6,
    )


# --- selection -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["0.2", "0.4", "0.6", "0.8", "1"])
def test_image_selection(ratio: str, golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    expected = golden["rank_01"]["expected"][ratio]
    confidence = pseudo_label(golden_tensors["rank_01.logits"])[1]
    mask = select_top_ratio(confidence, float(ratio), rule="official")
    assert int(mask.sum()) == expected["num_selected"]
    # Only images strictly above the official threshold, which is itself one of the confidences, are kept.
    assert confidence[mask].min() > expected["threshold"] - 1e-6
    if not mask.all():
        close(confidence[~mask].max(), expected["threshold"])


@pytest.mark.parametrize(
    ("count", "ratio", "kept"),
    [
        (10, 0.1, 9),
        (10, 0.2, 0),
        (10, 0.3, 1),
        (10, 0.8, 6),
        (100, 0.2, 18),
        (1000, 0.2, 198),
        *[(48800, r, k) for r, k in zip((0.2, 0.4, 0.6, 0.8), (9758, 19518, 29278, 39038), strict=True)],
        *[(45800, r, k) for r, k in zip((0.2, 0.4, 0.6, 0.8), (9158, 18318, 27478, 36638), strict=True)],
        (10, 1.0, 10),
        (45800, 1.0, 45800),
    ],
)
def test_official_image_counts(count: int, ratio: float, kept: int) -> None:
    """The official rule keeps two images too few as a rule, but almost all of a tiny set."""
    confidence = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double() / count
    assert int(select_top_ratio(confidence, ratio, rule="official").sum()) == kept


def test_official_selection_of_saturated_confidences() -> None:
    """When half of 1000 images tie at 1.0, the official rule keeps none, and ours keeps exactly the label ratio."""
    confidence = torch.cat([torch.ones(500), torch.linspace(0, 0.9, 500)])
    assert int(select_top_ratio(confidence, 0.2, rule="official").sum()) == 0
    assert int(select_top_ratio(confidence, 0.2).sum()) == 200


def sampled(confidence: Tensor, labels: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Every n-th pixel of each image's flattened map, as the official first pass takes them."""
    pick = [(c.flatten()[::every], y.flatten()[::every]) for c, y in zip(confidence, labels, strict=True)]
    return torch.cat([c for c, _ in pick]), torch.cat([y for _, y in pick])


@pytest.mark.parametrize("ratio", ["0.2", "0.6", "1"])
@pytest.mark.parametrize("case", ["classbalanced_01", "classbalanced_02"])
def test_pixel_selection(case: str, ratio: str, golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    expected = golden[case]["expected"][ratio]
    labels, confidence, _ = pseudo_label(golden_tensors[f"{case}.logits"])
    sample = sampled(confidence, labels, golden[case]["sample_every"])
    if "official_code" in expected:  # an IndexError there
        with pytest.raises(ValueError, match=r"never predicted: \[0\]"):
            class_balanced_thresholds(*sample, 4, float(ratio), rule="official")
        return
    thresholds = class_balanced_thresholds(*sample, 4, float(ratio), rule="official")
    close(thresholds, expected["thresholds"], rtol=1e-6)
    close((confidence >= thresholds[labels]).double().mean(), expected["kept_fraction"], rtol=1e-7)


@pytest.mark.parametrize("every", [1, 16])
@pytest.mark.parametrize("ratio", ["0.2", "0.6", "1.0"])
def test_pixel_selection_stream(ratio: str, every: int, paper_golden: dict[str, Any]) -> None:
    """Thresholds and kept pixels per class must match the official code, whose rule keeps all pixels of a rare
    class."""
    expected = paper_golden[f"cb_r{ratio}_ds{every}"]
    logits = torch.from_numpy((RandomState(20).randn(3, 4, 20, 30) * 3).astype(np.float32))
    logits[:, 3] -= 4
    maps = [
        pseudo_label(image[None, :, :h, :w])
        for image, (h, w) in zip(logits, [(20, 30), (17, 30), (20, 25)], strict=True)
    ]
    labels, confidence = [m[0] for m in maps], [m[1] for m in maps]
    every_label = torch.cat([y.flatten() for y in labels])
    every_confidence = torch.cat([c.flatten() for c in confidence])
    assert every_label.bincount(minlength=4).tolist() == paper_golden["cb_pred_counts"]

    sample_confidence = torch.cat([c.flatten()[::every] for c in confidence])
    sample_labels = torch.cat([y.flatten()[::every] for y in labels])
    thresholds = class_balanced_thresholds(sample_confidence, sample_labels, 4, float(ratio), rule="official")
    close(thresholds, expected["kc"], rtol=0, atol=1.5e-7)
    kept = every_confidence >= thresholds[every_label]
    assert every_label[kept].bincount(minlength=4).tolist() == expected["kept"]
    close(kept.double().mean(), expected["ratio"], rtol=0, atol=1e-7)
