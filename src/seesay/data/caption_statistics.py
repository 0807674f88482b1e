"""What captions are made of: lengths, words, how much of them a vocabulary covers."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from seesay.config import TextConfig
from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.languages import is_unspaced
from seesay.tokenizer import SPECIALS, Tokenizer

_COVERAGE_SIZES = (500, 1000, 2000, 5000, 10000, 20000)


@dataclass(frozen=True)
class CaptionStatistics:
    """What the captions of a data set are made of, cleaned as training cleans them.

    Attributes:
        unit: What is counted: word or character.
        shortest: The fewest words of a caption that has any.
        median: Of the words a caption.
        mean: Of the words a caption.
        percentile_95: 95 % of the captions have at most so many words.
        longest: The most words of a caption.
        wordless: Captions of which cleaning leaves nothing.
        vocabulary: Different words in the training captions.
        coverage: For k, the share (0..1) of the words of the training captions that the k commonest cover.
        unknown: By other split, the share of its words that the vocabulary as configured lacks.
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
    """Returns the captions without any letter, such as `42` or `...`, each with its image."""
    return [
        f"{item.id} ({caption[:40]!r})"
        for item in items
        for caption in item.captions
        if not any(map(str.isalpha, caption))
    ]


def repeated_captions(items: Iterable[Annotation]) -> list[str]:
    """Returns the captions that an image has more than once, each with its image and how often it is there."""
    return [
        f"{item.id} ({caption[:40]!r}, {number} times)"
        for item in items
        for caption, number in Counter(item.captions).items()
        if number > 1
    ]


def caption_statistics(
    training: Sequence[str], others: Mapping[str, Sequence[str]], config: TextConfig
) -> CaptionStatistics | None:
    """Returns the statistics of the captions, or None where training captions have no word at all.

    Args:
        training: The training captions, from which vocabularies are made.
        others: The captions of every other split.
        config: How captions become words.
    """
    everything = replace(config, vocabulary_size=0, min_count=1, max_words=0)
    try:
        whole = Tokenizer.build(training, everything)
        chosen = Tokenizer.build(training, config)
    except DataError:
        return None
    encoded = [whole.encode(caption) for caption in training]
    counts = Counter(token for tokens in encoded for token in tokens[1:-1])
    lengths = [len(tokens) - 2 for tokens in encoded]
    lengths += [len(whole.encode(caption)) - 2 for captions in others.values() for caption in captions]
    spoken = sorted(length for length in lengths if length)
    return CaptionStatistics(
        unit=config.level,
        shortest=spoken[0],
        median=statistics.median(spoken),
        mean=statistics.fmean(spoken),
        percentile_95=spoken[-(-95 * len(spoken) // 100) - 1],
        longest=spoken[-1],
        wordless=len(lengths) - len(spoken),
        vocabulary=len(counts),
        coverage=_coverage(counts, len(chosen) - len(SPECIALS)),
        unknown=tuple((name, chosen.oov_rate(captions)) for name, captions in others.items()),
    )


def level_advice(captions: Iterable[str], config: TextConfig) -> str:
    """Returns a line where the words of a vocabulary would be whole phrases; empty where they are not."""
    if config.level == "character" or not is_unspaced(captions):
        return ""
    return "the captions are written without spaces, so that words are whole phrases; use --level character"


def _coverage(counts: Counter[int], chosen: int) -> tuple[tuple[int, float], ...]:
    """Returns for round sizes, and the chosen one, the share of all words that so many commonest cover."""
    ordered = sorted(counts.values(), reverse=True)
    sizes = {size for size in _COVERAGE_SIZES if size < len(ordered)} | {chosen}
    return tuple((size, sum(ordered[:size]) / sum(ordered)) for size in sorted(sizes))
