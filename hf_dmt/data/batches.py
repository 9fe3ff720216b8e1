"""From images to training batches: which image is drawn when, and how it becomes a sample for a and one for b.

The two members draw from independent streams: own order, own augmentation, own selected subset. Every draw is a pure
function of (seed, phase, member, position), so ranks never repeat each other, the number of workers does not matter,
and a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .decoding import to_mask, to_rgb
from .pseudo_labels import ImageLabels, PixelLabels
from .sources import ImageSet, check_mask_size
from .transforms import IGNORE_INDEX, augmentation_seed, seed_for

MEMBERS = ("a", "b")
PseudoLabels = ImageLabels | PixelLabels


class Draw(NamedTuple):
    """One sample for one member: the image at `row` of the labeled or unlabeled set, augmented with `seed`."""

    member: str
    is_pseudo: bool
    row: int
    seed: int


@dataclass(frozen=True)
class BatchShape:
    """Images per optimizer update over all processes and accumulation steps, and how they are divided.

    Attributes:
        labeled, pseudo: images per update. world_size, accumulation: processes, micro-batches per update.
    """

    labeled: int
    pseudo: int
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulation
        for name, size in (("labeled_batch_size", self.labeled), ("pseudo_batch_size", self.pseudo)):
            if size % parts:
                below, above = size // parts * parts, (size // parts + 1) * parts
                nearest = f"{below} or {above}" if below else f"{above}"
                raise ValueError(
                    f"{name} {size} cannot be divided evenly over {self.world_size} process(es) x {self.accumulation} "
                    f"accumulation step(s). It counts images per update over all of them: use {nearest}."
                )

    def labels_only(self) -> BatchShape:
        """Phase 0: the same number of images, all labeled."""
        return BatchShape(self.labeled + self.pseudo, 0, self.world_size, self.accumulation)


class PhaseBatchSampler:
    """The micro-batches of one process in the current phase: lists of `(draw for a, draw for b)`, or of the draw for
    the one member that the phase trains.

    `begin` sets the phase. Streams are endless: a permutation of the rows, then the next. `batch_size` and `drop_last`
    are what accelerate reads.
    """

    drop_last = False

    def __init__(self, shape: BatchShape, *, rank: int = 0, seed: int = 42) -> None:
        self.shape, self.rank, self.seed = shape, rank, seed
        self.phase, self.steps = 0, 0
        self.rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def begin(self, phase: int, steps: int, labeled: dict[str, np.ndarray], pseudo: dict[str, np.ndarray]) -> None:
        """Set the phase: its number of updates and, per trained member, the rows it draws from (empty: none of this
        kind).

        In a phase without pseudo-labeled rows the whole batch is labeled.
        """
        self.phase, self.steps = phase, steps
        self.rows = {member: (labeled[member], pseudo[member]) for member in labeled}

    @property
    def batch_size(self) -> int:
        """Images per micro-batch and process."""
        return (self.shape.labeled + self.shape.pseudo) // (self.shape.world_size * self.shape.accumulation)

    def __len__(self) -> int:
        return self.steps * self.shape.accumulation

    def __iter__(self) -> Iterator[list[tuple[Draw, ...]]]:
        streams = [self._member_batches(member, MEMBERS.index(member)) for member in self.rows]
        for batches in zip(*streams, strict=True):
            yield list(zip(*batches, strict=True))

    def _member_batches(self, member: str, position: int) -> Iterator[list[Draw]]:
        labeled, pseudo = self.rows[member]
        shape = self.shape if len(pseudo) else self.shape.labels_only()
        kinds = [(False, labeled, shape.labeled), (True, pseudo, shape.pseudo)]
        streams = [self._stream(member, position, is_pseudo, rows) for is_pseudo, rows, size in kinds if size]
        sizes = [size // (shape.world_size * shape.accumulation) for *_, size in kinds if size]
        for _ in range(self.steps):
            for micro in range(shape.accumulation):
                batch: list[Draw] = []
                for stream, size in zip(streams, sizes, strict=True):
                    # The update's draws in order; micro-batch and rank take their slices, so that one process with a
                    # batch of 16 and two with 8 each train on the same 16 images.
                    start = (micro * shape.world_size + self.rank) * size
                    batch += [stream(start + offset) for offset in range(size)]
                yield batch
            for stream, size in zip(streams, sizes, strict=True):
                stream.advance(size * shape.world_size * shape.accumulation)

    def _stream(self, member: str, position: int, is_pseudo: bool, rows: np.ndarray) -> _Stream:
        return _Stream(member, is_pseudo, rows, (self.seed, self.phase, position, int(is_pseudo)))


class _Stream:
    """An endless shuffled stream over rows, addressed relative to a position that only moves forward."""

    def __init__(self, member: str, is_pseudo: bool, rows: np.ndarray, key: tuple[int, ...]) -> None:
        self.member, self.is_pseudo, self.rows, self.key = member, is_pseudo, rows, key
        self.position = 0
        self._orders: dict[int, np.ndarray] = {}

    def __call__(self, offset: int) -> Draw:
        number = self.position + offset
        turn, place = divmod(number, len(self.rows))
        if turn not in self._orders:
            self._orders = {old: order for old, order in self._orders.items() if old >= self.position // len(self.rows)}
            self._orders[turn] = np.random.default_rng([*self.key, turn]).permutation(len(self.rows))
        row = int(self.rows[self._orders[turn][place]])
        return Draw(self.member, self.is_pseudo, row, seed_for(*self.key, number))

    def advance(self, count: int) -> None:
        self.position += count


class PairDataset(Dataset[dict[str, dict[str, Any]]]):
    """Samples for the members in training, addressed by `(draw for a, draw for b)` or the draw of one.

    Args:
        labeled: map-style, `{'image': PIL, 'label': int}`, or `{'image': PIL, 'mask': PIL or (H, W) integers}` with
            -100 for void.
        unlabeled: map-style, `{'image': PIL}`; anything else in its items is not looked at. None without pseudo labels.
        views: the random view of each member (an `ImageView` or a `PixelView`).
        image_size: pixels only: images are brought to this shorter side first, never up.
        num_classes: labels are checked against it when they are read.
    """

    def __init__(
        self,
        labeled: Any,
        unlabeled: Any | None,
        views: Mapping[str, Callable[..., Any]],
        *,
        task: str,
        image_size: int,
        num_classes: int,
    ) -> None:
        # Masks of unlabeled images, where there are any, are for scoring pseudo labels: no sample needs them decoded.
        self.unlabeled = unlabeled.without_targets() if isinstance(unlabeled, ImageSet) else unlabeled
        self.labeled, self.views = labeled, views
        self.task, self.image_size, self.num_classes = task, image_size, num_classes
        # Both are set when a phase begins: the labels by the member that learns from them, and online the views that
        # the live teacher labels instead.
        self.pseudo: dict[str, PseudoLabels] = {}
        self.weak_views: Mapping[str, Callable[..., Any]] | None = None

    def __len__(self) -> int:
        return len(self.labeled) + len(self.unlabeled or ())

    def __getitem__(self, draws: tuple[Draw, ...]) -> dict[str, dict[str, Any]]:
        return {draw.member: self._sample(draw) for draw in draws}

    def _sample(self, draw: Draw) -> dict[str, Any]:
        source: Any = self.unlabeled if draw.is_pseudo else self.labeled
        item, name = source[draw.row], _name_of(source, draw.row)
        image = to_rgb(item["image"], f"image {name}")
        view, weak_view = self.views[draw.member], (self.weak_views or {}).get(draw.member)
        inputs: tuple[Any, ...]
        if self.task == "image-classification":
            inputs = (image,)
            labels, confidence = self._image_target(draw, item, name)
            pixels = _seen(view, inputs, draw.seed)
        else:
            fitted = fit_shorter_side(image, self.image_size)
            inputs = (fitted, *self._pixel_target(draw, item, name, image, fitted))
            pixels, labels, confidence = _seen(view, inputs, draw.seed)
        sample = {"pixel_values": pixels, "labels": labels, "confidence": confidence, "is_pseudo": draw.is_pseudo}
        if weak_view is not None:
            # The same seed moves a mask's image by the same numbers: only the colours differ.
            weak = _seen(weak_view, inputs, draw.seed) if draw.is_pseudo else pixels
            sample["weak"] = weak[0] if isinstance(weak, tuple) else weak
        return sample

    def _image_target(self, draw: Draw, item: Mapping[str, Any], name: str) -> tuple[int, np.float32]:
        if draw.is_pseudo:
            if self.weak_views is not None:
                return 0, np.float32(0)  # the live teacher labels it
            stored = self.pseudo[draw.member]
            assert isinstance(stored, ImageLabels)
            return int(stored.labels[draw.row]), stored.confidence[draw.row]
        label = int(item["label"])
        check_labels(np.asarray(label), self.num_classes, f"labeled image {name}")
        return label, np.float32(1)

    def _pixel_target(
        self, draw: Draw, item: Mapping[str, Any], name: str, image: Image.Image, fitted: Image.Image
    ) -> tuple[np.ndarray, np.ndarray | None]:
        size = fitted.size[::-1]
        if draw.is_pseudo:
            if self.weak_views is not None:
                return np.zeros(size, dtype=np.int64), None
            stored = self.pseudo[draw.member]
            assert isinstance(stored, PixelLabels)
            return stored.selected(draw.row)
        mask = to_mask(item["mask"], name)
        check_labels(mask, self.num_classes, f"the mask of labeled image {name}")
        check_mask_size(mask.shape, image.size, name)
        return resize_mask(mask, size), None


def _seen(view: Callable[..., Any], inputs: tuple[Any, ...], seed: int) -> Any:
    with augmentation_seed(seed):
        return view(*inputs)


def _name_of(source: Any, row: int) -> str:
    """What errors call an image: its id where the set has ids."""
    return str(source.id_of(row) if hasattr(source, "id_of") else row)


class CleanDataset(Dataset[dict[str, Any]]):
    """Images as they are, for labeling and evaluation; `rows` are one process's share of `source`."""

    def __init__(
        self, source: Any, rows: Sequence[int] | np.ndarray, *, task: str, shorter_side: int | None = None
    ) -> None:
        self.source, self.rows = source, rows
        self.task, self.shorter_side = task, shorter_side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        item, name = self.source[row], _name_of(self.source, row)
        image = to_rgb(item["image"], f"image {name}")
        if self.shorter_side is not None:
            image = fit_shorter_side(image, self.shorter_side)
        truth = item.get("label" if self.task == "image-classification" else "mask")
        if self.task == "semantic-segmentation" and truth is not None:
            truth = to_mask(truth, name).astype(np.int64)
        return {"image": image, "labels": truth, "index": row}


class CleanCollator:
    """Batches of clean images: each member's processor runs here, in the worker, over all images of the batch at once.

    Args:
        prepare: per member, a function from a list of images to a list of `(3, h, w)` tensors (the processor).

    Returns:
        `{'a': [tensors], 'b': [tensors], 'labels': list, 'index': (B,) int64, 'sizes': [(H, W)]}`.
    """

    def __init__(self, prepare: dict[str, Callable[[list[Any]], list[Tensor]]]) -> None:
        self.prepare = prepare

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        images = [item["image"] for item in items]
        return {
            **{member: prepare(images) for member, prepare in self.prepare.items()},
            "labels": [item["labels"] for item in items],
            "index": torch.tensor([item["index"] for item in items]),
            "sizes": [image.size[::-1] for image in images],
        }


def fit_shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Bring an image to the given shorter side, keeping its shape; smaller images stay as they are."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(side, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at `(H, W)`, each pixel the class at its centre."""
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Labels are checked on the CPU when they are read: on a GPU the same mistake ends the process without a name.

    Raises:
        ValueError: a label outside 0..num_classes-1 that is not -100.
    """
    wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_classes))]
    if wrong.size:
        found = int(wrong.flat[0])
        cause = "A missing class is named with --id2label."
        if labels.ndim:
            cause = (
                f"If {found} is void, name it with --ignore_index; in arrays given from Python, void is -100. {cause}"
            )
        elif found < 0:
            cause = "-1 usually marks an image without a label: move it to the unlabeled images."
        raise ValueError(f"Label {found} in {where} is outside 0..{num_classes - 1} ({num_classes} classes). {cause}")
