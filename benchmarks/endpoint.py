"""Saturation of a model server by the endpoint client, with servers that process 1, 8 and 32 requests at once.

The server, in a process of its own, takes a fixed time per request and processes `capacity` requests at once; others
wait. Saturation is the rate of captions over the largest possible one, capacity / time. Two clients are measured: one
with as many requests in flight as the server processes, and the usual one, which starts with one and has to find out.
The rate is that of the whole job, and that of its second half, when the start is over. Images are read, resized and
encoded as in every job.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.images import COCO, draw_images
from seesay.captioners.spec import ModelSpec

CAPACITIES = (1, 8, 32)
_ROUNDS = {"fixed": 40, "adaptive": 200}
"""Images per place of the server, by the client's concurrency."""
_MODELS = {"data": [{"id": "scripted"}]}
_ANSWER = {
    "choices": [{"message": {"content": "a photo of a red chair"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 8},
}


class Server:
    """HTTP server of a fixed time per request.

    Args:
        capacity: requests that are processed at once.
        seconds: time per request.
    """

    def __init__(self, capacity: int, seconds: float) -> None:
        self.seconds = seconds
        self.places = asyncio.Semaphore(capacity)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
                await reader.readexactly(length)
                answer: dict[str, Any] = _MODELS
                if head.startswith("post"):
                    async with self.places:
                        await asyncio.sleep(self.seconds)
                    answer = _ANSWER
                content = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
                await writer.drain()
        writer.close()


def serve(capacity: int, seconds: float, ports: Any) -> None:
    """Run a server until the process is terminated, after sending its port."""

    async def run() -> None:
        server = await asyncio.start_server(Server(capacity, seconds).handle, "127.0.0.1", 0, limit=1 << 22)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def serving(capacity: int, seconds: float) -> Iterator[str]:
    """Yield the URL of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=serve, args=(capacity, seconds, ports))
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=60)}/v1"
    finally:
        process.terminate()
        process.join()


def measure(mode: str, capacity: int, seconds: float, photos: list[str], rounds: int) -> dict[str, Any]:
    """Return the rates of a job of `rounds` times `capacity` images."""
    count = capacity * rounds
    images = [photos[index % len(photos)] for index in range(count)]
    concurrency = capacity if mode == "fixed" else 0
    with (
        serving(capacity, seconds) as url,
        ModelSpec((), endpoint=url, endpoint_concurrency=concurrency).load() as captioner,
    ):
        times = [time.perf_counter(), *(time.perf_counter() for _ in captioner.caption_each(images))]
    possible = capacity / seconds
    # Without the last requests, when fewer than the capacity are left.
    half, last = count // 2, count - capacity
    return {
        "concurrency": mode,
        "capacity": capacity,
        "images": count,
        "minutes": (times[-1] - times[0]) / 60,
        "per_s": count / (times[-1] - times[0]),
        "possible": possible,
        "whole": count / (times[-1] - times[0]) / possible,
        "second_half": (last - half) / (times[last] - times[half]) / possible,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of the server per request")
    parser.add_argument("--capacity", type=int, nargs="+", default=CAPACITIES, help="requests processed at once")
    options = parser.parse_args()
    share = 4 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        photos = draw_images(Path(folder), COCO, 32)
        rows = [
            measure(mode, capacity, options.seconds, photos, rounds // share)
            for mode, rounds in _ROUNDS.items()
            for capacity in options.capacity
        ]
    print(
        f"{'concurrency':12} {'capacity':>8} {'images':>8} {'minutes':>8} {'images/s':>10} {'possible':>10} "
        f"{'whole job':>10} {'second half':>12}"
    )
    for row in rows:
        print(
            f"{row['concurrency']:12} {row['capacity']:8} {row['images']:8} {row['minutes']:8.1f} {row['per_s']:10.1f} "
            f"{row['possible']:10.1f} {row['whole']:10.1%} {row['second_half']:12.1%}"
        )
    rounded = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 3))
    print(json.dumps({"benchmark": "endpoint", "seconds": options.seconds, "rows": rounded}))


if __name__ == "__main__":
    main()
