"""A collection of links to images, some of them broken: speed, memory, and what kills at random moments do to it.

python benchmarks/collection.py --images data/flickr8k/images --model runs/attention-gru [--quick]

The command captions all links, watched for its memory; it is killed with SIGKILL at random moments and started again
until it is done; and within this process captions in memory only (`caption_each`) take turns with the job
that writes them. What is checked must hold; the last line is JSON. Without --images and --model both are made: drawn
scenes, and a tiny model of random weights.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measuring import Work, alternate, median_ratio, seconds
from seesay.allocation import keep_freed_memory
from seesay.bulk import Destination, caption_collection, find_images
from seesay.captioner import TrainedCaptioner
from seesay.checkpoint import RunInfo, save_run, save_weights
from seesay.config import resolve_config
from seesay.data.readers.images import list_image_paths
from seesay.data.scenes import make_scenes
from seesay.errors import ImageError
from seesay.images import read_image
from seesay.models.captioning import build_model
from seesay.models.encoders import build_encoder
from seesay.prefetch import usable_cores
from seesay.tokenizer import Tokenizer

BATCH = 32
ROUNDS = 3
RATED = 1000
"""Links of a round in which speed is compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images to link to")
    parser.add_argument("--model", type=Path, help="run folder")
    parser.add_argument("--links", type=int, default=20_000)
    parser.add_argument("--broken", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--form", default="jsonl", choices=("jsonl", "csv", "parquet"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 links, 5 kills, nothing from outside")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.links, arguments.broken, arguments.kills = 200, 10, 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = arguments.images or _draw(folder / "scenes")
        model = arguments.model or _random_model(folder / "run", folder / "scenes")
        broken = _link(folder / "links", list_image_paths(sources), arguments.links, arguments.broken, arguments.seed)
        report = _measure(folder, model, broken, arguments)
    table = Table("job", "images/s", "largest memory, MB")
    table.add_row("in memory", f"{report['rate_in_memory']:.1f}", "")
    table.add_row("written", f"{report['rate_written']:.1f}", f"{max(report['memory_mb']):.0f}")
    Console().print(table)
    print(json.dumps(report))


def _measure(folder: Path, model: Path, broken: set[str], arguments: argparse.Namespace) -> dict[str, Any]:
    links = folder / "links"
    whole = _command(model, links, folder / f"whole.{arguments.form}")
    watched = _watch(whole, folder / f"whole.{arguments.form}")
    assert watched.code == (1 if broken else 0), watched.said
    expected = _captions(folder / f"whole.{arguments.form}")
    _check(expected, links, broken, folder / "whole.errors.jsonl")
    out = folder / f"killed.{arguments.form}"
    kills = _kill_again_and_again(_command(model, links, out), arguments.kills, watched.seconds, arguments.seed)
    found = _captions(out)
    _check(found, links, broken, folder / "killed.errors.jsonl")
    # An image's batch is another after a kill, and the last bits of its numbers with it: a tie may turn over.
    same = sum(dict(expected)[image] == text for image, text in found)
    return {
        "links": arguments.links,
        "broken": len(broken),
        **_rates(model, links, folder),
        "rate_of_the_command": watched.rate,
        "wall_seconds": watched.seconds,
        "memory_mb": watched.memory,
        "memory_growth_mb": _growth(watched.memory),
        "kills": kills,
        "same_captions": same / max(1, len(found)),
        "cores": usable_cores(),
    }


def _command(model: Path, links: Path, out: Path) -> list[str]:
    arguments: Sequence[object] = ("caption", links, "--model", model, "--out", out, "--batch-size", BATCH)
    return [sys.executable, "-m", "seesay.cli", *map(str, arguments)]


@dataclass(frozen=True)
class _Watched:
    """A job that ran to its end: exit code, output, what it says of its rate, and its memory over time in MB."""

    code: int
    said: str
    rate: float
    seconds: float
    memory: list[float]


def _watch(command: list[str], out: Path) -> _Watched:
    """Runs a job and looks at its memory ten times a second; twenty numbers of it are kept, each a maximum.

    The memory of the start, when libraries and the model are loaded, is left out: it counts from the first captions on.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: list[float] = []

    def look() -> None:
        while process.poll() is None:
            if (memory := _memory(process.pid)) is not None and (seen or _has_captions(out)):
                seen.append(memory)
            time.sleep(0.1)

    started = time.perf_counter()
    watcher = threading.Thread(target=look)
    watcher.start()
    said, _ = process.communicate()
    watcher.join()
    seconds = time.perf_counter() - started
    rates = [float(line.split(" images/s")[0]) for line in said.splitlines() if " images/s, " in line[:25]]
    size = max(1, len(seen) // 20)
    memory = [max(seen[begin : begin + size]) for begin in range(0, len(seen), size)] or [0.0]
    return _Watched(process.returncode, said, rates[-1] if rates else 0.0, seconds, memory)


def _growth(memory: Sequence[float]) -> float:
    """Returns by how much the last quarter's median lies above the second quarter's."""
    quarter = max(1, len(memory) // 4)
    return statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter] or memory)


def _has_captions(out: Path) -> bool:
    """Tells whether a job has written its first batch (more than a header)."""
    files = list(out.iterdir()) if out.is_dir() else [out]
    return any(path.is_file() and path.stat().st_size > 200 for path in files)


def _memory(process: int) -> float | None:
    """Returns the resident memory of a process in MB, None where the system does not tell or it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else None  # one that has just ended has none


def _kill_again_and_again(command: list[str], kills: int, whole: float, seed: int) -> int:
    """Starts a job again and again, each time killing it at a random moment, then lets it end; returns the kills."""
    chance = random.Random(seed)
    done = 0
    for _ in range(kills):
        # Each does its share of the whole on average, and the start of a process is a part of what is killed.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.1, 1.0) * whole / max(4, kills / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done


def _rates(model: Path, links: Path, folder: Path) -> dict[str, Any]:
    """Returns images a second, and per second of processor time, in memory and written, in turn; medians."""
    keep_freed_memory()  # as the command does
    captioner = TrainedCaptioner.load(model)
    images = find_images([str(links)]).images[:RATED]
    processor: dict[str, list[float]] = {"memory": [], "written": []}

    def in_memory() -> None:
        for _ in captioner.caption_each(images, batch_size=BATCH, workers=usable_cores()):
            pass

    def written() -> None:
        destination = Destination(folder / f"rate{len(processor['written'])}.jsonl")
        caption_collection(captioner, images, destination, batch_size=BATCH)

    def rate(kind: str, work: Work) -> float:
        used = time.process_time()
        taken = seconds(work)
        processor[kind].append(len(images) / (time.process_time() - used))
        return len(images) / taken

    jobs = {"written": partial(rate, "written", written), "memory": partial(rate, "memory", in_memory)}
    wall = alternate(jobs, ROUNDS)
    return {
        "rate_in_memory": statistics.median(wall["memory"]),
        "rate_written": statistics.median(wall["written"]),
        "ratio": median_ratio(wall["written"], wall["memory"]),
        "ratios": [b / a for a, b in zip(wall["memory"], wall["written"], strict=True)],
        # Of the rounds that `alternate` keeps.
        "ratio_of_processor_time": median_ratio(processor["written"][-ROUNDS:], processor["memory"][-ROUNDS:]),
    }


def _captions(out: Path) -> list[tuple[str, str]]:
    """Returns what an output holds, read without the product."""
    if out.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = [row for part in sorted(out.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    elif out.suffix == ".csv":
        import csv

        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return [(row["image"], row["caption"]) for row in rows]


def _check(captions: list[tuple[str, str]], links: Path, broken: set[str], errors: Path) -> None:
    """Makes sure that every link is captioned or listed, once."""
    names = [image for image, _ in captions]
    assert len(names) == len(set(names)), "an image is there twice"
    assert set(names) == {str(path) for path in links.iterdir()} - broken, "images are lost or too many"
    listed = [json.loads(line)["image"] for line in errors.read_text(encoding="utf-8").splitlines()]
    assert sorted(listed) == sorted(broken), "the list of failures is another"


def _link(folder: Path, images: Sequence[str], links: int, broken: int, seed: int) -> set[str]:
    """Makes links to the images, as often as it takes; returns those that are broken files instead."""
    folder.mkdir()
    chance = random.Random(seed)
    bad = set(chance.sample(range(links), min(broken, links)))
    failing = set()
    for number in range(links):
        source = Path(images[number % len(images)]).resolve()
        path = folder / f"{number:06d}{source.suffix}"
        if number not in bad:
            path.symlink_to(source)
            continue
        content = source.read_bytes()
        cut = chance.choice((0, 20, len(content) // 2))
        path.write_bytes(content[:cut] if chance.random() < 0.7 else chance.randbytes(500))
        try:
            read_image(path)
        except ImageError:
            failing.add(str(path))
    return failing


def _draw(folder: Path) -> Path:
    make_scenes(folder, 40, 4, 4, seed=0, size=96)
    return folder


def _random_model(folder: Path, data: Path) -> Path:
    """Writes a run of random weights, which captions as fast as a trained one of its size."""
    import torch

    if not data.exists():
        _draw(data)
    torch.manual_seed(0)
    config = resolve_config("scenes")
    tokenizer = Tokenizer.build([f"word{letter}" for letter in "abcdefghijklmnop"], config.text)
    encoder = build_encoder(config.encoder)
    info = RunInfo(len(tokenizer), encoder.feature_size, encoder.grid, 12, encoder.identity, True)
    save_run(folder, config, info, tokenizer)
    network = build_model(config.model, info.vocabulary_size, info.feature_size, encoder)
    save_weights(folder, network.state_dict())
    return folder


if __name__ == "__main__":
    main()
