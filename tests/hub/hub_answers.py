"""How the test double of the Hub answers: the paths that huggingface_hub calls for model repositories."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.hub.card_rules import metadata_errors

TOKEN, USER = "hf_token_of_the_double", "someone"
_LARGE = (".safetensors", ".png", ".parquet", ".bin")


class RefusedError(Exception):
    """An answer that is no success: its status, what went wrong, what else is told, and further headers."""

    def __init__(self, status: int, message: str, told: dict[str, Any] | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.content = {"error": message, "errors": [{"message": message}], **(told or {})}
        self.headers = {"X-Error-Message": message} | {key.replace("_", "-"): text for key, text in headers.items()}


@dataclass
class Repository:
    """Commits by their id, each a file's digest by path; branches point to commits."""

    private: bool = False
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, str], message: str) -> str:
        oid = hashlib.sha1(json.dumps([sorted(files.items()), message, len(self.commits)]).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def find(self, revision: str) -> str:
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", X_Error_Code="RevisionNotFound")
        return oid


class Handler(BaseHTTPRequestHandler):
    """One request to a `HubDouble`; what is asked for is found by `_ROUTES`."""

    protocol_version = "HTTP/1.1"
    hub: Any

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(self.path).path)
        try:
            for method, pattern, write, act in _ROUTES:
                if self.command in method.split() and (match := re.fullmatch(pattern, path)):
                    if write and self.token != TOKEN:
                        raise RefusedError(401, "Invalid credentials in Authorization header")
                    self._send(200, *act(self, **match.groupdict()))
                    return
            raise RefusedError(404, f"the double knows no {self.command} {path}")
        except RefusedError as error:
            self._send(error.status, error.content, error.headers)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def whoami(self) -> tuple[Any, ...]:
        return ({"name": USER, "type": "user", "orgs": [], "auth": {}},)

    def create(self) -> tuple[Any, ...]:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repositories:
            raise RefusedError(409, "You already created this model repo", url)
        made = self.hub.repositories[repo] = Repository(asked.get("visibility") == "private")
        made.commit("main", {".gitattributes": self.hub.keep(b"*.safetensors filter=lfs\n")}, "initial commit")
        return (url,)

    def branch(self, repo: str, branch: str) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        if branch in found.branches:
            raise RefusedError(409, "the branch is there")
        found.branches[branch] = found.find("main")
        return ({},)

    def info(self, repo: str, revision: str | None) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        sha = found.find(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(found.commits[sha])]
        return ({"id": repo, "sha": sha, "siblings": siblings, "private": found.private, "tags": []},)

    def tree(self, repo: str, revision: str, inside: str | None) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        files = found.commits[found.find(revision)]
        wanted = [path for path in files if path.startswith(f"{inside}/" if inside else "")]
        if inside and not wanted:
            raise RefusedError(404, f"{inside} does not exist", X_Error_Code="EntryNotFound")
        return ([{"type": "file", "path": path, **self._facts(files[path], path)} for path in wanted],)

    def paths(self, repo: str, revision: str) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        files = found.commits[found.find(revision)]
        wanted = [path for path in json.loads(self.body)["paths"] if path in files]
        return ([{"type": "file", "path": path, **self._facts(files[path], path)} for path in wanted],)

    def _facts(self, oid: str, path: str) -> dict[str, Any]:
        size = len(self.hub.read(oid))
        large = {"lfs": {"oid": oid, "size": size, "pointerSize": 134}} if path.endswith(_LARGE) else {}
        return {"oid": _git_oid(self.hub.read(oid)), "size": size, **large}

    def preupload(self, repo: str, revision: str) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        there = found.commits[found.find(revision)]
        answer = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            large = path.endswith(_LARGE)
            known = {}
            if path in there:
                known = {"oid": there[path] if large else _git_oid(self.hub.read(there[path]))}
            answer.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known})
        return ({"files": answer},)

    def batch(self, repo: str) -> tuple[Any, ...]:
        self.hub.repository(repo, self.token)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if not (self.hub.folder / item["oid"]).exists():
                links = {"upload": f"/large/{item['oid']}", "verify": f"/large/{item['oid']}/verify"}
                item["actions"] = {name: {"href": self.hub.url + link} for name, link in links.items()}
        return ({"transfer": "basic", "objects": objects},)

    def put(self, oid: str) -> tuple[Any, ...]:
        self.hub.receive(oid, self.body)
        return ({},)

    def verify(self, oid: str) -> tuple[Any, ...]:
        if len(self.hub.read(oid)) != json.loads(self.body)["size"]:
            raise RefusedError(400, "the size is another")
        return ({},)

    def commit(self, repo: str, revision: str) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        lines = [json.loads(line) for line in self.body.splitlines()]
        head = lines[0]["value"]
        if head.get("parentCommit", found.branches[revision]) != found.branches[revision]:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[found.branches[revision]])
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = self.hub.keep(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "lfsFile" and (self.hub.folder / line["value"]["oid"]).exists():
                files[path] = line["value"]["oid"]
            elif line["key"] == "deletedFile" and path in files:
                del files[path]
            else:
                raise RefusedError(400, f"{line['key']} {path} refers to nothing")
        oid = found.commit(revision, files, head["summary"])
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        return ({"commitUrl": url, "commitOid": oid, "pullRequestUrl": None},)

    def resolve(self, repo: str, revision: str, path: str) -> tuple[Any, ...]:
        found = self.hub.repository(repo, self.token)
        sha = found.find(revision)
        if path not in found.commits[sha]:
            raise RefusedError(404, "Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        oid = found.commits[sha][path]
        return self.hub.read(oid), {"ETag": f'"{oid}"', "X-Repo-Commit": sha}

    def validate(self) -> tuple[Any, ...]:
        if errors := metadata_errors(json.loads(self.body)["content"]):
            raise RefusedError(400, "; ".join(errors))
        return ({"errors": [], "warnings": []},)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO, _API = r"(?P<repo>[^/]+/[^/]+)", r"/api/models/(?P<repo>[^/]+/[^/]+)"
# Methods, path, whether the token is looked at, and what answers.
_ROUTES: tuple[tuple[str, str, bool, Any], ...] = (
    ("GET", r"/api/whoami-v2", True, Handler.whoami),
    ("POST", r"/api/repos/create", True, Handler.create),
    ("POST", r"/api/validate-yaml", False, Handler.validate),
    ("POST", _API + r"/branch/(?P<branch>.+)", True, Handler.branch),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", True, Handler.preupload),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", True, Handler.commit),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", False, Handler.paths),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<inside>.+))?", False, Handler.tree),
    ("GET", _API + r"(?:/revision/(?P<revision>.+))?", False, Handler.info),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", True, Handler.batch),
    ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", False, Handler.put),
    ("POST", r"/large/(?P<oid>[0-9a-f]{64})/verify", True, Handler.verify),
    ("GET HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", False, Handler.resolve),
)
