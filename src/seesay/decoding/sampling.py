"""Sampling of tokens from logits, and the uniform numbers that decide it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seesay.config import DecodingOptions
from seesay.decoding.arrays import NEG_INF, Array, Floats, cast, is_numpy, namespace, put_along, stable_topk
from seesay.files import text_bytes

_SOURCE = Path(__file__).with_name("sampling.c")


@np.errstate(invalid="ignore")  # rows in which no token is left
def sample(logits: Array, draws: Array, options: DecodingOptions) -> Array:
    """Return tokens (...) sampled from logits (..., V) by inverting the cumulative distribution at `draws` (...).

    The distribution is the softmax of logits / temperature; then only the `top_k` most probable tokens are kept, of
    these the fewest that make up `top_p` (Holtzman et al. 2020, eq. 2), and of these the ones at least `min_p` times
    as probable as the most probable (Nguyen et al. 2024, eq. 1), each renormalised.
    """
    if options.top_k == 0 and options.top_p >= 1 and options.min_p == 0:
        tokens = sample_natively(logits, draws, options.temperature)
        if tokens is not None:
            return tokens
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


def sample_natively(logits: Array, draws: Array, temperature: float) -> Array | None:
    """Return tokens (...) of softmax(logits / temperature) at uniform numbers; None where C does not serve them.

    torch's operations read the scores some ten times, half of them in float64. A number on the boundary of two
    tokens to within float32 may give the neighbour of what they give.

    Args:
        logits: scores (..., V), -inf where a token is never generated.
        draws: numbers from 0 to 1, (...).
        temperature: above 0.
    """
    if is_numpy(logits) or logits.device.type != "cpu":
        return None
    torch = namespace(logits)
    if (logits.dtype, draws.dtype) != (torch.float32, torch.float64):
        return None
    from seesay.compiled import compiled  # imports torch, which a search over NumPy arrays does without

    library = compiled(_SOURCE) if logits.numel() else None
    if library is None:
        return None
    logits, draws = logits.contiguous(), draws.contiguous()
    tokens, weights = torch.empty(draws.shape, dtype=torch.int64), torch.empty_like(logits)
    library.sample_tokens(logits, draws, temperature, draws.numel(), logits.shape[-1], weights, tokens)
    return tokens


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
