"""Dynamic Mutual Training for the Hugging Face stack: two models that learn from each other's pseudo labels.

Public names are imported on first use, so that `hf-dmt --help` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .method import class_balanced_thresholds, dynamic_mutual_loss, dynamic_weights, select_top_ratio
    from .models.pair import ModelPair
    from .training.settings.arguments import DMTTrainingArguments
    from .training.trainer import DMTTrainer

__all__ = [
    "DMTTrainer",
    "DMTTrainingArguments",
    "ModelPair",
    "class_balanced_thresholds",
    "dynamic_mutual_loss",
    "dynamic_weights",
    "select_top_ratio",
]

_PLACES = {
    "DMTTrainer": ".training.trainer",
    "DMTTrainingArguments": ".training.settings.arguments",
    "ModelPair": ".models.pair",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_PLACES.get(name, ".method"), __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
