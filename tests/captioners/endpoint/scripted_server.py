"""A model server that returns what a test scripts, in a thread of the test."""

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny-vl"


@dataclass(frozen=True)
class Reply:
    """A response, or a failure instead of one.

    Attributes:
        status: HTTP status.
        body: JSON, or the bytes themselves.
        headers: further headers.
        broken: reset = the connection is reset without a response; cut = it is closed in the middle of the body.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""


def completion(*texts: str, finish: str = "stop", **choice: Any) -> dict[str, Any]:
    """Return the body of a response with one choice per text; every image costs 100 prompt tokens."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **choice}
        for index, text in enumerate(texts)
    ]
    return {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 7 * len(texts)}}


def error(message: str, status: int, **headers: str) -> Reply:
    """Return an error response in the protocol's form; `_` in a header's name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message, "type": "error"}}, named)


def jpeg(body: Mapping[str, Any]) -> bytes:
    """Return the image of a request."""
    url: str = body["messages"][0]["content"][0]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return base64.b64decode(data, validate=True)


def describe(body: Mapping[str, Any]) -> str:
    """Return the caption of a request's image, which depends on nothing else."""
    return f"an image with digest {hashlib.sha256(jpeg(body)).hexdigest()[:8]}"


Script = Callable[[int, dict[str, Any]], Reply | None]
"""Function of the number of a request, from 0, and its body; None: caption the image."""


class ScriptedServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        script: replies to requests for captions.
        models: reply to the request for the list of models.
        bodies: requests for captions so far.
        headers: their headers.
        paths: paths of all requests.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Script, models: Reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.models = script, models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self._reply(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.paths.append(self.path)
        self._reply(self.server.script(number, body) or Reply(body=completion(describe(body))))

    def _reply(self, reply: Reply) -> None:
        if reply.broken == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if reply.broken == "cut" else content)
        if reply.broken == "cut":
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def model_list(*names: str) -> Reply:
    """Return the reply to the request for the list of models."""
    return Reply(body={"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


@contextmanager
def serving(script: Script = lambda number, body: None, models: Reply | None = None) -> Iterator[ScriptedServer]:
    """Run a server in a thread."""
    server = ScriptedServer(script, models or model_list(MODEL))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
