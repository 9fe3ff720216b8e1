"""What a member can be created from: a Hub id or folder, a backbone, an embedded configuration, or a model in
memory."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..data.messages import first_line
from ..data.seeds import seed_for, seeded
from . import contracts, loading, preprocessing, upernet
from .class_names import check_label_maps, has_named_classes, in_order, label_names, set_classes
from .heads import class_tensors
from .networks import tiny

logger = logging.get_logger(__name__)

BACKBONE = "backbone:"
_TIMM_SCHEME = re.compile(r"^(hf[-_]hub:|local-dir:)")  # as timm.create_model is asked for a checkpoint


class Member(NamedTuple):
    """A model with its image processor, the names of its initialized (not loaded) tensors, its origin for the card, and
    its revision on the Hub."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    fresh: set[str]
    base: str
    commit: str | None


def open_members(
    sources: Mapping[str, Any],
    processors: Mapping[str, BaseImageProcessor | None],
    task: str,
    id2label: Mapping[int, str] | Sequence[str] | None,
    *,
    side: int | None,
    seed: int,
    **hub: Any,
) -> dict[str, Member]:
    """Both members by name, with heads for the given classes.

    Args:
        sources: by member, a Hub id, a folder, `backbone:` and one of these, an embedded name, or a model.
        processors: by member, the image processor to use instead of the one saved with its checkpoint.
        id2label: the classes, in order; None uses the two models' own map, which must agree.
        side: image size to set them to; None keeps the processors' own.
        seed: weights are initialized from (seed, member).
        hub: `revision`, `token`, `trust_remote_code`.

    Raises:
        CheckpointError, ValueError: as `ModelPair.from_models`.
    """
    given = {name: _readable(source, name) for name, source in sources.items()}
    if given["a"] is given["b"] and isinstance(given["a"], PreTrainedModel):
        raise ValueError(
            "model_a and model_b are the same object, but two members with the same weights teach each other nothing. "
            "Use copy.deepcopy(model) for one of them, or give the checkpoint's id twice: each then gets its own "
            "head."
        )
    for name, processor in processors.items():
        if processor is not None:
            contracts.check_processor(processor, name)
    classes = _agreed_classes(given, hub) if id2label is None else in_order(id2label)
    members = {}
    for position, (name, source) in enumerate(given.items()):
        draw = seed_for(seed, position)
        if isinstance(source, str):
            member = _opened(source, task, classes, processors[name], side=side, seed=draw, **hub)
        else:
            member = _from_memory(source, name, classes, processors[name], seed=draw)
        processor = processors[name] or member.processor
        if getattr(processor, "do_reduce_labels", False):
            processor.do_reduce_labels = False  # of the checkpoint's own masks; ours store the classes directly
        fitted = preprocessing.fitted(processor, member.model, side, pixels=task == "semantic-segmentation")
        members[name] = member._replace(processor=fitted)
    return members


def _readable(source: Any, name: str) -> str | PreTrainedModel:
    """A source as text, or a model.

    Raises:
        ValueError: neither, a PEFT model, or one without weights.
    """
    if isinstance(source, (str, os.PathLike)):
        return _TIMM_SCHEME.sub("", str(os.fspath(source)))
    contracts.check_model(source, name)
    model: PreTrainedModel = source
    return model


def _opened(
    source: str,
    task: str,
    id2label: dict[int, str],
    processor: BaseImageProcessor | None,
    *,
    side: int | None,
    seed: int,
    **hub: Any,
) -> Member:
    """A member by name, with `processor` or else the image processor saved with the checkpoint, which may be missing
    if one is given."""
    if source.startswith(tiny.PREFIX):
        made, of_tiny = tiny.tiny_member(source, task, id2label, side=side or tiny.DEFAULT_SIDE, seed=seed)
        return Member(made, of_tiny, set(made.state_dict()), source, None)
    on_backbone, name = source.startswith(BACKBONE), source.removeprefix(BACKBONE)
    if commit := loading.commit_of(name, revision=hub.get("revision"), token=hub.get("token")):
        hub["revision"] = commit  # the model and its processor must have the same revision
    if on_backbone and task == "semantic-segmentation":
        with seeded(seed):
            model: PreTrainedModel = upernet.upernet_on(name, id2label, **hub)
        fresh = {key for key in model.state_dict() if not key.startswith("backbone.")}
        if processor is None:
            own = loading.load_processor(name, model.config.backbone_config, **hub)
            processor = upernet.whole_image_processor(own)
    else:
        model, fresh = loading.load_for_classes(name, task, id2label, seed=seed, new_head=on_backbone, **hub)
        processor = processor or loading.load_processor(name, model.config, **hub)
    return Member(model, processor, fresh, _public_name(name), commit)


def _from_memory(
    model: PreTrainedModel, name: str, id2label: dict[int, str], processor: BaseImageProcessor | None, *, seed: int
) -> Member:
    """A model that the caller built. Its head is kept if it has these classes, or equally many without names."""
    origin = str(getattr(model.config, "_name_or_path", "") or "")
    if processor is None:
        try:
            processor = AutoImageProcessor.from_pretrained(origin) if origin else None
        except (OSError, ValueError, KeyError, ImportError):
            processor = None
        if processor is None:
            raise ValueError(
                f"Model {name} has no image processor, and there is none at {_public_name(origin)!r}. Give it: "
                f"ModelPair.from_models(a, b, processor_{name}=AutoImageProcessor.from_pretrained(...))."
            )
    config, names = model.config, list(id2label.values())
    if config.num_labels != len(names) or (has_named_classes(config) and label_names(config) != names):
        model, fresh = _with_new_head(model, name, id2label, seed)
        logger.warning(
            f"model {name}: the head is new ({len(fresh)} tensors, {len(names)} classes), in a copy of the model; "
            "phase 0 trains it."
        )
    else:
        fresh = set() if has_named_classes(config) else class_tensors(model)
        set_classes(config, id2label)
    if model.dtype != torch.float32:
        logger.warning(f"model {name}: converted weights from {model.dtype} to float32 for training.")
        model = model.float()
    return Member(model, processor, fresh, _public_name(origin), None)


def _with_new_head(
    model: PreTrainedModel, name: str, id2label: dict[int, str], seed: int
) -> tuple[PreTrainedModel, set[str]]:
    """A copy with a head for other classes, and the names of its new tensors."""
    config = copy.deepcopy(model.config)
    set_classes(config, id2label)
    with seeded(seed):
        made = type(model)(config).to(model.device)
    head = class_tensors(made)
    kept = {key: value for key, value in model.state_dict().items() if key not in head}
    try:
        made.load_state_dict({**made.state_dict(), **kept}, strict=True)
    except RuntimeError as problem:
        raise ValueError(
            f"Model {name} needs a head for {len(id2label)} classes, but cannot be built again from its configuration "
            f"({first_line(problem)}). Load it with from_pretrained(..., num_labels={len(id2label)}), and do "
            "not replace parts of it."
        ) from problem
    return made.train(model.training), head


def _public_name(source: str) -> str:
    """The name for a card: of a folder only its name, because local paths are private."""
    path = Path(source)
    is_path = path.is_dir() or path.is_absolute() or source.startswith((".", "~")) or len(path.parts) > 2
    return path.resolve().name if source and is_path else source


def config_of(source: str, **hub: Any) -> PretrainedConfig:
    """The configuration of a Hub id or folder, also for a backbone."""
    return loading.load_config(_TIMM_SCHEME.sub("", source).removeprefix(BACKBONE), **hub)


def _agreed_classes(sources: Mapping[str, Any], hub: dict[str, Any]) -> dict[int, str]:
    if any(isinstance(source, str) and source.startswith(tiny.PREFIX) for source in sources.values()):
        raise ValueError("An embedded model has no classes of its own: give id2label={0: 'cat', 1: 'dog', ...}.")
    config_a, config_b = (
        config_of(source, **hub) if isinstance(source, str) else source.config for source in sources.values()
    )
    check_label_maps(config_a, config_b)
    return dict(enumerate(label_names(config_a)))
