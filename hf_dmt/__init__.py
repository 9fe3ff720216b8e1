"""Dynamic Mutual Training for the Hugging Face stack: two models that learn from each other's pseudo labels."""

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
