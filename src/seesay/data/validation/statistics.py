"""Caption statistics: lengths, vocabulary, coverage."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seesay.config import TextConfig
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.languages import is_unspaced
from seesay.tokenizer import SPECIALS, Tokenizer

_COVERAGE_SIZES = (500, 1000, 2000, 5000, 10000, 20000)


@dataclass(frozen=True)
class CaptionStatistics:
    """Statistics of a data set's captions after the text cleaning used in training.

    Attributes:
        unit: Unit of all lengths: word or character.
        shortest: Length of the shortest caption that is not empty.
        median: Median length.
        mean: Mean length.
        percentile_95: 95th percentile of the lengths.
        longest: Length of the longest caption.
        wordless: Number of captions that are empty after cleaning.
        vocabulary: Number of different words in the training captions.
        coverage: Pairs of k and the fraction (0..1) of training words covered by the k most frequent words.
        unknown: Pairs of another split and the fraction of its words missing from the configured vocabulary.
    """

    unit: str
    shortest: int
    median: float
    mean: float
    percentile_95: int
    longest: int
    wordless: int
    vocabulary: int
    coverage: tuple[tuple[int, float], ...]
    unknown: tuple[tuple[str, float], ...]


def letterless_captions(items: Iterable[Annotation]) -> list[str]:
    """Return the captions without letters, such as `42` or `...`, each with its image."""
    return [
        f"{item.id} ({caption[:40]!r})"
        for item in items
        for caption in item.captions
        if not any(map(str.isalpha, caption))
    ]


def repeated_captions(items: Iterable[Annotation]) -> list[str]:
    """Return the captions that an image has more than once, each with its image and the number of occurrences."""
    return [
        f"{item.id} ({caption[:40]!r}, {number} times)"
        for item in items
        for caption, number in Counter(item.captions).items()
        if number > 1
    ]


def caption_statistics(
    training: Sequence[str], others: Mapping[str, Sequence[str]], config: TextConfig
) -> CaptionStatistics | None:
    """Return the statistics of the captions, or None if the training captions have no words.

    Args:
        training: The training captions, from which the vocabulary is built.
        others: The captions of the other splits, by split.
        config: Cleaning and tokenization settings.
    """
    unlimited = config.replace(vocabulary_size=0, min_count=1, max_words=0)
    try:
        full = Tokenizer.build(training, unlimited)
        chosen = Tokenizer.build(training, config)
    except DataError:
        return None
    encoded = [full.encode(caption) for caption in training]
    counts = Counter(token for tokens in encoded for token in tokens[1:-1])
    lengths = [len(tokens) - 2 for tokens in encoded]
    lengths += [len(full.encode(caption)) - 2 for captions in others.values() for caption in captions]
    nonempty = sorted(length for length in lengths if length)
    return CaptionStatistics(
        unit=config.level,
        shortest=nonempty[0],
        median=statistics.median(nonempty),
        mean=statistics.fmean(nonempty),
        percentile_95=nonempty[-(-95 * len(nonempty) // 100) - 1],
        longest=nonempty[-1],
        wordless=len(lengths) - len(nonempty),
        vocabulary=len(counts),
        coverage=_coverage(counts, len(chosen) - len(SPECIALS)),
        unknown=tuple((name, chosen.oov_rate(captions)) for name, captions in others.items()),
    )


def level_advice(captions: Iterable[str], config: TextConfig) -> str:
    """Return a recommendation if the captions have no spaces between words, else an empty string."""
    if config.level == "character" or not is_unspaced(captions):
        return ""
    return "the captions have no spaces between words; use --level character"


def _coverage(counts: Counter[int], chosen: int) -> tuple[tuple[int, float], ...]:
    """Return pairs of a vocabulary size (standard sizes and the chosen one) and the fraction of words it covers."""
    ordered = sorted(counts.values(), reverse=True)
    sizes = {size for size in _COVERAGE_SIZES if size < len(ordered)} | {chosen}
    return tuple((size, sum(ordered[:size]) / sum(ordered)) for size in sorted(sizes))
