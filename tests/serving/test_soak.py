"""Thousands of hostile uploads and valid requests to a server in its own process; its memory must stay constant.

`make soak` runs this. The server is a separate process, so that the clients do not count in its memory.
"""

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.hostile import uploads
from tests.serving.servers import PATIENCE, encoded, raw_request, upload
from tests.serving.test_hostile import assert_handled, send

pytestmark = pytest.mark.soak

REQUESTS, CLIENTS = 20_000, 16
UPLOADS = 2_000
GROWTH = 1.05
"""Maximum ratio of the memory at the end to that after the first tenth; a leak would grow with every request."""


@dataclass(frozen=True)
class ServerProcess:
    """A server in its own process."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024

    def files(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@pytest.fixture
def server(cached_run: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", "seesay", "serve", str(cached_run), "--port", "0", "--device", "cpu"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, (tmp_path / "log").read_text()
            yield ServerProcess(found[0], process, tmp_path / "log")
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    lines = (tmp_path / "log").read_text()
    assert "Traceback" not in lines
    assert '"status": 500' not in lines


def test_hostile_uploads_leak_no_memory(server: ServerProcess) -> None:
    random_ = random.Random(2)
    memory: list[float] = []
    with server.client() as client:
        for number, file in enumerate(uploads(seed=2, count=UPLOADS, largest=100_000_000)):
            assert_handled(send(client, file), file)
            if number % 20 == 0:  # also clients that disconnect
                head, body = raw_request(file.content[:100_000])
                host, _, port = server.url.removeprefix("http://").rpartition(":")
                asyncio.run(disconnect(host, int(port), (head + body)[: random_.randrange(1, len(head + body))]))
            if number % 100 == 99:
                memory.append(server.memory())
                assert client.post("/v1/caption", **upload(encoded(0))).status_code == 200
    print("\nMB after each 100 hostile uploads:", *(f"{value:.0f}" for value in memory))
    assert memory[-1] <= GROWTH * max(memory[: len(memory) // 10 + 1])


async def disconnect(host: str, port: int, content: bytes) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.write(content)
    await asyncio.wait_for(writer.drain(), PATIENCE)
    writer.close()


def test_many_requests_leak_no_memory(server: ServerProcess) -> None:
    memory = asyncio.run(send_many(server))
    print(f"\nMB after each {REQUESTS // 20} requests:", *(f"{value:.0f}" for value in memory))
    assert memory[-1] <= GROWTH * max(memory[:2])
    assert server.files() < 100


async def send_many(server: ServerProcess) -> list[float]:
    """Sends mixed requests; returns the memory in MB after each twentieth of them."""
    requests: list[dict[str, Any]] = [
        {},
        {"attention": True, "top_tokens": 5},
        {"strategy": "beam", "beam_size": 4, "num_return_sequences": 3},
        {"strategy": "sample", "num_return_sequences": 2},
        {"strategy": "beam", "bad_words": ["red"], "max_length": 5},
    ]
    memory: list[float] = []
    numbers = iter(range(REQUESTS))
    contents = [encoded(seed) for seed in range(50)]

    async def one(client: httpx.AsyncClient) -> None:
        for number in numbers:
            arguments = upload(contents[number % len(contents)], **requests[number % len(requests)])
            answer = await client.post("/v1/caption", **arguments)
            assert answer.status_code == 200, answer.text
            if number % (REQUESTS // 20) == REQUESTS // 20 - 1:
                memory.append(server.memory())

    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        await asyncio.gather(*(one(client) for _ in range(CLIENTS)))
    return memory
