"""Sampling of tokens from logits, and the uniform numbers that decide it."""

import hashlib
from collections.abc import Sequence

import numpy as np

from seesay.config import DecodingOptions
from seesay.decoding.arrays import NEG_INF, Array, Floats, cast, namespace, put_along, stable_topk
from seesay.files import text_bytes


@np.errstate(invalid="ignore")  # rows in which no token is left
def sample(logits: Array, draws: Array, options: DecodingOptions) -> Array:
    """Return tokens (...) sampled from logits (..., V) by inverting the cumulative distribution at `draws` (...).

    The distribution is the softmax of logits / temperature; then only the `top_k` most probable tokens are kept, of
    these the fewest that make up `top_p` (Holtzman et al. 2020, eq. 2), and of these the ones at least `min_p` times
    as probable as the most probable (Nguyen et al. 2024, eq. 1), each renormalised.
    """
    xp = namespace(logits)
    scaled = cast(logits - xp.amax(logits, -1, keepdims=True), draws)
    scaled = scaled / options.temperature  # 0 at the best: no temperature is too low
    if 0 < options.top_k < scaled.shape[-1]:
        values, kept = stable_topk(scaled, options.top_k)
        scaled = xp.full_like(scaled, NEG_INF)
        put_along(scaled, kept, values)
    if options.top_p < 1:
        ordered, places = stable_topk(_softmax(scaled), scaled.shape[-1])
        dropped = xp.cumsum(ordered, -1) - ordered >= options.top_p  # the tokens before it make up enough already
        barred = xp.zeros_like(dropped)
        put_along(barred, places, dropped)
        scaled = xp.where(barred, NEG_INF, scaled)
    probabilities = _softmax(scaled)
    if options.min_p > 0:
        least = options.min_p * xp.amax(probabilities, -1, keepdims=True)
        probabilities = xp.where(probabilities < least, 0.0, probabilities)
    cumulative = xp.cumsum(probabilities, -1)
    # Scaled by the total so that rounding never leaves a draw beyond the last token, and above zero so that none
    # comes before the first.
    wanted = (draws[..., None] * cumulative[..., -1:]).clip(xp.finfo(draws.dtype).tiny)
    places = (cumulative < wanted).sum(-1)
    return places.clip(None, cumulative.shape[-1] - 1)


def _softmax(scores: Array) -> Array:
    xp = namespace(scores)
    weights = xp.exp(scores - xp.amax(scores, -1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def uniform_draws(names: Sequence[str], options: DecodingOptions) -> Floats:
    """Return uniform numbers (B, num_return_sequences, max_length + 1) that depend on seed, name and sample alone."""
    rows = [
        _generator(options.sampling_seed, name, number).random(options.max_length + 1)
        for name in names
        for number in range(options.num_return_sequences)
    ]
    return np.stack(rows).reshape(len(names), options.num_return_sequences, -1)


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    # The n-th sample is the same however many there are.
    text = f"{seed}\n{name}\n{number}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text_bytes(text)).digest()[:16], "little"))
