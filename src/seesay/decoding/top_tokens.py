"""What else could have been said: the likeliest words at every place of captions that are there already."""

from collections.abc import Sequence

import torch

from seesay.decoding.logits_processing import NEG_INF, suppressed_tokens, widened
from seesay.decoding.stepping import StepInput, Steps
from seesay.models.protocol import DecoderState
from seesay.tokenizer import END_ID, START_ID

TopTokens = list[tuple[int, float]]
"""Tokens with the natural log-probability of each, likeliest first."""


def find_top_tokens(
    state: DecoderState, captions: Sequence[Sequence[Sequence[int]]], count: int, *, allow_unk: bool = False
) -> Steps[list[list[list[TopTokens]]]]:
    """Asks for the steps along given captions, and returns the likeliest tokens at each of their places.

    Log-probabilities are the model's own, given the words before, over every word that may be said: the numbers of
    `Hypothesis.log_probs`, whatever the search was.

    Args:
        state: the decoder's, of B images, before the start token.
        captions: token ids without start and end, of each of the images, as many captions as it has.
        count: of tokens at a place; fewer where the vocabulary has no more.
        allow_unk: may the unknown word be among them.

    Returns:
        Of each image and caption, for each of its T words and then for its end, the likeliest tokens.
    """
    rows = max(map(len, captions))
    length = 1 + max(len(tokens) for found in captions for tokens in found)
    fed = torch.full((len(captions), rows, length), END_ID)
    fed[..., 0] = START_ID
    for image, found in enumerate(captions):
        for row, tokens in enumerate(found):
            fed[image, row, 1 : 1 + len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    device = next(iter(state.per_row.values())).device
    fed = fed.to(device)
    state = state.pick(torch.zeros((len(captions), rows), dtype=torch.int64, device=device))
    silent = suppressed_tokens(allow_unk)
    values, places = [], []
    for words in fed.unbind(-1):
        output = yield StepInput(words, state)
        state = output.state
        logits = widened(output.logits)
        logits[..., silent] = NEG_INF
        best = logits.log_softmax(-1).topk(min(count, logits.shape[-1] - len(silent)), dim=-1)
        values.append(best.values)
        places.append(best.indices)
    probs, tokens_at = torch.stack(values, 2).tolist(), torch.stack(places, 2).tolist()
    return [
        [
            [list(zip(tokens_at[image][row][at], probs[image][row][at], strict=True)) for at in range(len(tokens) + 1)]
            for row, tokens in enumerate(found)
        ]
        for image, found in enumerate(captions)
    ]
