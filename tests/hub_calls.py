"""The calls that the Hub of the tests answers, without HTTP: the parts of a request go in, a `Reply` comes out."""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.hub_repos import Blob, Commit, HubError, Reply, Repo, Upload, entries, read_card

URL_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".npy", ".npz", ".zip", ".gz")
LFS_SIZE = 10 * 1024**2  # the Hub takes larger files as LFS only
_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+(?:/[^/]+)?)"
_FILES = r"/(?P<kind>datasets/|spaces/)?(?P<id>[^/]+(?:/[^/]+)?)"
_REVISION = r"/(?P<revision>[^/]+)"


@dataclass
class Hub:
    """The state of one Hub."""

    endpoint: str
    tokens: dict[str, tuple[str, str]]  # token to the user's name and "read" or "write"
    page_size: int
    part_size: int
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # by type and id
    uploads: dict[str, Upload] = field(default_factory=dict)


class Calls:
    """One request; `answer` finds its method below by `_ROUTES` and raises `HubError` to refuse.

    A method returns a `Reply`, or what is sent as JSON with status 200.
    """

    def __init__(self, hub: Hub, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        self.hub, self.method, self.headers, self.body = hub, method, headers, body
        self.path, query = urlsplit(target).path, urlsplit(target).query
        self.query = parse_qs(query)

    def answer(self) -> Reply:
        for verb, pattern, call in _ROUTES:
            if verb == self.method and (match := re.fullmatch(pattern, self.path)):
                self.user, self.role = self._identity()
                result = call(self, **{k: unquote(v) for k, v in match.groupdict().items() if v is not None})
                return result if isinstance(result, Reply) else _json(result)
        raise HubError(501, f"The Hub of the tests does not speak {self.method} {self.path}")

    def _identity(self) -> tuple[str | None, str]:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if not token:
            return None, "anonymous"
        if token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _repo(self, kind: str, id: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get((kind.rstrip("s/") or "model", id))
        if repo is None or (repo.private and self.user != repo.owner):
            # The answer does not reveal whether it exists. The status is 401 without a token, as on the real Hub.
            raise HubError(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write:
            self._may_write(repo.owner)
        return repo

    def _may_write(self, owner: str | None) -> None:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if self.user != owner or self.role != "write":
            raise HubError(403, f'You don\'t have the rights to write under the namespace "{owner}"')

    # -- identity and repositories

    def _whoami(self) -> Any:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "test", "role": self.role}
        return {
            "type": "user",
            "id": self.user,
            "name": self.user,
            "fullname": self.user,
            "email": None,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }

    def _create(self) -> Any:
        asked = json.loads(self.body)
        owner = asked.get("organization") or self.user
        self._may_write(owner)
        type, id = asked.get("type") or "model", f"{owner}/{asked['name']}"
        url = f"{self.hub.endpoint}/{URL_PREFIX[type]}{id}"
        if (type, id) in self.hub.repos:
            raise HubError(409, f"You already created this {type} repo", url=url)
        repo = Repo(id, type, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit("main", {".gitattributes": Blob(attributes.encode(), False)}, repo.owner, "initial commit")
        self.hub.repos[type, id] = repo
        return {"url": url, "name": id, "id": secrets.token_hex(12)}

    def _delete(self) -> Any:
        asked = json.loads(self.body)
        repo = self._repo(
            asked.get("type") or "model", f"{asked.get('organization') or self.user}/{asked['name']}", True
        )
        del self.hub.repos[repo.type, repo.id]
        return {}

    def _settings(self, kind: str, id: str) -> Any:
        repo, asked = self._repo(kind, id, write=True), json.loads(self.body)
        repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
        return {"private": repo.private}

    def _info(self, kind: str, id: str, revision: str = "main") -> Any:
        repo = self._repo(kind, id)
        commit = repo.at(revision)
        siblings = []
        for path, blob in sorted(commit.blobs.items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                entry = blob.entry(path)
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if blob.lfs:
                    sibling["lfs"] = entry["lfs"] | {"sha256": blob.sha256}
            siblings.append(sibling)
        card = commit.blobs.get("README.md")
        data = read_card(card.content.decode())[0] if card else {}
        known = {key: data[key] for key in ("pipeline_tag", "library_name") if key in data}
        return {
            "_id": repo.id,
            "id": repo.id,
            "author": repo.owner,
            "sha": commit.oid,
            "createdAt": repo.commits[0].date,
            "lastModified": commit.date,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": list(dict.fromkeys([*data.get("tags", []), *known.values()])),
            "siblings": siblings,
            "cardData": data,
            **known,
        }

    def _auth_check(self, kind: str, id: str, write: str = "") -> Any:
        self._repo(kind, id, write=bool(write))
        return {}

    def _discussions(self, kind: str, id: str) -> Any:
        self._repo(kind, id)
        return {"discussions": [], "count": 0, "start": 0}

    def _validate_yaml(self) -> Any:
        _, errors, warnings = read_card(json.loads(self.body)["content"])
        result = {name: [{"message": m} for m in found] for name, found in (("errors", errors), ("warnings", warnings))}
        return Reply(400 if errors else 200, json.dumps(result).encode(), {"Content-Type": "application/json"})

    # -- commits, branches, tags

    def _preupload(self, kind: str, id: str, revision: str) -> Any:
        known = self._repo(kind, id, write=True).at(revision).blobs
        answers = []
        for file in json.loads(self.body)["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            lfs = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE or b"\0" in sample
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": known[path].etag} if path in known else {}))
        return {"files": answers}

    def _commit(self, kind: str, id: str, revision: str) -> Any:
        repo = self._repo(kind, id, write=True)
        if "create_pr" in self.query:
            raise HubError(501, "The Hub of the tests has no pull requests")
        if revision not in repo.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repo.branches[revision]
        blobs, title, message = dict(head.blobs), "", ""
        for line in self.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            path = value.get("path", "")
            if key == "header":
                title, message = value["summary"], value.get("description", "")
                if not head.oid.startswith(value.get("parentCommit") or ""):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                blobs[path] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in repo.lfs:
                    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
                blobs[path] = Blob(repo.lfs[value["oid"]], lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                folder = path.rstrip("/") + "/"
                gone = [p for p in blobs if (p == path if key == "deletedFile" else p.startswith(folder))]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                for name in gone:
                    del blobs[name]
            else:
                raise HubError(501, f"The Hub of the tests does not speak {key} in a commit")
        card = blobs.get("README.md")
        if card and card != head.blobs.get("README.md") and (errors := read_card(card.content.decode())[1]):
            raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        commit = repo.commit(revision, blobs, self.user or "", title, message)
        url = f"{self.hub.endpoint}/{URL_PREFIX[repo.type]}{id}/commit/{commit.oid}"
        return {"success": True, "commitUrl": url, "commitOid": commit.oid, "hookOutput": ""}

    def _commits(self, kind: str, id: str, revision: str) -> Any:
        commit: Commit | None = self._repo(kind, id).at(revision)
        found = []
        while commit:
            item = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date}
            found.append(item | {"authors": [{"user": commit.author}]})
            commit = commit.parent
        return found

    def _refs(self, kind: str, id: str) -> Any:
        repo = self._repo(kind, id)
        answer: dict[str, list[dict[str, str]]] = {"converts": [], "pullRequests": []}
        for name, folder, refs in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags)):
            answer[name] = [
                {"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": c.oid} for ref, c in refs.items()
            ]
        return answer

    def _create_ref(self, kind: str, id: str, ref: str, name: str) -> Any:
        """A tag's revision is in the URL and its name in the body; for a branch it is the other way round."""
        repo, asked = self._repo(kind, id, write=True), json.loads(self.body or b"{}")
        refs, start = repo.branches, asked.get("startingPoint", "main")
        if ref == "tag":
            refs, start, name = repo.tags, name, asked["tag"]
        if name in refs:
            raise HubError(409, f"Reference already exists: {name}")
        refs[name] = repo.at(start)
        return {}

    def _delete_ref(self, kind: str, id: str, ref: str, name: str) -> Any:
        repo = self._repo(kind, id, write=True)
        refs = repo.tags if ref == "tag" else repo.branches
        if name not in refs:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        if refs is repo.branches and name == "main":
            raise HubError(403, "The main branch cannot be deleted")
        del refs[name]
        return {}

    # -- LFS

    def _lfs_batch(self, id: str, kind: str = "") -> Any:
        repo = self._repo(kind, id, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            objects.append({"oid": asked["oid"], "size": asked["size"]})
            if asked["oid"] in repo.lfs:
                continue  # without `actions`: nothing to send
            key = secrets.token_hex(16)
            self.hub.uploads[key] = Upload(repo, asked["oid"], asked["size"])
            upload: dict[str, Any] = {"href": f"{self.hub.endpoint}/lfs-upload/{key}"}
            if asked["size"] > self.hub.part_size:
                parts = range(1, -(-asked["size"] // self.hub.part_size) + 1)
                upload["header"] = {str(part): f"{upload['href']}/{part}" for part in parts}
                upload["header"]["chunk_size"] = str(self.hub.part_size)
            verify = f"{self.hub.endpoint}/{kind}{id}.git/info/lfs/objects/verify"
            objects[-1]["actions"] = {"upload": upload, "verify": {"href": verify}}
        return {"transfer": "basic", "objects": objects}

    def _lfs_put(self, key: str, part: str = "") -> Any:
        if (upload := self.hub.uploads.get(key)) is None:
            raise HubError(403, "The address of this upload is not valid (any more)")
        upload.parts[int(part or 1)] = self.body
        if not part:
            self._lfs_complete(key)
        return Reply(headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def _lfs_complete(self, key: str) -> Any:
        upload = self.hub.uploads[key]
        content = b"".join(upload.parts[part] for part in sorted(upload.parts))
        if len(content) != upload.size or hashlib.sha256(content).hexdigest() != upload.oid:
            raise HubError(400, f"The uploaded bytes are not the object {upload.oid}")
        upload.repo.lfs[upload.oid] = content
        return {}

    def _lfs_verify(self, id: str, kind: str = "") -> Any:
        asked, stored = json.loads(self.body), self._repo(kind, id, write=True).lfs
        if len(stored.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(404, f"The object {asked['oid']} was not uploaded")
        return {}

    # -- listings and downloads

    def _tree(self, kind: str, id: str, revision: str, folder: str = "") -> Any:
        blobs = self._repo(kind, id).at(revision).blobs
        found = entries(blobs, folder, recursive=self.query.get("recursive", [""])[0].lower() == "true")
        if folder and not found:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        start = int(self.query.get("cursor", ["0"])[0])
        end = start + self.hub.page_size
        headers = {}
        if end < len(found):
            query = urlencode({**{k: v[0] for k, v in self.query.items()}, "cursor": end})
            headers["Link"] = f'<{self.hub.endpoint}{self.path}?{query}>; rel="next"'
        return _json(found[start:end], headers=headers)

    def _paths_info(self, kind: str, id: str, revision: str) -> Any:
        blobs = self._repo(kind, id).at(revision).blobs
        wanted = {path.strip("/") for path in parse_qs(self.body.decode()).get("paths", [])}
        return [entry for entry in entries(blobs, "", recursive=True) if entry["path"] in wanted]

    def _resolve(self, id: str, revision: str, path: str, kind: str = "") -> Any:
        commit = self._repo(kind, id).at(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if (blob := commit.blobs.get(path)) is None:
            refusal = HubError(404, "Entry not found", "EntryNotFound")
            refusal.reply.headers |= headers
            raise refusal
        headers |= {
            "ETag": f'"{blob.etag}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        if asked is None:
            # The size goes out with HEAD as well, where the body does not.
            return Reply(200, blob.content, headers)
        size, (first, last) = len(blob.content), asked.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end:
            return Reply(416, b"", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return Reply(206, blob.content[start : end + 1], headers)


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    content = json.dumps(data, default=str).encode()
    return Reply(status, content, {"Content-Type": "application/json", **(headers or {})})


_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", r"/api/whoami-v2", Calls._whoami),
    ("POST", r"/api/validate-yaml", Calls._validate_yaml),
    ("POST", r"/api/repos/create", Calls._create),
    ("DELETE", r"/api/repos/delete", Calls._delete),
    ("PUT", _API + r"/settings", Calls._settings),
    ("GET", _API + r"/auth-check(?P<write>/write)?", Calls._auth_check),
    ("GET", _API + r"/discussions", Calls._discussions),
    ("GET", _API + r"/refs", Calls._refs),
    ("GET", _API + r"/commits" + _REVISION, Calls._commits),
    ("GET", _API + r"/tree" + _REVISION + r"(?:/(?P<folder>.+))?", Calls._tree),
    ("POST", _API + r"/paths-info" + _REVISION, Calls._paths_info),
    ("POST", _API + r"/preupload" + _REVISION, Calls._preupload),
    ("POST", _API + r"/commit" + _REVISION, Calls._commit),
    ("POST", _API + r"/(?P<ref>branch|tag)/(?P<name>[^/]+)", Calls._create_ref),
    ("DELETE", _API + r"/(?P<ref>branch|tag)/(?P<name>[^/]+)", Calls._delete_ref),
    ("GET", _API + r"(?:/revision" + _REVISION + r")?", Calls._info),
    ("POST", _FILES + r"\.git/info/lfs/objects/batch", Calls._lfs_batch),
    ("POST", _FILES + r"\.git/info/lfs/objects/verify", Calls._lfs_verify),
    ("PUT", r"/lfs-upload/(?P<key>\w+)(?:/(?P<part>\d+))?", Calls._lfs_put),
    ("POST", r"/lfs-upload/(?P<key>\w+)", Calls._lfs_complete),
    ("GET", _FILES + r"/resolve" + _REVISION + r"/(?P<path>.+)", Calls._resolve),
]
