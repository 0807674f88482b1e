"""Which words and phrases of two captions may be aligned: the four matchers of METEOR."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
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


# The paraphrases of each phrase, with their rank in the table.
Paraphrases = Mapping[str, Mapping[str, int]]


class Text:
    """A caption that is ready to be matched.

    Args:
        words: what is known of its words.
        phrases: its phrases that have paraphrases or are some.
        paraphrases: what the table says of them.
    """

    __slots__ = ("by_key", "by_stem", "is_function", "keys", "phrases", "rephrased", "synonym_sets", "words")

    def __init__(self, words: Sequence[Word], phrases: Mapping[str, Places], paraphrases: Paraphrases) -> None:
        self.words = words
        self.keys = [word.key for word in words]
        self.is_function = [word.is_function for word in words]
        self.by_key: dict[int, list[int]] = {}
        self.by_stem: dict[int, list[int]] = {}
        for place, word in enumerate(words):
            self.by_key.setdefault(word.key, []).append(place)
            self.by_stem.setdefault(word.stem, []).append(place)
        self.synonym_sets = frozenset().union(*(word.synonym_sets for word in words))
        self.phrases = phrases
        # Start, length and paraphrases of the phrases that have some, by start, then by length.
        self.rephrased = sorted(
            (
                (start, places.length, paraphrases[phrase])
                for phrase, places in phrases.items()
                if phrase in paraphrases
                for start in places.starts
            ),
            key=lambda row: row[:2],
        )


class Lexicon:
    """What the tables say of the captions at hand; each word and phrase is looked up once."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._words: dict[str, Word] = {}
        self._looked_up: set[bytes] = set()
        self._paraphrases: dict[str, dict[str, int]] = {}
        self._in_table: set[str] = set()

    def texts(self, captions: Sequence[Sequence[str]]) -> list[Text]:
        """Returns captions ready to be matched with one another.

        Args:
            captions: the normalised words of each.
        """
        self._look_up({phrase.encode() for words in captions for phrase, _, _ in _phrases(words)})
        return [
            Text([self._word(word) for word in words], _places(words, self._in_table), self._paraphrases)
            for words in captions
        ]

    def _look_up(self, phrases: set[bytes]) -> None:
        """Adds the paraphrases of phrases not seen before, among themselves and those seen before."""
        if phrases <= self._looked_up:
            return
        self._looked_up |= phrases
        self._paraphrases = {}
        for phrase, other in self._tables.paraphrases(self._looked_up):
            others = self._paraphrases.setdefault(phrase, {})
            others[other] = len(others)
        self._in_table = set(self._paraphrases).union(*self._paraphrases.values())

    def _word(self, word: str) -> Word:
        known = self._words.get(word)
        if known is None:
            tables = self._tables
            known = Word(_hash(word), _hash(stem(word)), tables.synonym_sets(word), word in tables.function_words)
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
        for stage, others in (
            (STEM, hypothesis.by_stem.get(word.stem, ())),
            (SYNONYM, _synonyms(word, hypothesis)),
        ):
            for other in others:
                if hypothesis.keys[other] != word.key:
                    matches[place].append(Match(place, place + 1, other, other + 1, stage))
    _add_paraphrases(matches, hypothesis, reference)
    return matches


def _synonyms(word: Word, text: Text) -> Iterable[int]:
    """Returns the places of the words of a caption that share a synonym set with a word."""
    if text.synonym_sets.isdisjoint(word.synonym_sets):
        return ()
    return [place for place, other in enumerate(text.words) if not other.synonym_sets.isdisjoint(word.synonym_sets)]


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


def _phrases(words: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yields each phrase of a caption that could be in the table, its start and its length in words."""
    for start in range(len(words)):
        phrase = words[start]
        yield phrase, start, 1
        for length, word in enumerate(words[start + 1 : start + _LONGEST], 2):
            phrase = f"{phrase} {word}"
            yield phrase, start, length


def _places(words: Sequence[str], wanted: Set[str]) -> dict[str, Places]:
    places: dict[str, Places] = {}
    for phrase, start, length in _phrases(words):
        if phrase in wanted:
            places.setdefault(phrase, Places(length, [])).starts.append(start)
    return places


def _hash(word: str) -> int:
    """Returns Java's hash of a string, which METEOR compares words by: sum of unit[i] * 31^(n - 1 - i), 32 bits."""
    value = 0
    for unit in memoryview(word.encode("utf-16-le", "surrogatepass")).cast("H"):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value
