"""The Penn Treebank tokenization that coco-caption gives English captions, without Java.

It is that of Stanford CoreNLP 3.4.1's tokenizer with `-preserveLines -lowerCase`, which scores in the
literature depend on. One thing is left out: the second period that it writes after an abbreviation that ends
a sentence, which coco-caption removes again.
"""

import re
from functools import lru_cache

from seesay.metrics.ptb_rules import SPACE, SPACE_OR_BREAK, rules
from seesay.metrics.ptb_words import ASSIMILATIONS

# Where tokens can depend on the text beyond a space: spaces of different kinds, tags and one smiley, periods
# with spaces between them, numbers after numbers or after an abbreviation, a sentence that begins after a
# single letter, and PTY. ltd. All other lines are cut word by word.
_BEYOND_SPACE = re.compile(rf" (?! ){SPACE}|<|\.\[\^|\. +[.\d]|[\d)] +[\d(]|\w\.{SPACE_OR_BREAK}+[A-Z]|[EY]\. l")

# A word and the spaces after it: no rule looks further, so none need be tried.
_PLAIN_WORD = re.compile(f"([A-Za-z]+) ++(?!{SPACE})")


def tokenize(caption: str) -> list[str]:
    """Returns the tokens of a caption, in small letters, punctuation included.

    A line break inside counts as a space. Fractions, telephone numbers and tags may hold a no-break space.
    """
    line = " ".join(re.split("[\n\r\v\f\u2028\u2029]", caption))
    if _BEYOND_SPACE.search(line):
        return _scan(line)
    return [token for chunk in line.split(" ") for token in _chunk(chunk)]


@lru_cache(maxsize=1 << 16)
def _chunk(chunk: str) -> tuple[str, ...]:
    """Returns the tokens of a piece without spaces; most pieces of a data set occur often."""
    if chunk.isascii() and chunk.isalpha() and chunk.lower() not in ASSIMILATIONS:
        return (chunk.lower(),)
    return tuple(_scan(chunk))


def _scan(line: str) -> list[str]:
    """Returns the tokens of a line, by the longest match at each place."""
    text = line + "\n"  # several rules look for the white space after a token
    tokens = []
    place = 0
    while place < len(text):
        plain = _PLAIN_WORD.match(text, place)
        if plain and (word := plain[1].lower()) not in ASSIMILATIONS:
            tokens.append(word)
            place = plain.end()
            continue
        end = place
        for pattern, finish in rules():
            match = pattern.match(text, place)
            if match and match.end() > end:
                end, best, write = match.end(), match, finish
        if end == place:  # white space, or a character the tokenizer does not know
            place += 1
            continue
        stop = best.end("token") if "token" in best.re.groupindex else end
        token = write(text[place:stop])
        if token:
            tokens.append(token)
        place = stop
    return tokens
