"""Porter's second stemming algorithm for English, in the version used by METEOR 1.5.

Later revisions of the algorithm stem some words differently ("added", "biologist"), which would change scores.

Reference: Porter, "The English (Porter2) stemming algorithm", snowballstem.org/algorithms/english/stemmer.html.
"""

import re

_VOWEL = "aeiouy"
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_IRREGULAR = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
_INVARIANT = frozenset(("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"))

# Suffixes of steps 2 to 4 with their replacement; None: removed under a condition (see `_replace`).
_STEP2: dict[str, str | None] = {
    **{"tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize"},
    **{"ization": "ize", "ational": "ate", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al"},
    **{"alli": "al", "fulness": "ful", "ousli": "ous", "ousness": "ous", "iveness": "ive", "iviti": "ive"},
    **{"biliti": "ble", "bli": "ble", "fulli": "ful", "lessli": "less", "ogi": None, "li": None},
}
_STEP3: dict[str, str | None] = {
    **{"tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic"},
    **{"ful": "", "ness": "", "ative": None},
}
_STEP4: dict[str, str | None] = {
    **dict.fromkeys(("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"), ""),
    **dict.fromkeys(("ism", "ate", "iti", "ous", "ive", "ize"), ""),
    "ion": None,
}

# Y is a consonant y: the first letter of a word, or a y after a vowel.
_CONSONANT_Y = re.compile("(?<=[aeiouy])y")
_REGION = re.compile("[^aeiouy]*[aeiouy]+[^aeiouy]")
_PREFIX = re.compile("gener|commun|arsen")
_SHORT_END = re.compile("(?:[^aeiouy][aeiouy][^aeiouywxY]|^[aeiouy][^aeiouy])$")
_HAS_VOWEL = re.compile("[aeiouy]")


def stem(word: str) -> str:
    """Returns the stem of a lower-case English word; words of one or two characters are unchanged."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 3:
        return word
    word = _mark_consonants(word.removeprefix("'"))
    first, second = _regions(word)
    word = _plural(word)
    if word not in _INVARIANT:
        word = _final_y(_past(word, first))
        word = _replace(word, _STEP2, first, second)
        word = _replace(word, _STEP3, first, second)
        word = _replace(word, _STEP4, second, second)
        word = _final_e_or_l(word, first, second)
    return word.replace("Y", "y")


def _mark_consonants(word: str) -> str:
    if word.startswith("y"):
        word = "Y" + word[1:]
    # A y marked as a consonant is not a vowel for the next one, so mark them one at a time.
    while match := _CONSONANT_Y.search(word):
        word = word[: match.start()] + "Y" + word[match.end() :]
    return word


def _regions(word: str) -> tuple[int, int]:
    """Returns the start of R1 and R2: after the first consonant that follows a vowel, and after the next one."""
    match = _PREFIX.match(word) or _REGION.match(word)
    first = match.end() if match else len(word)
    again = _REGION.match(word, first)
    return first, again.end() if again else len(word)


def _ending(word: str, suffixes: tuple[str, ...] | dict[str, str | None]) -> str:
    """Returns the longest matching suffix of a word, or an empty string."""
    return max((suffix for suffix in suffixes if word.endswith(suffix)), key=len, default="")


def _plural(word: str) -> str:
    """Steps 0 and 1a: possessives, then plurals."""
    word = word.removesuffix(_ending(word, ("'", "'s", "'s'")))
    suffix = _ending(word, ("sses", "ied", "ies", "us", "ss", "s"))
    if suffix == "sses":
        return word[:-2]
    if suffix in ("ied", "ies"):
        return word[:-2] if len(word) > 4 else word[:-1]
    if suffix == "s" and _HAS_VOWEL.search(word[:-2]):
        return word[:-1]
    return word


def _past(word: str, first: int) -> str:
    """Step 1b: -eed, -ed and -ing, with corrections after their removal."""
    suffix = _ending(word, ("eed", "eedly", "ed", "edly", "ing", "ingly"))
    if not suffix:
        return word
    rest = word.removesuffix(suffix)
    if suffix in ("eed", "eedly"):
        return rest + "ee" if len(rest) >= first else word
    if not _HAS_VOWEL.search(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if rest.endswith(_DOUBLES):
        return rest[:-1]
    return rest + "e" if len(rest) == first and _SHORT_END.search(rest) else rest


def _final_y(word: str) -> str:
    """Step 1c: a final y after a consonant becomes i, except in words like "by"."""
    return word[:-1] + "i" if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWEL else word


def _replace(word: str, table: dict[str, str | None], start: int, second: int) -> str:
    """Steps 2 to 4: replaces the longest suffix of a table if it is in the region that starts at `start`."""
    suffix = _ending(word, table)
    rest = word.removesuffix(suffix)
    if not suffix or len(rest) < start:
        return word
    new = table[suffix]
    if new is not None:
        return rest + new
    if suffix == "ogi":
        return rest + "og" if rest.endswith("l") else word
    if suffix == "li":
        return rest if rest.endswith(tuple("cdeghkmnrt")) else word
    if suffix == "ative":
        return rest if len(rest) >= second else word
    return rest if rest.endswith(("s", "t")) else word  # -ion


def _final_e_or_l(word: str, first: int, second: int) -> str:
    """Step 5."""
    rest = word[:-1]
    if word.endswith("e") and (len(rest) >= second or (len(rest) >= first and not _SHORT_END.search(rest))):
        return rest
    if word.endswith("ll") and len(rest) >= second:
        return rest
    return word
