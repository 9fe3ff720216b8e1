"""The paper's two networks: size, initialization, saving, Auto classes, backbone weights, preprocessing."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerImageProcessor,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    pipeline,
)

from hf_dmt.models.networks.deeplab_v2 import (
    CaffeImageProcessor,
    DeepLabV2Config,
    DeepLabV2ForSemanticSegmentation,
)
from hf_dmt.models.networks.wide_resnet import WideResNetConfig, WideResNetForImageClassification
from scripts.prepare_model import load_imagenet_backbone

TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 2]}


def tiny_wide_resnet(**changes) -> WideResNetForImageClassification:
    torch.manual_seed(0)
    return WideResNetForImageClassification(
        WideResNetConfig(**{"depth": 10, "widen_factor": 1, "num_labels": 5} | changes)
    )


def tiny_deeplab(**changes) -> DeepLabV2ForSemanticSegmentation:
    torch.manual_seed(0)
    return DeepLabV2ForSemanticSegmentation(DeepLabV2Config(**TINY_RESNET | {"num_labels": 5} | changes))


def full_deeplab(**changes) -> DeepLabV2ForSemanticSegmentation:
    """A network of the paper's size on the meta device, which needs no memory: for shapes only."""
    with torch.device("meta"):
        return DeepLabV2ForSemanticSegmentation(DeepLabV2Config(**changes))


def scatter_statistics(model: nn.Module) -> None:
    """Give every tensor a value that a fresh model does not have."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "running_var" in name else noise * 0.2 - 0.1 + tensor * 0.5)
            else:
                tensor.fill_(7)


@pytest.mark.parametrize(("num_labels", "parameters"), [(10, 1_467_610), (100, 1_467_610 + 90 * 129)])
def test_wide_resnet_has_the_papers_parameters(num_labels, parameters):
    """Guards against a missing shortcut, a biased convolution or a wrong width: it would train, but not be comparable
    with published results."""
    with torch.device("meta"):
        model = WideResNetForImageClassification(WideResNetConfig(num_labels=num_labels))
    assert model.num_parameters() == parameters
    assert len(list(model.parameters())) == 80


@pytest.mark.parametrize(
    ("num_labels", "branches", "parameters"),
    [(21, 4, 44_048_532), (19, 4, 43_901_068), (21, 2, 44_048_532 - 1_548_372 // 2)],
)
def test_deeplab_has_the_papers_parameters(num_labels, branches, parameters):
    """With two branches, the two that are unused in the official code must not be registered; with four, the count must
    be the official one."""
    assert full_deeplab(num_labels=num_labels, aspp_branches=branches).num_parameters() == parameters


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(321, 321, 41, 41), (505, 505, 64, 64), (256, 512, 32, 64)]
)
def test_deeplab_logits_are_an_eighth(height, width, rows, columns):
    """Guards against output stride 16 or 32 (dilation not applied), which gives a plausible but much coarser
    segmentation."""
    logits = full_deeplab(num_labels=21)(torch.empty(1, 3, height, width, device="meta")).logits
    assert logits.shape == (1, 21, rows, columns)


def test_wide_resnet_takes_other_channels_and_sizes():
    """The number of channels in the configuration must reach the stem, and no image size may be built in."""
    model = tiny_wide_resnet(num_channels=1)
    assert model(torch.rand(2, 1, 28, 20)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("config", "wrong", "named"),
    [
        (WideResNetConfig, {"depth": 27}, "depth=27"),
        (DeepLabV2Config, {"aspp_branches": 3}, "aspp_branches=3"),
        (DeepLabV2Config, {"depths": [1, 1, 1]}, "depths="),
    ],
)
def test_impossible_structures_are_refused(config, wrong, named):
    """Guards against a rounded depth or an ignored branch count, which would build another network than the model card
    names."""
    with pytest.raises(ValueError, match=named):
        config(**wrong)


@pytest.mark.parametrize("branches", [2, 4])
def test_deeplab_equals_torchvisions_dilated_resnet(branches):
    """Compares with an independent reference: stride and dilation do not show in names or shapes, so weights load into
    a wrong network."""
    depths = [1, 1, 2, 3]
    torch.manual_seed(0)
    config = DeepLabV2Config(depths=depths, num_labels=3, aspp_branches=branches)
    model = DeepLabV2ForSemanticSegmentation(config).eval()
    reference = ResNet(Bottleneck, depths, replace_stride_with_dilation=[False, True, True]).eval()
    # BatchNorm affine and statistics that differ from 1, 0 without letting the activations explode
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    state = {}
    for name, tensor in model.backbone.state_dict().items():
        name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        for i in range(3):
            name = name.replace(f".layer.{i}.convolution", f".conv{i + 1}")
            name = name.replace(f".layer.{i}.normalization", f".bn{i + 1}")
        for stage in range(4):
            name = name.replace(f"encoder.stages.{stage}.layers", f"layer{stage + 1}")
        state[name] = tensor
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert missing == ["fc.weight", "fc.bias"] and not unexpected

    pixel_values = torch.randn(1, 3, 209, 65)  # 27 rows of features: dilation 24 reaches another row
    with torch.no_grad():
        features = reference.maxpool(reference.relu(reference.bn1(reference.conv1(pixel_values))))
        for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            features = layer(features)
        expected = 0
        for dilation, branch in zip((6, 12, 18, 24)[:branches], model.branches, strict=True):
            expected = expected + nn.functional.conv2d(
                features, branch.weight, branch.bias, padding=dilation, dilation=dilation
            )
        torch.testing.assert_close(model(pixel_values).logits, expected, rtol=1e-4, atol=1e-4)


def test_wide_resnet_equals_a_plain_reading_of_the_paper():
    """Compares with an independent reference: where a shortcut starts and which activation is used do not show in the
    shapes."""
    model = tiny_wide_resnet(depth=16, negative_slope=0.2).double().eval()
    scatter_statistics(model)
    state = model.state_dict()
    conv, leaky = nn.functional.conv2d, nn.functional.leaky_relu

    def activated(x, norm):
        names = ("running_mean", "running_var", "weight", "bias")
        return leaky(nn.functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names)), 0.2)

    pixel_values = torch.randn(2, 3, 16, 16, dtype=torch.double)
    x = conv(pixel_values, state["stem.weight"], padding=1)
    for block, (stride, changes_width) in enumerate(
        [(1, False), (1, False), (2, True), (1, False), (2, True), (1, False)]
    ):
        skip = x if not changes_width else conv(x, state[f"blocks.{block}.shortcut.weight"], stride=stride)
        x = conv(activated(x, f"blocks.{block}.norm1"), state[f"blocks.{block}.conv1.weight"], stride=stride, padding=1)
        x = skip + conv(activated(x, f"blocks.{block}.norm2"), state[f"blocks.{block}.conv2.weight"], padding=1)
    expected = activated(x, "norm").mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(model(pixel_values).logits, expected)


def test_momentum_of_the_configuration_reaches_every_normalization():
    """Guards against running statistics that are updated at another rate, which shows only in evaluation, after
    training."""
    model = tiny_wide_resnet(batch_norm_momentum=0.25)
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.25}


def test_first_wide_shortcut_sees_the_activated_input():
    """With widen_factor > 1 the first block widens too, and its shortcut is the only one that takes the activated
    input."""
    model = tiny_wide_resnet(widen_factor=2)
    assert [block.activate_shortcut for block in model.blocks] == [True, False, False]
    first = model.blocks[0].eval()
    nn.init.zeros_(first.conv2.weight)  # leaves the shortcut alone
    x = torch.randn(1, 16, 8, 8)
    expected = first.shortcut(nn.functional.leaky_relu(first.norm1(x), 0.1))
    torch.testing.assert_close(first(x), expected)


def test_wide_resnet_starts_with_he_fan_out():
    """Guards against the initialization of the base class of transformers: std 0.02 in every layer, from which 28
    layers hardly learn."""
    torch.manual_seed(0)
    model = WideResNetForImageClassification(WideResNetConfig(num_labels=10))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            tolerance = 4 / math.sqrt(2 * module.weight.numel())  # four standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            assert (module.running_mean == 0).all() and (module.running_var == 1).all(), name
    assert model.classifier.weight.std().item() == pytest.approx(math.sqrt(2 / (128 + 10)), rel=0.1)
    assert (model.classifier.bias == 0).all()


def test_deeplab_starts_like_its_parts():
    """The backbone must start with He fan-out as in ResNet, the head with PyTorch's default, uniform in +-1 /
    sqrt(fan-in)."""
    torch.manual_seed(0)
    model = DeepLabV2ForSemanticSegmentation(DeepLabV2Config(depths=[1, 1, 1, 1], num_labels=21))
    conv = model.backbone.encoder.stages[3].layers[0].layer[1].convolution
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
    for branch in model.branches:
        bound = 1 / math.sqrt(9 * 2048)
        assert 0.99 * bound < branch.weight.abs().max().item() <= bound
        assert 0 < branch.bias.abs().max().item() <= bound


@pytest.mark.parametrize("model", [tiny_wide_resnet(), tiny_deeplab(), tiny_deeplab(aspp_branches=2)])
def test_gradient_reaches_every_parameter(model):
    """Guards against parameters without a gradient, such as the official dead branches: DistributedDataParallel then
    fails on its second step."""
    model.train()
    labels = torch.randint(0, 5, (2,) if isinstance(model, WideResNetForImageClassification) else (2, 65, 65))
    model(torch.randn(2, 3, 65, 65), labels=labels).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_ignored_pixels_have_no_loss():
    """A crop of only ignored pixels must give a loss of 0 and no NaN, and ignored pixels must not change the mean over
    the others."""
    model = tiny_deeplab().eval()
    pixel_values = torch.randn(1, 3, 33, 33)
    nothing = torch.full((1, 33, 33), 255)
    loss = model(pixel_values, labels=nothing).loss
    loss.backward()
    assert loss.item() == 0 and all(p.grad.isfinite().all() for p in model.parameters())
    half = nothing.clone()
    half[:, :10] = 3
    output = model(pixel_values, labels=half)
    upsampled = nn.functional.interpolate(output.logits, (33, 33), mode="bilinear", align_corners=True)
    expected = -upsampled.log_softmax(1)[:, 3, :10].mean()
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("model", [tiny_wide_resnet(), tiny_deeplab()])
def test_trainer_divides_the_loss_by_the_accumulation_steps(model, tmp_path):
    """Guards against **kwargs in `forward`: the Trainer then does not divide the loss, and with k accumulation steps
    gradients are k times too large."""
    trainer = Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    assert trainer.model_accepts_loss_kwargs is False


@pytest.mark.parametrize(
    ("model", "auto"),
    [
        (tiny_wide_resnet(negative_slope=0.0, batch_norm_momentum=0.01), AutoModelForImageClassification),
        (tiny_deeplab(), AutoModelForSemanticSegmentation),
        (tiny_deeplab(aspp_branches=2), AutoModelForSemanticSegmentation),
    ],
)
def test_saved_folder_loads_bit_identical_through_the_auto_class(model, auto, tmp_path):
    """Guards against a renamed or re-initialized tensor, or a missing configuration field: the loaded model would run
    all the same."""
    scatter_statistics(model)
    model.save_pretrained(tmp_path)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert type(loaded) is type(model) and not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours, theirs = model.config.to_dict(), AutoConfig.from_pretrained(tmp_path).to_dict()
    for runtime in ("_name_or_path", "dtype", "architectures", "transformers_version"):
        ours.pop(runtime, None), theirs.pop(runtime, None)
    assert ours == theirs
    pixel_values = torch.randn(1, 3, 65, 65)
    torch.testing.assert_close(model.eval()(pixel_values).logits, loaded(pixel_values).logits)
    for kind in (nn.Conv2d, nn.BatchNorm2d):  # what no state dict holds
        pairs = zip(model.modules(), loaded.modules(), strict=True)
        assert all(repr(a) == repr(b) for a, b in pairs if isinstance(a, kind))


@pytest.mark.parametrize(("model", "head"), [(tiny_wide_resnet(), "classifier."), (tiny_deeplab(), "branches.")])
def test_another_number_of_classes_replaces_the_head_only(model, head, tmp_path):
    """For fine-tuning on other classes, the head must restart with its own initialization, and nothing else may
    change."""
    scatter_statistics(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    before = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert name.startswith(head) or torch.equal(tensor, before[name]), name
    weights = loaded.classifier.weight if head == "classifier." else loaded.branches[3].weight
    assert weights.shape[0] == 7
    expected = math.sqrt(2 / (64 + 7)) if head == "classifier." else 1 / math.sqrt(3 * 9 * 40)
    assert weights.std().item() == pytest.approx(expected, rel=0.15)


def test_pipelines_open_the_folders(tmp_path):
    """A published folder is used through `pipeline()`, which needs the post-processing of the image processor as
    well."""
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    tiny_wide_resnet().save_pretrained(tmp_path / "wrn")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "wrn")
    assert len(pipeline("image-classification", model=str(tmp_path / "wrn"))(Image.fromarray(image))) == 5
    tiny_deeplab().save_pretrained(tmp_path / "deeplab")
    caffe_processor(65).save_pretrained(tmp_path / "deeplab")
    masks = pipeline("image-segmentation", model=str(tmp_path / "deeplab"))(Image.fromarray(image))
    assert masks[0]["mask"].size == (50, 40)


def tiny_resnet(**changes) -> ResNetForImageClassification:
    torch.manual_seed(3)
    resnet = ResNetForImageClassification(ResNetConfig(**TINY_RESNET | changes))
    scatter_statistics(resnet)
    return resnet


@pytest.mark.parametrize("given", ["classifier", "base"])
def test_imagenet_backbone_sets_every_tensor(given, tmp_path):
    """Guards against stock loading, which leaves unmatched tensors random with only a warning. The head must not
    change."""
    resnet = tiny_resnet()
    (resnet.resnet if given == "base" else resnet).save_pretrained(tmp_path)
    model = tiny_deeplab()
    head = {name: tensor.clone() for name, tensor in model.branches.state_dict().items()}
    load_imagenet_backbone(model, str(tmp_path))
    loaded, expected = model.backbone.state_dict(), resnet.resnet.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    assert all(torch.equal(tensor, head[name]) for name, tensor in model.branches.state_dict().items())
    assert model.backbone.encoder.stages[3].layers[1].layer[1].convolution.dilation == (4, 4)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (tiny_resnet(depths=[1, 1, 2, 1]), "depths"),
        (tiny_resnet(downsample_in_bottleneck=True), "downsample_in_bottleneck"),
    ],
)
def test_other_backbones_are_refused(source, named, tmp_path):
    """Guards against weights that load but compute something else: ResNet V1 and V1.5 have the same tensors."""
    source.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=named):
        load_imagenet_backbone(tiny_deeplab(), str(tmp_path))


def test_incomplete_backbone_checkpoint_is_refused(tmp_path):
    """Guards against a half-written or renamed checkpoint that leaves layers random and only warns."""
    resnet = tiny_resnet().resnet
    state = resnet.state_dict()
    state["another.weight"] = state.pop("encoder.stages.0.layers.0.layer.1.convolution.weight")
    resnet.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="do not match"):
        load_imagenet_backbone(tiny_deeplab(), str(tmp_path))


def caffe_processor(side: int) -> CaffeImageProcessor:
    return CaffeImageProcessor(size={"height": side, "width": side})


def saved_and_loaded(processor, folder: Path):
    """The processor as a user gets it: saved beside a model, opened through the Auto class, without remote code."""
    tiny_deeplab().save_pretrained(folder)
    processor.save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


def test_caffe_processor_is_bgr_minus_the_mean(tmp_path):
    """Guards against RGB, a 0-1 range or a swapped mean, which make the weights of a Caffe backbone useless without an
    error."""
    processor = saved_and_loaded(caffe_processor(33), tmp_path)
    assert type(processor) is CaffeImageProcessor
    colors = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    for channel in range(3):
        colors[channel + 1, ..., channel] = 255
    black, *primaries = (
        processor(color, do_resize=False, return_tensors="pt")["pixel_values"][0, :, 0, 0] for color in colors
    )
    torch.testing.assert_close(black, -torch.tensor([104.008, 116.669, 122.675]))
    matrix = torch.stack([primary - black for primary in primaries], dim=1)
    torch.testing.assert_close(matrix, 255 * torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]))
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    shown = torch.tensor(image / 255, dtype=torch.float32)
    expected = torch.einsum("oi,hwi->ohw", matrix, shown) + black[:, None, None]
    probed = processor(image, do_resize=False, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(probed, expected, atol=1e-4, rtol=0)
    assert processor(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 33, 33)


def test_caffe_processor_keeps_class_ids():
    """Masks go through the same code as images: their class ids must not be flipped, shifted or blended."""
    image = np.zeros((10, 12, 3), dtype=np.uint8)
    mask = np.random.default_rng(0).integers(0, 21, (10, 12)).astype(np.uint8)
    labels = caffe_processor(10)(image, mask, do_resize=False, return_tensors="pt")["labels"]
    assert torch.equal(labels[0], torch.from_numpy(mask).long())


def test_deeplab_folder_keeps_its_own_processor(tmp_path):
    """ImageNet weights need RGB, so registering the Caffe processor must not make it the processor of every DeepLab
    folder."""
    assert type(saved_and_loaded(SegformerImageProcessor(), tmp_path)) is SegformerImageProcessor
