"""Pseudo labels on the Hub: read back with `load_dataset`, with a card that says what they are."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard, HfApi

from hf_dmt.commands import push
from hf_dmt.data.files import write_json
from hf_dmt.data.labels.pseudo_labels import ImageLabels, PixelLabels
from hf_dmt.hub.label_set import push_labels
from hf_dmt.hub.repository import HubError
from tests.hub_server import HubServer
from tests.training.small_runs import images, make_pair, make_trainer, results, scenes

MINE = "hf_mine"


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_trainer(folder, make_pair("vit", "resnet"), evaluation=images(6), keep_pseudo_labels="all").train()
    return folder


@pytest.fixture(scope="module")
def graph_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    make_trainer(folder, make_pair("vit", "resnet"), labeler="graph", label_ratios=[0.5]).train()
    return folder


@pytest.fixture(scope="module")
def pixel_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    unlabeled = scenes(9, seed=1).without_truth()
    make_trainer(folder, make_pair("segformer", "segformer"), unlabeled=unlabeled, keep_pseudo_labels="all").train()
    return folder


def loaded(name: str, cache: Path, revision: str | None = None) -> datasets.Dataset:
    return datasets.load_dataset("me/labels", name, split="train", revision=revision, token=MINE, cache_dir=str(cache))


def text_of_card(hub: HubServer) -> str:
    return hub.repo("me/labels", "dataset").files()["README.md"].decode()


def test_labels_of_images_come_back_as_they_were_made(hub: HubServer, image_run: Path, tmp_path: Path) -> None:
    """Guards against labels of one model under the name of the other, and against classes that lose their names."""
    push_labels(image_run, "me/labels", token=MINE, pair="me/pair", license="mit", private=True, tag="v1")
    repo = hub.repo("me/labels", "dataset")
    assert repo.private and len(repo.commits) == 2 and repo.tags["v1"].oid == repo.at("main").oid
    for name in "ab":
        stored = ImageLabels.read(image_run / "pseudo_labels" / "phase-2" / name)
        rows = loaded(name, tmp_path)
        assert rows.features["label"].names == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert rows["id"][:] == [str(row) for row in range(12)]
        np.testing.assert_array_equal(rows["label"][:], stored.labels)
        np.testing.assert_array_equal(np.float32(rows["confidence"][:]), stored.confidence)
        np.testing.assert_array_equal(rows["kept"][:], stored.selected)
    assert not list(image_run.glob("_push-*"))


def test_labels_of_pixels_come_back_as_they_were_made(hub: HubServer, pixel_run: Path, tmp_path: Path) -> None:
    """Guards against class ids that an image format changes, and against a choice of pixels that ignores the stored
    thresholds."""
    push_labels(pixel_run, "me/labels", token=MINE, phase=1)
    for name in "ab":
        store = PixelLabels.read(pixel_run / "pseudo_labels" / "phase-1" / name)
        rows = loaded(name, tmp_path)
        assert len(rows) == 9
        for row, item in enumerate(rows):
            labels, _ = store.codes(row)
            kept, confidence = store.selected(row)
            np.testing.assert_array_equal(np.asarray(item["label"]), labels)
            np.testing.assert_array_equal(np.asarray(item["kept"]) == 255, kept != -100)
            np.testing.assert_allclose(np.asarray(item["confidence"]) / 255, confidence, atol=0.5 / 255 + 1e-6)
        assert 0 < sum((np.asarray(item["kept"]) == 255).mean() for item in rows) / 9 < 1


def test_labels_of_a_graph_are_published_with_the_run_that_learned_from_them(
    hub: HubServer, graph_run: Path, image_run: Path, tmp_path: Path
) -> None:
    """Guards against publishing, for a run with `--labeler graph`, the labels that the models did not learn from as
    those they did, and against the graph's labels staying beside the labels of a later run without one."""
    push_labels(graph_run, "me/labels", token=MINE)
    rows = loaded("graph", tmp_path)
    stored = ImageLabels.read(graph_run / "pseudo_labels" / "phase-1" / "graph")
    np.testing.assert_array_equal(rows["label"][:], stored.labels)
    np.testing.assert_array_equal(rows["kept"][:], stored.selected)
    card = DatasetCard(text_of_card(hub))
    assert [entry["config_name"] for entry in card.data.to_dict()["configs"]] == ["a", "b", "graph"]
    assert "Both models learned from `graph`" in card.content and "| `graph` | the graph |" in card.content
    push_labels(image_run, "me/labels", token=MINE)
    assert not [name for name in hub.repo("me/labels", "dataset").files() if name.startswith("graph/")]
    assert "graph" not in text_of_card(hub)


@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_the_card_says_what_they_are_and_shows_figures_of_this_run_only(
    hub: HubServer, image_run: Path, pixel_run: Path, kind: str
) -> None:
    """Guards against machine-made labels that are taken for checked ones, and against an accuracy that nobody
    measured."""
    run = image_run if kind == "images" else pixel_run
    push_labels(run, "me/labels", token=MINE, phase=1, pair="me/pair")
    card = DatasetCard(text_of_card(hub))
    assert card.data.annotations_creators == ["machine-generated"]
    assert card.data.task_categories == ["image-classification" if kind == "images" else "image-segmentation"]
    assert [entry["config_name"] for entry in card.data.to_dict()["configs"]] == ["a", "b"]
    assert "These labels are machine-made" in card.content and "me/pair" in card.content
    facts = json.loads(hub.repo("me/labels", "dataset").files()["dmt_labels.json"])
    made = results(run)["phases"][1]["pseudo_labels"]
    for name in "ab":
        member = facts["makers"][name]
        shown = [f"{100 * made[name]['selected']:.1f}", "–"]
        if kind == "images":
            shown[1] = f"{100 * made[name]['accuracy']:.1f}"
            stored = ImageLabels.read(run / "pseudo_labels" / "phase-1" / name)
            for label, lowest in enumerate(member["lowest_confidence_kept"]):
                kept = stored.confidence[stored.selected & (stored.labels == label)]
                assert lowest == (pytest.approx(kept.min()) if len(kept) else None)
        assert " | ".join(shown) + " |" in next(line for line in card.content.splitlines() if f"| `{name}` |" in line)
        assert member["accuracy"] == made[name]["accuracy"]
        assert member["kept_per_class"] == made[name]["class_counts"]
    assert facts["phase"] == 1 and facts["label_ratio"] == 0.5
    assert ("How many labels are right is unknown" in card.content) == (kind == "pixels")


def test_one_command_does_it_and_a_second_one_replaces_the_first(
    hub: HubServer, image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against labels of two phases side by side in one repository, which would be read as one set."""
    monkeypatch.setenv("HF_TOKEN", MINE)
    for phase in ("1", "2"):
        where = ["--labels", "--phase", phase, "--tag", f"phase-{phase}"]
        assert push.main([str(image_run), "me/labels", *where]) == 0
    assert "/datasets/me/labels/commit/" in capsys.readouterr().out
    kept = [sum(loaded("a", tmp_path, revision=f"phase-{phase}")["kept"][:]) for phase in (1, 2)]
    assert kept == [6, 12]
    assert sorted(hub.repo("me/labels", "dataset").files())[1:] == [
        "README.md", "a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet", "dmt_labels.json",
    ]  # fmt: skip


def test_the_card_names_the_owner_also_if_the_command_did_not(hub: HubServer, image_run: Path) -> None:
    """Guards against an example in the card that loads the labels of nobody."""
    push_labels(image_run, "labels", token=MINE)
    assert 'load_dataset("me/labels"' in text_of_card(hub)


def test_what_cannot_be_published_is_said(
    hub: HubServer, image_run: Path, pixel_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Guards against labels under the ids of other images, half a label store, and overwriting somebody's data set of
    the same name."""
    with pytest.raises(HubError, match="no labels of phase 7; the folder contains those of 1, 2"):
        push_labels(image_run, "me/labels", token=MINE, phase=7)
    with pytest.raises(HubError, match="made from other images than the 9 ids"):
        push_labels(pixel_run, "me/labels", token=MINE, ids=[str(row) for row in range(8, -1, -1)])
    write_json(tmp_path / "dmt_results.json", results(image_run))
    with pytest.raises(HubError, match="has no pseudo_labels/"):
        push_labels(tmp_path, "me/labels", token=MINE)
    for name in "ab":
        (tmp_path / "pseudo_labels" / "phase-1" / name).mkdir(parents=True)
    monkeypatch.setenv("HF_TOKEN", MINE)
    assert push.main([str(tmp_path), "me/labels", "--labels"]) == 1
    assert "not complete" in capsys.readouterr().err
    api = HfApi(token=MINE)
    api.create_repo("me/images", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="train.parquet", repo_id="me/images", repo_type="dataset")
    with pytest.raises(HubError, match="contains another data set"):
        push_labels(image_run, "me/images", token=MINE)
    assert not hub.calls("/api/datasets/me/labels/commit/")
    for flags in (["--private"], ["--revision", "x"], ["--tag", "x"]):
        assert push.main([str(image_run), "me/labels", "--card", *flags]) == 2
        assert f"{flags[0]} is for a push, and --card publishes nothing" in capsys.readouterr().err


def test_a_large_set_is_written_in_shards(
    hub: HubServer, image_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against rows that are lost or doubled between two shards."""
    monkeypatch.setattr("hf_dmt.hub.label_set._SHARD_BYTES", 100)
    push_labels(image_run, "me/labels", token=MINE)
    shards = [name for name in hub.repo("me/labels", "dataset").files() if name.startswith("a/")]
    assert len(shards) > 1
    assert loaded("a", tmp_path)["id"][:] == [str(row) for row in range(12)]
