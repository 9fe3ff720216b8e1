"""Tests of the training views: what is moved, what is random, and from which generator."""

import pickle
import random
from typing import Any, Final

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from hf_dmt.data.drawing.transforms import GRAY, ImageView, PixelView, train_view
from hf_dmt.data.seeds import seed_for, seeded

CLASSIFICATION: Final = "image-classification"
SEGMENTATION: Final = "semantic-segmentation"


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def markers(height: int, width: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """An image whose red and green channels are column and row; class and confidence encode the same position."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return Image.fromarray(image), rows * 1000 + columns, ((rows * 100 + columns) / 20_000).astype(np.float32)


def numpy_state() -> bytes:
    state: Any = np.random.get_state()
    return bytes(state[1].tobytes())


def draws(view: ImageView, image: Image.Image, count: int) -> list[Tensor]:
    out = []
    for seed in range(count):
        with seeded(seed):
            out.append(view(image))
    return out


@pytest.mark.parametrize(("height", "width"), [(90, 70), (40, 110), (30, 20)])
def test_image_mask_and_confidence_move_together(height: int, width: int) -> None:
    """Guards against a mask that is scaled, cropped, flipped or padded differently from its image: training would
    silently use wrong classes."""
    image, mask, confidence = markers(height, width)
    view = PixelView(48)
    seen_padding = seen_flip = seen_straight = 0
    for seed in range(60):
        with seeded(seed):
            pixels, labels, scores = view(image, mask, confidence)
        valid = labels != -100
        rows, columns = labels // 1000, labels % 1000
        # Bilinear and nearest sampling of a ramp differ by up to one source pixel where scaled down by 2.
        red, green = pixels[0] * 255, pixels[1] * 255
        assert ((red - columns).abs()[valid] <= 1.6).all()
        assert ((green - rows).abs()[valid] <= 1.6).all()
        # Class and confidence come from exactly the same source pixel.
        torch.testing.assert_close(scores[valid], ((rows * 100 + columns) / 20_000).float()[valid])
        # Exactly the padding has a gray blue channel; it never has a class or a confidence.
        assert torch.equal(valid, pixels[2] == 0)
        assert (scores[~valid] == 0).all()
        seen_padding += int((~valid).any())
        step = (columns[:, 1:] - columns[:, :-1])[valid[:, 1:] & valid[:, :-1]].sum()
        seen_flip, seen_straight = seen_flip + int(step < 0), seen_straight + int(step > 0)
    assert seen_padding > 4 and seen_flip > 10 and seen_straight > 10, "the comparison above must not be vacuous"


def test_mask_is_not_shifted_against_the_image_by_scaling() -> None:
    """Guards against nearest sampling without half-pixel centers, which shifts the mask by up to half a pixel against
    the bilinear image."""
    image, mask, _ = markers(100, 100)
    shifts = []
    for seed in range(40):
        with seeded(seed):
            pixels, labels, _ = PixelView(32, hflip=False)(image, mask)
        shifts.append((pixels[0] * 255 - labels % 1000).mean().item())
    assert abs(float(np.mean(shifts))) < 0.1


def test_one_factor_scales_both_sides() -> None:
    """Independent factors for height and width distort every object; the official code once had that bug."""
    image, mask, _ = markers(100, 100)
    factors = []
    for seed in range(30):
        with seeded(seed):
            _, labels, _ = PixelView(30, hflip=False)(image, mask)
        across = (labels[15] % 1000).max() - (labels[15] % 1000).min()
        down = (labels[:, 15] // 1000).max() - (labels[:, 15] // 1000).min()
        assert abs(int(across) - int(down)) <= 2
        factors.append(29 / int(across))
    assert min(factors) < 0.65 and max(factors) > 1.3


def test_ids_confidences_and_types_survive_exactly() -> None:
    """Guards against class ids that become other classes by interpolation or in 8 bits, and against confidences that
    become ties in 16 bits."""
    mask = np.random.RandomState(1).choice([-100, 0, 7, 255, 65_535], (40, 50))
    confidence = np.random.RandomState(2).uniform(0.999, 1.0, (40, 50)).astype(np.float32)
    with seeded(3):
        pixels, labels, scores = train_view("strong", 32, SEGMENTATION)(noise(40, 50), mask, confidence)
    assert (pixels.dtype, labels.dtype, scores.dtype) == (torch.float32, torch.int64, torch.float32)
    assert (pixels.shape, labels.shape, scores.shape) == ((3, 32, 32), (32, 32), (32, 32))
    assert set(labels.flatten().tolist()) == {-100, 0, 7, 255, 65_535}
    assert set(scores.flatten().tolist()) <= {0.0, *confidence.flatten().tolist()}
    assert type(pixels) is type(labels) is type(scores) is Tensor


def test_labeled_pixels_have_confidence_one() -> None:
    """A labeled image without stored confidences must have confidence 1, and its padding confidence 0."""
    with seeded(0):
        _, labels, scores = PixelView(32)(noise(20, 20), np.zeros((20, 20), dtype=np.int64))
    assert torch.equal(scores, (labels != -100).float())


def test_photometric_augmentation_leaves_geometry_and_targets_alone() -> None:
    """The strong view may change colors but not positions: `strong` must draw the same geometry as
    `scale-crop-flip`."""
    image, mask, confidence = markers(64, 64)
    changed = 0
    for seed in range(10):
        views = []
        for name in ("scale-crop-flip", "strong"):
            with seeded(seed):
                views.append(train_view(name, 48, SEGMENTATION)(image, mask, confidence))
        (plain, labels, scores), (colored, labels_too, scores_too) = views
        assert torch.equal(labels, labels_too) and torch.equal(scores, scores_too)
        changed += not torch.equal(plain, colored)
    assert changed >= 8


@pytest.mark.parametrize("name", ["weak", "strong"])
@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (20, 47), (47, 20), (64, 80), (1, 1)])
def test_any_image_becomes_a_view_in_range(name: str, shape: tuple[int, int]) -> None:
    """Guards against views of smaller, larger and oblong images with values outside [0, 1], which normalization turns
    into nonsense."""
    for view in draws(train_view(name, 32, CLASSIFICATION), noise(*shape), 25):
        assert view.shape == (3, 32, 32) and view.dtype == torch.float32 and type(view) is Tensor
        assert view.min() >= 0 and view.max() <= 1


@pytest.mark.parametrize("name", ["weak", "strong", "scale-crop-flip"])
def test_pixel_views_smaller_and_larger_than_the_image(name: str) -> None:
    """A crop larger than the image must be padded, not refused and not shrunk."""
    for shape in ((1, 1), (10, 60), (60, 10), (48, 48)):
        with seeded(1):
            pixels, labels, _ = train_view(name, 48, SEGMENTATION)(noise(*shape), np.ones(shape, dtype=np.int64))
        assert pixels.shape == (3, 48, 48) and set(labels.flatten().tolist()) <= {-100, 1}
        assert pixels.min() >= 0 and pixels.max() <= 1


def test_hflip_can_be_switched_off() -> None:
    """Guards against flips that cannot be switched off: mirrored digits keep their label and teach nonsense."""
    left_bright = np.zeros((16, 16, 3), dtype=np.uint8)
    left_bright[:, :8] = 255
    image = Image.fromarray(left_bright)

    def mirrored(view: ImageView) -> int:
        return sum(bool(v[..., 12:].mean() > v[..., :4].mean()) for v in draws(view, image, 40))

    assert mirrored(ImageView(16, hflip=False)) == 0
    assert 10 <= mirrored(ImageView(16, hflip=True)) <= 30


@pytest.mark.parametrize("source", [8, 32])
def test_strong_views_are_not_flat(source: int) -> None:
    """Guards against shifts by a number of pixels meant for large images (B24 in scripts/recipes/paper): they turn
    small images into one flat color with a label."""
    view = train_view("strong", 32, CLASSIFICATION)
    flat = sum(bool(v.amax((1, 2)).sub(v.amin((1, 2))).max() < 0.02) for v in draws(view, noise(source, source), 400))
    assert flat == 0


@pytest.mark.parametrize("size", [31, 48])
def test_shifts_without_interpolation_are_the_same_shifts(size: int) -> None:
    """Copying pixels instead of interpolating between them must only save time and never change a view."""
    ours = ImageView(size, strong=True)
    stock = ImageView(size, strong=True)
    stock.colors = v2.RandAugment(2, 9, interpolation=v2.InterpolationMode.BILINEAR, fill=GRAY)
    assert all(map(torch.equal, draws(ours, noise(size, size), 200), draws(stock, noise(size, size), 200)))


def test_views_are_pure_functions_of_the_seed() -> None:
    """The same seed must give the same view, whatever was drawn before: exact resume and independent processes depend
    on it."""
    image, mask, confidence = markers(40, 40)
    for view in (ImageView(24), ImageView(24, strong=True)):
        first = draws(view, image, 12)
        torch.rand(7), random.random(), np.random.rand()
        assert all(map(torch.equal, first, draws(pickle.loads(pickle.dumps(view)), image, 12)))
        assert len({v.numpy().tobytes() for v in first}) == 12, "different seeds must differ"
    pixel_view = train_view("strong", 24, SEGMENTATION)
    results = []
    for _ in range(2):
        with seeded(5):
            results.append(pixel_view(image, mask, confidence))
    assert all(map(torch.equal, *results))


def test_no_other_generator_is_read_and_the_callers_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against reseeding Python's and NumPy's generators for each sample, and against torch.manual_seed, which
    would reset the GPU's dropout."""

    def forbidden(seed: int) -> None:
        raise AssertionError("torch.manual_seed also seeds every accelerator")

    monkeypatch.setattr(torch, "manual_seed", forbidden)
    state = random.getstate(), numpy_state(), torch.get_rng_state()
    draws(ImageView(16, strong=True), noise(30, 30), 30)
    for seed in range(30):
        with seeded(seed):
            PixelView(16, photometric=True)(noise(30, 30), np.zeros((30, 30), dtype=np.int64))
    assert random.getstate() == state[0] and numpy_state() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


def test_the_callers_generator_is_given_back_after_an_error() -> None:
    """Guards against the training loop drawing from a sample's random generator after an error, such as a corrupt
    image."""
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1):
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_for_separates_what_numpy_alone_would_merge() -> None:
    """Guards against equal seeds for different inputs: SeedSequence([1]) == SeedSequence([1, 0]), so models and draws
    would silently share augmentations."""
    parts = [(), (0,), (1,), (1, 0), (0, 1), (2**32,), (1, 0, 0), (0, 0, 1), (42, 1, 7), (42, 7, 1)]
    assert len({seed_for(*p) for p in parts}) == len(parts)
    assert len({seed_for(0, member, draw, 3) for member in (0, 1) for draw in range(500)}) == 1000
    with pytest.raises(OverflowError):
        seed_for(-1)


def test_seed_for_is_the_same_everywhere() -> None:
    """Guards against a seed that depends on the process or platform (as hash() does): a resumed run would draw other
    views."""
    assert seed_for(42, 1, 2**40) == 1109478786332418209


def test_bad_input_is_named() -> None:
    """Guards against misreading wrong input: each error must say what was given."""
    with pytest.raises(ValueError, match=r"scale-crop-flip.*image-classification.*weak, strong"):
        train_view("scale-crop-flip", 32, CLASSIFICATION)
    with pytest.raises(ValueError, match="'detection'"):
        train_view("weak", 32, "detection")
    with pytest.raises(ValueError, match="0x0"):
        train_view("weak", 0, CLASSIFICATION)
    with pytest.raises(ValueError, match="mode 'L'"):
        ImageView(16)(Image.new("L", (8, 8)))
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 8\)"):
        PixelView(16)(noise(8, 9), np.zeros((9, 8), dtype=np.int64))
