"""Whether 95 % intervals hold what they should: coverage of the bootstrap by simulation.

Run `python benchmarks/coverage.py data/flickr8k` or with `--quick` (made-up captions). A large set of pictures stands
for the population; its scores are the truth. Samples of pictures are drawn from it, each gives its interval, and the
share of intervals that hold the truth is printed, beside the share that should (95 %) and its standard error. Prints
a table, then one line of JSON.

CIDEr keeps the document frequencies of the whole population, as seesay's bootstrap keeps those of its set.
"""

import argparse
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from seesay.data.annotations import load_annotations
from seesay.metrics import Scores, bootstrap_intervals, compute_metrics
from seesay.metrics.scores import NEED_NOTHING, missing_meteor


def population(data: Path | None) -> Scores:
    """Returns scores of every picture's first caption against its others, or of made-up captions."""
    if data is not None:
        items = [item for item in load_annotations(data, require_images=False) if len(item.captions) > 1]
        metrics = (*NEED_NOTHING, *(() if missing_meteor("ptb") else ("METEOR",)))
        hypotheses = [item.captions[0] for item in items]
        return compute_metrics(hypotheses, [list(item.captions[1:]) for item in items], metrics=metrics)
    draw = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    references = [[" ".join(draw.choices(words[:12], k=draw.randint(4, 12))) for _ in range(4)] for _ in range(2000)]
    hypotheses = [" ".join(draw.sample(image[0].split(), 3) + draw.choices(words[:20], k=5)) for image in references]
    return compute_metrics(hypotheses, references, tokenization="whitespace", metrics=NEED_NOTHING)


def sample(scores: Scores, pictures: int, generator: np.random.Generator) -> Scores:
    """Returns the scores of pictures drawn with replacement, from the statistics of the whole."""
    drawn = generator.integers(0, len(scores.ids), pictures)
    statistics = {name: values[drawn] for name, values in scores.statistics.items()}
    return replace(scores, ids=tuple(map(str, range(pictures))), statistics=statistics)


def main() -> None:
    """Runs the simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="captions; without them made-up ones are used")
    parser.add_argument("--quick", action="store_true", help="fewer samples and draws")
    parser.add_argument("--pictures", type=int, default=1000, help="pictures of a sample")
    options = parser.parse_args()
    samples, draws = (100, 200) if options.quick else (500, 1000)
    pictures = 300 if options.quick else options.pictures
    whole = population(options.data)
    generator = np.random.default_rng(0)
    held = dict.fromkeys(whole.corpus, 0)
    for seed in range(samples):
        intervals = bootstrap_intervals(sample(whole, pictures, generator), draws=draws, seed=seed)
        for name, interval in intervals.items():
            held[name] += interval.low <= whole.corpus[name] <= interval.high
    shares = {name: count / samples for name, count in held.items()}
    print(f"{samples} samples of {pictures} pictures from {len(whole.ids)}, {draws} draws each")
    for name, share in shares.items():
        print(f"{name:10} {100 * share:6.1f} %  (95.0 +- {100 * math.sqrt(0.95 * 0.05 / samples):.1f})")
    print(json.dumps({"benchmark": "coverage", "samples": samples, "pictures": pictures, "held": shares}))


if __name__ == "__main__":
    main()
