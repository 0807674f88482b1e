"""Compare the scores of pycocoevalcap and seesay on a file of predictions.

python examples/coco_scores.py runs/attention-gru/predictions/test/predictions.jsonl data/flickr8k

Needs the extra `coco` and Java: pycocoevalcap tokenizes the captions with its own Java tokenizer before scoring.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from seesay.config import DataConfig
from seesay.data import load_dataset
from seesay.evaluation import read_predictions
from seesay.metrics import compute_metrics
from seesay.metrics.java import jar_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    predictions = read_predictions(arguments.predictions)
    references = {
        item.id: list(item.captions) for item in load_dataset(arguments.data, DataConfig()).split(arguments.split)
    }
    theirs = reference_scores(predictions, references)
    metrics = ("BLEU", "ROUGE-L", "CIDEr", "METEOR")
    ours = compute_metrics(
        [predictions[name] for name in references], list(references.values()), metrics=metrics
    ).corpus
    table = Table("score", "pycocoevalcap", "seesay", "difference")
    for name, value in theirs.items():
        table.add_row(name, f"{100 * value:.4f}", f"{100 * ours[name]:.4f}", f"{abs(value - ours[name]):.1e}")
    Console().print(table)
    print(json.dumps({"images": len(references), "pycocoevalcap": theirs, "seesay": ours}))


def reference_scores(predictions: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    """Return the scores of pycocoevalcap with its Java tokenizer."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    candidates = tokenizer.tokenize({name: [{"caption": predictions[name]}] for name in references})
    reference_captions = tokenizer.tokenize(
        {name: [{"caption": text} for text in texts] for name, texts in references.items()}
    )
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(reference_captions, candidates)
        rouge, _ = Rouge().compute_score(reference_captions, candidates)
        cider, _ = Cider().compute_score(reference_captions, candidates)
    meteor, _, _ = jar_scores(
        "METEOR-jar", [candidates[name][0] for name in references], [reference_captions[name] for name in references]
    )
    scores = {f"BLEU-{order}": float(value) for order, value in enumerate(bleu, 1)}
    return {**scores, "ROUGE-L": float(rouge), "CIDEr": float(cider), "METEOR": meteor}


if __name__ == "__main__":
    main()
