"""The gain over training on labels alone, the number that people quote from a run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hf_dmt.commands import compare, demo, predict, queue
from hf_dmt.commands.train import RECIPES, flags_given
from hf_dmt.report.by_class import by_class
from hf_dmt.report.gain import gain_of, headline, signed, why_no_gain
from hf_dmt.report.html import write_report
from hf_dmt.report.next_steps import next_steps
from hf_dmt.report.run import read_run
from hf_dmt.report.terminal import notes, summary
from hf_dmt.training.settings.command_line import parse
from tests.report.runs import write_run

NAMES = ("a", "b", "ensemble")


def change_results(folder: Path, change: dict) -> None:
    file = folder / "dmt_results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def assert_command_exists(command: str) -> None:
    """Read a command with its own parser, which refuses unknown flags and choices; `...` stands for the user's
    flags."""
    program, name, *words = shlex.split(command)
    assert program == "hf-dmt"
    match name:
        case "train" | "compare":
            at = words.index("--") if "--" in words else len(words)
            own, flags = (words[:at], words[at + 1 :]) if name == "compare" else ([], words)
            compare.parse_own(own)
            model, _, args = parse([word for word in flags if word != "..."], RECIPES)
            args.knobs(model.task)
        case "queue":
            assert queue.main(words) == 2, "read, but there is no such run"
        case "predict":
            predict._parser().parse_args(words)
        case "demo":
            demo._parser().parse_args(words)
        case _:
            raise AssertionError(command)


def ended_at(
    folder: Path, accuracy: dict[str, float], mean: dict[str, float] | None = None, *, chance: float | None = 0.02
) -> Path:
    """A run whose exported pair has these test scores; after the labels alone they were 0.53, 0.56 and 0.59."""
    write_run(folder)
    test: dict[str, Any] = {}
    for name in NAMES:
        per_class = {"cat": 0.9, "dog": 0.1}
        test[name] = {"accuracy": accuracy[name], "mean_accuracy": (mean or accuracy)[name]}
        test[name]["per_class_accuracy"] = per_class
        if chance is not None:
            test[name]["chance"] = {"accuracy": chance, "mean_accuracy": chance}
    change_results(folder, {"test": test})
    return folder


def test_gain_is_test_minus_phase_0s_test(tmp_path: Path) -> None:
    """The gain must come from the test split: on eval, which is used to choose among phases, it would look larger than
    it is."""
    run = read_run(write_run(tmp_path))
    gain = gain_of(run)
    assert gain is not None and (gain.split, gain.images) == ("test", 400)
    for name in NAMES:
        before, after = (run.phases[number]["test"][name]["accuracy"] for number in (0, -1))
        assert gain.points(name) == pytest.approx(100 * (after - before))


def test_exported_pair_is_scored_not_the_last_phase(tmp_path: Path) -> None:
    """With load_best_model_at_end the exported pair is that of an earlier phase. The gain must use its test score, and
    the reader must learn why the table of phases ends with another one."""
    usual = read_run(write_run(tmp_path / "usual"))
    assert (of_usual := gain_of(usual)) and not [note for note in notes(usual, of_usual) if "exported pair" in note]
    run = read_run(ended_at(tmp_path / "best", dict.fromkeys(NAMES, 0.5)))
    gain = gain_of(run)
    assert gain is not None and [gain.changes["accuracy"][name].after for name in NAMES] == [0.5, 0.5, 0.5]
    assert "did harm: −3.0 (a), −6.0 (b) and −9.0 (ensemble) points of test accuracy" in headline(run)
    assert "the checkpoint that was best on the eval split" in notes(run, gain)[-1]
    change_results(tmp_path / "best", {"num_phases": 99})
    assert "stopped within a phase" in notes(read_run(tmp_path / "best"), gain)[-1]


@pytest.mark.parametrize(
    ("accuracy", "mean", "chance", "said"),
    [
        ((0.63, 0.66, 0.69), None, 0.02, "were worth +10.0 (a), +10.0 (b) and +10.0 (ensemble) points of test acc"),
        ((0.54, 0.66, 0.60), None, 0.02, "were worth +10.0 (b) points of test accuracy; no clear change for a and the"),
        ((0.54, 0.57, 0.60), None, 0.02, "No clear gain or loss: +1.0 (a), +1.0 (b) and"),
        (
            (0.66, 0.56, 0.40),
            None,
            0.02,
            "worth +13.0 (a) points of test accuracy, but cost −19.0 (ensemble); no clear",
        ),
        ((0.43, 0.66, 0.59), (0.43, 0.56, 0.59), 0.02, "did harm: −10.0 (a) points of test accuracy; no clear change"),
        ((0.63, 0.66, 0.69), None, None, "Change over the labels alone: +10.0 (a)"),
    ],
)
def test_only_what_chance_does_not_explain_is_claimed(
    tmp_path: Path, accuracy: tuple, mean: tuple | None, chance: float | None, said: str
) -> None:
    """Guards against half a point in a headline: it is noise, and people would publish it."""
    scores = [dict(zip(NAMES, values, strict=True)) for values in (accuracy, mean or accuracy)]
    assert said in headline(read_run(ended_at(tmp_path, *scores, chance=chance)))


def test_the_majority_class_is_no_gain(tmp_path: Path) -> None:
    """Guards against a headline of +19 for a model that reaches 72 % by predicting one class for every image."""
    run = read_run(ended_at(tmp_path, dict.fromkeys(NAMES, 0.72), dict.fromkeys(NAMES, 0.5)))
    gain = gain_of(run)
    assert gain is not None and not gain.having("gain")
    assert "worth" not in headline(run)
    (line, *_) = notes(run, gain)
    assert "Always predicting 'cat' would score 75.0 % accuracy, and 50.0 % mean per-class accuracy" in line


@pytest.mark.usefixtures("one_figure")
def test_no_gain_is_claimed_where_labels_collapsed(tmp_path: Path) -> None:
    """Guards against quoting the scores of a run whose models taught each other nonsense like those of any other
    run."""
    write_run(tmp_path)
    phases = read_run(tmp_path).phases
    phases[3]["alarms"] = ["Class 'cat' takes over."]
    change_results(tmp_path, {"phases": phases})
    run = read_run(tmp_path)
    assert headline(run) == "The pseudo labels show signs of collapse (phase 3), so no gain is claimed."
    command = next_steps(run, "here")[0].command
    assert command is not None and "--supervised_epochs" in command
    assert_command_exists(command)
    assert "no gain is claimed" in summary(run) and "no gain is claimed" in write_report(tmp_path).read_text()


@pytest.mark.usefixtures("one_figure")
def test_harm_is_said_with_what_to_try(tmp_path: Path) -> None:
    """Guards against a summary that looks like a gain although the pair became much worse."""
    run = read_run(ended_at(tmp_path, dict.fromkeys(NAMES, 0.3)))
    first, second, *_ = next_steps(run, "here")
    assert "--supervised_epochs" in str(first.command) and "--method supervised" in str(second.command)
    change_results(tmp_path, {"knobs": run.results["knobs"] | {"strategy": "online"}})
    third = next_steps(read_run(tmp_path), "here")[0]
    assert "--strategy phases" in str(third.command)
    for step in (first, second, third):
        assert_command_exists(str(step.command))
    assert "did harm" in write_report(tmp_path).read_text()


def test_without_test_split_the_gain_is_on_eval_and_says_so(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, has_test=False))
    gain = gain_of(run)
    assert gain is not None and gain.split == "eval"
    assert "points of eval accuracy" in headline(run) and "no test split" in notes(run, gain)[-1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "supervised"}, "labels alone"),
        ({"phases": 1}, "No phase on unlabeled images has finished"),
        ({"phases": 0}, "No phase has finished"),
        ({"has_eval": False, "has_test": False}, "No labeled images were held out"),
    ],
)
def test_no_gain_is_claimed_where_nothing_can_be_compared(tmp_path: Path, settings: dict, reason: str) -> None:
    """Guards against a zero or an invented number, which would read as a result."""
    run = read_run(write_run(tmp_path, **settings))
    assert gain_of(run) is None
    assert reason in why_no_gain(run) and headline(run) == why_no_gain(run)


def test_no_gain_without_phase_0(tmp_path: Path) -> None:
    """Without phase 0 there is no gain: phase 1 is not a baseline trained on labels alone."""
    write_run(tmp_path)
    change_results(tmp_path, {"phases": read_run(tmp_path).phases[1:]})
    assert gain_of(read_run(tmp_path)) is None
    assert "supervised_epochs 0" in why_no_gain(read_run(tmp_path))


def test_scores_that_are_null_or_nan_are_no_scores(tmp_path: Path) -> None:
    """A split without valid pixels has null scores. Guards against NaN that spreads into the headline."""
    write_run(tmp_path)
    phases = read_run(tmp_path).phases
    phases[0]["test"] = {"a": {"accuracy": None}, "b": {"accuracy": float("nan")}, "ensemble": {"accuracy": 0.5}}
    change_results(tmp_path, {"phases": phases})
    gain = gain_of(read_run(tmp_path))
    assert gain is not None and gain.names == ["ensemble"]


def test_classes_by_hand(tmp_path: Path) -> None:
    """The weak classes must come first, so that nobody has to scroll through 150 classes to see them."""
    write_run(tmp_path, classes=["x", "y", "z"])
    test = read_run(tmp_path).results["test"]
    test["ensemble"] |= {
        "per_class_accuracy": {"x": 0.9, "y": 0.0, "z": None},
        "confusions": [["y", "x", 8], ["y", "z", 2], ["x", "y", 1]],
    }
    change_results(tmp_path, {"test": test})
    found = by_class(read_run(tmp_path))
    assert found is not None and (found.split, found.present, found.never_found) == ("test", 2, ["y"])
    assert [(row.name, row.units, row.mistaken_for) for row in found.rows] == [
        ("y", 10, ("x", 8)),
        ("x", 30, ("y", 1)),
        ("z", 10, None),
    ]
    assert found.majority == ("x", 0.6)
    before = read_run(tmp_path).phases[0]["test"]["ensemble"]["per_class_accuracy"]["x"]
    assert found.rows[1].change == pytest.approx(100 * (0.9 - before))


def test_a_class_that_is_only_predicted_is_not_one_to_find(tmp_path: Path) -> None:
    """A class without a pixel in the truth has an IoU of 0 as soon as it is predicted. Guards against the advice to
    label more of it because it is never found, and against a wrong score of the majority's class."""
    write_run(tmp_path, classes=["x", "y", "z"], pixels=True)
    results = read_run(tmp_path).results
    results["phases"][0]["classes"]["test"]["z"] = 0
    results["test"]["ensemble"]["per_class_iou"] = {"x": 0.9, "y": 0.0, "z": 0.0}
    change_results(tmp_path, {"test": results["test"], "phases": results["phases"]})
    run = read_run(tmp_path)
    found = by_class(run)
    assert found is not None and (found.present, found.never_found) == (2, ["y"])
    assert [row.name for row in found.rows] == ["y", "x", "z"]
    assert not re.search(r"^z ", summary(run), re.M)
    assert "and 50.0 % mean per-class accuracy" in notes(run, gain_of(run))[0]


@pytest.mark.parametrize("settings", [{}, {"method": "supervised"}, {"phases": 1}, {"pixels": True}, {"has_test": 0}])
def test_steps_are_three_at_most_and_are_commands_that_exist(tmp_path: Path, settings: dict) -> None:
    """Guards against advice with a command, a flag or a method that was renamed."""
    steps = next_steps(read_run(write_run(tmp_path, **settings)), "runs/here")
    assert 1 <= len(steps) <= 3
    for step in steps:
        if step.command is not None:
            assert_command_exists(step.command)


def test_commands_work_in_any_folder_and_after_a_queue(tmp_path: Path) -> None:
    """Guards against a command that takes half of a folder's name for the images to label, and one that fails because
    the labels that were added to the run are not given."""
    folder = write_run(tmp_path / "one two")
    split = json.loads((folder / "split.json").read_text())
    for more, flags in (({}, []), ({"extra_labeled": ["3"]}, ["--extra_labels", "..."])):
        for of in ({}, {"dataset": "digits"}):
            (folder / "split.json").write_text(json.dumps({**split, **more, **of}))
            run = read_run(folder)
            commands = [shlex.split(step.command or "") for step in next_steps(run, str(folder))]
            asked = [words for words in commands if words[:2] in (["hf-dmt", "queue"], ["hf-dmt", "predict"])]
            assert [words[2] for words in asked] == [str(folder)] * 2
            to_queue = asked[0]
            assert ("--extra_labels" in to_queue) == bool(flags) and to_queue[len(to_queue) - len(flags) :] == flags
            assert shlex.quote(str(folder)) in summary(run)


FLAGS = ["--model_a", "tiny:vit", "--model_b", "tiny:resnet", "--dataset_name", "my images/", "--unlabeled_dir", "more",
         "--gamma1", "3", "--label_ratios", "0.5", "1", "--seed=4", "--hub-token", "hf_mine", "--output_dir",
         "runs/1"]  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"method": "supervised"}, {"has_test": 0}, {"chance": "loss"}])
def test_the_terminal_gives_commands_that_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    """Guards against advice that fails as it is printed: with `...` for the images, into a file or folder that is there
    already, over the run itself, or with flags that `hf-dmt compare` refuses; and against a token in a log."""
    monkeypatch.chdir(tmp_path)
    for taken in ("to_label", "labels.csv", "labels-2.csv"):
        Path(taken).mkdir()
    folder = (
        ended_at(Path("run"), dict.fromkeys(NAMES, 0.3)) if "chance" in settings else write_run(Path("run"), **settings)
    )
    run, given = read_run(folder), flags_given(FLAGS, parse(FLAGS, RECIPES)[1])
    commands = [step.command for step in next_steps(run, "run", given) if step.command]
    for command in commands:
        assert_command_exists(command)
        assert "..." not in command and "runs/1" not in command and "hf_mine" not in command
        words = shlex.split(command)
        match words[1]:
            case "compare":
                assert not {"--gamma1", "--seed=4"} & set(words) and "my images/" in words
            case "queue":
                assert words[2:] == shlex.split("run --to to_label-2 --count 100 --dataset_name 'my images/' "
                                                "--unlabeled_dir more")  # fmt: skip
            case "predict":
                assert words[2:] == ["run", "more", "--to", "labels-3.csv"]
            case "train":
                assert "--seed=4" in words and ("--gamma1" in words) == ("--method" not in words)
                assert words[words.index("--output_dir") + 1] == "run-2"
                assert len({word for word in words if word.startswith("--")}) == sum(w.startswith("--") for w in words)
    printed = summary(run, given).partition("what to do next")[2]
    copied = " ".join(printed.replace("\\\n", "").split())
    assert all(command in copied for command in commands)
    assert "..." not in printed and max(map(len, printed.splitlines())) <= 80
    assert "my images/" not in str(next_steps(run, "run")), "a path of this machine"


def test_a_try_leads_to_a_full_run(tmp_path: Path) -> None:
    """Guards against judging the unlabeled images by phases that a limit of updates cut short."""
    folder = ended_at(tmp_path, dict.fromkeys(NAMES, 0.3))
    steps = read_run(folder).phases[0]["steps"]
    change_results(folder, {"settings": {"max_steps": steps}})
    for flags in ([*FLAGS, "--max_steps", str(steps)], FLAGS):  # the last one as from a config file
        given = flags_given(flags, parse(flags, RECIPES)[1])
        first, second, *_ = next_steps(read_run(folder), "run", given)
        assert f"--max_steps {steps} ended phases early" in first.why and "queue" in str(second.command)
        assert parse(shlex.split(str(first.command))[2:], RECIPES)[2].max_steps == -1
        assert next_steps(read_run(folder), "run")[0].command is None
    change_results(folder, {"settings": {"max_steps": 10_000}})
    assert "Phase 0 may have been too short" in next_steps(read_run(folder), "run")[0].why


def test_right_pseudo_labels_lead_to_full_weight(tmp_path: Path) -> None:
    """Guards against a method that was renamed in the advice for pseudo labels that are nearly all right."""
    phases = read_run(write_run(tmp_path)).phases
    for made in phases[-1]["pseudo_labels"].values():
        made["accuracy"] = 0.97
    change_results(tmp_path, {"phases": phases})
    (command,) = [str(step.command) for step in next_steps(read_run(tmp_path), "here") if "At least 97 %" in step.why]
    assert "--method mutual" in command
    assert_command_exists(command)


@pytest.mark.parametrize(("points", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (-0.3, "−0.3"), (12.34, "+12.3")])
def test_a_rounded_zero_has_no_sign(points: float, text: str) -> None:
    """Guards against '-0.0 points', which reads as a loss."""
    assert signed(points) == text


@pytest.mark.parametrize("content", [None, "{", "[]", '{"phases": []}'])
def test_a_folder_without_a_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "dmt_results.json").write_text(content)
    with pytest.raises(ValueError, match=r"dmt_results\.json.*Give the output folder"):
        read_run(tmp_path)
