"""Correct settings that have the opposite meaning in the library they were copied from."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

USUAL_MOMENTUM = 0.1
_OTHER_CONVENTION = 0.5  # above it, a number is a share to keep rather than a share to replace or drop
_KEEP_PROBABILITIES = ("mobilenet_v1", "mobilenet_v2")  # their `classifier_dropout_prob` is TensorFlow's keep_prob


def correct_conventions(model: PreTrainedModel) -> list[str]:
    """Correct BatchNorm momentum and dropout that were copied from TensorFlow, in place.

    transformers' MobileNetV1 and V2 have a BatchNorm momentum of 0.997, which is TensorFlow's notation for 0.003. In
    PyTorch, the running statistics used for labeling and evaluation are then those of the last batch. Their heads drop
    99.9 % (V1) and 80 % (V2) of the features, where the original networks keep that many.

    Returns:
        What was changed, one sentence each; empty for most models.
    """
    said = []
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    large = [norm for norm in norms if norm.momentum is not None and norm.momentum > _OTHER_CONVENTION]
    if large:
        found = max(float(norm.momentum or 0) for norm in large)
        said.append(
            f"BatchNorm momentum lowered from {found:g} to {USUAL_MOMENTUM}; with the original value, running "
            "statistics would be those of the last batch."
        )
    for norm in large:
        norm.momentum = USUAL_MOMENTUM
    if model.config.model_type in _KEEP_PROBABILITIES:
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > _OTHER_CONVENTION:
                kept, module.p = module.p, round(1 - module.p, 6)
                said.append(
                    f"head dropout lowered from {kept:g} to {module.p:g}; in the original network, {kept:g} is the "
                    "share of features to keep."
                )
    return said
