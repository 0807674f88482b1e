"""A step's scores: the model's log-probabilities, and which words the options and rules leave to be said."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding.automaton import PhraseAutomaton, build_automaton
from seesay.decoding.constraints import TokenConstraints
from seesay.errors import ConfigError
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID

NEG_INF = float("-inf")


class Scores(NamedTuple):
    """Scores of the words that may follow, for hypotheses (b, R).

    Attributes:
        model: the decoder's logits (b, R, V) in float32 or better, -inf where the token is no word to be said.
        total: their logarithm of the sum of exponentials, (b, R, 1); `model - total` are the log-probabilities.
        choice: what words are chosen by, (b, R, V): `model` after penalties, -inf where a rule bars the word.
    """

    model: Tensor
    total: Tensor
    choice: Tensor

    def log_probs(self, words: Tensor, parents: Tensor) -> Tensor:
        """Returns the model's log-probability (b, K) of `words` after the hypotheses `parents`, (b, K) each."""
        batch = torch.arange(len(words), device=words.device)[:, None]
        return self.model[batch, parents, words] - self.total[batch, parents, 0]

    def end_log_probs(self) -> Tensor:
        """Returns the model's log-probability of the end after every hypothesis, (b, R)."""
        return self.model[..., END_ID] - self.total[..., 0]


class Scorer:
    """Applies one set of options and rules, step by step.

    Args:
        options: with the maximum length filled in.
        rules: phrases in ids.
        vocabulary: V.
        device: where logits are.

    Raises:
        ConfigError: a rule's token is not in the vocabulary, or the required phrases do not fit the maximum length.
    """

    def __init__(
        self, options: DecodingOptions, rules: TokenConstraints, vocabulary: int, device: torch.device
    ) -> None:
        self.options = options
        silent, singles = suppressed_tokens(options.allow_unk), single_bans(rules)
        _check_tokens(rules, vocabulary)
        never = np.zeros(vocabulary, bool)
        never[[*silent, *singles, END_ID]] = True  # the end is no word; whether it may come is asked by itself
        self.silent = torch.tensor(silent, device=device)
        self.banned = torch.tensor(singles, device=device) if singles else None
        self.automaton: PhraseAutomaton | None = build_automaton(rules, never, device)
        fewest = self.automaton.fewest if self.automaton else 0
        if fewest > options.max_length:
            raise ConfigError(
                f"decoding.force_words needs captions of at least {fewest} words, above max_length, {options.max_length}"
            )

    def first_states(self, rows: Tensor) -> Tensor | None:
        """Returns the automaton's states of new hypotheses of the shape of `rows`."""
        return torch.zeros_like(rows, dtype=torch.int64) if self.automaton else None

    def __call__(self, logits: Tensor, said: Tensor, states: Tensor | None) -> Scores:
        """Returns the scores of the next word.

        Args:
            logits: of the decoder, (b, R, V); overwritten.
            said: words so far, (b, R, t).
            states: of the automaton, (b, R); None without one.
        """
        model = widened(logits)  # its own from here on
        model.index_fill_(-1, self.silent, NEG_INF)
        total = model.logsumexp(-1, keepdim=True)
        options, step = self.options, said.shape[-1]
        repeats = options.repetition_penalty > 1 and step > 0
        # At the limit only the end is left, and whether it comes by itself is asked of the model alone.
        blocks = options.no_repeat_ngram_size > 0 and step >= options.no_repeat_ngram_size
        untouched = not repeats and not blocks and self.automaton is None and self.banned is None
        if untouched and step >= options.min_length:
            return Scores(model, total, model)
        choice = model.clone()
        if repeats:
            _penalise(choice, total, said, options.repetition_penalty)
        if self.banned is not None:
            choice.index_fill_(-1, self.banned, NEG_INF)
        if blocks:
            _block(choice, said, options.no_repeat_ngram_size)
        if self.automaton is not None and states is not None:
            self._follow_phrases(choice, states, options.max_length - step - 1)
        if step < options.min_length:
            choice[..., END_ID] = NEG_INF
        return Scores(model, total, choice)

    def may_end(self, states: Tensor | None, rows: Tensor) -> Tensor:
        """Returns whether hypotheses that have the maximum length may end there, (b, R) bool."""
        if self.automaton is None or states is None:
            return torch.ones_like(rows, dtype=torch.bool)
        return self.automaton.may_end[states]

    def _follow_phrases(self, choice: Tensor, states: Tensor, left: int) -> None:
        """Bars words after which a caption cannot end within `left` more words, and the end where it may not come."""
        automaton = self.automaton
        assert automaton is not None
        barred = automaton.needed[states] > max(left, 0)  # (b, R, A)
        end = torch.where(automaton.may_end[states], choice[..., END_ID], NEG_INF)
        choice.masked_fill_(barred[..., automaton.symbol_of], NEG_INF)
        choice[..., END_ID] = end


def suppressed_tokens(allow_unk: bool) -> list[int]:
    """Returns the tokens that are never said: padding, the start, and the unknown word unless it may be."""
    return [PAD_ID, START_ID] if allow_unk else [PAD_ID, START_ID, UNK_ID]


def single_bans(rules: TokenConstraints) -> list[int]:
    """Returns the tokens that are banned by themselves."""
    return [phrase[0] for phrase in rules.banned if len(phrase) == 1]


def widened(logits: Tensor) -> Tensor:
    """Returns scores in float32 where they came in half precision, in which their differences would be lost."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def mask_special_tokens(logits: Tensor, allow_unk: bool) -> Tensor:
    """Returns scores (..., V), `widened`, with -inf for what is never said: padding, the start, maybe the unknown word.

    It waits for no device and reads nothing but the logits, so that it can be part of a CUDA graph.
    """
    token = torch.arange(logits.shape[-1], device=logits.device)
    never = (token == PAD_ID) | (token == START_ID)
    if not allow_unk:
        never |= token == UNK_ID
    return widened(logits).masked_fill(never, NEG_INF)


def _check_tokens(rules: TokenConstraints, vocabulary: int) -> None:
    for token in (token for phrase in (*rules.banned, *rules.required) for token in phrase):
        if not END_ID < token < vocabulary:
            raise ConfigError(
                f"token {token} of a banned or required phrase is no word of the vocabulary of {vocabulary}"
            )


def _penalise(choice: Tensor, total: Tensor, said: Tensor, penalty: float) -> None:
    """Multiplies the log-probabilities of the words `said` (b, R, t)."""
    changed = (choice.gather(-1, said) - total) * penalty + total
    choice.scatter_(-1, said, changed)


def _block(choice: Tensor, said: Tensor, size: int) -> None:
    """Bars words that would end a run of `size` words that was said before."""
    windows = said.unfold(-1, size, 1)  # (b, R, t - size + 1, size)
    repeated = (windows[..., :-1] == said[..., None, said.shape[-1] - size + 1 :]).all(-1)
    choice.scatter_(-1, torch.where(repeated, windows[..., -1], PAD_ID), NEG_INF)
