"""`hf-dmt compare`: equal budgets, paired figures, and continuing an interrupted comparison."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_dmt import ModelPair
from hf_dmt.commands import compare
from hf_dmt.commands.compare import RECIPES, Bench, at_budget_of, image_passes, main
from hf_dmt.commands.comparing import comparison
from hf_dmt.commands.comparing.suites import ARMS, SETTINGS, SUITES
from hf_dmt.data.files import write_json
from hf_dmt.data.splitting.assemble import assemble
from hf_dmt.method import plan_phases
from hf_dmt.training.settings.command_line import parse
from hf_dmt.training.settings.knobs import Knobs
from hf_dmt.training.settings.methods import resolve
from tests.data import small_files

IMAGES, PIXELS = "image-classification", "semantic-segmentation"


def planned(method: str, task: str = IMAGES, **knobs: Any) -> dict[str, Any]:
    """The part of a run's results that determines its cost."""
    settings = {"supervised_epochs": 10, "phase_epochs": 3, "labeled_batch_size": 8, "pseudo_batch_size": 24, **knobs}
    resolved = resolve(method, task, settings)
    units = "images" if task == IMAGES else "pixels"
    counts = {"num_labeled": 50, "num_unlabeled": 1000, "select_units": units}
    numbers = {name: getattr(resolved, name) for name in settings if name not in ("strategy", "label_ratios")}
    online = resolved.strategy == "online"
    ratios = (1.0,) if online else resolved.label_ratios
    phases = plan_phases(label_ratios=ratios, **counts, **{k: v for k, v in numbers.items() if k != "mixup_alpha"})
    return {
        "task": task,
        "knobs": {**vars(resolved), "label_ratios": list(resolved.label_ratios)},
        "num_unlabeled": 1000,
        "phases": [
            {"phase": p.index, "steps": p.steps, "pseudo_labels": {} if p.index == 0 or online else {"a": {}}}
            for p in phases
        ],
    }


def record(arm: str, seed: int, a: float, b: float, *, alone: float = 0.5, labeled: str = "x") -> dict[str, Any]:
    """A run's file."""

    def scores(a: float, b: float) -> dict[str, Any]:
        return {name: {"accuracy": value} for name, value in (("a", a), ("b", b), ("ensemble", max(a, b)))}

    curve = [{"confidence": 0.5, "accuracy": 0.25, "count": 4}, {"confidence": 0.9, "accuracy": 1.0, "count": 4 + seed}]
    figures = {"weight": 0.9, "confidence": 0.8, "disagreement": None, "calibration": curve}
    first = {"phase": 0, "test": scores(alone, alone), "eval": scores(0.4, 0.4), "pseudo_labels": None}
    labels = {"a": {"separation": figures, "accuracy": 0.75}, "b": {"separation": None, "accuracy": None}}
    last = {"phase": 1, "test": scores(a, b), "eval": scores(0.6, 0.8), "pseudo_labels": labels}
    return {
        "arm": arm,
        "seed": seed,
        "passes": [100.0, 50.0],
        "own_process": True,
        "split": {"labeled": f"{labeled}{seed}", "unlabeled": "", "eval": "", "test": ""},
        "results": {
            "task": IMAGES, "phases": [first, last], "test": scores(0.1, 0.3), "total_seconds": 10.0,
            "peak_memory_bytes": 2**30, "num_labeled": 50, "num_unlabeled": 1000, "num_eval": 100, "num_test": 500,
            "environment": {"torch": "2"},
        },
    }  # fmt: skip


def kept(folder: Path, *records: dict[str, Any]) -> Path:
    for made in records:
        write_json(folder / "runs" / f"{made['arm']}-{made['seed']}.json", made)
    return folder


def test_passes_by_hand() -> None:
    """Guards against not counting the passes for labeling, teachers or mixup weights, which makes a method look cheaper
    than it is."""
    phases = planned("dmt", label_ratios=(0.5, 1.0))
    # 16, then 63 and 125 updates of 32 images through two models; each labeling: 1000 images through both, at 1/3 each.
    assert image_passes(phases) == pytest.approx([16 * 64, 63 * 64 + 2000 / 3, 125 * 64 + 2000 / 3])
    in_turns = [{**entry, "steps": 2 * entry["steps"]} for entry in phases["phases"]]
    alternate = {**phases, "phases": in_turns, "settings": {"member_schedule": "alternate"}}
    assert image_passes(alternate) == pytest.approx(image_passes(phases))
    assert image_passes(planned("cps"))[1] == pytest.approx(125 * 64 * 4 / 3)
    with_mixup = planned("dmt", label_ratios=(1.0,), mixup_alpha=0.75)
    assert image_passes(with_mixup) == pytest.approx([16 * 64, 125 * 64 * 4 / 3 + 2000 / 3])


@pytest.mark.parametrize("task", [IMAGES, PIXELS])
@pytest.mark.parametrize(("method", "knobs"), [("cps", {}), ("dmt", {"label_ratios": (0.3, 1.0)}), ("mutual", {})])
def test_a_method_gets_the_passes_of_the_reference(task: str, method: str, knobs: dict[str, Any]) -> None:
    """Guards against giving a method more or fewer passes than dmt, so that the budget decides the comparison."""
    reference = planned("dmt", task)
    own = planned(method, task, **knobs)
    asked = at_budget_of(reference, resolve(method, task, {"labeled_batch_size": 8, "pseudo_batch_size": 24, **knobs}))
    if "--phase_epochs" in asked:
        ratios = tuple(map(float, asked[1 : asked.index("--phase_epochs")]))
        own = planned(method, task, label_ratios=ratios, phase_epochs=float(asked[-1]))
    assert sum(image_passes(own)) == pytest.approx(sum(image_passes(reference)), abs=3 * 64 * 4 / 3)


def test_labels_alone_spend_the_budget_in_one_phase() -> None:
    """Guards against training on labels alone for fewer updates, so that the effect of more training is called a
    gain."""
    reference = planned("dmt")
    knobs = resolve("supervised", IMAGES, {"labeled_batch_size": 8, "pseudo_batch_size": 24, "label_ratios": (0.2,)})
    assert knobs.label_ratios == (), "ratios of a recipe would train labels alone on pseudo labels"
    steps = int(at_budget_of(reference, knobs)[-1])
    assert steps * 64 == pytest.approx(sum(image_passes(reference)), abs=64)


def test_differences_are_paired_by_split(tmp_path: Path) -> None:
    """Guards against unpaired differences, in which the variance between splits, shared by all methods, hides or
    creates a difference, and against a wrong confidence interval."""
    runs = [record("dmt", seed, 0.6 + seed / 10, 0.8 + seed / 10) for seed in (0, 1, 2)]
    runs += [record("labeled-only", seed, 0.5 + seed / 10, 0.7 + seed / 10 - 0.02 * seed) for seed in (0, 1, 2)]
    found = {row["method"]: row for row in comparison.rows(comparison.load(kept(tmp_path, *runs)))}
    assert list(found) == ["labels alone (phase 0)", "labeled-only", "dmt"]
    assert found["dmt"]["members"].mean == pytest.approx(0.8)
    assert found["dmt"]["members"].half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # t(0.975, 2) = 4.3027
    assert found["dmt"]["over_labeled_only"].mean == pytest.approx(0.11)
    assert found["dmt"]["over_labeled_only"].half == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert found["dmt"]["over_phase_0"].mean == pytest.approx(0.3)
    assert found["dmt"]["selected"].mean == pytest.approx(0.2)
    assert (found["dmt"]["cost"], found["labels alone (phase 0)"]["cost"]) == (1.5, 1.0)
    assert found["dmt"]["peak_memory_mib"] == 1024


def test_runs_on_other_labels_are_not_compared(tmp_path: Path) -> None:
    """Guards against comparing runs in a folder that was also used with other data, which would cause the
    differences."""
    folder = kept(tmp_path, record("dmt", 0, 0.6, 0.8), record("cps", 0, 0.6, 0.8, labeled="y"))
    with pytest.raises(ValueError, match="cps and dmt with seed 0 have different labeled images"):
        comparison.load(folder)


def test_tables_say_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against figures under the heading of another method or score, and against a missing warning about an
    unrealistically large eval split."""
    runs = [record("dmt", 0, 0.5, 0.7), record("labeled-only", 0, 0.6, 0.7), record("oracle", 0, 0.9, 0.9, labeled="o")]
    runs.append(record("gamma-0", 0, 0.7, 0.8, alone=0.7))
    comparison.write(kept(tmp_path, *runs), "mine", settings=["gamma-0"])
    text = (tmp_path / "comparison.md").read_text()
    told = capsys.readouterr().out
    assert told.startswith(text) and told.endswith(f"comparison: {tmp_path / 'comparison.md'}\n"), "where it is"
    assert "| dmt | 60.0 | 70.0 | -5.0 | +10.0 | 20.0 | 1.50 | 10 | 1024 | 1 |" in text
    assert text.count("gamma-0") == 1 and "| gamma-0 | 75.0 | 80.0 | +15.0 | +5.0 | 1 |" in text, "its own phase 0"
    assert "| 1 | a | b | 0.900 |  | 0.800 | 62.5 | 70.0 |" in text
    assert (
        "worth, in points of accuracy, -5.0 over labeled-only with the same image passes and +10.0 over phase 0" in text
    )
    assert "the best method was labeled-only with 65.0" in text  # neither dmt nor the oracle
    assert "eval split is larger than the labeled set" in text
    kept_figures = json.loads((tmp_path / "comparison.json").read_text())
    assert {(run["arm"], run["seed"]) for run in kept_figures["runs"]} == {(run["arm"], 0) for run in runs}
    assert kept_figures["runs"][0]["last"] == {"a": 0.5, "b": 0.7, "ensemble": 0.7}
    of_arm = {run["arm"]: run["right_labels"] for run in kept_figures["runs"]}
    assert of_arm["dmt"] == [{"a": {"of_all": 0.625, "kept": 0.75}, "b": {"of_all": None, "kept": None}}]
    assert kept_figures["separation"] == [
        {
            **{"phase": 1, "maker": "a", "weight": 0.9, "confidence": 0.8, "right": 0.625, "sure": 0.7},
            "calibration": [
                {"confidence": 0.5, "accuracy": 0.25, "count": 4},
                {"confidence": 0.9, "accuracy": 1.0, "count": 4},
            ],
        }
    ]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_figure_shows_scores_between_0_and_100(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against an interval over two splits, which may be wider than 100 points, that leaves no room for the
    scores."""
    from matplotlib.figure import Figure

    limits: list[tuple[float, float]] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: limits.append(self.axes[0].get_xlim()))
    runs = [record("dmt", seed, 0.1 + 0.8 * seed, 0.2) for seed in (0, 1)]
    comparison.figure(comparison.rows(comparison.load(kept(tmp_path, *runs))), [], "accuracy")
    assert limits == [(-1, 101)]


def test_a_reader_that_stops_costs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against `hf-dmt compare ... | head` ending in an error, before its tables and figure are written."""

    def gone(text: str) -> int:
        raise BrokenPipeError

    def written(*_: Any) -> None:
        comparison.write(kept(tmp_path, record("dmt", 0, 0.5, 0.7)), "mine")

    monkeypatch.setattr(compare, "compare", written)
    monkeypatch.setattr(sys.stdout, "write", gone)
    with pytest.raises(BrokenPipeError):
        main(["--arms", "dmt"])
    assert {path.suffix for path in tmp_path.glob("comparison.*")} == {".json", ".md", ".png"}


def test_calibration_of_several_splits(tmp_path: Path) -> None:
    """Guards against reporting one split's calibration curve as the curve of all, and against giving a point with few
    labels the same weight as one with many."""
    folder = kept(tmp_path, *(record("dmt", seed, 0.5, 0.7) for seed in (0, 2)))
    (row,) = comparison.separation(comparison.load(folder)["dmt"])
    assert row["calibration"] == [
        {"confidence": 0.5, "accuracy": 0.25, "count": 8},
        {"confidence": pytest.approx(0.9), "accuracy": 1.0, "count": 10},
    ]
    assert (row["right"], row["sure"]) == pytest.approx(((2 + 10) / 18, (4 + 9) / 18))


def without_gpu(base: list[str]) -> list[str]:
    """A suite's flags without `--bf16 true`, which needs a GPU."""
    flags = [flag.strip("{}") for flag in base]
    if "--bf16" in flags:
        place = flags.index("--bf16")
        del flags[place : place + 2]
    return flags


@pytest.mark.parametrize("suite", SUITES)
def test_every_setting_of_a_suite_is_accepted(suite: str) -> None:
    """Guards against a flag that the command line no longer knows, noticed only an hour into a suite or on a GPU
    machine."""
    for name, base in SUITES[suite].items():
        for arm, own in {**ARMS, **SETTINGS}.items():
            flags = without_gpu(base)
            model, data, args = parse([*flags, *own, "--output_dir", "unused"], RECIPES)
            if "graph" in own and model.task == "semantic-segmentation":
                with pytest.raises(ValueError, match="labeler graph compares whole images"):
                    args.knobs(model.task)
                continue
            knobs = args.knobs(model.task)
            assert knobs.phase_epochs != Knobs().phase_epochs, f"{name}, {arm}: defaults for large data sets"
            assert data.num_labeled or suite == "smoke", f"{name}, {arm}: nothing is unlabeled"


def test_tuned_seeds_are_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against reporting the split that the learning rate was chosen on as if it were new."""
    with pytest.raises(SystemExit):
        main(["--seeds", "0", "1", "--tuning_seeds", "1"])
    assert "--seeds and --tuning_seeds overlap in [1]" in capsys.readouterr().err


def test_flags_of_the_arms_are_not_given_for_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against an arm called dmt that is another method, and a seed that every run silently replaces."""
    for flags in (["--method", "cbst"], ["--seed=3"]):
        assert main(["--arms", "dmt", "--", *flags]) == 2
        assert "differs between the runs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--arms", "dmt", "--dataset_name", "mine"])
    assert "follow after --: hf-dmt compare ... -- --dataset_name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "config", "said"),
    [
        (["--gamma1", "3"], "", "--gamma1 is set for all runs, but it is one of the settings that tell the methods"),
        (["--strategy=phases"], "", "--strategy is set for all runs"),
        ([], "labeler: self", "--labeler is set for all runs"),
        ([], "method: mutual", "sets --method, which differs between the runs"),
        ([], "max_steps: 20", "--max_steps ends every phase early"),
        (["--max_steps", "20"], "", "Use --supervised_epochs and --phase_epochs"),
    ],
)
def test_settings_for_all_runs_change_neither_methods_nor_budget(
    flags: list[str], config: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against an arm called dmt or mutual that is another method, as a flag or a line of a config file applies
    to all of them, and against a limit of updates that takes most of their budget from the methods with one phase."""
    (tmp_path / "mine.yaml").write_text(f"seed: 1\n{config}\n")
    assert main(["--arms", "dmt", "--output_dir", str(tmp_path), "--", str(tmp_path / "mine.yaml"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_the_oracle_has_all_labels_if_the_others_have_a_fraction(tmp_path: Path) -> None:
    """Guards against a comparison that ends in an error at its last run, the oracle, because two of its flags choose
    the labeled images."""
    small_files.class_folder(tmp_path / "data" / "train", each=20)
    base = f"--dataset_name {tmp_path}/data --model_a tiny:vit --model_b tiny:resnet --labeled_fraction 0.25"
    bench = Bench(tmp_path, base.split(), in_process=True)
    parts = {"labeled": 12, "unlabeled": 45}
    made = {**planned("dmt"), **{f"num_{name}": count for name, count in parts.items()}}
    reference = {"results": made, "flags": bench.flags("dmt", 0, 1.0), "passes": image_passes(made)}
    write_json(tmp_path / "runs" / "dmt-seed-0.json", reference)
    _, data, _ = parse([*bench.flags("oracle", 0, 1.0), "--output_dir", "unused"], RECIPES)
    assert assemble(data, IMAGES).unlabeled is None


def test_an_oracle_that_cannot_be_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a comparison that ends in an error at its last run: other labeled images than those of a file
    cannot be chosen without changing its other roles."""
    for split in ("train", "test"):
        small_files.class_folder(tmp_path / "data" / split, each=6)
    (tmp_path / "ids.txt").write_text(
        "".join(f"train/{name}/0{n}.jpg\n" for name in ("cat", "dog", "owl") for n in range(5))
    )
    images = f"--dataset_name {tmp_path}/data --model_a tiny:vit --model_b tiny:resnet".split()
    bench = Bench(tmp_path, [*images, "--labeled_ids", str(tmp_path / "ids.txt")], in_process=True)
    assert bench.check(["dmt", "oracle"]) == ["dmt"]
    assert "skipping oracle: --labeled_ids names the labeled images" in capsys.readouterr().out
    assert Bench(tmp_path, [*images, "--num_labeled", "12"], in_process=True).check(["dmt", "oracle"])[1:] == ["oracle"]


def test_a_folder_of_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    """Guards against comparing digits and scenes in one folder, so that the second table contains the figures of the
    first."""
    made = {**record("dmt", 0, 0.6, 0.8), "flags": ["--task", "semantic-segmentation"]}
    write_json(tmp_path / "own" / "data" / "runs" / "dmt-seed-0.json", made)
    with pytest.raises(SystemExit, match="was run with other settings"):
        main(["--arms", "dmt", "--seeds", "0", "--output_dir", str(tmp_path)])


def smoke(folder: Path, *arms: str) -> dict[str, dict[str, Any]]:
    """The smoke suite with fewer and smaller images than the digits."""
    for split, each in (("train", 20), ("test", 4)):
        small_files.class_folder(folder / "data" / split, each=each)
    less = f"--dataset_name {folder}/data --num_labeled 15 --model_a tiny:vit --model_b tiny:resnet --image_size 16"
    less += " --labeled_batch_size 4 --pseudo_batch_size 4 --supervised_epochs 2 --phase_epochs 1 --label_ratios 0.5 1"
    main(
        [
            "--suite",
            "smoke",
            "--seeds",
            "0",
            "--keep_outputs",
            "--output_dir",
            str(folder),
            "--arms",
            *arms,
            "--",
            *less.split(),
        ]
    )
    runs = [json.loads(file.read_text()) for file in (folder / "smoke" / "digits" / "runs").glob("*.json")]
    return {run["arm"]: run for run in runs}


def test_smoke_runs_at_equal_budget_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against real runs with other budgets than planned, an interrupted comparison that starts over, an output
    folder without its models, and an hour without a word on what is running."""
    runs = smoke(tmp_path, "labeled-only")
    begun, ended = (line for line in capsys.readouterr().out.splitlines() if line.startswith("labeled-only-seed-0"))
    assert begun == "labeled-only-seed-0 ..." and "a, b, ensemble" in ended
    file = tmp_path / "smoke" / "digits" / "runs" / "labeled-only-seed-0.json"
    before = file.stat().st_mtime_ns
    runs = smoke(tmp_path, "labeled-only", "fixmatch")
    assert file.stat().st_mtime_ns == before, "a finished run is not run again"
    assert runs.keys() == {"dmt", "labeled-only", "fixmatch"}
    budget, half_an_update = sum(runs["dmt"]["passes"]), 8 * 2 * 4 / 3 / 2  # with a third more for a teacher
    for arm, run in runs.items():
        assert sum(run["passes"]) == pytest.approx(budget, abs=half_an_update), arm
        assert run["split"]["labeled"] == runs["dmt"]["split"]["labeled"]
    assert len(runs["labeled-only"]["results"]["phases"]) == 1
    assert runs["fixmatch"]["results"]["knobs"]["online_threshold"] == 0.95
    assert (tmp_path / "smoke" / "digits" / "comparison.png").is_file()
    kept = tmp_path / "smoke" / "digits" / "outputs"
    assert all((kept / f"{arm}-seed-0" / "peer" / "model.safetensors").is_file() for arm in runs)
    assert len(comparison.right_labels(comparison.Run(runs["dmt"]))) == len(runs["dmt"]["passes"]) - 1
    assert comparison.right_labels(comparison.Run(runs["labeled-only"])) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_method_runs(tmp_path: Path) -> None:
    """Guards against a listed method whose settings the command line now refuses."""
    assert smoke(tmp_path, *ARMS).keys() == ARMS.keys()


@pytest.mark.parametrize("suite", SUITES)
def test_the_builtin_models_of_a_suite_can_be_built(suite: str) -> None:
    """Guards against a renamed network that is noticed only on a rented machine."""
    for base in SUITES[suite].values():
        model, *_ = parse([*without_gpu(base), "--output_dir", "x"], RECIPES)
        named = {source for source in (model.model_a, model.model_b) if source and ":" in source}
        for source in named:
            pair = ModelPair.from_models(source, source, task=model.task, id2label={0: "x", 1: "y"}, image_size=32)
            assert pair.num_parameters() > 0
