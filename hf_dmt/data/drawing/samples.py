"""Turn drawn images into the samples for a and b: view, labels, confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..labels.items import check_label
from ..labels.pseudo_labels import ImageLabels, PixelLabels
from ..reading.image_set import ImageSet, at_side, check_mask_size, check_mask_values, decoded_item, name_of
from ..reading.masks import to_mask
from ..seeds import seeded
from .clean_images import fit_shorter_side, resize_mask
from .sampler import Draw

PseudoLabels = ImageLabels | PixelLabels


class PairDataset(Dataset[dict[str, dict[str, Any]]]):
    """Samples for the training members, addressed by `(draw for a, draw for b)` or the draw of one.

    Args:
        labeled: map-style, `{'image': PIL, 'label': int}`, or `{'image': PIL, 'mask': PIL or (H, W) integers}` with
            -100 for void.
        unlabeled: map-style, `{'image': PIL}`; anything else in its items is ignored. None without pseudo labels.
        views: the view of each member, see `train_view`.
        image_size: segmentation: images are first resized to this shorter side, never enlarged.
        num_classes: labels are checked against it when they are read.
        exact_decoding: decode every pixel of large images, even if fewer would do.
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
        exact_decoding: bool = False,
    ) -> None:
        self.view_side = None if exact_decoding else image_size
        # Masks of unlabeled images, if there are any, are only for scoring pseudo labels, so samples do not decode
        # them.
        seen = unlabeled.without_targets() if isinstance(unlabeled, ImageSet) else unlabeled
        self.unlabeled, self.labeled = at_side(seen, self.view_side), at_side(labeled, self.view_side)
        self.views = views
        self.task, self.image_size, self.num_classes = task, image_size, num_classes
        # Both are set when a phase begins: the labels by the member that learns from them, or for online training the
        # views that the current teacher labels.
        self.pseudo: dict[str, PseudoLabels] = {}
        self.weak_views: Mapping[str, Callable[..., Any]] | None = None

    def __len__(self) -> int:
        return len(self.labeled) + len(self.unlabeled or ())

    def __getitem__(self, draws: tuple[Draw, ...]) -> dict[str, dict[str, Any]]:
        return {draw.member: self._sample(draw) for draw in draws}

    def pseudo_rows(self, member: str) -> np.ndarray:
        """The unlabeled rows that a member draws from in this phase: (n,) the selected images, or all for pixels and
        online labels."""
        stored = self.pseudo.get(member)
        return stored.rows if isinstance(stored, ImageLabels) else np.arange(len(self.unlabeled or ()))

    def names(self, draws: Mapping[str, Sequence[Draw]]) -> dict[str, list[str]]:
        """For each member, the names of the images it drew: `labeled cat/1.png`, `unlabeled 17`."""
        kinds = {False: ("labeled", self.labeled), True: ("unlabeled", self.unlabeled)}

        def name(draw: Draw) -> str:
            kind, source = kinds[draw.is_pseudo]
            return f"{kind} {name_of(source, draw.row)}"

        return {member: [name(draw) for draw in drawn] for member, drawn in draws.items()}

    def _sample(self, draw: Draw) -> dict[str, Any]:
        source: Any = self.unlabeled if draw.is_pseudo else self.labeled
        name = name_of(source, draw.row)
        item, image, size = decoded_item(source, draw.row, self.view_side)
        view, weak_view = self.views[draw.member], (self.weak_views or {}).get(draw.member)
        inputs: tuple[Any, ...]
        if self.task == "image-classification":
            inputs = (image,)
            labels, confidence = self._image_target(draw, item, name)
            pixels = _seen(view, inputs, draw.seed)
        else:
            fitted = fit_shorter_side(image, self.image_size, size)
            inputs = (fitted, *self._pixel_target(draw, item, name, size, fitted))
            pixels, labels, confidence = _seen(view, inputs, draw.seed)
        sample = {"pixel_values": pixels, "labels": labels, "confidence": confidence, "is_pseudo": draw.is_pseudo}
        if weak_view is not None:
            # The same seed gives a mask's image the same geometry: only the colors differ.
            weak = _seen(weak_view, inputs, draw.seed) if draw.is_pseudo else pixels
            sample["weak"] = weak[0] if isinstance(weak, tuple) else weak
        return sample

    def _image_target(self, draw: Draw, item: Mapping[str, Any], name: str) -> tuple[int, np.float32]:
        if draw.is_pseudo:
            if self.weak_views is not None:
                return 0, np.float32(0)  # labeled later by the current teacher
            stored = self.pseudo[draw.member]
            assert isinstance(stored, ImageLabels)
            return int(stored.labels[draw.row]), stored.confidence[draw.row]
        # Checked again: in a set that must decode an image to read its label, only some labels were checked before
        # training.
        return check_label(item["label"], f"Labeled image {name}", self.num_classes), np.float32(1)

    def _pixel_target(
        self, draw: Draw, item: Mapping[str, Any], name: str, full_size: tuple[int, int], fitted: Image.Image
    ) -> tuple[np.ndarray, np.ndarray | None]:
        size = fitted.size[::-1]
        if draw.is_pseudo:
            if self.weak_views is not None:
                return np.zeros(size, dtype=np.int64), None
            stored = self.pseudo[draw.member]
            assert isinstance(stored, PixelLabels)
            return stored.selected(draw.row)
        mask = to_mask(item["mask"], name)
        check_mask_values(mask, self.num_classes, f"the mask of labeled image {name}")
        check_mask_size(mask.shape, full_size, name)
        return resize_mask(mask, size), None


def _seen(view: Callable[..., Any], inputs: tuple[Any, ...], seed: int) -> Any:
    with seeded(seed):
        return view(*inputs)
