"""A local HTTP server that stands in for the Hugging Face hub."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    interrupted: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        name = re.sub(r"^/(api/models/)?([^/]+/[^/]+).*$", r"\2", path)
        if path == "/":
            self._send(200, b"", {}, head)
        elif name in self.hub.refused:
            status, code = self.hub.refused[name]
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, head)
        elif name not in self.hub.repositories:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, head)
        elif found := re.search(r"/(revision|tree|resolve)/([^/]+)/?(.*)$", path):
            kind, revision, file = found.groups()
            if revision not in ("main", "v1", COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, head)
            elif kind == "resolve":
                self._send_file(self.hub.repositories[name] / file, head)
            else:
                self._send_json(name, kind, head)
        else:
            self._send_json(name, "revision", head)

    def _send_json(self, name: str, kind: str, head: bool) -> None:
        folder = self.hub.repositories[name]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        body: object = [
            {"type": "file", "path": each, "size": path.stat().st_size, "oid": _digest(path)}
            for each, path in zip(names, files, strict=True)
        ]
        if kind == "revision":
            body = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": each} for each in names]}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, head)

    def _send_file(self, path: Path, head: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, head)
            return
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT}
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
