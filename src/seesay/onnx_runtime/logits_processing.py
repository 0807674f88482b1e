"""A step's scores: the model's log-probabilities, and which words the options and rules leave to be said."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.constraints import Phrase, TokenConstraints
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID

NEG_INF = -np.inf

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Scores(NamedTuple):
    """Scores of the words that may follow, for hypotheses (b, R); as `seesay.decoding.logits_processing.Scores`.

    Attributes:
        model: the decoder's logits (b, R, V), -inf where the token is no word to be said.
        total: their logarithm of the sum of exponentials, (b, R, 1); `model - total` are the log-probabilities.
        choice: what words are chosen by, (b, R, V): `model` after penalties, -inf where a rule bars the word.
    """

    model: Floats
    total: Floats
    choice: Floats

    def log_probs(self, words: Ints, parents: Ints) -> Floats:
        """Returns the model's log-probability (b, K) of `words` after the hypotheses `parents`, (b, K) each."""
        batch = np.arange(len(words))[:, None]
        found: Floats = self.model[batch, parents, words] - self.total[batch, parents, 0]
        return found

    def end_log_probs(self) -> Floats:
        """Returns the model's log-probability of the end after every hypothesis, (b, R)."""
        found: Floats = self.model[..., END_ID] - self.total[..., 0]
        return found


class Scorer:
    """Applies one set of options and rules, step by step.

    Args:
        options: with the maximum length filled in.
        rules: phrases in ids; of them the banned ones are read.
    """

    def __init__(self, options: DecodingOptions, rules: TokenConstraints) -> None:
        self.options = options
        self._silent = [PAD_ID, START_ID] if options.allow_unk else [PAD_ID, START_ID, UNK_ID]
        self._banned = rules.banned

    def __call__(self, logits: Floats, said: Ints) -> Scores:
        """Returns the scores of the next word.

        Args:
            logits: of the decoder, (b, R, V); overwritten.
            said: words so far, (b, R, t).
        """
        model, options, step = logits, self.options, said.shape[-1]
        model[..., self._silent] = NEG_INF
        total = _log_sum_exp(model)
        choice = model.copy()
        choice[~np.isfinite(total[..., 0])] = NEG_INF  # of scores that are no numbers no word is the best
        if options.repetition_penalty > 1 and step > 0:
            _penalise(choice, total, said, options.repetition_penalty)
        for phrase in self._banned:
            _ban(choice, said, phrase)
        if options.no_repeat_ngram_size and step >= options.no_repeat_ngram_size:
            _block(choice, said, options.no_repeat_ngram_size)
        if step < options.min_length:
            choice[..., END_ID] = NEG_INF
        return Scores(model, total, choice)


def _log_sum_exp(logits: Floats) -> Floats:
    best = logits.max(-1, keepdims=True)
    total: Floats = best + np.log(np.exp(logits - best).sum(-1, keepdims=True))
    return total


def _penalise(choice: Floats, total: Floats, said: Ints, penalty: float) -> None:
    """Multiplies the log-probabilities of the words `said` (b, R, t)."""
    changed = (np.take_along_axis(choice, said, -1) - total) * penalty + total
    np.put_along_axis(choice, said, changed, -1)


def _ban(choice: Floats, said: Ints, phrase: Phrase) -> None:
    """Bars the last word of a phrase where the words before it have been said."""
    before, last = phrase[:-1], phrase[-1]
    if len(before) <= said.shape[-1]:
        begun = (said[..., said.shape[-1] - len(before) :] == before).all(-1)
        choice[..., last][begun] = NEG_INF


def _block(choice: Floats, said: Ints, size: int) -> None:
    """Bars words that would end a run of `size` words that was said before."""
    windows = np.lib.stride_tricks.sliding_window_view(said, size, axis=-1)  # (b, R, t - size + 1, size)
    repeated = (windows[..., :-1] == said[..., None, said.shape[-1] - size + 1 :]).all(-1)
    np.put_along_axis(choice, np.where(repeated, windows[..., -1], PAD_ID), NEG_INF, -1)
