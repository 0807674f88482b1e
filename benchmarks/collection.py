"""Captioning a collection of links, some of them broken: speed, memory, and kills at random moments.

python benchmarks/collection.py --images data/flickr8k/images --model runs/attention-gru [--quick]

The command captions all links while its memory is measured; it is killed with SIGKILL at random moments and restarted
until it finishes; and within this process, captioning in memory (`caption_each`) alternates with the job that writes
the captions. The results are checked with assertions; the last line is JSON. Without --images and --model, scenes and a
tiny model with random weights are generated.
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
from seesay.captioners.trained import TrainedCaptioner
from seesay.checkpoint import RunInfo, save_run, save_weights
from seesay.config import resolve_config
from seesay.data.readers.images import list_image_paths
from seesay.data.synthetic.scenes import make_scenes
from seesay.errors import ImageError
from seesay.images.loading import read_image
from seesay.images.prefetch import usable_cores
from seesay.models.captioning import build_model
from seesay.models.encoders import build_encoder
from seesay.tokenizer import Tokenizer

BATCH_SIZE = 32
ROUNDS = 3
NUM_TIMED = 1000
"""Links per round of the speed comparison."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images to link to")
    parser.add_argument("--model", type=Path, help="run folder")
    parser.add_argument("--links", type=int, default=20_000)
    parser.add_argument("--broken", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--format", default="jsonl", choices=("jsonl", "csv", "parquet"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 links, 5 kills, generated images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.links, arguments.broken, arguments.kills = 200, 10, 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = arguments.images or _draw(folder / "scenes")
        model = arguments.model or _random_model(folder / "run", folder / "scenes")
        broken = _link(folder / "links", list_image_paths(sources), arguments.links, arguments.broken, arguments.seed)
        report = _measure(folder, model, broken, arguments)
    table = Table("job", "images/s", "peak memory, MB")
    table.add_row("in memory", f"{report['rate_in_memory']:.1f}", "")
    table.add_row("written", f"{report['rate_written']:.1f}", f"{max(report['memory_mb']):.0f}")
    Console().print(table)
    print(json.dumps(report))


def _measure(folder: Path, model: Path, broken: set[str], arguments: argparse.Namespace) -> dict[str, Any]:
    links = folder / "links"
    command = _command(model, links, folder / f"complete.{arguments.format}")
    job = _run_and_measure(command, folder / f"complete.{arguments.format}")
    assert job.code == (1 if broken else 0), job.output
    expected = _captions(folder / f"complete.{arguments.format}")
    _check(expected, links, broken, folder / "complete.errors.jsonl")
    out = folder / f"killed.{arguments.format}"
    kills = _kill_repeatedly(_command(model, links, out), arguments.kills, job.seconds, arguments.seed)
    captions = _captions(out)
    _check(captions, links, broken, folder / "killed.errors.jsonl")
    # After a kill an image is in another batch, which changes its last bits and may reverse a tie.
    same = sum(dict(expected)[image] == text for image, text in captions)
    return {
        "links": arguments.links,
        "broken": len(broken),
        **_rates(model, links, folder),
        "rate_of_the_command": job.rate,
        "wall_seconds": job.seconds,
        "memory_mb": job.memory,
        "memory_growth_mb": _growth(job.memory),
        "kills": kills,
        "same_captions": same / max(1, len(captions)),
        "cores": usable_cores(),
    }


def _command(model: Path, links: Path, out: Path) -> list[str]:
    arguments: Sequence[object] = ("caption", links, "--model", model, "--out", out, "--batch-size", BATCH_SIZE)
    return [sys.executable, "-m", "seesay", *map(str, arguments)]


@dataclass(frozen=True)
class _FinishedJob:
    """A finished job: exit code, output, printed rate in images/s, and its memory over time in MB."""

    code: int
    output: str
    rate: float
    seconds: float
    memory: list[float]


def _run_and_measure(command: list[str], out: Path) -> _FinishedJob:
    """Run a job and sample its memory ten times per second; return the maxima of twenty intervals.

    The startup, when libraries and the model are loaded, is excluded: sampling begins with the first captions.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    samples: list[float] = []

    def sample() -> None:
        while process.poll() is None:
            if (memory := _memory(process.pid)) is not None and (samples or _has_captions(out)):
                samples.append(memory)
            time.sleep(0.1)

    started = time.perf_counter()
    sampler = threading.Thread(target=sample)
    sampler.start()
    output, _ = process.communicate()
    sampler.join()
    seconds = time.perf_counter() - started
    rates = [float(line.split(" images/s")[0]) for line in output.splitlines() if " images/s, " in line[:25]]
    size = max(1, len(samples) // 20)
    memory = [max(samples[begin : begin + size]) for begin in range(0, len(samples), size)] or [0.0]
    return _FinishedJob(process.returncode, output, rates[-1] if rates else 0.0, seconds, memory)


def _growth(memory: Sequence[float]) -> float:
    """Return the median of the last quarter minus that of the second quarter."""
    quarter = max(1, len(memory) // 4)
    return statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter] or memory)


def _has_captions(out: Path) -> bool:
    """Return whether a job has written its first batch (more than a header)."""
    files = list(out.iterdir()) if out.is_dir() else [out]
    return any(path.is_file() and path.stat().st_size > 200 for path in files)


def _memory(process: int) -> float | None:
    """Return the resident memory of a process in MB; None if unavailable or the process has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else None  # 0 for a process that has just ended


def _kill_repeatedly(command: list[str], kills: int, duration: float, seed: int) -> int:
    """Start a job repeatedly and kill it at random moments, then let it finish; return the number of kills."""
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        # On average the runs together do the complete job; kills may also happen during startup.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.1, 1.0) * duration / max(4, kills / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return killed


def _rates(model: Path, links: Path, folder: Path) -> dict[str, Any]:
    """Return medians of images per second and per CPU second, in memory and written, alternating."""
    keep_freed_memory()  # like the command
    captioner = TrainedCaptioner.load(model)
    images = find_images([str(links)]).images[:NUM_TIMED]
    cpu: dict[str, list[float]] = {"memory": [], "written": []}

    def in_memory() -> None:
        for _ in captioner.caption_each(images, batch_size=BATCH_SIZE, workers=usable_cores(), guard=False):
            pass

    def written() -> None:
        destination = Destination(folder / f"rate{len(cpu['written'])}.jsonl")
        caption_collection(captioner, images, destination, batch_size=BATCH_SIZE, guard=False)

    def rate(kind: str, work: Work) -> float:
        start = time.process_time()
        taken = seconds(work)
        cpu[kind].append(len(images) / (time.process_time() - start))
        return len(images) / taken

    jobs = {"written": partial(rate, "written", written), "memory": partial(rate, "memory", in_memory)}
    wall = alternate(jobs, ROUNDS)
    return {
        "rate_in_memory": statistics.median(wall["memory"]),
        "rate_written": statistics.median(wall["written"]),
        "ratio": median_ratio(wall["written"], wall["memory"]),
        "ratios": [b / a for a, b in zip(wall["memory"], wall["written"], strict=True)],
        # The last rounds: `alternate` drops the warm-up.
        "ratio_of_cpu_time": median_ratio(cpu["written"][-ROUNDS:], cpu["memory"][-ROUNDS:]),
    }


def _captions(out: Path) -> list[tuple[str, str]]:
    """Return the captions of an output, read without seesay."""
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
    """Check that every link is captioned or listed exactly once."""
    names = [image for image, _ in captions]
    assert len(names) == len(set(names)), "an image was captioned twice"
    assert set(names) == {str(path) for path in links.iterdir()} - broken, "missing or unexpected images"
    listed = [json.loads(line)["image"] for line in errors.read_text(encoding="utf-8").splitlines()]
    assert sorted(listed) == sorted(broken), "wrong list of failures"


def _link(folder: Path, images: Sequence[str], links: int, broken: int, seed: int) -> set[str]:
    """Create links to the images, repeatedly if needed; return the paths that are broken files instead."""
    folder.mkdir()
    rng = random.Random(seed)
    bad = set(rng.sample(range(links), min(broken, links)))
    failing = set()
    for number in range(links):
        source = Path(images[number % len(images)]).resolve()
        path = folder / f"{number:06d}{source.suffix}"
        if number not in bad:
            path.symlink_to(source)
            continue
        content = source.read_bytes()
        length = rng.choice((0, 20, len(content) // 2))
        path.write_bytes(content[:length] if rng.random() < 0.7 else rng.randbytes(500))
        try:
            read_image(path)
        except ImageError:
            failing.add(str(path))
    return failing


def _draw(folder: Path) -> Path:
    make_scenes(folder, 40, 4, 4, seed=0, size=96)
    return folder


def _random_model(folder: Path, data: Path) -> Path:
    """Write a run with random weights, which is as fast as a trained one of its size."""
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
