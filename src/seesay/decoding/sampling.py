"""Words drawn from the whole distribution, in C where that can be."""

from pathlib import Path

import torch
from torch import Tensor

from seesay.compiled import compiled

_SOURCE = Path(__file__).with_name("drawing.c")


def sample_tokens(logits: Tensor, draws: Tensor, temperature: float) -> Tensor | None:
    """Returns words (...) of softmax(logits / temperature) at uniform numbers; None where C has nothing for it.

    torch's operations go over the scores some ten times, half of them in float64. A number that falls on the seam of
    two words to within float32 may give the neighbour of what they give.

    Args:
        logits: scores (..., V), -inf where a word is never said.
        draws: numbers from 0 to 1, (...).
        temperature: above 0.
    """
    if logits.device.type != "cpu" or (logits.dtype, draws.dtype) != (torch.float32, torch.float64):
        return None
    library = compiled(_SOURCE) if logits.numel() else None
    if library is None:
        return None
    logits, draws = logits.contiguous(), draws.contiguous()
    words, weights = torch.empty(draws.shape, dtype=torch.int64), torch.empty_like(logits)
    library.sample_tokens(logits, draws, temperature, draws.numel(), logits.shape[-1], weights, words)
    return words
