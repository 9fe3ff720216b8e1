"""A pair on the Hub: what a push uploads, what everybody can load, and the errors.

The clients are the real ones; `HF_ENDPOINT` points to the test Hub (see tests/conftest.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_dmt import DMTTrainingArguments, ModelPair
from hf_dmt.commands.opening import build_pair, look_up_models
from hf_dmt.hub import refusals
from hf_dmt.hub.card import write_card
from hf_dmt.hub.push import push_folder
from hf_dmt.hub.repository import HubError
from hf_dmt.models.loading import CheckpointError
from hf_dmt.training.settings.command_line import ModelArguments
from tests.hub_repos import read_card
from tests.hub_server import HubServer
from tests.training.small_runs import assert_same, make_pair, state_of

MINE, READ_ONLY, OTHERS = "hf_mine", "hf_mine_read_only", "hf_other"
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "peer/config.json",
         "peer/model.safetensors", "peer/preprocessor_config.json", "dmt_config.json"}  # fmt: skip


@pytest.fixture
def pair() -> ModelPair:
    made = make_pair("vit", "resnet")
    made.primary = "b"
    return made


@pytest.fixture
def published(hub: HubServer, pair: ModelPair) -> ModelPair:
    """`me/pair` on the Hub, b at the root."""
    pair.push_to_hub("me/pair", token=MINE)
    return pair


def files(hub: HubServer, revision: str = "main") -> set[str]:
    return set(hub.repo("me/pair").files(revision)) - {".gitattributes"}


def replace(contents: dict[str, bytes | None]) -> None:
    """Put other files into `me/pair`, as another tool would; None deletes a file."""
    operations = [
        CommitOperationDelete(path_in_repo=path)
        if content is None
        else CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        for path, content in contents.items()
    ]
    HfApi(token=MINE).create_commit("me/pair", operations, commit_message="by hand")


class TestPush:
    def test_one_commit_of_the_listed_files(self, hub: HubServer, published: ModelPair) -> None:
        """Guards against half a pair being visible on the Hub, and against uploading anything but the pair."""
        repo = hub.repo("me/pair")
        assert len(repo.commits) == 2 and repo.at("main").changed == sorted(FILES)
        assert files(hub) == FILES

    def test_only_changed_files_travel(self, hub: HubServer, published: ModelPair) -> None:
        """Guards against uploading a gigabyte of unchanged weights with every push."""
        first = hub.repo("me/pair").at("main").oid
        hub.requests.clear()
        published.push_to_hub("me/pair", token=MINE)
        assert hub.repo("me/pair").at("main").oid == first and not hub.calls(method="PUT")
        with torch.no_grad():
            next(published.model_a.parameters()).add_(1)
        published.push_to_hub("me/pair", token=MINE)
        assert hub.repo("me/pair").at("main").changed == ["peer/model.safetensors"]

    def test_files_of_an_earlier_push_do_not_stay_beside_the_new_ones(
        self, hub: HubServer, published: ModelPair
    ) -> None:
        """Guards against leftover results and shards of another pair: `from_pretrained` would even prefer a stale
        weights file."""
        described = json.loads(hub.repo("me/pair").files("main")["dmt_config.json"])
        earlier = ["dmt_results.json", "model.safetensors.index.json", "figures/gain.png"]
        described["published"] += earlier
        replace(dict.fromkeys(earlier, b"{}") | {"dmt_config.json": json.dumps(described).encode()})
        published.push_to_hub("me/pair", token=MINE)
        assert files(hub) == FILES
        assert ModelPair.from_pretrained("me/pair", token=MINE).metadata == published.metadata

    def test_what_no_push_of_ours_brought_stays_and_is_not_overwritten(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """Guards against a push that deletes or overwrites a figure or a half-precision copy that somebody added by
        hand."""
        theirs = {"figures/mine.png": b"png", "model_fp16.safetensors": b"half", "notes.txt": b"mine"}
        replace({**theirs, "split.json": b"{}"})
        published.push_to_hub("me/pair", token=MINE)
        assert {name: hub.repo("me/pair").files("main")[name] for name in theirs} == theirs
        published.save_pretrained(tmp_path)
        (tmp_path / "split.json").write_text('{"labeled": []}')
        with pytest.raises(HubError, match=r"split\.json, which no earlier push of hf_dmt uploaded"):
            push_folder(tmp_path, "me/pair", token=MINE)
        assert hub.repo("me/pair").files("main")["split.json"] == b"{}"
        replace({"model.safetensors.index.json": b"{}"})
        with pytest.raises(HubError, match=r"model\.safetensors\.index\.json.*instead of the weights"):
            published.push_to_hub("me/pair", token=MINE)

    @pytest.mark.parametrize(
        ("file", "says"), [("model.gguf", "contains another model"), ("README.md", "would overwrite")]
    )
    def test_a_repository_of_somebody_else_is_left_alone(
        self, hub: HubServer, pair: ModelPair, file: str, says: str
    ) -> None:
        """Guards against replacing the card of somebody's GGUF repository by one of a pair."""
        api = HfApi(token=MINE)
        api.create_repo("me/other")
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo=file, repo_id="me/other")
        with pytest.raises(HubError, match=says):
            pair.push_to_hub("me/other", token=MINE)
        assert set(hub.repo("me/other").files("main")) == {".gitattributes", file}

    @pytest.mark.parametrize("fault", [429, 503, "lost"])
    def test_a_busy_hub_and_a_lost_answer_are_asked_again(
        self, hub: HubServer, published: ModelPair, fault: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Guards against losing the push at the end of a long run to a brief outage."""
        monkeypatch.setattr(refusals, "_WAITS", (0.0, 0.0))
        published.metadata["phase"] = 4
        hub.fail("/commit/", fault, method="POST")
        published.push_to_hub("me/pair", token=MINE)
        assert len(hub.repo("me/pair").commits) == 3, "one commit, once"
        assert ModelPair.from_pretrained("me/pair", token=MINE).metadata["phase"] == 4

    def test_a_download_that_is_forbidden_is_not_called_unreachable(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """Guards against blaming the network for a missing permission."""
        hub.fail("/resolve/", 403, times=99)
        with pytest.raises(HubError, match="no read access") as refusal:
            ModelPair.from_pretrained("me/pair", token=MINE, cache_dir=str(tmp_path))
        assert "reached" not in str(refusal.value) and "write" not in str(refusal.value)

    def test_branches_tags_and_private_repositories(self, hub: HubServer, pair: ModelPair, tmp_path: Path) -> None:
        """Guards against opening another revision than the named one, and against a private pair that is public."""
        old = state_of(pair)
        pair.push_to_hub("me/pair", token=MINE, private=True, tag="v1")
        with torch.no_grad():
            for parameter in pair.parameters():
                parameter.add_(1)
        pair.push_to_hub("me/pair", token=MINE, revision="trial")
        assert hub.repo("me/pair").private
        for revision, expected in (("v1", old), ("main", old), ("trial", state_of(pair))):
            opened = ModelPair.from_pretrained("me/pair", revision=revision, token=MINE, cache_dir=str(tmp_path))
            assert_same(state_of(opened), expected)
        with pytest.raises(HubError, match="there is none"):
            ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path / "other"))
        with pytest.raises(HubError, match="no branch, tag or commit"):
            ModelPair.from_pretrained("me/pair", revision="v2", token=MINE)
        replace({"dmt_config.json": None})  # main is now another model, which the branch is not
        pair.push_to_hub("me/pair", token=MINE, revision="trial", tag="v3")
        with pytest.raises(HubError, match="contains another model"):
            pair.push_to_hub("me/pair", token=MINE)

    def test_a_push_cut_in_the_middle_leaves_the_older_revision_and_can_be_repeated(
        self, hub: HubServer, published: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Guards against a repository that cannot be opened after a lost connection, and against uploading weights
        twice."""
        monkeypatch.setattr(refusals, "_WAITS", (0.0, 0.0))
        old = state_of(published)
        with torch.no_grad():
            for parameter in published.parameters():
                parameter.add_(1)
        hub.fail("/commit/", "cut", method="POST", times=3)
        hub.requests.clear()
        with pytest.raises(HubError, match="'me/pair' failed"):
            published.push_to_hub("me/pair", token=MINE)
        assert len(hub.calls(method="PUT")) == 2
        assert_same(state_of(ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path / "1"))), old)
        hub.requests.clear()
        published.push_to_hub("me/pair", token=MINE)
        assert not hub.calls(method="PUT"), "weights that had arrived were sent again"
        assert_same(state_of(ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path / "2"))), state_of(published))

    @pytest.mark.parametrize(
        ("attempt", "says"),
        {
            "there is none": ({}, "there is none"),
            "wrong token": ({"token": "hf_wrong"}, "rejects the token"),
            "read-only token": ({"token": READ_ONLY}, "no write access"),
            "another owner": ({"token": MINE, "repo_id": "other/pair"}, "no write access"),
            "not a valid name": ({"token": MINE, "repo_id": "a/b/c"}, "not a valid name"),
            "line break in the token": ({"token": "hf_secret\n"}, "line breaks"),
        }.values(),
        ids=str,
    )
    def test_a_refusal_says_why(self, hub: HubServer, pair: ModelPair, attempt: dict[str, str], says: str) -> None:
        """Guards against a bare status code as the explanation, and against a token in a message."""
        given = {"repo_id": "me/pair", **attempt}
        with pytest.raises(HubError, match=says) as refusal:
            pair.push_to_hub(given.pop("repo_id"), **given)
        chain: BaseException | None = refusal.value
        while chain is not None:
            assert "hf_" not in str(chain).replace("hf_dmt", "")
            chain = chain.__cause__ or chain.__context__
        assert not hub.calls("/commit/")

    @pytest.mark.parametrize(
        ("status", "says"),
        [
            (401, "rejects"),
            (403, "no write access"),
            (404, "no such repository"),
            (409, "taken"),
            (429, "rate limit reached"),
            (500, "internal error"),
        ],
    )
    def test_what_the_hub_answers_is_explained(
        self,
        hub: HubServer,
        pair: ModelPair,
        tmp_path: Path,
        status: int,
        says: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The commit at the end of a long run may be refused: each error must come with its own advice."""
        monkeypatch.setattr(refusals, "_WAITS", (0.0, 0.0))
        pair.push_to_hub("me/pair", token=MINE)
        pair.metadata["phase"] = 3
        hub.fail("/commit/", status, method="POST", times=9)
        with pytest.raises(HubError, match=says):
            pair.push_to_hub("me/pair", token=MINE)
        assert ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path)).metadata.get("phase") is None

    def test_another_model_under_this_name_is_not_overwritten(self, hub: HubServer, pair: ModelPair) -> None:
        """Guards against a mistyped name that overwrites somebody's single model."""
        api = HfApi(token=MINE)
        api.create_repo("me/single")
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/single")
        with pytest.raises(HubError, match=r"contains another model.*Choose another name\."):
            pair.push_to_hub("me/single", token=MINE)

    def test_private_asked_for_and_public_found(self, hub: HubServer, published: ModelPair) -> None:
        """Guards against publishing what was meant to be private: `create_repo` ignores `private` for an existing
        repository."""
        with pytest.raises(HubError, match="is public"):
            published.push_to_hub("me/pair", token=MINE, private=True)

    def test_a_folder_can_be_pushed_later(self, hub: HubServer, pair: ModelPair, tmp_path: Path) -> None:
        """After a run without a network, its folder can be pushed later. Guards against uploading its checkpoints and
        label stores."""
        pair.save_pretrained(tmp_path / "run")
        for name in ("checkpoint-3/model.safetensors", "pseudo_labels/x.zst", "telemetry.jsonl", "training_args.bin"):
            (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "run" / name).write_bytes(b"private")
        (tmp_path / "run" / "split.json").write_text("{}")
        HfApi(token=MINE).create_repo("me/pair")
        push_folder(tmp_path / "run", "me/pair", token=MINE)
        assert files(hub) == FILES - {"README.md"} | {"split.json"}
        assert not list((tmp_path / "run").glob("_push-*")), "what was staged stays behind"

    def test_a_card_that_nobody_edited_names_the_repository(
        self, hub: HubServer, pair: ModelPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Guards against a published card whose examples only work in a folder of its author, and against replacing
        what the author wrote."""
        folder = tmp_path / "one two"
        pair.save_pretrained(folder)
        written = write_card(folder).read_bytes()
        assert b"hf-dmt demo 'one two'" in written
        push_folder(folder, "me/pair", token=MINE)
        published = hub.repo("me/pair").files()["README.md"]
        assert b"one two" not in published and b'pipeline("image-classification", "me/pair")' in published
        assert (folder / "README.md").read_bytes() == written and not caplog.records
        edited = written + b"\nBy hand.\n"
        (folder / "README.md").write_bytes(edited)
        with caplog.at_level("WARNING", "hf_dmt.hub.push"):
            push_folder(folder, "me/pair", token=MINE)
        assert hub.repo("me/pair").files()["README.md"] == edited
        assert (
            "README.md does not mention 'me/pair'" in caplog.text and f"push '{folder}' me/pair --card" in caplog.text
        )

    def test_a_tag_that_exists_is_named_before_anything_is_pushed(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """Guards against advice to choose another repository because of a tag, with the files pushed and untagged."""
        published.save_pretrained(tmp_path)
        push_folder(tmp_path, "me/pair", token=MINE, tag="v1")
        first = hub.repo("me/pair").at("main").oid
        published.metadata["phase"] = 3
        published.save_pretrained(tmp_path)
        with pytest.raises(HubError, match=r"has the tag 'v1' already.*nothing was pushed\. Choose another tag"):
            push_folder(tmp_path, "me/pair", token=MINE, tag="v1")
        assert hub.repo("me/pair").at("main").oid == first == hub.repo("me/pair").tags["v1"].oid


class TestWithoutOurPackage:
    def test_the_better_member_opens_at_the_root_and_the_other_by_subfolder(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """transformers alone must open both models, each with its own image processor."""
        image = Image.new("RGB", (30, 20), (200, 10, 10))
        for place, member in ((".", "b"), ("peer", "a")):
            at = {} if place == "." else {"subfolder": place}
            model = AutoModelForImageClassification.from_pretrained("me/pair", cache_dir=str(tmp_path), **at)
            processor = AutoImageProcessor.from_pretrained("me/pair", cache_dir=str(tmp_path), **at)
            assert type(model) is type(published.member(member))
            assert_same(state_of(model), state_of(published.member(member)))
            with torch.no_grad():
                found = model(**processor(image, return_tensors="pt")).logits
                inputs = published.processor(member)(image, return_tensors="pt")["pixel_values"]
                torch.testing.assert_close(found, published.clean_logits(member, inputs))
        classify = pipeline("image-classification", "me/pair")
        assert type(classify.model) is type(published.model_b)
        assert {entry["label"] for entry in classify(image)} == set(published.class_names)

    def test_offline_from_the_cache_in_a_process_that_cannot_import_this_package_and_then_does(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """Guards against a repository that works only because this package has registered something, and against a
        broken way to the peer, which the card and the documentation show. What was opened once must open again without
        a network, also by `ModelPair`. (All in one process of its own: what it imports takes longer than the rest.)"""
        pixels = make_pair("segformer", "segformer")
        pixels.push_to_hub("me/pixels", token=MINE)
        for name in ("me/pair", "me/pixels"):
            ModelPair.from_pretrained(name, cache_dir=str(tmp_path / "hub"))
        program = """
import sys
sys.modules["hf_dmt"] = None  # an import of it raises
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation, pipeline

image = Image.new("RGB", (30, 20), (200, 10, 10))
for task, auto, repo in (
    ("image-classification", AutoModelForImageClassification, "me/pair"),
    ("image-segmentation", AutoModelForSemanticSegmentation, "me/pixels"),
):
    for place in ({}, {"subfolder": "peer"}):
        predict = pipeline(task, repo, **({"model_kwargs": place} if place else {}))
        weight = next(value for name, value in predict.model.named_parameters() if "classifier" in name)
        assert predict(image)
        opened, said = auto.from_pretrained(repo, output_loading_info=True, **place)
        assert not any(said.values()), said
        assert all(value.equal(opened.state_dict()[name]) for name, value in predict.model.state_dict().items())
        print(type(predict.model).__name__, type(predict.image_processor).__name__, weight.double().sum().item())

del sys.modules["hf_dmt"]
from hf_dmt import ModelPair
pair = ModelPair.from_pretrained("me/pair")
print(sorted(pair.class_names), pair.primary)
try:
    ModelPair.from_pretrained("me/other")
except ValueError as problem:
    print(problem)
"""
        hub.requests.clear()
        outside = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **outside},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        expected = []
        for pair in (published, pixels):
            for name in (pair.primary, "a" if pair.primary == "b" else "b"):
                member = pair.member(name)
                weight = next(value for key, value in member.named_parameters() if "classifier" in key)
                expected.append((type(member).__name__, weight.double().sum().item()))
        *plain, ours, unknown = done.stdout.splitlines()
        found = [line.split() for line in plain]
        assert [(kind, float(total)) for kind, _, total in found] == expected
        assert all(processor.startswith(("ViT", "Bit", "Segformer")) for _, processor, _ in found)
        assert ours == f"{sorted(published.class_names)} b"
        assert "me/other" in unknown and "network" in unknown
        assert not hub.requests


class TestOpen:
    def test_a_pair_is_opened_as_it_was_pushed(self, hub: HubServer, published: ModelPair, tmp_path: Path) -> None:
        """Guards against other weights, swapped names of a and b, and the wrong model at the root."""
        opened = ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))
        assert_same(state_of(opened), state_of(published))
        assert opened.primary == "b" and opened.class_names == published.class_names

    def test_a_start_looks_a_pair_up_once(self, hub: HubServer, published: ModelPair, tmp_path: Path) -> None:
        """`hf-dmt train --pair` must take class names, split and weights from one download: a push in between would
        mix two pairs, and every further look-up costs requests."""
        models, args = ModelArguments(pair="me/pair"), DMTTrainingArguments(output_dir=str(tmp_path / "run"))
        found = look_up_models(models, args)
        hub.requests.clear()
        opened = build_pair(models, args, published.class_names, found.folder)
        assert hub.requests == []
        assert_same(state_of(opened), state_of(published))

    def test_both_members_come_from_one_commit(self, hub: HubServer, pair: ModelPair, tmp_path: Path) -> None:
        """Guards against opening models of two different pairs when there is a push during the download."""
        old = state_of(pair)
        pair.push_to_hub("me/pair", token=MINE)
        repo, first = hub.repo("me/pair"), hub.repo("me/pair").at("main")
        with torch.no_grad():
            for parameter in pair.parameters():
                parameter.add_(1)
        pair.push_to_hub("me/pair", token=MINE)
        newer, repo.branches["main"] = repo.at("main"), first

        class Moving(dict):  # type: ignore[type-arg]
            """A branch that points to a newer commit once it has been read."""

            def get(self, name: str, default: object = None) -> object:
                found = super().get(name, default)
                if name in self:
                    self[name] = newer
                return found

        repo.branches = Moving(repo.branches)
        opened = ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))
        assert_same(state_of(opened), old)

    def test_the_hub_goes_away_and_the_cache_serves(self, hub: HubServer, published: ModelPair, tmp_path: Path) -> None:
        """Guards against a run that cannot start from a cached pair while the Hub is unstable."""
        ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))
        hub.fail("", 500, times=99)
        assert_same(state_of(ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))), state_of(published))

    def test_a_download_cut_in_the_middle_is_taken_up(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """Guards against taking half a weights file for a whole one."""
        hub.fail("/resolve/.*model.safetensors", "cut", method="GET")
        assert_same(state_of(ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))), state_of(published))

    @pytest.mark.parametrize(
        ("change", "says"),
        {
            "a single model": ({"dmt_config.json": None}, "single model.*`model_a`"),
            "no model at all": (
                {"dmt_config.json": None, "config.json": None},
                "not a pair; it is a repository with .* files",
            ),
            "a newer format": ({"dmt_config.json": b'{"format_version": 99}'}, "format 99.*Upgrade"),
            "damaged": ({"dmt_config.json": b"{"}, "damaged"),
            "peer missing": (
                {
                    "peer/config.json": None,
                    "peer/model.safetensors": None,
                    "peer/preprocessor_config.json": None,
                },
                "without its member a: peer/config.json",
            ),
            "weights missing": ({"peer/model.safetensors": None}, "safetensors"),
            "pickled weights": (
                {"model.safetensors": None, "pytorch_model.bin": b"\x80\x04pickle"},
                "safetensors",
            ),
        }.values(),
        ids=str,
    )
    def test_what_is_not_a_whole_pair_is_named(
        self, hub: HubServer, published: ModelPair, tmp_path: Path, change: dict[str, bytes | None], says: str
    ) -> None:
        """Guards against another library's traceback, and against a pair with a random model. Messages name the id, not
        a cache folder."""
        replace(change)
        with pytest.raises((HubError, CheckpointError), match=says) as refusal:
            ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))
        assert "me/pair" in str(refusal.value) and str(tmp_path) not in str(refusal.value)
        assert not list(tmp_path.rglob("*.bin")), "pickled weights are not even downloaded"

    def test_code_of_a_repository_is_refused_unless_asked_for(
        self, hub: HubServer, published: ModelPair, tmp_path: Path
    ) -> None:
        """Guards against code from the Hub that runs when a pair is opened."""
        config = json.loads(hub.repo("me/pair").files()["peer/config.json"])
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
        replace({"peer/config.json": json.dumps(config).encode(), "mine.py": b"raise SystemExit('ran')"})
        with pytest.raises(CheckpointError, match="`trust_remote_code=True`") as refusal:
            ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))
        assert "me/pair" in str(refusal.value) and not list(tmp_path.rglob("*.py"))

    def test_a_data_set_is_called_a_data_set(self, hub: HubServer, tmp_path: Path) -> None:
        """Covers a common mistake: `--pair` with the id of the data."""
        HfApi(token=MINE).create_repo("me/images", repo_type="dataset")
        with pytest.raises(HubError, match="is a data set"):
            ModelPair.from_pretrained("me/images", token=MINE, cache_dir=str(tmp_path))

    def test_a_folder_that_is_not_there_and_an_unknown_name(self, hub: HubServer, tmp_path: Path) -> None:
        """A mistyped folder looks like an id, so the error must cover both."""
        with pytest.raises(HubError, match=r"is not a folder.*not a valid name"):
            ModelPair.from_pretrained(tmp_path / "nothing")
        with pytest.raises(HubError, match=r"is not a folder.*no such repository"):
            ModelPair.from_pretrained("runs/nothing", token=MINE, cache_dir=str(tmp_path))


class TestCardOfABarePair:
    def test_it_claims_nothing_and_passes_the_validation(self, hub: HubServer, published: ModelPair) -> None:
        """Guards against scores in the card of a pair whose training nobody recorded."""
        text = hub.repo("me/pair").files()["README.md"].decode()
        card = ModelCard(text)
        assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-classification"
        assert card.data.base_model is None and card.data.eval_results is None
        assert "## Results" not in text and 'subfolder="peer"' in text and "me/pair" in text
        assert not read_card(text)[1]
        # Releases before 2 send the card to the real Hub for validation, whatever HF_ENDPOINT says.
        if int(huggingface_hub.__version__.split(".")[0]) >= 2:
            card.validate()


def test_the_ensemble_needs_no_checkpoint_of_its_own(hub: HubServer, published: ModelPair, tmp_path: Path) -> None:
    """The pair's own pipeline must work after a push to the Hub and a download."""
    opened = ModelPair.from_pretrained("me/pair", cache_dir=str(tmp_path))
    entries = opened.pipeline()(Image.new("RGB", (30, 20), (200, 10, 10)))
    assert sum(entry["score"] for entry in entries) == pytest.approx(1)
