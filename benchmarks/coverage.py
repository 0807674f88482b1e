"""Coverage of the bootstrap's 95 % intervals, by simulation.

Run `python benchmarks/coverage.py data/flickr8k` or with `--quick` (synthetic captions). A large set of images is the
population; its scores are the true values. Samples of images are drawn from it, each with its interval. The share of
intervals that contain the true value is printed with the nominal share (95 %) and its standard error. Prints a table,
then one line of JSON.

CIDEr weights words by their document frequency in the scored set. The row `CIDEr` uses the document frequencies of the
population; the row `CIDEr, own` uses those of each sample, like every evaluation of a split: this is a different
quantity, which depends on the number of images, and its intervals do not contain the population's value.
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
from seesay.metrics.scores import BUILTIN_METRICS, missing_meteor

OWN = "CIDEr, own"
Ints = npt.NDArray[np.int64]


def population(data: Path | None) -> tuple[Scores, list[str], list[list[str]]]:
    """Return scores of every image's first caption against its others, or of synthetic captions, and the captions."""
    if data is not None:
        items = [item for item in load_annotations(data, require_images=False) if len(item.captions) > 1]
        metrics = (*BUILTIN_METRICS, *(() if missing_meteor("ptb") else ("METEOR",)))
        hypotheses, others = [item.captions[0] for item in items], [list(item.captions[1:]) for item in items]
        return compute_metrics(hypotheses, others, metrics=metrics), tokenize(hypotheses), list(map(tokenize, others))
    rng = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    references = [[" ".join(rng.choices(words[:12], k=rng.randint(4, 12))) for _ in range(4)] for _ in range(2000)]
    hypotheses = [" ".join(rng.sample(image[0].split(), 3) + rng.choices(words[:20], k=5)) for image in references]
    scores = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=BUILTIN_METRICS)
    return scores, hypotheses, references


def own_cider(sample: Ints, hypotheses: list[str], references: list[list[str]]) -> Scores:
    """Return CIDEr of a sample of images with its own document frequencies."""
    images = sample.tolist()
    return compute_metrics(
        [hypotheses[index] for index in images],
        [references[index] for index in images],
        tokenization="whitespace",  # already tokenized
        metrics=["CIDEr"],
    )


def subset(scores: Scores, sample: Ints) -> Scores:
    """Return the scores of a sample of images, from the statistics of the population."""
    images = len(sample)
    statistics = {name: values[sample] for name, values in scores.statistics.items()}
    return replace(scores, ids=tuple(map(str, range(images))), statistics=statistics)


def main() -> None:
    """Run the simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="captions; default: synthetic ones")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--images", type=int, default=1000, help="images per sample")
    options = parser.parse_args()
    samples, draws = (100, 200) if options.quick else (500, 1000)
    images = 300 if options.quick else options.images
    full, hypotheses, references = population(options.data)
    generator = np.random.default_rng(0)
    covered = dict.fromkeys([*full.corpus, OWN], 0)
    shift = 0.0
    for seed in range(samples):
        sample = generator.choice(len(full.ids), images, replace=False)
        intervals = bootstrap_intervals(subset(full, sample), draws=draws, seed=seed)
        own = own_cider(sample, hypotheses, references)
        intervals[OWN] = bootstrap_intervals(own, draws=draws, seed=seed)["CIDEr"]
        shift += (own.corpus["CIDEr"] - float(full.per_image["CIDEr"][sample].mean())) / samples
        for name, interval in intervals.items():
            covered[name] += interval.low <= full.corpus[name.partition(",")[0]] <= interval.high
    shares = {name: count / samples for name, count in covered.items()}
    print(f"{samples} samples of {images} images from {len(full.ids)}, {draws} bootstrap samples each")
    for name, share in shares.items():
        print(f"{name:10} {100 * share:6.1f} %  (95.0 +- {100 * math.sqrt(0.95 * 0.05 / samples):.1f})")
    print(
        f"CIDEr with a sample's own document frequencies differs by {100 * shift:+.2f} from that with the population's"
    )
    result = {"benchmark": "coverage", "samples": samples, "images": images, "covered": shares, "cider_shift": shift}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
