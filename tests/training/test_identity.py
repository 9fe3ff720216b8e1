"""A resume continues the original run, or lists what differs; every setting is either compared or exempted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import Kill, KillAt, images, make_pair, make_trainer, results

from hf_dmt import DMTTrainingArguments
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.files import write_json
from hf_dmt.data.labels.pseudo_labels import read_manifest
from hf_dmt.training.run import checkpoints
from hf_dmt.training.run.checkpoints import best_of
from hf_dmt.training.run.origin import IDENTITY_FILE, RunOrigin
from hf_dmt.training.run.runtime_errors import RunError
from hf_dmt.training.settings import identity
from hf_dmt.training.settings.command_line import ModelArguments
from hf_dmt.training.settings.resuming import ACCEPTABLE, HARMLESS, PLAN_SETTINGS

ALL_SETTINGS = sorted(
    {field.name for kind in (DMTTrainingArguments, DataArguments, ModelArguments) for field in dataclasses.fields(kind)}
)
# Compared by its effect, the rows of phase 0; a resume is refused if they differ.
BY_EFFECT = {"difference_maximized_sampling"}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_trainer(tmp_path_factory.mktemp("run"), make_pair("vit", "resnet"), phase_weights="last")


def identity_of(trainer: Any, **changed: Any) -> dict[str, Any]:
    args, knobs = trainer.args, trainer.knobs
    further = {name: None for name in ALL_SETTINGS if not hasattr(args, name)}
    names = {field.name for field in dataclasses.fields(knobs)}
    for name, value in changed.items():
        if name in names:
            knobs = dataclasses.replace(knobs, **{name: value})
        elif hasattr(args, name):
            args = _with(args, name, value)
        else:
            further[name] = value
    return identity.of_run(args, knobs, trainer.phases, trainer.model, {"labeled": "1"}, further)


def _with(args: Any, name: str, value: Any) -> Any:
    other = object.__new__(type(args))
    other.__dict__ = {**args.__dict__, name: value}
    return other


class Other:
    """A value that no setting has."""

    def __str__(self) -> str:
        return "something else"

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_every_setting_is_compared_or_listed(trainer: Any, name: str) -> None:
    """Guards against a new flag that changes the weights and is not compared: a resume with another value would
    continue as if it were the same run."""
    found = identity.differences(identity_of(trainer), identity_of(trainer, **{name: Other()}), step=1, accepted=())
    listed = name in HARMLESS or name in PLAN_SETTINGS or name in BY_EFFECT
    assert [change.name for change in found.refused] == ([] if listed else [name])


def test_what_is_listed_is_listed_once_and_nothing_private_is_kept(trainer: Any) -> None:
    """Guards against a token or a path of this machine in a checkpoint that is pushed to the Hub."""
    secret = identity_of(trainer, hub_token="hf_SECRET", output_dir="/home/user", dataset_name="/home/user/images")
    assert "SECRET" not in str(secret) and "/home/user" not in str(secret)
    assert not HARMLESS.keys() & ACCEPTABLE.keys() and not HARMLESS.keys() & set(PLAN_SETTINGS)


def test_the_look_at_the_eval_split_counts_where_weights_depend_on_it(trainer: Any) -> None:
    """With phase_weights best, evaluations at other steps keep other weights, so that a resume must compare
    `eval_steps`."""
    often = {"eval_steps": 3}
    assert not identity.differences(identity_of(trainer), identity_of(trainer, **often), step=1, accepted=()).refused
    best = {"phase_weights": "best"}
    found = identity.differences(
        identity_of(trainer, **best), identity_of(trainer, **best, **often), step=1, accepted=()
    )
    assert [change.name for change in found.refused] == ["eval_steps"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed in phase 1, with a checkpoint of update 4. Phases end at updates 3, 5 and 8."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Kill):
        make_trainer(folder, save_strategy="steps", save_steps=2, callbacks=[KillAt(5)]).train()
    return folder


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"method": "supervised"}, 'method: was "dmt", now "supervised"'),
        ({"gamma1": 1.0}, "gamma1: was 5.0, now 1.0"),
        ({"seed": 7}, "seed: was 42, now 7"),
        ({"label_ratios": [0.5, 0.9]}, r"`label_ratios` \[0.5, 1.0\] and \[0.5, 0.9\]"),
        ({"max_steps": 2}, "`max_steps` -1 and 2"),
        ({"learning_rate": 1.0}, "learning_rate: was 0.01"),
        ({"labeled_batch_size": 8}, "labeled_batch_size"),
        ({"augmentation": "strong"}, "augmentation"),
        ({"exchange": "sequential"}, "exchange"),
        ({"phase_epochs": 3.0, "accept_changes": ["phases"]}, "phase_epochs"),  # phase 1 has begun
        ({"unlabeled": images(12, seed=9)}, "unlabeled images: other contents"),
        ({"labeled": images(12, seed=9)}, "labeled images: other contents"),
        ({"gradient_accumulation_steps": 2}, r"`accept_changes=\['gradient_accumulation_steps'\]`"),
    ],
)
def test_another_run_is_refused_with_both_values(killed: Path, changed: dict[str, Any], says: str) -> None:
    """Guards against a dmt run that continues as `supervised` and ends as the baseline that others are compared
    with."""
    trainer = make_trainer(killed, **changed)
    with pytest.raises(ValueError, match=rf"(?s)differs from the run in .*checkpoint-4.*{says}"):
        trainer.checkpoint_to_resume(True)


@pytest.mark.parametrize(
    "changed",
    [
        {"logging_steps": 1},
        {"save_steps": 3, "save_total_limit": 1},
        {"gradient_accumulation_steps": 2, "accept_changes": ["gradient_accumulation_steps"]},
    ],
)
def test_what_may_change_is_recorded(killed: Path, changed: dict[str, Any]) -> None:
    """Guards against a run that does not record from which update its settings differed."""
    trainer = make_trainer(killed, **{"save_strategy": "steps", "save_steps": 2, **changed})
    trainer.checkpoint_to_resume(True)
    name = next(iter(changed))
    assert {"step": 4, "setting": name, "before": pytest.approx(2 if name != "gradient_accumulation_steps" else 1)} | {
        "now": changed[name]
    } in trainer.origin.changes


def test_later_phases_can_be_made_longer_where_that_is_said(trainer: Any) -> None:
    """Guards against longer phases that put a run back into phase 0 with weights that were trained on pseudo labels."""
    now = identity_of(trainer)
    begun = {**now, "plan": [[0, None, 3, None], [1, 0.5, 2, None], [2, 1.0, 3, None]]}
    longer = {**now, "plan": [[0, None, 3, None], [1, 0.5, 2, None], [2, 1.0, 9, None], [3, 1.0, 9, None]]}

    def refused(step: int, accepted: tuple[str, ...]) -> bool:
        return bool(identity.differences(begun, longer, step=step, accepted=accepted).refused)

    assert not refused(5, ("phases",)) and not refused(4, ("phases",)) and not refused(0, ("phases",))
    assert refused(5, ()) and refused(6, ("phases",))
    shorter = identity.differences(longer, begun, step=0, accepted=("phases",))
    assert shorter.refused


def test_an_accepted_precision_is_accepted(trainer: Any) -> None:
    """Guards against refusing `--bf16 true --accept_changes bf16` for the mixed precision that follows from it."""
    now, changed = identity_of(trainer), identity_of(trainer, bf16=True)
    changed["settings"]["mixed_precision"] = "bf16"
    assert not identity.differences(now, changed, step=1, accepted=("bf16",)).refused
    assert len(identity.differences(now, changed, step=1, accepted=()).refused) == 2


@pytest.mark.parametrize(
    ("unknown", "settings", "refused"),
    [
        (("full_determinism", "activation_checkpointing", "exchange", "horizontal_flip"), {}, False),
        (("gamma1",), {"gamma1": 3.0}, True),
        (("full_determinism",), {"full_determinism": True}, True),
    ],
)
def test_a_setting_that_the_first_start_did_not_have(
    killed: Path, tmp_path: Path, unknown: tuple[str, ...], settings: dict[str, Any], refused: bool
) -> None:
    """Guards against a run that cannot be continued after an upgrade, whose new settings are refused although nobody
    has given them."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    file = folder / "checkpoint-4" / "run.json"
    record = json.loads(file.read_text())
    for name in unknown:
        record["identity"]["settings"].pop(name, None)
    write_json(file, record)
    trainer = make_trainer(folder, **settings)
    if refused:
        with pytest.raises(ValueError, match=f"{unknown[0]}: was null"):
            trainer.checkpoint_to_resume(True)
    else:
        trainer.checkpoint_to_resume(True)
        assert not {change["setting"] for change in trainer.origin.changes} & {*unknown}


def test_two_runs_with_equal_settings_are_not_mixed(killed: Path, tmp_path: Path) -> None:
    """Guards against a resume in the folder of a second run with the same settings but other weights: it would continue
    on labels of the second run's models and report the phases of both runs as one."""
    checkpoint, other = killed / "checkpoint-4", tmp_path / "other"
    record = json.loads((killed / IDENTITY_FILE).read_text())
    write_json(other / IDENTITY_FILE, record | {"run_id": "of the other run"})
    with pytest.raises(ValueError, match=r"checkpoint-4' is from another run than the results and pseudo labels in .*"):
        make_trainer(other).checkpoint_to_resume(str(checkpoint))
    # The same by hand: only the labels are those of other weights.
    moved = tmp_path / "moved"
    shutil.copytree(killed, moved)
    record = json.loads((moved / "checkpoint-4" / "run.json").read_text())
    assert record["labels_made_by"] == read_manifest(moved / "pseudo_labels" / "phase-1" / "a")["weights"]
    write_json(moved / "checkpoint-4" / "run.json", record | {"labels_made_by": "other weights"})
    with pytest.raises(RunError, match=r"belong to other images or to another run"):
        make_trainer(moved, save_strategy="steps", save_steps=2).train(resume_from_checkpoint=True)


def test_the_best_checkpoint_is_found_where_the_run_is_now(tmp_path: Path) -> None:
    """Guards against a moved run that ends with its last pair instead of its best one, and against a copied run that
    loads the best pair of the run that is in the old folder by now."""
    new, old = tmp_path / "new", tmp_path / "old"
    for folder, run in ((new, "one"), (old, "two")):
        for step in (2, 4):
            write_json(
                folder / f"checkpoint-{step}" / "run.json",
                {"world_size": 1, "weights": {}, "identity": {}, "run_id": run},
            )
    write_json(new / "checkpoint-4" / "trainer_state.json", {"best_model_checkpoint": str(old / "checkpoint-2")})
    assert best_of(new / "checkpoint-4") == str(new / "checkpoint-2")
    shutil.rmtree(new / "checkpoint-2")
    assert best_of(new / "checkpoint-4") is None, "the one in the old folder is of another run"
    shutil.copytree(new / "checkpoint-4", old / "checkpoint-2", dirs_exist_ok=True)
    assert best_of(new / "checkpoint-4") == str(old / "checkpoint-2")


def test_a_resume_that_fails_leaves_the_records(tmp_path: Path) -> None:
    """Guards against a failed resume that deletes the results of finished phases, here from a checkpoint in the middle
    of a phase whose labels are gone."""
    saving = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, **saving).train()
    before = [(tmp_path / name).read_bytes() for name in ("dmt_results.json", "telemetry.jsonl")]
    with pytest.raises(RunError, match=r"labels of phase 1 are missing.*at the end of the"):
        make_trainer(tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [(tmp_path / name).read_bytes() for name in ("dmt_results.json", "telemetry.jsonl")] == before


def test_the_checkpoint_of_the_arguments_is_used(killed: Path, tmp_path: Path) -> None:
    """Guards against a run that starts from scratch although `resume_from_checkpoint` was set, in the arguments."""
    given = {"save_strategy": "steps", "save_steps": 2, "resume_from_checkpoint": str(killed / "checkpoint-4")}
    assert make_trainer(tmp_path, **given).checkpoint_to_resume(None) == given["resume_from_checkpoint"]
    assert make_trainer(tmp_path, **given).checkpoint_to_resume(False) is None


@pytest.mark.parametrize("asked", ["checkpoint-99", "/nowhere/checkpoint-4", "/nowhere/run", 4])
def test_a_checkpoint_that_is_not_there_is_no_repository(killed: Path, asked: Any) -> None:
    """Guards against a mistyped path that is looked up on the Hub, with an error about repository names."""
    with pytest.raises(ValueError, match=rf"There is no folder '{asked}' to resume from.* has checkpoint-2, .*-4\."):
        make_trainer(killed).checkpoint_to_resume(asked)


def test_starting_over_leaves_no_model_of_the_old_run(tmp_path: Path) -> None:
    """Guards against `overwrite_output_dir` leaving the old models for `pipeline()` until the new run ends, and against
    deleting files of a folder that was not a run's."""
    for name in ("model.safetensors", "config.json", "README.md", "peer/model.safetensors"):
        write_json(tmp_path / name, {})
    origin = RunOrigin({}, world_size=1, accepted=())
    checkpoints.begin(tmp_path, origin, anew=True)
    assert (tmp_path / "README.md").is_file() and (tmp_path / "peer").is_dir()
    write_json(tmp_path / "dmt_config.json", {})
    checkpoints.begin(tmp_path, origin, anew=True)
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_FILE]


def test_another_number_of_processes_goes_on_and_is_said(killed: Path) -> None:
    """Guards against starting over with all results deleted, and against a difference that is not reported."""
    now = make_trainer(killed, save_strategy="steps", save_steps=2)
    now.checkpoint_to_resume(True)
    assert now.origin.changes == []
    two = RunOrigin(now.origin.identity, world_size=2, accepted=())
    two.continue_from(killed / "checkpoint-4", killed)
    assert two.changes == [{"step": 4, "setting": "world_size", "before": 1, "now": 2}]


def test_nothing_finished_is_overwritten_unless_that_is_said(tmp_path: Path) -> None:
    """Guards against a second `train()`, or a resume that finds no complete checkpoint, that overwrites days of
    work."""
    make_trainer(tmp_path, max_steps=1).train()
    before = (tmp_path / "dmt_results.json").read_bytes()
    for resume in (None, True):
        with pytest.raises(ValueError, match=r"already contains a run \(3 finished phase.*`overwrite_output_dir=True`"):
            make_trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=resume)
    assert (tmp_path / "dmt_results.json").read_bytes() == before
    make_trainer(tmp_path, max_steps=2, overwrite_output_dir=True).train()
    assert [entry["steps"] for entry in results(tmp_path)["phases"]] == [2, 2, 2]


def test_finish_leaves_what_the_command_line_leaves(tmp_path: Path, one_figure: None) -> None:
    """Guards against a run from Python without report, split and total time, and against `save_model` writing weights
    that were never scored."""
    few = images(6, seed=3)
    trainer = make_trainer(tmp_path, evaluation=few, test=few, max_steps=1, ema_decay=0.5, learning_rate=0.05)
    trainer.train()
    trainer.finish()
    for name in ("README.md", "report.html", "split.json", "dmt_config.json", "model.safetensors", "figures"):
        assert (tmp_path / name).exists(), name
    found = results(tmp_path)
    assert found["total_seconds"] > 0 and found["test"]["a"] and found["num_phases"] == 3
    trainer.save_model(str(tmp_path / "saved"))
    for member in ("", "peer/"):
        one, two = (folder / f"{member}model.safetensors" for folder in (tmp_path, tmp_path / "saved"))
        assert one.read_bytes() == two.read_bytes()


def test_a_checkpoint_is_read_and_announced_once(
    killed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The command line checks a checkpoint before training. `train()` must not check it again: all weights would be
    read twice, which takes minutes for large models on a network disk, and changes would be reported twice."""
    read: list[Path] = []
    faults = checkpoints.faults
    monkeypatch.setattr(checkpoints, "faults", lambda folder: read.append(Path(folder)) or faults(folder))
    changed = {"gradient_accumulation_steps": 2, "accept_changes": ["gradient_accumulation_steps"]}
    trainer = make_trainer(killed, **changed)
    with caplog.at_level("WARNING"):
        trainer.train(resume_from_checkpoint=trainer.checkpoint_to_resume(True))
    assert [path.name for path in read] == ["checkpoint-4"]
    assert caplog.text.count("Changed from update 4 on") == 1
