"""Batches: what is drawn depends only on seed, phase, model and position, on any number of processes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from hf_dmt.data.drawing.clean_images import CleanCollator, CleanDataset, fit_shorter_side, resize_mask
from hf_dmt.data.drawing.sampler import BatchShape, Draw, PhaseBatchSampler
from hf_dmt.data.drawing.samples import PairDataset
from hf_dmt.data.drawing.transforms import ImageView, PixelView
from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.rows import FileRows
from tests.data import small_files as files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def sampler(
    shape: BatchShape,
    rank: int = 0,
    *,
    seed: int = 42,
    phase: int = 1,
    steps: int = 5,
    labeled: int = 7,
    pseudo: int = 11,
) -> PhaseBatchSampler:
    made = PhaseBatchSampler(shape, rank=rank, seed=seed)
    rows = {member: np.arange(labeled) for member in "ab"}, {member: np.arange(pseudo) * 2 for member in "ab"}
    made.begin(phase, steps, *rows)
    return made


def updates(made: list[PhaseBatchSampler]) -> list[set[tuple[Draw, Draw]]]:
    """The pairs of draws of every update, over all processes and micro-batches."""
    batches = [list(part) for part in made]
    accumulation = made[0].shape.accumulation
    assert {len(part) for part in batches} == {len(made[0])}
    return [
        {pair for part in batches for batch in part[start : start + accumulation] for pair in batch}
        for start in range(0, len(made[0]), accumulation)
    ]


@settings(max_examples=30, deadline=None)
@given(world=st.sampled_from([1, 2, 4]), accumulation=st.sampled_from([1, 2]), labeled=st.integers(1, 9))
def test_an_update_has_the_same_images_however_it_is_divided(world: int, accumulation: int, labeled: int) -> None:
    """Guards against different training on other hardware: several processes with several micro-batches must train on
    the same images per update as one process does."""
    one = updates([sampler(BatchShape(8, 16), labeled=labeled)])
    parts = [sampler(BatchShape(8, 16, world, accumulation), rank, labeled=labeled) for rank in range(world)]
    assert parts[0].batch_size == 24 // world // accumulation
    for expected, found in zip(one, updates(parts), strict=True):
        for member in (0, 1):
            assert {pair[member] for pair in found} == {pair[member] for pair in expected}


def test_streams_are_endless_and_fair() -> None:
    """Guards against running out of labeled images, or drawing some more often: 3 images in batches of 8 must come
    again and again, each as often as the others."""
    made = sampler(BatchShape(8, 8), labeled=3, pseudo=5, steps=30)
    for member in (0, 1):
        draws = [pair[member] for batch in made for pair in batch]
        for is_pseudo, rows in ((False, range(3)), (True, range(0, 10, 2))):
            mine = [draw.row for draw in draws if draw.is_pseudo == is_pseudo]
            assert len(mine) == 240 and set(mine) == set(rows)
            assert all(sorted(mine[start : start + len(rows)]) == list(rows) for start in range(0, 200, len(rows)))
        assert len({draw.seed for draw in draws}) == len(draws), "no view comes twice"


def test_members_phases_and_seeds_are_independent() -> None:
    """Models, phases and seeds must draw independently: two models that see the same images in the same order make the
    same mistakes."""
    shape = BatchShape(4, 4)
    first = [pair for batch in sampler(shape) for pair in batch]
    assert [pair[0].row for pair in first] != [pair[1].row for pair in first]
    assert not {pair[0].seed for pair in first} & {pair[1].seed for pair in first}
    for other in (sampler(shape, seed=1), sampler(shape, phase=2)):
        assert not {draw.seed for pair in first for draw in pair} & {
            draw.seed for batch in other for pair in batch for draw in pair
        }
    assert list(sampler(shape)) == list(sampler(shape)), "and every one of them can be drawn again"


def test_members_may_learn_from_different_rows() -> None:
    """Guards against models sharing rows when each has its own labeled images (difference-maximized subsets) and its
    own pseudo labels, selected by its teacher."""
    made = PhaseBatchSampler(BatchShape(2, 2))
    made.begin(1, 20, {"a": np.arange(3), "b": np.arange(3, 6)}, {"a": np.arange(2), "b": np.arange(5, 9)})
    for position, (labeled, pseudo) in enumerate((({0, 1, 2}, {0, 1}), ({3, 4, 5}, {5, 6, 7, 8}))):
        draws = [pair[position] for batch in made for pair in batch]
        assert {draw.row for draw in draws if not draw.is_pseudo} == labeled
        assert {draw.row for draw in draws if draw.is_pseudo} == pseudo


@settings(max_examples=30, deadline=None)
@given(done=st.integers(0, 9), accumulation=st.sampled_from([1, 2]), rank=st.sampled_from([0, 1]))
def test_a_resumed_phase_draws_on_from_its_update(done: int, accumulation: int, rank: int) -> None:
    """Guards against a resumed phase drawing other images than the original run. The batches before the resume point
    stay empty, because the Trainer discards them and drawing them took up to 40 ms each."""
    shape = BatchShape(4, 8, 2, accumulation)
    whole, resumed = (sampler(shape, rank, steps=9, labeled=3) for _ in range(2))
    resumed.begin(1, 9, *({m: rows[kind] for m, rows in whole.rows.items()} for kind in (0, 1)), done=done)
    expected, found = list(whole), list(resumed)
    assert len(found) == len(expected) == len(resumed) == 9 * accumulation
    assert found[done * accumulation :] == expected[done * accumulation :]
    assert not any(found[: done * accumulation])


def test_draws_are_the_same_everywhere() -> None:
    """Guards against a change in a library or in this code that alters what is drawn: a run could no longer be repeated
    or resumed."""
    (batch,) = sampler(BatchShape(2, 3), steps=1)
    assert [(draw.row, draw.seed) for pair in batch for draw in pair] == [
        (2, 1906561180548351634),
        (6, 6174652970985812897),
        (5, 14842874203785943318),
        (4, 7358665397082193525),
        (16, 3290942915312404689),
        (14, 8491040050849039152),
        (10, 5034662703616789655),
        (8, 14416188879414186172),
        (18, 10920269830688913823),
        (4, 13645564081342278550),
    ]


def test_without_pseudo_labels_the_whole_batch_is_labeled() -> None:
    """Guards against smaller batches in phase 0, which must see as many images per update as the other phases."""
    made = sampler(BatchShape(2, 6), pseudo=0, steps=3)
    assert [len(batch) for batch in made] == [8, 8, 8]
    assert not any(draw.is_pseudo for batch in made for pair in batch for draw in pair)


@pytest.mark.parametrize(
    ("size", "world", "accumulation", "nearest"), [(5, 2, 1, "4 or 6"), (3, 2, 2, "4"), (7, 3, 1, "6 or 9")]
)
def test_batches_that_cannot_be_divided_are_refused(size: int, world: int, accumulation: int, nearest: str) -> None:
    """Guards against silently rounded batch sizes, which train on fewer images per update than requested, on some
    hardware only."""
    with pytest.raises(ValueError, match=rf"labeled_batch_size {size} cannot be divided.*use {nearest}\."):
        BatchShape(size, 12, world, accumulation)


# ---- samples ---------------------------------------------------------------------------------------------------------


def pictures(count: int = 4) -> list[dict[str, Any]]:
    return [{"image": files.image(40 * row, (12, 10)), "label": row % 3} for row in range(count)]


def image_samples(**settings: Any) -> PairDataset:
    views = {"a": ImageView(8), "b": ImageView(8, strong=True)}
    return PairDataset(pictures(), pictures(5), views, task=IMAGES, image_size=8, num_classes=3, **settings)


def pixel_samples(folder: Path, masks: Any = None) -> PairDataset:
    """Scenes of 30x24 pixels. Their stored labels have the size that images are trained at, 15x12."""
    labeled = [
        {"image": files.image(9, (30, 24)), "mask": masks if masks is not None else files.mask([0, 1], (30, 24))}
    ]
    samples = PairDataset(
        labeled,
        [{"image": files.image(7, (30, 24))}],
        {name: PixelView(8, scale=False) for name in "ab"},
        task=PIXELS,
        image_size=12,
        num_classes=3,
    )
    store = PixelLabels(folder)
    store.write(0, np.full((12, 15), 2), np.full((12, 15), 1000))
    store.finish({}, [0, 0, 0])
    samples.pseudo = {name: PixelLabels.read(folder) for name in "ab"}
    return samples


def test_a_sample_is_for_two_members_and_labels_are_the_teachers() -> None:
    """Guards against missing fields that the loss reads, and against labels of the wrong row."""
    samples = image_samples()
    stored = ImageLabels(np.array([2, 1, 0, 2, 1]), np.linspace(0.5, 0.9, 5, dtype=np.float32), np.ones(5, dtype=bool))
    samples.pseudo = {"a": stored, "b": stored}
    found = samples[Draw("a", True, 3, 5), Draw("b", False, 1, 6)]
    assert found["a"]["labels"] == 2 and found["a"]["confidence"] == stored.confidence[3] and found["a"]["is_pseudo"]
    assert found["b"]["labels"] == 1 and found["b"]["confidence"] == 1 and not found["b"]["is_pseudo"]
    assert found["a"]["pixel_values"].shape == found["b"]["pixel_values"].shape == (3, 8, 8)
    assert "weak" not in found["a"] and len(samples) == 9


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_samples_do_not_depend_on_the_workers(workers: int, tmp_path: Path) -> None:
    """Guards against augmentation that uses a worker's own random generator: another number of workers would give
    another run."""
    for samples in (image_samples(), pixel_samples(tmp_path)):
        if samples.task == IMAGES:
            samples.pseudo = dict.fromkeys(
                "ab", ImageLabels(np.zeros(5, int), np.ones(5, np.float32), np.ones(5, bool))
            )
        draws = sampler(BatchShape(2, 2), labeled=len(samples.labeled), pseudo=1, steps=4)
        alone, shared = (list(DataLoader(samples, batch_sampler=draws, num_workers=count)) for count in (0, workers))
        assert len(alone) == len(shared) == 4
        for one, two in zip(alone, shared, strict=True):
            assert all(torch.equal(one[name][key], two[name][key]) for name in "ab" for key in one[name])


def test_pixels_are_trained_at_the_size_they_were_labeled_at(tmp_path: Path) -> None:
    """Guards against pseudo labels that do not match their pixels: images must be resized to the same shorter side
    before labeling and before training."""
    samples = pixel_samples(tmp_path)
    found = samples[Draw("a", True, 0, 1), Draw("b", False, 0, 2)]
    assert set(found["a"]["labels"].flatten().tolist()) == {2} and found["a"]["labels"].shape == (8, 8)
    assert found["a"]["confidence"].unique().numel() == 1 and 0 < found["a"]["confidence"].min() < 1
    assert set(found["b"]["labels"].flatten().tolist()) <= {0, 1} and (found["b"]["confidence"] == 1).all()


def test_the_truth_of_unlabeled_images_is_never_read(tmp_path: Path) -> None:
    """Guards against time lost decoding masks that no sample uses, and against true labels of unlabeled images leaking
    into training."""
    files.save(files.image(3), tmp_path / "a.png")
    rows = FileRows([tmp_path / "a.png"], tmp_path, masks=[tmp_path / "no such mask.png"])
    source = ImageSet(rows, np.arange(1), PIXELS)
    samples = pixel_samples(tmp_path / "store")
    unlabeled = PairDataset([], source, samples.views, task=PIXELS, image_size=12, num_classes=3)
    unlabeled.pseudo = samples.pseudo
    assert unlabeled[Draw("a", True, 0, 1), Draw("b", True, 0, 2)]["a"]["labels"].shape == (8, 8)
    assert len(unlabeled) == 1


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (files.mask([0, 9], (30, 24)), r"Label 9 in the mask of labeled image 0 is outside 0..2.*ids == 9\] = -100"),
        (files.mask([0, 1], (24, 30)), r"The image 0 is 30x24, but its mask is 24x30"),
    ],
)
def test_masks_given_from_python_are_checked_when_read(masks: Any, message: str, tmp_path: Path) -> None:
    """Guards against wrong masks in runs started from Python, without the checks of the command line: on a GPU the
    process would end without naming the image."""
    with pytest.raises(ValueError, match=message):
        pixel_samples(tmp_path, masks)[Draw("a", False, 0, 1), Draw("b", False, 0, 2)]


def test_labels_given_from_python_are_checked_when_read() -> None:
    """Guards against wrong labels in a data set that decodes its images, because not all of its labels are checked
    before training; 1.5 would become class 1."""
    for label, message in ((7, "Labeled image 0 has label 7, but the pair has 3 classes"), (1.5, "whole number")):
        samples = PairDataset(
            [{"image": files.image(1), "label": label}],
            None,
            dict.fromkeys("ab"),
            task=IMAGES,
            image_size=8,
            num_classes=3,
        )
        with pytest.raises(ValueError, match=message):
            samples[Draw("a", False, 0, 1), Draw("b", False, 0, 2)]


# ---- clean images ----------------------------------------------------------------------------------------------------


def test_clean_items_and_their_collation() -> None:
    """Guards against images that lose their row number: their pseudo labels would be stored under another image."""
    source = [
        {"image": files.image(9, (30, 24)), "mask": files.mask([0, 1], (30, 24))},
        {"image": files.image(1, (9, 30))},
    ]
    clean = CleanDataset(source, [1, 0], task=PIXELS, shorter_side=12)
    items = list(islice((clean[index] for index in range(len(clean))), 2))
    assert [item["index"] for item in items] == [1, 0] and items[0]["labels"] is None
    assert items[0]["image"].size == (9, 30), "never up" and items[1]["image"].size == (15, 12)
    assert items[1]["labels"].shape == (24, 30), "truth keeps its own size: evaluation is at the mask's"
    seen: list[Any] = []

    def prepare(images: list[Any]) -> list[torch.Tensor]:
        seen.append(images)
        return [torch.full((3, 1, 1), float(image.width)) for image in images]

    (batch,) = CleanCollator({"a": prepare, "b": prepare})(items)
    assert batch.index == [1, 0] and batch.sizes == [(30, 9), (12, 15)] and batch.labels[0] is None
    assert batch.inputs["a"].flatten().tolist() == [9.0] * 3 + [15.0] * 3
    assert len(seen) == 1 and batch.inputs["a"] is batch.inputs["b"], "equal processors run once"
    by_size = CleanCollator({"a": prepare}, by_size=True)(items)
    assert [batch.index for batch in by_size] == [[1], [0]], "logits of pixels are brought to one size a batch"


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((30, 24), 12, (15, 12)), ((24, 30), 12, (12, 15)), ((9, 30), 12, (9, 30)), ((1000, 10), 3, (300, 3))],
)
def test_shorter_side(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    """Guards against images whose aspect ratio changes, or that are enlarged for no reason."""
    assert fit_shorter_side(Image.new("RGB", size), side).size == expected


def test_a_resized_mask_takes_the_class_at_the_center_of_each_pixel() -> None:
    """Guards against masks that shift by half a pixel against the image at every change of size."""
    mask = np.arange(36).reshape(6, 6)
    assert resize_mask(mask, (6, 6)) is mask
    assert resize_mask(mask, (2, 3)).tolist() == [[7, 9, 11], [25, 27, 29]]
    assert resize_mask(np.array([[1, 2]]), (1, 4)).tolist() == [[1, 1, 2, 2]]
