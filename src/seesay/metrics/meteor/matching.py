"""Which words and phrases of two captions may be aligned: the four matchers of METEOR."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seesay.metrics.meteor.stemmer import stem
from seesay.metrics.meteor.tables import Tables

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
# The longest phrase of the paraphrase table, in words.
_LONGEST = 7


class Match(NamedTuple):
    """Words of a reference, from `start` before `end`, and of a hypothesis, that may be aligned."""

    start: int
    end: int
    hypothesis_start: int
    hypothesis_end: int
    stage: int


@dataclass(frozen=True, slots=True)
class Word:
    """What the matchers know of a word: hash values of it and of its stem, its synonym sets, its kind.

    Words count as equal where their hash values are, which two different words can share.
    """

    key: int
    stem: int
    synonym_sets: frozenset[int]
    is_function: bool


class Places(NamedTuple):
    """How long a phrase is and where in a caption it begins."""

    length: int
    starts: list[int]


class Text:
    """A caption that is ready to be matched."""

    __slots__ = ("by_key", "by_set", "by_stem", "is_function", "keys", "phrases", "rephrased", "words")

    def __init__(self, words: Sequence[Word], phrases: dict[str, Places]) -> None:
        self.words = words
        self.keys = [word.key for word in words]
        self.is_function = [word.is_function for word in words]
        self.by_key: dict[int, list[int]] = {}
        self.by_stem: dict[int, list[int]] = {}
        self.by_set: dict[int, list[int]] = {}
        for place, word in enumerate(words):
            self.by_key.setdefault(word.key, []).append(place)
            self.by_stem.setdefault(word.stem, []).append(place)
            for number in word.synonym_sets:
                self.by_set.setdefault(number, []).append(place)
        self.phrases = phrases
        # Start and length of the phrases that have paraphrases, with the rank of each paraphrase in the table.
        self.rephrased: list[tuple[int, int, Mapping[str, int]]] = []


class Lexicon:
    """What the tables say of the captions at hand; each word and phrase is looked up once."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._words: dict[str, Word] = {}
        self._phrases: set[bytes] = set()
        self._paraphrases: dict[str, dict[str, int]] = {}

    def texts(self, captions: Iterable[Sequence[str]]) -> list[Text]:
        """Returns captions ready to be matched with one another.

        Args:
            captions: the normalised words of each.
        """
        texts = [Text([self._word(word) for word in words], _phrases(words)) for words in captions]
        self._look_up({phrase.encode() for text in texts for phrase in text.phrases})
        for text in texts:
            found = [
                (start, places.length, others)
                for phrase, places in text.phrases.items()
                if (others := self._paraphrases.get(phrase))
                for start in places.starts
            ]
            text.rephrased = sorted(found, key=lambda row: row[:2])
        return texts

    def _look_up(self, phrases: set[bytes]) -> None:
        """Adds the paraphrases of phrases not seen before, among themselves and those seen before."""
        if phrases <= self._phrases:
            return
        self._phrases |= phrases
        self._paraphrases = {}
        for phrase, other in self._tables.paraphrases(self._phrases):
            others = self._paraphrases.setdefault(phrase, {})
            others[other] = len(others)

    def _word(self, word: str) -> Word:
        known = self._words.get(word)
        if known is None:
            tables = self._tables
            known = Word(
                _hash(word), _hash(stem(word)), tables.synonym_sets(word), word.lower() in tables.function_words
            )
            self._words[word] = known
        return known


def find_matches(hypothesis: Text, reference: Text) -> list[list[Match]]:
    """Returns all that may be aligned, by the word of the reference where it starts.

    The order of each list matters, for the search for the best alignment prefers the first among equals.
    """
    matches: list[list[Match]] = [
        [Match(place, place + 1, other, other + 1, EXACT) for other in hypothesis.by_key.get(key, ())]
        for place, key in enumerate(reference.keys)
    ]
    if hypothesis.keys == reference.keys:
        return matches
    for place, word in enumerate(reference.words):
        same_stem = hypothesis.by_stem.get(word.stem, ())
        shared = hypothesis.by_set.keys() & word.synonym_sets
        same_set = sorted({other for number in shared for other in hypothesis.by_set[number]}) if shared else ()
        for stage, others in ((STEM, same_stem), (SYNONYM, same_set)):
            for other in others:
                if hypothesis.keys[other] != word.key:
                    matches[place].append(Match(place, place + 1, other, other + 1, stage))
    _add_paraphrases(matches, hypothesis, reference)
    return matches


def _add_paraphrases(matches: list[list[Match]], hypothesis: Text, reference: Text) -> None:
    """Adds the phrases that the table equates, from either side; a pair that it has both ways round counts twice."""
    for start, length, others in reference.rephrased:
        for places in _found(others, hypothesis.phrases):
            for other in places.starts:
                matches[start].append(Match(start, start + length, other, other + places.length, PARAPHRASE))
    for start, length, others in hypothesis.rephrased:
        for places in _found(others, reference.phrases):
            for other in places.starts:
                matches[other].append(Match(other, other + places.length, start, start + length, PARAPHRASE))


def _found(paraphrases: Mapping[str, int], phrases: Mapping[str, Places]) -> list[Places]:
    """Returns the places of the paraphrases that a caption has, in the order of the table."""
    common = paraphrases.keys() & phrases.keys()
    if not common:
        return []
    return [phrases[phrase] for phrase in sorted(common, key=paraphrases.__getitem__)]


def _phrases(words: Sequence[str]) -> dict[str, Places]:
    phrases: dict[str, Places] = {}
    for length in range(1, min(_LONGEST, len(words)) + 1):
        for start in range(len(words) - length + 1):
            phrase = " ".join(words[start : start + length])
            if phrase not in phrases:
                phrases[phrase] = Places(length, [])
            phrases[phrase].starts.append(start)
    return phrases


def _hash(word: str) -> int:
    """Returns Java's hash of a string, which METEOR compares words by: sum of unit[i] * 31^(n - 1 - i), 32 bits."""
    units = memoryview(word.encode("utf-16-le", "surrogatepass")).cast("H")
    value = 0
    for unit in units:
        value = (31 * value + unit) & 0xFFFFFFFF
    return value
