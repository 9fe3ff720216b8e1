"""What a processor does to colors and geometry, measured by running it: if this is wrong, the models see other
images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, BeitImageProcessor, DPTImageProcessor

from hf_dmt.models import preprocessing
from hf_dmt.models.preprocessing import ViewNormalizer

# Can be built without arguments: plain, cropping, shifted (EfficientNet normalizes twice), BGR (MobileViT says so in an
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
    """Guards against reading mean and std alone: double normalization and swapped channels are missed, and accuracy
    drops without an error."""
    asked = processor(name)
    image = noise(3, 24, 40)
    # Without resizing, cropping and padding, what remains is the normalization that runs on the device.
    off = {flag: False for flag in ("do_resize", "do_center_crop", "do_pad") if getattr(asked, flag, None) is not None}
    expected = asked([image], return_tensors="pt", **off)["pixel_values"]
    view = ViewNormalizer(*preprocessing.color_map(asked), (24, 40))(image[None] / 255)
    torch.testing.assert_close(view, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", ["MobileViTImageProcessor", "PPLCNetImageProcessor"])
def test_swapped_channels_are_found(name):
    """Guards against missing swapped channels: PPLCNet swaps red and blue without an attribute that says so."""
    matrix, _ = preprocessing.color_map(processor(name))
    assert matrix.argmax(dim=1).tolist() == [2, 1, 0]


def test_matrix_is_not_transposed():
    """Guards against a transposed color matrix. Swapping two channels would hide it, being its own transpose, so three
    channels are rotated."""
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
    """Patches, tiles and color clusters are not images. Each of these classes fails with another exception, so it is
    refused by name."""
    for question in (preprocessing.color_map, preprocessing.native_size, preprocessing.shows_whole_image):
        with pytest.raises(ValueError, match=f"{name} (cannot be applied to a batch|cuts an image into patches)"):
            question(processor(name))


def test_processor_that_is_not_affine_is_refused():
    """Guards against taking equalization or gamma for affine: on pure colors they look so, only a random image shows
    it."""

    class Gamma(transformers.ViTImageProcessor):
        def rescale_and_normalize(self, images, *args, **kwargs):
            return super().rescale_and_normalize(images, *args, **kwargs) ** 3

    with pytest.raises(ValueError, match="Gamma is not an affine map of colors"):
        preprocessing.color_map(Gamma())


@pytest.mark.parametrize("view", [torch.zeros(3, 8, 8), torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8).byte()])
def test_view_of_another_form_is_refused(view):
    """Guards against a gray or 0..255 view, which would broadcast or saturate instead of failing."""
    with pytest.raises(ValueError, match="float in"):
        ViewNormalizer(torch.eye(3), torch.zeros(3), (8, 8))(view)


def test_view_is_resized_to_the_members_size_with_antialiasing():
    """Guards against resizing without antialiasing: the model with the smaller input would see other textures in
    training than in evaluation."""
    checkerboard = torch.ones(1, 3, 32, 32)
    checkerboard[..., ::2, 1::2] = checkerboard[..., 1::2, ::2] = 0
    small = ViewNormalizer(torch.eye(3), torch.zeros(3), (8, 8))(checkerboard)
    assert small.shape == (1, 3, 8, 8)
    assert (small - 0.5).abs().max() < 0.1


def test_normalizing_is_exact_under_autocast():
    """Guards against normalizing in bfloat16, which keeps 8 bits: views would get another mean and std than clean
    images."""
    normalizer = ViewNormalizer(*preprocessing.color_map(processor("ViTImageProcessor")), (8, 8))
    view = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = normalizer(view)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, normalizer(view))


def test_normalizer_adds_nothing_to_a_checkpoint():
    """Guards against buffers of the normalizer in the state dict, as no model's checkpoint has such tensors."""
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
    """Guards against a processor that cuts edges off, which would shift every pixel label of every wide image."""
    assert preprocessing.shows_whole_image(processor(name, **settings)) is whole


@pytest.mark.parametrize("resized", [{"shortest_edge": 24}, {"height": 24, "width": 24}], ids=["side", "square"])
def test_a_view_is_padded_as_a_clean_image_is(resized):
    """Guards against scores on images with a black border that the views of the training never had."""
    padding = processor("CLIPImageProcessor", size=resized, crop_size={"height": 32, "width": 30})
    image = noise(3, 32, 32)
    expected = padding([image], return_tensors="pt", resample=2)["pixel_values"]
    view = preprocessing.view_normalizer(padding, 32, pixels=False)(image[None] / 255)
    torch.testing.assert_close(view, expected, atol=0.02, rtol=0)


def test_padding_of_small_images_only_is_refused():
    """Guards against images of 28 pixels that are padded when they are scored, but enlarged when they are trained
    on."""
    padding = processor("CLIPImageProcessor", do_resize=False, crop_size={"height": 32, "width": 32})
    with pytest.raises(ValueError, match="CLIPImageProcessor pads images of some sizes"):
        preprocessing.view_normalizer(padding, 32, pixels=False)


@pytest.mark.parametrize("name", AFFINE)
def test_usual_processors_of_classifiers_are_accepted(name):
    """Guards against taking interpolation for padding: only MobileViT's default crop (256) is larger than its size."""
    normalizer = preprocessing.view_normalizer(processor(name), 64, pixels=False)
    assert normalizer.border == ((16,) * 4 if name == "MobileViTImageProcessor" else (0,) * 4)


def test_pixels_keep_their_shape_where_the_model_takes_wide_images(build):
    """Guards against squeezing wide images: a street scene would have other proportions than the crops that the model
    was trained on."""
    for family in ("segformer", "upernet", "mobilenet", "beit"):
        model, asked = build(family)
        fitted = preprocessing.fitted(asked, model, 48, pixels=True)
        assert preprocessing.output_size(fitted, 96, 192) == (48, 96), family
        assert preprocessing.output_size(fitted, 192, 96) == (96, 48), family
        assert preprocessing.shows_whole_image(fitted), family


@pytest.mark.parametrize("settings", [{}, {"keep_aspect_ratio": True, "ensure_multiple_of": 8}])
def test_model_for_squares_only_gets_the_whole_image_as_a_square(settings, build):
    """DPT folds the patches of a wide image into a square, without an error if their number allows it (4 x 9 into 6 x
    6). So it must get the whole image as a square."""
    model, _ = build("dpt")
    assert model(torch.zeros(1, 3, 32, 72)).logits.shape[-2:] == (96, 96)
    asked = DPTImageProcessor(size={"height": 32, "width": 32}, **settings)
    for side in (32, 36, 48):
        fitted = preprocessing.fitted(asked, model, side, pixels=True)
        assert preprocessing.output_size(fitted, 100, 200) == (side, side)
        assert preprocessing.shows_whole_image(fitted)


def test_member_of_a_fixed_size_keeps_it(build):
    """A ViT cannot take another size: if its processor were changed anyway, the first batch would fail."""
    model, asked = build("vit")
    assert preprocessing.fitted(asked, model, 64, pixels=False) is asked


@pytest.mark.parametrize("family", ["swin", "dinov2", "resnet", "convnext"])
def test_member_of_any_size_takes_the_wanted_one(family, build):
    """Guards against clean images at the old size beside views at the new one: evaluation would see objects at another
    scale than training."""
    model, asked = build(family)
    fitted = preprocessing.fitted(asked, model, 48, pixels=False)
    assert preprocessing.output_size(fitted, 100, 70) == (48, 48)
    assert preprocessing.native_size(asked) == 32, "the processor that was given must not change"


def test_convnext_does_not_crop_a_square(build):
    """Below 384, ConvNeXt's processor resizes to size / crop_pct and then crops. At a size that the user chose, clean
    images would be zoomed in."""
    model, asked = build("convnext")
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(3, 64, 64)

    def darkest(processor) -> float:
        (values,) = preprocessing.clean_inputs(processor, [ramp])
        return (values[0].min() * processor.image_std[0] + processor.image_mean[0]).item()

    assert darkest(asked) > 0.06
    assert darkest(preprocessing.fitted(asked, model, 48, pixels=False)) < 0.01


def test_fitted_processor_survives_saving(build, tmp_path):
    """Guards against a size that is not written to preprocessor_config.json and so is lost for `pipeline()`."""
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
    """Guards against a probe that leaves the model in eval mode, which freezes BatchNorm for the whole run."""
    model, asked = build("resnet")
    model.train()
    statistics = model.resnet.embedder.embedder.normalization.running_mean.clone()
    preprocessing.fitted(asked, model, 48, pixels=False)
    assert model.training
    assert torch.equal(model.resnet.embedder.embedder.normalization.running_mean, statistics)


# ---- clean images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViTImageProcessor", "ConvNextImageProcessor", "SegformerImageProcessor"])
def test_clean_inputs_of_a_mixed_batch_equal_one_by_one(name, photographs):
    """A batch is grouped by image size. Guards against losing the order, which would give images each other's
    labels."""
    asked = processor(name, size={"shortest_edge": 32} if name.startswith("Conv") else {"height": 32, "width": 32})
    together = preprocessing.clean_inputs(asked, photographs)
    assert len(together) == len(photographs)
    for image, values in zip(photographs, together, strict=True):
        torch.testing.assert_close(values, asked(image, return_tensors="pt")["pixel_values"][0], atol=1e-6, rtol=0)


def test_clean_inputs_keep_different_sizes():
    """Images that keep their shape cannot be stacked, so they must be returned as they are."""
    asked = BeitImageProcessor(size={"shortest_edge": 32})
    images = [Image.fromarray(noise(40, width, 3).numpy()) for width in (40, 80, 40)]
    assert [tuple(values.shape) for values in preprocessing.clean_inputs(asked, images)] == [
        (3, 32, 32),
        (3, 32, 64),
        (3, 32, 32),
    ]


def test_pil_and_tensor_images_give_the_same_inputs():
    """`pair(pixel_values)` passes tensors and the labeling pass PIL images; their scores must not differ."""
    array = noise(40, 60, 3).numpy()
    asked = processor("ViTImageProcessor", size={"height": 32, "width": 32})
    tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    (from_pil,) = preprocessing.clean_inputs(asked, [Image.fromarray(array)])
    (from_tensor,) = preprocessing.clean_inputs(asked, [tensor])
    assert torch.equal(from_pil, from_tensor)
