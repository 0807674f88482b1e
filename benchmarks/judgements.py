"""Correlation of each metric with human judgements: Kendall's tau-c with the expert annotations of Flickr8k.

Run `python benchmarks/judgements.py data/flickr8k` (needs scipy, and `ExpertAnnotations.txt` beside the captions).
Protocol of Anderson et al. 2016 and Hessel et al. 2021: three experts judged captions of other images from 1 to 4;
pairs whose caption is one of the image's own references are excluded; each caption is scored against all five
references of the image; every judgement is a data point, so a caption counts three times. Prints a table, then one line
of JSON. With `--quick` and no data it runs on synthetic judgements, as a test.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import kendalltau

from seesay.data.annotations import load_annotations
from seesay.metrics import compute_metrics
from seesay.metrics.scores import BUILTIN_METRICS, missing_meteor

PUBLISHED = {"BLEU-1": 0.323, "BLEU-4": 0.308, "ROUGE-L": 0.323, "METEOR": 0.418, "CIDEr": 0.439}
"""Hessel et al. 2021 (CLIPScore), table 1."""


@dataclass(frozen=True)
class JudgedCaptions:
    """Captions with their images' references and three judgements each."""

    captions: list[str]
    references: list[list[str]]
    judgements: list[tuple[float, ...]]
    excluded: int


def read_judgements(data: Path) -> JudgedCaptions:
    """Return the judged pairs of a Flickr8k folder."""
    annotations = load_annotations(data, require_images=False)
    captions_of = {Path(item.image).name: item.captions for item in annotations}
    captions, references, judgements, excluded = [], [], [], 0
    path = next(data.glob("**/ExpertAnnotations.txt"), None)
    if path is None:
        raise SystemExit(f"{data} has no ExpertAnnotations.txt; it comes with the captions of Flickr8k")
    for line in path.read_text().splitlines():
        image, caption_id, *scores = line.split()
        source, _, number = caption_id.rpartition("#")
        if image not in captions_of or source not in captions_of:
            excluded += 1
            continue
        caption = captions_of[source][int(number)]
        if caption in captions_of[image]:
            excluded += 1
            continue
        captions.append(caption)
        references.append(list(captions_of[image]))
        judgements.append(tuple(map(float, scores)))
    return JudgedCaptions(captions, references, judgements, excluded)


def synthetic(pairs: int = 300) -> JudgedCaptions:
    """Return captions with some correct words, judged by their number."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(50)]
    captions, references, judgements = [], [], []
    for _ in range(pairs):
        truth = rng.sample(words, 6)
        right = rng.randint(0, 6)
        captions.append(" ".join(truth[:right] + rng.sample(words, 6 - right)))
        references.append([" ".join(truth), " ".join(reversed(truth))])
        judgements.append(tuple(min(4.0, max(1.0, right / 2 + rng.choice((0, 1)))) for _ in range(3)))
    return JudgedCaptions(captions, references, judgements, 0)


def agreement(scores: Sequence[float], judgements: Sequence[tuple[float, ...]]) -> float:
    """Return Kendall's tau-c over all individual judgements."""
    repeated = [score for score, several in zip(scores, judgements, strict=True) for _ in several]
    return float(kendalltau(repeated, [one for several in judgements for one in several], variant="c").statistic)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder of Flickr8k with ExpertAnnotations.txt")
    parser.add_argument("--quick", action="store_true", help="without data: on synthetic judgements")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("name the folder of Flickr8k, or --quick")
    judged = read_judgements(options.data) if options.data else synthetic()
    metrics = (*BUILTIN_METRICS, "CIDEr-plain", *(() if missing_meteor("ptb") else ("METEOR",)))
    scores = compute_metrics(judged.captions, judged.references, metrics=metrics)
    taus = {name: agreement(values.tolist(), judged.judgements) for name, values in scores.per_image.items()}
    print(f"{len(judged.captions)} captions, {judged.excluded} excluded\n{'score':12} {'tau-c':>7} {'published':>10}")
    for name, tau in taus.items():
        print(f"{name:12} {tau:7.3f} {PUBLISHED.get(name, float('nan')):10.3f}")
    rounded = {name: round(tau, 4) for name, tau in taus.items()}
    result = {"benchmark": "judgements", "data": bool(options.data), "captions": len(judged.captions), "tau_c": rounded}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
