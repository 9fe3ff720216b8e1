"""`pair.pipeline()` compared with the standard pipelines: the inputs it takes, its answers, and the disagreement it
adds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image, ImageChops
from transformers import pipeline

from hf_dmt import ModelPair
from hf_dmt.data.reading.decoding import to_rgb
from tests.hub_server import HubServer
from tests.training.small_runs import make_pair

STANDARD = {"image-classification": "image-classification", "semantic-segmentation": "image-segmentation"}


@pytest.fixture(params=["vit", "segformer"], ids=["images", "pixels"])
def pair(request: pytest.FixtureRequest) -> ModelPair:
    return make_pair(request.param, "segformer" if request.param == "segformer" else "resnet")


def noise(seed: int, size: tuple[int, int] = (20, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def plain(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries in a form that can be compared: masks as bytes, numbers with a tolerance, no disagreement."""
    return [
        {
            key: value.tobytes()
            if isinstance(value, Image.Image)
            else pytest.approx(value, abs=1e-5)
            if isinstance(value, float)
            else value
            for key, value in entry.items()
            if key != "disagreement"
        }
        for entry in entries
    ]


def test_two_equal_members_answer_as_the_standard_pipeline_does(pair: ModelPair) -> None:
    """Guards against entries of another format, geometry or order: an ensemble of two copies of a model must answer as
    that model does."""
    twins = ModelPair(
        pair.model_a, copy.deepcopy(pair.model_a), pair.processor_a, copy.deepcopy(pair.processor_a), task=pair.task
    )
    standard = pipeline(STANDARD[pair.task], model=pair.model_a, image_processor=pair.processor_a)
    for image in (noise(0), noise(1, (33, 17))):
        found, expected = twins.pipeline()(image), standard(image)
        assert [{**entry, "disagreement": 0.0} for entry in plain(expected)] == [
            {**plain([entry])[0], "disagreement": entry["disagreement"]} for entry in found
        ]
        for entry in found:
            if pair.task == "semantic-segmentation":
                assert entry["mask"].size == image.size and entry["mask"].mode == "L" == expected[0]["mask"].mode


def test_it_takes_what_the_standard_pipelines_take(pair: ModelPair, hub: HubServer, tmp_path: Path) -> None:
    """Paths, URLs, images, lists and streams must all give the same answers, in batches and one by one."""
    shown = [noise(seed, (20, 30 + seed % 2)) for seed in range(4)]
    shown[0].save(tmp_path / "0.png")
    api = HfApi(token="hf_mine")
    api.create_repo("me/images", repo_type="dataset")
    api.upload_file(path_or_fileobj=tmp_path / "0.png", path_in_repo="0.png", repo_id="me/images", repo_type="dataset")
    one_by_one = [plain(pair.pipeline()(image)) for image in shown]
    predict = pair.pipeline(batch_size=3)
    assert plain(predict(str(tmp_path / "0.png"))) == plain(predict(tmp_path / "0.png")) == one_by_one[0]
    assert [plain(entries) for entries in predict([tmp_path / "0.png"])] == one_by_one[:1]
    assert plain(predict(f"{hub.endpoint}/datasets/me/images/resolve/main/0.png", timeout=5.0)) == one_by_one[0]
    assert [plain(entries) for entries in predict(shown)] == one_by_one
    assert [plain(entries) for entries in predict([shown[0]])] == one_by_one[:1]
    taken = []

    def stream() -> Iterator[Image.Image]:
        for image in shown:
            taken.append(image)
            yield image

    answers = predict(stream())
    assert plain(next(answers)) == one_by_one[0] and len(taken) == 3, "a stream is read as it is consumed"
    assert [plain(entries) for entries in answers] == one_by_one[1:]
    with pytest.raises(ValueError, match="Give a path, a URL, a PIL image"):
        predict(3)


def test_images_are_read_as_in_training(pair: ModelPair, tmp_path: Path) -> None:
    """Guards against predictions for a white image where the models were trained on a 16-bit one, and for whatever
    color is stored under transparent pixels."""
    random = np.random.default_rng(3)
    Image.fromarray(random.integers(0, 2**16, (20, 30), dtype=np.uint16)).save(tmp_path / "16-bit.png")
    Image.fromarray(random.integers(0, 256, (20, 30, 4), dtype=np.uint8)).save(tmp_path / "transparent.png")
    predict = pair.pipeline()
    for file in tmp_path.iterdir():
        expected = plain(predict(to_rgb(file)))
        assert plain(predict(str(file))) == plain(predict(Image.open(file))) == expected


def test_arrays_and_tensors_are_images_as_for_the_standard_pipeline() -> None:
    """Guards against an array that is read as a list of its rows."""
    pair, image = make_pair("vit", "resnet"), noise(0)
    expected = plain(pair.pipeline()(image))
    array = np.asarray(image)
    assert plain(pair.pipeline()(array)) == expected
    assert plain(pair.pipeline()(torch.from_numpy(array.copy()).permute(2, 0, 1))) == expected
    standard = pipeline("image-classification", model=pair.model_a, image_processor=pair.processor_a)
    assert {entry["label"] for entry in standard(array)} == {entry["label"] for entry in pair.pipeline()(array)}


def test_labels_are_the_mean_and_disagreement_is_the_difference() -> None:
    """Guards against averaging logits instead of probabilities, and against the disagreement of another label."""
    pair, image = make_pair("vit", "resnet"), noise(0)
    probabilities = {}
    for name in "ab":
        standard = pipeline(
            "image-classification", model=pair.member(name), image_processor=pair.processor(name), top_k=3
        )
        probabilities[name] = {entry["label"]: entry["score"] for entry in standard(image)}
    found = pair.pipeline()(image, top_k=None)
    assert len(found) == 3 and [entry["score"] for entry in found] == sorted((e["score"] for e in found), reverse=True)
    for entry in found:
        a, b = (probabilities[name][entry["label"]] for name in "ab")
        assert entry["score"] == pytest.approx((a + b) / 2, abs=1e-5)
        assert entry["disagreement"] == pytest.approx(abs(a - b), abs=1e-5)
    assert len(pair.pipeline()(image, top_k=1)) == 1


def test_masks_divide_the_image_and_disagreement_is_counted_in_them() -> None:
    """Guards against pixels that are in two masks or in none, and against a disagreement measured over the whole image
    instead of the mask."""
    pair, image = make_pair("segformer", "segformer"), noise(0)
    found = pair.pipeline()(image)
    masks = np.stack([np.asarray(entry["mask"]) for entry in found])
    assert set(np.unique(masks)) <= {0, 255} and (masks.sum(axis=0) == 255).all()
    alone = {}
    for name in "ab":
        standard = pipeline("image-segmentation", model=pair.member(name), image_processor=pair.processor(name))
        alone[name] = {entry["label"]: entry["mask"] for entry in standard(image)}
    black = Image.new("L", image.size)
    differ = np.zeros((image.height, image.width), dtype=bool)
    for label in pair.class_names:
        differ |= np.asarray(ImageChops.difference(alone["a"].get(label, black), alone["b"].get(label, black))) > 0
    assert differ.any()
    for entry, mask in zip(found, masks, strict=True):
        assert entry["disagreement"] == pytest.approx(differ[mask > 0].mean(), abs=1e-6)


def test_predicting_leaves_training_mode_and_random_state_alone(pair: ModelPair) -> None:
    """Guards against predictions in the middle of training that change the training mode or the random numbers drawn
    later."""
    pair.train()
    before = torch.get_rng_state()
    pair.pipeline()(noise(0))
    assert pair.model_a.training and pair.model_b.training and torch.equal(torch.get_rng_state(), before)
