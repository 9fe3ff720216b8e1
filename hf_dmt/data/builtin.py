"""The embedded data sets: real handwritten digits, and scenes composed of them. They need no network and no files.

Both use the 1,797 digits of 8x8 pixels in scikit-learn (the test part of the UCI "Optical Recognition of Handwritten
Digits" set). The split is fixed: 10 digits per class for validation, 50 per class for testing, the rest for training.
With 500 test digits, the standard error of an accuracy near 0.85 is below 1.6 points, and 100 are enough to tell which
member is better.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

BUILTIN_SETS = ("digits", "digit-scenes")
VALIDATION_PER_CLASS = 10
TEST_PER_CLASS = 50
SPLITS = ("train", "validation", "test")
SCENE_SIZE = 48  # pixels; digits are 16 to 24 pixels high
SCENE_CLASSES = (0, 1, 2, 3)  # the digits that occur
DIGITS_PER_SCENE = (2, 4)


@dataclass(frozen=True, eq=False)
class BuiltinSet:
    """A map-style data set in memory.

    `images` is uint8 (N, H, W) or (N, H, W, 3). With `labels`, int64 (N,), items are `{"image": PIL, "label": int}`;
    with `masks`, uint8 (N, H, W), they are `{"image": PIL, "mask": PIL in mode L}`.
    """

    images: np.ndarray
    class_names: tuple[str, ...]
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The row of each image in its split, as in `--labeled_ids` files and `split.json`."""
        return tuple(str(row) for row in range(len(self)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"image": Image.fromarray(self.images[index])}
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        if self.masks is not None:
            item["mask"] = Image.fromarray(self.masks[index])
        return item


@cache
def load_builtin(name: str) -> dict[str, BuiltinSet]:
    """The splits `train`, `validation` and `test` of `digits` or `digit-scenes`; created once per process.

    Raises:
        ValueError: there is no such data set.
    """
    if name == "digits":
        return _digits()
    if name == "digit-scenes":
        return digit_scenes()
    raise ValueError(f"There is no embedded data set {name!r}: choose {' or '.join(BUILTIN_SETS)}.")


def _digits() -> dict[str, BuiltinSet]:
    from sklearn.datasets import load_digits  # takes a second, so imported only if needed

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    # RandomState: its streams are the same in all NumPy versions, unlike those of default_rng.
    rng = np.random.RandomState(0)
    rows: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in range(10):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        parts = np.split(shuffled, [-TEST_PER_CLASS - VALIDATION_PER_CLASS, -TEST_PER_CLASS])
        for split, part in zip(SPLITS, parts, strict=True):
            rows[split].append(part)
    names = tuple(str(label) for label in range(10))
    return {
        split: BuiltinSet(images[order], names, labels=labels[order])
        for split, order in ((split, np.sort(np.concatenate(parts))) for split, parts in rows.items())
    }


def digit_scenes(seed: int = 0, counts: tuple[int, int, int] = (600, 60, 200)) -> dict[str, BuiltinSet]:
    """Scenes of several digits on textured backgrounds; class 0 is background, then one class per digit.

    Colors do not depend on the class: a digit is lighter or darker than its surroundings, with a random tint. The
    scenes of a split only use the digits of that split. A few digits overlap, and later ones cover earlier ones.

    Args:
        counts: number of scenes for training, validation and testing.
    """
    names = ("background", *(str(digit) for digit in SCENE_CLASSES))
    scenes = {}
    for part, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        source = load_builtin("digits")[split]
        assert source.labels is not None
        pools = [source.images[source.labels == digit] for digit in SCENE_CLASSES]
        rng = np.random.RandomState([seed, part])
        fewest, most = DIGITS_PER_SCENE
        pairs = [_scene(pools, rng, rng.randint(fewest, most + 1)) for _ in range(count)]
        images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        scenes[split] = BuiltinSet(images, names, masks=masks)
    return scenes


def _scene(pools: list[np.ndarray], rng: np.random.RandomState, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 (48, 48, 3) and mask uint8 (48, 48)."""
    size = SCENE_SIZE
    # Texture: coarse patches of color and fine grain.
    patches = Image.fromarray(rng.randint(90, 166, (4, 4, 3)).astype(np.uint8))
    image = np.asarray(patches.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    image = image + rng.normal(0, 6, (size, size, 1)).astype(np.float32)
    mask = np.zeros((size, size), dtype=np.uint8)
    for _ in range(digits):
        which = rng.randint(len(pools))
        side = rng.randint(size // 3, size // 2 + 1)
        digit = Image.fromarray(pools[which][rng.randint(len(pools[which]))])
        ink = np.asarray(digit.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
        # The emptiest of a few random places: some overlap remains, as in real scenes, but most digits are legible.
        places = [(slice(y, y + side), slice(x, x + side)) for y, x in rng.randint(0, size - side + 1, (4, 2))]
        window = min(places, key=lambda place: np.count_nonzero(mask[place]))
        surroundings = image[window].mean((0, 1))
        contrast = rng.uniform(70, 120) * (1 if surroundings.mean() < 128 else -1)
        color = np.clip(surroundings + contrast + rng.normal(0, 25, 3), 0, 255).astype(np.float32)
        image[window] += ink * (color - image[window])
        mask[window][ink[..., 0] > 0.5] = which + 1
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask
