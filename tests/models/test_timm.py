"""timm models as members: processed, classified, saved and opened again as transformers' own wrapper does it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from timm.models._hub import save_for_hf
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor, pipeline
from transformers.utils import is_timm_available

from hf_dmt import ModelPair
from hf_dmt.models.heads import class_tensors
from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.preprocessing import clean_inputs
from tests.hub_server import HubServer
from tests.training.small_runs import assert_same, state_of

from .timm_checkpoints import FAMILIES, save_timm

NAMES = {0: "cat", 1: "dog"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("timm")
    return {family: str(save_timm(family, root / family, seed=n)) for n, family in enumerate(FAMILIES)}


@pytest.mark.parametrize("family", FAMILIES)
def test_clean_logits_are_those_of_the_wrapper_after_a_round_trip(
    family: str, saved: dict[str, str], photographs: list[Image.Image], tmp_path: Path
) -> None:
    """Guards against another crop, interpolation, mean or std than the checkpoint's, and against weights or class names
    lost on disk."""
    pair = ModelPair.from_models(saved[family], saved["resnet"])
    assert pair.class_names == ["ant", "bee", "cat"] and pair.fresh["a"] == set(), "its own head is kept"
    pair.save_pretrained(tmp_path, primary="b")
    with torch.no_grad():
        ours = pair.clean_logits("a", torch.stack(clean_inputs(pair.processor_a, photographs)))
        # transformers cannot open the first checkpoint for comparison: it does not take the num_classes of timm.
        expected = timm.create_model(f"local-dir:{saved[family]}", pretrained=True).eval()(
            AutoImageProcessor.from_pretrained(saved[family], backend="pil")(photographs)["pixel_values"]
        )
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        model = AutoModelForImageClassification.from_pretrained(tmp_path, subfolder="peer").eval()
        processor = AutoImageProcessor.from_pretrained(tmp_path, subfolder="peer")
        torch.testing.assert_close(model(**processor(photographs)).logits, expected, atol=1e-5, rtol=1e-5)
    assert expected.std(dim=0).max() > 1e-3, "images that all score alike compare nothing"
    again = ModelPair.from_pretrained(tmp_path)
    assert again.class_names == pair.class_names
    assert_same(state_of(again), state_of(pair))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_head_is_the_only_thing_drawn(family: str, saved: dict[str, str]) -> None:
    """Guards against a backbone that stays random because the wrapper's prefix covers the head too."""
    pair = ModelPair.from_models(saved[family], "tiny:resnet", id2label=NAMES)
    head = pair.fresh["a"]
    assert head == class_tensors(pair.model_a) and 1 <= len(head) <= 2
    weights = timm.create_model(f"local-dir:{saved[family]}", pretrained=True).state_dict()
    kept = {key.removeprefix("timm_model."): value for key, value in pair.model_a.state_dict().items()}
    assert_same(
        {key: value for key, value in kept.items() if f"timm_model.{key}" not in head},
        {key: value for key, value in weights.items() if f"timm_model.{key}" not in head},
    )


def test_a_checkpoint_without_a_head_gets_one(tmp_path: Path) -> None:
    """timm's DINOv3 has no classes at all: its missing head must not look like a damaged file."""
    folder = save_timm("dinov3", tmp_path / "features", names=())
    pair = ModelPair.from_models(folder, "tiny:resnet", id2label=NAMES)
    assert pair.fresh["a"] == {"timm_model.head.weight", "timm_model.head.bias"}


def test_names_as_timm_has_them(saved: dict[str, str]) -> None:
    """Guards against looking up an id from a timm script unchanged: prefixes must be understood, and a bare name must
    be answered with the full id."""
    pair = ModelPair.from_models(f"hf-hub:{saved['resnet']}", f"local-dir:{saved['vit']}", id2label=NAMES)
    assert pair.metadata["base_models"] == {"a": "resnet", "b": "vit"}
    with pytest.raises(CheckpointError, match=r"has its owner in its id: timm/resnet50\.a1_in1k"):
        ModelPair.from_models("resnet50.a1_in1k", "tiny:vit", id2label=NAMES)


def test_a_model_for_other_channels_is_refused(tmp_path: Path) -> None:
    """Guards against advice about sizes for a model whose problem is that it takes one channel."""
    model = timm.create_model("test_resnet", num_classes=2, in_chans=1)
    save_for_hf(model, tmp_path, model_config={"model_args": {"in_chans": 1}}, safe_serialization=True)
    with pytest.raises(ValueError, match=r"takes images of 1 channel\(s\), but a pair sees RGB"):
        ModelPair.from_models(tmp_path, "tiny:vit", id2label=NAMES)


def test_a_lost_tensor_is_an_error(saved: dict[str, str], tmp_path: Path) -> None:
    """Guards against a layer that stays random because its tensor is missing."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "damaged"
    folder.mkdir()
    weights = load_file(Path(saved["convnext"]) / "model.safetensors")
    del weights["stem.0.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text((Path(saved["convnext"]) / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"1 tensors are not loaded, such as 'timm_model.stem.0.weight'"):
        ModelPair.from_models(folder, "tiny:resnet", id2label=NAMES)


def test_image_size_is_saved_where_timm_reads_it(saved: dict[str, str], tmp_path: Path) -> None:
    """Guards against `pipeline()` scoring at the old size because timm's processor has no file of its own."""
    pair = ModelPair.from_models(saved["convnext"], saved["vit"], id2label=NAMES, image_size=48)
    assert pair.view_a.size == (48, 48)
    pair.save_pretrained(tmp_path)
    image = Image.new("RGB", (90, 60), "teal")
    assert AutoImageProcessor.from_pretrained(tmp_path)(image)["pixel_values"].shape[-2:] == (48, 48)
    assert timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}"))["input_size"] == (3, 48, 48)


def test_from_the_hub_to_the_hub(hub: HubServer, saved: dict[str, str], tmp_path: Path) -> None:
    """Guards against a repository that opens with the processor of the model that was at its root before."""
    api = HfApi(token="hf_mine")
    api.create_repo("me/resnet10t.a1_in1k")
    ModelCard("---\nlicense: mit\n---\n").save(tmp_path / "README.md")
    api.upload_folder(repo_id="me/resnet10t.a1_in1k", folder_path=saved["resnet"])
    api.upload_file(path_or_fileobj=tmp_path / "README.md", path_in_repo="README.md", repo_id="me/resnet10t.a1_in1k")
    pair = ModelPair.from_models("me/resnet10t.a1_in1k", "tiny:vit", id2label=NAMES)
    assert pair.metadata["base_commits"]["a"]
    pair.primary = "b"
    pair.push_to_hub("me/pair", token="hf_mine")
    pair.primary = "a"
    pair.push_to_hub("me/pair", token="hf_mine")
    picture = Image.linear_gradient("L").convert("RGB")
    expected = {entry["label"]: entry["score"] for entry in pair.pipeline()(picture)}
    card = ModelCard.load("me/pair")
    assert "| timm test\\_resnet (`TimmWrapperForImageClassification`) |" in card.text
    assert {"timm", "hf-dmt"} <= set(card.data.tags) and card.data.base_model == ["me/resnet10t.a1_in1k"]
    for options in ({}, {"model_kwargs": {"subfolder": "peer"}}):
        scores = pipeline("image-classification", "me/pair", **options)(picture)
        assert {entry["label"] for entry in scores} == set(expected)
    assert type(AutoImageProcessor.from_pretrained("me/pair")).__name__ == "TimmWrapperImageProcessor"
    assert_same(state_of(ModelPair.from_pretrained("me/pair")), state_of(pair))


def test_another_models_processor_is_refused(saved: dict[str, str]) -> None:
    """Guards against a processor that training uses but `pipeline()` does not find."""
    pair = ModelPair.from_models(saved["resnet"], "tiny:vit", id2label=NAMES)
    for processor_a, processor_b in (
        (ViTImageProcessor(), pair.processor_b),
        (pair.processor_a, pair.processor_a),
    ):
        with pytest.raises(ValueError, match="image processor of its own checkpoint"):
            ModelPair(pair.model_a, pair.model_b, processor_a, processor_b)


def test_without_timm_one_sentence_says_what_to_install(
    saved: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """If timm is missing, one sentence must say what to install; another package's traceback does not help."""
    find = importlib.util.find_spec

    def without_timm(name: str, package: str | None = None) -> Any:
        return None if name.split(".")[0] == "timm" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_timm)
    monkeypatch.setitem(sys.modules, "timm", None)
    is_timm_available.cache_clear()
    request.addfinalizer(is_timm_available.cache_clear)
    with pytest.raises(CheckpointError, match=r"pip install 'hf-dmt\[timm\]'"):
        ModelPair.from_models(saved["resnet"], "tiny:vit", id2label={0: "x"})


def test_the_saved_configuration_has_one_set_of_class_names(saved: dict[str, str], tmp_path: Path) -> None:
    """Guards against a configuration with the first checkpoint's names and the new number of classes: opened, the
    classes are called `LABEL_0` and so on."""
    pair = ModelPair.from_models(saved["efficientnet"], "tiny:resnet", id2label=NAMES)
    pair.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["label_names"], config["num_classes"]) == (["cat", "dog"], 2)
    assert "num_classes" not in (config["model_args"] or {})
