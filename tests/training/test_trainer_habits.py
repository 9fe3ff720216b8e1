"""What users of the stock Trainer do out of habit: each works here, or is one message that says what to do instead."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from sklearn.metrics import f1_score
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair
from hf_dmt.training.inputs import search
from hf_dmt.training.inputs.streams import saved_stream
from hf_dmt.training.pair_trainer import PairTrainer
from hf_dmt.training.run.runtime_errors import RunError
from tests.training.metric_modules import write_metric
from tests.training.small_runs import (
    SETTINGS,
    Kill,
    KillAt,
    assert_same,
    images,
    make_pair,
    make_trainer,
    results,
    scenes,
    state_of,
    telemetry,
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data_collator": default_data_collator}, "does not support data_collator: a batch contains a view for a"),
        ({"processing_class": object()}, "does not support processing_class: each model has its own"),
        ({"optimizers": (None, object())}, "does not support optimizers: each phase starts"),
        ({"compute_loss_func": len}, "does not support compute_loss_func: the method defines the loss"),
        ({"preprocess_logits_for_metrics": len}, "does not support preprocess_logits_for_metrics"),
        ({"args": TrainingArguments("x", use_cpu=True)}, "needs DMTTrainingArguments, got a TrainingArguments"),
        ({"args": None}, "needs DMTTrainingArguments, got no args"),
        ({"model": None}, "got neither"),
        ({"model_init": make_pair}, "got both"),
        ({"model": None, "model_init": lambda: make_pair().model_a}, "returned a ViTForImageClassification"),
        ({"eval_dataset": {}}, "an empty dictionary"),
        ({"eval_dataset": {"x": None}}, r"eval_dataset\['x'\] contains no images"),
        ({"eval_dataset": {0: images(3)}}, "eval_dataset has the name 0, but must have strings"),
        ({"eval_dataset": []}, "eval_dataset contains no images"),
        ({"compute_metrics": "f1"}, "compute_metrics is 'f1', but must be a function"),
        ({"callbacks": TrainerCallback()}, "callbacks is a TrainerCallback, but must be a list"),
        ({"callbacks": [EarlyStoppingCallback]}, "EarlyStoppingCallback would stop the run in the middle"),
        ({"model": None, "model_init": "tiny:vit"}, "model_init is 'tiny:vit', but must be a function"),
        ({"train_dataset": {"train": images(3)}}, r"train_dataset is a dict of train.*dataset\['train'\]"),
        ({"train_dataset": 5}, "train_dataset is a int, not a set of images"),
        (
            {"train_dataset": pd.DataFrame({"image": [1]})},
            r"is a DataFrame that has no item 0 \(KeyError",
        ),
        ({"unlabeled_dataset": [{"img": 1}]}, r"Item 0 of unlabeled_dataset has the keys \['img'\], but no 'image'"),
        (
            {"unlabeled_dataset": [{**images(1)[0], "label": label} for label in (None, -1, 9, "red")]},
            "Item 3 of unlabeled_dataset has the label 'red'",
        ),
        ({"unlabeled_dataset": iter(images(3))}, r"is a list_iterator, which can be read once only. Give list\("),
        ({"eval_dataset": {"x": [{"image": 1}]}}, r"Item 0 of eval_dataset\['x'\]"),
        ({"train_dataset": [(1, 2)]}, r"Item 0 of train_dataset is a tuple, but .* for image, label in dataset\]"),
        (
            {"train_dataset": [{"pixel_values": 1, "label": 0}]},
            "The pair makes pixel_values itself.*omit the transform",
        ),
        ({"train_dataset": [{**images(1)[0], "label": None}]}, "has None as its 'label'.*Move images without one to"),
        ({"metrics": [3.5]}, "metrics has 3.5, a float"),
        ({"metrics": "f1"}, r"`metrics` is 'f1', but must be a list: metrics=\['f1'\]"),
    ],
)
def test_a_habit_that_cannot_work_is_one_message(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """Guards against a traceback from another library after phase 0, and against an argument that is accepted and
    ignored."""
    usual: dict[str, Any] = {
        "model": make_pair(),
        "args": DMTTrainingArguments(str(tmp_path), **SETTINGS),
        "train_dataset": images(3),
        "unlabeled_dataset": images(3),
    }
    with pytest.raises(ValueError, match=message):
        DMTTrainer(**{**usual, **given})
    with pytest.raises(TypeError, match="unexpected keyword argument 'trian_dataset'"):
        DMTTrainer(**usual, trian_dataset=images(3))


def test_ends_that_cannot_work_are_one_message(tmp_path: Path) -> None:
    """Guards against `finish()` of a new trainer replacing a finished run by untrained models and empty results, and
    against a traceback of the stock Trainer about a metric that compute_metrics does not return."""
    (tmp_path / "dmt_results.json").write_text("results of days")
    trainer = make_trainer(
        tmp_path,
        evaluation=images(3),
        compute_metrics=lambda predicted: {"f1": 1.0},
        max_steps=1,
        overwrite_output_dir=True,
        metric_for_best_model="f2",
        load_best_model_at_end=True,
        save_strategy="epoch",
    )
    with pytest.raises(ValueError, match="this trainer has not trained"):
        trainer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["dmt_results.json"]
    with pytest.raises(RunError, match=r"is 'f2', which compute_metrics .*There are \['eval_a_accuracy'"):
        trainer.train()
    with pytest.raises(
        ValueError, match=r"`accept_changes` is 'phases', but must be a list: accept_changes=\['phases'\]"
    ):
        DMTTrainingArguments(str(tmp_path), accept_changes="phases")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`greater_is_better=False` needs a `metric_for_best_model`"):
        DMTTrainingArguments(str(tmp_path), greater_is_better=False)


def test_a_finished_run_is_not_replaced_by_a_trainer_that_has_not_trained(tmp_path: Path) -> None:
    """Guards against `create_model_card()` or `save_model()` of a new trainer, as in a script whose training is
    switched off, that write an untrained pair over the trained one, and against scores of it in the run's telemetry."""
    trainer = make_trainer(tmp_path, evaluation=images(3), max_steps=1)
    trainer.train()
    trainer.finish()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    new = make_trainer(tmp_path, make_pair(seed=3), evaluation=images(3))
    new.evaluate()
    for write in (new.create_model_card, new.push_to_hub, new.save_model, new.export):
        with pytest.raises(ValueError, match=r"contains a run, but this trainer has not trained.*Name another folder"):
            write()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    new.export(tmp_path / "elsewhere")
    trainer.create_model_card()


def strict_json(text: str) -> Any:
    """The value of a JSON text; NaN, which only Python reads, is an error."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_figures_of_compute_metrics_do_not_replace_those_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against an accuracy in percent, or another use of a name, after which the results count as damaged and the
    run can neither finish nor be resumed, and against NaN in a JSON file."""
    own = {
        "accuracy": 80.0,
        "loss": -5.0,
        "confusions": 3.0,
        "mean_iou": 90.0,
        "auc": float("nan"),
        "f1": np.float32(0.5),
    }
    settings = {"evaluation": images(9), "compute_metrics": lambda predicted: own, "save_strategy": "epoch"}
    with caplog.at_level("WARNING"):
        trainer = make_trainer(tmp_path, **settings)
        trainer.train()
        trainer.finish()
    assert caplog.text.count("compute_metrics returned accuracy, confusions, loss, mean_iou: names of the") == 1
    found = strict_json((tmp_path / "dmt_results.json").read_text())["phases"][-1]["eval"]
    for name in ("a", "b", "ensemble"):
        assert found[name]["f1"] == 0.5 and found[name]["auc"] is None and 0 <= found[name]["accuracy"] <= 1
        assert "mean_iou" not in found[name] and isinstance(found[name]["confusions"], list)
    assert trainer.evaluate()["eval_loss"] > 0
    again = make_trainer(tmp_path, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    again.finish()


def test_the_card_takes_what_scripts_for_the_stock_trainer_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against a TypeError at the end of a run whose script passes `finetuned_from` and `tasks`, and against
    dropping them without a word."""
    trainer = make_trainer(tmp_path)
    with caplog.at_level("WARNING"):
        trainer.create_model_card(finetuned_from="x/y", tasks="image-classification", tags="mine", dataset="Birds")
    assert "takes finetuned_from, tasks from the pair" in caplog.text
    assert "mine" in ModelCard.load(tmp_path / "README.md").data.tags
    with pytest.raises(TypeError, match="licence"):
        trainer.create_model_card(licence="mit")


def test_a_batch_is_looked_at_before_training(tmp_path: Path) -> None:
    """Guards against a loader without batches, which looks like a data set without images, and against a traceback for
    a batch of the stock kind."""
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch.keys() == {"a", "b"} and len(trainer.get_train_dataloader()) == trainer.phases[0].steps
    assert trainer.compute_loss(trainer.model, batch).requires_grad
    with pytest.raises(ValueError, match=r"takes a batch of get_train_dataloader\(\).*got one of 'pixel_values'"):
        trainer.compute_loss(trainer.model, {"pixel_values": batch["a"]["pixel_values"]})
    with pytest.raises(ValueError, match=r"no images to score\. Give some: trainer\.evaluate\(images\)"):
        trainer.evaluate()
    trainer.create_model_card("en", "mit")
    assert ModelCard.load(tmp_path / "README.md").data.license == "mit"
    assert trainer.floating_point_ops({"pixel_values": batch["a"]["pixel_values"]}) > 0


class WithOwnOptimizer(DMTTrainer):
    """The usual way to choose an optimizer and a schedule of one's own."""

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5, momentum=0.9)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, 1, num_training_steps)
        return self.lr_scheduler


@pytest.mark.parametrize("kind", [DMTTrainer, WithOwnOptimizer])
def test_every_phase_begins_with_the_rates_of_the_optimizer(tmp_path: Path, kind: type[DMTTrainer]) -> None:
    """Guards against a subclass with an optimizer of its own, on which no phase can begin, and against phases that
    begin where the schedule stood when the optimizer was first seen, with a rate of zero under warmup."""
    settings = {"warmup_steps": 0.5, "max_steps": 4, "supervised_epochs": 4, "phase_epochs": 4, "logging_steps": 1}
    ends, seen = [], []
    for resumed in (False, True):
        folder = tmp_path / str(resumed)
        args = DMTTrainingArguments(str(folder), **{**SETTINGS, **settings, "save_strategy": "steps", "save_steps": 3})
        trainer = kind(make_pair(), args, images(12), images(12, seed=1))
        if resumed:
            trainer.add_callback(KillAt(7))
            with pytest.raises(Kill):
                trainer.train()
            trainer = kind(make_pair(seed=2), args, images(12), images(12, seed=1))
        trainer.train(resume_from_checkpoint=resumed)
        ends.append(state_of(trainer.model))
        seen.append([line["learning_rate"] for line in telemetry(folder) if "learning_rate" in line])
    assert_same(*ends)
    assert seen[0] == seen[1] and seen[0][:4] == seen[0][4:8] == seen[0][8:] and max(seen[0]) > 0


def test_masks_without_a_class_are_refused(tmp_path: Path) -> None:
    """Guards against a run that ends in its first evaluation with a message about the best metric."""
    void = [{**item, "mask": np.full_like(item["mask"], -100)} for item in scenes(2)]
    pair = make_pair("segformer", "segformer")
    for sets in ({"evaluation": {"x": void}}, {"labeled": void}):
        with pytest.raises(ValueError, match=r"masks of all 2 items of (eval_dataset\['x'\]|train_dataset) are ent"):
            make_trainer(tmp_path, pair, **sets)
    make_trainer(tmp_path, pair, evaluation=[void[0], *scenes(2)])


def test_masks_with_values_that_are_no_class_are_refused_at_once(tmp_path: Path) -> None:
    """Guards against a run that loads for minutes and then ends in its first update, with advice that does not exist in
    Python, and against pseudo labels that count as wrong where the truth is 255."""
    other = [{**item, "mask": np.where(item["mask"] == 0, 255, item["mask"])} for item in scenes(2)]
    pair = make_pair("segformer", "segformer")
    for role in ("labeled", "unlabeled", "evaluation"):
        with pytest.raises(
            ValueError, match=r"Label 255 in Item 0 of \w+_dataset is outside .*\[ids == 255\] = -100"
        ) as no:
            make_trainer(tmp_path, pair, **{role: other})
        assert "ignore_index" not in str(no.value)


def test_advice_for_masks_of_another_form_names_the_mask(tmp_path: Path) -> None:
    """Guards against advice for `(image, mask)` items that leads to the next error: for masks, `label` is no key."""
    pair, items = make_pair("segformer", "segformer"), scenes(2)
    with pytest.raises(
        ValueError, match=r"is a tuple.* \[\{'image': image, 'mask': mask\} for image, mask in dataset\]"
    ):
        make_trainer(tmp_path, pair, labeled=[tuple(item.values()) for item in items])
    renamed = [{"image": item["image"], "annotation": item["mask"]} for item in items]
    with pytest.raises(ValueError, match=r"no 'mask'.*dataset.rename_column\('annotation', 'mask'\)"):
        make_trainer(tmp_path, pair, labeled=renamed)


def named(*names: str) -> datasets.Dataset:
    """Labeled images whose label column has names."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_list(list(images(3)), features=features)


@pytest.mark.parametrize("features", [["image", "label"], np.zeros((12, 4)), torch.zeros(12, 4)])
def test_features_of_another_kind_are_left_alone(tmp_path: Path, features: Any) -> None:
    """Guards against a traceback for a data set whose `features` are not those of `datasets`, such as embeddings."""
    items = images(12)
    items.features = features  # type: ignore[attr-defined]
    make_trainer(tmp_path, labeled=items, evaluation=items)


@pytest.mark.parametrize("role", ["evaluation", "test", "unlabeled", "one of several", "part", "stream"])
def test_sets_that_number_their_classes_differently_are_refused(tmp_path: Path, role: str) -> None:
    """Guards against scoring every image as the wrong class if the names of the pair are only LABEL_0, LABEL_1, ..."""
    sets: dict[str, Any] = {role: named("z", "y", "x")}
    if role == "one of several":
        sets = {"evaluation": {"good": named("x", "y", "z"), "bad": named("z", "y", "x")}}
    if role == "part":  # of a set that torch joins without looking
        sets = {"evaluation": Subset(ConcatDataset([named("x", "y", "z"), named("z", "y", "x")]), [0, 1, 4])}
    if role == "stream":
        sets = {"unlabeled": named("z", "y", "x").to_iterable_dataset()}
    with pytest.raises(ValueError, match=r"calls class 0 'z', but in train_dataset 'z' is class 2.*align_labels_with"):
        make_trainer(tmp_path, labeled=named("x", "y", "z"), **sets)


def test_joined_sets_that_number_their_classes_differently_are_not_trained_on(tmp_path: Path) -> None:
    """Guards against learning the images of one data set under the names of the other's classes: `ConcatDataset` joins
    sets whatever their labels mean."""
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label=["x", "y", "z"], image_size=32)
    joined: Any = ConcatDataset([named("x", "y", "z"), named("z", "y", "x")])
    with pytest.raises(ValueError, match=r"train_dataset calls class 0 'z', but in the pair 'z' is class 2"):
        make_trainer(tmp_path, pair, labeled=joined)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (DataLoader(images(3), batch_size=None), "loader.dataset"),
        ({"image": [1], "label": [0]}, "a list with such a dictionary for each image"),
        ((item for item in images(3)), r"list\(train_dataset\)"),
        ([{**item, "label": 1} for item in images(3)], r"All 3 items of train_dataset have the label 1 \('\w+'\)"),
        ([{**item, "label": [item["label"]]} for item in images(3)], r"label\[0\]"),
        ([{**item, "label": torch.tensor([item["label"]])} for item in images(3)], r"label\[0\]"),
    ],
)
def test_advice_for_labeled_images_of_another_form_works(tmp_path: Path, given: Any, advice: str) -> None:
    """Guards against advice that is silently wrong: `argmax` of a label inside a list is 0, whatever the label is."""
    with pytest.raises(ValueError, match=advice):
        make_trainer(tmp_path, labeled=given)


def test_what_comes_later_is_one_message_too(tmp_path: Path) -> None:
    """Guards against a traceback from another library in the first evaluation, and against early stopping added
    later."""
    trainer = make_trainer(tmp_path, evaluation=images(3), compute_metrics=lambda predicted: {"f1": np.zeros(3)})
    with pytest.raises(ValueError, match=r"compute_metrics returned .*must return a dictionary of numbers"):
        trainer.evaluate()
    for given, message in (
        ("val", "There is no eval_dataset with the name 'val'"),
        ({"x": []}, r"eval_dataset\['x'\] contains no images"),
        ([{"image": images(1)[0]["image"], "label": 9}], "Item 0 of the data set to evaluate has label 9"),
        (Stream(), "the data set to evaluate is a Stream, which can only be read sequentially"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.evaluate(given)
    for given, message in (
        (None, "the data set to predict contains no images"),
        ([images(1)[0]["image"]], "Item 0 of the data set to predict is a Image"),
        ([{**images(1)[0], "label": "red"}], "Item 0 of the data set to predict has the label 'red'"),
        ([{**images(1)[0], "label": 9}], "Image 0 has label 9, but the pair has 3 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.predict(given)
    for stock in (trainer.get_eval_dataloader, trainer.get_test_dataloader, trainer.evaluation_loop):
        with pytest.raises(ValueError, match=r"own image processor\. Call trainer\.evaluate\(images\) for scores, or"):
            stock(images(3))
    trainer.add_callback(EarlyStoppingCallback())
    with pytest.raises(ValueError, match="EarlyStoppingCallback would stop"):
        trainer.train()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unlabeled_dataset", images(5, seed=9)),
        ("eval_dataset", images(5)),
        ("train_dataset", images(5)),
        ("model", make_pair(seed=1)),
        ("args.gamma1", 1.0),
        ("args.supervised_epochs", 9),
        ("args.num_train_epochs", 9),
        ("args.output_dir", "elsewhere"),
    ],
)
def test_what_is_set_after_the_trainer_was_built_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    """Guards against labels of new unlabeled images that are given to the former ones, and against a setting that is
    recorded but has no effect."""
    trainer = make_trainer(tmp_path, evaluation=images(3))
    owner, attribute = (trainer.args, name.removeprefix("args.")) if "." in name else (trainer, name)
    setattr(owner, attribute, value)
    with pytest.raises(ValueError, match=f"^{name} was set after the trainer was built.*Build a new DMTTrainer"):
        trainer.train()


def test_arguments_that_are_set_later_are_checked_too(tmp_path: Path) -> None:
    """Guards against `args.num_train_epochs = 5` and `args.freeze_backbone = True` that have no effect, because the
    stock class checks and derives settings only when it is made."""

    def built(**later: Any) -> DMTTrainer:
        args = DMTTrainingArguments(str(tmp_path), **SETTINGS)
        for name, value in later.items():
            setattr(args, name, value)
        return DMTTrainer(make_pair(), args, images(3), images(3), eval_dataset=images(3))

    with pytest.raises(ValueError, match=r"`num_train_epochs` 5 is not supported"):
        built(num_train_epochs=5)
    with pytest.raises(ValueError, match=r"`member_schedule` 'none' does not exist"):
        built(member_schedule="none")
    assert built(freeze_backbone=True).args.train == "head"
    assert built(metric_for_best_model="loss").args.metric_for_best_model == "loss"
    trainer = built(report_to="none")
    assert trainer.args.report_to == [] and trainer.args.metric_for_best_model == "eval_accuracy"
    trainer.args.output_dir = str(tmp_path / "next")
    sets = {"near": images(3)}
    again = DMTTrainer(make_pair(), trainer.args, images(3), images(3), eval_dataset=sets)
    assert again.args.metric_for_best_model == "eval_near_accuracy", "the default follows the eval sets"
    assert not any(name.endswith("_token") for name in again.args._checked)


def test_a_folder_that_cannot_be_used_or_has_files_of_others_is_refused(tmp_path: Path) -> None:
    """Guards against a README or checkpoint of the user that the finished pair replaces, and against a FileExistsError
    of the stock Trainer."""
    (tmp_path / "README.md").write_text("my notes")
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"contains README\.md, which no run of hf_dmt wrote"):
        trainer.train()
    with pytest.raises(ValueError, match=r"README\.md' is a file, but a run needs a folder"):
        make_trainer(tmp_path / "README.md")
    with pytest.raises(ValueError, match="`output_dir` is empty"):  # and not a FileNotFoundError of ''
        DMTTrainer(make_pair(), DMTTrainingArguments("", use_cpu=True), images(3), images(3))
    make_trainer(tmp_path, max_steps=1, overwrite_output_dir=True).train()


class Stream(IterableDataset[dict[str, Any]]):
    """Twelve unlabeled images that come one after the other."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from images(12, seed=1)


class Items(IterableDataset[dict[str, Any]]):
    """Three images and labels as tensors; the first has no label."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for item in images(3):
            pixels = torch.from_numpy(np.asarray(item["image"]).copy()).permute(2, 0, 1)
            yield {"image": pixels, "label": torch.tensor(item["label"]) if item["label"] else None}


@pytest.mark.parametrize("kind", ["torch", "datasets"])
def test_a_stream_of_unlabeled_images_is_saved_once(tmp_path: Path, kind: str) -> None:
    """Guards against `len()` of a stream in the middle of a run, and against other images than the stream had."""
    stream: Any = (
        Stream() if kind == "torch" else datasets.Dataset.from_list(list(images(12, seed=1))).to_iterable_dataset()
    )
    trainer = make_trainer(tmp_path, unlabeled=stream)
    saved = trainer.unlabeled_dataset
    assert len(saved) == 12 and saved[7]["label"] == images(12, seed=1)[7]["label"]
    assert np.array_equal(np.asarray(saved[7]["image"]), np.asarray(images(12, seed=1)[7]["image"]))
    stored = saved_stream(Items(), "unlabeled_dataset")
    assert stored["label"] == [None, 1, 2], "a label is not lost because the first image has none, or it is a tensor"
    assert np.array_equal(np.asarray(stored[1]["image"]), np.asarray(images(3)[1]["image"]))
    with pytest.raises(ValueError, match=r"train_dataset is a .*can only be read sequentially"):
        make_trainer(tmp_path, labeled=stream)
    with pytest.raises(ValueError, match=r"eval_dataset is a .*can only be read sequentially"):
        make_trainer(tmp_path, evaluation=stream)
    with pytest.raises(ValueError, match="unlabeled_dataset is a stream that has items"):
        make_trainer(tmp_path, unlabeled=datasets.Dataset.from_dict({"img": [1]}).to_iterable_dataset())


def test_several_eval_sets_and_library_metrics_are_in_the_results(tmp_path: Path) -> None:
    """Guards against a second eval set, or a metric, that is scored in one place and missing in the others."""
    sets = {"easy": images(9, seed=2), "hard": images(6, seed=3)}
    f1 = write_metric(tmp_path, "f1")
    trainer = make_trainer(tmp_path / "run", evaluation=sets, metrics=[f"{f1}:average=macro"])
    trainer.train()
    figures = trainer.evaluate()
    phases = results(tmp_path / "run")["phases"]
    for name in sets:
        for key in ("accuracy", "f1"):
            both = [figures[f"eval_{name}_{member}_{key}"] for member in "ab"]
            assert figures[f"eval_{name}_{key}"] == pytest.approx(sum(both) / 2)
    for name, images_in_set in (("easy", 9), ("hard", 6)):  # the stock figures of speed, of the right number of images
        seconds, speed = (figures[f"eval_{name}_{what}"] for what in ("runtime", "samples_per_second"))
        assert seconds * speed == pytest.approx(images_in_set, rel=0.05)
    assert trainer.args.metric_for_best_model == "eval_easy_accuracy"
    assert results(tmp_path / "run")["num_eval"] == 9
    last = phases[-1]
    assert last["eval"]["a"]["f1"] == pytest.approx(figures["eval_easy_a_f1"])
    assert last["eval_sets"]["hard"]["ensemble"]["f1"] == pytest.approx(figures["eval_hard_ensemble_f1"])


def test_predictions_are_scored_without_a_second_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against counting images labeled -1 as wrong, and against a second forward pass for scores already
    known."""
    trainer = make_trainer(tmp_path, metrics=[write_metric(tmp_path, "f1") + ":average=macro"])
    asked = images(9, seed=4)
    asked[2]["label"], asked[5]["label"] = -1, None
    monkeypatch.setattr(trainer, "scores", None)
    output = trainer.predict(asked)
    known = np.array([row not in (2, 5) for row in range(9)])
    truth = np.array([row % 3 for row in range(9)])
    assert output.label_ids.tolist() == np.where(known, truth, -100).tolist()
    guess = output.predictions["a"].argmax(1)
    assert output.metrics["test_a_accuracy"] == pytest.approx((guess == truth)[known].mean())
    assert output.metrics["test_a_f1"] == pytest.approx(f1_score(truth[known], guess[known], average="macro"))
    nothing = trainer.predict(images(4).without_truth())
    assert nothing.label_ids is None and nothing.metrics == {}


class CountTrainings(TrainerCallback):
    """Counts how many trainings begin."""

    begun = 0

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        self.begun += 1


def test_search_runs_each_trial_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against trials that all train with the settings of the first, overwrite each other's results, or score the
    eval set again although the scores are known."""
    scored: list[str] = []
    evaluate = DMTTrainer.evaluate
    monkeypatch.setattr(
        DMTTrainer,
        "evaluate",
        lambda self, *sets, **how: scored.append(self.args.output_dir) or evaluate(self, *sets, **how),
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trainer = DMTTrainer(
        args=DMTTrainingArguments(str(tmp_path), **{**SETTINGS, "label_ratios": [1.0], "supervised_epochs": 1}),
        train_dataset=images(12),
        unlabeled_dataset=images(12, seed=1),
        eval_dataset=images(9, seed=2),
        model_init=make_pair,
    )
    count = CountTrainings()
    trainer.add_callback(count)
    best = trainer.hyperparameter_search(
        lambda trial: {
            "gamma1": trial.suggest_categorical("gamma1", [1.0, 7.0]),
            "supervised_epochs": trial.suggest_float("supervised_epochs", 1, 3),
        },
        n_trials=3,
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    runs = [results(tmp_path / f"run-{number}") for number in range(3)]
    assert len({run["knobs"]["supervised_epochs"] for run in runs}) == 3
    assert len({run["phases"][0]["steps"] for run in runs}) > 1
    scores = [np.mean([run["phases"][-1]["eval"][name]["accuracy"] for name in "ab"]) for run in runs]
    assert best.objective == pytest.approx(max(scores))
    assert count.begun == 3, "a callback that was added later watches the trials, too"
    assert len(scored) == sum(len(run["phases"]) for run in runs), "once at the end of each phase"
    assert best.hyperparameters["gamma1"] == runs[int(best.run_id)]["knobs"]["gamma1"]
    with pytest.raises(ValueError, match="hp_space suggests gama1"):
        trainer.hyperparameter_search(lambda trial: {"gama1": 1.0}, n_trials=1)
    with pytest.raises(ValueError, match=r"hp_space returned 0\.5, but a dictionary is needed"):
        trainer.hyperparameter_search(lambda trial: 0.5, n_trials=1)
    with pytest.raises(ValueError, match="`seed` must be finite and at least 0, got -1"):
        trainer.hyperparameter_search(lambda trial: {"seed": -1}, n_trials=1)


def test_a_trial_has_the_settings_that_follow_from_its_own(tmp_path: Path) -> None:
    """Guards against setting `freeze_backbone` after `train` was derived from it, where it has no effect."""
    args = DMTTrainingArguments(str(tmp_path), **SETTINGS)
    trial = search.trial_arguments(args, {"freeze_backbone": True, "label_ratios": [0.5]}, 3)
    assert trial.train == "head" and trial.label_ratios == (0.5,) and trial.output_dir == str(tmp_path / "run-3")
    assert (args.train, args.output_dir, trial.metric_is_default) == ("all", str(tmp_path), True)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("loss", ("eval_loss", "minimize")),
        ("eval_a_loss", ("eval_a_loss", "minimize")),
        ("a_accuracy", ("eval_a_accuracy", "maximize")),
    ],
)
def test_a_search_for_a_loss_looks_for_the_smallest(tmp_path: Path, metric: str, expected: tuple[str, str]) -> None:
    """Guards against a search that reports the trial with the largest loss as the best, and against a name without
    `eval_` that ends the search with a KeyError after its first run."""
    args = DMTTrainingArguments(str(tmp_path), **SETTINGS, metric_for_best_model=metric)
    assert search.default_objective(args, None) == expected
    assert search.default_objective(args, len)[1] == "maximize", "the user's own objective"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"hp_space": None}, "needs hp_space"),
        ({}, {"backend": "ray"}, "only 'optuna' is supported"),
        ({"eval_dataset": None}, {}, "there is none"),
        ({"model": make_pair(), "model_init": None}, {}, "with model_init=lambda"),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    """Guards against a search over the stock space, whose num_train_epochs has no effect here."""
    given: dict[str, Any] = {
        "args": DMTTrainingArguments(str(tmp_path), **SETTINGS),
        "train_dataset": images(3),
        "unlabeled_dataset": images(3),
        "eval_dataset": images(3),
        "model_init": make_pair,
    }
    with pytest.raises(ValueError, match=message):
        DMTTrainer(**{**given, **change}).hyperparameter_search(**{"hp_space": lambda trial: {}, **options})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("steps", 500, "steps", 500)),
        ({"eval_strategy": "steps", "eval_steps": 3}, ("steps", 3, "steps", 3)),
        ({"eval_strategy": "epoch"}, ("epoch", None, "epoch", 500)),
        ({"save_steps": 4}, ("steps", 4, "steps", 4)),
        ({"save_strategy": "epoch"}, ("epoch", 500, "epoch", 500)),
    ],
)
def test_the_best_pair_can_be_asked_for_alone(tmp_path: Path, given: dict[str, Any], expected: Any) -> None:
    """Guards against the stock error that evaluation and saving differ, shown to a user who set neither."""
    args = DMTTrainingArguments(str(tmp_path), use_cpu=True, load_best_model_at_end=True, **given)
    assert (args.eval_strategy, args.eval_steps, args.save_strategy, args.save_steps) == expected
    with pytest.raises(ValueError, match="`save_strategy='no'` turns them off"):
        DMTTrainingArguments(str(tmp_path), use_cpu=True, load_best_model_at_end=True, save_strategy="no")


def test_masks_have_library_metrics_too(tmp_path: Path) -> None:
    """Guards against `--metrics` that works only for image labels."""
    metrics = [write_metric(tmp_path, "f1") + ":average=micro"]
    trainer = make_trainer(tmp_path, make_pair("segformer", "segformer"), evaluation=scenes(4, seed=2), metrics=metrics)
    figures = trainer.evaluate()
    # Over pixels with one class each, micro F1 is the share of right ones.
    assert figures["eval_a_f1"] == pytest.approx(figures["eval_a_overall_accuracy"])


def test_both_forms_of_a_pair_are_one(tmp_path: Path) -> None:
    """Guards against the stock `train()` making a second pair with `model_init` and training that, while the first one
    is saved."""
    given = {"train_dataset": images(6), "unlabeled_dataset": images(6, seed=1)}
    args = [DMTTrainingArguments(str(tmp_path / name), **SETTINGS, max_steps=1) for name in ("one", "two")]
    one = DMTTrainer(make_pair(), args[0], **given)
    two = DMTTrainer(args=args[1], model_init=lambda: make_pair(), **given)
    assert isinstance(two.model, ModelPair)
    made = two.model
    for trainer in (one, two):
        trainer.train()
        trainer.export()
    assert two.model is made, "the one that the run's weights, averages and checkpoints belong to"
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_trainer_has_two_storeys() -> None:
    """Guards against a third class between the stock Trainer and ours: a method could be in any of four files."""
    assert DMTTrainer.__mro__[1:3] == (PairTrainer, Trainer)


# Private methods of our own; every other one replaces a method of the stock Trainer.
HELPERS = {
    *("_begin_draws", "_evaluate_set", "_open_phase", "_is_online"),
}
# What scripts call, and nothing else.
PUBLIC = {"create_model_card", "hyperparameter_search", "predict", "train", "push_to_hub"}


def test_every_override_replaces_what_the_stock_trainer_calls() -> None:
    """Guards against an override that is never called again after a renaming in transformers: the models would be
    clipped by their joint norm, or a resume would leave most weights unloaded."""
    source = inspect.getsource(inspect.getmodule(Trainer))  # type: ignore[arg-type]
    ours = {name: method for kind in (PairTrainer, DMTTrainer) for name, method in vars(kind).items()}
    ours = {name: method for name, method in ours.items() if inspect.isfunction(method)}
    assert {name for name in ours if name.startswith("_") and not hasattr(Trainer, name)} == HELPERS
    for name in ours.keys() & vars(Trainer).keys() - {"__init__"}:
        assert name in PUBLIC or re.search(rf"\b(self|trainer)\.{name}\b", source), f"nothing calls {name}"
        stock, own = (inspect.signature(method).parameters for method in (getattr(Trainer, name), ours[name]))
        takes_more = any(one.kind is one.VAR_KEYWORD for one in own.values())
        assert len(own) >= len(stock) or takes_more, f"{name} is called with {list(stock)}"
