"""Banned and required words for the subword tokenizers of transformers."""

from collections.abc import Iterator, Sequence
from typing import Any

from seesay.captioners.pretrained.steps import OFFSET
from seesay.config import DecodingOptions
from seesay.decoding.constraints import Phrase, TokenConstraints
from seesay.errors import ConfigError
from seesay.metrics.diversity import FUNCTION_WORDS


def subword_constraints(options: DecodingOptions, tokenizer: Any) -> TokenConstraints:
    """Return the words and phrases of the options as token ids of the search.

    A phrase is banned as written, capitalised and in lower case, at the start of a caption and inside it. A required
    phrase is generated as it is written. Words have no boundary in a subword vocabulary: banning `cat` bans `cats` too
    if its first token is `cat`.

    Raises:
        ConfigError: a phrase is empty, a required phrase has a character that the vocabulary lacks, or contains a
            banned phrase.
    """
    banned = tuple(dict.fromkeys(ids for text in options.bad_words for ids in _spellings(text, tokenizer)))
    required = tuple(dict.fromkeys(_inside("force_words", text, tokenizer) for text in options.force_words))
    for phrase, text in zip(required, options.force_words, strict=False):
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id + OFFSET in phrase:
            raise ConfigError(f"decoding.force_words: {text!r} is not in the vocabulary of the model")
        if any(_contains(phrase, excluded) for excluded in banned):
            raise ConfigError(
                f"decoding.force_words {text!r} contains a phrase of decoding.bad_words; drop one of them"
            )
    ends = frozenset(_function_words(tokenizer)) if options.complete_endings else frozenset()
    return TokenConstraints(banned, required, ends, lambda tokens: _normalised_text(tokens, tokenizer))


def _normalised_text(tokens: Sequence[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode([token - OFFSET for token in tokens], skip_special_tokens=True)
    return " ".join(text.casefold().split())


def _ids(text: str, tokenizer: Any) -> Phrase:
    return tuple(token + OFFSET for token in tokenizer(text, add_special_tokens=False).input_ids)


def _inside(name: str, text: str, tokenizer: Any) -> Phrase:
    """Return the ids of a phrase that follows another word."""
    before, whole = _ids("a", tokenizer), _ids(f"a {text.strip()}", tokenizer)
    found = whole[len(before) :] if whole[: len(before)] == before else _ids(f" {text.strip()}", tokenizer)
    if not text.strip() or not found:
        raise ConfigError(f"decoding.{name}: {text!r} is empty; pass a word or a phrase")
    return found


def _spellings(text: str, tokenizer: Any) -> Iterator[Phrase]:
    for spelling in (text, text.lower(), text.capitalize()):
        yield _inside("bad_words", spelling, tokenizer)
        yield _ids(spelling.strip(), tokenizer)


def _function_words(tokenizer: Any) -> Iterator[int]:
    for word in FUNCTION_WORDS:
        for spelling in (word, word.capitalize()):
            for ids in (_ids(spelling, tokenizer), _inside("complete_endings", spelling, tokenizer)):
                if len(ids) == 1:
                    yield ids[0]


def _contains(phrase: Phrase, part: Phrase) -> bool:
    return any(phrase[at : at + len(part)] == part for at in range(len(phrase) - len(part) + 1))
