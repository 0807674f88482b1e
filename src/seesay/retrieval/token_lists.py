"""Captions of different lengths as one array of token ids."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class TokenLists(NamedTuple):
    """Captions as token ids, without start and end tokens.

    Attributes:
        tokens: the ids of all captions, in order, (T,).
        lengths: number of tokens of each caption, (C,).
    """

    tokens: Ints
    lengths: Ints

    @classmethod
    def pack(cls, captions: Sequence[Sequence[int]]) -> "TokenLists":
        """Return captions as one array."""
        lengths = np.fromiter(map(len, captions), np.int64, len(captions))
        return cls(np.fromiter(chain.from_iterable(captions), np.int64, int(lengths.sum())), lengths)

    def unpack(self) -> list[list[int]]:
        """Return the captions as lists."""
        return (
            [part.tolist() for part in np.split(self.tokens, np.cumsum(self.lengths)[:-1])] if len(self.lengths) else []
        )

    def take(self, captions: Ints) -> "TokenLists":
        """Return the captions at some positions (C',)."""
        lengths = self.lengths[captions]
        first = np.cumsum(self.lengths) - self.lengths
        return TokenLists(self.tokens[ranges(first[captions], lengths)], lengths)


def ranges(first: Ints, lengths: Ints) -> Ints:
    """Return first, first + 1, ... of each of several ranges, concatenated.

    Args:
        first: first number of each range, (R,).
        lengths: numbers of each range, (R,).
    """
    begin = np.cumsum(lengths) - lengths
    return np.repeat(first - begin, lengths) + np.arange(int(lengths.sum()))
