"""Reference-free caption statistics: diversity, completeness and fluency."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from seesay.errors import DataError
from seesay.languages import language_of
from seesay.metrics.tokenize import tokenize

# A caption that ends in one of these is truncated: "a man on a".
FUNCTION_WORDS = frozenset(
    """
    a an the and or but nor of in on at to by for with from into onto over under near beside behind between
    through across along around above below against toward towards as while is are was were be being been has
    have had his her their its that which who whose this these those some very another each
    """.split()  # noqa: SIM905
)
UNKNOWN = ("<unk>", "unk", "[unk]")

# Below this fraction of unique captions the model is assumed to ignore the image.
MIN_UNIQUE = 0.02
MIN_CAPTIONS = 20


@dataclass(frozen=True)
class Diversity:
    """Statistics of the captions of a set of images; fractions are 0 to 1.

    Attributes:
        captions: number of captions.
        unique: fraction of unique captions.
        distinct_1: distinct words over all words (Li et al. 2016).
        distinct_2: distinct bigrams over all bigrams.
        vocabulary: number of distinct words.
        mean_length: mean number of words per caption.
        in_training: fraction of captions that occur verbatim in the training captions; None if these are unknown.
        truncated: fraction that end in an English function word; None unless tokens are ptb and the language is English
            or unknown.
        repeats: fraction with a word or bigram repeated immediately; None if tokens are characters.
        unknown: fraction that contain `<unk>`.
        empty: fraction without words.
        most_frequent: the most frequent caption.
        most_frequent_share: fraction of images with that caption.
        at_limit: fraction that reached the maximum length if `finished` was passed, else fraction as long as the
            longest caption (many captions have the maximum length only because of a limit).
        limit_known: whether `finished` was passed.
    """

    captions: int
    unique: float
    distinct_1: float
    distinct_2: float
    vocabulary: int
    mean_length: float
    in_training: float | None
    truncated: float | None
    repeats: float | None
    unknown: float
    empty: float
    most_frequent: str
    most_frequent_share: float
    at_limit: float = 0.0
    limit_known: bool = False


def measure_diversity(
    hypotheses: Sequence[str],
    training: Iterable[str] | None = None,
    *,
    tokenization: str = "ptb",
    finished: Sequence[bool] | None = None,
) -> Diversity:
    """Returns the diversity statistics of captions.

    Args:
        hypotheses: one caption per image.
        training: the model's training captions.
        tokenization: see `seesay.metrics.tokenize`.
        finished: whether each caption ended with the end token; None: unknown.

    Raises:
        DataError: There are no captions.
    """
    if not len(hypotheses):
        raise DataError("no captions; pass at least one")
    total = len(hypotheses)
    texts = tokenize(hypotheses, tokenization)
    captions = [text.split() for text in texts]
    words = Counter(word for caption in captions for word in caption)
    pairs = Counter(pair for caption in captions for pair in pairwise(caption))
    known = None if training is None else set(tokenize(training, tokenization))
    most_frequent, times = Counter(texts).most_common(1)[0]
    truncated = sum(bool(caption) and caption[-1] in FUNCTION_WORDS for caption in captions) / total
    repeats = sum(map(has_repeat, captions)) / total
    longest = max(map(len, captions))
    reached = [len(caption) == longest for caption in captions] if finished is None else [not one for one in finished]
    return Diversity(
        captions=total,
        unique=len(set(texts)) / total,
        distinct_1=len(words) / max(1, words.total()),
        distinct_2=len(pairs) / max(1, pairs.total()),
        vocabulary=len(words),
        mean_length=words.total() / total,
        in_training=None if known is None else sum(text in known for text in texts) / total,
        truncated=truncated if tokenization == "ptb" and language_of(hypotheses) in ("", "en") else None,
        repeats=None if tokenization == "characters" else repeats,
        unknown=sum(any(mark in text.lower().split() for mark in UNKNOWN) for text in hypotheses) / total,
        empty=sum(not caption for caption in captions) / total,
        most_frequent=hypotheses[texts.index(most_frequent)],
        most_frequent_share=times / total,
        at_limit=sum(reached) / total,
        limit_known=finished is not None,
    )


def has_repeat(words: Sequence[str]) -> bool:
    """Returns whether a word or bigram is repeated immediately: "a dog dog", "on a on a"."""
    return any(
        tuple(words[start : start + size]) == tuple(words[start + size : start + 2 * size])
        for size in (1, 2)
        for start in range(len(words) - 2 * size + 1)
    )


def absent_objects(
    hypotheses: Sequence[str], labels: Sequence[Collection[str]], vocabulary: Collection[str] | None = None
) -> list[list[str]]:
    """Returns for each image the objects that its caption mentions but none of its boxes has as label.

    Args:
        hypotheses: one caption per image.
        labels: labels of all boxes of each image; a label may be several words.
        vocabulary: all object labels; by default those in `labels`.

    Raises:
        DataError: The numbers of captions and label lists differ.
    """
    if len(hypotheses) != len(labels):
        raise DataError(f"{len(hypotheses)} captions but labels of {len(labels)} images; pass one list per image")
    objects = sorted(set(vocabulary) if vocabulary is not None else {label for image in labels for label in image})
    forms = {label: _forms(label) for label in objects}
    absent = []
    for text, present in zip(tokenize(hypotheses), labels, strict=True):
        padded = f" {text} "
        mentioned = [label for label in objects if any(f" {form} " in padded for form in forms[label])]
        covered = {form for label in present for form in _forms(label)}
        absent.append([label for label in mentioned if label not in present and not _forms(label) & covered])
    return absent


def _forms(label: str) -> frozenset[str]:
    """Returns the lower-case singular and plural forms of a label."""
    word = label.lower().strip()
    plurals = {f"{word}s"}
    if word.endswith(("s", "x", "ch", "sh")):
        plurals.add(f"{word}es")
    if word.endswith("y"):
        plurals.add(f"{word[:-1]}ies")
    if word.endswith("man"):
        plurals.add(f"{word[:-3]}men")
    return frozenset({word, *plurals})


def diagnose(diversity: Diversity) -> str:
    """Returns one line on the most serious defect of the captions and its possible causes; empty if there is none."""
    share = f"{diversity.most_frequent_share:.0%}"
    if diversity.empty > 0.5:
        return (
            f"{diversity.empty:.0%} of the captions are empty. Possible causes: training stopped too early, a "
            "length penalty that favours short captions, or captions that were lost when the file was written."
        )
    identical = diversity.captions >= 2 and diversity.most_frequent_share == 1
    collapsed = diversity.captions >= MIN_CAPTIONS and (
        diversity.unique < MIN_UNIQUE or diversity.most_frequent_share > 0.5
    )
    if identical or collapsed:
        return (
            f'{share} of the images have the caption "{diversity.most_frequent}". Possible causes: too little '
            "training, too high a learning rate, wrong preprocessing for the encoder (size, scale, mean), "
            "features that are constant or not connected to the decoder, or similar test images."
        )
    if diversity.repeats is not None and diversity.repeats > 0.2:
        return (
            f"{diversity.repeats:.0%} of the captions repeat a word or a pair of words. Possible causes: "
            "too little training, or a decoder that loses its state between words."
        )
    if diversity.truncated is not None and diversity.truncated > 0.2:
        return f"{diversity.truncated:.0%} of the captions end in a function word{_truncation_cause(diversity)}"
    return ""


def _truncation_cause(diversity: Diversity) -> str:
    """Returns the possible causes of truncated captions, depending on how many reached the maximum length."""
    assert diversity.truncated is not None
    if diversity.at_limit < diversity.truncated / 2:
        return (
            ", although they did not reach the maximum length. Possible causes: too little training, or a reward that "
            "ignores the end token."
        )
    how = "reached the maximum length" if diversity.limit_known else "are as long as the longest"
    return (
        f", and {diversity.at_limit:.0%} {how}: captions are truncated. Possible causes: max_length is too small, or "
        "too little training."
    )
