"""Counts of the three cases, mean weights and losses per model, summed on the device and read only for logging."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from ...data.members import MEMBERS
from ...method import MutualLoss

_NAMES = ("loss", "weight", "agree", "negative_disagree", "positive_disagree", "valid")


class Telemetry:
    """Sums since the last log; `a/...` describes the training of a.

    Attributes:
        norms: gradient norms of the models in the latest update, before clipping.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(MEMBERS), len(_NAMES), dtype=dtype, device=device)
        self.norms: dict[str, Tensor] = {}

    def add(self, member: int, outcome: MutualLoss, is_pseudo: Tensor) -> None:
        """Add one model's micro-batch. Nothing is read from the device, which would synchronize at every step."""
        pseudo = (outcome.weights.flatten(1) if outcome.weights.ndim > 1 else outcome.weights[:, None]).sum(dim=1)
        sums = [outcome.loss.detach() * outcome.valid, (pseudo * is_pseudo).sum()]
        sums += [outcome.agree, outcome.negative_disagree, outcome.positive_disagree, outcome.valid]
        # Values of a skipped update would hide all others until the next log.
        self._sums[member] += torch.stack([value.to(self._sums.dtype) for value in sums]).nan_to_num(0, 0, 0)

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Log entries over all processes since the last call. A collective operation: every process must call it.

        `agree`, `negative_disagree` and `positive_disagree` are fractions of the `pseudo_units` (valid,
        pseudo-labeled), `mean_weight` is their mean weight, and `loss` is per valid unit, including labeled ones.
        """
        logs: dict[str, float] = {}
        for member, values in zip(MEMBERS, accelerator.reduce(self._sums).tolist(), strict=True):
            loss, weight, *cases, valid = values
            pseudo = sum(cases)
            if valid:
                logs[f"{member}/loss"] = loss / valid
            if pseudo:
                logs[f"{member}/mean_weight"] = weight / pseudo
                logs[f"{member}/pseudo_units"] = pseudo
                logs |= {f"{member}/{name}": count / pseudo for name, count in zip(_NAMES[2:5], cases, strict=True)}
            if member in self.norms:
                logs[f"{member}/grad_norm"] = float(self.norms[member])
        self.reset()
        return logs

    def reset(self) -> None:
        """Forget what was added since the last log."""
        self._sums.zero_()
