"""Throughput and latency of `seesay serve` with and without batching, with 1, 8, 32 and 128 clients.

Run `python benchmarks/serve.py --run RUN --images FOLDER` for a trained captioner on photographs; the default is random
weights of the same sizes (EfficientNet-Lite0 at 224 px, attention-gru: 512 units, 3,000 words) and generated images.
`--quick` sends less. Prints a table, then one line of JSON.

Two servers, which differ only in `--max-batch` (1 and 32), run in separate processes on this machine and are measured
alternately, so that disturbances affect both. Each client sends its next image when the last one is answered. The
clients use the same CPU: the figures are those of the entire machine. Requests are mixed (greedy, beam of 3, sampling)
unless `--requests` selects one kind. The captions of both servers are compared word for word.
"""

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLIENTS = (1, 8, 32, 128)
REQUESTS: dict[str, tuple[dict[str, str], ...]] = {
    "greedy": ({"strategy": "greedy"},),
    "beam": ({"strategy": "beam", "beam_size": "3"},),
    "mixed": ({"strategy": "greedy"}, {"strategy": "beam", "beam_size": "3"}, {"strategy": "sample"}),
}
START_SECONDS, REQUEST_SECONDS = 300, 120


@dataclass
class Load:
    """Results of a measurement.

    Attributes:
        seconds: total time.
        latencies: latency per response, in seconds.
        busy: number of responses with status 503.
        captions: by request number.
        batch: mean number of images per batch.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    busy: int = 0
    captions: dict[int, str] = field(default_factory=dict)
    batch: float = 0.0


@contextlib.contextmanager
def serving(run: Path, max_batch: int) -> Iterator[str]:
    """Yield the URL of a server in its own process."""
    command = [sys.executable, "-m", "seesay", "serve", str(run), "--port", "0", "--max-batch", str(max_batch)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            if url is None:
                log.seek(0)
                raise SystemExit(f"the server did not start: {log.read().decode()[-500:]}")
            yield url[0]
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def request(image: bytes, fields: dict[str, str]) -> bytes:
    """Return the bytes of an upload."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    head = '--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + image + b"\r\n--b--\r\n"
    lines = (
        "POST /v1/caption HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {len(body)}",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + body


async def client(address: str, requests: Sequence[bytes], numbers: Iterator[int], total: int, load: Load) -> None:
    """Send requests over one connection, until all clients together have sent `total`."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while (number := next(numbers)) < total:
            start = time.perf_counter()
            writer.write(requests[number % len(requests)])
            async with asyncio.timeout(REQUEST_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = re.search(r"content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
            if " 503 " in head[:20]:
                load.busy += 1
                await asyncio.sleep(1)
                continue
            load.latencies.append(time.perf_counter() - start)
            load.captions[number] = json.loads(body)["results"][0]["captions"][0]["text"]
    finally:
        writer.close()


def batches(address: str) -> tuple[float, float]:
    """Return the number of images and batches so far, from the server's metrics."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=REQUEST_SECONDS) as response:
        text = response.read().decode()
    matches = [re.search(rf"^seesay_batch_images_{name} (\S+)", text, re.MULTILINE) for name in ("sum", "count")]
    images, count = (float(each[1]) if each else 0.0 for each in matches)
    return images, count


async def measure(address: str, requests: Sequence[bytes], clients: int, total: int) -> Load:
    """Return the results of concurrent clients that send `total` requests together."""
    load, numbers, before = Load(), itertools.count(), batches(address)
    start = time.perf_counter()
    await asyncio.gather(*(client(address, requests, numbers, total, load) for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    images, count = (after - earlier for after, earlier in zip(batches(address), before, strict=True))
    load.batch = images / max(count, 1)
    return load


def summary(loads: Sequence[Load]) -> dict[str, float]:
    """Return the statistics of several rounds."""
    latencies = np.array([latency for load in loads for latency in load.latencies])
    rates = [len(load.latencies) / load.seconds for load in loads]
    quantiles = {f"p{share}_ms": float(1000 * np.percentile(latencies, share)) for share in (50, 95, 99)}
    batch = statistics.mean(load.batch for load in loads)
    return {"per_s": statistics.median(rates), **quantiles, "batch": batch, "busy": sum(load.busy for load in loads)}


def jpeg_files(folder: Path | None, count: int) -> list[bytes]:
    """Return JPEG files of a folder, or generated ones of 640 x 480."""
    if folder is not None:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))[:count]
        return [path.read_bytes() for path in paths]
    random, files = np.random.default_rng(0), []
    for _ in range(count):
        rough = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        rough.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    return files


def random_run(folder: Path) -> Path:
    """Write a run with random weights and captions of realistic length."""
    import torch

    from seesay.checkpoint import RunInfo, save_run, save_weights
    from seesay.config import resolve_config
    from seesay.models.captioning import build_model
    from seesay.models.encoders import build_encoder
    from seesay.tokenizer import Tokenizer

    torch.manual_seed(0)
    values = {"encoder": "tf_efficientnet_lite0", "encoder_weights": "none", "image_size": 224}
    config = resolve_config("attention-gru", overrides={**values, "encoder_training": "frozen"})
    encoder = build_encoder(config.encoder)
    tokenizer = Tokenizer.build([" ".join(f"w{chr(97 + n % 26)}{n}" for n in range(3000))] * 5, config.text)
    model = build_model(config.model, len(tokenizer), encoder.feature_size, encoder)
    info = RunInfo(len(tokenizer), encoder.feature_size, encoder.grid, 11, encoder.identity, encoder_stored=True)
    save_run(folder, config, info, tokenizer)
    save_weights(folder, model.state_dict())
    return folder


async def compare(
    addresses: dict[str, str], requests: Sequence[bytes], quick: bool
) -> tuple[list[dict[str, Any]], float]:
    """Return one row per number of clients, and the share of equal captions."""
    rounds, rows, same = 2 if quick else 5, [], []
    for address in addresses.values():
        await measure(address, requests, 4, 8)  # warm-up
    for clients in CLIENTS[:3] if quick else CLIENTS:
        total = max(2 * clients, 16) if quick else max(6 * clients, 48)
        loads: dict[str, list[Load]] = {name: [] for name in addresses}
        for _ in range(rounds):
            for name, address in addresses.items():
                loads[name].append(await measure(address, requests, clients, total))
        one, other = (loads[name][0].captions for name in addresses)
        same += [one[number] == other[number] for number in one.keys() & other.keys()]
        ratios = [
            (len(b.latencies) / b.seconds) / (len(a.latencies) / a.seconds)
            for a, b in zip(loads["alone"], loads["batched"], strict=True)
        ]
        row: dict[str, Any] = {name: summary(rounds) for name, rounds in loads.items()}
        rows.append({"clients": clients, "ratio": statistics.median(ratios), **row})
    return rows, statistics.mean(same)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer clients, requests and rounds")
    parser.add_argument("--run", type=Path, help="run folder of a trained captioner")
    parser.add_argument("--images", type=Path, help="folder of JPEG files")
    parser.add_argument("--requests", choices=sorted(REQUESTS), default="mixed", help="kind of requests")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        run = options.run or random_run(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "random")
        images, fields = jpeg_files(options.images, 48), REQUESTS[options.requests]
        requests = [request(image, fields[index % len(fields)]) for index, image in enumerate(images)]
        sizes = {"alone": 1, "batched": 32}
        addresses = {name: stack.enter_context(serving(run, size)) for name, size in sizes.items()}
        rows, same = asyncio.run(compare(addresses, requests, options.quick))
    heads = ("images/s", "p50 ms", "p95 ms", "p99 ms", "per batch")
    print(f"{'clients':>7} {'':8}" + "".join(f"{head:>12}" for head in heads) + f"{'ratio':>8}")
    for row in rows:
        for name in sizes:
            values = [row[name][key] for key in ("per_s", "p50_ms", "p95_ms", "p99_ms", "batch")]
            ratio = f"{row['ratio']:8.2f}" if name == "batched" else ""
            print(f"{row['clients']:7} {name:8}" + "".join(f"{value:12.1f}" for value in values) + ratio)
    print(f"equal captions: {same:.1%}")
    rounded = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 2))
    result = {"benchmark": "serve", "trained": bool(options.run), "requests": options.requests, "same": round(same, 4)}
    print(json.dumps({**result, "rows": rounded}))


if __name__ == "__main__":
    main()
