"""Heads on frozen features, many splits in minutes: the method without the Trainer, the images and the networks.

    python scripts/benchmarks/evidence/heads_on_features.py --dataset_name trashnet \
        --model_a A --model_b B --image_size 128 --num_labeled 38 75 188 \
        --seeds 0 1 2 3 4 5 6 7 8 9 --output_dir runs/heads

**This is not a run of the product.** `hf-dmt train --freeze_backbone true --augmentation none` trains the same heads,
but has each image read, resized and passed through both networks at every update. Here both networks see every image
once, in the clean pass that labels, and two linear heads are trained on what they said: with the product's own phases,
splits, labels, selection, weights and loss, AdamW with the Trainer's defaults, and a linear schedule with warmup. Left
out are the training views (the labeling view stands for them).

Every arm has the image passes of `dmt`. Each run leaves its own JSON, and a repeated command goes on where it was
interrupted; it ends with a table. `--tune 1e-3 3e-3` first runs every arm at each of these learning rates on the
tuning splits, and reports the one with the best accuracy on the unlabeled images there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from hf_dmt import ModelPair
from hf_dmt.commands.comparing.comparison import Interval, members
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.files import write_json
from hf_dmt.data.members import MEMBERS
from hf_dmt.data.splitting.assemble import assemble
from hf_dmt.data.splitting.splits import choose_labeled, hold_out
from hf_dmt.method import plan_phases, pseudo_label
from hf_dmt.training.labeling import graph
from hf_dmt.training.labeling.inference import CleanPass
from hf_dmt.training.labeling.label_pass import select_images
from hf_dmt.training.settings.knobs import Knobs
from hf_dmt.training.settings.methods import resolve
from hf_dmt.training.step import member_steps

WARMUP, NORM = 0.05, 1.0
FORWARD = 1 / 3
UNWEIGHTED = {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"}
BALANCED = {"class_balanced": True}
ONE_PHASE = {"label_ratios": (1.0,)}
STRONGER, TEMPERATURE = "stronger", "temperature"  # no settings of the product: tried here only
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
    "cbst, per class": ("cbst", BALANCED),
    "dst, per class": ("dst", BALANCED),
    "graph, per class": ("dmt", {"labeler": "graph", **BALANCED}),
    "graph, no weights": ("dmt", {"labeler": "graph", **UNWEIGHTED}),
    "naive": ("naive", {}),
    "flip": ("flip", {}),
    "dmt, one phase": ("dmt", ONE_PHASE),
    "mutual, one phase": ("mutual", ONE_PHASE),
    "graph, one phase": ("dmt", {"labeler": "graph", **ONE_PHASE}),
    "dmt, one phase, gamma 1": ("dmt", {"gamma1": 1.0, "gamma2": 1.0, **ONE_PHASE}),
    "dmt, one phase, gamma 9": ("dmt", {"gamma1": 9.0, "gamma2": 9.0, **ONE_PHASE}),
    "cbst, one phase": ("cbst", ONE_PHASE),
    "dmt, stronger teaches": ("dmt", {STRONGER: True}),
    "dmt, calibrated": ("dmt", {TEMPERATURE: True}),
    "oracle": ("supervised", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset_name", "model_a", "model_b"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--num_labeled", type=int, nargs="+", default=[38], help="a fifth of them is held out")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--tune", type=float, nargs="+", default=[], metavar="RATE", help="learning rates to try")
    parser.add_argument("--tuning_seeds", type=int, nargs="+", default=list(range(1000, 1005)))
    parser.add_argument("--dropout_b", type=float, help="share of the features that b's head drops (the model's own)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--output_dir", default="runs/heads")
    given = parser.parse_args()
    root = Path(given.output_dir)
    own = "" if given.dropout_b is None else f"-dropout-{given.dropout_b:g}"
    folder = root / (f"tuned{own}" if given.tune else f"rate-{given.learning_rate:g}{own}")
    folder.mkdir(parents=True, exist_ok=True)
    data = features(given, root / "features.npz")
    if given.dropout_b is not None:
        data["dropout_b"] = np.asarray(given.dropout_b)
    for count in given.num_labeled:
        for arm in given.arms:
            trials = {
                rate: mean(
                    record["phases"][-1]["unlabeled"]
                    for record in runs(data, count, given.tuning_seeds, rate, arm, folder / f"rate-{rate:g}")
                )
                for rate in given.tune
            }
            rate = max(trials, key=trials.__getitem__, default=given.learning_rate)
            runs(data, count, given.seeds, rate, arm, folder)
            if trials:
                print(
                    f"{arm}: {rate:g} of", ", ".join(f"{rate:g}: {100 * share:.1f}" for rate, share in trials.items())
                )
        print(f"\n{count} labeled\n{table(folder, count)}", flush=True)
    write_json(folder / "heads.json", figures(folder))


def runs(
    data: dict[str, np.ndarray], count: int, seeds: Sequence[int], rate: float, arm: str, folder: Path
) -> list[dict[str, Any]]:
    """The records of an arm, one per seed: loaded if the file is of this rate, otherwise made."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{count}-{arm.replace(', ', '-').replace(' ', '-')}.json"
    records: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    if not records or records[0]["learning_rate"] != rate:
        records = Splits(data, count, seeds, rate).run(arm)
        write_json(file, records)
    return records


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
            clean_pass = CleanPass(pair, Accelerator(cpu=True), 64)
            parts = list(clean_pass.run(source, title=split, with_features=True))
            found[f"{split}_labels"] = np.asarray([label for part in parts for label in part.truth])
            for name in MEMBERS:
                found[f"{split}_{name}"] = torch.cat([part.features[name] for part in parts]).numpy()
        np.savez(file, **found)  # type: ignore[arg-type]
    return dict(np.load(file))


def dropout(pair: ModelPair, name: str) -> np.ndarray:
    """The probability that the head drops a feature with in training: the pair's, which corrects MobileNet's."""
    return np.asarray(getattr(getattr(pair.member(name), "dropout", None), "p", 0.0))


class Heads(nn.Module):
    """Two linear heads for each of S splits, behind the calls of a pair: features instead of images.

    All splits learn side by side: a batch holds S x B rows, split after split.
    """

    def __init__(self, data: dict[str, np.ndarray], classes: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.weight, self.bias, self.dropout = nn.ParameterDict(), nn.ParameterDict(), {}
        for place, name in enumerate(MEMBERS):
            size = (classes, data[f"train_{name}"].shape[1])
            drawn = [torch.randn(size, generator=torch.Generator().manual_seed(2 * seed + place)) for seed in seeds]
            self.weight[name] = nn.Parameter(0.02 * torch.stack(drawn))
            self.bias[name] = nn.Parameter(torch.zeros(len(seeds), 1, classes))
            self.dropout[name] = nn.Dropout(float(data[f"dropout_{name}"]))

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        return {name: self.logits(name, self.dropout[name].train(self.training)(x)) for name, x in features.items()}

    def logits(self, name: str, features: Tensor) -> Tensor:
        """`(S x B, C)` of `(S x B, D)`."""
        splits = len(self.weight[name])
        apart = features.view(splits, -1, features.shape[-1])
        return torch.baddbmm(self.bias[name], apart, self.weight[name].transpose(1, 2)).flatten(0, 1)

    @torch.no_grad()
    def said(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """`(S, N, C)` of the same `(N, D)` images for every split, without dropout."""
        return {
            name: torch.einsum("nd,scd->snc", x, self.weight[name]) + self.bias[name] for name, x in features.items()
        }

    def clip(self, most: float) -> None:
        """Clip each member of each split by its own norm."""
        for name in MEMBERS:
            grads = [parameter.grad for parameter in (self.weight[name], self.bias[name])]
            norm = torch.stack([grad.flatten(1).square().sum(1) for grad in grads if grad is not None]).sum(0).sqrt()
            factor = (most / (norm + 1e-6)).clamp(max=1)[:, None, None]
            for grad in grads:
                if grad is not None:
                    grad *= factor


class Splits:
    """All arms on labeled sets of one size, drawn from several seeds."""

    def __init__(self, data: dict[str, np.ndarray], count: int, seeds: Sequence[int], rate: float) -> None:
        self.data, self.count, self.seeds, self.rate = data, count, list(seeds), rate
        labels = data["train_labels"]
        self.classes = int(labels.max()) + 1
        chosen = [choose_labeled(count, len(labels), seed=seed, labels=labels) for seed in seeds]
        carved = [hold_out(rows, labels, seed=seed) for rows, seed in zip(chosen, seeds, strict=True)]
        self.labeled, self.held = ([part[place] for part in carved] for place in range(2))
        self.unlabeled = [np.setdiff1d(np.arange(len(labels)), rows) for rows in chosen]
        assert len({len(rows) for rows in self.labeled}) == 1, "splits of one size have one number of updates"
        self.labels = labels.astype(np.int64)
        self.train = {name: torch.from_numpy(data[f"train_{name}"]) for name in MEMBERS}
        self.test = {name: torch.from_numpy(data[f"test_{name}"]) for name in MEMBERS}
        self.spread: list[np.ndarray] = []

    def run(self, arm: str) -> list[dict[str, Any]]:
        """One record per seed: scores on the test images after every phase, and how many labels were right."""
        method, own = ARMS[arm][0], dict(ARMS[arm][1])
        self.stronger, self.temperature = own.pop(STRONGER, False), own.pop(TEMPERATURE, False)
        epochs = {"supervised_epochs": 100.0 * min(1.0, 60 / len(self.labeled[0])), "phase_epochs": 1.0,
                  "labeled_batch_size": 8, "pseudo_batch_size": 24}  # fmt: skip
        knobs = resolve(method, "image-classification", {"class_balanced": False, **epochs, **own})
        everything = [np.union1d(*pair) for pair in zip(self.labeled, self.unlabeled, strict=True)]
        labeled = everything if arm == "oracle" else self.labeled
        phases = self._plan(knobs)
        torch.manual_seed(0)
        model = Heads(self.data, self.classes, self.seeds)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=0.0)
        fresh = optimizer.state_dict()
        records: list[dict[str, Any]] = [
            {
                "arm": arm,
                "num_labeled": self.count,
                "labels": len(self.labeled[0]),
                "learning_rate": self.rate,
                "dropout_b": float(self.data["dropout_b"]),
                "seed": seed,
                "phases": [],
            }
            for seed in self.seeds
        ]
        for number, (ratio, steps) in enumerate(phases):
            chosen: dict[str, Any] = {}
            right: list[Any] = [None] * len(self.seeds)
            if ratio is not None:
                chosen, right = self._labels(model, ratio, knobs)
            optimizer.load_state_dict(fresh)
            schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * steps), steps)
            batches = {
                name: self._batches(name, labeled, chosen.get(name), steps, knobs, (number, place))
                for place, name in enumerate(MEMBERS)
            }
            model.train()
            for _ in range(steps):
                inputs = {name: next(batches[name]) for name in MEMBERS}
                made, _logits = member_steps(
                    model, inputs, knobs, ramp=1.0, pseudo_weight=1.0, mixup_seeds=[0, 0], labels_only=ratio is None
                )
                optimizer.zero_grad()
                # Each is a mean over the rows of all splits, and every split has its own.
                (len(self.seeds) * torch.stack([step.loss for step in made.values()]).sum()).backward()
                model.clip(NORM)
                optimizer.step()
                schedule.step()
            for record, scores, known, of_labels in zip(
                records, self._scores(model), self._unlabeled(model), right, strict=True
            ):
                entry = {"phase": number, "label_ratio": ratio, "steps": steps, "test": scores, "unlabeled": known}
                record["phases"].append({**entry, "pseudo_labels": of_labels})
        return records

    def _plan(self, knobs: Knobs) -> list[tuple[float | None, int]]:
        """Ratio and updates of each phase, for the image passes of dmt."""
        batch = knobs.labeled_batch_size + knobs.pseudo_batch_size
        unlabeled = len(self.unlabeled[0])
        counts: dict[str, Any] = {
            "num_labeled": len(self.labeled[0]), "num_unlabeled": unlabeled, "select_units": "images",
            "supervised_epochs": knobs.supervised_epochs, "phase_epochs": knobs.phase_epochs,
            "labeled_batch_size": knobs.labeled_batch_size, "pseudo_batch_size": knobs.pseudo_batch_size,
        }  # fmt: skip
        usual = plan_phases(label_ratios=Knobs().label_ratios, **counts)
        labeling = 2 * FORWARD * unlabeled
        passes = sum(2 * batch * phase.steps for phase in usual) + labeling * (len(usual) - 1)
        if not knobs.label_ratios:
            return [(None, round(passes / (2 * batch)))]
        if list(knobs.label_ratios) != list(Knobs().label_ratios):
            left = passes - 2 * batch * usual[0].steps - labeling * len(knobs.label_ratios)
            return [(None, usual[0].steps), (knobs.label_ratios[0], round(left / (2 * batch)))]
        return [(phase.label_ratio, phase.steps) for phase in usual]

    def _labels(self, model: Heads, ratio: float, knobs: Knobs) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """By student and split, rows, labels and confidences of what is selected; by split and maker, how many labels
        are right, selected ones and all."""
        said = model.said(self.train)
        usual = {"peer": {"a": "b", "b": "a"}, "self": {"a": "a", "b": "b"}}.get(
            knobs.labeler, dict.fromkeys(MEMBERS, graph.GRAPH)
        )
        chosen: dict[str, list[Any]] = {name: [] for name in MEMBERS}
        right = []
        for split, rows in enumerate(self.unlabeled):
            teacher = usual
            held, truth = self.held[split], torch.from_numpy(self.labels[self.held[split]])
            if self.stronger:
                hits = {name: int((logits[split][held].argmax(-1) == truth).sum()) for name, logits in said.items()}
                teacher = usual if hits["a"] == hits["b"] else dict.fromkeys(MEMBERS, max(hits, key=hits.__getitem__))
            heat = {name: _heat(of[split][held], truth) if self.temperature else 1.0 for name, of in said.items()}
            made = {
                name: tuple(column.numpy() for column in pseudo_label(logits[split][rows] / heat[name]))
                for name, logits in said.items()
            }
            if knobs.labeler == graph.GRAPH:
                made[graph.GRAPH] = self._from_graph(split)
            found, summary = {}, {}
            for name, (labels, confidence, doubt) in made.items():
                kept = np.flatnonzero(select_images(labels, confidence, doubt, ratio, knobs))
                hit = labels == self.labels[rows]
                summary[name] = {"accuracy": float(hit[kept].mean()), "of_all": float(hit.mean())}
                found[name] = rows[kept], labels[kept], confidence[kept]
            right.append(summary)
            for name in MEMBERS:
                chosen[name].append(found[teacher[name]])
        return chosen, right

    def _from_graph(self, split: int) -> tuple[np.ndarray, ...]:
        """Of features that rest, the graph is the same in every phase."""
        if not self.spread:
            for labeled, unlabeled in zip(self.labeled, self.unlabeled, strict=True):
                both = [self.train[name].numpy() for name in MEMBERS]
                known, others = (graph.joined([part[rows] for part in both]) for rows in (labeled, unlabeled))
                self.spread.append(graph.spread_labels(known, self.labels[labeled], others, self.classes))
        spread = self.spread[split]
        return spread.argmax(axis=1), spread.max(axis=1), 1 - spread.max(axis=1)

    def _batches(
        self, name: str, labeled: list[np.ndarray], pseudo: list[Any] | None, steps: int, knobs: Knobs,
        place: tuple[int, int],
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """The batches of a phase: of every split labeled rows, and behind them pseudo-labeled ones."""
        count = knobs.labeled_batch_size + (knobs.pseudo_batch_size if pseudo is None else 0)
        columns: list[list[np.ndarray]] = []
        for split, seed in enumerate(self.seeds):
            generator = np.random.default_rng([seed, *place])
            rows = _drawn(len(labeled[split]), (steps, count), generator)
            parts = [(labeled[split][rows], self.labels[labeled[split][rows]], np.ones(rows.shape, np.float32))]
            if pseudo is not None:
                rows = _drawn(len(pseudo[split][0]), (steps, knobs.pseudo_batch_size), generator)
                parts.append(tuple(column[rows] for column in pseudo[split]))
            columns.append([np.concatenate(column, axis=1) for column in zip(*parts, strict=True)])
        places, labels, confidence = (
            torch.from_numpy(np.stack(column, axis=1)).flatten(1) for column in zip(*columns, strict=True)
        )
        is_pseudo = (torch.arange(knobs.labeled_batch_size + knobs.pseudo_batch_size) >= count).repeat(len(self.seeds))
        for step in range(steps):
            yield {"pixel_values": self.train[name][places[step]], "labels": labels[step].long(),
                   "confidence": confidence[step].float(), "is_pseudo": is_pseudo}  # fmt: skip

    def _scores(self, model: Heads) -> list[dict[str, float]]:
        chances = {name: logits.softmax(dim=-1) for name, logits in model.said(self.test).items()}
        chances["ensemble"] = (chances["a"] + chances["b"]) / 2
        truth = torch.from_numpy(self.data["test_labels"])
        hits = {name: (chance.argmax(-1) == truth).float().mean(1).tolist() for name, chance in chances.items()}
        return [{name: hits[name][split] for name in hits} for split in range(len(self.seeds))]

    def _unlabeled(self, model: Heads) -> list[float]:
        """Mean accuracy of a and b on the unlabeled images of each split."""
        hits = {name: logits.argmax(-1).numpy() == self.labels for name, logits in model.said(self.train).items()}
        return [members({name: float(hits[name][split][rows].mean()) for name in MEMBERS}) for split, rows in
                enumerate(self.unlabeled)]  # fmt: skip


def _heat(logits: Tensor, truth: Tensor) -> float:
    """The temperature between 1/4 and 8 that makes these labels likeliest."""
    grid = torch.logspace(-2, 3, 51, base=2.0)
    losses = torch.stack([nn.functional.cross_entropy(logits / heat, truth) for heat in grid])
    return float(grid[losses.argmin()])


def _drawn(count: int, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Numbers below `count` from shuffles without end, in this shape."""
    rounds = math.ceil(shape[0] * shape[1] / count)
    order = np.concatenate([generator.permutation(count) for _ in range(rounds)])
    return order[: shape[0] * shape[1]].reshape(shape)


def figures(folder: Path) -> list[dict[str, Any]]:
    """What every run came to: scores, and how many labels were right before selection at the first phase (`right`) and
    among the selected in each phase (`kept`)."""
    found = []
    for file in sorted(folder.glob("*-*.json")):
        for record in json.loads(file.read_text()):
            phases = [entry for entry in record["phases"] if entry["pseudo_labels"]]
            kept = [{name: round(of["accuracy"], 4) for name, of in e["pseudo_labels"].items()} for e in phases]
            right = (
                {name: round(of["of_all"], 4) for name, of in phases[0]["pseudo_labels"].items()} if phases else None
            )
            scores = [{name: round(v, 4) for name, v in e["test"].items()} for e in record["phases"]]
            facts = {key: record[key] for key in ("arm", "num_labeled", "labels", "learning_rate", "dropout_b", "seed")}
            found.append({**facts, "phase_0": scores[0], "last": scores[-1], "right": right, "kept": kept})
    return found


def table(folder: Path, count: int) -> str:
    """Members and ensemble of every arm, and what they are over the labels alone, paired by split."""
    runs: dict[str, dict[int, Any]] = {}
    for file in folder.glob(f"{count}-*.json"):
        for record in json.loads(file.read_text()):
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
