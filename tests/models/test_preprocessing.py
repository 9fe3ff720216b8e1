"""What a processor does to colors and geometry, found by asking it; where that is wrong, members see other images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, BeitImageProcessor, DPTImageProcessor

from hf_dmt.models import preprocessing
from hf_dmt.models.preprocessing import ViewNormalizer

# Builds without arguments: plain, cropping, shifted (EfficientNet normalizes twice), BGR (MobileViT says so in an
# attribute, PPLCNet does not), and unnormalized ones.
AFFINE = [
    "BeitImageProcessor", "BitImageProcessor", "CLIPImageProcessor", "ConvNextImageProcessor", "DPTImageProcessor",
    "DeiTImageProcessor", "EfficientNetImageProcessor", "LevitImageProcessor", "MobileNetV2ImageProcessor",
    "MobileViTImageProcessor", "PPLCNetImageProcessor", "PvtImageProcessor", "SegformerImageProcessor",
    "SiglipImageProcessor", "ViTImageProcessor",
]  # fmt: skip
REFUSED = ["Siglip2ImageProcessor", "ImageGPTImageProcessor", "Idefics3ImageProcessor", "Qwen2VLImageProcessor"]


def processor(name: str, **settings):
    return getattr(transformers, name)(**settings)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", AFFINE)
def test_normalized_view_equals_the_processors_output(name):
    """Mean and std alone leave out double normalization and swapped channels; accuracy then drops without a word."""
    asked = processor(name)
    image = noise(3, 24, 40)
    # The geometry off: what remains is what the device has to do.
    off = {flag: False for flag in ("do_resize", "do_center_crop", "do_pad") if getattr(asked, flag, None) is not None}
    expected = asked([image], return_tensors="pt", **off)["pixel_values"]
    view = ViewNormalizer(*preprocessing.color_map(asked), (24, 40))(image[None] / 255)
    torch.testing.assert_close(view, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", ["MobileViTImageProcessor", "PPLCNetImageProcessor"])
def test_swapped_channels_are_found(name):
    """PPLCNet swaps red and blue with no attribute that says so."""
    matrix, _ = preprocessing.color_map(processor(name))
    assert matrix.argmax(dim=1).tolist() == [2, 1, 0]


def test_matrix_is_not_transposed():
    """A swap of two channels is its own transpose and would hide it: three channels turned round are not."""
    turned = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]])
    normalizer = ViewNormalizer(turned, torch.tensor([0.1, 0.2, 0.3]), (1, 1))
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert normalizer(red).flatten().tolist() == pytest.approx([0.1, 0.2, 4.3])

    class Turned(transformers.ViTImageProcessor):
        def rescale_and_normalize(self, images, *args, **kwargs):
            return super().rescale_and_normalize(images, *args, **kwargs)[..., [1, 2, 0], :, :]

    matrix, _ = preprocessing.color_map(Turned())
    assert matrix.argmax(dim=1).tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_processor_in_our_sense_is_refused_by_name(name):
    """Patches, tiles and color clusters are no images; each class fails with another exception of its own."""
    for question in (preprocessing.color_map, preprocessing.native_size, preprocessing.shows_whole_image):
        with pytest.raises(ValueError, match=f"{name} (cannot be applied to a batch|cuts an image into patches)"):
            question(processor(name))


def test_processor_that_is_not_affine_is_refused():
    """Equalisation or gamma looks affine on pure colors; only a random image tells."""

    class Gamma(transformers.ViTImageProcessor):
        def rescale_and_normalize(self, images, *args, **kwargs):
            return super().rescale_and_normalize(images, *args, **kwargs) ** 3

    with pytest.raises(ValueError, match="Gamma is not an affine map of colors"):
        preprocessing.color_map(Gamma())


@pytest.mark.parametrize("view", [torch.zeros(3, 8, 8), torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8).byte()])
def test_view_of_another_form_is_refused(view):
    """A gray or 0..255 view would broadcast or saturate instead of failing."""
    with pytest.raises(ValueError, match="float in"):
        ViewNormalizer(torch.eye(3), torch.zeros(3), (8, 8))(view)


def test_view_is_resized_to_the_members_size_with_antialiasing():
    """Without antialiasing, the smaller member sees other textures in training than in evaluation."""
    checkerboard = torch.ones(1, 3, 32, 32)
    checkerboard[..., ::2, 1::2] = checkerboard[..., 1::2, ::2] = 0
    small = ViewNormalizer(torch.eye(3), torch.zeros(3), (8, 8))(checkerboard)
    assert small.shape == (1, 3, 8, 8)
    assert (small - 0.5).abs().max() < 0.1


def test_normalizing_is_exact_under_autocast():
    """bfloat16 keeps 8 bits: views would be normalized by another mean and std than clean images."""
    normalizer = ViewNormalizer(*preprocessing.color_map(processor("ViTImageProcessor")), (8, 8))
    view = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = normalizer(view)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, normalizer(view))


def test_normalizer_adds_nothing_to_a_checkpoint():
    """Buffers in the state would be tensors that no member's checkpoint has."""
    assert not ViewNormalizer(torch.eye(3), torch.zeros(3), (8, 8)).state_dict()


# ---- geometry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "whole"),
    [
        ("SegformerImageProcessor", {}, True),
        ("SegformerImageProcessor", {"size": {"height": 16, "width": 16}}, True),
        ("BeitImageProcessor", {"size": {"height": 64, "width": 64}, "resample": 0}, True),
        ("BeitImageProcessor", {"size": {"height": 512, "width": 512}, "resample": 3}, True),
        ("BeitImageProcessor", {"size": {"shortest_edge": 32}}, True),
        ("MobileViTImageProcessor", {"do_center_crop": False}, True),
        ("EfficientNetImageProcessor", {}, True),
        ("BitImageProcessor", {}, False),
        # A square resize and then a crop loses 3 % at each edge: measured on a bright frame, it looked whole.
        ("DeiTImageProcessor", {}, False),
        (
            "BeitImageProcessor",
            {"size": {"height": 256, "width": 256}, "crop_size": {"height": 240, "width": 240}, "do_center_crop": True},
            False,
        ),
        ("Swin2SRImageProcessor", {}, False),  # pads
    ],
)
def test_crops_and_paddings_are_measured(name, settings, whole):
    """A processor that cuts edges off shifts every pixel label of every wide image."""
    assert preprocessing.shows_whole_image(processor(name, **settings)) is whole


def test_pixels_keep_their_shape_where_the_model_takes_wide_images(build):
    """A squeezed street scene has other proportions than the crops that the member was trained on."""
    for family in ("segformer", "upernet", "mobilenet", "beit"):
        model, asked = build(family)
        fitted = preprocessing.fitted(asked, model, 48, pixels=True)
        assert preprocessing.output_size(fitted, 96, 192) == (48, 96), family
        assert preprocessing.output_size(fitted, 192, 96) == (96, 48), family
        assert preprocessing.shows_whole_image(fitted), family


@pytest.mark.parametrize("settings", [{}, {"keep_aspect_ratio": True, "ensure_multiple_of": 8}])
def test_model_for_squares_only_gets_the_whole_image_as_a_square(settings, build):
    """DPT folds the patches of a wide image into a square, silently where their number allows it (4 x 9 into 6 x 6)."""
    model, _ = build("dpt")
    assert model(torch.zeros(1, 3, 32, 72)).logits.shape[-2:] == (96, 96)
    asked = DPTImageProcessor(size={"height": 32, "width": 32}, **settings)
    for side in (32, 36, 48):
        fitted = preprocessing.fitted(asked, model, side, pixels=True)
        assert preprocessing.output_size(fitted, 100, 200) == (side, side)
        assert preprocessing.shows_whole_image(fitted)


def test_member_of_a_fixed_size_keeps_it(build):
    """A ViT cannot take another size; a processor changed anyway would fail at the first batch."""
    model, asked = build("vit")
    assert preprocessing.fitted(asked, model, 64, pixels=False) is asked


@pytest.mark.parametrize("family", ["swin", "dinov2", "resnet", "convnext"])
def test_member_of_any_size_takes_the_wanted_one(family, build):
    """With the view at N and clean images at the old size, evaluation sees objects of another scale than training."""
    model, asked = build(family)
    fitted = preprocessing.fitted(asked, model, 48, pixels=False)
    assert preprocessing.output_size(fitted, 100, 70) == (48, 48)
    assert preprocessing.native_size(asked) == 32, "the processor that was given must not change"


def test_convnext_does_not_crop_a_square(build):
    """Below 384 it resizes to size / crop_pct, then crops: at a size of one's own, clean images would be zoomed in."""
    model, asked = build("convnext")
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(3, 64, 64)

    def darkest(processor) -> float:
        (values,) = preprocessing.clean_inputs(processor, [ramp])
        return (values[0].min() * processor.image_std[0] + processor.image_mean[0]).item()

    assert darkest(asked) > 0.06
    assert darkest(preprocessing.fitted(asked, model, 48, pixels=False)) < 0.01


def test_fitted_processor_survives_saving(build, tmp_path):
    """A size that is not written to preprocessor_config.json is lost for `pipeline()`."""
    for family in ("mobilenet", "beit", "convnext", "dpt"):
        model, asked = build(family)
        fitted = preprocessing.fitted(asked, model, 48, pixels=family != "convnext")
        fitted.save_pretrained(tmp_path / family)
        again = AutoImageProcessor.from_pretrained(tmp_path / family)
        image = noise(3, 60, 90)
        assert torch.equal(
            again([image], return_tensors="pt")["pixel_values"], fitted([image], return_tensors="pt")["pixel_values"]
        )


def test_training_mode_is_left_as_it_was(build):
    """A probe that leaves the model in eval mode freezes BatchNorm for the whole run."""
    model, asked = build("resnet")
    model.train()
    statistics = model.resnet.embedder.embedder.normalization.running_mean.clone()
    preprocessing.fitted(asked, model, 48, pixels=False)
    assert model.training
    assert torch.equal(model.resnet.embedder.embedder.normalization.running_mean, statistics)


# ---- clean images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViTImageProcessor", "ConvNextImageProcessor", "SegformerImageProcessor"])
def test_clean_inputs_of_a_mixed_batch_equal_one_by_one(name, photographs):
    """Batching groups images by size: an order lost there gives images each other's labels."""
    asked = processor(name, size={"shortest_edge": 32} if name.startswith("Conv") else {"height": 32, "width": 32})
    together = preprocessing.clean_inputs(asked, photographs)
    assert len(together) == len(photographs)
    for image, values in zip(photographs, together, strict=True):
        torch.testing.assert_close(values, asked(image, return_tensors="pt")["pixel_values"][0], atol=1e-6, rtol=0)


def test_clean_inputs_keep_different_sizes():
    """Images that keep their shape cannot be stacked; they must come back as they are."""
    asked = BeitImageProcessor(size={"shortest_edge": 32})
    images = [Image.fromarray(noise(40, width, 3).numpy()) for width in (40, 80, 40)]
    assert [tuple(values.shape) for values in preprocessing.clean_inputs(asked, images)] == [
        (3, 32, 32),
        (3, 32, 64),
        (3, 32, 32),
    ]


def test_pil_and_tensor_images_give_the_same_inputs():
    """`pair(pixel_values)` hands tensors over and the labeling pass PIL images; their scores must not differ."""
    array = noise(40, 60, 3).numpy()
    asked = processor("ViTImageProcessor", size={"height": 32, "width": 32})
    tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    (from_pil,) = preprocessing.clean_inputs(asked, [Image.fromarray(array)])
    (from_tensor,) = preprocessing.clean_inputs(asked, [tensor])
    assert torch.equal(from_pil, from_tensor)
