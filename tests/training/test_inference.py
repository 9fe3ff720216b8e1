"""Clean images through both models: every image once, no state changed, whatever the batches are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from small_runs import CLASSES, images, make_pair, scenes, state_of
from torch.utils.data import DataLoader
from transformers import pipeline

from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.rows import DataError, FileRows
from hf_dmt.models.preprocessing import clean_inputs
from hf_dmt.training.labeling import inference
from hf_dmt.training.labeling.inference import CleanPass, broadcast_buffers


class OneOfThree(Accelerator):
    """The accelerator of one of three processes."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        super().__init__(cpu=True)

    process_index = property(lambda self: self.rank)
    num_processes = property(lambda self: 3)


def one_pass(pair: Any, size: int, **settings: Any) -> CleanPass:
    return CleanPass(pair, Accelerator(cpu=True), size, **settings)


def parts(loop: CleanPass, source: Any, **settings: Any) -> list[Any]:
    return list(loop.run(source, title="x", **settings))


@pytest.mark.parametrize("size", [1, 3, 64])
def test_logits_do_not_depend_on_the_batches(size: int) -> None:
    """Guards against BatchNorm over the batch while labeling, and against rows in another order."""
    pair, source = make_pair("vit", "resnet"), images(7)
    rows = {row: part.logits["b"][position] for part in parts(one_pass(pair, size), source)
            for position, row in enumerate(part.index)}  # fmt: skip
    alone = [part.logits["b"][0] for part in parts(one_pass(pair, 1), source)]
    assert sorted(rows) == list(range(7))
    assert all(torch.allclose(rows[row], alone[row], atol=1e-5) for row in rows)


def test_shares_of_several_processes_are_one_pass() -> None:
    """Guards against an image labeled by two processes or by none."""
    pair, source = make_pair(), images(7)
    found = [
        row for rank in range(3) for part in parts(CleanPass(pair, OneOfThree(rank), 2), source) for row in part.index
    ]
    assert sorted(found) == list(range(7))
    assert parts(CleanPass(pair, OneOfThree(2), 2), images(2)) == [], "fewer images than processes"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_moves(workers: int, training: bool) -> None:
    """Guards against labeling that changes the random state, the BatchNorm statistics or the mode, so that a resumed
    run differs."""
    pair = make_pair("vit", "resnet", dropout=0.5).train(training)
    before, state = state_of(pair), torch.get_rng_state()
    first = parts(one_pass(pair, 2, num_workers=workers), images(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert pair.training is training and not first[0].logits["a"].requires_grad
    again = parts(one_pass(pair, 2, num_workers=workers), images(5))
    assert all(torch.equal(one.logits["a"], two.logits["a"]) for one, two in zip(first, again, strict=True))


def test_the_mode_is_restored_after_an_error() -> None:
    """Guards against a run that continues in eval mode because one image could not be read."""
    pair = make_pair().train()
    with pytest.raises(DataError, match="Image 0 cannot be read"):
        parts(one_pass(pair, 1), [{"image": None}])
    assert pair.training


def test_evaluation_is_at_the_size_of_each_mask() -> None:
    """Guards against scores at the training resolution, which are better than those at the mask's own resolution."""
    pair, source = make_pair("segformer", "segformer"), scenes(4)
    source[2] = {"image": source[2]["image"].resize((40, 20)), "mask": np.zeros((20, 40), dtype=np.int64)}
    for part in parts(one_pass(pair, 4), source, to_score=True):
        for position, row in enumerate(part.index):
            expected = (20, 40) if row == 2 else (16, 16)
            assert part.truth[position].shape == part.sizes[position] == expected
            for name in "ab":
                assert part.logits[name][position].shape == (CLASSES, *expected)
                assert part.logits[name].dtype == torch.float32


def test_labels_are_at_the_training_size_and_never_larger_than_the_image() -> None:
    """Guards against labels at another size than the images that are trained with them."""
    pair, source = make_pair("segformer", "segformer"), scenes(2)
    source[1] = {"image": source[1]["image"].resize((40, 20))}
    sizes = {row: part.sizes[position] for part in parts(one_pass(pair, 2), source, shorter_side=10)
             for position, row in enumerate(part.index)}  # fmt: skip
    assert sizes == {0: (10, 10), 1: (10, 20)}


def test_labels_of_whole_images_may_be_missing() -> None:
    """Guards against reading a missing label as class 0."""
    source = images(3)
    del source[1]["label"]
    (part,) = parts(one_pass(make_pair(), 3), source)
    assert part.truth == [0, None, 2]


def photos(folder: Path, count: int = 3) -> ImageSet:
    """JPEG files that are much larger than the input of the models."""
    rng = np.random.default_rng(1)
    for row in range(count):
        colors = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
        Image.fromarray(colors).resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{row}.jpg", quality=95)
    files = [folder / f"{row}.jpg" for row in range(count)]
    return ImageSet(FileRows(files, folder), np.arange(count), "image-classification")


def test_scores_are_those_of_the_pipeline_and_labels_may_be_approximate(tmp_path: Path) -> None:
    """Guards against scores on a card that nobody can reproduce because photos were decoded small, and against labeling
    slowly by decoding every pixel. With exact decoding, labels and scores come from the same logits."""
    pair, source = make_pair("vit", "resnet"), photos(tmp_path)
    (scored,) = parts(one_pass(pair, 3), source)
    (labeled,) = parts(one_pass(pair, 3), source, approximate=True)
    (exact,) = parts(one_pass(pair, 3, exact_decoding=True), source, approximate=True)
    for name in "ab":
        classify = pipeline("image-classification", model=pair.member(name), image_processor=pair.processor(name))
        for row in range(3):
            inputs = classify.preprocess(str(tmp_path / f"{row}.jpg"))
            with torch.no_grad():
                expected = classify.forward(inputs)["logits"][0]
            assert torch.allclose(scored.logits[name][row], expected, atol=1e-3)
        assert torch.equal(exact.logits[name], scored.logits[name])
        assert not torch.equal(labeled.logits[name], scored.logits[name])
        assert torch.allclose(labeled.logits[name], scored.logits[name], atol=0.05)


@pytest.mark.parametrize("equal", [True, False])
def test_equal_processors_run_once(equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against preprocessing the same pixels twice, and against giving one model the output of the other's
    processor."""
    pair, source = make_pair("vit", "swin"), images(4)
    pair.processor_b = copy.deepcopy(pair.processor_a)
    if not equal:
        pair.processor_b.image_mean = [0.1, 0.2, 0.3]
    expected = {
        name: torch.stack(clean_inputs(pair.processor(name), [item["image"] for item in source])) for name in "ab"
    }
    calls: list[int] = []
    made = inference.clean_inputs
    monkeypatch.setattr(inference, "clean_inputs", lambda *given: calls.append(1) or made(*given))
    (found,) = parts(one_pass(pair, 4), source)
    assert len(calls) == (1 if equal else 2)
    for name in "ab":
        assert torch.allclose(found.logits[name], pair.clean_logits(name, expected[name]), atol=1e-5)


def test_one_process_has_nothing_to_broadcast() -> None:
    """Guards against a collective call that waits for other processes when there are none."""
    pair = make_pair("vit", "resnet")
    before = state_of(pair)
    broadcast_buffers(pair, Accelerator(cpu=True))
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_a_pass_starts_its_workers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar of `tqdm.auto` asks a loader for two iterators. Both would start workers, and those of one would
    decode images that nobody uses."""
    started: list[DataLoader[Any]] = []
    iterate = DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: (started.append(loader), iterate(loader))[1])
    assert len(parts(one_pass(make_pair(), 2, progress=True), images(5))) == 3
    assert len(started) == 1
