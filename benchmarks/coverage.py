"""Whether 95 % intervals hold what they should: coverage of the bootstrap by simulation.

Run `python benchmarks/coverage.py data/flickr8k` or with `--quick` (made-up captions). A large set of images stands
for the population; its scores are the truth. Samples of images are drawn from it, each gives its interval, and the
share of intervals that hold the truth is printed, beside the share that should (95 %) and its standard error. Prints
a table, then one line of JSON.

CIDEr weighs words by how many images of the scored set have them. The row `CIDEr` keeps the document frequencies of
the whole population; the row `CIDEr, own` takes each sample's own, as every evaluation of a split does: that is another
number, which depends on how many images there are, and its intervals do not hold the population's.
"""

import argparse
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seesay.data.annotations import load_annotations
from seesay.metrics import Scores, bootstrap_intervals, compute_metrics, tokenize
from seesay.metrics.scores import NEED_NOTHING, missing_meteor

OWN = "CIDEr, own"
Ints = npt.NDArray[np.int64]


def population(data: Path | None) -> tuple[Scores, list[str], list[list[str]]]:
    """Returns scores of every image's first caption against its others, or of made-up captions, and both."""
    if data is not None:
        items = [item for item in load_annotations(data, require_images=False) if len(item.captions) > 1]
        metrics = (*NEED_NOTHING, *(() if missing_meteor("ptb") else ("METEOR",)))
        hypotheses, others = [item.captions[0] for item in items], [list(item.captions[1:]) for item in items]
        return compute_metrics(hypotheses, others, metrics=metrics), tokenize(hypotheses), list(map(tokenize, others))
    draw = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    references = [[" ".join(draw.choices(words[:12], k=draw.randint(4, 12))) for _ in range(4)] for _ in range(2000)]
    hypotheses = [" ".join(draw.sample(image[0].split(), 3) + draw.choices(words[:20], k=5)) for image in references]
    scores = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=NEED_NOTHING)
    return scores, hypotheses, references


def own_cider(drawn: Ints, hypotheses: list[str], references: list[list[str]]) -> Scores:
    """Returns CIDEr of drawn images with their own document frequencies."""
    images = drawn.tolist()
    return compute_metrics(
        [hypotheses[place] for place in images],
        [references[place] for place in images],
        tokenization="whitespace",  # they are tokens already
        metrics=["CIDEr"],
    )


def sample(scores: Scores, drawn: Ints) -> Scores:
    """Returns the scores of drawn images, from the statistics of the whole."""
    images = len(drawn)
    statistics = {name: values[drawn] for name, values in scores.statistics.items()}
    return replace(scores, ids=tuple(map(str, range(images))), statistics=statistics)


def main() -> None:
    """Runs the simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="captions; without them made-up ones are used")
    parser.add_argument("--quick", action="store_true", help="fewer samples and draws")
    parser.add_argument("--images", type=int, default=1000, help="images of a sample")
    options = parser.parse_args()
    samples, draws = (100, 200) if options.quick else (500, 1000)
    images = 300 if options.quick else options.images
    whole, hypotheses, references = population(options.data)
    generator = np.random.default_rng(0)
    held = dict.fromkeys([*whole.corpus, OWN], 0)
    shift = 0.0
    for seed in range(samples):
        drawn = generator.choice(len(whole.ids), images, replace=False)
        intervals = bootstrap_intervals(sample(whole, drawn), draws=draws, seed=seed)
        own = own_cider(drawn, hypotheses, references)
        intervals[OWN] = bootstrap_intervals(own, draws=draws, seed=seed)["CIDEr"]
        shift += (own.corpus["CIDEr"] - float(whole.per_image["CIDEr"][drawn].mean())) / samples
        for name, interval in intervals.items():
            held[name] += interval.low <= whole.corpus[name.partition(",")[0]] <= interval.high
    shares = {name: count / samples for name, count in held.items()}
    print(f"{samples} samples of {images} images from {len(whole.ids)}, {draws} draws each")
    for name, share in shares.items():
        print(f"{name:10} {100 * share:6.1f} %  (95.0 +- {100 * math.sqrt(0.95 * 0.05 / samples):.1f})")
    print(f"CIDEr with a sample's own document frequencies is {100 * shift:+.2f} from that with the population's")
    result = {"benchmark": "coverage", "samples": samples, "images": images, "held": shares, "cider_shift": shift}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
