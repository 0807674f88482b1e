"""Reductions of scores over the vocabulary, which a search needs at every step."""

import torch
from torch import Tensor

from seesay.kernels.native import call, native


def logsumexp(scores: Tensor) -> Tensor:
    """Return log(sum(exp(scores))) over the last axis, (...), of scores (..., V), without gradient."""
    library = native(scores)
    if library is None:
        return scores.logsumexp(-1)
    totals = scores.new_empty(scores.shape[:-1])
    call(library.vocabulary_logsumexp, scores, totals.numel(), scores.shape[-1], totals)
    return totals


def stable_topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest scores of (..., V), and their indices, (..., count) each, best first.

    Equal scores keep their order; `torch.topk` returns any of them.

    Args:
        scores: (..., V).
        count: at most V.
    """
    library = native(scores)
    if library is None or scores.dtype != torch.float32:
        return reference_topk(scores, count)
    shape = (*scores.shape[:-1], count)
    found, indices = scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)
    call(library.vocabulary_topk, scores, scores.numel() // scores.shape[-1], scores.shape[-1], count, found, indices)
    return found, indices


def reference_topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute `stable_topk` in plain torch."""
    size = scores.shape[-1]
    found, indices = scores.topk(min(count + 1, size), dim=-1)  # one more, to detect a tie at the boundary
    if not bool(((found[..., 1:] == found[..., :-1]) & torch.isfinite(found[..., 1:])).any()):
        return found[..., :count], indices[..., :count]
    least = found[..., count - 1 : count]
    above, equal = scores > least, scores == least
    kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    order_key = torch.arange(size, 0, -1, device=scores.device)
    indices = torch.where(kept, order_key, 0).topk(count, dim=-1).indices
    found, order = scores.gather(-1, indices).sort(dim=-1, descending=True, stable=True)
    return found, indices.gather(-1, order)
