"""Knobs: explicit over preset over default, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import IMAGES, PIXELS
from transformers import HfArgumentParser

from hf_dmt import DMTTrainingArguments
from hf_dmt.training.settings.knobs import KNOBS, RUN_SETTINGS, Knobs, as_results
from hf_dmt.training.settings.methods import PRESETS, resolve
from tests.table_of_settings import with_table

OFF = {"gamma1": 0.0, "gamma2": 0.0, "positive_disagree": "keep"}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dmt", {"labeler": "peer", "gamma1": 5.0, "gamma2": 5.0, "positive_disagree": "drop", "strategy": "phases"}),
        ("supervised", {"label_ratios": ()}),
        ("cbst", {"labeler": "self", **OFF}),
        ("dst", {"labeler": "self", "gamma1": 5.0, "positive_disagree": "drop"}),
        ("mutual", {"labeler": "peer", **OFF}),
        ("naive", {"labeler": "peer", "gamma1": 5.0, "positive_disagree": "keep"}),
        ("flip", {"labeler": "peer", "gamma2": 5.0, "positive_disagree": "flip"}),
        ("cps", {"strategy": "online", "labeler": "peer", **OFF}),
        ("online-st", {"strategy": "online", "labeler": "self", **OFF}),
        ("curriculum", {"labeler": "self", "restart": "initial", **OFF}),
    ],
)
@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_presets_are_settings_of_one_method(method: str, expected: dict[str, Any], task: str) -> None:
    """Guards against a baseline that still drops positive disagreements because only gamma was set to 0."""
    found = as_results(resolve(method, task, {}))
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in expected.items()}
    assert {key: found[key] for key in expected} == expected
    assert found["class_balanced"] is True
    assert found["labeled_batch_size"] * 3 == found["pseudo_batch_size"]


def test_every_preset_is_covered() -> None:
    """Guards against a preset that no test covers."""
    assert set(PRESETS) == {
        "dmt",
        "supervised",
        "cbst",
        "dst",
        "mutual",
        "naive",
        "flip",
        "cps",
        "online-st",
        "curriculum",
    }


def test_explicit_beats_preset_beats_default(tmp_path: Path) -> None:
    """Guards against a preset that overrides a flag from the command line, and against treating 0 as not given."""
    args = DMTTrainingArguments(str(tmp_path), method="cbst", gamma1=2.0, labeler="peer", supervised_epochs=0.0)
    knobs = args.knobs(IMAGES)
    assert (knobs.gamma1, knobs.gamma2, knobs.labeler, knobs.supervised_epochs) == (2.0, 0.0, "peer", 0.0)
    assert DMTTrainingArguments(str(tmp_path)).knobs(IMAGES) == Knobs()
    assert DMTTrainingArguments(str(tmp_path), class_balanced="true").knobs(IMAGES).class_balanced
    assert DMTTrainingArguments(str(tmp_path)).knobs(PIXELS).class_balanced
    assert DMTTrainingArguments(str(tmp_path), label_ratios=["0.5", 1]).knobs(IMAGES).label_ratios == (0.5, 1.0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"label_ratios": (0.0, 1.0)}, "`label_ratios` contains 0; .* above 0 and at most 1"),
        ({"label_ratios": (20.0,)}, "`label_ratios` contains 20; .* such as 0.2"),
        ({"gamma1": -1.0}, "`gamma1` is -1; it must be 0 or more"),
        ({"gamma2": float("nan")}, "`gamma2` is nan"),
        ({"ema_decay": 1.0}, "`ema_decay` is 1; .* below 1"),
        ({"online_threshold": -0.1}, "`online_threshold` is -0.1"),
        ({"labeler": "teacher"}, "`labeler` 'teacher' does not exist; choose one of: peer, self"),
        ({"strategy": "live"}, "choose one of: phases, online"),
        ({"positive_disagree": "ignore"}, "choose one of: drop, keep, flip"),
        ({"restart": "scratch"}, "choose one of: continue, initial"),
        ({"labeled_batch_size": 0}, "`labeled_batch_size` is 0; .*a batch needs at least one image"),
        ({"phase_epochs": 0.0}, "`phase_epochs` is 0; it must be above 0"),
        ({"supervised_epochs": 0.0, "label_ratios": ()}, "nothing to train"),
        ({"strategy": "online", "restart": "initial"}, "strategy online .* cannot be used"),
        ({"strategy": "online", "label_ratios": ()}, "strategy online .* cannot be used"),
        ({"exchange": "sequential", "labeler": "self"}, "exchange sequential .* does not support"),
    ],
)
@pytest.mark.parametrize("task", [IMAGES, PIXELS])
def test_values_that_cannot_work_are_refused(knobs: dict[str, Any], message: str, task: str) -> None:
    """Guards against a mistyped value that trains something other than intended."""
    with pytest.raises(ValueError, match=message):
        resolve("dmt", task, knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mixup_alpha": 0.5}, "does not work for masks"),
        ({"class_balanced": False}, "a few large classes would fill the whole ratio"),
    ],
)
def test_what_masks_do_not_allow(knobs: dict[str, Any], message: str) -> None:
    """Guards against settings for image classification that segmentation would ignore."""
    with pytest.raises(ValueError, match=message):
        resolve("dmt", PIXELS, knobs)
    resolve("dmt", IMAGES, knobs)


def test_the_official_selection_is_over_all_classes() -> None:
    """Guards against results that say "selected per class" although images were selected over all classes."""
    assert resolve("dmt", IMAGES, {"official": True}).class_balanced is False
    assert resolve("dmt", PIXELS, {"official": True}).class_balanced is True
    with pytest.raises(ValueError, match="class_balanced true and official true exclude each other"):
        resolve("dmt", IMAGES, {"official": True, "class_balanced": True})


def test_unknown_method_lists_the_others() -> None:
    """The error message must list the methods that exist."""
    with pytest.raises(ValueError, match=r"Unknown method 'dtm'; choose one of: dmt, supervised"):
        resolve("dtm", IMAGES, {})


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"num_train_epochs": 10}, "`supervised_epochs` and `phase_epochs`"),
        ({"per_device_train_batch_size": 32}, "`labeled_batch_size` and `pseudo_batch_size`"),
        ({"label_smoothing_factor": 0.1}, "`gamma1` and `gamma2`"),
        ({"auto_find_batch_size": True}, "Set `labeled_batch_size`"),
        ({"dataloader_drop_last": True}, "endless"),
        ({"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, "previous phase's labels"),
        ({"ignore_data_skip": True}, "continues where it stopped"),
        ({"train_sampling_strategy": "group_by_length"}, "fixed proportion"),
        ({"class_balanced": "yes"}, "is not one of: true, false"),
    ],
)
def test_replaced_settings_are_refused_with_what_replaces_them(
    tmp_path: Path, settings: dict[str, Any], instead: str
) -> None:
    """Guards against a stock setting that is accepted and has no effect."""
    name, value = next(iter(settings.items()))
    if name not in DMTTrainingArguments.__dataclass_fields__:
        pytest.skip(f"this transformers has no {name}")
    with pytest.raises(ValueError, match=rf"`{name}` '?{value}.*{instead}"):
        DMTTrainingArguments(str(tmp_path), **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gamma1": "high"}, "`gamma1` is 'high'; give a number"),
        ({"gamma1": True}, "`gamma1` is True; give a number"),
        ({"labeled_batch_size": 8.5}, "`labeled_batch_size` is 8.5; give a whole number"),
        ({"label_ratios": 0.5}, r"`label_ratios` is 0.5, but must be a list: label_ratios=\[0.5\]"),
        ({"label_ratios": ["half"]}, "`label_ratios` contains 'half'; give a number"),
        ({"metrics": "f1"}, r"`metrics` is 'f1', but must be a list: metrics=\['f1'\]"),
        ({"learning_rate": "1e-3"}, "`learning_rate` is '1e-3'; give a number"),
        ({"seed": 1.5}, "`seed` is 1.5; give a whole number"),
        ({"seed": None}, "`seed` is None; give a whole number"),
        ({"max_steps": "2"}, "`max_steps` is '2'; give a whole number"),
        ({"train": None}, "`train` None is not one of"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """Guards against a TypeError where a value is first used, and against reading a string as a list of letters."""
    with pytest.raises(ValueError, match=message):
        DMTTrainingArguments(str(tmp_path), **given)


def test_our_defaults(tmp_path: Path) -> None:
    """Guards against the stock default, which drops columns that a pair needs."""
    args = DMTTrainingArguments(str(tmp_path), remove_unused_columns=True, report_to=None)
    assert args.report_to == [], "None is no tracker, and not one called None"
    assert not args.remove_unused_columns and args.logging_steps == 10 and args.per_device_eval_batch_size == 16


def test_the_page_of_settings_is_what_is_declared() -> None:
    """Guards against a default, a range or a flag in the documentation that differs from the code."""
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert with_table(page) == page, "run: python -m tests.table_of_settings docs/settings.md"


def test_a_setting_is_declared_once(tmp_path: Path) -> None:
    """Guards against a setting that is missing from the command line, the resolved values or the results.

    The stock parser must also accept the arguments and show the default of each task.
    """
    args = DMTTrainingArguments(str(tmp_path))
    actions = {action.dest: action for action in HfArgumentParser(DMTTrainingArguments)._actions}
    for name, one in (KNOBS | RUN_SETTINGS).items():
        assert one.help.split("%")[0] in (actions[name].help or "")
        assert getattr(args, name) == (None if one.method else one.default)
    assert "Default: 16 (masks: 4)" in (actions["labeled_batch_size"].help or "")
    assert actions["positive_disagree"].metavar == "{drop,keep,flip}"
    assert list(as_results(args.knobs(IMAGES))) == list(KNOBS)
    for task in (IMAGES, PIXELS):
        values = as_results(args.knobs(task))
        assert {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()} == {
            name: one.default_for(task) for name, one in KNOBS.items()
        }


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"class_balanced": True}, {"class_balanced": True}),
        ({"class_balanced": "true"}, {"class_balanced": True}),
        ({"class_balanced": False}, {"class_balanced": False}),
        ({"class_balanced": "false"}, {"class_balanced": False}),
        ({"class_balanced": "auto"}, {"class_balanced": True}),
        ({"class_balanced": None}, {"class_balanced": True}),
        ({"difference_maximized_sampling": True}, {"difference_maximized_sampling": "true"}),
        ({"official": "true"}, {"official": True, "class_balanced": False}),
    ],
)
def test_booleans_and_their_words_mean_the_same(tmp_path: Path, given: Any, resolved: dict[str, Any]) -> None:
    """Guards against a setting that means one thing as a boolean and another as a string such as "true"."""
    knobs = DMTTrainingArguments(str(tmp_path), **given).knobs(IMAGES)
    assert {name: getattr(knobs, name) for name in resolved} == resolved
