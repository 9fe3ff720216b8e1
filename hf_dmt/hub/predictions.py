"""Publish the output of `hf-dmt predict` as a data set on the Hub, with a card. Images are not uploaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import CommitInfo, DatasetCardData

from ..data.escaping import markdown_text
from ..data.files import write_json
from ..data.labels.predictions import is_number
from ..data.members import MEMBERS
from ..data.tasks import TASKS
from .label_set import dataset_card, size_category, write_shards
from .repository import PREDICTIONS_FILE, open_target, publish

_SHOWN_CLASSES = 30


def push_predictions(
    records: list[dict[str, Any]], facts: dict[str, Any], repo_id: str, *, private: bool | None = None
) -> CommitInfo:
    """Publish predictions in one commit; `load_dataset(repo_id)` reads them.

    Args:
        records: one per image, as in the file.
        facts: of the file; `folder` contains the masks, None for a table.
        repo_id: the data set's repository; created if necessary.

    Raises:
        HubError: a different data set has this name, or the push failed.
    """
    name = open_target(repo_id, token=None, private=private, repo_type="dataset", own_file=PREDICTIONS_FILE)
    masks = facts["folder"]
    published = {key: value for key, value in facts.items() if key not in ("folder", "source_of_images")}
    with tempfile.TemporaryDirectory() as staged:
        target = Path(staged)
        write_json(target / PREDICTIONS_FILE, {**published, "images": len(records)})
        write_shards(_rows(records, facts["class_names"], masks), target / "data")
        (target / "README.md").write_text(_card(records, published, name, masks is not None), encoding="utf-8")
        replaces = [PREDICTIONS_FILE, "README.md", "data/*.parquet"]
        return publish(target, name, message="Upload predictions", repo_type="dataset", replaces=replaces)


def _rows(records: list[dict[str, Any]], class_names: list[str], masks: Path | None) -> datasets.Dataset:
    columns: dict[str, list[Any]] = {key: [record[key] for record in records] for key in records[0]}
    features: dict[str, Any] = {key: datasets.Value("float32" if is_number(key) else "string") for key in columns}
    if masks is None:
        features |= {key: datasets.ClassLabel(names=class_names) for key in ("label", *MEMBERS)}
    else:
        files = columns.pop("mask")
        del features["mask"]
        for key, maker in (("label", "ensemble"), ("a", "a"), ("b", "b")):
            columns[key] = [{"bytes": (masks / maker / file).read_bytes(), "path": None} for file in files]
            features[key] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _card(records: list[dict[str, Any]], facts: dict[str, Any], repo_id: str, pixels: bool) -> str:
    count = len(records)
    counts = dict.fromkeys(facts["class_names"], 0)
    for record in records if not pixels else ():
        counts[record["label"]] += 1
    metadata = DatasetCardData(
        annotations_creators=["machine-generated"],
        pretty_name=repo_id.split("/")[-1],
        size_categories=[size_category(count)],
        tags=["hf-dmt", "predictions"],
        task_categories=[TASKS[facts["task"]].pipeline],
    )
    return dataset_card(
        metadata,
        "prediction_card.md.jinja",
        repo_id,
        facts=facts,
        count=count,
        pixels=pixels,
        disagreement=sum(record["disagreement"] for record in records) / count,
        differ=0 if pixels else sum(record["a"] != record["b"] for record in records),
        shown=sorted(counts.items(), key=lambda entry: -entry[1])[:_SHOWN_CLASSES],
        text=markdown_text,
        labels_file=PREDICTIONS_FILE,
    )
