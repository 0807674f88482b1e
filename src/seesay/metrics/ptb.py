"""The Penn Treebank tokenization of English captions in coco-caption, without Java.

Equals the tokenizer of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`, on which scores in the literature
depend, except for the second period after an abbreviation at the end of a sentence, which coco-caption removes anyway.
"""

import re
from functools import lru_cache

from seesay.metrics.ptb_rules import SPACE, SPACE_OR_BREAK, rules
from seesay.metrics.ptb_words import ASSIMILATIONS

# Tokens that can depend on text beyond a space: unusual spaces, tags and one smiley, periods with spaces between
# them, numbers after numbers or abbreviations, a sentence start after a single letter, and PTY. ltd. All other
# lines are tokenized word by word.
_BEYOND_SPACE = re.compile(rf" (?! ){SPACE}|<|\.\[\^|\. +[.\d]|[\d)] +[\d(]|\w\.{SPACE_OR_BREAK}+[A-Z]|[EY]\. l")

# A plain word and the spaces after it: no rule applies.
_PLAIN_WORD = re.compile(f"([A-Za-z]+) ++(?!{SPACE})")


def tokenize(caption: str) -> list[str]:
    """Returns the lower-case tokens of a caption, including punctuation.

    A line break counts as a space. Fractions, telephone numbers and tags may contain a no-break space.
    """
    line = " ".join(re.split("[\n\r\v\f\u2028\u2029]", caption))
    if _BEYOND_SPACE.search(line):
        return _scan(line)
    return [token for chunk in line.split(" ") for token in _chunk(chunk)]


@lru_cache(maxsize=1 << 16)
def _chunk(chunk: str) -> tuple[str, ...]:
    """Returns the tokens of a chunk without spaces (cached: most chunks occur often)."""
    if chunk.isascii() and chunk.isalpha() and chunk.lower() not in ASSIMILATIONS:
        return (chunk.lower(),)
    return tuple(_scan(chunk))


def _scan(line: str) -> list[str]:
    """Returns the tokens of a line by the longest match at each position."""
    text = line + "\n"  # several rules require white space after a token
    tokens = []
    position = 0
    while position < len(text):
        plain = _PLAIN_WORD.match(text, position)
        if plain and (word := plain[1].lower()) not in ASSIMILATIONS:
            tokens.append(word)
            position = plain.end()
            continue
        end = position
        for pattern, finish in rules():
            match = pattern.match(text, position)
            if match and match.end() > end:
                end, best, write = match.end(), match, finish
        if end == position:  # white space, or a character unknown to the tokenizer
            position += 1
            continue
        stop = best.end("token") if "token" in best.re.groupindex else end
        token = write(text[position:stop])
        if token:
            tokens.append(token)
        position = stop
    return tokens
