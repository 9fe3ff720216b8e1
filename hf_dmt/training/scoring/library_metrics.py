"""Metrics of the `evaluate` library for a, b and their ensemble: `--metrics f1:average=macro path/to/metric`.

Predictions are kept as class ids until the end of an evaluation and passed to the library once, so that a metric sees
the whole set, as its definition requires. `evaluate` takes seconds to import, so it is imported with the first metric.
"""

from __future__ import annotations

import ast
import math
import numbers
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging

from ...data.members import SCORED
from ...data.tasks import IGNORE_INDEX
from .member_scores import CHUNK

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class MetricSpec:
    """A metric as written by the user: `f1`, `f1:average=macro`, `me/my_metric`, `path/to/metric:beta=2`.

    Attributes:
        source: a metric on the Hub, the id of a community metric, or the folder or file of a local one.
        arguments: passed to its `compute` in addition to predictions and references; `config_name` goes to
            `evaluate.load`.
    """

    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MetricSpec:
        """Parse `SOURCE` or `SOURCE:name=value,name=value`; values are Python literals or plain words.

        Raises:
            ValueError: text in another format.
        """
        # A Windows path contains a colon, too; arguments always contain an equals sign.
        source, colon, rest = text.rpartition(":")
        if not colon or "=" not in rest:
            source, rest = text, ""
        arguments: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals or not name.strip().isidentifier():
                raise ValueError(
                    f"metrics has {text!r}, whose part {part!r} is not name=value. Write it as f1:average=macro or "
                    "fbeta:beta=2,average=macro."
                )
            arguments[name.strip()] = _literal(value.strip())
        if not source.strip():
            raise ValueError(f"metrics has {text!r}, which does not name a metric. Write f1 or path/to/metric.")
        return cls(source.strip(), arguments)

    def __str__(self) -> str:
        arguments = ",".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.source}:{arguments}" if arguments else self.source


class LibraryMetrics:
    """The metrics of a run, loaded and tried on random predictions, so that none fails after phase 0.

    Args:
        metrics: as written by the user (see `MetricSpec`), or loaded `evaluate` modules.

    Raises:
        ValueError: a metric that cannot be loaded or computed for this task, and what to do.
    """

    def __init__(self, metrics: Sequence[Any], num_classes: int, task: str) -> None:
        self.num_classes, self.task = num_classes, task
        self._folder = tempfile.TemporaryDirectory(prefix="hf-dmt-metrics-")
        self._metrics: list[tuple[MetricSpec, Any]] = []
        trial = self._trial()
        for metric in metrics:
            spec, module = self._load(metric)
            self._metrics.append((self._tried(spec, module, trial), module))

    def start(self) -> CollectedPredictions:
        """An empty collection for one evaluation."""
        return CollectedPredictions(keeps_scores=any("prediction_scores" in _features(m) for _, m in self._metrics))

    def add_to(self, scores: dict[str, dict[str, Any]], collected: CollectedPredictions) -> None:
        """Add the results for a, b and ensemble to `scores`, under the names that the metrics return.

        If a name is taken, the metric's arguments are appended: `f1` and `f1_average_micro`.
        """
        for name in SCORED:
            for spec, module in self._metrics:
                for key, value in self._call(spec, module, collected, name).items():
                    suffix = [*map(str, chain(*spec.arguments.items()))] or ["library"]
                    scores[name]["_".join([key, *suffix]) if key in scores[name] else key] = value

    # ---- loading ---------------------------------------------------------------------------------------------------

    def _load(self, metric: Any) -> tuple[MetricSpec, Any]:
        if not isinstance(metric, (str, MetricSpec)):
            if callable(getattr(metric, "compute", None)) and hasattr(metric, "features"):
                return MetricSpec(getattr(metric, "name", type(metric).__name__)), metric
            raise ValueError(
                f"metrics has {metric!r}, a {type(metric).__name__}. Give names such as 'f1', or what evaluate.load "
                "returns."
            )
        import evaluate

        spec = MetricSpec.parse(metric) if isinstance(metric, str) else metric
        many = Path(spec.source).stem == "roc_auc" and self.num_classes > 2
        configuration = spec.arguments.get("config_name", "multiclass" if many else None)
        spec = MetricSpec(spec.source, {key: value for key, value in spec.arguments.items() if key != "config_name"})
        try:
            return spec, evaluate.load(spec.source, configuration, cache_dir=self._folder.name)
        except ImportError as problem:
            raise ValueError(f"metrics has {spec.source!r}, which cannot be imported: {problem}") from problem
        except Exception as problem:  # the library or the module's own code may raise anything
            raise ValueError(
                f"metrics has {spec.source!r}, which evaluate cannot load ({type(problem).__name__}: {problem}). Give "
                "a metric on the Hub (https://huggingface.co/evaluate-metric), such as f1, or the path of a folder "
                "NAME/NAME.py with one. Offline, only local and cached metrics work."
            ) from problem

    def _trial(self) -> CollectedPredictions:
        """Every class predicted correctly once and incorrectly once."""
        truth = np.repeat(np.arange(self.num_classes), 2)
        guess = np.where(np.arange(len(truth)) % 2, truth, (truth + 1) % self.num_classes)
        collected = CollectedPredictions(keeps_scores=True)
        scores = np.full((len(truth), self.num_classes), 0.4 / max(1, self.num_classes - 1))
        scores[np.arange(len(truth)), guess] = 0.6 if self.num_classes > 1 else 1.0
        shape = truth.shape if self.task == "image-classification" else (1, *truth.shape, 1)
        predictions = {name: guess.reshape(shape) for name in SCORED}
        collected.extend(predictions, truth.reshape(shape), dict.fromkeys(SCORED, scores))
        return collected

    def _tried(self, spec: MetricSpec, module: Any, trial: CollectedPredictions) -> MetricSpec:
        try:
            self._call(spec, module, trial, "a")
            return spec
        except ValueError as problem:
            # scikit-learn's F1, precision and recall need an averaging mode for more than two classes.
            if self.num_classes < 3 or "average" in spec.arguments or "average" not in str(problem):
                raise
        spec = MetricSpec(spec.source, {**spec.arguments, "average": "macro"})
        self._call(spec, module, trial, "a")
        logger.warning(f"metrics: {spec.source} is computed as {spec}, because there are {self.num_classes} classes.")
        return spec

    # ---- computing -------------------------------------------------------------------------------------------------

    def _call(self, spec: MetricSpec, module: Any, collected: CollectedPredictions, name: str) -> dict[str, Any]:
        features = _features(module)
        if "references" not in features or not {"predictions", "prediction_scores"} & features.keys():
            raise ValueError(
                f"metrics has {str(spec)!r}, which is computed from {', '.join(features)}. Only metrics of "
                "predictions and references can score a classifier."
            )
        masks = _takes_masks(module)
        if masks and self.task == "image-classification":
            raise ValueError(
                f"metrics has {str(spec)!r}, which compares masks, but the task is {self.task}. Choose a metric of "
                "class labels, such as f1."
            )
        inputs: dict[str, Any] = {"references": collected.truth(masks)}
        if "prediction_scores" in features:
            if self.task != "image-classification":
                raise ValueError(
                    f"metrics has {str(spec)!r}, which needs the scores of every class; that is too much memory for "
                    "masks. Choose a metric of class labels, such as f1."
                )
            scores = collected.class_scores(name)
            inputs["prediction_scores"] = scores[:, 1] if self.num_classes == 2 else scores
        else:
            inputs["predictions"] = collected.predicted(name, masks)
        arguments = dict(spec.arguments)
        if masks:  # as required by the library's mean_iou
            arguments = {"num_labels": self.num_classes, "ignore_index": IGNORE_INDEX, **arguments}
        elif "prediction_scores" in features and self.num_classes > 2:
            arguments = {"multi_class": "ovr", **arguments}
        try:
            figures = module.compute(**inputs, **arguments)
        except Exception as problem:
            raise ValueError(
                f"metrics has {str(spec)!r}, which fails for {self.num_classes} classes: {type(problem).__name__}: "
                f"{problem} Arguments are passed as {spec.source}:name=value."
            ) from problem
        if not isinstance(figures, Mapping):
            raise ValueError(
                f"metrics has {str(spec)!r}, whose compute returns a {type(figures).__name__} instead of a mapping "
                "from names to numbers."
            )
        return {str(key): plain for key, value in figures.items() if (plain := _plain(value)) is not None}


class CollectedPredictions:
    """Class ids predicted by a, b and ensemble, and the truth, for the images of one process, or later of all.

    Args:
        keeps_scores: also keep the probabilities, `(N, C)` for images.
    """

    def __init__(self, *, keeps_scores: bool) -> None:
        self.keeps_scores = keeps_scores
        self.rows: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self.scores: list[dict[str, np.ndarray]] = []

    def add(self, logits: Mapping[str, Tensor], truth: Tensor) -> None:
        """Add a batch: logits `(B, C, *)` of a and b, truth `(B, *)` with -100 for "no label"."""
        # In parts, like the streaming scores: the probabilities of a batch of masks may not fit in memory beside its
        # logits.
        size = max(1, CHUNK // math.prod(logits["a"].shape[1:]))
        for images in zip(logits["a"].split(size), logits["b"].split(size), truth.split(size), strict=True):
            a, b = (torch.softmax(z, dim=1, dtype=torch.float32) for z in images[:2])
            of_each = {"a": a, "b": b, "ensemble": (a + b) / 2}
            kind = np.int16 if a.shape[1] < 1 << 15 else np.int32
            predictions = {name: p.max(dim=1).indices.cpu().numpy().astype(kind) for name, p in of_each.items()}
            scores = {name: p.cpu().numpy() for name, p in of_each.items()} if self.keeps_scores else {}
            self.extend(predictions, images[2].cpu().numpy().astype(kind), scores)

    def extend(
        self, predictions: Mapping[str, np.ndarray], truth: np.ndarray, scores: Mapping[str, np.ndarray]
    ) -> None:
        self.rows.append((truth, dict(predictions)))
        if self.keeps_scores:
            self.scores.append(dict(scores))

    def truth(self, masks: bool) -> Any:
        if masks:
            return [mask.astype(np.int64) for truth, _ in self.rows for mask in truth]
        return np.concatenate([truth[truth != IGNORE_INDEX] for truth, _ in self.rows]).astype(np.int64)

    def predicted(self, name: str, masks: bool) -> Any:
        if masks:
            return [mask.astype(np.int64) for _, predictions in self.rows for mask in predictions[name]]
        parts = [predictions[name][truth != IGNORE_INDEX] for truth, predictions in self.rows]
        return np.concatenate(parts).astype(np.int64)

    def class_scores(self, name: str) -> np.ndarray:
        known = [truth != IGNORE_INDEX for truth, _ in self.rows]
        return np.concatenate([scores[name][mask] for scores, mask in zip(self.scores, known, strict=True)])

    def gathered(self) -> CollectedPredictions:
        """The predictions of all processes, on every process."""
        everything = CollectedPredictions(keeps_scores=self.keeps_scores)
        everything.rows, everything.scores = gather_object(self.rows), gather_object(self.scores)
        return everything


def _features(module: Any) -> Mapping[str, Any]:
    """The inputs of a module; if there are several forms, the first."""
    features: Any = module.features
    return features[0] if isinstance(features, list) else features  # type: ignore[no-any-return]


def _takes_masks(module: Any) -> bool:
    """Whether a prediction is a nested list, as in the library's `mean_iou`, instead of one class id."""
    return not hasattr(_features(module).get("predictions", _features(module).get("references")), "dtype")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _plain(value: Any) -> Any:
    """A JSON number or a list of them; None for anything else, such as a curve or a text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (bool, numbers.Real)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (list, tuple)) and all(isinstance(one, numbers.Real) for one in value):
        return [_plain(one) for one in value]
    return None
