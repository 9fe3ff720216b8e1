"""Turn runtime failures (memory, workers, images, trackers) into errors that say what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl
from transformers.trainer_callback import CallbackHandler
from transformers.utils import logging

from ...data.labels.pseudo_labels import StoreError
from ...data.members import MEMBERS
from ...data.messages import first_line
from ...data.reading.decoding import CorruptImage
from ...data.reading.rows import DataError
from ...method.selection import DivergedError
from ...models.loading import CheckpointError
from ...models.pair import ModelPair
from ..settings.arguments import DMTTrainingArguments
from ..settings.knobs import Knobs

logger = logging.get_logger(__name__)

# A GPU that is full has its own class of error, except inside its libraries; a CPU has several.
_NO_MEMORY = re.compile(r"out of memory|(can't|not enough|unable to) (allocate )?memory|ALLOC_FAILED|bad_alloc", re.I)
_GO_ON = "Then continue with `resume_from_checkpoint=True`, from the last checkpoint if there is one."


class RunError(RuntimeError):
    """A run that cannot continue: the reason, and what to do. Everything it saved is kept."""


@contextmanager
def explained(args: DMTTrainingArguments, knobs: Knobs) -> Iterator[None]:
    """Turn failures inside the block into a `RunError` with advice; bugs pass through unchanged.

    Raises:
        RunError: the device is out of memory, a data-loading worker died, an image is missing or was damaged after
            labeling, or the stored labels were; compute_metrics lacks the metric that chooses the best pair.
    """
    try:
        yield
    except MemoryError as problem:
        raise RunError(out_of_memory(args, knobs, first_line(problem))) from problem
    except StoreError as problem:  # names the checkpoint that helps, which is often not the last one
        raise RunError(_without_worker_traceback(str(problem))) from problem
    except DivergedError as problem:
        raise RunError(f"{problem}. Earlier checkpoints, if there are any, are kept.") from problem
    except (CorruptImage, DataError, CheckpointError) as problem:
        raise RunError(f"{_without_worker_traceback(str(problem))} {_GO_ON}") from problem
    except KeyError as problem:
        if "`metric_for_best_model`" not in str(problem):
            raise
        names = str(problem.args[0]).partition("metrics are: ")[2].partition(". Consider")[0]
        raise RunError(
            f"metric_for_best_model is {args.metric_for_best_model!r}, which compute_metrics and the metrics did not "
            f"return. There are {names or 'others'}. Choose one of them and start again."
        ) from problem
    except RuntimeError as problem:
        if _NO_MEMORY.search(str(problem)) and "Caught" not in str(problem):
            raise RunError(out_of_memory(args, knobs, first_line(problem))) from problem
        if "DataLoader worker" not in str(problem) or "Caught" in str(problem):
            raise
        raise RunError(
            "A data-loading worker was killed, often by the out-of-memory killer "
            f"({first_line(problem)}). Lower `dataloader_num_workers` (0 loads in the main process). "
            f"{_GO_ON}"
        ) from problem


def out_of_memory(args: DMTTrainingArguments, knobs: Knobs, reason: str) -> str:
    """How to continue with less memory: the same updates in more parts if they can be divided. The message contains
    every setting that a resume needs; smaller updates need a new run."""
    steps = args.gradient_accumulation_steps
    parts = args.world_size * steps
    labeled, pseudo = knobs.labeled_batch_size, knobs.pseudo_batch_size
    smaller = {"per_device_eval_batch_size": max(1, args.per_device_eval_batch_size // 2)}
    divisible = labeled % (2 * parts) == 0 and pseudo % (2 * parts) == 0
    if divisible:
        smaller = {"gradient_accumulation_steps": 2 * steps, **smaller}
    flags = " ".join(f"`{name}={value}`" for name, value in smaller.items())
    message = (
        f"Out of memory for updates of {labeled} labeled + {pseudo} pseudo-labeled images in {parts} part(s), or for "
        f"labeling {args.per_device_eval_batch_size} at once ({reason}). From the last "
        "checkpoint, if there is one, continue with the same settings and `resume_from_checkpoint=True` "
        f"{flags} `accept_changes={[*smaller]}`, "
    )
    if divisible:
        return f"{message}which computes the same updates in smaller parts. `bf16` needs less memory, too."
    fewer = [max(parts, size // 2 // parts * parts) for size in (labeled, pseudo)]
    return message + (
        "if labeling ran out of memory. Updates cannot be divided further: for smaller ones start a new run with "
        f"`labeled_batch_size={fewer[0]}` and `pseudo_batch_size={fewer[1]}`, or a smaller `image_size`."
    )


def too_large_for_this_machine(pair: ModelPair, args: DMTTrainingArguments, knobs: Knobs) -> str | None:
    """A warning if an update on the CPU needs more memory than there is. A GPU would say so; a CPU swaps until the
    machine no longer answers."""
    if args.device.type != "cpu":
        return None
    parts = args.world_size * args.gradient_accumulation_steps
    images = (knobs.labeled_batch_size + knobs.pseudo_batch_size) // parts
    each = [activation_bytes(pair.member(name), pair.image_size) for name in MEMBERS]
    # As in `PairTrainer.training_step`: in one process, one model runs after the other.
    needed = images * (max(each) if args.world_size == 1 else sum(each))
    available = psutil.virtual_memory().available // args.world_size
    if needed <= available:
        return None
    smaller = 2 ** math.ceil(math.log2(needed / available))
    return (
        f"An update needs about {needed / 2**30:.0f} GiB of memory for the activations of {images} images of "
        f"{pair.image_size} pixels, and {available / 2**30:.0f} GiB are available. Nothing was tried, because the "
        f"machine would stop responding. `gradient_accumulation_steps={args.gradient_accumulation_steps * smaller}` "
        "computes the same updates in smaller parts, if they can be divided. Or lower `labeled_batch_size`, "
        "`pseudo_batch_size` or `image_size`, or train less of the models: `train='head'`."
    )


def activation_bytes(model: nn.Module, side: int) -> int:
    """What a forward pass in training keeps for the backward pass, in bytes per image of `side` pixels. Changes the
    running statistics of BatchNorm layers.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    count = 2  # BatchNorm cannot train on one
    images = torch.zeros(count, 3, side, side, device=next(model.parameters()).device)
    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(pixel_values=images)
    model.train(was_training)
    return sum(storage.nbytes() for storage in kept.values()) // count


class TrackersMayFail(CallbackHandler):
    """The Trainer's callbacks, except that a tracker whose service fails during a run is dropped from then on.

    Days of training should not be lost because a dashboard is down; all figures are in `telemetry.jsonl`. A tracker
    that cannot even be started is an error, because nothing is lost yet.
    """

    @classmethod
    def over(cls, handler: CallbackHandler) -> TrackersMayFail:
        """The same handler with its callbacks and state, guarded."""
        guarded = cls.__new__(cls)
        guarded.__dict__ = handler.__dict__
        return guarded

    callbacks: list[TrainerCallback]

    def call_event(self, event: str, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        everyone = list(self.callbacks)
        for callback in everyone:
            self.callbacks = [callback]
            try:
                control = super().call_event(event, args, state, control, **kwargs)
            except Exception as problem:  # each tracker's client has its own errors
                if not _is_tracker(callback):
                    raise
                reason = first_line(problem)
                name = type(callback).__name__
                if event in ("on_init_end", "on_train_begin"):
                    raise RunError(
                        f"The tracker {name} cannot be started ({reason}). Check its service and your login, or "
                        "remove it from `report_to`: telemetry.jsonl and report.html contain all figures."
                    ) from problem
                logger.warning(
                    f"The tracker {name} failed ({reason}) and is disabled; training continues, and telemetry.jsonl "
                    "contains all figures."
                )
                everyone = [other for other in everyone if other is not callback]
            finally:
                self.callbacks = everyone
        self.callbacks = everyone
        return control


def _is_tracker(callback: TrainerCallback) -> bool:
    return any(kind.__module__.startswith("transformers.integrations") for kind in type(callback).__mro__)


def _without_worker_traceback(message: str) -> str:
    """An error from a worker process contains its whole traceback; its last line is the message."""
    return message.strip().splitlines()[-1].partition(": ")[2] if message.startswith("Caught ") else message
