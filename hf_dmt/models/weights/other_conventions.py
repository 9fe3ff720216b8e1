"""BatchNorm layers whose running statistics would be those of the last batch."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

USUAL_MOMENTUM = 0.1
_OTHER_CONVENTION = 0.5  # above it, a number is the share that is kept and not the one that is replaced


def cap_momentum(model: PreTrainedModel) -> float | None:
    """Give BatchNorm layers with a momentum above 0.5 PyTorch's usual 0.1, in place.

    transformers' MobileNetV1 and V2 have 0.997, which is TensorFlow's way to write 0.003: in PyTorch the running
    statistics, with which a model labels and is scored, are then those of the last batch alone.

    Returns:
        The largest momentum that was changed, None if there was none.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    large = [norm for norm in norms if norm.momentum is not None and norm.momentum > _OTHER_CONVENTION]
    found = max((float(norm.momentum or 0) for norm in large), default=None)
    for norm in large:
        norm.momentum = USUAL_MOMENTUM
    return found
