"""What no score against references tells: whether a model says different, complete and fluent things."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from seesay.errors import DataError
from seesay.languages import language_of
from seesay.metrics.tokenize import tokenize

# A caption that ends in one of these was cut off: "a man on a".
FUNCTION_WORDS = frozenset(
    """
    a an the and or but nor of in on at to by for with from into onto over under near beside behind between
    through across along around above below against toward towards as while is are was were be being been has
    have had his her their its that which who whose this these those some very another each
    """.split()  # noqa: SIM905
)
UNKNOWN = ("<unk>", "unk", "[unk]")

# Below so many different captions among a hundred the model is taken to ignore the image.
COLLAPSED_SHARE = 0.02
MANY = 20


@dataclass(frozen=True)
class Diversity:
    """Counts over the captions of a set of images; shares and ratios are 0 to 1.

    Attributes:
        captions: how many captions there are.
        unique: share of different captions among them.
        distinct_1: different words over all words (Li et al. 2016).
        distinct_2: different pairs of neighbours over all pairs.
        vocabulary: different words used.
        mean_length: words a caption.
        seen: share that stand word for word in the training captions; None where these were not given.
        cut: share that end in an English function word, as a sentence that was cut does; None unless tokens are ptb
            and the text is not in another language.
        repeats: share with a word, or a pair of words, said twice in a row; None where tokens are characters.
        unknown: share that contain `<unk>`.
        empty: share without any word.
        commonest: the caption said most often, as it stands.
        commonest_share: share of images for which it is said.
        at_limit: share that ended only at the maximum length, where `finished` tells; otherwise share of those that are
            as long as the longest, as only a limit makes many captions equally long.
        limit_known: whether `finished` told.
    """

    captions: int
    unique: float
    distinct_1: float
    distinct_2: float
    vocabulary: int
    mean_length: float
    seen: float | None
    cut: float | None
    repeats: float | None
    unknown: float
    empty: float
    commonest: str
    commonest_share: float
    at_limit: float = 0.0
    limit_known: bool = False


def measure_diversity(
    hypotheses: Sequence[str],
    training: Iterable[str] | None = None,
    *,
    tokenization: str = "ptb",
    finished: Sequence[bool] | None = None,
) -> Diversity:
    """Returns how varied and complete captions are.

    Args:
        hypotheses: one caption for each image.
        training: the captions that the model was trained on.
        tokenization: see `seesay.metrics.tokenize`.
        finished: whether each caption ended by itself; None = it is not known.

    Raises:
        DataError: There are no captions.
    """
    if not len(hypotheses):
        raise DataError("no captions to look at; give at least one")
    total = len(hypotheses)
    texts = tokenize(hypotheses, tokenization)
    captions = [text.split() for text in texts]
    words = Counter(word for caption in captions for word in caption)
    pairs = Counter(pair for caption in captions for pair in pairwise(caption))
    known = None if training is None else set(tokenize(training, tokenization))
    commonest, times = Counter(texts).most_common(1)[0]
    cut = sum(bool(caption) and caption[-1] in FUNCTION_WORDS for caption in captions) / total
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
        seen=None if known is None else sum(text in known for text in texts) / total,
        cut=cut if tokenization == "ptb" and language_of(hypotheses) in ("", "en") else None,
        repeats=None if tokenization == "characters" else repeats,
        unknown=sum(any(mark in text.lower().split() for mark in UNKNOWN) for text in hypotheses) / total,
        empty=sum(not caption for caption in captions) / total,
        commonest=hypotheses[texts.index(commonest)],
        commonest_share=times / total,
        at_limit=sum(reached) / total,
        limit_known=finished is not None,
    )


def has_repeat(words: Sequence[str]) -> bool:
    """Returns whether a word or a pair of words stands twice in a row: "a dog dog", "on a on a"."""
    return any(
        tuple(words[place : place + size]) == tuple(words[place + size : place + 2 * size])
        for size in (1, 2)
        for place in range(len(words) - 2 * size + 1)
    )


def absent_objects(
    hypotheses: Sequence[str], labels: Sequence[Collection[str]], vocabulary: Collection[str] | None = None
) -> list[list[str]]:
    """Returns for each image the objects that its caption names though none of its boxes has that label.

    Args:
        hypotheses: one caption for each image.
        labels: labels of the boxes of each image, all of them; a label may be several words.
        vocabulary: every label that counts as an object; by default all that occur in `labels`.

    Raises:
        DataError: There are not as many lists of labels as captions.
    """
    if len(hypotheses) != len(labels):
        raise DataError(f"{len(hypotheses)} captions but labels of {len(labels)} images; give one list an image")
    objects = sorted(set(vocabulary) if vocabulary is not None else {label for image in labels for label in image})
    forms = {label: _forms(label) for label in objects}
    absent = []
    for text, present in zip(tokenize(hypotheses), labels, strict=True):
        padded = f" {text} "
        said = [label for label in objects if any(f" {form} " in padded for form in forms[label])]
        covered = {form for label in present for form in _forms(label)}
        absent.append([label for label in said if label not in present and not _forms(label) & covered])
    return absent


def _forms(label: str) -> frozenset[str]:
    """Returns a label as captions may write it: in small letters, one or several of it."""
    word = label.lower().strip()
    plurals = {f"{word}s"}
    if word.endswith(("s", "x", "ch", "sh")):
        plurals.add(f"{word}es")
    if word.endswith("y"):
        plurals.add(f"{word[:-1]}ies")
    if word.endswith("man"):
        plurals.add(f"{word[:-3]}men")
    return frozenset({word, *plurals})


def verdict(diversity: Diversity) -> str:
    """Returns one line on what is most wrong with the captions, with its likely causes; empty when nothing is."""
    share = f"{diversity.commonest_share:.0%}"
    if diversity.empty > 0.5:
        return (
            f"{diversity.empty:.0%} of the captions are empty. Possible causes: training stopped far too early, a "
            "length penalty that favours short captions, or captions that were lost where the file was written."
        )
    same = diversity.captions >= 2 and diversity.commonest_share == 1
    few = diversity.captions >= MANY and (diversity.unique < COLLAPSED_SHARE or diversity.commonest_share > 0.5)
    if same or few:
        return (
            f'The model says "{diversity.commonest}" for {share} of the images. Possible causes: too little '
            "training, a learning rate that is too high, images prepared otherwise than the encoder expects (size, "
            "scale, mean), features that are constant or not connected to the decoder, or test images that are alike."
        )
    if diversity.repeats is not None and diversity.repeats > 0.2:
        return (
            f"{diversity.repeats:.0%} of the captions say a word or a pair of words twice in a row. Possible causes: "
            "too little training, or a decoder that loses its state between words."
        )
    if diversity.cut is not None and diversity.cut > 0.2:
        return f"{diversity.cut:.0%} of the captions end in a function word{_why_cut(diversity)}"
    return ""


def _why_cut(diversity: Diversity) -> str:
    """Returns why captions end in a function word, by how many of them reached the maximum length."""
    assert diversity.cut is not None
    if diversity.at_limit < diversity.cut / 2:
        return (
            ", although they are not cut at the maximum length. Possible causes: too little training, or a reward that "
            "does not count the end of the sentence."
        )
    how = "reached the maximum length" if diversity.limit_known else "are as long as the longest"
    return (
        f", and {diversity.at_limit:.0%} {how}: sentences are cut. Possible causes: max_length is too small, or too "
        "little training for sentences to end."
    )
