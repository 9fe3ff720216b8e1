"""The method: dynamic mutual training as pure functions of tensors (torch and the standard library only).

Read in this order: `weighting` (the three cases), `loss`, `selection` (pseudo labels and which are kept), `schedule`
(phases), `mixup`.
"""

from hf_dmt.method.loss import MutualLoss, dynamic_mutual_loss
from hf_dmt.method.mixup import MixupWeighting, draw_mixup, mix, mixup_loss
from hf_dmt.method.schedule import Phase, gaussian_ramp, plan_phases
from hf_dmt.method.selection import (
    CONFIDENCE_CODES,
    SelectionRule,
    class_balanced_thresholds,
    confidence_histogram,
    decode_confidence,
    encode_confidence,
    pseudo_label,
    select_top_ratio,
    selected_count,
    thresholds_from_histogram,
)
from hf_dmt.method.weighting import PositiveDisagree, dynamic_weights

__all__ = [
    "CONFIDENCE_CODES",
    "MixupWeighting",
    "MutualLoss",
    "Phase",
    "PositiveDisagree",
    "SelectionRule",
    "class_balanced_thresholds",
    "confidence_histogram",
    "decode_confidence",
    "draw_mixup",
    "dynamic_mutual_loss",
    "dynamic_weights",
    "encode_confidence",
    "gaussian_ramp",
    "mix",
    "mixup_loss",
    "plan_phases",
    "pseudo_label",
    "select_top_ratio",
    "selected_count",
    "thresholds_from_histogram",
]
