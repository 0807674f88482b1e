"""Speed of our training step compared with the tutorial's and with the lower bound of its arithmetic.

Run `python benchmarks/training.py [--data data/flickr8k --store features/NAME.safetensors]`; the default is captions of
Flickr8k's lengths and random features of InceptionV3's shape (64 x 2048). With `pip install tensorflow-cpu` the
tutorial also runs in TensorFlow. `--quick` measures less. Prints tables, then one line of JSON.

Every contestant runs in its own process, so that its memory can be measured; they alternate on the same captions, and a
ratio is the median of those within a round. docs/performance.md describes the contestants and the floor.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from bench.contestants import Contestant, has_tensorflow
from bench.entry import Entry, Precision, Round
from bench.measuring import (
    add_neighbours_option,
    alternate,
    busy_neighbours,
    cores,
    machine,
    median_ratio,
    print_result,
    show_table,
)

PEER = "attention-gru"
"""The preset with the tutorial's sizes, which is compared with it."""
PRESETS = (
    *(PEER, "attention-gru-tutorial", "pooled-gru", "pooled-gru-tutorial"),
    *("luong-gru", "show-attend-tell", "up-down", "transformer"),
)
HEADS = ("", "captions/s", "of floor", "loop/s", "loop:step", "times", "peak MB", "total MB")


def main() -> None:
    """Run the benchmark."""
    options = parse()
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        for precision in options.precisions:
            neighbours = f", {options.neighbours} busy neighbours" * bool(options.neighbours)
            print(f"\n{precision}, {threads} thread{'s' * (threads > 1)}{neighbours}, load {machine().get('load')}")
            with busy_neighbours(options.neighbours):
                found = [row for preset in options.presets for row in measure(options, preset, precision, threads)]
            show_table(HEADS, [cells(row) for row in found])
            rows += [{"precision": precision, "threads": threads, **row} for row in found]
    print()
    inputs = {"data": options.data is not None, "store": options.store is not None, "images": options.images}
    print_result("training", **inputs, neighbours=options.neighbours, rounds=options.rounds, rows=rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: float32, one preset, the tutorial in torch")
    parser.add_argument("--data", type=Path, help="data set, whose training captions are used")
    parser.add_argument("--store", type=Path, help="its feature store")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, min(2, cores())}))
    parser.add_argument(
        "--padding",
        nargs="+",
        type=int,
        default=[50, 20],
        help="padding of the tutorial in tokens; 0 = longest caption",
    )
    parser.add_argument(
        "--images", type=int, default=312, help="images with five captions each: an epoch of 24 batches"
    )
    parser.add_argument("--tutorial-steps", type=int, default=4, help="steps per round of the tutorial")
    parser.add_argument("--rounds", type=int, default=5)
    add_neighbours_option(parser)
    options = parser.parse_args()
    if options.quick:
        options.presets, options.precisions, options.threads = [PEER], ["float32"], [min(2, cores())]
        options.padding, options.images, options.tutorial_steps, options.rounds = [20], 39, 1, 1
    return options


def measure(options: argparse.Namespace, preset: str, precision: Precision, threads: int) -> list[dict[str, Any]]:
    """Return a row for a preset, and rows for the tutorial's variants with the preset of its sizes."""
    entries = {preset: entry(options, "ours", precision, threads, preset=preset)}
    systems = [] if preset != PEER else ["torch"] + ["tensorflow"] * (has_tensorflow() and not options.quick)
    for system in systems:
        for padding in options.padding:
            arithmetic: Precision = "float32" if system == "tensorflow" else precision
            name = f"  {system}, padded to {padding or 'the longest'}, {arithmetic}"
            entries[name] = entry(options, system, arithmetic, threads, padding=padding)
    contestants = {name: Contestant(each) for name, each in entries.items()}
    results: dict[str, list[Round]] = {name: [] for name in contestants}

    def rate(name: str) -> float:
        results[name].append(contestants[name].round())
        return results[name][-1]["captions"] / results[name][-1]["seconds"]

    try:
        # Each contestant has trained one round for the memory measurement.
        rates = alternate({name: lambda name=name: rate(name) for name in contestants}, options.rounds, warm_up=0)  # type: ignore[misc]
    finally:
        for contestant in contestants.values():
            contestant.close()
    return [
        {
            "name": name.strip(),
            "captions_per_s": statistics.median(rates[name]),
            "peak_mb": contestants[name].peak[0],
            "total_mb": contestants[name].peak[1],
            **(
                {"ours_times": median_ratio(rates[preset], rates[name])}
                if name != preset
                else compare_with_floor(results[name])
            ),
        }
        for name in contestants
    ]


def entry(options: argparse.Namespace, system: str, precision: Precision, threads: int, **more: Any) -> Entry:
    """Return the configuration of a contestant."""
    common = {"data": options.data, "store": options.store, "images": options.images}
    settings = {"preset": "", "padding": 0, "steps": options.tutorial_steps, **more}
    return Entry(system=cast("Any", system), precision=precision, threads=threads, **common, **settings)


def compare_with_floor(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return our steps relative to the floor, and the complete loop relative to the steps."""
    taken, loop = [one["seconds"] for one in rounds], [one["loop"] for one in rounds]
    floor = [one["floor"] for one in rounds]
    return {
        "of_floor": median_ratio(floor, taken),
        "floor_captions_per_s": statistics.median(one["captions"] / one["floor"] for one in rounds),
        "floor_share_of_tanh": statistics.median(one["floor_tanh"] / one["floor"] for one in rounds),
        "matrix_gflops": statistics.median(2e-9 * one["matrix_rate"] for one in rounds),
        "tanh_per_ns": statistics.median(1e-9 * one["tanh_rate"] for one in rounds),
        "loop_captions_per_s": statistics.median(one["captions"] / one["loop"] for one in rounds),
        "loop_of_step": median_ratio(taken, loop),
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""

    def shown(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    return [
        ("  " if "ours_times" in row else "") + row["name"],
        shown("captions_per_s", ".1f"),
        shown("of_floor", ".3f"),
        shown("loop_captions_per_s", ".1f"),
        shown("loop_of_step", ".3f"),
        shown("ours_times", ".2f"),
        shown("peak_mb", ".0f"),
        shown("total_mb", ".0f"),
    ]


if __name__ == "__main__":
    main()
