"""The scorers of pycocoevalcap as reference."""

import contextlib
import io
import random
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NAMES = {"bleu": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), "rouge": ("ROUGE-L",), "cider": ("CIDEr",)}


def reference_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float64]]]:
    """Returns pycocoevalcap's corpus and per-image BLEU, ROUGE-L and CIDEr of tokenized captions."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        references_by_image = {number: list(image) for number, image in enumerate(references)}
        hypotheses_by_image = {number: [caption] for number, caption in enumerate(hypotheses)}
        corpus: dict[str, float] = {}
        per_image: dict[str, npt.NDArray[np.float64]] = {}
        for key, scorer in (("bleu", Bleu(4)), ("rouge", Rouge()), ("cider", Cider())):
            total, parts = scorer.compute_score(references_by_image, hypotheses_by_image)
            for name, value, column in zip(
                NAMES[key], np.atleast_1d(total), np.atleast_2d(np.array(parts)), strict=True
            ):
                corpus[name] = float(value)
                per_image[name] = column
    return corpus, per_image


WORDS = (
    *("a", "the", "man", "woman", "dog", "cat", "ball", "red", "blue", "big", "small"),
    *("runs", "sits", "jumps", "on", "in", "near", "with", "grass", "water"),
)


def random_captions(images: int, seed: int, max_references: int = 5) -> tuple[list[str], list[list[str]]]:
    """Returns hypotheses and references with many common n-grams; some hypotheses are empty."""
    draw = random.Random(seed)
    references = []
    hypotheses = []
    for _ in range(images):
        words = draw.sample(WORDS, 9)
        image = [" ".join(draw.choices(words, k=draw.randint(1, 14))) for _ in range(draw.randint(1, max_references))]
        copied = draw.choice(image).split()
        draw.shuffle(words)
        hypotheses.append(" ".join((copied[: draw.randint(0, 9)] + words)[: draw.choice((0, 1, 3, 8, 12, 20))]))
        references.append(image)
    return hypotheses, references
