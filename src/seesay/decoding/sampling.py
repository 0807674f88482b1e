"""Sampling of tokens from logits, and the uniform random numbers it uses."""

import hashlib
from collections.abc import Sequence

import numpy as np

from seesay.config import DecodingOptions
from seesay.decoding.arrays import NEG_INF, Array, Floats, cast, namespace, put_along, stable_topk
from seesay.files import text_bytes


@np.errstate(invalid="ignore")  # rows in which no token is left
def sample(logits: Array, draws: Array, options: DecodingOptions) -> Array:
    """Return tokens (...) sampled from logits (..., V) by inverting the cumulative distribution at `draws` (...).

    The distribution is the softmax of logits / temperature, restricted to the `top_k` most probable tokens, then to the
    smallest set whose probability reaches `top_p` (Holtzman et al. 2020, eq. 2), then to the tokens at least `min_p`
    times as probable as the most probable one (Nguyen et al. 2024, eq. 1); renormalised after each.
    """
    xp = namespace(logits)
    scaled = cast(logits - xp.amax(logits, -1, keepdims=True), draws)
    scaled = scaled / options.temperature  # the maximum is 0, so that a low temperature does not overflow
    if 0 < options.top_k < scaled.shape[-1]:
        values, kept = stable_topk(scaled, options.top_k)
        scaled = xp.full_like(scaled, NEG_INF)
        put_along(scaled, kept, values)
    if options.top_p < 1:
        ordered, indices = stable_topk(_softmax(scaled), scaled.shape[-1])
        dropped = xp.cumsum(ordered, -1) - ordered >= options.top_p  # the tokens before it already reach top_p
        excluded = xp.zeros_like(dropped)
        put_along(excluded, indices, dropped)
        scaled = xp.where(excluded, NEG_INF, scaled)
    probabilities = _softmax(scaled)
    if options.min_p > 0:
        least = options.min_p * xp.amax(probabilities, -1, keepdims=True)
        probabilities = xp.where(probabilities < least, 0.0, probabilities)
    cumulative = xp.cumsum(probabilities, -1)
    # Scaled by the total so that rounding never puts a draw after the last token, and kept above zero so that none
    # selects a token of probability zero before the first.
    targets = (draws[..., None] * cumulative[..., -1:]).clip(xp.finfo(draws.dtype).tiny)
    indices = (cumulative < targets).sum(-1)
    return indices.clip(None, cumulative.shape[-1] - 1)


def _softmax(scores: Array) -> Array:
    xp = namespace(scores)
    weights = xp.exp(scores - xp.amax(scores, -1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def uniform_draws(names: Sequence[str], options: DecodingOptions) -> Floats:
    """Return uniform numbers (B, num_return_sequences, max_length + 1), a function of seed, name and sample number."""
    rows = [
        _generator(options.sampling_seed, name, number).random(options.max_length + 1)
        for name in names
        for number in range(options.num_return_sequences)
    ]
    return np.stack(rows).reshape(len(names), options.num_return_sequences, -1)


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    # The n-th sample does not depend on the number of samples.
    text = f"{seed}\n{name}\n{number}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text_bytes(text)).digest()[:16], "little"))
