"""Load a member for given classes, or those of a saved pair, and verify that every weight was loaded.

`from_pretrained` only warns if a tensor of the checkpoint does not reach the model, and the stock Trainer's resume does
not even load most tensors of ViT, DINOv2, Swin and SegFormer, whose names on disk differ from those in the module. Here
an unloaded weight is an error, unless it belongs to a head that is replaced.
"""

from __future__ import annotations

import logging as std_logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file, find_adapter_config_file, is_timm_available, logging
from transformers.utils.hub import extract_commit_hash

from ..data.messages import first_line
from ..data.pair_file import CheckpointError, member_folder
from ..data.seeds import seeded
from ..data.tasks import TASKS
from ..hub.config_file import fault_of_config, read_config
from ..hub.model_ids import cannot_load
from . import timm_members
from .class_names import has_named_classes, label_names, set_classes
from .finite import described, nonfinite_tensors
from .heads import backbone_prefixes, class_tensors, redraw
from .other_conventions import correct_conventions

logger = logging.get_logger(__name__)

AUTO_CLASSES: dict[str, Any] = {name: getattr(transformers, task.auto_class) for name, task in TASKS.items()}

# A counter that old files lack and that has no effect.
_NEVER_TRAINED = ".num_batches_tracked"


def check_task(task: str) -> None:
    if task not in AUTO_CLASSES:
        raise ValueError(f"Unknown task {task!r}; choose one of: {', '.join(AUTO_CLASSES)}.")


def load_config(source: str, *, trust_remote_code: bool, **hub: Any) -> PretrainedConfig:
    """The configuration of a Hub id or folder, with an error that names what was given.

    Raises:
        CheckpointError: no model there, an adapter instead of a model, custom code that was not allowed, timm not
            installed.
    """
    if fault := fault_of_config(source, **hub):
        raise CheckpointError(f"{source!r} cannot be used: {fault}. Correct the file, or choose another model.")
    try:
        # With an adapter in the folder, transformers would load its base model from the path recorded in it.
        adapter = find_adapter_config_file(source, revision=hub.get("revision"), token=hub.get("token"))
        if adapter is None:
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
            if config.model_type == timm_members.MODEL_TYPE and not is_timm_available():
                raise CheckpointError(timm_members.MISSING.format(source=source))
            return config
    except ImportError as problem:
        if "timm" in str(problem):
            raise CheckpointError(timm_members.MISSING.format(source=source)) from problem
        raise
    except CheckpointError:
        raise
    except Exception as problem:  # for damaged settings, transformers raises anything
        if "trust_remote_code" in str(problem):
            raise CheckpointError(
                f"{source!r} contains its own model code, which is not run by default: review that code, then pass "
                "`trust_remote_code=True`, or choose an architecture that transformers supports."
            ) from problem
        said = cannot_load(source, first_line(problem)) + timm_members.id_of_architecture(source)
        raise CheckpointError(said) from problem
    raise CheckpointError(
        f"{source!r} contains a PEFT adapter, but a member must be a complete model. Merge the adapter into its base "
        "model and use that: `model.merge_and_unload().save_pretrained(folder)`."
    )


def commit_of(source: str, *, revision: str | None = None, token: str | None = None) -> str | None:
    """The current commit of a source on the Hub, or None for a folder or if it is unknown."""
    if Path(source).is_dir():
        return None
    try:
        file = cached_file(source, "config.json", revision=revision, token=token)
    except (OSError, ValueError):  # reported by whoever loads it
        return None
    commit: str | None = extract_commit_hash(file, None)
    return commit


def load_processor(
    source: str, config: PretrainedConfig, *, trust_remote_code: bool = False, **hub: Any
) -> BaseImageProcessor:
    """The image processor saved with the checkpoint of this configuration."""
    hub["backend"] = "pil" if config.model_type == timm_members.MODEL_TYPE else "torchvision"  # timm has this one only
    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
    except Exception as problem:  # for damaged settings, transformers raises anything
        raise CheckpointError(
            f"{source!r} has no usable image processor ({first_line(problem)}). Save one beside the model: "
            "`AutoImageProcessor.from_pretrained(<the checkpoint it was trained from>).save_pretrained(folder)`."
        ) from problem


@contextmanager
def without_load_report() -> Iterator[None]:
    """Suppress transformers' table of missing and mismatched weights, which are checked here and reported in one
    line."""
    log = std_logging.getLogger("transformers.modeling_utils")

    def keep(record: std_logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


def load_for_classes(
    source: str,
    task: str,
    id2label: dict[int, str],
    *,
    seed: int,
    new_head: bool = False,
    trust_remote_code: bool = False,
    **hub: Any,
) -> tuple[PreTrainedModel, set[str]]:
    """A pretrained model whose head has exactly the given classes.

    The checkpoint's head is kept only if it has these names in this order and `new_head` is False; otherwise it is
    initialized from `seed`.

    Returns:
        The model in float32 and the names of the tensors that were initialized instead of loaded.

    Raises:
        CheckpointError: no such model, a model for another task, pickled weights, or a tensor that is missing or has
            the wrong shape and does not belong to a new head.
    """
    config = load_config(source, trust_remote_code=trust_remote_code, **hub)
    same_classes = label_names(config) == list(id2label.values()) and has_named_classes(config)
    keeps_head = same_classes and not new_head
    set_classes(config, id2label)
    auto = AUTO_CLASSES[task]
    try:
        with seeded(seed), without_load_report():
            model, info = auto.from_pretrained(
                source,
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **hub,
            )
    except Exception as problem:  # for a missing, damaged or unsuitable file, transformers raises anything
        text = first_line(problem)
        if "Unrecognized configuration class" in str(problem):
            raise CheckpointError(
                f"{source!r} is a {config.model_type!r} model, which transformers does not support for {task}. "
                + _other_choice(source, config, task)
            ) from problem
        if "safetensors" in text:
            raise CheckpointError(
                f"{source!r} has no safetensors weights ({text}). Pickled weights can run code when they are loaded "
                "and are refused: convert them once with `model.save_pretrained(folder)` in an environment you "
                "trust."
            ) from problem
        raise CheckpointError(f"{source!r} could not be loaded for {task}: {text}. Download it again.") from problem
    check_finite(model, source)
    head = class_tensors(model)
    missing = {key for key in info["missing_keys"] if not key.endswith(_NEVER_TRAINED)}
    misshapen = {str(entry[0]) for entry in info["mismatched_keys"]}
    backbone = backbone_prefixes(model, head)
    lost = {key for key in missing if key.startswith(backbone) and ".pooler." not in key} | misshapen
    lost -= head  # which for timm includes the backbone's prefix
    if lost:
        raise CheckpointError(
            f"{source!r} does not fill the {config.model_type!r} model: {len(lost)} tensors are not loaded, such as "
            f"{min(lost)!r}. The file is damaged or has another architecture; download it again or choose another."
        )
    fresh = missing | misshapen
    if not keeps_head:
        redraw(model, seed, head)
        fresh |= head
    if fresh:
        logger.warning(f"{source}: the head is new ({len(fresh)} tensors, {len(id2label)} classes); phase 0 trains it.")
    return model, fresh


def _other_choice(source: str, config: PretrainedConfig, task: str) -> str:
    """What to choose instead of a model that has no head for the task."""
    loader = AUTO_CLASSES[task].__name__
    if task == "image-classification":
        if timm_name := timm_members.name_of(source, config):
            return f"timm has it with a classifier: give {timm_name} (pip install 'hf-dmt[timm]')."
        return f"Choose a checkpoint that {loader} can load, or another `task`."
    if type(config) in AutoBackbone._model_mapping:
        return f"Add UperNet to it (backbone:{source}), or choose a checkpoint that {loader} can load."
    return f"Choose a checkpoint that {loader} can load, such as a SegFormer, or another `task`."


def load_verified(source: str, like: PreTrainedModel | None = None, *, task: str, **hub: Any) -> PreTrainedModel:
    """A member as it was saved; any missing, unexpected or differently shaped tensor is an error.

    Args:
        like: use its configuration and class instead of the saved ones (to resume into an existing member).
    """
    loader: Any = AUTO_CLASSES[task] if like is None else type(like)
    if like is not None:
        hub["config"] = like.config
    try:
        with without_load_report():
            model, info = loader.from_pretrained(
                source, output_loading_info=True, dtype=torch.float32, use_safetensors=True, **hub
            )
    except Exception as problem:  # for a missing, damaged or unsuitable file, transformers raises anything
        where = f"{source}/{hub['subfolder']}" if hub.get("subfolder") else source
        raise CheckpointError(
            f"The member in {where!r} could not be loaded ({first_line(problem)}). A pair needs config.json and "
            "safetensors weights for both members: copy or download the folder again."
        ) from problem
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "error_msgs"}
    if wrong:
        kinds = ", ".join(f"{len(keys)} {kind.replace('_', ' ')} (such as {keys[0]})" for kind, keys in wrong.items())
        raise CheckpointError(
            f"The weights in {source!r} do not match their configuration: {kinds}. Copy or download the folder again."
        )
    check_finite(model, source)
    return model


def load_member(
    folder: Path, settings: dict[str, Any], name: str, source: str, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A member of a saved pair, and its image processor.

    Args:
        settings: of the pair, from `read_pair_file`.
        source: what the user gave, for errors; `folder` may be in a cache.

    Raises:
        CheckpointError: it is missing, damaged, not safetensors, or needs code that was not allowed.
    """
    where = member_folder(folder, settings, name)
    if not (where / "config.json").is_file():
        raise CheckpointError(
            f"{source!r} is a pair without its member {name}: {(where / 'config.json').relative_to(folder)} is "
            "missing. Copy, download or push the pair again."
        )
    try:
        read_config(where)
        # refuses custom code that was not allowed
        config = load_config(str(where), trust_remote_code=trust_remote_code)
        model = load_verified(str(where), task=settings["task"], trust_remote_code=trust_remote_code)
        correct_conventions(model)  # already reported when the pair was created
        return model, load_processor(str(where), config, trust_remote_code=trust_remote_code)
    except ValueError as problem:  # name what the user gave, not a cache folder
        raise CheckpointError(str(problem).replace(str(folder), source)) from problem


def check_finite(model: torch.nn.Module, source: str) -> None:
    """Raises CheckpointError for non-finite weights, with which every prediction would be the first class."""
    if wrong := nonfinite_tensors(model):
        raise CheckpointError(
            f"The weights of {source!r} contain infinities or NaNs ({described(wrong)}): their training diverged, or "
            "the file is damaged. Choose an earlier checkpoint or another model."
        )


def restore(member: PreTrainedModel, folder: Path, task: str) -> None:
    """Load a saved member into the one that is being trained, strictly and in place.

    Uses `from_pretrained`, because for many architectures the names on disk differ from those in memory.
    """
    if fault := fault_of_config(str(folder)):
        raise CheckpointError(f"{str(folder)!r} cannot be used: {fault}. Copy or download the folder again.")
    member.load_state_dict(load_verified(str(folder), member, task=task).state_dict(), strict=True)
