"""Which pseudo labels are kept; the official index arithmetic is checked in test_golden.py."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_dmt.method import (
    CONFIDENCE_CODES,
    class_balanced_thresholds,
    confidence_histogram,
    decode_confidence,
    encode_confidence,
    pseudo_label,
    select_top_ratio,
    selected_count,
    thresholds_from_histogram,
)

RATIOS = st.one_of(st.sampled_from([0.2, 0.4, 0.6, 0.8, 1.0]), st.floats(0.001, 1.0))


def sharp_logits(margin: float, shape: tuple[int, ...] = (4, 5, 60, 70), seed: int = 0) -> Tensor:
    """Logits of a fine-tuned model: one class leads by `margin` on average, so most confidences round to 1."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=g)
    winner = torch.randint(shape[1], (shape[0], 1, *shape[2:]), generator=g)
    lead = margin * (1 + 0.3 * torch.randn(winner.shape, generator=g))
    return logits.scatter_add(1, winner, lead)


# --- pseudo labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 10), (2, 5, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pseudo_labels_are_the_softmax_winner(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels, confidence, doubt = pseudo_label(logits)
    expected = logits.double().softmax(1).max(1)
    assert torch.equal(labels, expected.indices)
    assert confidence.dtype == doubt.dtype == torch.float32
    torch.testing.assert_close(confidence.double(), expected.values, rtol=1e-6, atol=0)
    torch.testing.assert_close(doubt.double(), 1 - expected.values, rtol=1e-5, atol=1e-7)


def test_doubt_is_exact_where_confidence_is_one() -> None:
    """Guards against computing the doubt as 1 - confidence, which is 0 from a margin of 17 on: half of a confident
    model's pixels would tie."""
    margins = torch.tensor([5.0, 17.0, 18.0, 40.0, 80.0])
    logits = torch.stack([margins, torch.zeros(5)], dim=1)
    _, confidence, doubt = pseudo_label(logits)
    assert confidence[2:].tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(doubt.double(), torch.sigmoid(-margins.double()), rtol=1e-6, atol=0)


# --- images ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 300), ratio=RATIOS, levels=st.integers(1, 400), seed=st.integers(0, 2**31))
def test_exact_selection_keeps_exactly_the_ratio(count: int, ratio: float, levels: int, seed: int) -> None:
    """Exactly the label ratio must be kept, however many images tie, and nothing kept may be less confident than
    anything left out."""
    g = torch.Generator().manual_seed(seed)
    confidence = torch.randint(levels, (count,), generator=g) / levels
    mask = select_top_ratio(confidence, ratio)
    assert int(mask.sum()) == selected_count(ratio, count) == max(1, round(ratio * count))
    if not mask.all():
        worst, best = confidence[mask].min(), confidence[~mask].max()
        assert worst >= best
        tied = torch.arange(count)[confidence == worst]
        assert mask[tied].tolist() == sorted(mask[tied].tolist(), reverse=True), "ties go to the lower index"


def test_doubt_ranks_what_confidence_cannot() -> None:
    """Guards against ranking by confidence when it is mostly 1.0: the first images of the data set (one class)
    would be selected."""
    _, confidence, doubt = pseudo_label(sharp_logits(40.0, shape=(200, 4)))
    assert (confidence == 1).float().mean() > 0.8
    mask = select_top_ratio(-doubt, 0.2)
    assert mask.sum() == 40 and doubt[mask].max() <= doubt[~mask].min()
    assert not mask[:40].all()


def test_empty_sets_select_nothing() -> None:
    for rule in ("exact", "official"):
        assert select_top_ratio(torch.empty(0), 0.5, rule=rule).shape == (0,)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, float("nan")])
def test_ratios_outside_are_refused(ratio: float) -> None:
    values, labels = torch.rand(5), torch.zeros(5, dtype=torch.int64)
    for call in (
        lambda: select_top_ratio(values, ratio),
        lambda: class_balanced_thresholds(values, labels, 2, ratio),
        lambda: thresholds_from_histogram(torch.zeros(2, CONFIDENCE_CODES, dtype=torch.int64), ratio),
        lambda: selected_count(ratio, 5),
    ):
        with pytest.raises(ValueError, match=r"label ratio must be in \(0, 1\]"):
            call()


def test_diverged_models_are_not_ranked() -> None:
    """Guards against ranking NaN, which sorts above everything: a diverged model's worst images would be selected
    first."""
    values = torch.tensor([0.5, float("nan"), 0.7])
    with pytest.raises(ValueError, match="1 of 3 confidences are NaN"):
        select_top_ratio(values, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        class_balanced_thresholds(values, torch.zeros(3, dtype=torch.int64), 1, 0.5)


def test_wrong_arguments_are_named() -> None:
    values, labels = torch.rand(3), torch.tensor([0, 1, 2])
    wrong: Any = "top"
    with pytest.raises(ValueError, match="'exact' or 'official', got 'top'"):
        select_top_ratio(values, 0.5, rule=wrong)
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        select_top_ratio(torch.rand(3, 2), 0.5)
    with pytest.raises(ValueError, match="must have one shape"):
        class_balanced_thresholds(values, labels[:2], 3, 0.5)
    with pytest.raises(ValueError, match=r"predicted class 2 is outside 0\.\.1"):
        class_balanced_thresholds(values, labels, 2, 0.5)
    codes = encode_confidence(values)
    with pytest.raises(ValueError, match=r"predicted class 2 is outside 0\.\.1"):
        confidence_histogram(codes, labels, 2)
    with pytest.raises(ValueError, match="must have one shape"):
        confidence_histogram(codes, labels[:2], 3)
    with pytest.raises(ValueError, match=r"out must be int64 \(3, 65536\)"):
        confidence_histogram(codes, labels, 3, out=torch.zeros(2, CONFIDENCE_CODES, dtype=torch.int64))
    with pytest.raises(ValueError, match="exactly one"):
        encode_confidence()
    with pytest.raises(ValueError, match="exactly one"):
        encode_confidence(values, doubt=values)


# --- pixels ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 400), ratio=RATIOS, num_classes=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_every_class_keeps_its_ratio(count: int, ratio: float, num_classes: int, seed: int) -> None:
    """Guards against ranking all classes together: a hard class would lose all its pixels to an easy one."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=g)
    confidence = (torch.randperm(count, generator=g) + 1) / (count + 1) / (labels + 1)  # distinct within a class
    thresholds = class_balanced_thresholds(confidence, labels, num_classes, ratio)
    assert thresholds.shape == (num_classes,) and thresholds.dtype == torch.float32
    kept = confidence >= thresholds[labels]
    for j in range(num_classes):
        assert int(kept[labels == j].sum()) == selected_count(ratio, int((labels == j).sum()))


def test_unseen_classes_and_ratio_one_keep_all() -> None:
    """Guards against a threshold of 1 or inf for a class that is missing in the sample because it is rare: it would be
    excluded for the whole phase."""
    values, labels = torch.tensor([0.9, 0.3]), torch.tensor([0, 0])
    assert class_balanced_thresholds(values, labels, 3, 0.5).tolist() == pytest.approx([0.9, 0.0, 0.0])
    assert class_balanced_thresholds(values, labels, 3, 1.0).tolist() == [0.0, 0.0, 0.0]
    histogram = confidence_histogram(encode_confidence(values), labels, 3)
    assert thresholds_from_histogram(histogram, 0.5).tolist() == [int(encode_confidence(values[:1])), 0, 0]
    assert thresholds_from_histogram(histogram, 1.0).tolist() == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=50))
def test_codes_keep_the_order(doubts: list[float]) -> None:
    doubt = torch.tensor(doubts).sort().values
    codes = encode_confidence(doubt=doubt)
    assert codes.dtype == torch.int32 and codes.min() >= 0 and codes.max() < CONFIDENCE_CODES
    assert (codes.diff() <= 0).all()
    confidence = decode_confidence(codes)
    assert (confidence.diff() <= 0).all() and confidence.min() >= 0 and confidence.max() <= 1
    # A bin is at most 1/512 of the doubt wide, and its middle is at most half of that away.
    assert ((1 - confidence.double()) - doubt.double()).abs().le(doubt / 1000 + 1e-7).all()


def test_codes_tell_apart_what_a_linear_code_cannot() -> None:
    """Guards against codes that make all of these confidences 1.0, as linear 16-bit, float16 and 8-bit codes do."""
    doubt = torch.tensor([1e-5, 1e-7, 1e-9, 1e-12, 1e-20, 1e-30])
    assert (encode_confidence(doubt=doubt).diff() > 0).all()
    assert (1 - doubt).half().unique().numel() == 1


def test_codes_survive_unsigned_storage() -> None:
    """The store writes codes as uint16: each must still decode to the same confidence. Guards against a
    decoded confidence that belongs to a neighboring code."""
    codes = torch.arange(CONFIDENCE_CODES, dtype=torch.int32)
    confidence = decode_confidence(codes)
    assert torch.equal(decode_confidence(codes.to(torch.uint16)), confidence)
    exact = (codes >= 511) & (confidence < 0.9999)  # below 511 is only NaN; closer to 1, float32 is too coarse
    assert torch.equal(encode_confidence(confidence[exact]), codes[exact])
    assert encode_confidence(torch.tensor([0.0, 1.0])).tolist() == [511, 65535]
    assert encode_confidence(torch.tensor([float("nan")])).tolist() == [0], "a NaN is the least confident"
    strided = torch.rand(4, 6).t()[::2]
    assert torch.equal(encode_confidence(strided), encode_confidence(strided.contiguous()))


@pytest.mark.parametrize("margin", [2.0, 12.0, 25.0, 60.0])
@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_sharp_models_keep_their_ratio_per_class(margin: float, ratio: float) -> None:
    """Guards against selecting at random when confidences are mostly above 0.999, or all 1.0 in float32."""
    logits = sharp_logits(margin)
    labels, confidence, doubt = pseudo_label(logits)
    if margin >= 25:
        assert (confidence > 0.999).float().mean() > 0.95
    codes = encode_confidence(doubt=doubt)
    histogram = confidence_histogram(codes, labels, 5)
    thresholds = thresholds_from_histogram(histogram, ratio)
    kept = codes >= thresholds[labels]
    for j in range(5):
        of_class = labels == j
        wanted = selected_count(ratio, int(of_class.sum()))
        excess = int(kept[of_class].sum()) - wanted
        assert 0 <= excess < int(histogram[j, thresholds[j]]), "up to one bin"
        assert excess <= 0.01 * int(of_class.sum())
        # The kept units are the least doubtful ones.
        assert doubt[of_class & kept].max() <= doubt[of_class & ~kept].min()


def test_histograms_add_up() -> None:
    """A histogram filled image by image, or summed over processes, must equal the one made at once, so that the
    thresholds are the same."""
    labels, _, doubt = pseudo_label(sharp_logits(8.0))
    codes = encode_confidence(doubt=doubt)
    whole = confidence_histogram(codes, labels, 5)
    assert int(whole.sum()) == codes.numel()
    by_image = torch.zeros_like(whole)
    for image_codes, image_labels in zip(codes, labels, strict=True):
        assert confidence_histogram(image_codes, image_labels, 5, out=by_image) is by_image
    shards = confidence_histogram(codes[:1], labels[:1], 5) + confidence_histogram(codes[1:], labels[1:], 5)
    assert torch.equal(whole, by_image) and torch.equal(whole, shards)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 200), ratio=RATIOS, levels=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_histogram_agrees_with_sorting(count: int, ratio: float, levels: int, seed: int) -> None:
    """Applied to codes, the histogram and sorting must give the same thresholds, ties included."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=g)
    codes = torch.randint(30000, 30000 + levels, (count,), generator=g)
    by_histogram = thresholds_from_histogram(confidence_histogram(codes, labels, 2), ratio)
    assert by_histogram.dtype == torch.int64
    assert torch.equal(by_histogram.float(), class_balanced_thresholds(codes.float(), labels, 2, ratio))
