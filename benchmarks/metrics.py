"""Speed of the metrics compared with pycocoevalcap, and of the token-level CIDEr-D of self-critical training.

Run `python benchmarks/metrics.py` (needs Java and pycocoevalcap for the comparison) or with `--quick` (synthetic
captions, no Java). `--data data/flickr8k --predictions docs/results/best/scst-seed0-beam5.jsonl` scores generated
captions against human captions; if there are more images than predictions, these are repeated. Prints a table, then one
line of JSON.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import statistics
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from bench.measuring import median_ratio, print_result, seconds
from seesay.data import load_annotations
from seesay.metrics import Cider, compute_metrics, ptb
from seesay.metrics.scores import BUILTIN_METRICS, _meteor, missing_meteor
from seesay.metrics.tokenize import tokenize

SUBJECTS = ("A man", "Two dogs", "A woman's dog", "The little girl", "An old man", "Three well-dressed people")
VERBS = ("runs", "is sitting", "jumps", "plays", "are standing", "doesn't look", "walks", "smiles", "rides a bike")
PLACES = ("on the grass", "in the snow", "near a lake", "by the street", "at the U.S. Open", "on a bench", "outside")
EXTRAS = ("with a red ball", "wearing a t-shirt", ", holding a sign", "while others watch", "in front of a crowd", "")


def make_captions(images: int, references: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Return one hypothesis and several references per image, of about eleven words each."""
    draw = random.Random(seed)
    words = [f"word{number}" for number in range(2000)]

    def caption(theme: tuple[str, str]) -> str:
        rare = draw.choice(words) if draw.random() < 0.5 else draw.choice(theme)
        return f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {rare} {draw.choice(PLACES)} {draw.choice(EXTRAS)} ."

    themes = [(draw.choice(words), draw.choice(words)) for _ in range(images)]
    return [caption(theme) for theme in themes], [[caption(theme) for _ in range(references)] for theme in themes]


def peer_scores(hypotheses: list[str], references: list[list[str]], java: bool) -> dict[str, float]:
    """Return pycocoevalcap's scores, with its Java tokenizer or our tokens."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider as PeerCider
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        captions = {i: [{"caption": text}] for i, text in enumerate(hypotheses)}
        truth = {i: [{"caption": text} for text in texts] for i, texts in enumerate(references)}
        if java:
            tokens = PTBTokenizer()
            caption_tokens, truth_tokens = tokens.tokenize(captions), tokens.tokenize(truth)
        else:
            caption_tokens = {i: tokenize([text]) for i, text in enumerate(hypotheses)}
            truth_tokens = {i: tokenize(texts) for i, texts in enumerate(references)}
        bleu, _ = Bleu(4).compute_score(truth_tokens, caption_tokens)
        rouge, _ = Rouge().compute_score(truth_tokens, caption_tokens)
        cider, _ = PeerCider().compute_score(truth_tokens, caption_tokens)
    return {f"BLEU-{n + 1}": float(bleu[n]) for n in range(4)} | {"ROUGE-L": float(rouge), "CIDEr": float(cider)}


def real_captions(data: Path, predictions: Path, images: int) -> tuple[list[str], list[list[str]]]:
    """Return generated captions, and five human captions per image."""
    predicted = {row["id"]: row["caption"] for row in map(json.loads, predictions.read_text("utf-8").splitlines())}
    human = {item.id: list(item.captions[:5]) for item in load_annotations(data).items if len(item.captions) >= 5}
    ids = [*(name for name in predicted if name in human), *(name for name in human if name not in predicted)][:images]
    captions = list(predicted.values())
    return [predicted.get(name, captions[k % len(captions)]) for k, name in enumerate(ids)], [
        human[name] for name in ids
    ]


def jar_meteor(hypotheses: list[str], references: list[list[str]]) -> float:
    """Return METEOR of tokenized captions from pycocoevalcap's jar, run in its own process as by coco-caption."""
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocoevalcap.meteor.meteor import Meteor
    score, _ = Meteor().compute_score(dict(enumerate(references)), {i: [text] for i, text in enumerate(hypotheses)})
    return float(score)


def meteor_times(hypotheses: list[str], references: list[list[str]], passes: int) -> dict[str, object]:
    """Return the median time of our METEOR on raw captions, and of the jar on tokens, alternating."""
    tokens, reference_tokens = tokenize(hypotheses), [tokenize(texts) for texts in references]
    ours: list[float] = []
    theirs: list[float] = []
    scores: dict[str, float] = {}
    compute_metrics(hypotheses[:1], references[:1], metrics=["METEOR"])  # the first use on a machine creates a table
    our_meteor = partial(compute_metrics, hypotheses, references, metrics=["METEOR"])
    for _ in range(passes):
        ptb._chunk.cache_clear()
        _meteor.cache_clear()
        ours.append(seconds(lambda: scores.update(ours=our_meteor().corpus["METEOR"])))
        theirs.append(seconds(lambda: scores.update(jar=jar_meteor(tokens, reference_tokens))))
    return {
        "meteor_s": round(statistics.median(ours), 2),
        "meteor_jar_s": round(statistics.median(theirs), 2),
        "meteor_times_faster": round(median_ratio(theirs, ours), 2),
        "meteor_difference": abs(scores["ours"] - scores["jar"]),
    }


def reward_milliseconds(images: int) -> float:
    """Return the time of token-level CIDEr-D for 320 hypotheses with cached references, in milliseconds."""
    rng = np.random.default_rng(0)

    def ids() -> list[int]:
        tokens: list[int] = (rng.zipf(1.3, 11) % 5000).tolist()
        return tokens

    scorer = Cider([[ids() for _ in range(5)] for _ in range(images)])
    hypotheses, owners = [ids() for _ in range(320)], rng.integers(0, images, 320)
    return 1000 * min(seconds(lambda: scorer.score(hypotheses, owners)) for _ in range(10))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images, no Java")
    parser.add_argument("--images", type=int, default=0, help="images to score; 0 = 5000, or 1000 with --quick")
    parser.add_argument("--data", type=Path, help="data set whose captions are the references")
    parser.add_argument("--predictions", type=Path, help="JSON lines of id and caption, with --data")
    parser.add_argument("--passes", type=int, default=3, help="alternating passes")
    options = parser.parse_args()
    images = options.images or (1000 if options.quick else 5000)
    java = not options.quick and shutil.which("java") is not None
    if options.data:
        hypotheses, references = real_captions(options.data, options.predictions, images)
    else:
        hypotheses, references = make_captions(images, references=5)

    result: dict[str, object] = {"images": images, "references": 5, "java": java}
    result["reward_320_ms"] = round(reward_milliseconds(images), 2)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(1 if options.quick else options.passes):  # alternating, because the machine's speed drifts
        ptb._chunk.cache_clear()  # otherwise tokens of an earlier pass are cached
        ours.append(seconds(lambda: compute_metrics(hypotheses, references, metrics=BUILTIN_METRICS)))
        try:
            theirs.append(seconds(lambda: result.update(peer=peer_scores(hypotheses, references, java))))
        except ImportError:
            break
    result["seesay_s"] = round(statistics.median(ours), 3)
    result["pycocoevalcap_s"] = round(statistics.median(theirs), 3) if theirs else None
    if theirs:
        peer = result.pop("peer")
        assert isinstance(peer, dict)
        corpus = compute_metrics(hypotheses, references, metrics=BUILTIN_METRICS).corpus
        result["times_faster"] = round(median_ratio(theirs, ours), 1)
        result["largest_difference"] = max(abs(corpus[name] - peer[name]) for name in corpus)
    if theirs and java and not missing_meteor("ptb"):
        result |= meteor_times(hypotheses, references, options.passes)
    elif not missing_meteor("ptb"):
        result["meteor_s"] = round(seconds(lambda: compute_metrics(hypotheses, references, metrics=["METEOR"])), 3)
    for name, value in result.items():
        print(f"{name:20} {value}")
    print_result("metrics", **result)


if __name__ == "__main__":
    main()
