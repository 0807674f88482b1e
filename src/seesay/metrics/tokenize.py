"""Tokenization of captions for scoring."""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

from seesay.errors import ConfigError
from seesay.metrics import ptb

Tokenization = Literal["ptb", "whitespace", "characters"]
DEFAULT_TOKENIZATION: Tokenization = "ptb"

# Tokens that coco-caption removes. Its list has -LRB- etc. in capitals, but its tokenizer returns them in lower case:
# brackets stay, and published scores count them.
PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))


def tokenize(captions: Iterable[str], tokenization: str = "ptb") -> list[str]:
    """Returns each caption as tokens joined by single spaces.

    Args:
        captions: raw captions.
        tokenization: `ptb`, as coco-caption for English: lower-case Penn Treebank tokens without punctuation;
            `whitespace`, words separated by white space; `characters`, all characters except white space, for languages
            without spaces between words.

    Raises:
        ConfigError: Unknown tokenization.
    """
    splitters: dict[str, Callable[[str], str]] = {
        "ptb": _ptb,
        "whitespace": lambda caption: " ".join(caption.split()),
        "characters": lambda caption: " ".join("".join(caption.split())),
    }
    if tokenization not in splitters:
        raise ConfigError(f"unknown tokenization {tokenization!r}; choose from {', '.join(get_args(Tokenization))}")
    split = splitters[tokenization]
    return [split(caption) for caption in captions]


def _ptb(caption: str) -> str:
    # Some tokens end in a non-ASCII space, which coco-caption removes only at the end of a line.
    line = " ".join(ptb.tokenize(caption)).rstrip()
    return " ".join([token for token in line.split(" ") if token not in PUNCTUATION])
