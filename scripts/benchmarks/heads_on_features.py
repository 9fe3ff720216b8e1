"""Heads on frozen features, many splits in minutes: the method without the Trainer, the images and the networks.

    python scripts/benchmarks/heads_on_features.py --dataset_name trashnet --model_a A --model_b B --image_size 128 \
        --num_labeled 38 75 188 --seeds 0 1 2 3 4 5 6 7 8 9 --output_dir runs/heads

**This is not a run of the product.** `hf-dmt train --freeze_backbone true --augmentation none` trains the same heads,
but has each image read, resized and passed through both networks at every update. Here both networks see every image
once, in the clean pass that labels, and two linear heads are trained on what they said: with the product's own phases,
splits, labels, selection, weights and loss, AdamW with the Trainer's defaults, and a linear schedule with warmup. Left
out are the training views (the labeling view stands for them).

Every arm has the image passes of `dmt`. Each run leaves its own JSON, and a repeated command goes on where it was
interrupted; it ends with a table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from hf_dmt import ModelPair
from hf_dmt.commands.comparison import Interval, members
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.members import MEMBERS
from hf_dmt.data.splitting.assemble import assemble
from hf_dmt.data.splitting.splits import carve_eval, choose_labeled
from hf_dmt.method import plan_phases, pseudo_label
from hf_dmt.training.labeling import graph
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.labeling.label_pass import select_images
from hf_dmt.training.settings.knobs import Knobs
from hf_dmt.training.settings.methods import resolve
from hf_dmt.training.step import member_steps

RATE, WARMUP, NORM = 3e-3, 0.05, 1.0
FORWARD = 1 / 3
UNWEIGHTED = {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"}
BALANCED = {"class_balanced": True}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "labels alone": ("supervised", {}),
    "dmt": ("dmt", {}),
    "mutual": ("mutual", {}),
    "graph": ("dmt", {"labeler": "graph"}),
    "dst": ("dst", {}),
    "cbst": ("cbst", {}),
    "dmt, gamma 1": ("dmt", {"gamma1": 1.0, "gamma2": 1.0}),
    "dmt, gamma 3": ("dmt", {"gamma1": 3.0, "gamma2": 3.0}),
    "dmt, gamma 9": ("dmt", {"gamma1": 9.0, "gamma2": 9.0}),
    "dmt, per class": ("dmt", BALANCED),
    "mutual, per class": ("mutual", BALANCED),
    "graph, per class": ("dmt", {"labeler": "graph", **BALANCED}),
    "graph, no weights": ("dmt", {"labeler": "graph", **UNWEIGHTED}),
    "naive": ("naive", {}),
    "flip": ("flip", {}),
    "dmt, one phase": ("dmt", {"label_ratios": (1.0,)}),
    "oracle": ("supervised", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset_name", "model_a", "model_b"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--num_labeled", type=int, nargs="+", default=[38], help="a fifth of them is held out")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--output_dir", default="runs/heads")
    given = parser.parse_args()
    folder = Path(given.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    data = features(given, folder / "features.npz")
    for count in given.num_labeled:
        for seed in given.seeds:
            bench = Split(data, count, seed)
            for arm in given.arms:
                file = folder / f"{count}-{arm.replace(', ', '-').replace(' ', '-')}-seed-{seed}.json"
                if not file.is_file():
                    record = {"arm": arm, "num_labeled": count, "seed": seed, **bench.run(arm)}
                    file.write_text(json.dumps(record) + "\n")
        print(f"\n{count} labeled\n{table(folder, count)}", flush=True)


def features(given: argparse.Namespace, file: Path) -> dict[str, np.ndarray]:
    """What both heads would see of all training and test images, and the classes."""
    if not file.is_file():
        images = assemble(DataArguments(dataset_name=given.dataset_name), "image-classification")
        names = images.class_names
        pair = ModelPair.from_models(
            given.model_a, given.model_b, id2label=dict(enumerate(names)), image_size=given.image_size
        )
        found: dict[str, np.ndarray] = {"dropout_a": dropout(pair, "a"), "dropout_b": dropout(pair, "b")}
        held = images.evaluation  # of the labeled images, which are all here
        rows = np.sort(np.concatenate([images.labeled.chosen, *([held.chosen] if held is not None else [])]))
        everything = replace(images.labeled, chosen=rows)
        for split, source in (("train", everything), ("test", images.test)):
            parts = list(CleanPass(64).run(pair, source, Accelerator(cpu=True), title=split, with_features=True))
            found[f"{split}_labels"] = np.asarray([label for part in parts for label in part.truth])
            for name in MEMBERS:
                found[f"{split}_{name}"] = torch.cat([part.features[name] for part in parts]).numpy()
        np.savez(file, **found)  # type: ignore[arg-type]
    return dict(np.load(file))


def dropout(pair: ModelPair, name: str) -> np.ndarray:
    """The probability that the head drops a feature with in training."""
    return np.asarray(getattr(pair.member(name).config, "classifier_dropout_prob", 0.0))


class Heads(nn.Module):
    """Two linear heads behind the calls of a pair: features instead of images."""

    def __init__(self, data: dict[str, np.ndarray], classes: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        for name in MEMBERS:
            head = nn.Linear(data[f"train_{name}"].shape[1], classes)
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
            setattr(self, name, nn.Sequential(nn.Dropout(float(data[f"dropout_{name}"])), head))

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        return {name: getattr(self, name)(given) for name, given in features.items()}


class Split:
    """All arms on one labeled set."""

    def __init__(self, data: dict[str, np.ndarray], count: int, seed: int) -> None:
        self.seed, self.dropouts = seed, data
        labels = data["train_labels"]
        self.classes = int(labels.max()) + 1
        chosen = choose_labeled(count, len(labels), seed=seed, labels=labels)
        self.labeled, _ = carve_eval(chosen, labels, seed=seed)
        self.unlabeled = np.setdiff1d(np.arange(len(labels)), chosen)
        self.labels = torch.from_numpy(labels).long()
        self.train = {name: torch.from_numpy(data[f"train_{name}"]) for name in MEMBERS}
        self.test = {name: torch.from_numpy(data[f"test_{name}"]) for name in MEMBERS}
        self.test_labels = torch.from_numpy(data["test_labels"]).long()
        self.spread: np.ndarray | None = None

    def run(self, arm: str) -> dict[str, Any]:
        method, own = ARMS[arm]
        epochs = {"supervised_epochs": 100.0 * min(1.0, 60 / len(self.labeled)), "phase_epochs": 1.0,
                  "labeled_batch_size": 8, "pseudo_batch_size": 24}  # fmt: skip
        knobs = resolve(method, "image-classification", {**epochs, **own})
        labeled = np.sort(np.concatenate([self.labeled, self.unlabeled])) if arm == "oracle" else self.labeled
        phases, passes = self._plan(knobs)
        model = Heads(self.dropouts, self.classes, self.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
        fresh = optimizer.state_dict()
        record: dict[str, Any] = {"passes": passes, "phases": []}
        for number, (ratio, steps) in enumerate(phases):
            entry: dict[str, Any] = {"phase": number, "label_ratio": ratio, "steps": steps}
            targets: dict[str, Any] = {}
            if ratio is not None:
                targets, entry["pseudo_labels"] = self._labels(model, ratio, knobs)
            optimizer.load_state_dict(fresh)
            schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * steps), steps)
            batches = {
                name: self._batches(labeled, targets.get(name), knobs, [self.seed, number, place])
                for place, name in enumerate(MEMBERS)
            }
            model.train()
            for _ in range(steps):
                inputs = {name: next(batches[name]) for name in MEMBERS}
                made, _logits = member_steps(
                    model, inputs, knobs, ramp=1.0, pseudo_weight=1.0, mixup_seeds=[0, 0], labels_only=ratio is None
                )
                optimizer.zero_grad()
                torch.stack([step.loss for step in made.values()]).sum().backward()
                for name in MEMBERS:
                    nn.utils.clip_grad_norm_(getattr(model, name).parameters(), NORM)
                optimizer.step()
                schedule.step()
            entry["test"] = self._scores(model)
            record["phases"].append(entry)
        return record

    def _plan(self, knobs: Knobs) -> tuple[list[tuple[float | None, int]], float]:
        """Ratio and updates of each phase, and image passes: those of dmt with the suite's lengths."""
        batch = knobs.labeled_batch_size + knobs.pseudo_batch_size
        counts: dict[str, Any] = {
            "num_labeled": len(self.labeled), "num_unlabeled": len(self.unlabeled), "select_units": "images",
            "supervised_epochs": knobs.supervised_epochs, "phase_epochs": knobs.phase_epochs,
            "labeled_batch_size": knobs.labeled_batch_size, "pseudo_batch_size": knobs.pseudo_batch_size,
        }  # fmt: skip
        usual = plan_phases(label_ratios=Knobs().label_ratios, **counts)
        labeling = 2 * FORWARD * len(self.unlabeled)
        passes = sum(2 * batch * phase.steps for phase in usual) + labeling * (len(usual) - 1)
        if not knobs.label_ratios:
            return [(None, round(passes / (2 * batch)))], passes
        if knobs.label_ratios != Knobs().label_ratios:
            left = passes - 2 * batch * usual[0].steps - labeling * len(knobs.label_ratios)
            return [(None, usual[0].steps), (knobs.label_ratios[0], round(left / (2 * batch)))], passes
        return [(phase.label_ratio, phase.steps) for phase in usual], passes

    @torch.no_grad()
    def _labels(self, model: Heads, ratio: float, knobs: Knobs) -> tuple[dict[str, Any], dict[str, Any]]:
        """By student, rows, labels and confidences of what is selected; by maker, how many of them are right."""
        model.eval()
        truth = self.labels[self.unlabeled]
        logits = model(**{name: self.train[name][self.unlabeled] for name in MEMBERS})
        made = {name: tuple(column.numpy() for column in pseudo_label(logits[name])) for name in MEMBERS}
        if knobs.labeler == "graph":
            if self.spread is None:  # of features that rest, in every phase the same
                self.spread = graph.spread_labels(
                    graph.joined([self.train[name][self.labeled].numpy() for name in MEMBERS]),
                    self.labels[self.labeled].numpy(),
                    graph.joined([self.train[name][self.unlabeled].numpy() for name in MEMBERS]),
                    self.classes,
                )
            sure = self.spread.max(axis=1)
            made["graph"] = (self.spread.argmax(axis=1), sure, 1 - sure)
        chosen, summary = {}, {}
        for name, (labels, confidence, doubt) in made.items():
            rows = np.flatnonzero(select_images(labels, confidence, doubt, ratio, knobs))
            right = torch.from_numpy(labels) == truth
            summary[name] = {"accuracy": float(right[rows].float().mean()), "of_all": float(right.float().mean())}
            chosen[name] = self.unlabeled[rows], labels[rows], confidence[rows]
        teacher = {"peer": {"a": "b", "b": "a"}, "self": {"a": "a", "b": "b"}}.get(
            knobs.labeler, dict.fromkeys(MEMBERS, "graph")
        )
        return {student: chosen[teacher[student]] for student in MEMBERS}, summary

    def _batches(self, labeled: np.ndarray, pseudo: Any, knobs: Knobs, seed: list[int]) -> Iterator[dict[str, Any]]:
        """Endless batches of one member, pseudo-labeled units behind labeled ones."""
        name = MEMBERS[seed[-1]]
        generator = np.random.default_rng(seed)
        count = knobs.labeled_batch_size + (knobs.pseudo_batch_size if pseudo is None else 0)
        own = _endless(labeled, generator)
        others = _endless(np.arange(len(pseudo[0])), generator) if pseudo is not None else None
        while True:
            rows = np.array([next(own) for _ in range(count)])
            labels, confidence = self.labels[rows], torch.ones(count)
            is_pseudo = torch.zeros(count, dtype=torch.bool)
            if others is not None:
                places = np.array([next(others) for _ in range(knobs.pseudo_batch_size)])
                rows = np.concatenate([rows, pseudo[0][places]])
                labels = torch.cat([labels, torch.from_numpy(pseudo[1][places]).long()])
                confidence = torch.cat([confidence, torch.from_numpy(pseudo[2][places]).float()])
                is_pseudo = torch.cat([is_pseudo, torch.ones(len(places), dtype=torch.bool)])
            yield {"pixel_values": self.train[name][rows], "labels": labels, "confidence": confidence,
                   "is_pseudo": is_pseudo}  # fmt: skip

    @torch.no_grad()
    def _scores(self, model: Heads) -> dict[str, float]:
        model.eval()
        logits = model(**self.test)
        chances = {name: logits[name].softmax(dim=1) for name in MEMBERS}
        chances["ensemble"] = (chances["a"] + chances["b"]) / 2
        return {name: float((p.argmax(1) == self.test_labels).float().mean()) for name, p in chances.items()}


def _endless(items: np.ndarray, generator: np.random.Generator) -> Iterator[int]:
    while True:
        yield from generator.permutation(items)


def table(folder: Path, count: int) -> str:
    """Members and ensemble of every arm, and what they are over the labels alone, paired by split."""
    runs: dict[str, dict[int, Any]] = {}
    for file in folder.glob(f"{count}-*.json"):
        record = json.loads(file.read_text())
        runs.setdefault(record["arm"], {})[record["seed"]] = record["phases"][-1]["test"]
    lines = ["| method | a and b | ensemble | over labels alone | ensemble | splits |", "| --- " * 6 + "|"]
    alone = runs.get("labels alone", {})
    for arm in (arm for arm in ARMS if arm in runs):
        of = runs[arm]
        shared = sorted(of.keys() & alone.keys())
        cells = [Interval.of([members(of[s]) for s in of]), Interval.of([of[s]["ensemble"] for s in of])]
        gains = [
            Interval.of([members(of[s]) - members(alone[s]) for s in shared]),
            Interval.of([of[s]["ensemble"] - alone[s]["ensemble"] for s in shared]),
        ] if shared and arm != "labels alone" else []  # fmt: skip
        texts = [cell.text() for cell in cells] + ([cell.text("+") for cell in gains] or ["", ""])
        lines.append("| " + " | ".join([arm, *texts, str(len(of))]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
