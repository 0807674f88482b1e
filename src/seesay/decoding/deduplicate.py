"""As many different captions as are asked for, of any search: it is done again, wider, where it gave fewer."""

import logging
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from seesay.config import DecodingOptions
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.hypothesis import Hypothesis, Result

_WIDENINGS = 3  # how often a search that gave too few different captions is done again, twice as wide

logger = logging.getLogger(__name__)

Search = Callable[[list[int], int], list[Result]]
"""A search of the images with some numbers, 2 ** its second argument times as wide as asked for."""


def different(
    names: Sequence[str], options: DecodingOptions, rules: TokenConstraints
) -> Generator[tuple[list[int], int], list[Result], list[list[Hypothesis]]]:
    """Asks for searches and returns `options.num_return_sequences` hypotheses of each image that say different things.

    Best first. It asks with the numbers of images, all of them first, and n: for a search 2 ** n times as wide as
    the options say. What is missing or wrong is logged as a warning, with one of the images.

    Args:
        names: of the images, for the warnings.
        options: with the maximum length filled in.
        rules: tell what tokens say.
    """
    wanted = options.num_return_sequences
    results = yield list(range(len(names))), 0
    found = [_different([], result, options, rules) for result in results]
    for widening in range(1, _WIDENINGS + 1):
        short = [image for image, result in enumerate(found) if result.failed or len(result.hypotheses) < wanted]
        if not short:
            break
        results = yield short, widening
        for image, more in zip(short, results, strict=True):
            if found[image].failed:
                found[image] = _different([], more, options, rules)
            elif not more.failed:
                found[image] = _different(found[image].hypotheses, more, options, rules)
    _warn(found, names, wanted)
    return [result.hypotheses[:wanted] for result in found]


def distinct_captions(
    search: Search, names: Sequence[str], options: DecodingOptions, rules: TokenConstraints
) -> list[list[Hypothesis]]:
    """Returns what `different` does, of a search that answers at once.

    Args:
        search: called with what `different` asks for.
        names: of the images, for the warnings.
        options: with the maximum length filled in.
        rules: tell what tokens say.
    """
    asking = different(names, options, rules)
    images, widening = next(asking)
    while True:
        try:
            images, widening = asking.send(search(images, widening))
        except StopIteration as stop:
            found: list[list[Hypothesis]] = stop.value
            return found


def widened(options: DecodingOptions, widening: int) -> DecodingOptions:
    """Returns the options of a search 2 ** `widening` times as wide."""
    if options.strategy == "beam":
        return replace(options, beam_size=options.beam_size << widening)
    return replace(options, num_return_sequences=options.num_return_sequences << widening)


def _warn(found: Sequence[Result], names: Sequence[str], wanted: int) -> None:
    """Logs what is wrong with results, each image under the worst that is."""
    unscored, broken, short = [], [], []
    for name, result in zip(names, found, strict=True):
        if not all(math.isfinite(hypothesis.score) for hypothesis in result.hypotheses[:wanted]):
            unscored.append(name)
        elif result.failed:
            broken.append(name)
        elif len(result.hypotheses) < wanted:
            short.append(f"{name} with {len(result.hypotheses)}")
    for images, words in (
        (unscored, "have captions whose scores are no finite numbers"),
        (
            broken,
            "have captions that break the rules (no_repeat_ngram_size, require, ban and the like), which left no other",
        ),
        (short, f"have fewer than the {wanted} different captions asked for"),
    ):
        if images:
            logger.warning("%d of %d images %s, such as %s", len(images), len(names), words, images[0])


def _different(before: list[Hypothesis], result: Result, options: DecodingOptions, rules: TokenConstraints) -> Result:
    """Returns the hypotheses of two searches, the narrower first, that say different things; best first.

    Only the first of greedy decoding (its own caption) and of sampling (the first drawn) stays before better ones.
    """
    said = rules.text or tuple
    later = result.hypotheses
    lead = 0 if options.strategy == "beam" else 1
    if lead and not before:
        own = min(range(len(later)), key=lambda place: result.rows[place])
        later = [later[own], *later[:own], *later[own + 1 :]]
    first: dict[object, Hypothesis] = {}
    for hypothesis in (*before, *later):
        first.setdefault(said(hypothesis.tokens), hypothesis)
    found = list(first.values())
    return Result([*found[:lead], *sorted(found[lead:], key=lambda each: -each.score)], result.failed)
