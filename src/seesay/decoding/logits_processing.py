"""Logits processing: the model's log-probabilities of a step, and its logits under the options and constraints."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.arrays import (
    NEG_INF,
    Array,
    Floats,
    Ints,
    cast,
    copy,
    fill_tokens,
    logsumexp,
    namespace,
    put_along,
    stable_topk,
    take_along,
    to_device_of,
    to_host,
    upcast,
)
from seesay.decoding.automaton import PhraseAutomaton, build_automaton
from seesay.decoding.constraints import TokenConstraints
from seesay.errors import ConfigError
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID


@dataclass(frozen=True)
class StepScores:
    """Scores of the tokens that may follow hypotheses (b, R).

    Attributes:
        model: the decoder's logits (b, R, V) in float32 or better, -inf for tokens that are never generated.
        total: logsumexp of `model`, (b, R); `model - total` are log-probabilities.
        choice: processed logits that select tokens, (b, R, V): `model` after penalties, -inf for tokens that a
            constraint forbids.
        attention: attention weights of this step, (b, R, N); None if not requested.
    """

    model: Array
    total: Floats
    choice: Array
    attention: NDArray[np.float32] | None

    def topk(self, count: int) -> tuple[Ints, Floats]:
        """Return the best tokens of each hypothesis (b, R, n) and their processed log-probabilities."""
        values, tokens = stable_topk(self.choice, count)
        return to_host(tokens), to_host(values).astype(np.float64) - self.total[..., None]

    def choice_log_probs(self, tokens: Ints) -> Floats:
        """Return the processed log-probabilities of tokens (b, R, n)."""
        values = take_along(self.choice, to_device_of(tokens, self.choice))
        return to_host(values).astype(np.float64) - self.total[..., None]

    def log_probs(self, tokens: Ints, parents: Ints) -> Floats:
        """Return the model's log-probability (b, K) of `tokens` after the hypotheses `parents`, (b, K) each."""
        rows = np.arange(len(tokens))[:, None] * self.total.shape[1] + parents
        values = self.model.take(to_device_of(rows * self.model.shape[-1] + tokens, self.model))
        totals: Floats = self.total.take(rows)
        return to_host(values).astype(np.float64) - totals

    def end_log_probs(self) -> Floats:
        """Return the model's log-probability of the end token after each hypothesis, (b, R)."""
        return to_host(self.model[..., END_ID]).astype(np.float64) - self.total


class LogitsProcessor:
    """Applies one set of options and constraints, step by step.

    Args:
        options: with `max_length` set.
        constraints: phrases as token ids.
        vocabulary: V.

    Raises:
        ConfigError: a constraint's token is not in the vocabulary, or the required phrases exceed the maximum length.
    """

    def __init__(self, options: DecodingOptions, constraints: TokenConstraints, vocabulary: int) -> None:
        self.options = options
        self.suppressed = suppressed_tokens(options.allow_unk)
        self.banned = [phrase[0] for phrase in constraints.banned if len(phrase) == 1]
        _check_tokens(constraints, vocabulary)
        never = np.zeros(vocabulary, bool)
        never[[*self.suppressed, *self.banned, END_ID]] = True  # the end is decided by `may_end`
        self.automaton: PhraseAutomaton | None = build_automaton(constraints, never)
        shortest = self.automaton.min_length if self.automaton else 0
        if shortest > options.max_length:
            raise ConfigError(
                f"decoding.force_words needs captions of at least {shortest} words, above max_length, "
                f"{options.max_length}"
            )

    def __call__(
        self, logits: Array, tokens: Ints, automaton_states: Ints | None, attention: NDArray[np.float32] | None
    ) -> StepScores:
        """Return the scores of the next token.

        Args:
            logits: the decoder's, (b, R, V); overwritten.
            tokens: the hypotheses so far, (b, R, t).
            automaton_states: states of the automaton, (b, R); None without one.
            attention: attention weights of this step, (b, R, N).
        """
        model = upcast(logits)
        fill_tokens(model, self.suppressed)
        total = logsumexp(model)
        options, step = self.options, tokens.shape[-1]
        repeats = options.repetition_penalty > 1 and step > 0
        blocks = options.no_repeat_ngram_size > 0 and step >= options.no_repeat_ngram_size
        unchanged = not repeats and not blocks and self.automaton is None and not self.banned
        if unchanged and step >= options.min_length:
            return StepScores(model, total, model, attention)
        choice = copy(model)
        if repeats:
            _penalise(choice, total, tokens, options.repetition_penalty)
        fill_tokens(choice, self.banned)
        if blocks:
            _block(choice, tokens, options.no_repeat_ngram_size)
        if self.automaton is not None and automaton_states is not None:
            self._follow_phrases(choice, automaton_states, options.max_length - step - 1)
        if step < options.min_length:
            choice[..., END_ID] = NEG_INF
        return StepScores(model, total, choice, attention)

    def may_end(self, automaton_states: Ints | None) -> NDArray[np.bool_] | bool:
        """Return whether hypotheses of the maximum length may end, (b, R)."""
        return True if self.automaton is None or automaton_states is None else self.automaton.may_end[automaton_states]

    def _follow_phrases(self, choice: Array, automaton_states: Ints, left: int) -> None:
        """Mask tokens after which a caption cannot end within `left` more, and the end token where it is forbidden."""
        automaton = self.automaton
        assert automaton is not None
        forbidden = (automaton.needed[automaton_states] > max(left, 0))[..., automaton.symbol_of]  # (b, R, V)
        forbidden[..., END_ID] = ~automaton.may_end[automaton_states]
        choice[to_device_of(forbidden, choice)] = NEG_INF


def suppressed_tokens(allow_unk: bool) -> list[int]:
    """Return the tokens that are never generated: padding, start, and unknown unless `allow_unk`."""
    return [PAD_ID, START_ID] if allow_unk else [PAD_ID, START_ID, UNK_ID]


def mask_special_tokens(logits: Array, allow_unk: bool) -> Array:
    """Return logits (..., V), at least float32, with -inf for the tokens that are never generated.

    It does not synchronise with the device, so that a CUDA graph can capture it.
    """
    xp = namespace(logits)
    token = xp.arange(logits.shape[-1], **({} if xp is np else {"device": logits.device}))
    never = (token == PAD_ID) | (token == START_ID)
    if not allow_unk:
        never = never | (token == UNK_ID)
    return xp.where(never, NEG_INF, upcast(logits))


def _check_tokens(constraints: TokenConstraints, vocabulary: int) -> None:
    for token in (token for phrase in (*constraints.banned, *constraints.required) for token in phrase):
        if not END_ID < token < vocabulary:
            raise ConfigError(
                f"token {token} of a banned or required phrase is not in the vocabulary of {vocabulary} words"
            )


def _penalise(choice: Array, total: Floats, tokens: Ints, penalty: float) -> None:
    """Multiply the log-probabilities of tokens (b, R, t) that a hypothesis already contains by `penalty`."""
    places = to_device_of(tokens, choice)
    base = cast(to_device_of(total[..., None], choice), choice)
    put_along(choice, places, (take_along(choice, places) - base) * penalty + base)


def _block(choice: Array, tokens: Ints, size: int) -> None:
    """Mask tokens that would complete an n-gram of `size` tokens that a hypothesis already contains."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens, size, axis=-1)  # (b, R, t - size + 1, size)
    repeated = (windows[..., :-1] == tokens[..., None, tokens.shape[-1] - size + 1 :]).all(-1)
    put_along(choice, to_device_of(np.where(repeated, windows[..., -1], PAD_ID), choice), NEG_INF)
