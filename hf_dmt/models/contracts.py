"""Check members when a pair is built: their type, one non-square image through processor and network, and whether what
they save can be loaded. What fails here would otherwise fail, or train wrongly, in the middle of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor, ImageProcessingMixin, PreTrainedModel
from transformers.utils import ModelOutput

from ..data.messages import first_line
from .heads import shapes
from .loading import AUTO_CLASSES
from .preprocessing import clean_inputs, native_size

_REFUSALS = (ValueError, RuntimeError, AssertionError, IndexError, TypeError)  # of an input, by models of any author


def check_model(model: Any, name: str) -> None:
    """Raise a ValueError for an object that cannot be a member, or a model without weights of its own."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    if any(type(module).__module__.partition(".")[0] == "peft" for module in modules):
        raise ValueError(
            f"Model {name} has PEFT adapters, but a member is saved as a plain checkpoint for `pipeline()`. Merge "
            "them first, model = model.merge_and_unload(), and train less of it with `train='last:2'`."
        )
    inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
    if isinstance(inner, PreTrainedModel):
        raise ValueError(
            f"Model {name} is wrapped in a {type(model).__name__}. Give the model inside it. `torch_compile=True` "
            "compiles a pair, and `accelerate launch` runs it on several devices."
        )
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"Model {name} is a {type(model).__name__}; a member is a Hub id, a folder or a transformers model. Give "
            "one, such as AutoModelForImageClassification.from_pretrained(...)."
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            f"Model {name} is on the meta device, without weights. Load it with from_pretrained(...) on the CPU or a "
            "GPU."
        )
    if getattr(model, "is_quantized", False):
        raise ValueError(
            f"Model {name} is quantized, and training needs weights in floating point. Load it without quantization."
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            f"Model {name} was made inside torch.inference_mode(), so it cannot be trained. Make it outside."
        )


def check_can_be_loaded(model: PreTrainedModel, name: str, task: str) -> None:
    """Raise a ValueError for a model whose checkpoint transformers would not load, or would load as another class."""
    kind, auto = type(model), AUTO_CLASSES[task]
    found = auto._model_mapping.get(type(model.config), ())
    known = found if isinstance(found, tuple) else (found,)
    if kind not in known and kind._auto_class is None:
        config = type(model.config).__name__
        why = f"would load its checkpoint as a {known[0].__name__}" if known else f"does not know its {config}"
        raise ValueError(
            f"Model {name} is a {kind.__name__}, but {auto.__name__} {why}. "
            f"{'Give it a configuration class of its own, and register' if known else 'Register'} both: "
            f"AutoConfig.register(...), {auto.__name__}.register(...)."
        )
    try:
        made = shapes(model, model.config.num_labels)
    except Exception as problem:  # the code of others
        raise ValueError(
            f"Model {name} cannot be built again from its configuration, as from_pretrained would do: "
            f"{first_line(problem)}. Correct the {kind.__name__}, which must take its configuration alone."
        ) from problem
    own = {key: value.shape for key, value in model.state_dict().items()}
    if other := sorted(key for key in made.keys() | own.keys() if made.get(key) != own.get(key)):
        raise ValueError(
            f"Model {name} differs in {len(other)} tensors, such as {other[0]!r}, from the {kind.__name__} that its "
            "configuration describes, so its checkpoint could not be loaded. Put such changes into a class of your "
            f"own, and register it: {auto.__name__}.register(...)."
        )


def check_processor(processor: Any, name: str) -> None:
    """Raise a ValueError for an object that is not an image processor."""
    if not isinstance(processor, ImageProcessingMixin):
        kind = processor.__name__ if isinstance(processor, type) else type(processor).__name__
        raise ValueError(
            f"processor_{name} is a {kind}; an image processor is needed. Give AutoImageProcessor.from_pretrained(...)"
            f"{', or its image_processor' if hasattr(processor, 'image_processor') else ''}."
        )


def refuse_undeclared_ties(model: PreTrainedModel, name: str) -> None:
    """Raise a ValueError for tensors in the same memory that transformers would not save, or not tie again when they
    are loaded: the first checkpoint could not be written or read."""
    if not hasattr(model, "all_tied_weights_keys"):
        raise ValueError(
            f"The constructor of model {name}, {type(model).__name__}, does not end with `self.post_init()`, without "
            "which from_pretrained cannot load it. Add the call."
        )
    keys_at: dict[int, list[str]] = {}
    for key, tensor in model.state_dict().items():
        if tensor.numel():  # empty ones are at 0
            keys_at.setdefault(tensor.data_ptr(), []).append(key)
    for keys in keys_at.values():
        if len(apart := [key for key in keys if key not in model.all_tied_weights_keys]) > 1:
            kind = type(model).__name__
            raise ValueError(
                f"Model {name} ({kind}) has one tensor under the names {apart[0]!r} and {apart[1]!r}, but transformers "
                "does not know that they are tied, so a checkpoint could not be saved and loaded. Either declare it, "
                f"{kind}._tied_weights_keys = {{{apart[1]!r}: {apart[0]!r}}} and tie_word_embeddings=True in its "
                "configuration; or clone the tensor, so that each has its own."
            )


def refuse_shared_weights(model_a: nn.Module, model_b: nn.Module) -> None:
    """Raise a ValueError for two members with a parameter in common: an update of one would change the other."""
    of_a = {parameter.data_ptr() for parameter in model_a.parameters() if parameter.numel()}  # empty ones are at 0
    if shared := [key for key, parameter in model_b.named_parameters() if parameter.data_ptr() in of_a]:
        raise ValueError(
            f"The two models share {len(shared)} weights, such as {shared[0]!r}, so training one would change the "
            "other. Give copy.deepcopy(model) as one of them."
        )


def try_one_image(model: PreTrainedModel, processor: BaseImageProcessor, name: str, *, task: str, classes: int) -> None:
    """Check that a member accepts what its processor makes of a non-square image, and returns logits.

    Args:
        classes: the required number of classes.

    Raises:
        ValueError: what was returned instead, and what to do.
    """
    side = native_size(processor)
    image = torch.full((3, side + side // 2 + 1, side), 128, dtype=torch.uint8)
    (values,) = clean_inputs(processor, [image])
    given = f"an image of {image.shape[2]} x {image.shape[1]} pixels"
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(pixel_values=values[None].to(model.device, model.dtype))
    except _REFUSALS as problem:
        reason = first_line(problem).rstrip(".")
        if (channels := _channels(model)) != 3:
            raise ValueError(
                f"Model {name} ({model.config.model_type!r}) takes images of {channels} channel(s), but a pair sees "
                "RGB images. Choose a checkpoint for three channels."
            ) from problem
        if not _takes(model, torch.zeros(1, 3, side, side)):
            raise ValueError(
                f"Model {name} ({model.config.model_type!r}) does not accept what its image processor makes of an "
                f"image (3 channels of {side} x {side}): {reason}. Give the image processor of the same "
                f"checkpoint, and a model with a head for {task} that needs no other input."
            ) from problem
        raise ValueError(
            f"Model {name} ({model.config.model_type!r}) does not accept {given} as prepared by its image processor, "
            f"{values.shape[2]} x {values.shape[1]}: {reason}. Set a size or crop that the model accepts "
            f'in preprocessor_config.json, such as "size": {{"height": {side}, "width": {side}}}, or choose '
            "another checkpoint."
        ) from problem
    finally:
        model.train(training)
    _check_logits(output, model, name, task=task, classes=classes)


def _check_logits(output: Any, model: PreTrainedModel, name: str, *, task: str, classes: int) -> None:
    kind = f"Model {name} ({type(model).__name__})"
    logits = getattr(output, "logits", None)
    if logits is None:
        fields = ", ".join(output.keys()) if isinstance(output, ModelOutput) else f"a {type(output).__name__}"
        raise ValueError(
            f"{kind} returns {fields} and no logits, so there is nothing to learn from labels with. Give a model with "
            f"a head for {task}: one that {AUTO_CLASSES[task].__name__} loads and `pipeline()` runs."
        )
    wanted = 2 if task == "image-classification" else 4
    if logits.ndim != wanted or logits.shape[1] != classes:
        shape = "(images, classes)" if wanted == 2 else "(images, classes, height, width)"
        raise ValueError(
            f"{kind} returns logits of shape {tuple(logits.shape)}, but {shape} with {classes} classes is needed. "
            "Choose a model for this task, and load it with the classes of the data."
        )


def _takes(model: PreTrainedModel, values: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            model(pixel_values=values.to(model.device, model.dtype))
    except _REFUSALS:
        return False
    return True


def _channels(model: nn.Module) -> int:
    """How many channels the first convolution of a model takes; 3 where it has none."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3
