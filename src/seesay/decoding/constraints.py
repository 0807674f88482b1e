"""Banned and required words and phrases as token ids."""

import difflib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from seesay.metrics.diversity import FUNCTION_WORDS
from seesay.tokenizer import UNK, UNK_ID, Tokenizer

Phrase = tuple[int, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenConstraints:
    """What captions must and must not contain, as token ids.

    Attributes:
        banned: phrases of one or more tokens that are never generated.
        required: phrases that every caption contains; they may overlap.
        no_end_after: tokens that never end a caption.
        text: key of a caption's tokens; captions with equal keys are duplicates. None: the tokens themselves.
    """

    banned: tuple[Phrase, ...] = ()
    required: tuple[Phrase, ...] = ()
    no_end_after: frozenset[int] = frozenset()
    text: Callable[[Sequence[int]], Hashable] | None = None


def token_constraints(options: DecodingOptions, tokenizer: Tokenizer) -> TokenConstraints:
    """Return the words and phrases of the options as token ids.

    A banned phrase with a word outside the vocabulary is ignored with a warning: it cannot be generated.

    Raises:
        ConfigError: a required word is not in the vocabulary (the message names similar words), is also banned or is
            empty after cleaning; or `complete_endings` is set for a character vocabulary.
    """
    banned = tuple(dict.fromkeys(ids for text in options.bad_words if (ids := _banned_ids(text, tokenizer))))
    required = tuple(dict.fromkeys(_required_ids(text, tokenizer) for text in options.force_words))
    for phrase in required:
        for excluded in banned:
            if _contains(phrase, excluded):
                raise ConfigError(
                    f"decoding.force_words {tokenizer.decode(phrase)!r} contains {tokenizer.decode(excluded)!r}, "
                    "which decoding.bad_words bans; drop one of them"
                )
    if options.complete_endings and tokenizer.config.level == "character":
        raise ConfigError("decoding.complete_endings needs a word vocabulary; this tokenizer uses characters")
    function_words = frozenset(
        token
        for token, word in enumerate(tokenizer.vocabulary)
        if options.complete_endings and word.lower() in FUNCTION_WORDS
    )
    return TokenConstraints(banned, required, function_words, lambda tokens: _normalised_text(tokens, tokenizer))


def _normalised_text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    return tokenizer.clean(tokenizer.decode(tokens)).casefold()


def _ids(name: str, text: str, tokenizer: Tokenizer) -> Phrase:
    ids = tuple(tokenizer.encode(text)[1:-1])
    if not ids:
        raise ConfigError(f"decoding.{name}: {text!r} is empty after cleaning; pass a word or a phrase")
    return ids


def _banned_ids(text: str, tokenizer: Tokenizer) -> Phrase:
    """Return the ids of a banned phrase, or () with a warning if it has a word outside the vocabulary."""
    ids = _ids("bad_words", text, tokenizer)
    if UNK_ID not in ids:
        return ids
    logger.warning("decoding.bad_words: %s; it is never generated anyway", _describe_unknown(text, ids, tokenizer))
    return ()


def _required_ids(text: str, tokenizer: Tokenizer) -> Phrase:
    """Return the ids of a required phrase; raise ConfigError if a word is outside the vocabulary."""
    ids = _ids("force_words", text, tokenizer)
    if UNK_ID in ids:
        raise ConfigError(f"decoding.force_words: {_describe_unknown(text, ids, tokenizer)}")
    return ids


def _describe_unknown(text: str, ids: Phrase, tokenizer: Tokenizer) -> str:
    """Return a message that names the first word of a phrase outside the vocabulary."""
    cleaned = tokenizer.clean(text)
    units = list(cleaned) if tokenizer.config.level == "character" else cleaned.split()
    word = next((unit for unit, token in zip(units, ids, strict=False) if token == UNK_ID), UNK)
    similar = difflib.get_close_matches(word, tokenizer.vocabulary[UNK_ID + 1 :], n=3, cutoff=0.6)
    hint = f"similar words: {', '.join(similar)}" if similar else "it has no similar word"
    return f"{word!r} is not in the vocabulary of {len(tokenizer)} words; {hint}"


def check_repeats(constraints: TokenConstraints, no_repeat_ngram_size: int) -> None:
    """Check that a caption without a repeated n-gram of `no_repeat_ngram_size` tokens can contain the required phrases.

    In such a caption each n-gram occurs once, so that it has one successor and one predecessor. Phrases that need
    several, or n-grams that form a cycle, are impossible. The check is exact for n = 1; for larger n it may accept
    impossible phrases.

    Raises:
        ConfigError: the phrases are impossible; the message names an n-gram that they need twice.
    """
    if not no_repeat_ngram_size:
        return
    pairs: dict[tuple[Phrase, Phrase], None] = {}
    for phrase in constraints.required:
        ngrams = [
            phrase[place : place + no_repeat_ngram_size] for place in range(len(phrase) - no_repeat_ngram_size + 1)
        ]
        pairs.update(dict.fromkeys(pairwise(ngrams)))
    after, before = dict(pairs.keys()), {second: first for first, second in pairs}
    twice = [first for first, second in pairs if after[first] != second]
    twice += [second for first, second in pairs if before[second] != first]
    for first, second in () if twice else pairs:  # each n-gram has one successor; only cycles are left
        while second in after and second != first:
            second = after[second]
        twice += [first] if second == first else []
    if twice:
        repeated = repr(constraints.text(twice[0]) if constraints.text else twice[0])
        raise ConfigError(
            f"decoding.force_words needs {repeated} twice, which decoding.no_repeat_ngram_size "
            f"{no_repeat_ngram_size} forbids; drop a phrase that contains it"
        )


def _contains(phrase: Phrase, part: Phrase) -> bool:
    return any(phrase[place : place + len(part)] == part for place in range(len(phrase) - len(part) + 1))
