"""The words and phrases of the options as token ids."""

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
    """What captions must and must not hold, in token ids.

    Attributes:
        banned: phrases, each of one or more tokens, that are never said.
        required: phrases that every caption holds; they may overlap.
        no_end_after: tokens that no caption ends in.
        text: what a row of tokens says; captions that say the same count as one. None = tokens say themselves.
    """

    banned: tuple[Phrase, ...] = ()
    required: tuple[Phrase, ...] = ()
    no_end_after: frozenset[int] = frozenset()
    text: Callable[[Sequence[int]], Hashable] | None = None


def token_constraints(options: DecodingOptions, tokenizer: Tokenizer) -> TokenConstraints:
    """Returns the options' words and phrases in a tokenizer's ids.

    A banned phrase with a word that the vocabulary lacks cannot be said anyway; it is passed over with a warning.

    Raises:
        ConfigError: a required word is not in the vocabulary (the nearest are named), is banned too, or nothing is
            left of it after cleaning; or a vocabulary of characters is to mind function words.
    """
    banned = tuple(dict.fromkeys(ids for text in options.bad_words if (ids := _is_generatable(text, tokenizer))))
    required = tuple(dict.fromkeys(_known(text, tokenizer) for text in options.force_words))
    for phrase in required:
        for barred in banned:
            if _holds(phrase, barred):
                raise ConfigError(
                    f"decoding.force_words {tokenizer.decode(phrase)!r} holds {tokenizer.decode(barred)!r}, "
                    "which decoding.bad_words bars; drop one of them"
                )
    if options.complete_endings and tokenizer.config.level == "character":
        raise ConfigError("decoding.complete_endings needs a vocabulary of words; this one holds characters")
    function_words = frozenset(
        token
        for token, word in enumerate(tokenizer.vocabulary)
        if options.complete_endings and word.lower() in FUNCTION_WORDS
    )
    return TokenConstraints(banned, required, function_words, lambda tokens: _said(tokens, tokenizer))


def _said(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    return tokenizer.clean(tokenizer.decode(tokens)).casefold()


def _ids(name: str, text: str, tokenizer: Tokenizer) -> Phrase:
    ids = tuple(tokenizer.encode(text)[1:-1])
    if not ids:
        raise ConfigError(f"decoding.{name}: nothing is left of {text!r} after cleaning; name a word or a phrase")
    return ids


def _is_generatable(text: str, tokenizer: Tokenizer) -> Phrase:
    """Returns the ids of a banned phrase; none, with a warning, of one that can never be said."""
    ids = _ids("bad_words", text, tokenizer)
    if UNK_ID not in ids:
        return ids
    logger.warning("decoding.bad_words: %s; it is never said, with or without the ban", _unknown(text, ids, tokenizer))
    return ()


def _known(text: str, tokenizer: Tokenizer) -> Phrase:
    """Returns the ids of a required phrase, all of whose words the vocabulary must hold."""
    ids = _ids("force_words", text, tokenizer)
    if UNK_ID in ids:
        raise ConfigError(f"decoding.force_words: {_unknown(text, ids, tokenizer)}")
    return ids


def _unknown(text: str, ids: Phrase, tokenizer: Tokenizer) -> str:
    """Returns a sentence about the first word of a phrase that the vocabulary lacks."""
    cleaned = tokenizer.clean(text)
    units = list(cleaned) if tokenizer.config.level == "character" else cleaned.split()
    word = next((unit for unit, token in zip(units, ids, strict=False) if token == UNK_ID), UNK)
    near = difflib.get_close_matches(word, tokenizer.vocabulary[UNK_ID + 1 :], n=3, cutoff=0.6)
    hint = f"near are {', '.join(near)}" if near else "no word of it is like that"
    return f"{word!r} is not in the vocabulary of {len(tokenizer)} words; {hint}"


def check_repeats(rules: TokenConstraints, no_repeat_ngram_size: int) -> None:
    """Refuses required phrases that no caption without a repeated run of `no_repeat_ngram_size` words can hold.

    Such a caption says each run once, so that one other comes next after it and one other next before it. Phrases
    that need more cannot be kept, nor can runs that lead back to themselves. Of runs of one word nothing else can
    stand in the way, so that all impossible phrases are found; of longer ones, not all.

    Raises:
        ConfigError: there are such; a run that they need twice is named.
    """
    if not no_repeat_ngram_size:
        return
    pairs: dict[tuple[Phrase, Phrase], None] = {}
    for phrase in rules.required:
        runs = [phrase[place : place + no_repeat_ngram_size] for place in range(len(phrase) - no_repeat_ngram_size + 1)]
        pairs.update(dict.fromkeys(pairwise(runs)))
    after, before = dict(pairs.keys()), {second: first for first, second in pairs}
    twice = [first for first, second in pairs if after[first] != second]
    twice += [second for first, second in pairs if before[second] != first]
    for first, second in () if twice else pairs:  # now each has one place, unless they stand in a circle
        while second in after and second != first:
            second = after[second]
        twice += [first] if second == first else []
    if twice:
        run = repr(rules.text(twice[0]) if rules.text else twice[0])
        raise ConfigError(
            f"decoding.force_words needs {run} twice, which decoding.no_repeat_ngram_size {no_repeat_ngram_size} bars; "
            "drop a phrase that holds it"
        )


def _holds(phrase: Phrase, part: Phrase) -> bool:
    return any(phrase[place : place + len(part)] == part for place in range(len(phrase) - len(part) + 1))
