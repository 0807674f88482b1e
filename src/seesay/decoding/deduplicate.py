"""Distinct captions: merging the hypotheses of increasingly wide searches."""

import logging
import math
from collections.abc import Sequence

from seesay.config import DecodingOptions
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.hypothesis import Hypothesis, Result

logger = logging.getLogger(__name__)


def widen(options: DecodingOptions, widening: int) -> DecodingOptions:
    """Return the options with the width of the search multiplied by 2 ** `widening`."""
    if options.strategy == "beam":
        return options.replace(beam_size=options.beam_size << widening)
    return options.replace(num_return_sequences=options.num_return_sequences << widening)


def merge_distinct(
    before: list[Hypothesis], result: Result, options: DecodingOptions, constraints: TokenConstraints
) -> Result:
    """Return the distinct hypotheses of two searches, the narrower first; best first.

    The greedy caption and the first sample stay first even if others score higher.
    """
    text_of = constraints.text or tuple
    later = result.hypotheses
    lead = 0 if options.strategy == "beam" else 1
    if lead and not before:
        own = min(range(len(later)), key=lambda place: result.rows[place])
        later = [later[own], *later[:own], *later[own + 1 :]]
    first: dict[object, Hypothesis] = {}
    for hypothesis in (*before, *later):
        first.setdefault(text_of(hypothesis.tokens), hypothesis)
    found = list(first.values())
    return Result([*found[:lead], *sorted(found[lead:], key=lambda each: -each.score)], result.failed)


def warn_of_shortcomings(found: Sequence[Result], names: Sequence[str], wanted: int) -> None:
    """Log warnings about results; an image counts for its worst problem only."""
    unscored, broken, short = [], [], []
    for name, result in zip(names, found, strict=True):
        if not all(math.isfinite(hypothesis.score) for hypothesis in result.hypotheses[:wanted]):
            unscored.append(name)
        elif result.failed:
            broken.append(name)
        elif len(result.hypotheses) < wanted:
            short.append(f"{name} with {len(result.hypotheses)}")
    for images, words in (
        (unscored, "have captions whose scores are not finite"),
        (
            broken,
            "have captions that violate the constraints (no_repeat_ngram_size, force_words, bad_words or others): "
            "no caption satisfies them",
        ),
        (short, f"have fewer than the {wanted} distinct captions requested"),
    ):
        if images:
            logger.warning("%d of %d images %s, such as %s", len(images), len(names), words, images[0])
