"""Modules of the `evaluate` library as a user writes them, small enough to read."""

from __future__ import annotations

from pathlib import Path

_MODULE = """
import datasets
import evaluate
import numpy as np
from sklearn import metrics


class Metric(evaluate.Metric):
    def _info(self):
        number = datasets.Value("{kind}")
        column = {column}
        return evaluate.MetricInfo(
            description="", citation="", features=datasets.Features({{"{given}": column, "references": {truth}}})
        )

    def _compute(self, {given}, references, **arguments):
        return {result}
"""

_FORMS: dict[str, dict[str, str]] = {
    "f1": {"result": '{"f1": metrics.f1_score(references, predictions, **arguments)}'},
    "accuracy": {"result": '{"accuracy": metrics.accuracy_score(references, predictions)}'},
    "roc_auc": {
        "given": "prediction_scores",
        "kind": "float64",
        "column": 'number if self.config_name != "multiclass" else datasets.Sequence(number)',
        "result": '{"roc_auc": metrics.roc_auc_score(references, prediction_scores, **arguments)}',
    },
    "mask_count": {
        "column": "datasets.Sequence(datasets.Sequence(number))",
        "truth": "column",
        "result": '{"masks": len(predictions), "ignore_index": arguments["ignore_index"], "name": "text"}',
    },
    "sources": {"given": "sources", "result": "{}"},
    "text": {"result": '"good"'},
}


def write_metric(folder: Path, name: str) -> str:
    """Write the module `name` below the folder; its path, as `--metrics` takes it."""
    form = {"given": "predictions", "kind": "int64", "column": "number", "truth": 'datasets.Value("int64")'}
    target = folder / name
    target.mkdir(exist_ok=True)
    (target / f"{name}.py").write_text(_MODULE.format(**{**form, **_FORMS[name]}), encoding="utf-8")
    return str(target)
