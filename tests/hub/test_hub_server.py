"""The test Hub against the real clients: if it answered wrongly, the other tests would not show what the real Hub does.

All calls run in this process, each with the `endpoint` of its own server.
"""

import json
import math
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import (
    HfApi,
    HfFileSystem,
    ModelCard,
    ModelCardData,
    RepoFile,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import save_file

from tests.hub_server import HubServer

TOKEN, READ_TOKEN, OTHER_TOKEN = "hf_mine", "hf_mine_read_only", "hf_other"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(
        users={"me": TOKEN, "other": OTHER_TOKEN}, read_only={"me": READ_TOKEN}, page_size=2, part_size=2**20
    ) as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of a pair: some are uploaded as LFS objects, some inside the commit."""
    root = tmp_path / "pair"
    (root / "peer").mkdir(parents=True)
    for place, value in ((root, 1.0), (root / "peer", 2.0)):
        save_file({"weight": torch.full((100,), value)}, place / "model.safetensors")
        (place / "config.json").write_text(json.dumps({"value": value}))
    (root / "README.md").write_text("---\nlicense: apache-2.0\ntags: [dmt]\n---\nA pair.\n")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(api: HfApi, folder: Path, **more: Any) -> str:
    """Make one commit to me/pair, creating it if it is missing; returns the commit's oid."""
    api.create_repo("me/pair", exist_ok=True)
    return api.upload_folder(repo_id="me/pair", folder_path=folder, **more).oid


def test_folder_arrives_whole_in_one_commit(hub: HubServer, api: HfApi, folder: Path) -> None:
    """Guards against a push in several commits, which would leave half a pair on the Hub for a while."""
    oid = push(api, folder, commit_message="A pair", commit_description="of two")
    repo = hub.repo("me/pair")
    head = repo.at("main")
    assert (head.oid, head.title, head.message, head.author) == (oid, "A pair", "of two", "me")
    assert len(hub.calls("/commit/", "POST")) == 1 and len(repo.commits) == 2
    assert head.changed == sorted(contents(folder))
    assert {p: c for p, c in repo.files().items() if p != ".gitattributes"} == contents(folder)
    assert {p for p, blob in head.blobs.items() if blob.lfs} == {
        "model.safetensors",
        "peer/model.safetensors",
    }


def test_names_of_files_are_those_of_git_and_lfs(hub: HubServer, api: HfApi, folder: Path) -> None:
    """Guards against wrong file hashes: clients would upload unchanged files again, or keep outdated ones from their
    cache."""
    (folder / "hello.txt").write_bytes(b"hello\n")
    push(api, folder)
    info = {f.path: f for f in api.list_repo_tree("me/pair", recursive=True) if isinstance(f, RepoFile)}
    assert set(info) == {*contents(folder), ".gitattributes"}, "pages were lost"
    assert info["hello.txt"].blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"  # what `git hash-object` says
    weights = (folder / "model.safetensors").read_bytes()
    lfs = info["model.safetensors"].lfs
    assert lfs is not None and (lfs.size, lfs.sha256) == (len(weights), sha256(weights).hexdigest())


def test_only_changed_files_travel(hub: HubServer, api: HfApi, folder: Path) -> None:
    first = push(api, folder)
    hub.requests.clear()
    assert push(api, folder) == first, "an unchanged folder made a commit"
    (folder / "peer" / "config.json").write_text("{}")
    push(api, folder)
    assert hub.repo("me/pair").at("main").changed == ["peer/config.json"]
    assert not hub.calls(method="PUT"), "unchanged weights were sent again"


@pytest.mark.parametrize("size", [2**20, 2**20 + 1, 3 * 2**20])
def test_large_objects_travel_in_parts(hub: HubServer, api: HfApi, tmp_path: Path, size: int) -> None:
    """No byte may be lost where an upload changes from one part to several."""
    content = os.urandom(size)
    api.create_repo("me/pair")
    api.upload_file(path_or_fileobj=content, path_in_repo="model.safetensors", repo_id="me/pair")
    assert hub.repo("me/pair").files()["model.safetensors"] == content
    assert len(hub.calls("lfs-upload", "PUT")) == -(-size // 2**20)


def test_older_revisions_stay_loadable(hub: HubServer, api: HfApi, folder: Path, tmp_path: Path) -> None:
    """Guards against a server that keeps only the newest files: every test of a pinned revision would pass by
    chance."""
    old = push(api, folder)
    api.create_tag("me/pair", tag="v1")
    before = contents(folder)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
    push(api, folder, delete_patterns=["peer/*"], ignore_patterns=["peer/*"])
    cache: Any = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache"}
    for revision in (old, "v1"):
        got = contents(Path(snapshot_download("me/pair", revision=revision, **cache)))
        assert {p: c for p, c in got.items() if p != ".gitattributes"} == before
        for name in ("config.json", "model.safetensors"):
            path = hf_hub_download("me/pair", name, revision=revision, **cache)
            assert Path(path).read_bytes() == before[name]
    new = contents(Path(snapshot_download("me/pair", **cache)))
    assert new["config.json"] == b"{}" and not [p for p in new if p.startswith("peer/")]
    assert api.model_info("me/pair", revision="v1").sha == old != api.model_info("me/pair").sha
    assert [c.commit_id for c in api.list_repo_commits("me/pair")][1] == old


def test_branches_and_tags(hub: HubServer, api: HfApi, folder: Path) -> None:
    main = push(api, folder)
    api.create_branch("me/pair", branch="runs/1", revision=main)
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_branch("me/pair", branch="runs/1")
    assert refused.value.response.status_code == 409
    api.create_branch("me/pair", branch="runs/1", exist_ok=True)
    (folder / "config.json").write_text("{}")
    side = push(api, folder, revision="runs/1")
    api.create_tag("me/pair", tag="v1", revision="runs/1")
    refs = api.list_repo_refs("me/pair")
    assert {b.name: b.target_commit for b in refs.branches} == {"main": main, "runs/1": side}
    assert {t.name: t.target_commit for t in refs.tags} == {"v1": side}
    assert hub.repo("me/pair").files("runs/1")["config.json"] == b"{}" != hub.repo("me/pair").files()["config.json"]
    api.delete_tag("me/pair", tag="v1")
    api.delete_branch("me/pair", branch="runs/1")
    with pytest.raises(RevisionNotFoundError):
        push(api, folder, revision="runs/1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/pair", revision="v1")


def test_commit_on_an_outdated_parent_is_refused(hub: HubServer, api: HfApi, folder: Path) -> None:
    """Two writers must not overwrite each other silently."""
    old = push(api, folder)
    api.delete_folder("peer", "me/pair")
    with pytest.raises(HfHubHTTPError) as refused:
        api.delete_file("config.json", "me/pair", parent_commit=old)
    assert refused.value.response.status_code == 412
    assert "config.json" in hub.repo("me/pair").files() and "peer/config.json" not in hub.repo("me/pair").files()
    with pytest.raises(EntryNotFoundError):
        api.delete_file("peer/config.json", "me/pair")


def test_repositories_by_name_and_kind(hub: HubServer, api: HfApi) -> None:
    """A model and a dataset of the same name are two repositories; a second one of the same kind is refused."""
    url = api.create_repo("me/x")
    assert (url.repo_id, url.repo_type) == ("me/x", "model")
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("me/x")
    assert refused.value.response.status_code == 409
    assert api.create_repo("x", exist_ok=True).repo_id == "me/x"
    assert api.create_repo("me/x", repo_type="dataset").repo_type == "dataset"
    assert api.create_repo("me/x", repo_type="space", space_sdk="static").repo_type == "space"
    assert api.dataset_info("me/x").sha == hub.repo("me/x", "dataset").at("main").oid != api.model_info("me/x").sha
    assert api.repo_exists("me/x") and not api.repo_exists("me/y")
    assert api.file_exists("me/x", ".gitattributes") and not api.file_exists("me/x", "config.json")
    api.delete_repo("me/x")
    assert not api.repo_exists("me/x") and api.repo_exists("me/x", repo_type="dataset")


def test_who_may_write(hub: HubServer, api: HfApi, folder: Path) -> None:
    assert api.whoami()["name"] == "me"
    head = push(api, folder)
    for token, status in ((OTHER_TOKEN, 403), (READ_TOKEN, 403), (False, 401), ("hf_wrong", 401)):
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_repo("me/new", token=token)
        assert refused.value.response.status_code == status
        with pytest.raises(HfHubHTTPError) as refused:
            api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="me/pair", token=token)
        assert refused.value.response.status_code == status
    assert hub.repo("me/pair").at("main").oid == head
    # Creating with exist_ok falls back to looking, which a token that may only read can do.
    assert api.create_repo("me/pair", exist_ok=True, token=READ_TOKEN).repo_id == "me/pair"
    with pytest.raises(HfHubHTTPError) as refused:
        api.whoami(token="hf_wrong")
    assert refused.value.response.status_code == 401


def test_private_repository_is_hidden(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("me/secret", private=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/secret")

    def read(token: str | bool) -> str:
        return hf_hub_download("me/secret", "config.json", endpoint=hub.endpoint, cache_dir=tmp_path, token=token)

    for token in (False, OTHER_TOKEN):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("me/secret", token=token)
        with pytest.raises(RepositoryNotFoundError):
            read(token)
    with pytest.raises(HfHubHTTPError) as refused:
        api.model_info("me/secret", token="hf_wrong")
    assert not isinstance(refused.value, RepositoryNotFoundError)
    assert api.model_info("me/secret").private and Path(read(READ_TOKEN)).read_bytes() == b"{}"
    api.update_repo_settings("me/secret", private=False)
    assert api.model_info("me/secret", token=False).private is False


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, "cut"])
def test_failed_commit_changes_nothing(hub: HubServer, api: HfApi, folder: Path, status: Any) -> None:
    """A failed upload must leave the previous revision, and the next push must send only what is missing."""
    old = push(api, folder)
    save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
    hub.fail("/commit/", status)
    with pytest.raises(Exception) as failed:
        push(api, folder)
    if status != "cut":
        assert isinstance(failed.value, HfHubHTTPError) and failed.value.response.status_code == status
    assert hub.calls("/commit/")[-1].status == status
    assert hub.repo("me/pair").at("main").oid == old
    hub.requests.clear()
    push(api, folder)
    assert hub.repo("me/pair").at("main").changed == ["model.safetensors"]
    assert not hub.calls(method="PUT"), "weights that had arrived were sent again"


def test_lost_answer_leaves_the_commit(hub: HubServer, api: HfApi, folder: Path) -> None:
    """The answer is lost but the commit is made: clients must expect that an error does not prove that nothing was
    done."""
    old = push(api, folder)
    (folder / "config.json").write_text("{}")
    hub.fail("/commit/", "lost")
    with pytest.raises(Exception, match=r"(?i)disconnect|reset|closed"):
        push(api, folder)
    assert hub.repo("me/pair").at("main").oid != old
    assert hub.repo("me/pair").files()["config.json"] == b"{}"


def test_faults_hit_the_requests_they_name(hub: HubServer, api: HfApi, folder: Path) -> None:
    """A fault must hit the n-th request and no other. An upload that is cut or refused for a while is tried again."""
    hub.fail("/preupload/", 429, method="POST")
    hub.fail("lfs-upload", 500, method="PUT", nth=2)
    hub.fail("lfs-upload", "cut", method="PUT", nth=3)
    api.create_repo("me/pair")
    api.upload_folder(repo_id="me/pair", folder_path=folder, allow_patterns="*.safetensors")
    puts = [r.status for r in hub.calls("lfs-upload", "PUT")]
    assert sorted(map(str, puts)) == ["200", "200", "500", "cut"]
    assert [r.status for r in hub.calls("/preupload/")] == [429, 200]
    assert hub.repo("me/pair").files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    hub.fail("/api/models/", 500, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError):
            api.model_info("me/pair")
    api.model_info("me/pair")


def test_hub_that_is_away(hub: HubServer, api: HfApi) -> None:
    """Every connection must break, as with the network down, until the faults are removed."""
    hub.fail("", "cut", times=math.inf)
    for _ in range(3):
        with pytest.raises(Exception, match=r"(?i)disconnect|reset|closed"):
            api.create_repo("me/pair")
    assert not hub.hub.repos
    hub.faults.clear()
    api.create_repo("me/pair")


def test_cut_download_goes_on_where_it_stopped(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    """A download must continue where it was cut. Clients write 10 MiB at a time, so the file is larger: some of it must
    be on disk to continue from."""
    content = os.urandom(2**20) * 24
    api.create_repo("me/pair")
    api.upload_file(path_or_fileobj=content, path_in_repo="model.safetensors", repo_id="me/pair")
    hub.fail("/resolve/", "cut", method="GET")
    path = hf_hub_download("me/pair", "model.safetensors", endpoint=hub.endpoint, cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    first, second = hub.calls("/resolve/", "GET")
    assert first.status == "cut" and second.status == 206
    assert int(second.headers["range"].removeprefix("bytes=").rstrip("-")) >= 10 * 2**20


def test_ranges_of_a_file(hub: HubServer, api: HfApi) -> None:
    """Readers of parquet and safetensors request only the end or pieces of a file."""
    api.create_repo("me/data", repo_type="dataset")
    api.upload_file(path_or_fileobj=bytes(range(100)), path_in_repo="a/b.bin", repo_id="me/data", repo_type="dataset")
    files = HfFileSystem(endpoint=hub.endpoint, token=TOKEN)
    assert files.find("datasets/me/data") == ["datasets/me/data/.gitattributes", "datasets/me/data/a/b.bin"]
    assert files.isdir("datasets/me/data/a") and files.info("datasets/me/data/a/b.bin")["size"] == 100
    with files.open("datasets/me/data/a/b.bin", block_size=10) as file:
        file.seek(-5, 2)
        assert file.read() == bytes(range(95, 100))
        file.seek(20)
        assert file.read(3) == bytes(range(20, 23))


def test_secrets_are_found_wherever_they_went(hub: HubServer, api: HfApi, folder: Path) -> None:
    """Guards against a search that overlooks encoded files and so lets a token pass."""
    push(api, folder)
    assert hub.find(TOKEN) == []
    places = {"a.txt": "/commit/", "b.bin": "lfs-upload"}
    for name, path in places.items():
        hub.requests.clear()
        (folder / name).write_text(f"text {TOKEN} text")
        push(api, folder)
        assert any(path in found for found in hub.find(TOKEN))
    hub.requests.clear()
    api.create_tag("me/pair", tag="v1", tag_message=TOKEN)
    api.create_branch("me/pair", branch=TOKEN)
    assert len(hub.find(TOKEN)) == 2


def test_cards_are_checked_and_read(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/pair")
    data = ModelCardData(license="apache-2.0", pipeline_tag="image-classification", base_model=["a/b", "c"])
    text = f"---\n{data.to_yaml()}\n---\nA pair.\n"
    api.upload_file(path_or_fileobj=str(ModelCard(text)).encode(), path_in_repo="README.md", repo_id="me/pair")
    info = api.model_info("me/pair")
    assert info.pipeline_tag == "image-classification" and info.card_data is not None
    assert info.card_data.base_model == ["a/b", "c"]
    head = hub.repo("me/pair").at("main")
    for wrong in ("base_model: ./runs/1", "tags: [1]", "a: [", "model-index: [{name: x, results: [{}]}]"):
        with pytest.raises(ValueError, match="Invalid metadata"):
            api.upload_file(
                path_or_fileobj=f"---\n{wrong}\n---\n".encode(), path_in_repo="README.md", repo_id="me/pair"
            )
    assert hub.repo("me/pair").at("main") is head


def test_unspoken_calls_are_named(hub: HubServer, api: HfApi) -> None:
    """A call that the test Hub does not support must not look like a missing repository."""
    api.create_repo("me/pair")
    with pytest.raises(HfHubHTTPError, match=r"super-squash") as refused:
        api.super_squash_history("me/pair")
    assert refused.value.response.status_code == 501
