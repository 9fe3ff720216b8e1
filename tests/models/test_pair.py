"""The pair: what is saved comes back, what is damaged is refused, and its scores are those of `pipeline()`."""

from __future__ import annotations

import copy
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    BitImageProcessor,
    SegformerImageProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hf_dmt.commands.opening import describe_masks
from hf_dmt.data.members import MEMBERS
from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.pair import PAIR_FILE, PEER_FOLDER, ModelPair, member_state
from hf_dmt.models.preprocessing import clean_inputs

from .conftest import build_member

CLASSES = ["ant", "bee", "cat"]
IMAGE_FAMILIES = ["vit", "swin", "dinov2", "resnet", "convnext"]
PIXEL_FAMILIES = ["segformer", "upernet", "dpt", "mobilenet", "beit"]
SEGMENTATION = "semantic-segmentation"


def state(pair: ModelPair) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pair.state_dict().items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


# ---- saved and loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_every_weight_comes_back(family, make_pair, tmp_path):
    """Guards against a tensor that is not loaded and stays random: scores drop, and nothing else shows it."""
    pair = make_pair(family, "resnet")
    pair.save_pretrained(tmp_path)
    opened, live = ModelPair.from_pretrained(tmp_path), make_pair(family, "resnet", seed=8)
    assert differing(state(live), state(pair))
    live.load_weights(tmp_path)
    assert differing(state(opened), state(pair)) == []
    assert differing(state(live), state(pair)) == []


@pytest.mark.parametrize("family", PIXEL_FAMILIES)
def test_every_weight_of_a_segmentation_pair_comes_back(family, make_pair, tmp_path):
    """Guards against unloaded weights in decoders and auxiliary heads, which have renamed tensors of their own."""
    pair = make_pair(family, "segformer", task=SEGMENTATION)
    pair.save_pretrained(tmp_path)
    opened, live = ModelPair.from_pretrained(tmp_path), make_pair(family, "segformer", task=SEGMENTATION, seed=8)
    live.load_weights(tmp_path)
    assert opened.task == SEGMENTATION
    assert differing(state(opened), state(pair)) == []
    assert differing(state(live), state(pair)) == []


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_loading_the_file_as_the_stock_trainer_does_leaves_weights_behind(family, build, make_pair, tmp_path):
    """Shows why `load_weights` is needed: the stock resume reads the raw file with strict=False and only warns."""
    make_pair(family, "resnet").save_pretrained(tmp_path)
    expected = make_pair(family, "resnet").model_a.state_dict()
    model, _ = build(family, seed=8)
    missed = model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False).missing_keys
    assert missed, "transformers writes the names it uses in memory now: stock resume may have been mended"
    assert any(not torch.equal(model.state_dict()[name], expected[name]) for name in missed)


def test_stock_classes_open_both_members(make_pair, tmp_path):
    """The root and `peer/` are standard checkpoints, which must open without any of our code."""
    pair = make_pair("vit", "resnet")
    pair.save_pretrained(tmp_path)
    root = AutoModelForImageClassification.from_pretrained(tmp_path)
    peer = AutoModelForImageClassification.from_pretrained(tmp_path, subfolder=PEER_FOLDER)
    for model, name in ((root, "a"), (peer, "b")):
        assert differing(model.state_dict(), pair.member(name).state_dict()) == []
        assert model.config.id2label == dict(enumerate(CLASSES))


@pytest.mark.parametrize("primary", MEMBERS)
def test_members_are_found_by_name_not_by_position(primary, make_pair, tmp_path):
    """Guards against loading by position: with b at the root it swaps the models, and two of one architecture would not
    even fail."""
    pair = make_pair("vit", "vit")
    pair.save_pretrained(tmp_path, primary=primary)
    live = make_pair("vit", "vit", seed=8)
    live.load_weights(tmp_path)
    opened = ModelPair.from_pretrained(tmp_path)
    assert differing(state(live), state(pair)) == []
    assert differing(state(opened), state(pair)) == []
    root = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert differing(root.state_dict(), pair.member(primary).state_dict()) == []
    assert json.loads((tmp_path / PAIR_FILE).read_text())["primary"] == primary


@pytest.mark.parametrize("primary", ["c", "../b", "peer", "A"])
def test_primary_is_a_or_b(primary, make_pair, tmp_path):
    """Guards against any other name than a or b, which would write both models into `peer/`, one over the other."""
    with pytest.raises(ValueError, match="primary must be 'a' or 'b'"):
        make_pair("vit", "resnet").save_pretrained(tmp_path, primary=primary)
    assert not list(tmp_path.iterdir())


def test_what_a_pair_is_survives_saving(make_pair, tmp_path):
    """Guards against losing the phase and the base models, which the report and a resumed run read back."""
    pair = make_pair("vit", "resnet")
    pair.metadata |= {"base_models": {"a": "x", "b": "y"}, "phase": 3}
    pair.save_pretrained(tmp_path)
    opened = ModelPair.from_pretrained(tmp_path)
    assert opened.metadata == pair.metadata
    assert (opened.task, opened.image_size, opened.class_names) == (pair.task, pair.image_size, CLASSES)
    assert opened.description() == pair.description()
    assert not list(tmp_path.glob("*.partial"))


def test_gathered_weights_are_split_by_member(make_pair, tmp_path):
    """Under FSDP the state arrives as one dictionary. Guards against saving the live shards instead."""
    pair, gathered = make_pair("vit", "resnet"), make_pair("vit", "resnet", seed=8).state_dict()
    pair.save_pretrained(tmp_path, state_dict=gathered)
    assert differing(state(ModelPair.from_pretrained(tmp_path)), gathered) == []
    assert set(member_state(gathered, "b")) == set(pair.model_b.state_dict())


def test_saving_does_not_push(make_pair, tmp_path):
    """Guards against the stock `push_to_hub=True`, with which each member would replace the other in the repository."""
    with pytest.raises(ValueError, match=r"not supported\. Use pair\.push_to_hub\('me/my-pair'\)"):
        make_pair("vit", "resnet").save_pretrained(tmp_path, push_to_hub=True, repo_id="me/pair")
    assert not list(tmp_path.iterdir())


def test_save_over_an_older_pair_cut_short_is_no_pair(make_pair, tmp_path):
    """Guards against a save killed between the two models: one new and one old model would open under the old
    description."""
    make_pair("vit", "resnet").save_pretrained(tmp_path)
    newer = make_pair("vit", "resnet", seed=8)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    newer.processor_b.save_pretrained = killed
    with pytest.raises(KeyboardInterrupt):
        newer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a pair"):
        ModelPair.from_pretrained(tmp_path)


def test_other_processes_write_nothing(make_pair, tmp_path):
    """Every process calls `save_pretrained`, but only the main one may write: two writers corrupt a file."""
    make_pair("vit", "resnet").save_pretrained(tmp_path / "pair", is_main_process=False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_saving_to_a_file_is_refused(make_pair, tmp_path):
    """transformers only logs this as an error and returns, so the weights of a long run would be lost."""
    (tmp_path / "pair").write_text("")
    with pytest.raises(ValueError, match="is a file, but a pair needs a folder"):
        make_pair("vit", "resnet").save_pretrained(tmp_path / "pair")


def test_half_precision_pair_opens_in_float32(make_pair, tmp_path):
    """Guards against a pair saved in float16 that goes on training in float16, where small updates vanish."""
    pair = make_pair("vit", "resnet")
    copy.deepcopy(pair).half().save_pretrained(tmp_path)
    opened = ModelPair.from_pretrained(tmp_path)
    assert {value.dtype for value in opened.parameters()} == {torch.float32}
    pair.load_weights(tmp_path)
    assert {value.dtype for value in pair.parameters()} == {torch.float32}
    assert differing(state(opened), state(pair)) == []


# ---- damaged folders ---------------------------------------------------------------------------------------------


def change_weights(file: Path, change) -> None:
    weights = {name: value.clone() for name, value in load_file(file).items()}
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def change_settings(folder: Path, **changes) -> None:
    settings = json.loads((folder / PAIR_FILE).read_text()) | changes
    (folder / PAIR_FILE).write_text(json.dumps(settings))


def drop_setting(folder: Path, name: str) -> None:
    settings = json.loads((folder / PAIR_FILE).read_text())
    del settings[name]
    (folder / PAIR_FILE).write_text(json.dumps(settings))


def grow(weights: dict[str, torch.Tensor], name: str) -> None:
    weights[name] = torch.cat([weights[name], weights[name]])


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def point_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    keys = load_file(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


ROOT_HEAD, PEER_HEAD = "classifier.weight", "classifier.1.weight"
DAMAGES = {
    "not a pair": (lambda pair: (pair / PAIR_FILE).unlink(), "not a pair"),
    "settings cut": (lambda pair: (pair / PAIR_FILE).write_text('{"format_version": 1, '), "is damaged"),
    "settings empty": (lambda pair: (pair / PAIR_FILE).write_text(""), "is damaged"),
    "settings a list": (lambda pair: (pair / PAIR_FILE).write_text("[]"), "is damaged"),
    "settings binary": (lambda pair: (pair / PAIR_FILE).write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "newer format": (lambda pair: change_settings(pair, format_version=2), "format 2.*pip install -U hf-dmt"),
    "newer format, other keys": (
        lambda pair: (pair / PAIR_FILE).write_text('{"format_version": 9}'),
        "format 9.*pip install -U hf-dmt",
    ),
    "no primary": (lambda pair: drop_setting(pair, "primary"), "it has no primary"),
    "primary a path": (lambda pair: change_settings(pair, primary="../../elsewhere"), "is damaged: .* but must be"),
    "unknown task": (lambda pair: change_settings(pair, task="translation"), "is damaged: .* but must be"),
    "no size": (lambda pair: change_settings(pair, image_size=0), "is damaged: .* but must be"),
    "size not a number": (lambda pair: change_settings(pair, image_size="wide"), "image_size is 'wide'"),
    "size a word": (lambda pair: change_settings(pair, image_size="16"), "is damaged: .* but must be"),
    "size a fraction": (lambda pair: change_settings(pair, image_size=2.7), "is damaged: .* but must be"),
    "size true": (lambda pair: change_settings(pair, image_size=True), "is damaged: .* but must be"),
    "size of a wall": (lambda pair: change_settings(pair, image_size=10**12), "is damaged: .* but must be"),
    "base models a list": (lambda pair: change_settings(pair, base_models=[1, 2]), "base_models is .* a map"),
    "phase a word": (lambda pair: change_settings(pair, phase="last"), "phase is 'last', but must be"),
    "settings nested": (lambda pair: (pair / PAIR_FILE).write_text("[" * 99_999), "is damaged.*nested"),
    "weights elsewhere": (lambda pair: point_outside(pair), "is outside the folder"),
    "member gone": (lambda pair: shutil.rmtree(pair / PEER_FOLDER), "peer"),
    "root weights gone": (lambda pair: (pair / "model.safetensors").unlink(), "could not be loaded"),
    "peer weights gone": (lambda pair: (pair / PEER_FOLDER / "model.safetensors").unlink(), "could not be loaded"),
    "root weights cut": (lambda pair: truncate(pair / "model.safetensors"), "could not be loaded"),
    "peer weights cut": (lambda pair: truncate(pair / PEER_FOLDER / "model.safetensors"), "could not be loaded"),
    "root pickled": (pickle_weights, "safetensors"),
    "peer pickled": (lambda pair: pickle_weights(pair / PEER_FOLDER), "safetensors"),
    "root tensor gone": (
        lambda pair: change_weights(pair / "model.safetensors", lambda weights: weights.pop(ROOT_HEAD)),
        "1 missing keys",
    ),
    "peer tensor gone": (
        lambda pair: change_weights(pair / PEER_FOLDER / "model.safetensors", lambda weights: weights.pop(PEER_HEAD)),
        "1 missing keys",
    ),
    "tensor too many": (
        lambda pair: change_weights(
            pair / "model.safetensors", lambda weights: weights.update(stray=torch.zeros(1))
        ),
        "1 unexpected keys",
    ),
    "root tensor misshapen": (
        lambda pair: change_weights(pair / "model.safetensors", lambda weights: grow(weights, ROOT_HEAD)),
        "could not be loaded|mismatched",
    ),
    "peer tensor misshapen": (
        lambda pair: change_weights(
            pair / PEER_FOLDER / "model.safetensors", lambda weights: grow(weights, PEER_HEAD)
        ),
        "could not be loaded|mismatched",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> tuple[Path, ModelPair, dict[str, torch.Tensor]]:
    """A saved pair, another pair of the same architectures, and the weights of that one."""
    folder, members = tmp_path_factory.mktemp("intact"), [build_member("vit"), build_member("resnet")]
    pair = ModelPair(*(model for model, _ in members), *(processor for _, processor in members))
    pair.save_pretrained(folder)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(1)
    return folder, pair, state(pair)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_pair_is_refused(damage, intact, tmp_path):
    """A pair is loaded whole or refused: half a pair would be trained or published without an error."""
    (folder, live, before), (spoil, message) = intact, DAMAGES[damage]
    damaged = shutil.copytree(folder, tmp_path / "pair")
    spoil(damaged)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        ModelPair.from_pretrained(damaged)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        live.load_weights(damaged)
    changed = differing(state(live), before)
    live.load_state_dict(before)
    if "peer" not in damage and "member" not in damage:
        assert changed == []


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        ({"num_labels": 10**9, "id2label": None}, "1000000000 classes, but at most 65536"),
        ({"num_labels": "three"}, "num_labels is 'three'"),
        ({"id2label": ["a", "b", "c"]}, "id2label is not a map"),
        ({"id2label": {"zero": "cat"}}, "id2label is not a map"),
        (None, "nested too deeply"),
    ],
)
def test_a_configuration_that_would_fill_the_memory_is_not_built(intact, tmp_path, spoiled, says):
    """Guards against a stranger's config.json with a billion classes, which fills a table of that size as soon as it is
    read."""
    damaged = shutil.copytree(intact[0], tmp_path / "pair")
    file = damaged / PEER_FOLDER / "config.json"
    text = json.dumps(json.loads(file.read_text()) | spoiled) if spoiled else '{"a": ' + "[" * 99_999
    file.write_text(text)
    with pytest.raises(CheckpointError, match=says):
        ModelPair.from_pretrained(damaged)
    with pytest.raises(CheckpointError, match=says):
        ModelPair.from_models(damaged / PEER_FOLDER, damaged, id2label={0: "x", 1: "y"})


def test_weights_of_other_architectures_are_refused(make_pair, tmp_path):
    """A resume with the two models swapped on the command line must fail, not load whatever happens to fit."""
    make_pair("vit", "resnet").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        make_pair("resnet", "vit").load_weights(tmp_path)


def test_missing_processor_is_refused(make_pair, tmp_path):
    """Guards against `subfolder=` falling back to the processor of the root, with which the peer would see other
    colors."""
    make_pair("vit", "resnet").save_pretrained(tmp_path)
    (tmp_path / PEER_FOLDER / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="no usable image processor"):
        ModelPair.from_pretrained(tmp_path)


# ---- built from two models ---------------------------------------------------------------------------------------


def test_label_maps_that_differ_are_refused(build, checkpoint):
    """Guards against models with different class ids: if class 1 of a is class 0 of b, each teaches the other wrong
    labels."""
    (vit, vit_processor), (resnet, resnet_processor) = build("vit"), build("resnet", ["bee", "ant", "cat"])
    with pytest.raises(ValueError, match="class 0 is 'ant' in a and 'bee' in b"):
        ModelPair(vit, resnet, vit_processor, resnet_processor)
    a, b = checkpoint("vit"), checkpoint("resnet", names=["ant", "bee"])
    with pytest.raises(ValueError, match=r"a has 3 classes, b has 2.*`id2label`"):
        ModelPair.from_models(a, b)


def test_agreeing_label_maps_need_no_classes(checkpoint, build):
    """Two models fine-tuned on the same classes must keep their heads."""
    pair = ModelPair.from_models(checkpoint("vit", seed=3), checkpoint("resnet", seed=4))
    assert pair.class_names == CLASSES
    assert torch.equal(pair.model_a.classifier.weight, build("vit", seed=3)[0].classifier.weight)
    assert pair.fresh == {"a": set(), "b": set()}


def test_class_ids_in_any_order_keep_their_names(checkpoint):
    """Guards against renumbering a map such as {1: ..., 0: ...} by position."""
    pair = ModelPair.from_models(checkpoint("vit"), "tiny:resnet", id2label={2: "z", 0: "x", 1: "y"})
    assert pair.class_names == ["x", "y", "z"]
    assert pair.model_b.config.label2id == {"x": 0, "y": 1, "z": 2}


def test_class_ids_as_text_are_numbers(build):
    """Guards against sorting the ids of a model that was loaded with a map from JSON as text: 10 comes before 2, and
    every class from the third on has the name of another. Ids with a gap would be renumbered."""
    members = [build("vit", [f"c{index}" for index in range(12)]) for _ in range(2)]
    for model, _ in members:
        model.config.id2label = {str(index): name for index, name in model.config.id2label.items()}
    (a, processor_a), (b, processor_b) = members
    assert ModelPair(a, b, processor_a, processor_b).class_names == [f"c{index}" for index in range(12)]
    b.config.id2label = {index + 1: name for index, name in b.config.id2label.items()}
    with pytest.raises(ValueError, match=r"Class ids must be the integers 0, 1, 2, \.\.\., got \[1, 2"):
        ModelPair(a, b, processor_a, processor_b)


def test_a_full_disk_is_said_with_the_file(make_pair, tmp_path):
    """Guards against an error class of safetensors, which nobody catches at the end of a run."""
    pair, (soft, hard) = make_pair("vit", "resnet"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError, match=rf"^Cannot write model.safetensors in {tmp_path} \(.*Free disk space"):
            pair.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_members_from_one_checkpoint_get_different_heads(checkpoint):
    """Guards against two equal models, which agree on everything and teach each other nothing."""
    folder = checkpoint("resnet")
    pair = ModelPair.from_models(folder, folder, id2label={0: "x", 1: "y"})
    a, b = pair.model_a.state_dict(), pair.model_b.state_dict()
    assert set(differing(a, b)) <= {"classifier.1.weight", "classifier.1.bias"}
    assert "classifier.1.weight" in differing(a, b)


def test_builtin_members_need_classes():
    """A built-in model has no classes, so `id2label` must be asked for."""
    with pytest.raises(ValueError, match="give id2label="):
        ModelPair.from_models("tiny:vit", "tiny:resnet")


@pytest.mark.parametrize(
    ("a", "task", "message"),
    [
        ("nobody/no-such-model", "image-classification", "'nobody/no-such-model'"),
        ("tiny:vti", "image-classification", "'tiny:vti'"),
        ("tiny:segformer", "image-classification", "an embedded model for semantic-segmentation"),
        ("", "image-classification", "''"),
        ("tiny:vit", "detection", "Unknown task 'detection'"),
    ],
)
def test_unusable_models_are_named(a, task, message):
    """The error must repeat what was given, so that a user sees which of the two models is meant."""
    with pytest.raises(ValueError, match=message):
        ModelPair.from_models(a, "tiny:resnet", task=task, id2label={0: "x", 1: "y"})


@pytest.mark.parametrize("size", [None, 48])
def test_image_size_reaches_the_views_and_the_saved_processors(size, checkpoint, tmp_path):
    """Guards against an image size that only training uses and that is not saved: `pipeline()` would give other
    scores."""
    pair = ModelPair.from_models(checkpoint("vit"), checkpoint("convnext"), id2label=["x", "y"], image_size=size)
    pair.save_pretrained(tmp_path)
    for one in (pair, ModelPair.from_pretrained(tmp_path)):
        assert one.image_size == (size or 32)
        assert one.view_a.size == (32, 32), "a ViT keeps the size it was trained at"
        assert one.view_b.size == (size or 32, size or 32)
    image = Image.new("RGB", (70, 50))
    assert clean_inputs(ModelPair.from_pretrained(tmp_path).processor_b, [image])[0].shape[-1] == (size or 32)


# ---- scores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_scores_are_those_of_the_standard_pipeline(family, make_pair, photographs, tmp_path):
    """The scores on a model card must be those a user gets: 32 images of eight sizes go through the pair and
    `pipeline()`, for root and peer."""
    pair = make_pair(family, "resnet")
    pair.save_pretrained(tmp_path)
    for name, folder in (("a", tmp_path), ("b", tmp_path / PEER_FOLDER)):
        classify = pipeline("image-classification", model=str(folder))
        rows = [{entry["label"]: entry["score"] for entry in row} for row in classify(photographs, top_k=3)]
        expected = torch.tensor([[row[label] for label in CLASSES] for row in rows])
        with torch.no_grad():
            logits = pair.clean_logits(name, torch.stack(clean_inputs(pair.processor(name), photographs)))
        torch.testing.assert_close(logits.softmax(dim=1), expected, atol=1e-5, rtol=1e-4)
        assert expected.std(dim=0).max() > 1e-4, "images that all score alike compare nothing"


def test_calling_the_pair_does_the_full_geometry(make_pair, photographs):
    """`pair(pixel_values)` is for clean images: each is resized and cropped by the model's processor, not as a training
    view."""
    pair = make_pair("dinov2", "convnext")
    image = photographs[4]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        logits = pair(pixels)
        for name in MEMBERS:
            expected = pair.clean_logits(name, torch.stack(clean_inputs(pair.processor(name), [image])))
            torch.testing.assert_close(logits[name], expected, atol=1e-6, rtol=0)
        views = pair(a=pixels, b=pixels)
    assert not torch.allclose(views["a"], logits["a"], atol=1e-6), "a crop that changes nothing compares nothing"


def test_each_member_sees_its_own_view(make_pair):
    """Guards against swapped views: each model would be trained on the other's labels and crops."""
    pair = make_pair("vit", "resnet")
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        both, other = pair(a=a, b=b), pair(a=a, b=a)
    assert torch.equal(both["a"], other["a"])
    assert not torch.equal(both["b"], other["b"])


def test_wrong_calls_say_what_is_missing(make_pair):
    """Guards against integer images, which would all be clamped to white, and against a call without images that
    returns no logits and no error."""
    pair = make_pair("vit", "resnet")
    with pytest.raises(ValueError, match=r"float in \[0, 1\]"):
        pair(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a view for each member"):
        pair()


@pytest.mark.parametrize("way", ["autocast", "weights"])
@pytest.mark.parametrize("task", ["image-classification", SEGMENTATION])
def test_bfloat16_stays_near_float32(way, task, make_pair):
    """`--bf16` (weights in float32) and a pair moved to bfloat16 must give no dtype error and nearly the same
    scores."""
    families = ("vit", "resnet") if task == "image-classification" else ("segformer", "upernet")
    pair = make_pair(*families, task=task)
    view = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected, expected_clean = pair(a=view, b=view), pair(view)
        if way == "weights":
            pair.to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "autocast"):
            got, got_clean = pair(a=view, b=view), pair(view)
    for name in MEMBERS:
        for result, reference in ((got, expected), (got_clean, expected_clean)):
            assert result[name].shape == reference[name].shape
            error = (result[name].float() - reference[name]).abs().max()
            assert error < 0.05 * max(1.0, reference[name].abs().max())


# ---- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("families", [(family, family) for family in PIXEL_FAMILIES] + [("upernet", "mobilenet")])
def test_logits_of_any_stride_come_at_the_label_resolution(families, make_pair):
    """Logits at stride 2, 4, 8 or 1, some beside an auxiliary head, must get the label resolution: the loss needs one
    shape."""
    pair = make_pair(*families, task=SEGMENTATION)
    view, wide = torch.rand(2, 3, 32, 32), torch.rand(1, 3, 40, 72)
    with torch.no_grad():
        views, clean = pair(a=view, b=view), pair(wide)
    for name in MEMBERS:
        assert views[name].shape == (2, 3, 32, 32)
        assert clean[name].shape == (1, 3, 40, 72)


@pytest.mark.parametrize("family", PIXEL_FAMILIES)
def test_logits_lie_where_the_image_does(family, make_pair):
    """Guards against swapped rows and columns, or patches folded into a square: the shapes stay right, every pixel is
    wrong."""
    pair = make_pair(family, family, task=SEGMENTATION)
    base = torch.full((1, 3, 48, 144), 0.5)
    patch = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))

    def center_of_change(columns: slice) -> float:
        touched = base.clone()
        touched[..., 2:18, columns] = patch
        with torch.no_grad():
            change = (pair(touched)["a"] - pair(base)["a"]).abs().sum(dim=(0, 1, 2))
        return float(change @ torch.arange(144.0) / change.sum())

    # Only along the longer side: a random network spreads a change over the few patches of the shorter side. The pooled
    # branch of DeepLab changes every pixel and so pulls both centers to the middle; they are still 4 pixels apart.
    assert center_of_change(slice(4, 24)) + 2 < center_of_change(slice(120, 140))


def test_enlarged_logits_are_float32_under_autocast(make_pair):
    """Guards against interpolating in bfloat16: neighboring pixels tie, and the argmax depends on the order of the
    classes."""
    pair = make_pair("segformer", "mobilenet", task=SEGMENTATION)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = pair(a=torch.rand(1, 3, 32, 32), b=torch.rand(1, 3, 32, 32))
    assert {value.dtype for value in logits.values()} == {torch.float32}


def test_cropping_processor_is_refused_for_pixels_only(build):
    """A cropping processor must be refused for masks, whose labels would no longer match the pixels. For one label per
    image it may crop; most pretrained classifiers do."""
    model, _ = build("segformer")
    crop = BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    with pytest.raises(ValueError, match="BitImageProcessor crops or pads images"):
        ModelPair(model, model, SegformerImageProcessor(), crop, task=SEGMENTATION)
    (a, own), (b, _) = build("vit"), build("vit", seed=1)
    assert ModelPair(a, b, own, crop)(torch.rand(1, 3, 40, 60))["b"].shape == (1, len(CLASSES))


@pytest.mark.parametrize("family", PIXEL_FAMILIES)
def test_segmentation_checkpoints_become_a_pair(family, checkpoint):
    """Each processor of a checkpoint, even a cropping one, must be changed to give whole images at the shared size."""
    pair = ModelPair.from_models(
        checkpoint(family), "tiny:segformer", task=SEGMENTATION, id2label={0: "x", 1: "y"}, image_size=48
    )
    with torch.no_grad():
        logits = pair(torch.rand(1, 3, 50, 90))
    assert {value.shape for value in logits.values()} == {(1, 2, 50, 90)}


# ---- what the Trainer relies on ----------------------------------------------------------------------------------


def test_state_has_the_members_tensors_and_no_more(make_pair):
    """Guards against keys of normalizers or other helpers in the state: when these change, old optimizer states become
    unreadable."""
    pair = make_pair("vit", "resnet")
    expected = {f"model_{name}.{key}" for name in MEMBERS for key in pair.member(name).state_dict()}
    assert set(pair.state_dict()) == expected


def test_copy_is_independent(make_pair):
    """Guards against a shallow copy that shares weights: an average or a second run would train the first pair."""
    pair = make_pair("vit", "resnet")
    before, twin = state(pair), copy.deepcopy(pair)
    assert differing(state(twin), before) == []
    with torch.no_grad():
        for value in twin.parameters():
            value.add_(1)
    assert differing(state(pair), before) == []
    view = torch.rand(1, 3, 32, 32)
    assert twin(a=view, b=view)["a"].shape == (1, 3)


def test_new_pair_is_in_eval_mode(build):
    """A new pair is in eval mode, as after `from_pretrained`: with dropout on, the first predictions would be noise."""
    (vit, vit_processor), (resnet, resnet_processor) = build("vit"), build("resnet")
    pair = ModelPair(vit.train(), resnet.train(), vit_processor, resnet_processor)
    assert not any(module.training for module in pair.modules())


def test_trainer_reads_what_it_needs(make_pair, tmp_path):
    """Each attribute is read somewhere in the Trainer or its callbacks, some only at the end of a run."""
    pair = make_pair("vit", "swin")
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    trainer = Trainer(pair, arguments)
    assert trainer.model_accepts_loss_kwargs is False
    assert pair.main_input_name == "pixel_values"
    assert pair._keys_to_ignore_on_save is None
    assert pair.config is pair.model_a.config
    assert pair.num_parameters() == sum(value.numel() for value in pair.parameters())
    assert pair.num_parameters(only_trainable=True) == pair.num_parameters()
    assert set(pair._no_split_modules) == {name for member in MEMBERS for name in pair.member(member)._no_split_modules}
    assert pair.device.type == "cpu"
    trainer.create_model_card()
    assert (tmp_path / "README.md").is_file()


def test_activation_checkpointing_reaches_both_members(make_pair):
    """Guards against activation checkpointing that reaches one model only, so that the other keeps its activations, and
    against changed gradients."""
    pair = make_pair("vit", "swin").train()
    view = torch.rand(2, 3, 32, 32)

    def gradients() -> list[torch.Tensor]:
        pair.zero_grad()
        torch.manual_seed(0)
        logits = pair(a=view, b=view)
        (logits["a"].square().sum() + logits["b"].square().sum()).backward()
        return [value.grad.clone() for value in pair.parameters() if value.grad is not None]

    plain = gradients()
    pair.gradient_checkpointing_enable({"use_reentrant": False})
    assert all(
        getattr(pair.member(name), "is_activation_checkpointing", False)
        or getattr(pair.member(name), "is_gradient_checkpointing", False)
        for name in MEMBERS
    )
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_redraw_takes_the_head_of_a_pretrained_member(checkpoint):
    """A head that was kept from the checkpoint is still a head: `restart=initial` must draw it again."""
    pair = ModelPair.from_models(checkpoint("vit", seed=3), checkpoint("resnet", seed=4))
    before = state(pair)
    pair.redraw("b", 7)
    assert set(differing(state(pair), before)) <= {"model_b.classifier.1.weight", "model_b.classifier.1.bias"}
    assert differing(state(pair), before)


def test_a_pair_describes_the_run_and_not_its_base(build, tmp_path):
    """Guards against `pipeline()` scores that sum to 1.5 after a multi-label base model, against masks shifted by one
    class when the pair is trained further, and against a class that the model's own loss leaves out as void."""
    vit, processor = build("vit")
    vit.config.problem_type = "multi_label_classification"
    folder = tmp_path / "vit"
    vit.save_pretrained(folder)
    processor.save_pretrained(folder)
    pair = ModelPair.from_models(folder, folder, id2label={0: "x", 1: "y", 2: "z"})
    pair.save_pretrained(tmp_path / "pair")
    config = json.loads((tmp_path / "pair" / "config.json").read_text())
    assert config.get("problem_type") is None
    segformer, processor = build("segformer")
    processor.do_reduce_labels = True
    segformer.config.semantic_loss_ignore_index = 0
    segformer.save_pretrained(tmp_path / "seg")
    processor.save_pretrained(tmp_path / "seg")
    source = tmp_path / "seg"
    pair = ModelPair.from_models(source, source, task="semantic-segmentation", id2label={0: "x", 1: "y", 2: "z"})
    assert not pair.processor_a.do_reduce_labels and not pair.processor_b.do_reduce_labels
    assert describe_masks(pair, True) == []
    assert pair.model_a.config.semantic_loss_ignore_index == 255
    pair.save_pretrained(tmp_path / "reduced")
    again = ModelPair.from_pretrained(tmp_path / "reduced")
    assert again.processor_b.do_reduce_labels
    assert any("pass `reduce_labels`" in note for note in describe_masks(again, False)), "now 0 is a class"


def test_a_checkpoint_without_a_processor_takes_the_one_that_is_given(build, tmp_path):
    """Guards against the advice to save an image processor beside a checkpoint for which one was passed: a Trainer
    without `processing_class` saves none."""
    vit, processor = build("vit")
    vit.save_pretrained(tmp_path)
    names = ["x", "y", "z"]
    with pytest.raises(ValueError, match="has no usable image processor"):
        ModelPair.from_models(tmp_path, "tiny:resnet", id2label=names)
    pair = ModelPair.from_models(tmp_path, "tiny:resnet", processor_a=processor, id2label=names)
    assert pair.processor_a.image_mean == processor.image_mean


def test_names_that_a_base_has_twice(build, tmp_path):
    """Guards against duplicate class names, such as ImageNet's two cranes: the second could be neither chosen nor told
    apart in a report."""
    vit, processor = build("vit")
    names = ["hen", "crane", "crane"]
    vit.config.id2label, vit.config.label2id = dict(enumerate(names)), {name: at for at, name in enumerate(names)}
    pair = ModelPair(vit, copy.deepcopy(vit), processor, processor)
    assert pair.class_names == ["hen", "crane", "crane (2)"]
    assert pair.config.label2id == {"hen": 0, "crane": 1, "crane (2)": 2}
    with pytest.raises(ValueError, match="Two classes are called 'crane'"):
        ModelPair.from_models(tmp_path, tmp_path, id2label=dict(enumerate(names)))
