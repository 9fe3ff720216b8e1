"""Runs that publish: what is on the Hub during and after training, and what other machines do with it.

The clients are the real ones; `HF_ENDPOINT` points to the test Hub (see tests/conftest.py).
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image
from transformers import pipeline

from hf_dmt import DMTTrainer, ModelPair
from hf_dmt.commands import push
from hf_dmt.hub.repository import LAST_CHECKPOINT, PUBLISHED, HubError, check_target
from hf_dmt.report.html import has_pictures
from scripts.run_dmt import main
from tests import forked
from tests.hub_server import HubServer
from tests.training.small_runs import (
    Kill,
    KillAt,
    assert_same,
    images,
    make_pair,
    make_trainer,
    results,
    state_of,
    without_times,
)

MINE = "hf_mine"
TINY = ["--model_a", "tiny:vit", "--model_b", "tiny:resnet", "--image_size", "16"]
SHORT = ["--max_steps", "2", "--labeled_batch_size", "4", "--pseudo_batch_size", "4", "--label_ratios", "0.5", "1.0"]
PUSH = ["--push_to_hub", "--hub_model_id", "me/run", "--hub_token", MINE]
PAIR = {"config.json", "model.safetensors", "preprocessor_config.json", "peer/config.json", "peer/model.safetensors",
        "peer/preprocessor_config.json", "dmt_config.json", "README.md"}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a small image folder of three classes."""
    root = tmp_path_factory.mktemp("private-place") / "animals"
    generator = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog", "owl")):
        (root / name).mkdir(parents=True)
        for index in range(12):
            noise = generator.integers(0, 60, (20, 24, 3)) + 60 * number
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{index:02d}.png")
    return ["--dataset_name", str(root), "--num_labeled", "15"]


def published_run(data: list[str], out: Path, *more: str) -> None:
    assert main([*data, *TINY, *SHORT, *PUSH, "--output_dir", str(out), *more]) == 0


def pushing_trainer(folder: Path, **settings: Any) -> DMTTrainer:
    """Phases of 3, 2 and 3 updates; every second update is saved, so also within a phase."""
    given = {
        "hub_strategy": "checkpoint",
        "save_strategy": "steps",
        "save_steps": 2,
        "hub_always_push": True,
        **settings,
    }
    return make_trainer(
        folder,
        make_pair("vit", "resnet"),
        evaluation=images(9, seed=3),
        push_to_hub=True,
        hub_model_id="me/run",
        hub_token=MINE,
        **given,
    )


def step_of(content: bytes) -> int:
    return int(json.loads(content)["global_step"])


def test_a_check_of_a_push_creates_nothing(hub: HubServer) -> None:
    """Guards against `hf-dmt check` leaving an empty repository behind, or calling a token good that cannot write."""
    check_target("me/run", token=MINE)
    assert not hub.hub.repos
    for name, token, why in (
        ("me/run", "hf_mine_read_only", "can only read"),
        ("me/run", "hf_wrong", "rejects the token"),
        ("x y", MINE, "not a valid name"),
    ):
        with pytest.raises(HubError, match=why):
            check_target(name, token=token)


class TestAfterTraining:
    def test_a_run_ends_as_a_repository_that_transformers_opens_with_a_card_of_its_figures(
        self, hub: HubServer, data: list[str], tmp_path: Path, one_figure: None
    ) -> None:
        """What a user gets for `--push_to_hub`: the better model at the root, every listed file, and a card with scores
        of this run only."""
        published_run(data, tmp_path / "run")
        repo = hub.repo("me/run")
        found = set(repo.files()) - {".gitattributes"}
        assert [commit.title for commit in repo.commits[1:]] == [
            *(f"Training in progress, step {step}" for step in (2, 4, 6)),
            "End of training",
        ]
        assert found >= PAIR | {"report.html", "dmt_results.json", "split.json", "figures/scores.png"}
        # The unlabeled images that the report on disk shows are their owner's, and are not published.
        assert has_pictures(tmp_path / "run") and b"data:image/" not in repo.files()["report.html"]
        assert all(any(fnmatch(name, pattern) for pattern in PUBLISHED) for name in found)
        written = results(tmp_path / "run")
        card = ModelCard(repo.files()["README.md"].decode())
        measured = {
            round(written["phases"][at]["eval"][who]["accuracy"], 4)
            for at in (0, -1)
            for who in written["phases"][0]["eval"]
        }
        assert card.data.eval_results is not None and len(card.data.eval_results) == 6
        assert {float(result.metric_value) for result in card.data.eval_results} == measured
        assert "better one on the eval split" in card.content
        classify = pipeline("image-classification", "me/run")
        better = json.loads(repo.files()["dmt_config.json"])["primary"]
        scores = written["phases"][-1]["eval"]
        assert scores[better]["accuracy"] == max(scores[name]["accuracy"] for name in "ab")
        assert type(classify.model) is type(ModelPair.from_pretrained("me/run").member(better))
        assert {entry["label"] for entry in classify(Image.new("RGB", (30, 20)))} == {"cat", "dog", "owl"}

    def test_a_private_pair_on_a_branch_is_trained_further(
        self, hub: HubServer, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`--pair` on another machine (a process of its own, with an empty cache) must use the downloaded weights and
        both models' names. Card, report and terminal must not describe the first phase of an already trained pair as
        trained on labels alone."""
        one = ["--label_ratios", "1.0"]  # phase
        published_run(data, tmp_path / "first", "--hub_model_id", "me/private", "--hub_private_repo", "True", *one)
        assert hub.repo("me/private").private
        assert main([*data, "--pair", "me/private", *SHORT, "--output_dir", str(tmp_path / "second")]) == 2
        assert "there is none" in capsys.readouterr().err
        again = [
            *("--learning_rate", "0", "--weight_decay", "0"),
            *("--push_to_hub", "--hub_model_id", "me/private", "--hub_private_repo", "True"),
            *("--hub_revision", "further", "--output_dir", str(tmp_path / "second")),
        ]
        shutil.rmtree(HF_HUB_CACHE, ignore_errors=True)
        log = tmp_path / "log"
        done = forked.start(
            main, [*data, "--pair", "me/private", *SHORT, *again], log=log, environment={"HF_TOKEN": MINE}
        )
        done.join()
        assert done.exitcode == 0, log.read_text()
        for shown in (log.read_text(), (tmp_path / "second" / "report.html").read_text()):
            assert "was already trained when this run started" in shown
            assert "gain over labels alone" not in shown
        files, before = hub.repo("me/private").files("further"), hub.repo("me/private").files()
        parameters = [
            dict(ModelPair.from_pretrained("me/private", revision=name, token=MINE).named_parameters())
            for name in ("main", "further")
        ]
        assert all(torch.equal(value, parameters[1][name]) for name, value in parameters[0].items())
        assert json.loads(files["dmt_config.json"])["continued"] is True
        assert "| labels alone | this pair |" in before["README.md"].decode()
        assert "| labels alone | this pair |" not in files["README.md"].decode()

    def test_the_network_is_down_at_the_end_of_training(
        self,
        hub: HubServer,
        data: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A long run must not be lost: everything is on disk, the exit code tells scripts, and the command in the
        message works."""
        out = tmp_path / "my run"
        hub.fail("/commit/", "cut", times=math.inf)  # the one call that the client does not try again for 23 seconds
        given = [*data, *TINY, *SHORT, *PUSH, "--hub_private_repo", "True", "--hub_strategy", "end"]
        assert main([*given, "--output_dir", str(out)]) == 1
        message = capsys.readouterr().err
        assert "Hub cannot be reached" in message and str(out) in message and MINE not in message
        assert all((out / name).is_file() for name in PAIR | {"report.html", "dmt_results.json"})
        assert set(hub.repo("me/run").files()) == {".gitattributes"}
        hub.faults.clear()
        monkeypatch.setenv("HF_TOKEN", MINE)
        command = shlex.split(message.split("To push it later: ")[1])
        assert command[:2] == ["hf-dmt", "push"]
        assert push.main(command[2:]) == 0
        assert set(hub.repo("me/run").files()) >= PAIR and hub.repo("me/run").private
        assert_same(state_of(ModelPair.from_pretrained("me/run")), state_of(ModelPair.from_pretrained(out)))

    def test_neither_the_token_nor_a_path_of_this_machine_is_written_or_sent(
        self, hub: HubServer, data: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Guards against a token or path in the stock training_args.bin, tracker settings, checkpoints, or whatever is
        added later."""
        out = tmp_path / "run"
        everything = ["--hub_strategy", "all_checkpoints", "--report_to", "tensorboard", "--label_ratios", "1.0"]
        published_run(data, out, *everything)
        assert hub.calls("/commit/") and list(out.rglob("events.out.*"))
        assert hub.find(MINE) == []
        holding = [path for path in out.rglob("*") if path.is_file() and MINE.encode() in path.read_bytes()]
        assert holding == []
        shown = capfd.readouterr()
        assert MINE not in shown.out + shown.err
        private = Path(data[1]).parent
        assert [found for place in (tmp_path, private) for found in hub.find(str(place))] == []


class TestRefusedBeforeTraining:
    @pytest.mark.parametrize(
        ("given", "says"),
        {
            "there is none": ({"--hub_token": ""}, "there is none"),
            "wrong token": ({"--hub_token": "hf_wrong"}, "rejects the token"),
            "read-only token": ({"--hub_token": "hf_mine_read_only"}, "no write access"),
            "another owner": ({"--hub_model_id": "other/run"}, "no write access"),
            "another model": ({"--hub_model_id": "me/single"}, "contains another model"),
            "public where private is asked for": (
                {"--hub_model_id": "me/open", "--hub_private_repo": "True"},
                "is public",
            ),
        }.values(),
        ids=str,
    )
    def test_a_push_that_will_be_refused(
        self,
        hub: HubServer,
        data: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        given: dict[str, str],
        says: str,
    ) -> None:
        """Guards against hours of training whose result cannot be published, and against tokens in messages."""
        api = HfApi(token=MINE)
        for name in ("me/single", "me/open"):
            api.create_repo(name)
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/single")
        flags = {"--hub_model_id": "me/run", "--hub_token": MINE, **given}
        words = [word for pair in flags.items() if pair[1] for word in pair]
        out = tmp_path / "run"
        assert main([*data, *TINY, *SHORT, "--push_to_hub", *words, "--output_dir", str(out)]) == 2
        message = capsys.readouterr().err
        assert says in message and "Traceback" not in message
        assert not given.get("--hub_token") or given["--hub_token"] not in message
        assert not list(out.glob("checkpoint-*"))

    def test_the_hub_is_away_when_a_run_starts(
        self, hub: HubServer, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Guards against hours of training whose result cannot be published because the Hub does not answer at all."""
        hub.fail("", "cut", times=math.inf)
        assert main([*data, *TINY, *SHORT, *PUSH, "--output_dir", str(tmp_path / "run")]) == 2
        assert "cannot be reached" in capsys.readouterr().err

    def test_the_download_of_a_base_model_breaks_off(
        self, hub: HubServer, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Guards against training half a base model as if it were whole; the next start continues the download. (The
        client tries five times before it gives up, which takes 10 seconds.)"""
        make_pair("vit", "resnet").push_to_hub("me/base", token=MINE)
        hub.fail("/resolve/.*model.safetensors", "cut", method="GET", times=math.inf)
        given = [*data, "--model_a", "me/base", "--model_b", "tiny:resnet", "--image_size", "16", *SHORT]
        assert main([*given, "--output_dir", str(tmp_path / "run")]) == 2
        message = capsys.readouterr().err
        assert "'me/base'" in message and "Traceback" not in message
        assert not (tmp_path / "run").exists()
        hub.faults.clear()
        assert main([*given, "--output_dir", str(tmp_path / "run")]) == 0

    def test_a_repository_without_a_checkpoint_is_not_resumed_from(
        self, hub: HubServer, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Guards against a resume that silently starts over."""
        make_pair("vit", "resnet").push_to_hub("me/pair", token=MINE)
        resume = ["--resume_from_checkpoint", "me/pair", "--output_dir", str(tmp_path / "run")]
        assert main([*data, *TINY, *SHORT, *resume]) == 2
        message = capsys.readouterr().err
        assert "no last-checkpoint" in message and "--pair me/pair" in message


class TestDuringTraining:
    @pytest.mark.parametrize(
        ("strategy", "pushes", "checkpoints"),
        [
            ("end", [], set()),
            pytest.param("every_save", [2, 3, 4, 5, 6, 8], set(), marks=pytest.mark.slow),  # part of the last
            pytest.param(
                "checkpoint", [2, 3, 4, 5, 6, 8], {LAST_CHECKPOINT}, marks=pytest.mark.slow
            ),  # and of the next
            (
                "all_checkpoints",
                [2, 3, 4, 5, 6, 8],
                {LAST_CHECKPOINT, *(f"checkpoint-{n}" for n in (2, 3, 4, 5, 6, 8))},
            ),
        ],
    )
    def test_every_push_is_one_commit_of_a_whole_pair(
        self, hub: HubServer, tmp_path: Path, strategy: str, pushes: list[int], checkpoints: set[str]
    ) -> None:
        """Guards against stock pushes, which leave out `peer/`, and against a last-checkpoint from the middle of a
        phase, whose labels nobody could make again."""
        trainer = pushing_trainer(tmp_path / "run", hub_strategy=strategy)
        trainer.train()
        with pytest.MonkeyPatch.context() as alone:  # a single process may save, so nothing may wait for the others
            alone.setattr(trainer, "export", None)
            trainer.save_model()
        trainer.push_to_hub(tag="done")
        repo = hub.repo("me/run")
        commits = repo.commits[1:]
        titles = [f"Training in progress, step {step}" for step in pushes]
        # Nothing changes between the last checkpoint and the end but the card, or not even that.
        ends = ("End of training", "Model save")
        assert [commit.title for commit in commits if commit.title not in ends] == titles
        for number, commit in enumerate(commits):
            names = set(commit.blobs) - {".gitattributes"}
            assert names >= PAIR
            places = {name.split("/")[0] for name in names if "checkpoint" in name.split("/")[0]}
            assert places <= checkpoints
            assert all("checkpoint" in name or any(fnmatch(name, known) for known in PUBLISHED) for name in names)
            pair = ModelPair.from_pretrained("me/run", revision=commit.oid, cache_dir=str(tmp_path / "cache"))
            if number < len(pushes) and (kept := tmp_path / "run" / f"checkpoint-{pushes[number]}").is_dir():
                assert_same(state_of(pair), state_of(ModelPair.from_pretrained(kept)))
            card = commit.blobs["README.md"].content.decode()
            within_run = "saved during training" in card or "Nothing has been scored yet" in card
            assert within_run == (number < len(pushes) - 1), "the weights may be later than the scores"
            if LAST_CHECKPOINT in places:
                assert step_of(commit.blobs[f"{LAST_CHECKPOINT}/trainer_state.json"].content) in (3, 5, 8)
        last = repo.at("main").blobs
        assert {name.split("/")[0] for name in last if "checkpoint" in name.split("/")[0]} == checkpoints
        assert repo.tags["done"].oid == repo.at("main").oid
        assert not list((tmp_path / "run").glob("_push-*")), "what was staged stays behind"

    def test_averaged_weights_are_what_is_pushed(self, hub: HubServer, tmp_path: Path) -> None:
        """Guards against pushing another pair than the one whose scores the card shows. The checkpoint must keep both
        the live and the averaged weights."""
        trainer = pushing_trainer(tmp_path / "run", ema_decay=0.9, save_strategy="epoch")
        trainer.train()
        trainer._finish_current_push()
        pushed = ModelPair.from_pretrained("me/run", cache_dir=str(tmp_path / "cache"))
        live = state_of(trainer.model)
        assert trainer.weights.ema is not None
        with trainer.weights.ema.applied():
            assert_same(state_of(pushed), state_of(trainer.model))
        assert any(not torch.equal(live[name], value) for name, value in state_of(pushed).items())
        assert f"{LAST_CHECKPOINT}/ema.safetensors" in hub.repo("me/run").files()

    def test_a_failed_push_is_reported_and_the_next_one_brings_everything(
        self, hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Guards against the silence of the stock Trainer, which leaves its failures in a future that nobody reads."""
        hub.fail("/commit/", 500, method="POST")
        hub.fail("lfs-upload", "cut", method="PUT", nth=2)
        trainer = pushing_trainer(tmp_path / "run")
        with caplog.at_level(logging.WARNING):
            trainer.train()
            trainer.push_to_hub()
        pushed = {name.split("/")[0] for name in hub.repo("me/run").files() if "checkpoint" in name}
        assert pushed == {LAST_CHECKPOINT}, "hub_strategy checkpoint uploads the last one alone"
        told = [record.message for record in caplog.records if "push during training failed" in record.message]
        assert len(told) == 1 and "internal error" in told[0] and "me/run" in told[0]
        assert_same(state_of(ModelPair.from_pretrained("me/run", cache_dir=str(tmp_path))), state_of(trainer.model))


class TestTakenUpElsewhere:
    @pytest.mark.parametrize(
        "knobs",
        [pytest.param({}, marks=pytest.mark.slow), {"restart": "initial", "ema_decay": 0.9}],
        ids=["continue", "initial-ema"],
    )
    def test_a_run_resumed_from_the_hub_ends_as_one_that_never_stopped(
        self, hub: HubServer, tmp_path: Path, knobs: dict[str, Any]
    ) -> None:
        """Optimizer, random states, initial weights and records must survive the way over the Hub. The pseudo labels
        are not uploaded and are made again where the run continues."""
        reference = make_trainer(
            tmp_path / "reference", make_pair("vit", "resnet"), evaluation=images(9, seed=3), save_strategy="steps",
            save_steps=2, **knobs,
        )  # fmt: skip
        reference.train()
        killed = pushing_trainer(tmp_path / "killed", **knobs)
        killed.add_callback(KillAt(7))
        with pytest.raises(Kill):
            killed.train()
        killed._finish_current_push()
        assert step_of(hub.repo("me/run").files()[f"{LAST_CHECKPOINT}/trainer_state.json"]) == 5
        resumed = pushing_trainer(tmp_path / "elsewhere", **knobs)
        resumed.train(resume_from_checkpoint="me/run")
        resumed.push_to_hub()
        assert_same(state_of(resumed.model), state_of(reference.model))
        assert without_times(results(tmp_path / "elsewhere")["phases"]) == without_times(
            results(tmp_path / "reference")["phases"]
        )
        assert [path.name for path in (tmp_path / "elsewhere" / "pseudo_labels").iterdir()] == ["phase-2"]
