"""`hf-dmt compare`: compare methods on the same splits, models and compute budget.

    hf-dmt compare --suite smoke
    hf-dmt compare --suite cpu --data cifar10=FOLDER --sets cifar10 --seeds 0 1 2
    hf-dmt compare --arms dmt --seeds 0 1 2 3 4
    hf-dmt compare -- --dataset_name my_images --num_labeled 200 --model_a ...

Without `--suite`, the flags after `--` set the data and models (default: the embedded digits). They may start with a
config file, but not set what tells the methods apart (gammas, labeler, ...). Every run is a call of `hf-dmt train`.
Each seed is used as `--split_seed` and `--seed`, so all methods see the same split. A data set needs a train and a test
split, or `--test_fraction`; if it has no validation split, some labeled images are held out.

The budget is the number of image passes: one image forward and backward through one model counts 1, forward only 1/3.
Passes for labels and weights count, evaluation does not. `dmt` runs first, and every other method gets as many passes.
The headline score is that of the last weights; the best checkpoint on the eval split is listed, too. `--trials N` tries
N learning rates per method on `--tuning_seeds` and keeps the one that is best on the eval split.

Every run leaves a JSON file in `--output_dir`, and a repeated command continues where it stopped. For every data set,
the command ends with tables, a figure and a one-sentence summary: `comparison.md`, `comparison.png`, `comparison.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.files import write_json
from ..data.splitting.assemble import assemble
from ..training.settings.command_line import parse, settings_given
from ..training.settings.knobs import Knobs
from ..training.settings.methods import OF_A_METHOD
from ..training.settings.terminal import command_parser, print_error
from .comparing import comparison
from .comparing.comparison import ORACLE, REFERENCE
from .comparing.suites import ARMS, EQUAL, SETTINGS, SUITES
from .train import RECIPES
from .train import run as train

FORWARD = 1 / 3  # image passes of a forward pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns 0, or 2 for invalid arguments."""
    own, flags = list(sys.argv[1:] if argv is None else argv), []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parse_own(own)
    try:
        compare(arguments, flags)
    except BrokenPipeError:  # `hf-dmt compare ... | head`
        raise
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    return 0


def compare(arguments: argparse.Namespace, flags: list[str]) -> None:
    """Run everything that is missing, and write the comparison."""
    varied = ("--method", "--seed", "--split_seed", "--output_dir")
    if own := [flag for flag in flags if flag.partition("=")[0] in varied]:
        raise ValueError(f"{own[0]} differs between the runs. Omit it after --; use --arms, --seeds and --output_dir.")
    folder = Path(arguments.output_dir) / (arguments.suite or "own")
    for name, base in data_sets(arguments, flags).items():
        bench = Bench(folder / name, base, in_process=arguments.suite == "smoke", keep=arguments.keep_outputs)
        names = bench.check([REFERENCE, *(arm for arm in arguments.arms if arm != REFERENCE)])
        factors = bench.tune(names, arguments.trials, arguments.tuning_seeds) if arguments.trials > 1 else {}
        for seed in arguments.seeds:
            for arm in names:
                bench.run(arm, seed, factor=factors.get(arm, 1.0))
        comparison.write(folder / name, name, settings=SETTINGS)


def parse_own(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("compare", __doc__)
    parser.add_argument("--suite", choices=SUITES, help="predefined data sets and sizes (default: the flags after --)")
    parser.add_argument("--sets", nargs="+", help="use only these data sets of the suite")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help="folder of a data set")
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=[*ARMS, *SETTINGS], metavar="ARM",
        help=f"methods: {', '.join(ARMS)}; settings of dmt: {', '.join(SETTINGS)} (default: all methods)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits to report (default: 0 1 2)")
    parser.add_argument(
        "--trials", type=int, default=1, choices=range(1, len(TRIED) + 1), help="number of learning rates to try"
    )
    parser.add_argument("--tuning_seeds", type=int, nargs="+", default=[1000], help="splits to try them on")
    parser.add_argument(
        "--output_dir", default="runs/comparison", help="folder for the results (default: runs/comparison)"
    )
    parser.add_argument(
        "--keep_outputs", action="store_true", help="keep the output folder of every run: both models, report and card"
    )
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unknown {unknown[0]}; flags of hf-dmt train follow after --: hf-dmt compare ... -- {unknown[0]}")
    if both := set(arguments.seeds) & set(arguments.tuning_seeds):
        parser.error(f"--seeds and --tuning_seeds overlap in {sorted(both)}; choose other --tuning_seeds")
    if arguments.sets and not set(arguments.sets) <= set(SUITES.get(arguments.suite, ())):
        parser.error(f"--sets are of a suite: {SUITES.get(arguments.suite) and ', '.join(SUITES[arguments.suite])}")
    return arguments


def data_sets(arguments: argparse.Namespace, flags: list[str]) -> dict[str, list[str]]:
    """Flags by data set. Data sets whose folder was not given are skipped with a message."""
    if arguments.suite is None:
        return {"data": flags}
    folders = dict(entry.split("=", 1) for entry in arguments.data)
    found = {}
    for name, base in SUITES[arguments.suite].items():
        needs = [flag[1:-1] for flag in base if flag.startswith("{")]
        if arguments.sets and name not in arguments.sets:
            continue
        if missing := [need for need in needs if need not in folders]:
            print(f"skipping {name}: give its folder with --data {missing[0]}=FOLDER")
            continue
        found[name] = [flag.format(**folders) if flag.startswith("{") else flag for flag in base] + flags
    return found


# ---- budget ----------------------------------------------------------------------------------------------------------


def image_passes(results: dict[str, Any]) -> list[float]:
    """Image passes of each phase of a run, summed over both models: forward and backward 1, forward only 1/3."""
    knobs = results["knobs"]
    batch = knobs["labeled_batch_size"] + knobs["pseudo_batch_size"]
    passes = []
    for entry in results["phases"]:
        on_unlabeled = entry["phase"] > 0
        in_turns = results.get("settings", {}).get("member_schedule") == "alternate"
        members = 1 if in_turns or (on_unlabeled and knobs["exchange"] == "sequential") else 2
        # The teacher's view of every image in the batch; with mixup, the pass that computes the weights.
        without_gradient = on_unlabeled * FORWARD * ((knobs["strategy"] == "online") + (knobs["mixup_alpha"] > 0))
        labeling = 2 * FORWARD * results["num_unlabeled"] if entry["pseudo_labels"] else 0.0
        passes.append(members * entry["steps"] * batch * (1 + without_gradient) + labeling)
    return passes


def at_budget_of(reference: dict[str, Any], knobs: Knobs) -> list[str]:
    """Flags that give a method with these knobs as many image passes as a finished run; [] if it already has as
    many."""
    first, *others = image_passes(reference)
    batch = knobs.labeled_batch_size + knobs.pseudo_batch_size
    if not knobs.label_ratios:
        # A single phase, limited to the number of updates that the budget allows.
        return ["--supervised_epochs", "1e6", "--max_steps", str(round((first + sum(others)) / (2 * batch)))]
    left, unlabeled = sum(others), reference["num_unlabeled"]
    if knobs.strategy == "online":
        cost, ratios = 1 + FORWARD * (1 + (knobs.mixup_alpha > 0)), [1.0]
    elif list(knobs.label_ratios) != reference["knobs"]["label_ratios"]:
        cost, ratios = 1 + FORWARD * (knobs.mixup_alpha > 0), list(knobs.label_ratios)
        left -= len(ratios) * 2 * FORWARD * unlabeled
    else:
        return []
    share = len(ratios) if reference["task"] == "semantic-segmentation" else sum(ratios)
    updates = round(left / (2 * batch * cost))
    epochs = updates * knobs.pseudo_batch_size / (unlabeled * share)
    return ["--label_ratios", *map(str, ratios), "--phase_epochs", repr(epochs)]


# ---- runs ------------------------------------------------------------------------------------------------------------

# Learning rates to try, as multiples of the suite's.
TRIED = (1.0, 0.5, 2.0, 0.25)
CHECKPOINTS = 6  # evaluations of a method without phases: as many as dmt has


class Bench:
    """All runs on one data set; each writes `<arm>-seed-<n>.json` to the folder.

    Args:
        in_process: run in this process instead of a subprocess. This is faster, but the peak memory then includes all
            previous runs.
        keep: keep the output folder of every run in `outputs/<arm>-seed-<n>`.
    """

    def __init__(self, folder: Path, base: list[str], *, in_process: bool, keep: bool = False) -> None:
        self.folder, self.base, self.in_process, self.keep = folder, base, in_process, keep

    def check(self, arms: list[str]) -> list[str]:
        """The arms that can run on this data.

        Raises:
            ValueError: before training, if there is no eval or test split to compare on, or if settings for all runs
                would change the methods or the budget.
        """
        given = settings_given(self.base, RECIPES)
        if given.get("method", REFERENCE) != REFERENCE:
            raise ValueError("The config file sets `method`, which differs between the runs. Omit it, and use --arms.")
        if own := sorted(name for name in OF_A_METHOD if given.get(name) is not None):
            raise ValueError(
                f"`{own[0]}` is set for all runs, but it is one of the settings that tell the methods apart. Omit it, "
                f"and compare settings of {REFERENCE} with --arms: {', '.join(SETTINGS)}."
            )
        if given.get("max_steps", 0) > 0:
            raise ValueError(
                "`max_steps` ends every phase early, so the methods would not have equal budgets. Use "
                "`supervised_epochs` and `phase_epochs`."
            )
        model, data, _ = parse([*self.base, "--output_dir", "unused"], RECIPES)
        images = assemble(data, model.task)
        if images.test is None:
            raise ValueError(
                f"{data.dataset_name!r} has no labeled test split, and methods must be compared on images that "
                "were not used to choose a model. Hold some out (--test_fraction 0.2), put them into test/ beside "
                "train/, or name a split: --test_split."
            )
        if images.evaluation is None:
            raise ValueError(
                f"{data.dataset_name!r} has no eval split, and there are too few labeled images to hold some out. "
                "Label at least 10 images, or name a split: --eval_split."
            )
        no_oracle = (
            "the unlabeled images are a separate set without labels to train on"
            if images.split.get("unlabeled_from")
            else "--labeled_ids names the labeled images. It needs --num_labeled or --labeled_fraction"
            if data.labeled_ids
            else None
        )
        if ORACLE in arms and no_oracle:
            print(f"skipping {ORACLE}: {no_oracle}")
        return [arm for arm in arms if arm != ORACLE or not no_oracle]

    def tune(self, arms: Sequence[str], trials: int, seeds: Sequence[int]) -> dict[str, float]:
        """The learning rate of each arm, as a multiple of the suite's, with the best mean score on the eval split."""
        best = {}
        for arm in arms:
            tried = {}
            for factor in TRIED[:trials]:
                runs = [comparison.Run(self.run(arm, seed, factor=factor, trial=True)) for seed in seeds]
                tried[factor] = sum(run.eval_score() for run in runs) / len(runs)
            best[arm] = max(tried, key=lambda factor: tried[factor])
            listed = ", ".join(f"x {factor:g}: {100 * score:.1f}" for factor, score in tried.items())
            print(f"{arm}: learning rate x {best[arm]:g} (eval {listed})")
        return best

    def run(self, arm: str, seed: int, *, factor: float = 1.0, trial: bool = False) -> dict[str, Any]:
        """The record of one run: loaded if it exists, otherwise created by running it."""
        name = f"{arm}-seed-{seed}" + (f"-rate-{factor:g}" if trial else "")
        file = self.folder / ("trials" if trial else "runs") / f"{name}.json"
        flags = self.flags(arm, seed, factor)
        if file.is_file():
            record: dict[str, Any] = json.loads(file.read_text())
            if record["flags"] != flags:
                raise SystemExit(
                    f"{file} was run with other settings:\n  then: {' '.join(record['flags'])}\n  now:  "
                    f"{' '.join(flags)}\nUse another --output_dir, or delete the file to repeat the run."
                )
            return record
        start = time.monotonic()
        print(f"{name} ...", flush=True)
        with self._output_folder(name) as folder:
            code, output = self._call([*flags, "--output_dir", folder])
            if code:
                raise SystemExit(
                    f"{name}: hf-dmt train exited with code {code} for: {' '.join(flags)}\n{output[-4000:]}"
                )
            results, split = (json.loads((Path(folder) / f).read_text()) for f in ("dmt_results.json", "split.json"))
        record = {
            "arm": arm,
            "seed": seed,
            "flags": flags,
            "passes": image_passes(results),
            "split": split["sha256"],
            "unlabeled_from": split.get("unlabeled_from"),
            "own_process": not self.in_process,
            "results": results,
        }
        write_json(file, record)
        scores = "  ".join(f"{100 * value:5.1f}" for value in comparison.Run(record).last().values())
        print(f"{name:32s} a, b, ensemble: {scores}   {time.monotonic() - start:4.0f} s", flush=True)
        return record

    def flags(self, arm: str, seed: int, factor: float) -> list[str]:
        flags = [*self.base, *{**ARMS, **SETTINGS}[arm], "--split_seed", str(seed), "--seed", str(seed)]
        model, data, args = parse([*flags, "--output_dir", "unused"], RECIPES)
        knobs = args.knobs(model.task)
        rate, rate_b = args.learning_rate, args.learning_rate_b
        if arm == EQUAL:
            rate = rate_b or rate
            flags += ["--model_a", str(model.model_b)]
        if factor != 1.0 or arm == EQUAL:
            flags += ["--learning_rate", repr(factor * rate)]
        if factor != 1.0 and rate_b is not None:
            flags += ["--learning_rate_b", repr(factor * rate_b)]
        looks = "epoch"
        if arm != REFERENCE:
            reference = self.run(REFERENCE, seed)
            results = reference["results"]
            flags += at_budget_of(results, knobs)
            if arm == ORACLE and data.labeled_fraction is not None:
                flags += ["--labeled_fraction", "1"]
            elif arm == ORACLE:
                flags += ["--num_labeled", str(results["num_labeled"] + results["num_unlabeled"])]
            if not knobs.label_ratios or knobs.strategy == "online":
                looks = "steps"
                every = sum(reference["passes"]) / (2 * (knobs.labeled_batch_size + knobs.pseudo_batch_size))
                flags += [f"--{what}_steps={max(1, round(every / CHECKPOINTS))}" for what in ("eval", "save")]
        flags += ["--eval_strategy", looks, "--save_strategy", looks, "--save_total_limit", "1"]
        return [*flags, "--load_best_model_at_end", "true", "--disable_tqdm", "true"]

    def _output_folder(self, name: str) -> contextlib.AbstractContextManager[str]:
        if not self.keep:
            return tempfile.TemporaryDirectory()
        folder = self.folder / "outputs" / name
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped; a finished one is not made again
        return contextlib.nullcontext(str(folder))

    def _call(self, flags: list[str]) -> tuple[int, str]:
        if self.in_process:
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                return train(flags), output.getvalue()
        done = subprocess.run([sys.executable, "-m", "hf_dmt", "train", *flags], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
