"""`DMTTrainer` on tiny pairs: what the stock Trainer would do wrong without a message."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from safetensors.torch import load_file
from small_runs import (
    CLASSES,
    IMAGES,
    PIXELS,
    assert_same,
    config,
    images,
    make_pair,
    make_trainer,
    processor,
    results,
    same_weights_on,
    scenes,
    state_of,
    telemetry,
)
from transformers import AutoModelForImageClassification, EarlyStoppingCallback, EvalPrediction, TrainerCallback

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair, dynamic_weights
from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.models.weights.ema import ExponentialAverage
from hf_dmt.training.inputs.checks import check_processes, check_sharding
from hf_dmt.training.settings.methods import PRESETS

WITH_MASKS_TOO = ("supervised", "dmt", "curriculum", "cps", "online-st")
MEMBERS_OF = {IMAGES: ("vit", "swin"), PIXELS: ("segformer", "segformer")}


# ---- the loss's scale, clipping
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_accumulated_micro_batches_equal_one_batch(tmp_path: Path, task: str) -> None:
    """Guards against a mean per micro-batch: it is wrong where void is uneven or fewer pseudo labels are kept, and 4
    times too large where the stock Trainer assumes that the model scales the loss itself."""
    weights, losses = [], []
    for steps in (1, 4):
        trainer = make_trainer(
            tmp_path / str(steps),
            same_weights_on(task),
            labeled_batch_size=8,
            pseudo_batch_size=8,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.3,
            logging_steps=1,
            label_ratios=[0.5],
            phase_epochs=2,
        )
        trainer.train()
        weights.append(state_of(trainer.model))
        losses.append([line for line in telemetry(tmp_path / str(steps)) if "loss" in line])
    assert_same(weights[1], weights[0], tolerance=2e-6)
    for one, four in zip(*losses, strict=True):
        assert four == pytest.approx(one, rel=1e-4, abs=1e-5)


class GradientNorms(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(
            {
                name: torch.stack([tensor.grad.norm() for tensor in model.member(name).parameters()]).norm().item()
                for name in ("a", "b")
            }
        )


def test_each_member_is_clipped_by_its_own_norm(tmp_path: Path) -> None:
    """Guards against clipping by one joint norm, by which a model with large gradients stops the other from
    learning."""
    norms = GradientNorms()
    trainer = make_trainer(tmp_path, max_grad_norm=0.05, callbacks=[norms], logging_steps=1)
    trainer.train()
    for seen in norms.seen:
        assert seen == pytest.approx({"a": 0.05, "b": 0.05}, rel=1e-3)
    logged = [line for line in telemetry(tmp_path) if "loss" in line]
    for line in logged:  # before clipping, each member's own, and the larger one under the stock key
        assert line["grad_norm"] == pytest.approx(max(line["a/grad_norm"], line["b/grad_norm"]))
        assert line["a/grad_norm"] != line["b/grad_norm"] and min(line["a/grad_norm"], line["b/grad_norm"]) > 0.05


def test_without_clipping_the_norms_are_logged_all_the_same(tmp_path: Path) -> None:
    """Guards against `max_grad_norm=0` that scales every gradient to zero, or logs the joint norm of both models."""
    norms = GradientNorms()
    make_trainer(tmp_path, max_grad_norm=0, callbacks=[norms], logging_steps=1, max_steps=1).train()
    logged = [line for line in telemetry(tmp_path) if "loss" in line]
    for seen, line in zip(norms.seen, logged, strict=True):
        assert {name: line[f"{name}/grad_norm"] for name in "ab"} == pytest.approx(seen, rel=1e-3)
        assert line["grad_norm"] == pytest.approx(max(seen.values()), rel=1e-3)


def test_no_gradient_flows_between_the_members(tmp_path: Path) -> None:
    """Guards against models that train each other's weights: without pseudo labels, a must end the same whatever b
    is."""
    weights = []
    for b in ("swin", "resnet"):
        trainer = make_trainer(
            tmp_path / b, make_pair("vit", b), method="supervised", label_ratios=None, unlabeled=None
        )
        trainer.train()
        weights.append(state_of(trainer.model.model_a))
    assert_same(*weights)


# ---- something is trained
# ------------------------------------------------------------------------------------------------


def assert_trained(pair: ModelPair, before: dict[str, torch.Tensor]) -> None:
    """Every trainable tensor of both members changed, and all are finite."""
    parameters = {name: tensor for name, tensor in pair.named_parameters() if tensor.requires_grad}
    assert {name.split(".")[0] for name in parameters} == {"model_a", "model_b"}
    still = [name for name, tensor in parameters.items() if torch.equal(tensor, before[name])]
    assert not still, f"{len(still)} of {len(parameters)} tensors were not trained: {still[:5]}"
    assert all(torch.isfinite(tensor).all() for tensor in parameters.values())


# Which tensors are trained depends on the task and on where the labels come from, not on how they are weighted.
@pytest.mark.parametrize(
    ("method", "task"),
    [
        pytest.param(method, task, marks=[] if task == IMAGES or method in WITH_MASKS_TOO else pytest.mark.slow)
        for method in PRESETS
        for task in (IMAGES, PIXELS)
    ],
)
def test_every_method_trains_every_tensor_of_both_members(tmp_path: Path, method: str, task: str) -> None:
    """Guards against a run that trains nothing, only one model, or only a head. Except for `supervised`, there is no
    phase 0, so the trained phase has pseudo labels."""
    pair = make_pair(*MEMBERS_OF[task])
    before = state_of(pair)
    how = {"supervised_epochs": 1, "label_ratios": None} if method == "supervised" else {"supervised_epochs": 0}
    trainer = make_trainer(tmp_path, pair, method=method, max_steps=1, **{"label_ratios": [1.0], **how})
    trainer.train()
    assert trainer.state.global_step == 1
    assert_trained(pair, before)
    lines = [line for line in telemetry(tmp_path) if "loss" in line]
    assert lines and all(np.isfinite(line["a/loss"]) and np.isfinite(line["b/loss"]) for line in lines)
    if method != "supervised" and method != "online-st":  # above its threshold there may be nothing yet
        assert lines[-1]["a/mean_weight"] >= 0


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        pytest.param({"mixup_alpha": 0.5}, marks=pytest.mark.slow),  # its weights are trained below, and in test_resume
        {"mixup_alpha": 0.5, "official": True, "gradient_accumulation_steps": 2},
        {"ema_decay": 0.9, "restart": "initial"},
        {"activation_checkpointing": True},
        {"gamma_schedule": "ramp", "positive_disagree": "flip"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_other_settings_train_every_tensor_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Guards against a setting that turns training off or yields NaN."""
    pair = make_pair("vit", "swin" if "activation_checkpointing" in settings else "resnet")
    before = state_of(pair)
    if "activation_checkpointing" in settings and not hasattr(DMTTrainingArguments, "activation_checkpointing"):
        settings = {"gradient_checkpointing": True}  # its name in older releases
    trainer = make_trainer(tmp_path, pair, evaluation=images(6, seed=3), max_steps=2, **settings)
    trainer.train()
    assert_trained(pair, before)
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


# ---- what is learned from whom
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_hidden_truth_never_reaches_training(tmp_path: Path, task: str) -> None:
    """Guards against training on true labels that an unlabeled set happens to contain, which makes the result
    worthless."""
    made = (scenes if task == PIXELS else images)(9, seed=1)
    weights = []
    for name, unlabeled in (("known", made), ("hidden", made.without_truth())):
        short = {"supervised_epochs": 1, "label_ratios": [0.5]}
        trainer = make_trainer(tmp_path / name, make_pair(*MEMBERS_OF[task]), unlabeled=unlabeled, **short)
        trainer.train()
        weights.append(state_of(trainer.model))
    assert_same(*weights)
    known, hidden = (
        [entry["pseudo_labels"] for entry in results(tmp_path / name)["phases"] if entry["pseudo_labels"]]
        for name in ("known", "hidden")
    )
    for one, other in zip(known, hidden, strict=True):
        for member in ("a", "b"):
            assert 0 <= one[member]["accuracy"] <= 1 and other[member]["accuracy"] is None
            assert one[member]["selected"] == other[member]["selected"] > 0


@pytest.mark.parametrize(("labeler", "teacher"), [("peer", {"a": "b", "b": "a"}), ("self", {"a": "a", "b": "b"})])
def test_who_labels_for_whom(tmp_path: Path, labeler: str, teacher: dict[str, str]) -> None:
    """Guards against mutual training that is really self-training, and against results that name the student instead of
    the model that made the labels."""
    pair, unlabeled = make_pair("vit", "resnet"), images(12, seed=1)
    made: dict[str, np.ndarray] = {}
    pair.eval()
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(np.array(item["image"])).permute(2, 0, 1) / 255 for item in unlabeled])
        made = {name: logits.argmax(1).numpy() for name, logits in pair(pixels).items()}
    assert (made["a"] != made["b"]).any(), "this test needs members that disagree"
    trainer = make_trainer(
        tmp_path, pair, unlabeled=unlabeled, labeler=labeler, label_ratios=[0.5], supervised_epochs=0
    )
    trainer.train()
    summary = results(tmp_path)["phases"][0]["pseudo_labels"]
    truth = np.array([item["label"] for item in unlabeled])
    for name in ("a", "b"):
        stored = ImageLabels.read(tmp_path / "pseudo_labels" / "phase-1" / name)
        assert stored.labels.tolist() == made[name].tolist()
        learned = trainer.train_dataset.pseudo[name]
        assert learned.labels.tolist() == made[teacher[name]].tolist()
        rows = ImageLabels.read(tmp_path / "pseudo_labels" / "phase-1" / teacher[name]).rows
        assert trainer.sampler.rows[name][1].tolist() == rows.tolist() and len(rows) == 6
        chosen = stored.rows
        assert summary[name]["accuracy"] == pytest.approx((made[name][chosen] == truth[chosen]).mean())
        assert summary[name]["selected"] == 0.5 and sum(summary[name]["class_counts"]) == 6


class Recount(DMTTrainer):
    """Keeps the inputs of the loss and the logits of the models."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, logits = super().compute_loss(model, inputs, True, num_items_in_batch)
        of_updates = self.__dict__.setdefault("seen", [])
        if "a" in inputs:
            of_updates.append({})
        of_updates[-1] |= {name: (batch, logits[name].detach().clone()) for name, batch in inputs.items()}
        return (loss, logits) if return_outputs else loss


class OneAfterTheOther(DMTTrainer):
    """Records, whenever a model is run, which models already have gradients of this update."""

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        ready = [name for name in "ab" if any(weight.grad is not None for weight in model.member(name).parameters())]
        self.__dict__.setdefault("order", []).append(("".join(inputs), "".join(ready)))
        return super().compute_loss(model, inputs, *given, **named)


def test_the_activations_of_one_model_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against running both models before the first backward pass, which takes twice the memory of an update."""
    monkeypatch.setattr("small_runs.DMTTrainer", OneAfterTheOther)
    trainer = make_trainer(tmp_path)
    trainer.train()
    order = trainer.order  # type: ignore[attr-defined]
    assert order == [("a", ""), ("b", "a")] * trainer.state.global_step


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_telemetry_is_what_the_loss_saw(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against telemetry of the other model, of another step, of labeled units, or of padding."""
    monkeypatch.setattr("small_runs.DMTTrainer", Recount)
    trainer = make_trainer(
        tmp_path,
        make_pair(*MEMBERS_OF[task]),
        logging_steps=1,
        supervised_epochs=0,
        gamma1=1.0,
        gamma2=2.0,
        label_ratios=[1.0],
    )
    trainer.train()
    lines = [line for line in telemetry(tmp_path) if "loss" in line]
    assert len(lines) == len(trainer.seen)  # type: ignore[attr-defined]
    both = 0.0
    for line, seen in zip(lines, trainer.seen, strict=True):  # type: ignore[attr-defined]
        for name, (batch, logits) in seen.items():
            shares = [line[f"{name}/{case}"] for case in ("agree", "negative_disagree", "positive_disagree")]
            assert sum(shares) == pytest.approx(1)
            probability, top = logits.float().softmax(1).max(1)
            pseudo = batch["is_pseudo"].view(-1, *[1] * (batch["labels"].ndim - 1)) & (batch["labels"] != -100)
            agree = top == batch["labels"]
            surer = ~agree & (probability > batch["confidence"])
            counts = [(case & pseudo).sum().item() for case in (agree, ~agree & ~surer, surer)]
            assert shares == pytest.approx([count / sum(counts) for count in counts])
            weights = dynamic_weights(logits, batch["labels"], batch["confidence"], gamma1=1.0, gamma2=2.0)
            assert line[f"{name}/mean_weight"] == pytest.approx(weights[pseudo].mean().item(), rel=1e-5)
            both += line[f"{name}/loss"]
    assert sum(line["loss"] for line in lines) == pytest.approx(both, rel=1e-5)


# ---- restarts and averages
# -----------------------------------------------------------------------------------------------


class AtFirstStep(TrainerCallback):
    """The weights with which each phase begins."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights[state.global_step] = state_of(model)


def test_initial_restart_keeps_the_backbone_and_redraws_the_head(tmp_path: Path) -> None:
    """Guards against a phase that starts from the trained weights, from a new random backbone, or from the same head
    again."""
    for kind in ("vit", "swin"):
        AutoModelForImageClassification.from_config(config(kind)).save_pretrained(tmp_path / kind)
        processor(kind).save_pretrained(tmp_path / kind)
    classes = {0: "red", 1: "green", 2: "blue"}
    pair = ModelPair.from_models(tmp_path / "vit", tmp_path / "swin", id2label=classes)
    first, watch = state_of(pair), AtFirstStep()
    make_trainer(tmp_path / "run", pair, restart="initial", callbacks=[watch]).train()
    assert_same(watch.weights[0], first)
    heads = {name for name in first if "classifier" in name}
    for step in (3, 5):  # phases 1 and 2
        rest = {name: value for name, value in watch.weights[step].items() if name not in heads}
        assert_same(rest, {name: first[name] for name in rest})
    for name in heads:
        if name.endswith("weight"):
            drawn = [watch.weights[step][name] for step in (0, 3, 5)]
            assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    assert len(heads) == 4


def test_continue_goes_on_from_the_trained_weights(tmp_path: Path) -> None:
    """Guards against labeling that changes the weights (BatchNorm statistics, or averages swapped in and not swapped
    back)."""
    watch = AtFirstStep()
    pair = make_pair("vit", "resnet")
    trainer = make_trainer(tmp_path, pair, ema_decay=0.9, callbacks=[watch], save_strategy="epoch")
    averages: list[dict[str, torch.Tensor]] = []
    restart = ExponentialAverage.restart

    def spy(average: ExponentialAverage) -> None:
        restart(average)
        averages.append({name: value.clone() for name, value in average.state.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExponentialAverage, "restart", spy)
        trainer.train()
    for start, average in zip((0, 3, 5), averages[-3:], strict=True):  # each phase averages its own weights alone
        assert_same(average, watch.weights[start])
    for step in (3, 5):
        saved = make_pair("vit", "resnet", seed=9)
        saved.load_weights(tmp_path / f"checkpoint-{step}")
        assert_same(watch.weights[step], state_of(saved))


def test_averaged_weights_label_and_are_scored_and_exported(tmp_path: Path) -> None:
    """Guards against averages that are kept but never used, or saved as the weights from which training continues."""
    unlabeled, evaluation = images(12, seed=1), images(9, seed=3)
    trainer = make_trainer(
        tmp_path, unlabeled=unlabeled, evaluation=evaluation, ema_decay=0.7, save_strategy="epoch", learning_rate=3e-2
    )
    trainer.train()
    live = state_of(trainer.model)
    assert trainer.weights.ema is not None
    average = load_file(tmp_path / "checkpoint-8" / "ema.safetensors")
    assert_same(average, trainer.weights.ema.state)
    with pytest.raises(AssertionError):
        assert_same(average, live)
    other = make_pair(seed=9)
    other.load_weights(tmp_path / "checkpoint-8")
    assert_same(state_of(other), live)
    # Export and evaluation: the averages, and the live weights stand again afterwards.
    exported = ModelPair.from_pretrained(trainer.export(tmp_path / "export"))
    assert_same(state_of(exported), average)
    logged = trainer.state.log_history[-2]
    plain = make_trainer(tmp_path / "plain", exported, evaluation=evaluation).evaluate()
    for key in ("eval_a_loss", "eval_b_loss", "eval_accuracy"):
        assert plain[key] == pytest.approx(logged[key], abs=1e-6)
    assert_same(state_of(trainer.model), live)
    # Labels of phase 2: by the averages at the end of phase 1.
    other.load_state_dict(load_file(tmp_path / "checkpoint-5" / "ema.safetensors"))
    other.eval()
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(np.array(item["image"])).permute(2, 0, 1) / 255 for item in unlabeled])
        confidence = {name: logits.softmax(1).amax(1) for name, logits in other(pixels).items()}
    for name in ("a", "b"):
        stored = ImageLabels.read(tmp_path / "pseudo_labels" / "phase-2" / name)
        assert stored.confidence == pytest.approx(confidence[name].numpy(), abs=1e-5)


# ---- evaluation
# ----------------------------------------------------------------------------------------------------------


def test_evaluation_of_a_pair_has_figures(tmp_path: Path) -> None:
    """Guards against an evaluation without metrics: the stock Trainer finds no labels in nested batches."""
    calls: list[tuple[int, ...]] = []

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        assert isinstance(prediction.predictions, np.ndarray)
        calls.append(prediction.predictions.shape)
        return {"f1": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    evaluation = images(7, seed=3)
    trainer = make_trainer(tmp_path, evaluation=evaluation, compute_metrics=compute_metrics)
    trainer.train()
    calls.clear()
    found = trainer.evaluate()
    assert calls == [(7, CLASSES)] * 3
    for name in ("a", "b", "ensemble"):
        assert found[f"eval_{name}_f1"] == pytest.approx(found[f"eval_{name}_accuracy"])
    assert found["eval_accuracy"] == pytest.approx((found["eval_a_accuracy"] + found["eval_b_accuracy"]) / 2)
    predicted = trainer.predict(evaluation)
    truth = np.array([item["label"] for item in evaluation])
    assert predicted.label_ids.tolist() == truth.tolist()
    for name in ("a", "b"):
        hits = predicted.predictions[name].argmax(-1) == truth
        assert predicted.metrics[f"test_{name}_accuracy"] == pytest.approx(hits.mean())
    mean = np.mean([torch.tensor(predicted.predictions[name]).softmax(-1).numpy() for name in ("a", "b")], axis=0)
    assert found["eval_ensemble_accuracy"] == pytest.approx((mean.argmax(-1) == truth).mean())
    assert trainer.predict(evaluation.without_truth()).label_ids is None


def test_evaluation_of_pixels_is_at_the_masks_size(tmp_path: Path) -> None:
    """Guards against scores on downscaled masks, and against counting void as a class."""
    evaluation = scenes(5, seed=3)
    pair = make_pair("segformer", "segformer")
    found = make_trainer(tmp_path, pair, evaluation=evaluation).evaluate()
    pair.eval()
    hits = {name: [0, 0] for name in ("a", "b")}
    for item in evaluation:
        pixels = torch.from_numpy(np.array(item["image"])).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            for name, logits in pair(pixels).items():
                valid = item["mask"] != -100
                hits[name][0] += int((logits[0].argmax(0).numpy() == item["mask"])[valid].sum())
                hits[name][1] += int(valid.sum())
    for name, (right, total) in hits.items():
        assert found[f"eval_{name}_overall_accuracy"] == pytest.approx(right / total)
    assert found["eval_mean_iou"] == pytest.approx((found["eval_a_mean_iou"] + found["eval_b_mean_iou"]) / 2)
    with pytest.raises(ValueError, match="predict\\(\\) would hold the logits of every pixel"):
        make_trainer(tmp_path, pair).predict(evaluation)


def test_evaluate_leaves_weights_and_mode_alone(tmp_path: Path) -> None:
    """Guards against BatchNorm statistics that change while scoring, and against a pair left in eval mode."""
    pair = make_pair("vit", "resnet")
    trainer = make_trainer(tmp_path, pair, evaluation=images(6, seed=3))
    before = state_of(pair)
    pair.train()
    trainer.evaluate()
    assert pair.training and all(module.training for module in pair.modules())
    assert_same(state_of(pair), before)


def test_evaluation_before_training_changes_nothing(tmp_path: Path) -> None:
    """Guards against an evaluation that changes the random state or leaves a module marked as prepared."""
    weights = []
    for name, early in (("plain", False), ("early", True)):
        trainer = make_trainer(tmp_path / name, make_pair(dropout=0.2), evaluation=images(6, seed=3), max_steps=1)
        if early:
            trainer.evaluate()
            trainer.predict(images(6, seed=3))
        trainer.train()
        weights.append(state_of(trainer.model))
    assert_same(*weights)


# ---- what is written
# -----------------------------------------------------------------------------------------------------


def test_no_token_on_disk(tmp_path: Path) -> None:
    """Guards against the Hub token in plain text in the stock training_args.bin, which is pushed with the model."""
    trainer = make_trainer(tmp_path, hub_token="hf_verysecret", save_strategy="epoch", max_steps=1)
    trainer.train()
    trainer.export()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "checkpoint-3" / "training_args.bin") in files
    assert not [path for path in files if b"hf_verysecret" in path.read_bytes()]
    assert trainer.args.hub_token == "hf_verysecret"


def test_better_member_is_exported_at_the_root(tmp_path: Path) -> None:
    """Guards against the weaker model at the root, which `pipeline()` opens, and against loading the root as model
    a."""
    trainer = make_trainer(tmp_path, make_pair("vit", "resnet"), save_strategy="epoch", max_steps=1)
    trainer.train()
    trainer.last_scores = {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.6}, "ensemble": {"accuracy": 0.7}}
    trainer.export()
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.model_type == "resnet"
    assert AutoModelForImageClassification.from_pretrained(tmp_path, subfolder="peer").config.model_type == "vit"
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "checkpoint-3").config.model_type == "vit"
    assert_same(state_of(ModelPair.from_pretrained(tmp_path)), state_of(trainer.model))
    for scores in (None, {name: {"accuracy": 0.5} for name in ("a", "b", "ensemble")}):
        trainer.last_scores = scores
        trainer.export(tmp_path / "tie")
        assert AutoModelForImageClassification.from_pretrained(tmp_path / "tie").config.model_type == "vit"


def test_results_say_what_ran(tmp_path: Path) -> None:
    """Guards against a results file with the settings that were given instead of those that were used."""
    make_trainer(tmp_path, method="naive", evaluation=images(5, seed=3), test=images(4, seed=4), max_steps=1).train()
    found = results(tmp_path)
    expected = {
        "method": "naive",
        "num_labels": 3,
        "num_labeled": 12,
        "num_unlabeled": 12,
        "num_eval": 5,
        "num_test": 4,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["knobs"]["positive_disagree"] == "keep" and found["knobs"]["gamma1"] == 5.0
    assert found["world_size"] == 1 and found["seed"] == 42


# ---- what is refused
# -----------------------------------------------------------------------------------------------------


def test_inputs_that_cannot_work_are_refused_before_training(tmp_path: Path) -> None:
    """Guards against an hour of training that ends in an error, or trains something other than requested."""
    with pytest.raises(ValueError, match=r"trains a ModelPair, got ViTForImageClassification\. Build one"):
        DMTTrainer(make_pair().model_a, DMTTrainingArguments(str(tmp_path)), images(3), images(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contains no labeled images"):
        make_trainer(tmp_path, labeled=[])
    for unlabeled in (None, []):
        with pytest.raises(ValueError, match=r"'dmt' learns from unlabeled images.*`method='supervised'`"):
            make_trainer(tmp_path, unlabeled=unlabeled)
    with pytest.raises(ValueError, match="every pixel in memory"):
        make_trainer(tmp_path, make_pair("segformer", "segformer"), compute_metrics=lambda prediction: {})
    with pytest.raises(ValueError, match="EarlyStoppingCallback would stop the run in the middle of a phase"):
        make_trainer(tmp_path, callbacks=[EarlyStoppingCallback(1)])
    with pytest.raises(ValueError, match=r"metric_for_best_model='accuracy'` needs scores.*no eval_dataset"):
        make_trainer(tmp_path, metric_for_best_model="accuracy")
    with pytest.raises(ValueError, match=r"labeled_batch_size 4 cannot be divided.*use 3 or 6"):
        make_trainer(tmp_path, gradient_accumulation_steps=3)
    assert not any(tmp_path.iterdir())


def test_launches_that_cannot_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against DataParallel, which trains with wrong losses, and DeepSpeed, which keeps one optimizer for the
    whole process, from the arguments or from `accelerate config`."""
    trainer = make_trainer(tmp_path)
    trainer.args._n_gpu = 2
    with pytest.raises(ValueError, match=r"accelerate launch --num_processes 2 your_script\.py"):
        DMTTrainer(make_pair(), trainer.args, images(3), images(3))
    with pytest.raises(ValueError, match="choose DDP or FSDP"):
        DMTTrainingArguments(str(tmp_path), deepspeed="zero.json")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="choose DDP or FSDP"):
        DMTTrainingArguments(str(tmp_path))


@pytest.mark.parametrize(
    ("knobs", "plugin", "message"),
    [
        ({}, {"fsdp_version": 1}, "fsdp_version: 2"),
        ({}, {"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"}, "FULL_STATE_DICT"),
        ({"ema_decay": 0.9}, {"fsdp_version": 2}, "`ema_decay` keeps full copies"),
        ({"restart": "initial"}, {"fsdp_version": 2}, "`restart='initial'` keeps full copies"),
        ({"phase_weights": "best"}, {"fsdp_version": 2}, "`phase_weights='best'` keeps full copies"),
    ],
)
def test_what_divided_parameters_cannot_do_is_refused(
    tmp_path: Path, knobs: dict[str, Any], plugin: dict[str, Any], message: str
) -> None:
    """Guards against settings that fail only at the first labels, hours into a run, or when a checkpoint is opened."""
    trainer = make_trainer(tmp_path)
    fsdp = FullyShardedDataParallelPlugin(**{"state_dict_type": "FULL_STATE_DICT", **plugin})
    with pytest.raises(ValueError, match=message):
        check_sharding(trainer.args, replace(trainer.knobs, **knobs), fsdp, {})


def test_fsdp_that_would_be_left_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against accelerate omitting FSDP on CPUs: every process would hold the whole pair."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"FSDP was requested.*omit FSDP"):
        make_trainer(tmp_path)


def test_fewer_processes_than_asked_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against `accelerate launch --cpu --num_processes 2` training on one process, twice as long, without a
    message."""
    arguments = launch_command_parser().parse_args(["--cpu", "--num_processes", "2", "run_dmt.py"])
    arguments, *_ = _validate_launch_command(arguments)
    _, environment = prepare_simple_launcher_cmd_env(arguments)
    for name in environment.keys() - os.environ.keys():
        monkeypatch.setenv(name, environment[name])
    with pytest.raises(
        ValueError,
        match=r"asked for several processes, but only 1 started.*--multi_gpu --num_proc.* hf-dmt train --num_",
    ):
        make_trainer(tmp_path)
    with pytest.raises(ValueError, match="asked for 4 processes, but only 2 started"):
        check_processes(2, {**environment, "WORLD_SIZE": "4"})
    arguments.num_processes = 1
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    check_processes(1, prepare_simple_launcher_cmd_env(arguments)[1])


def test_a_label_outside_the_classes_is_named(tmp_path: Path) -> None:
    """Guards against a device assertion that does not name the image, which is all that a GPU reports."""
    labeled = images(12)
    labeled[5]["label"] = 3
    with pytest.raises(ValueError, match=r"Item 5 of train_dataset has label 3, but the pair has 3 classes"):
        make_trainer(tmp_path, labeled=labeled, supervised_epochs=8).train()
