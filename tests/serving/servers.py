"""A real server in a thread, and helpers to send requests to it."""

import asyncio
import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from seesay.serving.limits import Limits
from seesay.serving.server import Server, address, listen, make_server
from tests import tiny

PATIENCE = 300.0
"""Timeout in seconds, long enough for a busy machine."""

PATIENT: dict[str, Any] = {"receive_seconds": PATIENCE, "answer_seconds": PATIENCE}
"""Time limits that no test reaches by accident."""


@dataclass(frozen=True)
class Running:
    """A running server."""

    url: str
    server: Server
    service: Any  # the `CaptionService` of `seesay serve`, None of other apps
    thread: threading.Thread

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **options)

    def open(self) -> socket.socket:
        """A TCP connection."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE)


@contextlib.contextmanager
def running(app: FastAPI, bounds: Limits) -> Iterator[Running]:
    """Runs a server, and stops it like a signal."""
    listener = listen("127.0.0.1", 0)
    url, server = address(listener), make_server(app, bounds)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(url, server, getattr(app.state, "service", None), thread)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not stop"


def wait_until(condition: Callable[[], object]) -> None:
    """Waits until a condition is true; fails after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.005)


def encoded(seed: int, format: str = "PNG", width: int = 60, height: int = 40, **options: Any) -> bytes:
    """The bytes of an image of random colours."""
    buffer = io.BytesIO()
    tiny.image(seed, width, height).save(buffer, format, **options)
    return buffer.getvalue()


def blank(width: int, height: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format)
    return buffer.getvalue()


def upload(*contents: bytes, **fields: Any) -> dict[str, Any]:
    """Arguments of `httpx` for an upload of images and fields."""
    return {
        "files": [("images", (f"{number}.png", content)) for number, content in enumerate(contents)],
        "data": fields,
    }


def raw_request(content: bytes, declared: int | None = None) -> tuple[bytes, bytes]:
    """Head and body of an upload, with the declared length."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + content + b"\r\n--b--\r\n"
    )
    head = (
        "POST /v1/caption HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {declared or len(body)}\r\n\r\n"
    )
    return head.encode(), body
