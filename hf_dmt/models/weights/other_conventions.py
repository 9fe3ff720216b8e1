"""Settings of a model that have the opposite meaning in the library they were taken from."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

USUAL_MOMENTUM = 0.1
_OTHER_CONVENTION = 0.5  # above it, a number is the share that is kept and not the one that is replaced or dropped
_KEEP_PROBABILITIES = ("mobilenet_v1", "mobilenet_v2")  # whose `classifier_dropout_prob` is TensorFlow's keep_prob


def correct_conventions(model: PreTrainedModel) -> list[str]:
    """Correct BatchNorm momentum and dropout where TensorFlow's numbers were copied, in place.

    transformers' MobileNetV1 and V2 have a BatchNorm momentum of 0.997, TensorFlow's way to write 0.003: in PyTorch the
    running statistics, with which a model labels and is scored, are then those of the last batch alone. And their heads
    drop 99.9 % (V1) and 80 % (V2) of the features, where the original networks keep so many.

    Returns:
        What was changed, a sentence each; nothing for most models.
    """
    said = []
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    large = [norm for norm in norms if norm.momentum is not None and norm.momentum > _OTHER_CONVENTION]
    if large:
        found = max(float(norm.momentum or 0) for norm in large)
        said.append(
            f"BatchNorm momentum lowered from {found:g} to {USUAL_MOMENTUM}; its running statistics would be those of "
            "the last batch."
        )
    for norm in large:
        norm.momentum = USUAL_MOMENTUM
    if model.config.model_type in _KEEP_PROBABILITIES:
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > _OTHER_CONVENTION:
                kept, module.p = module.p, round(1 - module.p, 6)
                said.append(
                    f"dropout of the head lowered from {kept:g} to {module.p:g}; the original network keeps this share "
                    f"({kept:g}) of the features."
                )
    return said
