"""What the processes of one training bring together: each validates its own pictures, all read the same score."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from seesay.metrics import CaptionMetrics


def gather_captions(metrics: CaptionMetrics) -> CaptionMetrics:
    """Returns the captions of all ranks in the order of the ranks; in one process, what was given.

    Samplers fill up the last batch with pictures of the first, so that a picture may come from several ranks: it
    counts once.
    """
    if _ranks() == 1:
        return metrics
    mine = (metrics.hypotheses, metrics.references, metrics.ids)
    theirs: list[Any] = [None] * _ranks()
    dist.all_gather_object(theirs, mine)
    whole = CaptionMetrics(metrics.tokenization, metrics.metrics)
    seen: set[str] = set()
    for hypotheses, references, ids in theirs:
        fresh = [place for place, name in enumerate(ids) if name not in seen]
        seen.update(ids)
        whole.update([hypotheses[p] for p in fresh], [references[p] for p in fresh], [ids[p] for p in fresh])
    return whole


def sum_over_ranks(values: Tensor) -> Tensor:
    """Returns the sum over all ranks of a tensor of any shape; in one process, what was given."""
    if _ranks() == 1:
        return values
    total = values.clone()
    if dist.get_backend() == "nccl":
        total = total.to(torch.device("cuda", torch.cuda.current_device()))
    dist.all_reduce(total)
    return total.to(values.device)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
