"""The galleries of a run: which unlabeled images are kept for people to look at, and what is recorded about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from small_runs import images, make_pair, scenes

from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.data.palette import VOID, class_colors, paint
from hf_dmt.method import dynamic_weights, pseudo_label
from hf_dmt.training.labeling import label_pass
from hf_dmt.training.labeling.gallery import SHOWN_IMAGES, SHOWN_MASKS, keep_gallery
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.settings.knobs import Knobs

FACTS = {"phase": 1, "ratio": 0.5}


def gallery_of(folder: Path, pair: Any, unlabeled: Any) -> dict[str, Any]:
    """Makes the labels of phase 1 and their gallery; returns the content of its file."""
    label = label_pass.label_images if pair.task == "image-classification" else label_pass.label_pixels
    loop, knobs = CleanPass(pair, Accelerator(cpu=True), 7), Knobs()
    store = label_pass.phase_folder(folder, 1)
    label(loop, unlabeled, store, knobs=knobs, facts=FACTS)
    keep_gallery(1, folder, loop, unlabeled, knobs)
    found: dict[str, Any] = json.loads((folder / "gallery" / "phase-1" / "gallery.json").read_text())
    return found


def test_images_are_the_strongest_contradictions_with_what_was_said_of_them(tmp_path: Path) -> None:
    """Guards against showing the labels of another image or swapping those of a and b, and against losing a true
    label."""
    pair, unlabeled = make_pair("vit", "resnet"), images(90)
    found = gallery_of(tmp_path, pair, unlabeled)
    stored = {name: ImageLabels.read(label_pass.phase_folder(tmp_path, 1) / name) for name in "ab"}
    differ = stored["a"].labels != stored["b"].labels
    assert found["agree"] == pytest.approx(1 - differ.mean())
    assert len(found["images"]) == min(SHOWN_IMAGES, differ.sum()) > 3
    strength = np.minimum(stored["a"].confidence, stored["b"].confidence)
    rows = [image["row"] for image in found["images"]]
    assert list(strength[rows]) == sorted(strength[differ], reverse=True)[: len(rows)]
    for image in found["images"]:
        row = image["row"]
        assert image["id"] == str(row) and image["truth"] == unlabeled[row]["label"]
        shown = np.asarray(Image.open(tmp_path / "gallery" / "phase-1" / image["file"]))
        assert np.array_equal(shown, np.asarray(unlabeled[row]["image"]))
        for name in "ab":
            said = {"label": stored[name].labels[row], "confidence": pytest.approx(stored[name].confidence[row])}
            assert image[name] == said


def weights_of(logits: dict[str, torch.Tensor], maker: str, row: int) -> np.ndarray:
    """The weights that the student gives to the labels of `maker`."""
    labels, confidence, _ = pseudo_label(logits[maker][row : row + 1])
    student = logits["b" if maker == "a" else "a"][row : row + 1]
    return dynamic_weights(student, labels, confidence, gamma1=5, gamma2=5)[0].numpy()


def test_maps_are_those_of_the_store(tmp_path: Path) -> None:
    """Guards against a map of the other model or of another image, the weights that a model gives its own labels, and
    other colors."""
    pair, unlabeled = make_pair("segformer", "segformer"), scenes(12, seed=1)
    found = gallery_of(tmp_path, pair, unlabeled)
    stored = {name: PixelLabels.read(label_pass.phase_folder(tmp_path, 1) / name) for name in "ab"}
    assert len(found["images"]) == SHOWN_MASKS
    folder = tmp_path / "gallery" / "phase-1"
    pixels = {file.name: np.asarray(Image.open(file)) for file in folder.glob("*.png")}
    [everything] = CleanPass(pair, Accelerator(cpu=True), 12).run(unlabeled, title="", shorter_side=16)
    for image in found["images"]:
        maps = {name: stored[name].codes(image["row"])[0] for name in "ab"}
        for name in "ab":
            assert np.array_equal(pixels[image[name]["labels_file"]], np.asarray(paint(maps[name], 3)))
            weight = weights_of(everything.logits, name, image["row"])
            assert np.abs(pixels[image[name]["weight_file"]] / 255 - weight).max() < 0.01
            assert image[name]["weight"] == pytest.approx(weight.mean(), abs=1e-3)
        assert image["differ"] == pytest.approx((maps["a"] != maps["b"]).mean())
        truth = unlabeled[image["row"]]["mask"]
        assert np.array_equal(pixels[image["truth"]], np.asarray(paint(truth, 3)))
        assert set(image["classes"]) == {*np.unique(truth), *np.unique(maps["a"]), *np.unique(maps["b"])} - {-100}
    differ = [(stored["a"].codes(row)[0] != stored["b"].codes(row)[0]).mean() for row in range(12)]
    assert found["agree"] == pytest.approx(1 - np.mean(differ))


def test_without_truth_none_is_shown(tmp_path: Path) -> None:
    """Guards against showing an image without a label as one of class 0, or as void everywhere."""
    for folder, pair, unlabeled in (
        (tmp_path / "images", make_pair("vit", "resnet"), images(20)),
        (tmp_path / "pixels", make_pair("segformer", "segformer"), scenes(4)),
    ):
        found = gallery_of(folder, pair, unlabeled.without_truth())
        assert found["images"] and all(image["truth"] is None for image in found["images"])


def test_large_images_become_thumbnails(tmp_path: Path) -> None:
    """Guards against a gallery of full-size photos: the report would have hundreds of megabytes and never open."""
    unlabeled = images(20)
    for item in unlabeled:
        item["image"] = item["image"].resize((1200, 800))
    found = gallery_of(tmp_path, make_pair("vit", "resnet"), unlabeled)
    for image in found["images"]:
        file = tmp_path / "gallery" / "phase-1" / image["file"]
        assert Image.open(file).size == (224, 149) and file.stat().st_size < 20_000


@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_every_class_has_a_color_of_its_own(count: int) -> None:
    """Guards against two classes of one color, or a class in the color of void, which no map can tell apart."""
    colors = {tuple(color) for color in class_colors(count).tolist()}
    assert len(colors) == count and VOID not in colors
