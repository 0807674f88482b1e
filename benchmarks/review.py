"""Speed of the review page in Chromium: opening it, scrolling, filtering, and making thumbnails.

python benchmarks/review.py [--images data/flickr8k/images] [--rows 5000] [--quick]

The rows are links to the images (default: drawn ones of 500 x 375 pixels). A scroll step ends when the frame after it
is displayed; small steps move by a third of the window, large ones through the whole list in 100 steps. Needs the
extra `serve`, playwright and Debian's chromium. Prints a table, then one line of JSON.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from bench.measuring import print_result, show_table
from seesay.data.readers.images import list_image_paths
from seesay.review import limits
from seesay.review.thumbnails import Thumbnails

CHROMIUM = Path("/usr/bin/chromium")

SCROLL = """async ([steps, distance]) => {
  const box = document.getElementById("list"), times = [];
  box.scrollTop = 0;
  for (let step = 0; step < steps; step += 1) {
    const start = performance.now();
    box.scrollTop += distance ?? box.scrollHeight / steps;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    times.push(performance.now() - start);
  }
  return times;
}"""

SEARCH = """async () => {
  const field = document.getElementById("text"), count = document.getElementById("count");
  const start = performance.now(), before = count.textContent;
  field.value = "caption 77";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  while (count.textContent === before) await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""


def make_rows(folder: Path, sources: list[Path], rows: int) -> Path:
    """Write `captions.jsonl` over links to the images."""
    with (folder / "captions.jsonl").open("w") as file:
        for number in range(rows):
            link = folder / f"image-{number:05}{sources[0].suffix}"
            link.symlink_to(sources[number % len(sources)].resolve())
            row = {"image": link.name, "caption": f"caption {number} of a photograph", "score": -number / 100}
            file.write(json.dumps({**row, "finished": True}) + "\n")
    return folder / "captions.jsonl"


def drawn_images(folder: Path, number: int) -> list[Path]:
    """Write smooth JPEGs of random colours."""
    import numpy as np

    paths = []
    for seed in range(number):
        rough = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        paths.append(folder / f"drawn-{seed}.jpg")
        Image.fromarray(rough).resize((500, 375), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


@contextmanager
def reviewing(captions: Path) -> Iterator[tuple[str, int]]:
    """Run `seesay review`; yield its address and process id."""
    command = [sys.executable, "-m", "seesay", "review", str(captions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            yield found[0], process.pid
        finally:
            process.terminate()


def measure_page(address: str) -> dict[str, list[float]]:
    """Return milliseconds of opening, scrolling and searching."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        start = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        found: dict[str, Any] = {"open the page": [1000 * (time.perf_counter() - start)]}
        found["scroll by a third of the window"] = page.evaluate(SCROLL, [100, 250])
        found["scroll through the list in 100 steps"] = page.evaluate(SCROLL, [100, None])
        found["search"] = [page.evaluate(SEARCH)]
        browser.close()
    return found


def measure_thumbnails(sources: list[Path]) -> dict[str, list[float]]:
    """Return milliseconds per thumbnail in one thread: made, and from the cache."""
    thumbnails = Thumbnails()
    found: dict[str, list[float]] = {}
    for name in ("thumbnail", "thumbnail in the cache"):
        found[name] = []
        for source in sources:
            start = time.perf_counter()
            thumbnails.get(str(source), limits.THUMBNAIL_SIDES["small"])
            found[name].append(1000 * (time.perf_counter() - start))
    return found


def memory(process: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="500 rows")
    arguments = parser.parse_args()
    if not CHROMIUM.exists():
        print(f"there is no {CHROMIUM}; install Debian's chromium")
        return
    rows = 500 if arguments.quick else arguments.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [Path(path) for path in list_image_paths(arguments.images)] if arguments.images else []
        sources = sources or drawn_images(folder, 40)
        captions = make_rows(folder, sources, rows)
        with reviewing(captions) as (address, process):
            before = memory(process)
            times = measure_page(address)
            after = memory(process)
        times |= measure_thumbnails(sources[:200])
    table = [
        (name, f"{statistics.median(each):.1f}", f"{sorted(each)[int(0.95 * len(each))]:.1f}", f"{max(each):.1f}")
        for name, each in times.items()
    ]
    show_table(("milliseconds", "median", "95 %", "most"), table)
    largest = {name: max(each) for name, each in times.items()}
    print_result("review", rows=rows, largest_ms=largest, server_mb_before=before, server_mb_after=after)


if __name__ == "__main__":
    main()
