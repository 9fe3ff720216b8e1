"""Loading one model: every weight is loaded or drawn on purpose, and an unusable checkpoint says why."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerForImageClassification, ViTConfig, ViTModel

from hf_dmt.models import class_names, loading
from hf_dmt.models.heads import class_tensors, redraw
from hf_dmt.models.loading import CheckpointError

CLASSES = ["ant", "bee", "cat"]
IMAGE_FAMILIES = ["vit", "swin", "dinov2", "resnet", "convnext"]
PIXEL_FAMILIES = ["segformer", "upernet", "dpt", "mobilenet", "beit"]


def task_of(family: str) -> str:
    return "image-classification" if family in IMAGE_FAMILIES else "semantic-segmentation"


def load(source: str, names: list[str] | None = None, *, task: str = "image-classification", seed: int = 0):
    return loading.load_for_classes(
        source, task, dict(enumerate(CLASSES if names is None else names)), seed=seed, trust_remote_code=False
    )


def edit_weights(folder: str | Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = Path(folder) / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def backbone_tensor(weights: dict[str, torch.Tensor]) -> str:
    """The name of the largest tensor that is certainly not part of a head."""
    body = {name: value for name, value in weights.items() if "head" not in name and "classifier" not in name}
    return max(body, key=lambda name: (body[name].ndim, body[name].numel()))


# ---- weights that arrive -------------------------------------------------------------------------


@pytest.mark.parametrize("family", IMAGE_FAMILIES + PIXEL_FAMILIES)
def test_every_weight_of_a_checkpoint_arrives(family, build, checkpoint):
    """Guards against tensors that have other names on disk than in memory and stay random, with a warning at most."""
    saved = build(family, seed=5)[0].state_dict()
    model, fresh = load(checkpoint(family, seed=5), task=task_of(family))
    loaded = model.state_dict()
    assert fresh == set()
    assert loaded.keys() == saved.keys()
    assert [name for name in saved if not torch.equal(saved[name], loaded[name])] == []


def test_half_precision_checkpoint_trains_in_float32(build, checkpoint):
    """`from_pretrained` keeps the checkpoint's float16, in which small updates vanish in rounding; training needs
    float32."""
    model, _ = build("resnet", seed=5)
    folder = checkpoint("resnet")
    model.half().save_pretrained(folder)
    loaded, _ = load(folder)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.state_dict()["classifier.1.weight"], model.classifier[1].weight.float())


def test_backbone_without_a_head_keeps_every_weight_and_draws_the_head(tmp_path, caplog):
    """A pretrained backbone names its tensors without the prefix `vit.`. Guards against all of them staying random."""
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    backbone = ViTModel(config)
    backbone.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model, fresh = load(str(tmp_path))
    loaded = model.vit.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items() if name in loaded)
    assert fresh == {"classifier.weight", "classifier.bias"}
    assert "the head is new (2 tensors" in caplog.text


def test_segmentation_from_a_classifier_draws_its_decoder_only(build, tmp_path):
    """MiT backbones are published as classifiers: only the decoder may be new, not the encoder."""
    config = build("segformer")[0].config
    classifier = SegformerForImageClassification(config)
    classifier.save_pretrained(tmp_path)
    model, fresh = load(str(tmp_path), task="semantic-segmentation")
    loaded = model.segformer.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in classifier.segformer.state_dict().items())
    assert fresh and all(name.startswith("decode_head.") for name in fresh)


def test_old_checkpoint_without_batchnorm_counters_is_complete(checkpoint):
    """Guards against refusing, as damaged, files written before BatchNorm had its batch counter."""
    folder = checkpoint("resnet")

    def drop(weights):
        for name in [name for name in weights if name.endswith("num_batches_tracked")]:
            del weights[name]

    edit_weights(folder, drop)
    assert load(folder)[1] == set()


# ---- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "resnet", "upernet"])
@pytest.mark.parametrize("names", [["ant", "bee", "cat", "dog"], ["x", "y", "z"], ["bee", "ant", "cat"]])
def test_head_of_other_classes_is_drawn_anew_with_a_warning(family, names, checkpoint, caplog):
    """Guards against keeping a head of the same size that was trained for other classes, or for the same ones in
    another order."""
    folder = checkpoint(family, seed=3)
    kept, _ = load(folder, task=task_of(family))
    with caplog.at_level(logging.WARNING):
        model, fresh = load(folder, names, task=task_of(family))
    head = class_tensors(model)
    old, new = kept.state_dict(), model.state_dict()
    assert fresh == head
    assert "the head is new" in caplog.text
    assert [name for name in new if name not in head and not torch.equal(old[name], new[name])] == []
    weights = [name for name in head if name.endswith("weight")]
    assert all(old[name].shape != new[name].shape or not torch.equal(old[name], new[name]) for name in weights)
    assert class_names.label_names(model.config) == names
    assert model.config.label2id == {name: index for index, name in enumerate(names)}


def test_head_without_class_names_is_not_taken_for_the_users(checkpoint):
    """Guards against keeping a head because both sides say `LABEL_0, LABEL_1`: that says nothing about what it was
    trained for."""
    placeholders = [f"LABEL_{index}" for index in range(3)]
    _, fresh = load(checkpoint("vit", names=placeholders), placeholders)
    assert fresh == {"classifier.weight", "classifier.bias"}


def test_head_is_drawn_from_the_seed_and_moves_no_random_state(checkpoint):
    """Guards against a head drawn from the global random state: it differs between processes and changes what training
    draws later."""
    folder, names = checkpoint("resnet"), ["x", "y"]
    before = torch.get_rng_state()
    first, again, other = (load(folder, names, seed=seed)[0].classifier[1].weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", IMAGE_FAMILIES + PIXEL_FAMILIES)
def test_class_tensors_are_the_last_layers(family, build):
    """Guards against a head found too small, which keeps the old classes' bias, and one found too large, which loses
    pretrained weights."""
    model, _ = build(family)
    names = class_tensors(model)
    kinds = {name.rpartition(".")[2] for name in names}
    assert kinds == {"weight", "bias"}
    assert all(model.state_dict()[name].shape[0] == len(CLASSES) for name in names)
    heads = 2 if family in ("upernet", "dpt", "beit") else 1
    assert len(names) == 2 * heads


def test_redraw_changes_the_named_tensors_only(build):
    """A phase that restarts with a new head must not change the pretrained backbone."""
    model, _ = build("swin")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    redraw(model, 3, {"classifier.weight"})
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == [
        "classifier.weight"
    ]


# ---- what cannot be a member ---------------------------------------------------------------------


@pytest.mark.parametrize("family", IMAGE_FAMILIES + PIXEL_FAMILIES)
def test_missing_backbone_tensor_is_an_error(family, checkpoint):
    """transformers only warns and trains on with random weights, even in UperNet, which has no base model prefix."""
    folder = checkpoint(family)
    edit_weights(folder, lambda weights: weights.pop(backbone_tensor(weights)))
    with pytest.raises(CheckpointError, match="1 tensors are not loaded"):
        load(folder, task=task_of(family))


@pytest.mark.parametrize("family", ["vit", "resnet", "upernet", "segformer"])
def test_misshapen_backbone_tensor_is_an_error(family, checkpoint):
    """Guards against `ignore_mismatched_sizes`, which is meant for the head, also re-initializing a backbone tensor."""
    folder = checkpoint(family)

    def grow(weights):
        name = backbone_tensor(weights)
        weights[name] = torch.cat([weights[name], weights[name]])

    edit_weights(folder, grow)
    with pytest.raises(CheckpointError, match="are not loaded"):
        load(folder, ["x", "y"], task=task_of(family))


def test_truncated_weights_are_an_error_that_names_the_source(checkpoint):
    """A truncated download must be an error that names the checkpoint, not a traceback from the tensor library."""
    folder = checkpoint("vit")
    file = Path(folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{folder}.*Download it again"):
        load(folder)


def test_pickled_weights_are_refused(build, checkpoint):
    """Pickled weights must be refused: reading a pickle runs any code that its author put in."""
    folder = Path(checkpoint("vit"))
    (folder / "model.safetensors").unlink()
    torch.save(build("vit")[0].state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        load(str(folder))


@pytest.mark.parametrize(
    ("family", "task", "remedy"),
    [
        ("vit", "semantic-segmentation", "such as a SegFormer"),
        ("dinov2", "semantic-segmentation", "Add UperNet to it"),
        ("upernet", "image-classification", "or another `task`"),
    ],
)
def test_model_of_another_task_says_which(family, task, remedy, checkpoint):
    """The error must say which task is not supported; that of transformers lists 60 configuration classes but not the
    model. UperNet must not be suggested for a ViT, which cannot be a backbone."""
    with pytest.raises(CheckpointError, match=f"which transformers does not support for {task}.*{remedy}"):
        load(checkpoint(family), task=task)


@pytest.mark.parametrize("source", ["nobody/no-such-model", "vit-bsae"])
def test_unknown_model_repeats_what_was_given(source):
    """A mistyped id must end in an error that repeats it."""
    with pytest.raises(CheckpointError, match=f"Cannot load a model from '{source}'"):
        load(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("./no-such", r"there is no folder '\./no-such', and it is not a valid model id"),
        ("/no/such/folder", r"there is no folder '/no/such/folder', and it is not a valid model id"),
        ("runs/animal", r"there is no folder 'runs/animal', .* Did you mean 'runs/animals'\?"),
        ("./runs/animal", r"there is no folder '\./runs/animal', .* Did you mean 'runs/animals'\?"),
        ("runs/animals/model.safetensors", r"'runs/animals/model\.safetensors' is a file\. Give the folder"),
    ],
)
def test_a_mistyped_folder_is_not_looked_up_as_a_model_id(source, said, tmp_path, monkeypatch):
    """A mistyped folder must be named as such: the Hub's message asks for letters and digits in a repository id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "animals").mkdir(parents=True)
    (tmp_path / "runs" / "animals" / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=f"Cannot load a model: {said}"):
        load(source)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "no-such-type"}'])
def test_damaged_configuration_is_a_clear_error(text, checkpoint):
    """Guards against a half-written config.json that raises anything from JSONDecodeError to AttributeError."""
    folder = checkpoint("vit")
    (Path(folder) / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"Cannot load a model from|cannot be used: its config\.json"):
        load(folder)


def test_modeling_code_is_not_run_unless_asked(checkpoint):
    """A checkpoint's own Python file must never run by default."""
    folder = Path(checkpoint("vit"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "custom",
        "auto_map": {"AutoConfig": "custom.C", "AutoModelForImageClassification": "custom.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "custom.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(CheckpointError, match="pass `trust_remote_code=True`"):
        load(str(folder))


def test_checkpoint_without_image_processor_says_how_to_add_one(checkpoint):
    """Guards against guessing how images are normalized, which lowers every score without an error."""
    folder = Path(checkpoint("vit"))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="no usable image processor"):
        loading.load_processor(str(folder), ViTConfig())


def test_sharded_checkpoint_with_a_missing_shard_is_an_error(build, tmp_path):
    """Large checkpoints come in several files. Guards against a missing one that leaves its layers random."""
    model, _ = build("vit")
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert load(str(tmp_path))[1] == set()
    shards[-1].unlink()
    with pytest.raises(CheckpointError):
        load(str(tmp_path))


@pytest.mark.parametrize("ids", [{}, {1: "a", 2: "b"}, {0: "a", 2: "b"}, {"cat": 0}])
def test_class_ids_must_count_from_zero(ids):
    """Guards against renumbering other class ids by position: every logit would stand for another class than its mask
    value."""
    with pytest.raises(ValueError, match="Class ids must be the integers 0, 1, 2"):
        class_names.in_order(ids)


def test_class_ids_are_sorted_not_taken_as_written():
    """Guards against a map written in another order than its ids, which would swap the classes' names."""
    assert list(class_names.in_order({1: "b", 0: "a"}.copy()).items()) == [(0, "a"), (1, "b")]


def test_restore_brings_back_every_tensor_and_leaves_the_configuration(build, checkpoint):
    """Resuming loads every tensor into the model in memory: strictly, in place, without changing its settings. Guards
    against a bfloat16 model that continues in the float32 of the file."""
    member, _ = build("dinov2", seed=1)
    member.bfloat16()
    parameters = list(member.parameters())
    settings = member.config.to_dict()
    loading.restore(member, Path(checkpoint("dinov2", seed=2)), "image-classification")
    expected = build("dinov2", seed=2)[0].bfloat16().state_dict()
    assert {value.dtype for value in member.state_dict().values()} == {torch.bfloat16}
    assert all(torch.equal(value, expected[name]) for name, value in member.state_dict().items())
    assert all(old is new for old, new in zip(parameters, member.parameters(), strict=True))
    assert member.config.to_dict() == settings


def test_copied_folder_loads_alike(checkpoint, tmp_path):
    """Guards against a checkpoint that only opens in the folder where it was written."""
    shutil.copytree(checkpoint("vit"), tmp_path / "elsewhere")
    assert load(str(tmp_path / "elsewhere"))[1] == set()
