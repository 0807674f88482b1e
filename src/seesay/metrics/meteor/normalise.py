"""The second tokenization of English captions by METEOR's option -norm, in lower case."""

import re
from collections.abc import Mapping
from itertools import zip_longest

_LETTER = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_ALNUM = "0-9" + _LETTER
# Placeholder for the periods of an ellipsis while single periods are processed.
_DOT = "\ufdd0"

_ODD = re.compile(rf"([^{_ALNUM} \t\n\x0b\f\r.'`,\-‘’])")
_ELLIPSIS = re.compile(r"\.{2,}")
# Applied in this order. Matches do not overlap, so that every second one of ",,,," is missed, as in the original.
_RULES = (
    (re.compile("([^0-9]),([^0-9])"), r"\1 , \2"),
    (re.compile("([0-9]),([^0-9])"), r"\1 , \2"),
    (re.compile("([^0-9]),([0-9])"), r"\1 , \2"),
    (re.compile("[`‘’]"), "'"),
    (re.compile("[“”]|''"), ' " '),
    (re.compile("–"), "-"),
    (re.compile("--"), "-"),
    (re.compile(rf"([{_ALNUM}.])-([{_ALNUM}])"), r"\1 \2"),
    (re.compile(f"([^{_LETTER}])'([^{_LETTER}])"), r"\1 ' \2"),
    (re.compile(f"([^{_LETTER}0-9])'([{_LETTER}])"), r"\1 ' \2"),
    (re.compile(f"([{_LETTER}])'([^{_LETTER}])"), r"\1 ' \2"),
    (re.compile(f"([{_LETTER}])'([{_LETTER}])"), r"\1 '\2"),
    (re.compile("([0-9])'(s)"), r"\1 '\2"),
)
_HAS_LETTER = re.compile(f"[{_LETTER}]")
_SPACES = re.compile("[ \u2000-\u200a\u202f\u205f\u3000\xa0]+")
_BREAK = re.compile("[ \t\n\r\f]+")
# Characters removed by Java's trim.
_CONTROLS = "".join(map(chr, range(33)))
_PLAIN = re.compile("[a-z0-9 ]*")


def normalise(caption: str, prefixes: Mapping[str, bool]) -> list[str]:
    """Returns the normalised words of a caption.

    Args:
        caption: a caption, tokenized or not.
        prefixes: abbreviations that keep their period; True if only before a number.
    """
    if _PLAIN.fullmatch(caption):
        return caption.split()
    text = _ODD.sub(r" \1 ", f" {caption.strip(_CONTROLS)} ")
    text = _ELLIPSIS.sub(lambda dots: " " + _DOT * len(dots[0]) + " ", text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    words = _split(text)
    pairs = zip_longest(words, words[1:], fillvalue="")
    text = " ".join(_period(word, following, prefixes) for word, following in pairs)
    return _split(_SPACES.sub(" ", text.replace(_DOT, ".")).strip(_CONTROLS).lower())


def _split(text: str) -> list[str]:
    return [word for word in _BREAK.split(text) if word]


def _period(word: str, following: str, prefixes: Mapping[str, bool]) -> str:
    """Returns a word with its last period kept, separated or, in an acronym, removed with the others."""
    if len(word) < 2 or not word.endswith("."):
        return word
    rest = word[:-1]
    if "." in rest and _HAS_LETTER.search(rest):
        return word.replace(".", "")
    before_number = prefixes.get(rest)
    if before_number is False or re.match("[a-z]", following):
        return word
    if before_number and re.match("[0-9]", following):
        return word
    return f"{rest} ."
