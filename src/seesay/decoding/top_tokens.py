"""The most probable tokens at every position of captions that are already generated."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seesay.decoding.arrays import fill_tokens, logsumexp, stable_topk, to_device_of, to_host, upcast
from seesay.decoding.logits_processing import suppressed_tokens
from seesay.tokenizer import END_ID, START_ID

TopTokens = list[tuple[int, float]]
"""Tokens with the natural log-probability of each, most probable first."""


def find_top_tokens(
    decoder: Any, state: Any, captions: Sequence[Sequence[Sequence[int]]], count: int, *, allow_unk: bool = False
) -> list[list[list[TopTokens]]]:
    """Return the most probable tokens at each position of captions, with one pass of teacher forcing.

    The log-probabilities are the model's, conditioned on the previous tokens and normalised over the tokens that may be
    generated, as in `Hypothesis.log_probs`; they do not depend on the search.

    Args:
        decoder: anything with a `step`.
        state: the decoder's state of B images before the start token.
        captions: token ids without start and end, any number of captions per image.
        count: tokens per position, at most the number that may be generated.
        allow_unk: include the unknown token.

    Returns:
        Per image and caption, the most probable tokens at each of its T positions and then at its end.
    """
    rows = max(map(len, captions))
    length = 1 + max(len(tokens) for found in captions for tokens in found)
    fed = np.full((len(captions), rows, length), END_ID)
    fed[..., 0] = START_ID
    for image, found in enumerate(captions):
        for row, tokens in enumerate(found):
            fed[image, row, 1 : 1 + len(tokens)] = tokens
    like = next(iter(state.per_row.values()))
    state = state.pick(to_device_of(np.zeros((len(captions), rows), np.int64), like))
    suppressed = suppressed_tokens(allow_unk)
    values, places = [], []
    for step in range(length):
        output = decoder.step(to_device_of(fed[..., step], like), state)
        state, logits = output.state, upcast(output.logits)
        fill_tokens(logits, suppressed)
        best, tokens_at = stable_topk(logits, min(count, logits.shape[-1] - len(suppressed)))
        values.append(to_host(best) - logsumexp(logits)[..., None])
        places.append(to_host(tokens_at))
    probs, chosen = np.stack(values, 2).tolist(), np.stack(places, 2).tolist()
    return [
        [
            [list(zip(chosen[image][row][at], probs[image][row][at], strict=True)) for at in range(len(tokens) + 1)]
            for row, tokens in enumerate(found)
        ]
        for image, found in enumerate(captions)
    ]
