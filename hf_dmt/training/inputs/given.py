"""The arguments of `DMTTrainer`, validated and normalized for the trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import EvalPrediction, TrainerCallback

from ...data.drawing.samples import PairDataset
from ...data.tasks import TASKS
from ...models.pair import ModelPair
from ..run.folder import check_place
from ..scoring.library_metrics import LibraryMetrics
from ..settings.arguments import REPLACED, DMTTrainingArguments
from ..settings.knobs import KNOBS, RUN_SETTINGS
from ..settings.methods import Knobs
from .checks import check_callbacks, check_inputs, check_unlabeled
from .image_sets import by_name, check_image_set, check_one_order, class_label_names, title_of
from .search import new_pair
from .streams import is_stream, saved_stream

# Arguments of the stock Trainer that are not supported, and what to use instead.
_STOCK_ONLY: dict[str, str] = {
    "data_collator": "a batch contains a view for a and one for b; change the images in the dataset instead",
    "processing_class": (
        "each model has its own image processor: pass it to ModelPair.from_models(...) or set pair.processor_a and "
        "pair.processor_b"
    ),
    "compute_loss_func": "the method defines the loss; its knobs are gamma1, gamma2 and positive_disagree",
    "optimizers": "each phase starts new ones; choose them with optim, lr_scheduler_type and learning_rate",
    "optimizer_cls_and_kwargs": "choose the optimizer with optim and optim_args",
    "preprocess_logits_for_metrics": "compute_metrics is called with the logits of a, b and the ensemble in turn",
}


# Settings that a trainer reads when it is built; others, such as `learning_rate`, it reads when it trains.
_BUILT_FROM = ("output_dir", "seed", "max_steps", "gradient_accumulation_steps", "method", *KNOBS, *RUN_SETTINGS)
_BUILT_FROM += tuple(name for name in REPLACED if name in DMTTrainingArguments.__dataclass_fields__)


@dataclass(frozen=True)
class Inputs:
    """The arguments of a `DMTTrainer` (documented there). `pair`, `knobs` and `library_metrics` are derived from
    them; `settings` are the values of the arguments from which a trainer is built."""

    args: DMTTrainingArguments
    train_dataset: Any
    unlabeled_dataset: Any
    eval_dataset: Any
    test_dataset: Any
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None
    callbacks: list[TrainerCallback] | None
    metrics: Sequence[Any]
    pair: ModelPair
    knobs: Knobs
    settings: Mapping[str, Any]
    library_metrics: LibraryMetrics | None = None

    @classmethod
    def checked(
        cls, model: Any, args: Any, model_init: Any, stock: Mapping[str, Any], *, unlabeled_dataset: Any, **given: Any
    ) -> Inputs:
        """Refuse invalid arguments before anything is built.

        Raises:
            ValueError: what to give instead. TypeError: an unknown argument.
        """
        args = _arguments(args, stock, model, model_init)
        check_place(args.output_dir)
        pair = new_pair(model_init) if model_init else _opened_pair(model, args, given["train_dataset"])
        if is_stream(unlabeled_dataset):
            with args.main_process_first(desc="saving the stream of unlabeled images"):
                unlabeled_dataset = saved_stream(unlabeled_dataset, "unlabeled_dataset")
        check_inputs(pair, args, **given)
        check_image_set(unlabeled_dataset, "unlabeled_dataset", pair, with_target=False)
        of_eval = by_name(given["eval_dataset"])
        sets = {title_of(name): images for name, images in of_eval.items()}
        sets |= {"test_dataset": given["test_dataset"], "unlabeled_dataset": unlabeled_dataset}
        check_one_order({"train_dataset": given["train_dataset"], **sets})
        knobs = args.knobs(pair.task)
        settings = {name: getattr(args, name) for name in _BUILT_FROM}
        inputs = cls(args, unlabeled_dataset=unlabeled_dataset, pair=pair, knobs=knobs, settings=settings, **given)
        check_unlabeled(args.method, knobs, inputs.num_unlabeled)
        if args.metric_is_default and of_eval:
            first = next(iter(of_eval))
            args.use_default_metric("_".join(filter(None, ("eval", first, TASKS[pair.task].metric))))
        asked = [*(args.metrics or ()), *inputs.metrics]
        library = LibraryMetrics(asked, len(pair.class_names), pair.task) if asked else None
        return replace(inputs, library_metrics=library)

    @property
    def num_unlabeled(self) -> int:
        return len(self.unlabeled_dataset) if self.unlabeled_dataset is not None else 0

    def check_unchanged(self, trainer: Any) -> None:
        """Raises ValueError for something that was set on the trainer after it was built, where it would be ignored, or
        would give images the labels of others; and for a callback that cannot be used."""
        check_callbacks(trainer.callback_handler.callbacks)
        sets = {name: getattr(self, name) for name in ("unlabeled_dataset", "eval_dataset", "test_dataset")}
        changed = [
            name for name, before in {"model": self.pair, **sets}.items() if getattr(trainer, name) is not before
        ]
        changed += [] if isinstance(trainer.train_dataset, PairDataset) else ["train_dataset"]
        changed += [f"args.{name}" for name in self.settings if getattr(trainer.args, name) != self.settings[name]]
        if changed:
            raise ValueError(
                f"{', '.join(changed)} was set after the trainer was built, when phases, batches and the positions of "
                "images had been derived from the former value. Build a new DMTTrainer with it."
            )

    def for_trainer(self) -> tuple[Any, ...]:
        """The images and metrics in the order of `DMTTrainer`'s arguments."""
        images = (self.train_dataset, self.unlabeled_dataset, self.eval_dataset, self.test_dataset)
        return (*images, self.compute_metrics, self.callbacks, self.metrics)


def _opened_pair(model: Any, args: DMTTrainingArguments, train_dataset: Any) -> Any:
    """The pair that `model` refers to; anything else is returned unchanged, for the checks to refuse.

    Args:
        model: a pair; the id or folder of a saved one; or two models, as `ModelPair.from_models` takes them. Their
            heads get the classes of the data set's `ClassLabel` column, or keep their own if both models agree.

    Raises:
        ValueError, CheckpointError: as `ModelPair.from_models` and `ModelPair.from_pretrained`.
    """
    if isinstance(model, (str, os.PathLike)):
        return ModelPair.from_pretrained(model, token=args.hub_token)
    if not isinstance(model, (tuple, list)):
        return model
    if len(model) != 2:
        raise ValueError(
            f"DMTTrainer trains two models, but {len(model)} were given. Give a pair, or two: model=('id a', 'id b')."
        )
    first = train_dataset[0] if train_dataset is not None and len(train_dataset) else {}
    keys = set(first) if isinstance(first, Mapping) else set()  # other problems are left to the checks of the data
    fitting = [name for name, task in TASKS.items() if task.target in keys]
    task, classes = fitting[0] if len(fitting) == 1 else "image-classification", class_label_names(train_dataset)
    return ModelPair.from_models(*model, task=task, id2label=classes, seed=args.seed, token=args.hub_token)


def _arguments(args: Any, stock: Mapping[str, Any], model: Any, model_init: Any) -> DMTTrainingArguments:
    for name, value in stock.items():
        if name not in _STOCK_ONLY:
            raise TypeError(f"DMTTrainer() got an unexpected keyword argument {name!r}")
        if value is not None and value != (None, None):  # the stock default of optimizers
            raise ValueError(f"DMTTrainer does not support {name}: {_STOCK_ONLY[name]}.")
    if not isinstance(args, DMTTrainingArguments):
        given = "no args" if args is None else f"a {type(args).__name__}"
        raise ValueError(
            f"DMTTrainer needs DMTTrainingArguments, got {given}. They have every field of TrainingArguments and the "
            "knobs of the method: DMTTrainingArguments(output_dir=..., supervised_epochs=20, phase_epochs=2)."
        )
    args.check_again()
    if (model is None) == (model_init is None):
        raise ValueError(
            "DMTTrainer takes either model, a ModelPair, or model_init, a function that creates one for each trial "
            f"of hyperparameter_search; got {'neither' if model is None else 'both'}."
        )
    return args
