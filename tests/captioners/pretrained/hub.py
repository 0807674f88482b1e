"""A local HTTP server that stands in for the Hugging Face hub: downloads, and uploads as git LFS or plain files."""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants, file_download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"
OWNER = "ada"


@dataclass
class Hub:
    """The repositories of the server, and what it was asked.

    Attributes:
        repositories: name -> folder with its files.
        refused: name -> (status, `X-Error-Code`) of repositories that it does not show.
        damaged: names of files that are sent with a wrong last byte.
        interrupted: names of files whose next transfer breaks in the middle.
        requests: method and path of each request.
        url: address of the server.
        work: folder of uploaded files; None: uploads are refused.
        history: name -> commit -> folder, of uploaded repositories.
        private: names of private repositories.
        objects: content of large files by SHA-256.
        failures: method and beginning of a path -> status of the next such request.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    interrupted: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    work: Path | None = None
    history: dict[str, dict[str, Path]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> str:
        """Apply the operations of a commit to a repository; return the commit."""
        assert self.work is not None
        number = len(self.history.setdefault(name, {}))
        commit = hashlib.sha1(f"{name} {number}".encode()).hexdigest()
        folder = self.work / commit
        shutil.copytree(self.repositories[name], folder)
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "header":
                continue
            path = folder / value["path"]
            if kind == "deletedFile":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                self.objects[value["oid"]] if kind == "lfsFile" else base64.b64decode(value["content"], validate=True)
            )
        self.history[name][commit] = folder
        self.repositories[name] = folder
        return commit


class _RefusalError(Exception):
    """A status and the content of an answer that refuses a request."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            self._write(lambda _: {"name": OWNER, "type": "user"})
        else:
            self._answer(head=False)

    def do_POST(self) -> None:
        self._write(self._post)

    def do_PUT(self) -> None:
        self._write(self._put, authorised=True)

    def _write(self, answer: Callable[[bytes], object], authorised: bool = False) -> None:
        """Answer a request that needs a token, with JSON."""
        body = self._read_body()
        request = f"{self.command} {self.path.partition('?')[0]}"
        self.hub.requests.append(request)
        status = next((code for start, code in self.hub.failures.items() if request.startswith(start)), 0)
        content: object = {}
        if status:
            self.hub.failures = {key: code for key, code in self.hub.failures.items() if not request.startswith(key)}
        elif not authorised and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        else:
            try:
                status, content = 200, answer(body)
            except _RefusalError as refusal:
                status, content = refusal.args
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"}, head=False)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _put(self, body: bytes) -> object:
        digest = self.path.rsplit("/", 1)[-1]
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.objects[digest] = body
        return {}

    def _post(self, body: bytes) -> object:
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            _, metadata, _ = json.loads(body)["content"].split("---\n", 2)
            if yaml.safe_load(metadata).get("license") not in (None, "mit"):
                raise _RefusalError(400, {"errors": [{"message": '"license" must be one of [mit, ...]'}]})
            return {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/(\S+)\.git/info/lfs/objects/batch", path):
            return {"objects": [self._upload(each) for each in json.loads(body)["objects"]], "transfer": "basic"}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None or found[1] not in self.hub.repositories:
            raise _RefusalError(404, {"error": "Repository not found"})
        if found[2] == "preupload":
            return {"files": [self._mode(each["path"]) for each in json.loads(body)["files"]]}
        commit = self.hub.commit(found[1], [json.loads(line) for line in body.splitlines()])
        return {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{commit}", "commitOid": commit, "success": True}

    def _create(self, request: dict[str, Any]) -> object:
        name = f"{request.get('organization') or OWNER}/{request['name']}"
        if name in self.hub.repositories:
            raise _RefusalError(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        if not name.startswith(f"{OWNER}/") or self.hub.work is None:
            raise _RefusalError(403, {"error": "You don't have the rights to create a model under this namespace"})
        folder = self.hub.work / name
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.hub.repositories[name] = folder
        if request.get("private") or request.get("visibility") == "private":
            self.hub.private.add(name)
        return {"url": f"{self.hub.url}/{name}", "name": name}

    def _upload(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["oid"] in self.hub.objects:
            return item
        return {**item, "actions": {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}}

    def _mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _answer(self, head: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        name = re.sub(r"^/(api/models/|api/datasets/|datasets/)?([^/]+/[^/]+).*$", r"\2", path)
        if path == "/":
            self._send(200, b"", {}, head)
        elif name in self.hub.refused:
            status, code = self.hub.refused[name]
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, head)
        elif name not in self.hub.repositories:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, head)
        elif found := re.search(r"/(revision|tree|resolve)/([^/]+)/?(.*)$", path):
            kind, revision, file = found.groups()
            folder, commit = self._find(name, revision)
            if folder is None:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, head)
            elif kind == "resolve":
                self._send_file(folder / file, commit, head)
            elif kind == "tree":
                self._send_tree(folder, folder / file, head)
            else:
                self._send_info(name, folder, commit, head)
        else:
            folder, commit = self._find(name, "main")
            assert folder is not None
            self._send_info(name, folder, commit, head)

    def _find(self, name: str, revision: str) -> tuple[Path | None, str]:
        """Return the folder and the commit of a revision."""
        history = self.hub.history.get(name, {})
        if revision in history:
            return history[revision], revision
        commit = list(history)[-1] if history else COMMIT
        return self.hub.repositories[name] if revision in ("main", "v1", commit) else None, commit

    def _send_tree(self, root: Path, folder: Path, head: bool) -> None:
        recursive = "recursive=true" in self.path.lower()
        entries = []
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
            entry: dict[str, Any] = {"type": "directory", "path": path.relative_to(root).as_posix(), "oid": COMMIT}
            if path.is_file():
                entry |= {"type": "file", "size": path.stat().st_size, "oid": _digest(path)}
            entries.append(entry)
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, head)

    def _send_info(self, name: str, folder: Path, commit: str, head: bool) -> None:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        body = {
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": name in self.hub.private,
            "siblings": [{"rfilename": each} for each in names],
        }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, head)

    def _send_file(self, path: Path, commit: str, head: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, head)
            return
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": commit}
        body = path.read_bytes()
        if path.name in self.hub.damaged:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if not head and path.name in self.hub.interrupted:
            self.hub.interrupted.remove(path.name)
            self.close_connection = True
            self._send(200, body, headers, head, sent=len(body) // 2)
        else:
            self._send(200, body, headers, head)

    def _send(self, status: int, body: bytes, headers: dict[str, str], head: bool, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body[:sent])


def _digest(path: Path) -> str:
    """The digest by which the hub identifies a file: SHA-256 of large ones, SHA-1 of the others."""
    kind = "sha256" if path.suffix == ".safetensors" else "sha1"
    return hashlib.new(kind, path.read_bytes()).hexdigest()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run the server on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the hub's library use the server, with an empty cache and a token that may write."""
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks the older protocol, git LFS
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # of version 0
    patch.setenv("HF_TOKEN", TOKEN)
