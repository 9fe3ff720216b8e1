"""The pseudo labels of a phase as a data set on the Hub: one configuration per maker, with a card.

Images are not uploaded, because they may belong to others; a label names its image by id.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
from huggingface_hub import CommitInfo, DatasetCard, DatasetCardData

from ..data.escaping import code_span
from ..data.files import write_json
from ..data.labels.pseudo_labels import ImageLabels, PixelLabels, read_manifest
from ..data.splitting.splits import sha256_of_ids
from ..data.tasks import TASKS
from ..method import decode_confidence
from ..report.run import Run, read_run
from .push import STAGING, if_writable
from .repository import LABELS_FILE, HubError, open_target, publish

LABELS_FORMAT = 1
_TAGS = ("hf-dmt", "pseudo-labels", "semi-supervised-learning")
_SHARD_BYTES = 500_000_000
_SHOWN_CLASSES = 30
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")


def push_labels(
    folder: str | Path,
    repo_id: str,
    *,
    phase: int | None = None,
    ids: Sequence[str] | None = None,
    pair: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    message: str = "Upload pseudo labels",
) -> CommitInfo:
    """Publish the pseudo labels that were made for one phase, in one commit.

    Read them with `load_dataset(repo_id, "a")`, the labels made by a, `"b"` and, for a run with `--labeler graph`,
    `"graph"`.

    Args:
        folder: output folder of a run.
        repo_id: the data set's repository; created if necessary.
        phase: None uses the last one that has labels.
        ids: of the unlabeled images in order, if the run has no `split.json` (it was started from Python).
        pair: the pair's repository, for the card.
        license: of the labels.
        revision: branch, created if necessary.
        tag: a name for the commit.

    Raises:
        HubError: no complete labels, ids of other images, or the push failed.
    """
    folder = Path(folder)
    try:
        run = read_run(folder)
        number, store = _store(folder, phase)
        manifests = {name: read_manifest(store / name) for name in run.makers}
        ids = _ids_of(store, run, manifests["a"], ids)
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=if_writable(folder)) as staged:
            target = Path(staged) / "repository"
            rows = {name: _as_dataset(store / name, run, ids, Path(staged) / "rows") for name in run.makers}
            facts = _facts(run, number, manifests, rows)
            write_json(target / LABELS_FILE, facts)
            for name, made in rows.items():
                write_shards(made, target / name)
            name = open_target(repo_id, token=token, private=private, repo_type="dataset", revision=revision)
            (target / "README.md").write_text(_card(run, facts, name, len(ids), pair, license), encoding="utf-8")
            replaces = [LABELS_FILE, "README.md", "*/*.parquet"]
            how: dict[str, Any] = {"message": message, "token": token, "revision": revision, "tag": tag}
            return publish(target, name, repo_type="dataset", replaces=replaces, **how)
    except HubError:
        raise
    except ValueError as problem:  # from the readers, with advice in the message
        raise HubError(f"The labels of {str(folder)!r} cannot be published: {problem}") from problem


def _store(folder: Path, phase: int | None) -> tuple[int, Path]:
    """Number and folder of a phase's labels."""
    found = {
        int(path.name.removeprefix("phase-")): path
        for path in (folder / "pseudo_labels").glob("phase-*")
        if path.name.removeprefix("phase-").isdigit()
    }
    if not found:
        raise HubError(
            f"{str(folder)!r} has no pseudo_labels/, so there are no labels to publish. Give the output folder of a "
            "run with `strategy='phases'` on unlabeled images."
        )
    if phase is not None and phase not in found:
        raise HubError(
            f"There are no labels of phase {phase}; the folder contains those of "
            f"{', '.join(map(str, sorted(found)))}. `keep_pseudo_labels='all'` keeps earlier ones."
        )
    number = max(found) if phase is None else phase
    return number, found[number]


def _ids_of(store: Path, run: Run, manifest: dict[str, Any], given: Sequence[str] | None) -> list[str]:
    """The ids of the images that the labels belong to, verified with the hash in the store."""
    if given is not None:
        ids = [str(name) for name in given]
    elif not run.is_pixels:
        ids = pq.read_table(store / "a" / "labels.parquet", columns=["id"])["id"].to_pylist()
    else:
        ids = [str(name) for name in run.split.get("unlabeled") or range(run.results["num_unlabeled"])]
    if sha256_of_ids(ids)[: len(manifest["ids"])] != manifest["ids"]:
        raise HubError(
            f"The labels in {str(store)!r} were made from other images than the {len(ids)} ids that are "
            f"{'given' if given is not None else 'recorded in the run'}. Give ids= of the unlabeled images, in order."
        )
    return ids


def _as_dataset(store: Path, run: Run, ids: list[str], cache: Path) -> datasets.Dataset:
    if run.is_pixels:
        return PixelLabels.read(store).as_dataset(ids, cache_dir=cache)
    return ImageLabels.read(store).as_dataset(ids, run.class_names)


def write_shards(rows: datasets.Dataset, folder: Path) -> None:
    folder.mkdir(parents=True)
    shards = max(1, math.ceil(rows.data.nbytes / _SHARD_BYTES))
    for index in range(shards):
        part = rows.shard(shards, index, contiguous=True)
        part.to_parquet(folder / f"train-{index:05d}-of-{shards:05d}.parquet")


def _facts(
    run: Run, phase: int, manifests: dict[str, dict[str, Any]], rows: dict[str, datasets.Dataset]
) -> dict[str, Any]:
    """The contents of `dmt_labels.json`: how the labels were made and, if the truth is known, how good they are."""
    first = manifests["a"]
    makers = {}
    for name, manifest in manifests.items():
        lowest = _pixel_thresholds(manifest) if run.is_pixels else _lowest_kept(rows[name], len(run.class_names))
        makers[name] = {
            "base_model": run.base_models.get(name),
            "kept": manifest["summary"]["selected"],
            "accuracy": manifest["summary"]["accuracy"],
            "kept_per_class": manifest["summary"]["class_counts"],
            "lowest_confidence_kept": lowest,
        }
    return {
        "format_version": LABELS_FORMAT,
        "task": run.results["task"],
        "id2label": dict(enumerate(run.class_names)),
        "method": run.results["method"],
        "phase": phase,
        "label_ratio": first["ratio"],
        "selection_rule": first["selection_rule"],
        "class_balanced": first["class_balanced"],
        "image_size": first["image_size"],
        "weights": first.get("weights"),
        "dataset": run.split.get("dataset"),
        "unlabeled_from": run.split.get("unlabeled_from"),
        "split_sha256": run.split.get("sha256"),
        "labeler": run.knobs.get("labeler"),
        "makers": makers,
    }


def _pixel_thresholds(manifest: dict[str, Any]) -> list[float | None]:
    """For each class, the confidence above which pixels are kept; None for a class without any."""
    confidence = decode_confidence(torch.tensor(manifest["code_thresholds"])).tolist()
    counts = manifest["summary"]["class_counts"]
    return [value if count else None for value, count in zip(confidence, counts, strict=True)]


def _lowest_kept(rows: datasets.Dataset, classes: int) -> list[float | None]:
    """For each class, the lowest confidence among the kept images; None for a class without any."""
    # Not with_format("numpy"): with torchvision 0.26 and later, datasets before 5 fails there.
    labels, confidence, kept = (rows.data.column(name).to_numpy() for name in ("label", "confidence", "kept"))
    found = [confidence[kept & (labels == index)] for index in range(classes)]
    return [float(values.min()) if len(values) else None for values in found]


def _card(run: Run, facts: dict[str, Any], repo_id: str, count: int, pair: str | None, license: str | None) -> str:
    source = run.split.get("unlabeled_from_id" if run.split.get("unlabeled_from") else "dataset_id")
    metadata = DatasetCardData(
        annotations_creators=["machine-generated"],
        license=license,
        pretty_name=repo_id.split("/")[-1],
        size_categories=[size_category(count)],
        source_datasets=[source] if source else None,
        tags=list(_TAGS),
        task_categories=[TASKS[run.results["task"]].pipeline],
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]}
            for name in run.makers
        ],
    )
    shown = sorted(
        range(len(run.class_names)),
        key=lambda index: -sum(maker["kept_per_class"][index] for maker in facts["makers"].values()),
    )[:_SHOWN_CLASSES]
    return dataset_card(
        metadata,
        "label_card.md.jinja",
        repo_id,
        facts=facts,
        run=run,
        count=count,
        pair=pair,
        shown=sorted(shown),
        labels_file=LABELS_FILE,
        code=code_span,
    )


def dataset_card(metadata: DatasetCardData, template: str, repo_id: str, **facts: Any) -> str:
    """The text of a card from a template of this folder."""
    text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    card = DatasetCard.from_template(metadata, template_str=text, repo=repo_id, title=repo_id.split("/")[-1], **facts)
    return f"{card}\n"


def size_category(count: int) -> str:
    """The Hub's name for a number of rows."""
    return _SIZES[min(len(_SIZES) - 1, max(0, len(str(count)) - 3))]
