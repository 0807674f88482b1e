"""METEOR's four matchers: words and phrases of two captions that may be aligned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from seesay.metrics.meteor.paraphrases import Hashes, Integers, hash_parts
from seesay.metrics.meteor.stemmer import stem
from seesay.metrics.meteor.tables import Tables

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
# Maximum phrase length of the paraphrase table, in words.
_MAX_WORDS = 7
# Number of captions per hashing block.
_BLOCK = 4096
_EMPTY: frozenset[int] = frozenset()


class Match(NamedTuple):
    """Words of a reference, `start` to `end` (exclusive), and of a hypothesis that may be aligned."""

    start: int
    end: int
    hypothesis_start: int
    hypothesis_end: int
    stage: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Table entries of a word: hashes of the word and its stem, synonym sets, function word or not.

    As in the original, words with equal hashes count as equal.
    """

    key: int
    stem: int
    synonym_sets: frozenset[int]
    is_function: bool


class Word(NamedTuple):
    """A word of a set of captions: its number, and the numbers of other words that match it."""

    number: int
    key: int
    is_function: bool
    stems: frozenset[int]
    synonyms: frozenset[int]
    related: frozenset[int]


class Phrase(NamedTuple):
    """A phrase of a caption: its number in the paraphrase table, and its paraphrases with their rank."""

    start: int
    length: int
    number: int
    paraphrases: Mapping[int, int]


class Text:
    """A caption prepared for matching.

    Args:
        words: its words.
        phrases: its phrases that have or are paraphrases, by start, then by length.
    """

    def __init__(self, words: Sequence[Word], phrases: Sequence[Phrase]) -> None:
        self.words = words
        self.keys = [word.key for word in words]
        self.is_function = [word.is_function for word in words]
        self.phrases = phrases
        # Numbers of its phrases and of all their paraphrases.
        self.phrase_numbers = {phrase.number for phrase in phrases}
        self.paraphrases = _EMPTY.union(*[phrase.paraphrases for phrase in phrases])

    @cached_property
    def numbers(self) -> set[int]:
        """Numbers of its words."""
        return {word.number for word in self.words}

    @cached_property
    def by_key(self) -> dict[int, list[int]]:
        """Positions of each word, by hash."""
        positions: dict[int, list[int]] = {}
        for position, key in enumerate(self.keys):
            positions.setdefault(key, []).append(position)
        return positions


class Lexicon:
    """Table entries of words, each looked up once."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._entries: dict[str, Entry] = {}

    def texts(self, captions: Sequence[Sequence[str]]) -> list[Text]:
        """Returns captions prepared for matching with each other.

        Args:
            captions: normalised words of each caption.
        """
        if not captions:
            return []
        words = self._words(captions)
        return [
            Text([words[word] for word in caption], phrases)
            for caption, phrases in zip(captions, self._phrases(captions), strict=True)
        ]

    def _words(self, captions: Sequence[Sequence[str]]) -> dict[str, Word]:
        """Returns the words of captions."""
        entries = {word: self._entry(word) for word in dict.fromkeys(word for words in captions for word in words)}
        by_stem: dict[int, set[int]] = {}
        by_set: dict[int, set[int]] = {}
        by_key: dict[int, set[int]] = {}
        for number, entry in enumerate(entries.values()):
            by_key.setdefault(entry.key, set()).add(number)
            by_stem.setdefault(entry.stem, set()).add(number)
            for synset in entry.synonym_sets:
                by_set.setdefault(synset, set()).add(number)
        words: dict[str, Word] = {}
        for number, (word, entry) in enumerate(entries.items()):
            same = by_key[entry.key]
            stems = frozenset(by_stem[entry.stem] - same)
            synonyms = _EMPTY.union(*[by_set[synset] for synset in entry.synonym_sets]) - same
            words[word] = Word(number, entry.key, entry.is_function, stems, synonyms, stems | synonyms)
        return words

    def _phrases(self, captions: Sequence[Sequence[str]]) -> list[list[Phrase]]:
        """Returns the phrases of each caption that have paraphrases in the captions or are paraphrases."""
        caption, start, length, hashed = _occurrences(captions)
        hashes, occurrences = np.unique(hashed, return_inverse=True)
        table = self._tables.paraphrases.among(hashes)
        paraphrases: dict[int, dict[int, int]] = {}
        for source, target in zip(table.sources.tolist(), table.targets.tolist(), strict=True):
            others = paraphrases.setdefault(source, {})
            others[target] = len(others)
        rows = table.rows[occurrences]
        selected = np.flatnonzero(np.isin(rows, np.concatenate((table.sources, table.targets))))
        found: list[list[Phrase]] = [[] for _ in captions]
        columns = (column[selected].tolist() for column in (caption, start, length, rows))
        for number, first, words, row in zip(*columns, strict=True):
            found[number].append(Phrase(first, words, row, paraphrases.get(row, {})))
        return found

    def _entry(self, word: str) -> Entry:
        known = self._entries.get(word)
        if known is None:
            tables = self._tables
            known = Entry(_hash(word), _hash(stem(word)), tables.synonym_sets(word), word in tables.function_words)
            self._entries[word] = known
        return known


def _occurrences(captions: Sequence[Sequence[str]]) -> tuple[Integers, Integers, Integers, Hashes]:
    """Returns caption, first word, length in words and hash of all phrases of up to seven words, sorted, (Q,)."""
    parts: list[tuple[Integers, Integers, Integers, Hashes]] = []
    for first in range(0, len(captions), _BLOCK):
        lines = [" ".join(words) + "\n" for words in captions[first : first + _BLOCK]]
        text = "".join(lines).encode("utf-8", "surrogatepass")
        caption, start, length, begin, end = _spans(text)
        parts.append((caption + first, start, length, hash_parts(text, begin, end)))
    caption, start, length, hashes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return caption, start, length, hashes


def _spans(text: bytes) -> tuple[Integers, ...]:
    """Returns all phrases of up to seven words of captions, one caption per line, with single spaces between words.

    Returns:
        caption, first word, length in words, start byte and end byte (exclusive) of each, sorted in this order.
    """
    codes = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero((codes == ord(" ")) | (codes == ord("\n")))
    begins = np.concatenate(([0], ends[:-1] + 1))
    lines = np.concatenate(([0], np.cumsum(codes[ends] == ord("\n"))[:-1]))
    firsts = np.searchsorted(lines, lines)
    first, length = (part.ravel() for part in np.indices((len(ends), _MAX_WORDS)))
    last = np.minimum(first + length, len(ends) - 1)
    valid = (first + length == last) & (lines[first] == lines[last]) & (ends[first] > begins[first])
    first, length, last = first[valid], length[valid], last[valid]
    return lines[first], first - firsts[first], length + 1, begins[first], ends[last]


def find_matches(hypothesis: Text, reference: Text) -> list[list[Match]]:
    """Returns all possible matches, by the start word in the reference.

    The order of each list matters: the alignment search prefers the first of equal matches.
    """
    by_key = hypothesis.by_key
    matches: list[list[Match]] = [
        [Match(position, position + 1, other, other + 1, EXACT) for other in by_key[key]] if key in by_key else []
        for position, key in enumerate(reference.keys)
    ]
    if hypothesis.keys == reference.keys:
        return matches
    for position, word in enumerate(reference.words):
        if not word.related.isdisjoint(hypothesis.numbers):
            for stage, related in ((STEM, word.stems), (SYNONYM, word.synonyms)):
                for other, candidate in enumerate(hypothesis.words):
                    if candidate.number in related:
                        matches[position].append(Match(position, position + 1, other, other + 1, stage))
    _add_paraphrases(matches, hypothesis, reference)
    return matches


def _add_paraphrases(matches: list[list[Match]], hypothesis: Text, reference: Text) -> None:
    """Adds paraphrase matches in both directions; a pair that is in the table in both directions is added twice."""
    for (start, length, *_), other in _paraphrase_pairs(reference, hypothesis):
        pair = start, start + length, other.start, other.start + other.length
        matches[start].append(Match(*pair, PARAPHRASE))
    for (start, length, *_), other in _paraphrase_pairs(hypothesis, reference):
        pair = other.start, other.start + other.length, start, start + length
        matches[other.start].append(Match(*pair, PARAPHRASE))


def _paraphrase_pairs(text: Text, other: Text) -> list[tuple[Phrase, Phrase]]:
    """Returns the phrases of a caption with their paraphrases in another caption, in the order of the table."""
    common = text.paraphrases & other.phrase_numbers
    if not common:
        return []
    positions: dict[int, list[Phrase]] = {}
    for phrase in other.phrases:
        if phrase.number in common:
            positions.setdefault(phrase.number, []).append(phrase)
    return [
        (phrase, occurrence)
        for phrase in text.phrases
        if not common.isdisjoint(phrase.paraphrases)
        for number in sorted(common & phrase.paraphrases.keys(), key=phrase.paraphrases.__getitem__)
        for occurrence in positions[number]
    ]


def _hash(word: str) -> int:
    """Returns Java's string hash, by which METEOR compares words: sum of unit[i] * 31^(n - 1 - i), 32 bits."""
    value = 0
    for unit in memoryview(word.encode("utf-16-le", "surrogatepass")).cast("H"):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value
