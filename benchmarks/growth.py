"""Scaling of our training step with the sizes of vocabulary, grid, features, captions and data.

Run `python benchmarks/growth.py [--precision float32] [--threads 1]`. One size is changed at a time; its cost is the
time per caption relative to that at the tutorial's sizes, alternating. `--quick` measures less. Prints a table, then
one line of JSON.
"""

import argparse
import statistics
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bench.entry import Entry
from bench.measuring import alternate, cores, median_ratio, print_result, seconds, show_table
from bench.our_training import OurSteps, our_module
from bench.training_data import (
    GRID,
    VOCABULARY,
    InMemoryFeatures,
    TrainingData,
    random_features,
    synthetic_examples,
    synthetic_tokenizer,
)
from seesay.allocation import keep_freed_memory


@dataclass(frozen=True)
class Sizes:
    """Sizes that determine the cost.

    Attributes:
        vocabulary: vocabulary size V.
        regions: regions N.
        features: feature width F.
        length: how often the words of a caption are repeated.
        images: images of the data set.
    """

    vocabulary: int = VOCABULARY
    regions: int = GRID[0]
    features: int = GRID[1]
    length: int = 1
    images: int = 104


GROWN: dict[str, tuple[int, ...]] = {
    "vocabulary": (2_500, 10_000, 20_000),
    "regions": (16, 49, 100, 196),
    "features": (576, 1_280, 3_328),
    "length": (2, 3),
    "images": (416, 1_664),
}
QUICK: dict[str, tuple[int, ...]] = {"regions": (16,)}


def main() -> None:
    """Run the benchmark."""
    keep_freed_memory()  # as the command line does
    options = parse()
    torch.set_num_threads(options.threads)
    base, rows = OurSteps(*step_arguments(options, Sizes())), []
    for name, values in (QUICK if options.quick else GROWN).items():
        for value in values:
            sizes = replace(Sizes(), **{name: value})
            rows.append({"grown": name, "to": value, "from": getattr(Sizes(), name), **measure(options, base, sizes)})
    heads = ("", "from", "to", "captions/s", "time per caption")
    columns = ("grown", "from", "to", "captions_per_s", "cost")
    show_table(
        heads, [[f"{row[name]:.2f}" if name == "cost" else _text(row[name]) for name in columns] for row in rows]
    )
    settings = {"precision": options.precision, "preset": options.preset, "rounds": options.rounds}
    print_result("growth", **settings, rows=rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: one size")
    parser.add_argument("--preset", default="attention-gru")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=min(2, cores()))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def step_arguments(options: argparse.Namespace, sizes: Sizes) -> tuple[Any, bool]:
    """Return the arguments of `OurSteps`."""
    entry = Entry(
        system="ours",
        preset=options.preset,
        precision=options.precision,
        threads=options.threads,
        padding=0,
        steps=0,
        data=None,
        store=None,
        images=sizes.images,
    )
    return our_module(entry, training_data(sizes), sizes.vocabulary), options.precision == "bfloat16"


def training_data(sizes: Sizes) -> TrainingData:
    """Return synthetic images with captions of Flickr8k's lengths, repeated `sizes.length` times."""
    last = sizes.vocabulary - 1  # replaces all rarer words

    def repeated(row: tuple[int, ...]) -> tuple[int, ...]:
        return (row[0], *(min(word, last) for word in row[1:-1] * sizes.length), row[-1])

    examples = [
        replace(each, tokens=tuple(repeated(row) for row in each.tokens)) for each in synthetic_examples(sizes.images)
    ]
    ids = [each.id for each in examples]
    features = InMemoryFeatures(ids, random_features(len(ids), sizes.regions, sizes.features))
    return TrainingData(examples, features, synthetic_tokenizer())


def measure(options: argparse.Namespace, base: OurSteps, sizes: Sizes) -> dict[str, float]:
    """Return the rate at the given sizes, and the time per caption relative to the base."""
    variants = {"base": base, "grown": OurSteps(*step_arguments(options, sizes))}

    def cost(steps: OurSteps) -> float:
        return seconds(steps.epoch) / steps.module.batches.captions

    costs = alternate({name: partial(cost, steps) for name, steps in variants.items()}, options.rounds)
    return {
        "captions_per_s": 1 / statistics.median(costs["grown"]),
        "cost": median_ratio(costs["grown"], costs["base"]),
    }


def _text(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


if __name__ == "__main__":
    main()
