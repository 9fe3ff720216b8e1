"""What a member can be made from: a Hub id or folder, or a builtin configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers import BaseImageProcessor, PreTrainedModel

from ..data.drawing.transforms import seed_for
from . import loading, preprocessing
from .networks import tiny


class Member(NamedTuple):
    """A model with its image processor, the names of its tensors that were drawn and not loaded, what to call its
    origin on a card, and the revision of the Hub it came from."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    fresh: set[str]
    base: str
    commit: str | None


def open_members(
    sources: dict[str, str], task: str, id2label: dict[int, str] | None, *, side: int | None, seed: int, **hub: Any
) -> dict[str, Member]:
    """Both members by name, their heads for the given classes.

    Args:
        sources: by member, a Hub id, a folder or a builtin name.
        id2label: the classes, in order; None takes the two checkpoints' own map, which must agree.
        side: of the images they are fitted to; None keeps the processors' own.
        seed: weights that are drawn come from (seed, member).
        hub: `revision`, `token`, `trust_remote_code`.

    Raises:
        CheckpointError, ValueError: as `ModelPair.from_models`.
    """
    id2label = _agreed_classes(sources, hub) if id2label is None else loading.in_order(id2label)
    return {
        name: _open_member(source, task, id2label, side=side, seed=seed_for(seed, position), **hub)
        for position, (name, source) in enumerate(sources.items())
    }


def _open_member(
    source: str, task: str, id2label: dict[int, str], *, side: int | None, seed: int, **hub: Any
) -> Member:
    commit = None
    if source.startswith(tiny.PREFIX):
        model, processor = tiny.tiny_member(source, task, id2label, side=side or tiny.DEFAULT_SIDE, seed=seed)
        fresh = set(model.state_dict())
    else:
        if commit := loading.commit_of(source, revision=hub.get("revision"), token=hub.get("token")):
            hub["revision"] = commit  # the model and its processor are of one revision
        model, fresh = loading.load_for_classes(source, task, id2label, seed=seed, **hub)
        processor = loading.load_processor(source, model.config, **hub)
        if getattr(processor, "do_reduce_labels", False):
            processor.do_reduce_labels = False  # of the checkpoint's own masks; ours hold the classes as they are
    processor = preprocessing.fitted(processor, model, side, pixels=task == "semantic-segmentation")
    # Published: of a folder only its name, for a path tells of its owner's machine.
    base = Path(source).resolve().name if Path(source).is_dir() else source
    return Member(model, processor, fresh, base, commit)


def _agreed_classes(sources: dict[str, str], hub: dict[str, Any]) -> dict[int, str]:
    if any(source.startswith(tiny.PREFIX) for source in sources.values()):
        raise ValueError("A builtin member has no classes of its own: give id2label={0: 'cat', 1: 'dog', ...}.")
    config_a, config_b = (loading.load_config(source, **hub) for source in sources.values())
    loading.check_label_maps(config_a, config_b)
    return dict(enumerate(loading.label_names(config_a)))
