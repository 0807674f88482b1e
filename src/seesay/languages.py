"""Language and writing direction of text, by heuristics on Unicode names and frequent words."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

# BCP 47 tags by script; a script is the first word of its letters' Unicode names.
_LANGUAGE_OF_SCRIPT = {
    "ARABIC": "ar",
    "ARMENIAN": "hy",
    "BENGALI": "bn",
    "CJK": "zh",
    "CYRILLIC": "und-Cyrl",
    "DEVANAGARI": "hi",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "HANGUL": "ko",
    "HEBREW": "he",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "KHMER": "km",
    "LAO": "lo",
    "MYANMAR": "my",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
}
# Frequent words of captions in languages with Latin script.
_FREQUENT_WORDS = {
    "en": "a the and with of is are on at to while two",
    "de": "ein eine einen einem einer der die das und mit auf im zwei",
    "fr": "un une le la les des et avec dans sur est deux",
    "es": "un una el la los las y con en de del está dos",
    "it": "un una il la gli di e con su nel che due",
    "pt": "um uma o os e com em de do da no na duas",
    "nl": "een de het en met op van zijn twee",
    "sv": "en ett och med på som i två",
    "pl": "na w z się jest dwie dwa",
    "cs": "na v se je jsou dva dvě",
    "tr": "bir ve ile üzerinde olan iki",
    "vi": "một và đang trên trong với hai",
    "id": "sebuah seorang di dan dengan yang dua",
}
_RIGHT_TO_LEFT = frozenset({"ADLAM", "ARABIC", "HEBREW", "NKO", "SYRIAC", "THAANA"})
# Scripts without spaces between words, with an upper bound of the mean length of separated words.
_UNSPACED = {"CJK": 3.5, "HIRAGANA": 3.5, "KATAKANA": 3.5, "THAI": 8.0, "LAO": 8.0, "KHMER": 8.0, "MYANMAR": 8.0}
_MAX_TEXTS = 1000  # maximum number of texts analysed
_MIN_FREQUENT = 0.08  # minimum fraction of frequent words to detect a language


def language_of(texts: Iterable[str]) -> str:
    """Returns the BCP 47 tag of the language of most texts; empty if not detected."""
    sample = _sample(texts)
    letters = _letters("".join(sample))
    if not letters:
        return ""
    if letters["HIRAGANA"] + letters["KATAKANA"] > 0.05 * letters.total():
        return "ja"
    script = letters.most_common(1)[0][0]
    return _latin_language(sample) if script == "LATIN" else _LANGUAGE_OF_SCRIPT.get(script, "und")


def is_latin(language: str) -> bool:
    """Returns whether a tag of `language_of` is a language with Latin script."""
    return language in _FREQUENT_WORDS


def is_right_to_left(text: str) -> bool:
    """Returns whether most letters of a text are of a right-to-left script."""
    letters = _letters(text)
    return 2 * sum(letters[script] for script in _RIGHT_TO_LEFT) > letters.total()


def is_unspaced(texts: Iterable[str]) -> bool:
    """Returns whether texts are in a script without spaces between words, and words are not separated."""
    sample = _sample(texts)
    if 2 * sum(map(str.isascii, sample)) > len(sample):
        return False
    chunks = [letters for text in sample for chunk in text.split() if (letters := _letters(chunk))]
    total = sum(letters.total() for letters in chunks)
    unspaced = [letters for letters in chunks if letters.most_common(1)[0][0] in _UNSPACED]
    if 2 * sum(letters.total() for letters in unspaced) <= total:
        return False
    return sum(
        number / _UNSPACED[script] for letters in unspaced for script, number in letters.items() if script in _UNSPACED
    ) > len(unspaced)


def scripts_of(text: str) -> list[str]:
    """Returns the scripts of a text's letters by decreasing frequency."""
    return [script for script, _ in _letters(text).most_common()]


def _latin_language(texts: list[str]) -> str:
    words = Counter(re.findall(r"[^\W\d_]+", " ".join(texts).lower()))
    found = Counter(
        {language: sum(words[word] for word in frequent.split()) for language, frequent in _FREQUENT_WORDS.items()}
    )
    (best, hits), (_, next_hits) = found.most_common(2)
    return best if hits >= max(2, _MIN_FREQUENT * words.total()) and hits > 1.5 * next_hits else ""


def _sample(texts: Iterable[str]) -> list[str]:
    listed = list(texts)
    return listed[:: max(1, len(listed) // _MAX_TEXTS)]


def _letters(text: str) -> Counter[str]:
    """Returns the number of letters per script; vowel signs count as letters."""
    found = Counter(map(_script, text))
    del found[""]
    return found


@cache
def _script(character: str) -> str:
    """Returns the script of a letter or vowel sign; empty for everything else."""
    if not (character.isalpha() or unicodedata.category(character) in ("Mc", "Mn")):
        return ""
    name = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    script = re.split(r"[ -]", name)[0]
    return {"IDEOGRAPHIC": "CJK", "COMBINING": "", "MODIFIER": "", "VARIATION": ""}.get(script, script)
