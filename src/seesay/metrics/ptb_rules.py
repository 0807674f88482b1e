"""The tokens of coco-caption's Penn Treebank tokenizer as regular expressions.

At each position the longest match wins, and of equal matches the earlier rule. The lookahead of a rule (the part
after its group `token`) counts in that comparison but is not consumed, as in the original's lexer generator. The
rules were derived from its documentation and by comparing outputs; `tests/metrics` verifies them.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from seesay.metrics.ptb_characters import DIGITS, LETTERS, MARKS, SYMBOLS, character_class
from seesay.metrics.ptb_words import (
    ABBREVIATIONS,
    APOSTROPHE_WORDS,
    ASSIMILATIONS,
    CAPITAL_ABBREVIATIONS,
    FILE_ENDINGS,
    FINAL_ABBREVIATIONS,
    NUMBER_ABBREVIATIONS,
    SENTENCE_STARTS,
    SPECIAL_WORDS,
)

ENTITY_LETTER = "&[aeiouAEIOU](?i:acute|grave|uml);"
PLAIN = f"[{character_class(LETTERS)}]"
PLAIN_OR_DIGIT = f"[{character_class(LETTERS, DIGITS)}]"
LETTER = f"(?:[{character_class(LETTERS, MARKS)}]|{ENTITY_LETTER})"
LETTER_OR_DIGIT = f"(?:[{character_class(LETTERS, MARKS, DIGITS)}]|{ENTITY_LETTER})"
DIGIT = f"[{character_class(DIGITS)}]"
SPACE = r"[ \t\u00A0\u2000-\u200A\u3000]"
SPACE_OR_BREAK = r"[ \t\n\v\f\r\u0085\u00A0\u2000-\u200A\u2028\u2029\u3000]"
APOSTROPHE = r"(?:['\u0092\u2019]|(?i:&apos;))"
# Also used as apostrophes.
LIKE_APOSTROPHE = r"(?:['\u0092\u2019`\u0091\u2018\u201B]|(?i:&apos;))"
WORD = rf"{LETTER}{LETTER_OR_DIGIT}*(?:[.!?]{LETTER}{LETTER_OR_DIGIT}*)*"
SUFFIX = f"{APOSTROPHE}(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])"
NOT_SUFFIX = f"[nN]{LIKE_APOSTROPHE}[tT]"
ARTICLE = f"(?:[dDoOlL]{LIKE_APOSTROPHE}{PLAIN_OR_DIGIT})?"
HYPHENATED = rf"{ARTICLE}{PLAIN_OR_DIGIT}+(?:[-_\u058A\u2010\u2011]{ARTICLE}{PLAIN_OR_DIGIT}+)*"
AMPERSANDED = "[A-Z]+(?:(?:(?i:&amp;)|[+&])[A-Z]+)+"
INITIALS = r"[A-Za-z](?:\.[A-Za-z])+"
# Compounds such as Sino-U.S.
STATES = r"(?i:canada|sino|korean|eu|japan|non)-(?i:u\.s)|(?i:u\.s\.-u\.(?:k|s\.s\.r))"

_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_ATTRIBUTES = rf"""(?:[ ]+{_NAME}(?:[ ]*=[ ]*(?:'[^']*'|"[^"]*"))?)*"""
TAG = rf"<(?:[!?][A-Za-z-][^>\r\n]*|{_NAME}{_ATTRIBUTES}[ ]*/?|/{_NAME})[ ]*>"

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
CURRENCIES = dict.fromkeys("\u00a4\u0080\u20a0\u20ac", "$") | {"\u00a2": "cents", "\u00a3": "#"}
QUOTES = (
    dict.fromkeys("\u0091\u2018\u201b\u2039", "`")
    | dict.fromkeys("\u0092\u2019\u203a", "'")
    | dict.fromkeys("\u0093\u201c\u00ab", "``")
    | dict.fromkeys("\u0094\u201d\u00bb", "''")
)


class Rule(NamedTuple):
    """Pattern of a token and the function that returns its output."""

    pattern: re.Pattern[str]
    finish: Callable[[str], str]


@cache
def rules() -> tuple[Rule, ...]:
    """Returns all rules, in order of precedence; compiled at the first call."""
    parts = (_words, _web, _numbers, _abbreviations, _compounds, _symbols, _quotes)
    return tuple(Rule(re.compile(pattern), finish) for part in parts for pattern, finish in part())


Part = Iterator[tuple[str, Callable[[str], str]]]


def _any_case(words: str) -> str:
    """Returns a case-insensitive alternation of words; as in the jar, long s, Kelvin sign and Turkish i are letters."""
    longest_first = sorted(words.split(), key=len, reverse=True)
    return f"(?i:{'|'.join(map(re.escape, longest_first))})"


def _word(text: str) -> str:
    return text.replace("\u00ad", "").lower() or "-"


def _lower(text: str) -> str:
    return text.lower()


def _always(token: str) -> Callable[[str], str]:
    return lambda text: token


def _tag(text: str) -> str:
    return text.lower().replace(" ", "\u00a0")


def _suffix(text: str) -> str:
    return _quote(text).lower()


def _ampersanded(text: str) -> str:
    return re.sub("(?i)&amp;", "&", text).lower()


def _bracketed(text: str) -> str:
    return text.lower().replace("(", "-lrb-").replace(")", "-rrb-")


def _number(text: str) -> str:
    return _bracketed(text).replace(" ", "\u00a0")


def _dashes(text: str) -> str:
    return "--" if 2 <= len(text) <= 4 else text


def _double_quote(text: str, quote: str) -> str:
    # The jar knows the entity in lower case only.
    return quote if text in ('"', "&quot;") else text.lower()


def _quote(text: str) -> str:
    return "".join(QUOTES.get(character, character) for character in text.replace("&apos;", "'"))


def _words() -> Part:
    for word, tail in ASSIMILATIONS.items():
        yield f"(?P<token>{_any_case(word[:-tail])}){_any_case(word[-tail:])}", _word
    yield f"(?P<token>'[tT])(?:{_any_case('is was')})", _suffix
    yield TAG, _tag
    yield r"&(?i:md|mdash|ndash);|[\u0096\u0097\u2013-\u2015]", _always("--")
    yield "(?i:&amp;)", _always("&")
    yield f"&(?:{_any_case('ht tl ur lr qc ql qr odq cdq')}|#[0-9]+);", _lower
    yield "(?i:&nbsp;)", _always("")
    yield f"(?P<token>{WORD}){SUFFIX}", _word
    yield rf"(?P<token>[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*){NOT_SUFFIX}", _word
    yield WORD, _word
    yield _any_case(APOSTROPHE_WORDS).replace("'", APOSTROPHE), _word
    yield f"{APOSTROPHE}[nN]{APOSTROPHE}?|[lLdDjJ]{APOSTROPHE}|{APOSTROPHE}[2-9]0(?i:s)", _word
    yield f"[oO]{LIKE_APOSTROPHE}[oO]|[A-HJ-XZn]{LIKE_APOSTROPHE}{PLAIN}{{2,}}", _word
    yield f"{PLAIN}+[aeiouyAEIOUY]{LIKE_APOSTROPHE}[aeiouA-Z]{PLAIN}*", _word
    yield f"(?P<token>[yY]{APOSTROPHE}){PLAIN}", _word


def _web() -> Part:
    never = r' \t\n\f\r"<>|'
    # Once with and once without a path, so that the longer match is found.
    for path in (rf"/[^{never}()]+[^{never}.!?(){{}},-]", ""):
        yield rf"[wW]{{3}}\.(?:[^{never}.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}{path}", _lower
        # The range from comma to underscore is as in the original: no digits or capitals.
        yield rf"(?:[^{never}.!?(){{}}`',-_$]+\.)+(?:{_any_case('com net org edu')}){path}", _lower
    yield rf"(?i:https?)://[^{never}(){{}}]+[^{never}.!?(){{}},-]", _lower
    mail = rf"[^{never}().{{}}\u00a0]+"
    yield rf"(?:(?i:&lt;)|<)?[a-zA-Z0-9][^{never}(){{}}\u00a0]*@(?:{mail}\.)*{mail}(?:(?i:&gt;)|>)?", _lower
    yield r"@[a-zA-Z_][a-zA-Z_0-9]*", _lower
    yield f"[#]{LETTER}+", _lower


def _numbers() -> Part:
    for suffix in (SUFFIX, NOT_SUFFIX):
        yield f"(?P<token>{suffix})[^A-Za-z]", _suffix
    yield f"{DIGIT}{{1,2}}[-/]{DIGIT}{{1,2}}[-/]{DIGIT}{{2,4}}", _word
    yield rf"[-+]?(?:{DIGIT}*(?:[.:,\u00AD\u066B\u066C]{DIGIT}+)+|{DIGIT}+)", _word
    yield r"[\u207A\u207B\u208A\u208B]?(?:[\u2070\u00B9\u00B2\u00B3\u2074-\u2079]+|[\u2080-\u2089]+)", _lower
    yield rf"(?:{DIGIT}{{1,4}}[- \u00A0])?{DIGIT}{{1,4}}(?:\\?/|\u2044){DIGIT}{{1,4}}", _number
    yield r"[\u00BC-\u00BE\u2153-\u215E]", lambda text: FRACTIONS.get(text, text)
    area = r"\([0-9]{2,3}\)[ \u00A0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00A0])?[0-9]{2,4}[- \u00A0]"
    yield rf"(?:{area})[0-9]{{3,4}}[- \u00A0]?[0-9]{{3,5}}", _number
    yield r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}", _number
    yield r"[A-Z]*\$|[#]", _lower
    money = r"[\u00A2-\u00A5\u0080\u20A0\u20AC\u060B\u0E3F\u20A4\uFFE0\uFFE1\uFFE5\uFFE6]"
    yield money, lambda text: CURRENCIES.get(text, text)


def _abbreviations() -> Part:
    capital = f"(?=[A-Z]){_any_case(CAPITAL_ABBREVIATIONS)}"
    final = rf"(?:{_any_case(FINAL_ABBREVIATIONS)}|{capital}|[Pp][Pp]?[Tt][ey](?i:s)?|(?i:ph|ed)\.[Dd])\."
    yield rf"(?P<token>{final})[\s\S]{{2}}", _word
    yield final, _word
    yield rf"(?:{_any_case(ABBREVIATIONS)}|[Mm][ft][Gg]|[A-Za-z])\.", _word
    start = rf"(?=[A-Z])(?:{_any_case(SENTENCE_STARTS)}|M(?i:r|s)\.)"
    yield rf"(?P<token>[A-Za-z])\.{SPACE_OR_BREAK}+(?:{start}|{TAG}){SPACE_OR_BREAK}", _word
    yield rf"(?P<token>{_any_case(NUMBER_ABBREVIATIONS)}\.){SPACE_OR_BREAK}?{DIGIT}", _word
    yield rf"(?:{STATES}|{INITIALS})\.", _word
    yield f"(?P<token>{STATES}){SPACE_OR_BREAK}", _word
    yield rf"(?P<token>[pP][tT][EY]\.){SPACE}(?i:ltd|lim)", _word


def _compounds() -> Part:
    yield HYPHENATED, _word
    dotted = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:(?:{STATES}|{INITIALS})\.|[A-Za-z0-9\u00ad]+))+"
    yield rf"(?P<token>(?:{HYPHENATED}|{WORD}|{AMPERSANDED})\.)[,;:\u3001]", _word
    yield rf"(?P<token>{dotted}\.)[,;:\u3001]", _word
    yield _any_case(SPECIAL_WORDS).replace(r"\&", "(?:&amp;|&)"), _ampersanded
    slashed = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
    yield rf"{slashed}(?:\\?/{slashed}){{1,2}}", _word
    name = rf"{LETTER_OR_DIGIT}+(?:\.{LETTER_OR_DIGIT}+)*"
    yield rf"(?P<token>{name}\.(?:{_any_case(FILE_ENDINGS)}))(?:{SPACE_OR_BREAK}|[.?!,])", _lower
    yield rf"(?P<token>{APOSTROPHE}[0-9][0-9]){SPACE_OR_BREAK}", _word
    yield dotted, _word
    yield "<<|>>", _lower
    yield AMPERSANDED, _ampersanded
    yield r"(?P<token>[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]", _bracketed
    eye = r"[-^x=~<>']"
    # The jar intends "x.[x" but matches up to "<>]".
    yield r"[\^x=~<>]\.\[\^[xX]=[^<]*<>\]", _bracketed
    yield rf"{eye}_{eye}|\({eye}[_.]?{eye}\)|\([\^x=~<>']-[\^x=~<>'`]\)", _bracketed


def _symbols() -> Part:
    yield r'(?P<token>"|(?i:&quot;))[A-Za-z0-9$]', lambda text: _double_quote(text, "``")
    yield '"|(?i:&quot;)', lambda text: _double_quote(text, "''")
    yield "<|(?i:&lt;)", _always("<")
    yield ">|(?i:&gt;)", _always(">")
    yield r"[()\[\]{}]", lambda text: BRACKETS[text]
    yield "-+", _dashes
    yield r"\.{3,5}|(?:\.[ \u00A0]){2,4}\.|[\u0085\u2026]", _always("...")
    yield r"@+|[#]+|_+|\*+|(?:\\\*){1,3}|[.,;:\u3001]|[?!]+|=|%|/", _lower


def _quotes() -> Part:
    yield r"(?P<token>')[A-Za-z][^ \t\r\n\u00a0]", _always("`")
    yield f"{SUFFIX}|{NOT_SUFFIX}", _suffix
    yield r"''|[`\u2018-\u201F\u0091-\u0094\u2039\u203A\u00AB\u00BB]{1,2}", _quote
    yield APOSTROPHE, _suffix
    yield f"[{character_class(SYMBOLS)}]", _lower
    yield f"{SPACE}+", _always("")
