"""The open hypotheses of a search."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.decoding.arrays import Floats, Ints


@dataclass(frozen=True)
class TokenHistory:
    """The tokens of hypotheses (b, R) so far.

    Attributes:
        tokens: (b, R, t).
        log_probs: the model's log-probabilities, (b, R, t).
        attention: attention weights, (b, R, t, N); None if not requested or if the decoder has none.
    """

    tokens: Ints
    log_probs: Floats
    attention: NDArray[np.float32] | None

    def pick(self, rows: Any) -> "TokenHistory":
        """Return the histories at an index of the first two axes."""
        maps = None if self.attention is None else self.attention[rows]
        return TokenHistory(self.tokens[rows], self.log_probs[rows], maps)

    def score(self, log_probs: Floats, attention: NDArray[np.float32] | None) -> "TokenHistory":
        """Return the histories with the log-probability (b, R) and attention (b, R, N) of one more token."""
        maps = None
        if attention is not None:
            latest = attention[:, :, None]
            maps = latest if self.attention is None else np.concatenate([self.attention, latest], 2)
        return TokenHistory(self.tokens, np.concatenate([self.log_probs, log_probs[..., None]], -1), maps)

    def append(self, tokens: Ints) -> "TokenHistory":
        """Return the histories with one more token, (b, R)."""
        return replace(self, tokens=np.concatenate([self.tokens, tokens[..., None]], -1))


@dataclass(frozen=True)
class BeamState:
    """The open hypotheses (b, R) of some images, all with the same number of tokens.

    Attributes:
        images: index of each image in the batch, (b,).
        state: the decoder's state before `tokens`.
        tokens: last token of each hypothesis, (b, R).
        sums: sum of penalised log-probabilities, (b, R); -inf for a row without an open hypothesis.
        slots: number of hypotheses that each group may still finish, (b, G).
        history: tokens, log-probabilities and attention so far.
        automaton_states: state of the phrase automaton, (b, R); None without one.
        nodes: number in the trace, (b, R); None without one.
        samples: number of the sample that each row is, (b, R).
    """

    images: Ints
    state: Any
    tokens: Ints
    sums: Floats
    slots: Ints
    history: TokenHistory
    automaton_states: Ints | None
    nodes: Ints | None
    samples: Ints

    @property
    def step(self) -> int:
        """Number of tokens generated so far."""
        return int(self.history.tokens.shape[-1])

    def select(self, images: Ints, rows: Ints) -> "BeamState":
        """Return the images at positions `images` (b',) with the hypotheses `rows` (b', R'); `state` is unchanged."""
        at = (images[:, None], rows)
        return replace(
            self,
            images=self.images[images],
            tokens=self.tokens[at],
            sums=self.sums[at],
            slots=self.slots[images],
            history=self.history.pick(at),
            automaton_states=None if self.automaton_states is None else self.automaton_states[at],
            nodes=None if self.nodes is None else self.nodes[at],
            samples=self.samples[at],
        )
