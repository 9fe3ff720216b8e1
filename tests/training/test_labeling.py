"""What is labeled, what is selected of it, and when a store may be used again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_runs import CLASSES, Kill, KillAt, images, make_pair, make_trainer, results, scenes, state_of, telemetry

from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels, read_manifest
from hf_dmt.training.labeling import label_pass
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.settings.knobs import Knobs


def outputs(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, confidences and doubts of a member that prefers class 0."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.6, count) - 1, CLASSES - 1)
    doubt = rng.random(count) ** 3
    return labels, (1 - doubt).astype(np.float32), doubt


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5, 0.77, 1.0])
def test_selection_keeps_the_count(ratio: float, balanced: bool) -> None:
    """Guards against a number of updates that depends on predictions because each class is rounded to another number of
    images."""
    labels, confidence, doubt = outputs()
    chosen = label_pass.select_images(labels, confidence, doubt, ratio, Knobs(class_balanced=balanced))
    assert chosen.sum() == round(ratio * 40)
    for label in range(CLASSES):
        kept, left = doubt[chosen & (labels == label)], doubt[~chosen & (labels == label)]
        if balanced and len(kept) and len(left):
            assert kept.max() <= left.min()  # the surest of every class
            assert len(kept) == pytest.approx(ratio * (labels == label).sum(), abs=1)
    if not balanced and chosen.sum() < 40:
        assert doubt[chosen].max() <= doubt[~chosen].min()


def test_balanced_selection_gives_every_class_its_share() -> None:
    """Guards against the large class filling the whole ratio although class balance was requested."""
    labels = np.array([0] * 30 + [1] * 10)
    doubt = np.concatenate([np.linspace(0, 0.1, 30), np.linspace(0.5, 0.9, 10)])
    confidence = (1 - doubt).astype(np.float32)
    plain, balanced = (
        label_pass.select_images(labels, confidence, doubt, 0.2, Knobs(class_balanced=value)) for value in (False, True)
    )
    assert np.bincount(labels[plain]).tolist() == [8]
    assert np.bincount(labels[balanced]).tolist() == [6, 2]


def test_sharp_models_are_still_ranked() -> None:
    """Guards against a random choice among the most confident images because their confidences round to 1."""
    doubt = np.array([3e-9, 1e-9, 2e-9, 4e-9])
    confidence = np.ones(4, dtype=np.float32)
    chosen = label_pass.select_images(np.zeros(4, dtype=np.int64), confidence, doubt, 0.5, Knobs())
    assert chosen.tolist() == [False, True, True, False]


def test_official_selection_that_selects_nothing_is_an_error() -> None:
    """Guards against a phase without pseudo labels: the official index arithmetic selects none of tied confidences."""
    labels, confidence, doubt = outputs()
    chosen = label_pass.select_images(labels, confidence, doubt, 0.5, Knobs(official=True))
    assert 0 < chosen.sum() <= 20
    with pytest.raises(ValueError, match=r"selects none of 40 images.*Omit `official`"):
        label_pass.select_images(labels, np.ones(40, dtype=np.float32), doubt, 0.2, Knobs(official=True))


@pytest.mark.parametrize(("count", "world"), [(13, 2), (13, 4), (3, 4), (8, 1)])
def test_shares_cover_every_image_once(count: int, world: int) -> None:
    """Guards against padded shards, the default of accelerate, which count images twice."""
    processes: list[Any] = [SimpleNamespace(process_index=rank, num_processes=world) for rank in range(world)]
    shares = [CleanPass(make_pair(), one, 2).share(count) for one in processes]
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_images_of_different_sizes(tmp_path: Path, workers: int) -> None:
    """Guards against rows that change places when a batch is divided by size, and against labels of another image."""
    pair, made = make_pair("segformer", "segformer"), scenes(5)
    for row in (1, 3):
        made[row] = {"image": made[row]["image"].resize((24, 16)), "mask": None}
    loop = CleanPass(pair, Accelerator(cpu=True), 3, num_workers=workers)
    seen: dict[int, Any] = {}
    for part in loop.run(made, title="", shorter_side=16):
        for position, row in enumerate(part.index):
            seen[row] = part.logits["a"][position], part.truth[position], part.sizes[position]
    assert sorted(seen) == list(range(5))
    pair.eval()
    for row, (logits, truth, size) in seen.items():
        alone = next(iter(loop.run([made[row]], title="", shorter_side=16)))
        assert logits.shape[-2:] == size == ((16, 24) if row in (1, 3) else (16, 16))
        assert (truth is None) == (row in (1, 3))
        assert torch.allclose(logits, alone.logits["a"][0], atol=1e-5)


def test_stored_pixels_keep_the_ratio_of_every_class(tmp_path: Path) -> None:
    """Guards against thresholds over all classes together, and a summary that counts other labels than those trained
    on."""
    pair, unlabeled = make_pair("segformer", "segformer"), scenes(6, seed=1)
    facts = {"phase": 1, "ratio": 0.5}
    loop = CleanPass(pair, Accelerator(cpu=True), 4)
    label_pass.label_pixels(loop, unlabeled, tmp_path, knobs=Knobs(), facts=facts)
    for name in ("a", "b"):
        store = PixelLabels.read(tmp_path / name)
        unfiltered = np.concatenate([store.codes(row)[0].ravel() for row in range(6)])
        selected = np.concatenate([store.selected(row)[0].ravel() for row in range(6)])
        truth = np.concatenate([item["mask"].ravel() for item in unlabeled])
        summary = read_manifest(tmp_path / name)["summary"]
        kept = selected != -100
        for label in np.unique(unfiltered):
            # A ratio of every class is kept, more only where the next confidence is tied.
            assert kept[unfiltered == label].mean() >= 0.5 - 1 / (unfiltered == label).sum()
        assert summary["selected"] == pytest.approx(kept.mean())
        assert summary["class_counts"] == np.bincount(selected[kept], minlength=CLASSES).tolist()
        scored = kept & (truth != -100)
        assert summary["accuracy"] == pytest.approx((selected[scored] == truth[scored]).mean())


def test_images_without_a_label_are_not_scored(tmp_path: Path) -> None:
    """Guards against -1 (the Hub's mark for "no label") counting as a wrong label when it is a NumPy or torch
    scalar."""
    unlabeled = [
        {**item, "label": kind(-1)} for item, kind in zip(images(3), (int, np.array, torch.tensor), strict=True)
    ]
    loop = CleanPass(make_pair(), Accelerator(cpu=True), 4)
    truth = [part.truth for part in loop.run(unlabeled, title="")]
    assert truth == [[None, None, None]]


def test_a_run_that_overwrites_another_labels_anew(tmp_path: Path) -> None:
    """Guards against a second run in the folder, with another selection, that trains on the labels of the first."""

    def written(**settings: Any) -> tuple[int, bool]:
        settings = {"label_ratios": [0.3], "supervised_epochs": 0, "max_steps": 1, **settings}
        make_trainer(tmp_path, overwrite_output_dir=True, **settings).train()
        folder = tmp_path / "pseudo_labels" / "phase-1" / "a"
        return (folder / "manifest.json").stat().st_mtime_ns, read_manifest(folder)["class_balanced"]

    first, second = written(), written(class_balanced=False)
    assert second[0] > first[0] and (first[1], second[1]) == (True, False)


def test_another_pair_labels_again(tmp_path: Path) -> None:
    """Guards against labels of other weights that an earlier run left in the folder."""
    stores = []
    for seed in (0, 1):
        settings = {"label_ratios": [1.0], "supervised_epochs": 0, "max_steps": 1, "overwrite_output_dir": True}
        make_trainer(tmp_path, make_pair(seed=seed), **settings).train()
        stores.append(ImageLabels.read(tmp_path / "pseudo_labels" / "phase-1" / "a").confidence)
    assert not np.array_equal(*stores)


@pytest.mark.parametrize("keep", ["last", "all"])
@pytest.mark.parametrize("kind", ["vit", "segformer"])
def test_labels_of_finished_phases_go(keep: str, kind: str, tmp_path: Path) -> None:
    """Guards against a disk that fills up by gigabytes per phase, and against deleting labels that should be kept."""
    make_trainer(tmp_path, make_pair(kind, kind), max_steps=1, keep_pseudo_labels=keep).train()
    left = [1, 2] if keep == "all" else [2]
    assert sorted(path.name for path in (tmp_path / "pseudo_labels").iterdir()) == [f"phase-{n}" for n in left]
    for number in left:
        assert all(read_manifest(tmp_path / "pseudo_labels" / f"phase-{number}" / name) for name in "ab")


def test_killed_while_labeling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against half a label store that counts as complete: the labels of a are written, those of b are not."""
    whole = tmp_path / "whole"
    make_trainer(whole, save_strategy="epoch").train()

    def killed(self: ImageLabels, target: Path, *rest: Any) -> None:
        if target.parts[-2:] == ("phase-1", "b"):
            raise Kill
        write(self, target, *rest)

    write = ImageLabels.write
    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(ImageLabels, "write", killed)
        make_trainer(tmp_path / "run", save_strategy="epoch").train()
    assert not label_pass.reusable(tmp_path / "run" / "pseudo_labels" / "phase-1", {"phase": 1})
    resumed = make_trainer(tmp_path / "run", save_strategy="epoch")
    resumed.train(resume_from_checkpoint=True)
    for name in ("a", "b"):
        one, two = (
            ImageLabels.read(folder / "pseudo_labels" / "phase-2" / name) for folder in (whole, tmp_path / "run")
        )
        assert one.confidence.tolist() == two.confidence.tolist()


def test_labels_are_made_by_the_weights_before_they_are_trained_on(tmp_path: Path) -> None:
    """Guards against BatchNorm in training mode while labeling: labels would depend on the batch, and the statistics
    would change."""
    pair = make_pair("vit", "resnet")
    before = state_of(pair)
    knobs, facts = Knobs(), {"phase": 1, "ratio": 1.0}
    confidences = []
    for size in (1, 5):
        pair.train()
        loop = CleanPass(pair, Accelerator(cpu=True), size)
        label_pass.label_images(loop, images(7), tmp_path / str(size), knobs=knobs, facts=facts)
        confidences.append(ImageLabels.read(tmp_path / str(size) / "b").confidence)
    assert confidences[0] == pytest.approx(confidences[1], abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert label_pass.read_summary(tmp_path / "5")["a"]["selected"] == 1.0
    assert label_pass.reusable(tmp_path / "5", facts)
    for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
        (tmp_path / "5" / old).rename(tmp_path / "5" / new)
    assert not label_pass.reusable(tmp_path / "5", facts), "each member would learn from itself"


def test_partial_truth_is_scored_where_it_is(tmp_path: Path) -> None:
    """Guards against counting unknown labels as wrong."""
    made = images(6)
    for row in (0, 1, 2):
        del made[row]["label"]
    trainer = make_trainer(tmp_path, unlabeled=made, label_ratios=[1.0], supervised_epochs=0, max_steps=1)
    trainer.train()
    stored = ImageLabels.read(tmp_path / "pseudo_labels" / "phase-1" / "a")
    expected = np.mean([stored.labels[row] == made[row]["label"] for row in (3, 4, 5)])
    assert results(tmp_path)["phases"][0]["pseudo_labels"]["a"]["accuracy"] == pytest.approx(expected)


def test_a_run_killed_between_phases_labels_once(tmp_path: Path) -> None:
    """Guards against log entries about the labels that appear twice after a kill and a resume."""
    with pytest.raises(Kill):
        make_trainer(tmp_path, save_strategy="epoch", callbacks=[KillAt(4)]).train()
    make_trainer(tmp_path, save_strategy="epoch").train(resume_from_checkpoint=True)
    keys = [(line["step"], line["phase"], *sorted(line)) for line in telemetry(tmp_path)]
    assert len(keys) == len(set(keys))
