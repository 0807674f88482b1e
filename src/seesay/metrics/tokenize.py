"""How captions are cut into words before they are scored."""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

from seesay.errors import ConfigError
from seesay.metrics import ptb

Tokenization = Literal["ptb", "whitespace", "characters"]
DEFAULT_TOKENIZATION: Tokenization = "ptb"

# What coco-caption takes out after tokenizing. Its list has -LRB- and the like in capitals, but its tokenizer
# gives them in small letters: brackets stay, and published scores count them.
PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))


def tokenize(captions: Iterable[str], tokenization: str = "ptb") -> list[str]:
    """Returns each caption as tokens joined by single spaces.

    Args:
        captions: texts as people or models wrote them.
        tokenization: `ptb`, what coco-caption does to English: Penn Treebank tokens in small letters, without
            punctuation; `whitespace`, the words as they stand; `characters`, every character but white space,
            for languages that do not write spaces.

    Raises:
        ConfigError: There is no such tokenization.
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
    # A few tokens end in a space that is not ASCII; coco-caption removes it at the end of a line only.
    line = " ".join(ptb.tokenize(caption)).rstrip()
    return " ".join([token for token in line.split(" ") if token not in PUNCTUATION])
