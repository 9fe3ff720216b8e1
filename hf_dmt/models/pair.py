"""Two models as one module: built from checkpoints, run together, saved and loaded as one pair.

A plain `nn.Module`, because a composite `PreTrainedModel` re-initializes replaced heads, resets its members' attention
settings in place, and breaks DDP with activation checkpointing. One `forward` runs both members: DDP sees one module.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..data.files import write_json, writing
from ..data.members import MEMBERS
from ..data.pair_file import FORMAT_VERSION, PAIR_FILE, PEER_FOLDER, member_folder, read_pair_file
from ..hub import push, repository
from . import class_names, contracts, heads, loading, preprocessing, timm_members
from .ensemble import EnsemblePipeline
from .other_conventions import correct_conventions
from .sources import open_members

logger = logging.get_logger(__name__)


class ModelPair(nn.Module):
    """Two image models for the same task and classes, each with its own image processor.

    Args:
        model_a, model_b: two models that return `.logits`, `(B, C)` or for segmentation `(B, C, h, w)`.
        processor_a, processor_b: their image processors.
        task: `image-classification` or `semantic-segmentation`.
        image_size: side of the shared square view for training; default: the larger of the processors' sizes.
        metadata: contents of `dmt_config.json` besides format, task and primary (base models, phase, ...).
        from_files: the members that were just loaded from files. For the others, it is checked that what they save can
            be loaded again.

    Attributes:
        primary: the member saved and pushed at the root: `a`, unless the loaded pair says otherwise.

    Raises:
        ValueError: different label maps, or a processor that cannot be applied on the device.
    """

    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the Trainer must not pass num_items_in_batch: the loss is computed elsewhere
    _keys_to_ignore_on_save = None

    def __init__(
        self,
        model_a: PreTrainedModel,
        model_b: PreTrainedModel,
        processor_a: BaseImageProcessor,
        processor_b: BaseImageProcessor,
        *,
        task: str = "image-classification",
        image_size: int | None = None,
        metadata: dict[str, Any] | None = None,
        from_files: Collection[str] = (),
    ) -> None:
        super().__init__()
        loading.check_task(task)
        given = {"a": (model_a, processor_a), "b": (model_b, processor_b)}
        for name, (model, processor) in given.items():
            contracts.check_model(model, name)
            contracts.check_processor(processor, name)
        class_names.check_label_maps(model_a.config, model_b.config)
        for name, (model, processor) in given.items():
            class_names.describe_classes(model.config)
            timm_members.keep_processor_settings(model.config, processor)
            for change in correct_conventions(model):
                logger.warning(f"model {name}: {change}")
        self.task = task
        self.image_size = image_size or max(map(preprocessing.native_size, (processor_a, processor_b)))
        self.metadata: dict[str, Any] = metadata or {}
        self.primary = "a"
        self.model_tags = ["hf-dmt"]
        self.model_a, self.model_b = model_a, model_b
        self.processor_a, self.processor_b = processor_a, processor_b
        pixels = task == "semantic-segmentation"
        self.view_a, self.view_b = (
            preprocessing.view_normalizer(processor, self.image_size, pixels=pixels)
            for processor in (processor_a, processor_b)
        )
        self.fresh: dict[str, set[str]] = {name: set() for name in MEMBERS}  # initialized here, not loaded
        self.resting, self.frozen = list[nn.Module](), list[nn.Parameter]()  # set by `choose_trained`
        for name, (model, processor) in given.items():
            contracts.try_one_image(model, processor, name, task=task, classes=len(self.class_names))
            contracts.refuse_undeclared_ties(model, name)
            if name not in from_files:
                contracts.check_can_be_loaded(model, name, task)
        contracts.refuse_shared_weights(model_a, model_b)
        self.eval()  # like `from_pretrained`: dropout is off until a trainer turns it on

    # ---- the two members -------------------------------------------------------------------------------------------

    def member(self, name: str) -> PreTrainedModel:
        return self.model_a if name == "a" else self.model_b

    def processor(self, name: str) -> BaseImageProcessor:
        return self.processor_a if name == "a" else self.processor_b

    def view(self, name: str) -> preprocessing.ViewNormalizer:
        return self.view_a if name == "a" else self.view_b

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of a; the Trainer and its trackers expect one."""
        return self.model_a.config

    @property
    def class_names(self) -> list[str]:
        return class_names.label_names(self.config)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def _no_split_modules(self) -> list[str]:
        """The modules that FSDP must not split, by class name. Only those that exist: CLIP also names the blocks of its
        text model, and accelerate fails on a name that it does not find."""
        there = {type(module).__name__ for module in self.modules()}
        return sorted(there & {name for member in MEMBERS for name in self.member(member)._no_split_modules or ()})

    def train(self, mode: bool = True) -> ModelPair:
        """Like `nn.Module.train`, except that frozen parts stay in eval mode."""
        super().train(mode)
        for module in self.resting:
            module.eval()
        return self

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        return sum(self.member(name).num_parameters(only_trainable, exclude_embeddings) for name in MEMBERS)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        for name in MEMBERS:
            enable = getattr(self.member(name), "activation_checkpointing_enable", None)
            if enable is None:  # transformers before the renaming
                legacy = {key.replace("activation_", "gradient_"): value for key, value in kwargs.items()}
                self.member(name).gradient_checkpointing_enable(**legacy)
            else:
                enable(**kwargs)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.activation_checkpointing_enable(activation_checkpointing_kwargs=gradient_checkpointing_kwargs, **kwargs)

    # ---- forward ---------------------------------------------------------------------------------------------------

    def forward(
        self, pixel_values: Tensor | None = None, *, a: Tensor | None = None, b: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits of both members.

        Args:
            pixel_values: clean images `(B, 3, H, W)`, float in [0, 1]; each member's processor does the full geometry.
            a, b: training views `(B, 3, N, N)`, float in [0, 1]; only resized and normalized, on their device. A
                member without one is not run.

        Returns:
            `{'a': logits, 'b': logits}`, `(B, C)`, or `(B, C, H, W)` at the size of the given images or views.

        Raises:
            ValueError: no images, or integer images.
        """
        if pixel_values is not None:
            if not pixel_values.is_floating_point():
                raise ValueError(f"Images must be float in [0, 1], got {pixel_values.dtype}: divide by 255 first.")
            size = (int(pixel_values.shape[-2]), int(pixel_values.shape[-1]))
            images = list((pixel_values.clamp(0, 1) * 255).round().to(torch.uint8))
            return {
                name: self.clean_logits(
                    name, torch.stack(preprocessing.clean_inputs(self.processor(name), images)), size
                )
                for name in MEMBERS
            }
        views = {name: view for name, view in (("a", a), ("b", b)) if view is not None}
        if not views:
            raise ValueError("Give either pixel_values (clean images) or a= and b= (a view for each member).")
        return {
            name: self._logits(self.member(name), self.view(name)(view), (int(view.shape[-2]), int(view.shape[-1])))
            for name, view in views.items()
        }

    def clean_logits(self, name: str, inputs: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits of one member for inputs `(B, 3, h, w)` as prepared by its image processor.

        Args:
            size: segmentation: the `(H, W)` to resize the logits to; None keeps the member's stride.
        """
        return self._logits(self.member(name), inputs.to(self.member(name).device), size)

    def _logits(self, model: PreTrainedModel, inputs: Tensor, size: tuple[int, int] | None) -> Tensor:
        logits = model(pixel_values=inputs.to(model.dtype)).logits
        if self.task == "semantic-segmentation" and size is not None and logits.shape[-2:] != size:
            # Convert to float32 while they are small; later it would be a second copy at full size.
            logits = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return logits

    # ---- building --------------------------------------------------------------------------------------------------

    @classmethod
    def from_models(
        cls,
        model_a: str | os.PathLike[str] | PreTrainedModel,
        model_b: str | os.PathLike[str] | PreTrainedModel,
        *,
        processor_a: BaseImageProcessor | None = None,
        processor_b: BaseImageProcessor | None = None,
        task: str = "image-classification",
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        image_size: int | None = None,
        seed: int = 42,
        trust_remote_code: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> ModelPair:
        """A new pair from two models.

        Args:
            model_a, model_b: Hub ids or folders of transformers or timm; `backbone:` and one of these (segmentation:
                UperNet on it; classification: a new head); embedded configurations such as `tiny:vit`; or transformers
                models in memory, which become the members unless their heads have other classes.
            processor_a, processor_b: image processors to use instead of those saved with the checkpoints.
            id2label: the classes, in order: a map, or names; None uses the two checkpoints' own, which must agree.
            image_size: side of the shared view; members that accept any size are set to it.
            seed: heads and from-scratch weights are initialized from (seed, member).

        Raises:
            CheckpointError: a model that cannot be found, read or used for this task.
            ValueError: no classes given and the models' maps differ; a model with PEFT adapters; a model that fails
                on a non-square image or returns no logits for these classes.
        """
        loading.check_task(task)
        preprocessing.check_side(image_size)
        sources, processors = {"a": model_a, "b": model_b}, {"a": processor_a, "b": processor_b}
        hub: dict[str, Any] = {"revision": revision, "token": token, "trust_remote_code": trust_remote_code}
        members = open_members(sources, processors, task, id2label, side=image_size, seed=seed, **hub)
        pair = cls(
            *(members[name].model for name in MEMBERS),
            *(members[name].processor for name in MEMBERS),
            task=task,
            image_size=image_size,
            metadata={
                "base_models": {name: members[name].base for name in MEMBERS},
                # Known if a member came from the Hub; then it gives the revision.
                "base_commits": {name: members[name].commit for name in MEMBERS},
                "seed": seed,
            },
            from_files=[name for name in MEMBERS if not isinstance(sources[name], PreTrainedModel)],
        )
        pair.fresh = {name: members[name].fresh for name in MEMBERS}
        return pair

    # ---- on disk and on the Hub ------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        primary: str | None = None,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the pair: `primary` as a standard checkpoint at the root, the other in `peer/`, `dmt_config.json` last.

        Args:
            primary: `a` or `b`; None is the pair's own.
            state_dict: weights of the whole pair if they were gathered elsewhere (FSDP); split by member here.
        """
        if kwargs.pop("push_to_hub", False):  # the members' own version would publish both in one place
            raise ValueError("save_pretrained(push_to_hub=True) is not supported. Use pair.push_to_hub('me/my-pair').")
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"{folder} is a file, but a pair needs a folder. Give another name.")
        if (primary := primary or self.primary) not in MEMBERS:
            raise ValueError(f"primary must be 'a' or 'b', got {primary!r}.")
        loading.check_finite(self, "this pair")  # weights that were gathered elsewhere were checked there
        if is_main_process:  # if an overwrite is interrupted, the folder must not look like a pair
            (folder / PAIR_FILE).unlink(missing_ok=True)
        for name in MEMBERS:
            where = folder if name == primary else folder / PEER_FOLDER
            part = member_state(state_dict, name) if state_dict is not None else None
            with writing(where / "model.safetensors"):
                self.member(name).save_pretrained(where, state_dict=part, is_main_process=is_main_process, **kwargs)
                if is_main_process:
                    timm_members.save_processor(self.processor(name), where)
        if is_main_process:
            write_json(folder / PAIR_FILE, self.description(primary))

    def description(self, primary: str = "a") -> dict[str, Any]:
        """The contents of `dmt_config.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "primary": primary,
            "image_size": self.image_size,
            **self.metadata,
        }

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | None = None,
        trust_remote_code: bool = False,
    ) -> ModelPair:
        """Load a pair from a folder or a Hub id; both members come from one commit and every weight is verified.

        Raises:
            CheckpointError: not a pair, a newer format, a missing or damaged member, or code that was not allowed.
            HubError: it cannot be read on the Hub, or is something else there.
        """
        source = str(pretrained_model_name_or_path)
        hub: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
        folder = repository.fetch_pair(source, **hub, with_code=trust_remote_code)
        return cls.from_folder(folder, source, trust_remote_code=trust_remote_code)

    @classmethod
    def from_folder(cls, folder: Path, source: str, *, trust_remote_code: bool = False) -> ModelPair:
        """As `from_pretrained`, from files that are here already; `source` is what the user gave, for errors."""
        settings = read_pair_file(folder, source)
        code = {"trust_remote_code": trust_remote_code}
        loaded = [loading.load_member(folder, settings, name, source, **code) for name in MEMBERS]
        models, processors = zip(*loaded, strict=True)
        del settings["format_version"]
        primary, task, image_size = (settings.pop(key) for key in ("primary", "task", "image_size"))
        more: dict[str, Any] = {"task": task, "image_size": image_size, "metadata": settings}
        pair = cls(*models, *processors, **more, from_files=MEMBERS)
        pair.primary = primary
        return pair

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload pair",
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        tag: str | None = None,
        **card_facts: Any,
    ) -> str:
        """Publish the pair with a card in one commit; the repository is created if necessary.

        Args:
            revision: branch, created if necessary. tag: a name for the commit.
            card_facts: `license`, `language`, `tags`, `model_name`, `dataset`, `dataset_tags` for the card.

        Returns:
            The URL of the commit.

        Raises:
            HubError: the Hub refused or cannot be reached, and what to do.
        """
        how: dict[str, Any] = {"private": private, "token": token, "revision": revision, "tag": tag}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = push.push_folder(folder, repo_id, message=commit_message, card=card_facts, **how)
        return str(commit.commit_url)

    def pipeline(self, batch_size: int = 1) -> EnsemblePipeline:
        """Both members behind one call: takes paths, URLs and PIL images, returns the standard pipeline's entries."""
        return EnsemblePipeline(self, batch_size)

    def load_weights(self, folder: str | os.PathLike[str]) -> None:
        """Load a saved pair with the same two architectures into this one, in place and strictly (resume, best
        model)."""
        settings = read_pair_file(Path(folder), str(folder))
        for name in MEMBERS:
            loading.restore(self.member(name), member_folder(Path(folder), settings, name), self.task)
        self.metadata |= {key: settings[key] for key in ("phase", "continued") if key in settings}

    def redraw(self, name: str, seed: int) -> None:
        """Re-initialize a member's head (and all weights of a from-scratch member) from `seed`, in place."""
        model = self.member(name)
        heads.redraw(model, seed, self.fresh[name] | heads.class_tensors(model))


def member_state(state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of a pair's state that belongs to one member, under the member's own names."""
    prefix = f"model_{name}."
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
