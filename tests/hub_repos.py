"""What the Hub of the tests stores (repositories with their revisions, uploads) and how it reads cards."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any
from urllib.parse import quote

import yaml


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class HubError(Exception):
    """An answer that refuses; `code` is what the clients turn into their own exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        body = json.dumps({"error": message} | more).encode()
        self.reply = Reply(status, body, headers | {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Blob:
    """The content of one file, with the two names that git and LFS give it."""

    content: bytes = field(repr=False)
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def oid(self) -> str:
        """Git's name: of the content, or of the pointer that stands for it in the tree."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
            return entry | {"lfs": lfs}
        return entry


@dataclass(frozen=True)
class Commit:
    """One revision: its whole tree, so that every older revision stays loadable."""

    oid: str
    parent: "Commit | None" = field(repr=False)
    title: str
    message: str
    author: str
    date: str
    blobs: Mapping[str, Blob] = field(repr=False)

    @property
    def changed(self) -> list[str]:
        """Paths that differ from the parent: added, replaced or deleted."""
        before = self.parent.blobs if self.parent else {}
        return sorted(p for p in {*before, *self.blobs} if before.get(p) != self.blobs.get(p))


@dataclass
class Repo:
    id: str
    type: str
    private: bool
    commits: list[Commit] = field(default_factory=list)  # of all branches, in the order of arrival
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict, repr=False)  # uploaded objects, committed or not

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or (the first 7 digits or more of) an oid names."""
        named = self.branches.get(revision) or self.tags.get(revision)
        if named is None and len(revision) >= 7:
            named = next((c for c in self.commits if c.oid.startswith(revision)), None)
        if named is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return named

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.at(revision).blobs.items()}

    def commit(self, branch: str, blobs: Mapping[str, Blob], author: str, title: str, message: str = "") -> Commit:
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        new = Commit(secrets.token_hex(20), self.branches.get(branch), title, message, author, date, dict(blobs))
        self.commits.append(new)
        self.branches[branch] = new
        return new


@dataclass
class Upload:
    """An LFS object that was announced, under an address that nobody can guess (like a pre-signed URL)."""

    repo: Repo
    oid: str
    size: int
    parts: dict[int, bytes] = field(default_factory=dict)


def entries(blobs: Mapping[str, Blob], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below `folder`, sorted by path."""
    prefix = folder.rstrip("/") + "/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, blob in blobs.items():
        if not path.startswith(prefix):
            continue
        names = path[len(prefix) :].split("/")
        for depth in range(1, len(names)):
            parent = prefix + "/".join(names[:depth])
            oid = hashlib.sha1(quote(parent).encode()).hexdigest()
            found[parent] = {"type": "directory", "path": parent, "size": 0, "oid": oid}
        found[path] = blob.entry(path)
    return [entry for path, entry in sorted(found.items()) if recursive or "/" not in path[len(prefix) :]]


def read_card(text: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Metadata of a README.md, and what the Hub finds wrong with it: errors (refused) and warnings."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    if match is None:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return {}, [f"invalid yaml: {error}"], []
    if not isinstance(data, dict):
        return {}, ["the metadata must be a mapping"], []
    errors = []
    for key in ("pipeline_tag", "library_name"):
        if not isinstance(data.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    for key in ("tags", "datasets", "base_model", "license", "language", "metrics"):
        values = data.get(key, [])
        values = values if isinstance(values, list) else [values]
        if not all(isinstance(value, str) for value in values):
            errors.append(f'"{key}" must be a string or a list of strings')
        elif key in ("datasets", "base_model"):  # a folder on somebody's disk is a common mistake here
            wrong = [v for v in values if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", v)]
            errors += [f'"{key}" with value "{v}" is not valid. Use an id of the Hub.' for v in wrong]
    for i, model in enumerate(data.get("model-index") or []):
        needed = {f"[{i}].name": model.get("name")}
        for j, result in enumerate(model.get("results") or [{}]):
            where = f"[{i}].results[{j}]"
            needed[f"{where}.task.type"] = result.get("task", {}).get("type")
            needed |= {f"{where}.dataset.{key}": result.get("dataset", {}).get(key) for key in ("name", "type")}
            for k, metric in enumerate(result.get("metrics") or [{}]):
                needed |= {f"{where}.metrics[{k}].{key}": metric.get(key) for key in ("type", "value")}
        errors += [f'"model-index{key}" is required' for key, value in needed.items() if value is None]
    return data, errors, []
