"""Further architectures, one tiny checkpoint each: built, tried, frozen, saved, and opened with transformers alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation, pipeline

from hf_dmt import ModelPair
from hf_dmt.models import upernet
from hf_dmt.models.heads import class_tensors
from hf_dmt.models.loading import CheckpointError
from hf_dmt.models.weights.trained_parts import _blocks, backbone, choose_trained
from tests.training.small_runs import assert_same, state_of

NAMES = {0: "x", 1: "y", 2: "z"}
SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
VISION = {**SMALL, "intermediate_size": 24, "image_size": SIDE, "patch_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
HGNET = {
    "embedding_size": 8, "stem_channels": [3, 4, 8], "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
    "stage_in_channels": [8, 8, 8, 8], "stage_mid_channels": [4, 4, 4, 4], "stage_out_channels": [8, 8, 8, 8],
    "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1, 1, 1, 1],
}  # fmt: skip
DINOV3 = {**SMALL, "intermediate_size": 24, "image_size": SIDE, "patch_size": 8, "num_register_tokens": 2}


def crop() -> hf.BaseImageProcessor:
    return hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)


# Each is saved as on the Hub: mostly as the model with its text tower, or without any head.
IMAGES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "clip": lambda: (hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)), crop()),
    "metaclip-2": lambda: (
        hf.MetaClip2Model(hf.MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=16)),
        crop(),
    ),
    "siglip": lambda: (
        hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VISION)),
        hf.SiglipImageProcessor(size=SQUARE),
    ),
    "dinov2-with-registers": lambda: (
        hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL, image_size=SIDE, patch_size=8)),
        hf.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
    ),
    "pvt": lambda: (
        hf.PvtModel(
            hf.PvtConfig(image_size=SIDE, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2])
        ),
        hf.PvtImageProcessor(size=SQUARE),
    ),
    "hgnet-v2": lambda: (hf.HGNetV2ForImageClassification(hf.HGNetV2Config(**HGNET)), crop()),
}
BACKBONES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "dinov2": lambda: (
        hf.Dinov2Model(hf.Dinov2Config(**SMALL, image_size=SIDE, patch_size=8)),
        hf.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
    ),
    "dinov3": lambda: (hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**DINOV3)), hf.DINOv3ViTImageProcessor(size=SQUARE)),
    "swin": lambda: (
        hf.SwinModel(
            hf.SwinConfig(
                image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4
            )
        ),
        hf.ViTImageProcessor(size=SQUARE),
    ),
    "convnext": lambda: (
        hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])),
        hf.ConvNextImageProcessor(size={"shortest_edge": SIDE}),
    ),
}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, tuple[Any, Any]], str]:
    def saved(name: str, member: tuple[Any, Any]) -> str:
        for part in member:
            part.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return saved


@pytest.mark.parametrize("family", IMAGES)
def test_image_families(family: str, save: Any, tmp_path: Path) -> None:
    """Guards against a vision tower that stays random, a backbone that is not found and so trains under `--train head`,
    and scores of `pipeline()` that differ from the pair's."""
    torch.manual_seed(0)
    model, processor = IMAGES[family]()
    pair = ModelPair.from_models(save(family, (model, processor)), "tiny:resnet", id2label=NAMES)
    head = class_tensors(pair.model_a)
    assert pair.fresh["a"] == head and backbone(pair, "a") == {k for k, _ in pair.model_a.named_parameters()} - head
    loaded, saved = pair.model_a.state_dict(), model.state_dict()
    without_prefix = {key.removeprefix(f"{pair.model_a.base_model_prefix}."): key for key in set(loaded) - head}
    assert_same(
        {key: loaded[name] for key, name in without_prefix.items()}, {key: saved[key] for key in without_prefix}
    )
    assert len(_blocks(pair, "a")) == 5, "the stem, and four blocks"
    there = {type(module).__name__ for module in pair.modules()}
    assert there >= set(pair._no_split_modules) >= {"ResNetConvLayer"}, "FSDP ends on a name that it does not find"
    pair.save_pretrained(tmp_path / "pair")
    picture = Image.radial_gradient("L").convert("RGB").resize((50, 40))
    probabilities = pair.pipeline().members(picture)["a"]
    scores = {
        entry["label"]: entry["score"] for entry in pipeline("image-classification", str(tmp_path / "pair"))(picture)
    }
    torch.testing.assert_close(
        torch.tensor([scores[name] for name in NAMES.values()]), probabilities, atol=1e-5, rtol=0
    )
    choose_trained(pair, {"a": "head", "b": "all"})
    assert {key for key, parameter in pair.model_a.named_parameters() if parameter.requires_grad} == head


@pytest.mark.parametrize("family", BACKBONES)
def test_upernet_on_a_backbone(family: str, save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a backbone that stays random under the new head, and against a checkpoint that transformers alone
    reads differently."""
    monkeypatch.setattr(upernet, "UperNetConfig", partial(hf.UperNetConfig, hidden_size=16))  # 512: seconds per head
    torch.manual_seed(0)
    source = save(family, BACKBONES[family]())
    pair = ModelPair.from_models(
        f"backbone:{source}", f"backbone:{source}", task="semantic-segmentation", id2label=NAMES
    )
    a, b = (pair.member(name).state_dict() for name in "ab")
    differing = {key for key in a if not torch.equal(a[key], b[key])}
    assert differing and all(key.startswith("decode_head.") for key in differing), "two heads on one backbone"
    assert pair.metadata["base_models"] == {"a": family, "b": family}
    pair.save_pretrained(tmp_path / "pair")
    alone = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "pair").eval()
    image = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(alone(image).logits, pair.model_a(image).logits, atol=1e-5, rtol=1e-5)
    assert_same(state_of(ModelPair.from_pretrained(tmp_path / "pair")), state_of(pair))
    choose_trained(pair, {"a": "last:1", "b": "head"})
    learning = {key for key, parameter in pair.model_a.named_parameters() if parameter.requires_grad}
    assert any(key.startswith("backbone.") for key in learning) and any(
        key.startswith("decode_head.") for key in learning
    )


def test_a_backbone_for_images_gets_a_new_head_of_its_own_class(save: Any, tmp_path: Path) -> None:
    """For images, `backbone:` gives the model's own classification class with a new head, so that transformers can open
    it."""
    source = save("dinov2", BACKBONES["dinov2"]())
    pair = ModelPair.from_models(f"backbone:{source}", "tiny:resnet", id2label=NAMES)
    pair.save_pretrained(tmp_path / "pair")
    alone = AutoModelForImageClassification.from_pretrained(tmp_path / "pair")
    assert type(alone).__name__ == "Dinov2ForImageClassification"


def test_dinov3_for_images_names_the_checkpoint_of_timm(save: Any) -> None:
    """transformers has no classifier for DINOv3, so the error must name timm's; a list of supported classes would not
    help."""
    source = save("dinov3-vitb16-pretrain-lvd1689m", BACKBONES["dinov3"]())
    for given in (source, f"backbone:{source}"):
        with pytest.raises(CheckpointError, match=r"timm/vit_base_patch16_dinov3\.lvd1689m"):
            ModelPair.from_models(given, "tiny:resnet", id2label=NAMES)


def test_what_is_no_backbone_says_what_is(save: Any) -> None:
    source = save("vit", (hf.ViTModel(hf.ViTConfig(**VISION)), hf.ViTImageProcessor(size=SQUARE)))
    with pytest.raises(CheckpointError, match=r"'vit' model, which transformers cannot use as a backbone\. Choose"):
        ModelPair.from_models(f"backbone:{source}", f"backbone:{source}", task="semantic-segmentation", id2label=NAMES)


def test_patches_of_any_number_are_refused(save: Any) -> None:
    """Guards against a traceback from inside transformers for SigLIP 2 with NaFlex patches, from disk and in memory."""
    small = {**SMALL, "intermediate_size": 24, "num_patches": 16, "patch_size": 8}
    model = hf.Siglip2ForImageClassification(hf.Siglip2Config(text_config=TEXT, vision_config=small, id2label=NAMES))
    patches = hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    with pytest.raises(
        ValueError, match=r"Siglip2ImageProcessor cuts an image into patches.* google/siglip2-base-patch"
    ):
        ModelPair.from_models(save("naflex", (model, patches)), "tiny:resnet", id2label=NAMES)
    with pytest.raises(ValueError, match=r"Model a \('siglip2'\) does not accept what its image processor makes"):
        ModelPair.from_models(model, "tiny:resnet", processor_a=hf.ViTImageProcessor(size=SQUARE), id2label=NAMES)


def test_a_lost_tensor_of_a_vision_tower_is_an_error(save: Any, tmp_path: Path) -> None:
    """Guards against a layer that stays random: CLIP's prefix is not the name of its vision tower, so a missing layer
    was taken for part of the head."""
    from safetensors.torch import load_file, save_file

    file = Path(save("clip", IMAGES["clip"]())) / "model.safetensors"
    weights = load_file(file)
    del weights["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are not loaded"):
        ModelPair.from_models(file.parent, "tiny:resnet", id2label=NAMES)


class TestOneImageIsTried:
    def test_a_size_that_the_model_does_not_take(self, save: Any) -> None:
        """The error must come before training. The square training view suits this model but a photo does not, so it
        used to fail only after phase 0."""
        vit = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3))
        source = save("vit", (vit, hf.ViTImageProcessor(size={"shortest_edge": SIDE}, do_center_crop=False)))
        with pytest.raises(
            ValueError, match=r"Model a \('vit'\) does not accept an image of .* preprocessor_config\.json"
        ):
            ModelPair.from_models(source, "tiny:resnet", id2label=NAMES)

    def test_a_model_without_logits(self, save: Any) -> None:
        """PP-LCNet in transformers returns scores under another name, which neither training nor `pipeline()` reads."""
        source = save("lcnet", (hf.PPLCNetForImageClassification(hf.PPLCNetConfig()), crop()))
        with pytest.raises(
            ValueError, match=r"PPLCNetForImageClassification\) returns last_hidden_state and no logits"
        ):
            ModelPair.from_models(source, "tiny:resnet", id2label=NAMES)

    def test_a_headless_model(self) -> None:
        """The most likely mistake in Python must be explained: AutoModel instead of AutoModelForImageClassification."""
        model, processor = hf.ViTModel(hf.ViTConfig(**VISION)), hf.ViTImageProcessor(size=SQUARE)
        model.config.id2label = NAMES
        with pytest.raises(ValueError, match=r"no logits.*AutoModelForImageClassification"):
            ModelPair(model, model, processor, processor)

    @pytest.mark.parametrize("built", [2, 5])
    def test_logits_of_another_count(self, built: int) -> None:
        """Guards against a configuration edited after the head was built. Labels beyond the end of a smaller head would
        only fail on a GPU, without the name of the image; a larger head would predict classes without a name."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=built))
        model.config.id2label = NAMES
        processor = hf.ViTImageProcessor(size=SQUARE)
        with pytest.raises(ValueError, match=rf"logits of shape \(1, {built}\), but \(images, classes\) with 3 "):
            ModelPair(model, model, processor, processor)


class TestInMemory:
    def test_models_become_the_members(self, tmp_path: Path) -> None:
        """A model passed in memory becomes the member itself, or a copy with the same backbone if it needs a head of
        another size. Guards against changing the caller's model, and against randomly initializing its trained head."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3))
        given = {key: value.clone() for key, value in model.state_dict().items()}
        processor = hf.ViTImageProcessor(size=SQUARE)
        pair = ModelPair.from_models(model, "tiny:resnet", processor_a=processor, id2label=NAMES)
        assert pair.model_a is model and pair.class_names == ["x", "y", "z"]
        assert pair.fresh["a"] == class_tensors(model), "a head without names is as new"
        named = ModelPair.from_models(model, "tiny:resnet", processor_a=processor, id2label=NAMES)
        assert named.model_a is model and not named.fresh["a"], "a head with these names is not"
        other = ModelPair.from_models(model, "tiny:resnet", processor_a=processor, id2label={0: "p", 1: "q"})
        assert other.model_a is not model and model.config.num_labels == 3
        assert_same(model.state_dict(), given)
        kept = {key: value for key, value in other.model_a.state_dict().items() if key not in other.fresh["a"]}
        assert_same(kept, {key: given[key] for key in kept})
        other.save_pretrained(tmp_path)
        assert ModelPair.from_pretrained(tmp_path).class_names == ["p", "q"]

    def test_the_processor_is_found_and_no_path_is_saved(self, save: Any, tmp_path: Path) -> None:
        """Guards against a published folder that contains the name of a user or a path of a machine."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, id2label=NAMES))
        source = save("vit", (model, hf.ViTImageProcessor(size=SQUARE)))
        models = [AutoModelForImageClassification.from_pretrained(source) for _ in "ab"]
        pair = ModelPair.from_models(*models)
        pair.save_pretrained(tmp_path / "pair")
        for file in (tmp_path / "pair").rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
        assert pair.metadata["base_models"] == {"a": "vit", "b": "vit"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda model: torch.nn.DataParallel(model), r"Model a is wrapped in a DataParallel.*the model inside"),
            (lambda model: model.to("meta"), r"Model a is on the meta device, without weights"),
            (
                lambda model: setattr(model, "is_quantized", True) or model,
                r"Model a is quantized",
            ),  # as transformers does
            (lambda model: type(model), r"Model a is a type; a member is"),
            (lambda model: (model, None), r"Model a is a tuple; a member is"),
        ],
        ids=["wrapped", "meta", "quantized", "class", "tuple"],
    )
    def test_what_cannot_be_trained_is_refused(self, change: Any, message: str) -> None:
        """Guards against another library's traceback in the middle of a run."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3))
        with pytest.raises(ValueError, match=message):
            ModelPair.from_models(
                change(model), "tiny:resnet", processor_a=hf.ViTImageProcessor(size=SQUARE), id2label=NAMES
            )

    def test_members_share_no_weights(self) -> None:
        """Guards against two models with one shared backbone: the gradients add up, and neither model is taught by the
        other."""
        models = [hf.ViTForImageClassification(hf.ViTConfig(**VISION, id2label=NAMES)) for _ in "ab"]
        models[1].vit = models[0].vit
        processor = hf.ViTImageProcessor(size=SQUARE)
        for a, b in (models, (models[0], models[0])):
            with pytest.raises(ValueError, match=r"The two models share 7[02] weights, such as .*copy\.deepcopy"):
                ModelPair(a, b, processor, processor)

    def test_tied_weights_are_declared(self) -> None:
        """Guards against a run that ends at its first checkpoint, with advice about the disk, and against one whose
        checkpoint lacks a weight because the configuration does not switch declared ties on."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, id2label=NAMES))
        model.vit.layers[1].layernorm_before.weight = model.vit.layers[0].layernorm_before.weight
        first, second = (f"vit.layers.{layer}.layernorm_before.weight" for layer in range(2))
        given = {"processor_a": hf.ViTImageProcessor(size=SQUARE), "id2label": NAMES}
        with pytest.raises(ValueError, match=rf"one tensor under the names '{first}' and '{second}'.*Either declare"):
            ModelPair.from_models(model, "tiny:resnet", **given)
        model._tied_weights_keys = {second: first}
        with pytest.raises(ValueError, match="and tie_word_embeddings=True in its config"):
            ModelPair.from_models(model, "tiny:resnet", **given)
        model.config.tie_word_embeddings = True
        model.post_init()  # as at the end of its constructor
        ModelPair.from_models(model, "tiny:resnet", **given)
        del model.all_tied_weights_keys
        with pytest.raises(ValueError, match=r"does not end with `self\.post_init\(\)`"):
            ModelPair.from_models(model, "tiny:resnet", **given)

    @pytest.mark.parametrize(
        ("processor", "message"),
        [
            ("google/vit-base-patch16-224", r"processor_a is a str; an image processor is needed"),
            (hf.AutoImageProcessor, r"processor_a is a AutoImageProcessor; an image processor is needed"),
            (
                hf.ViTImageProcessor(size={"height": 16, "width": 16}),
                r"does not accept .* 16 x 16\): .*of the same checkpoint",
            ),
        ],
        ids=["id", "class", "size"],
    )
    def test_another_image_processor(self, processor: Any, message: str) -> None:
        """Guards against advice about sizes when the processor itself is the mistake, and against another library's
        traceback."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3))
        with pytest.raises(ValueError, match=message):
            ModelPair.from_models(model, "tiny:resnet", processor_a=processor, id2label=NAMES)

    def test_classes_as_people_have_them(self) -> None:
        """Guards against refusing a class map from a JSON file, whose keys are strings, or one whose ids are not in
        order."""
        for given in (["p", "q"], {"0": "p", "1": "q"}, {1: "q", 0: "p"}):
            assert ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=given).class_names == ["p", "q"]
        with pytest.raises(ValueError, match=r"id2label is a int\. Give a map"):
            ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=3)  # type: ignore[arg-type]

    def test_what_transformers_would_load_as_another_model(self) -> None:
        """Guards against a published checkpoint that predicts other than the model that was trained and scored, or
        that nothing can load: both would be seen after the run only."""

        class Mine(hf.ViTForImageClassification):
            pass

        class MineConfig(hf.ViTConfig):
            model_type = "mine"

        changed = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3))
        changed.classifier = torch.nn.Sequential(torch.nn.Dropout(0.1), changed.classifier)
        for model, id2label, message in (
            (Mine(hf.ViTConfig(**VISION, num_labels=3)), NAMES, r"would load its checkpoint as a ViTForImageClassif"),
            (Mine(MineConfig(**VISION, num_labels=3)), NAMES, r"does not know its MineConfig\. Register both"),
            (changed, NAMES, r"Model a differs in 4 tensors, such as 'classifier\.1\.bias'"),
            (changed, ["x", "y"], r"Model a needs a head for 2 classes, but cannot be built again"),
        ):
            with pytest.raises(ValueError, match=message):
                ModelPair.from_models(
                    model, "tiny:resnet", processor_a=hf.ViTImageProcessor(size=SQUARE), id2label=id2label
                )

    def test_what_transformers_can_load_is_accepted(self) -> None:
        """Guards against a traceback for a registered model that computes Python numbers while it is built, as many
        with stochastic depth do, and for one that needs more than its configuration."""

        class PacedConfig(hf.ViTConfig):
            model_type = "paced"

        class Paced(hf.ViTForImageClassification):
            config_class = PacedConfig

            def __init__(self, config: PacedConfig) -> None:
                super().__init__(config)
                self.pace = torch.linspace(0, 1, 3)[1].item()

        class Needy(Paced):
            _auto_class = "AutoModelForImageClassification"  # as of code in a repository

            def __init__(self, config: PacedConfig, *, rate: float) -> None:
                super().__init__(config)

        hf.AutoConfig.register("paced", PacedConfig)
        hf.AutoModelForImageClassification.register(PacedConfig, Paced)
        given = {"processor_a": hf.ViTImageProcessor(size=SQUARE), "id2label": NAMES}
        small = PacedConfig(**VISION, num_labels=3)
        ModelPair.from_models(Paced(small), "tiny:resnet", **given)
        with pytest.raises(ValueError, match=r"Model a cannot be built again from its configuration.*'rate'"):
            ModelPair.from_models(Needy(small, rate=0.1), "tiny:resnet", **given)

    def test_settings_of_a_configuration_that_change_outputs(self) -> None:
        """Guards against a traceback about a tuple for `return_dict=False`."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3, return_dict=False))
        ModelPair.from_models(model, "tiny:resnet", processor_a=hf.ViTImageProcessor(size=SQUARE), id2label=NAMES)
        with pytest.raises(ValueError, match=r"The only class is 'x', so every prediction is right"):
            ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=["x"])

    def test_what_cannot_be_a_member(self) -> None:
        """Each mistake must be explained in one sentence, in terms of the Python arguments."""
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3))
        with pytest.raises(
            ValueError, match=r"Model a has no image processor.*ModelPair.from_models\(a, b, processor_a="
        ):
            ModelPair.from_models(model, "tiny:resnet", id2label=NAMES)
        with pytest.raises(ValueError, match="Class 0 has no name"):  # and not one called 'None'
            ModelPair.from_models("tiny:vit", "tiny:resnet", id2label={0: None, 1: "y"})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match=r"same object.*copy\.deepcopy"):
            ModelPair.from_models(model, model, id2label=NAMES)
        with pytest.raises(ValueError, match=r"Model b is a Linear; a member is"):
            ModelPair.from_models("tiny:resnet", torch.nn.Linear(2, 2), id2label=NAMES)

    def test_adapters_are_refused_and_merged_ones_are_not(self, save: Any, tmp_path: Path) -> None:
        """Guards against a saved pair in which one model is an adapter that points to a folder on another machine."""
        peft = pytest.importorskip("peft")
        model = hf.ViTForImageClassification(hf.ViTConfig(**VISION, id2label=NAMES))
        processor = hf.ViTImageProcessor(size=SQUARE)
        base = save("vit", (model, processor))
        adapted = peft.get_peft_model(
            AutoModelForImageClassification.from_pretrained(base), peft.LoraConfig(target_modules=["q_proj", "query"])
        )
        with pytest.raises(ValueError, match=r"Model a has PEFT adapters.*merge_and_unload"):
            ModelPair.from_models(adapted, "tiny:resnet", processor_a=processor, id2label=NAMES)
        with pytest.raises(ValueError, match=r"Model b has PEFT adapters"):
            ModelPair(model, adapted.base_model.model, processor, processor)
        adapted.save_pretrained(tmp_path / "adapter")
        with pytest.raises(CheckpointError, match=r"contains a PEFT adapter.*merge_and_unload"):
            ModelPair.from_models(tmp_path / "adapter", "tiny:resnet", id2label=NAMES)
        merged = adapted.merge_and_unload()
        ModelPair.from_models(merged, "tiny:resnet", processor_a=processor, id2label=NAMES).save_pretrained(
            tmp_path / "p"
        )
        assert not (tmp_path / "p" / "adapter_config.json").exists()
        assert AutoModelForImageClassification.from_pretrained(tmp_path / "p").config.num_labels == 3
