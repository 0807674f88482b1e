"""Attention of a decoder's queries over the regions of an image: one interface, four score functions."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.kernels.additive_attention import additive_attention, exp_twice
from seesay.models.dropout import Dropout
from seesay.models.loop import StepLinear
from seesay.models.packing import PackingIndex
from seesay.models.products import Linear


@dataclass(frozen=True)
class Regions:
    """The regions of a batch of images, and the image of each query.

    Attributes:
        keys: from `Attention.prepare`, (B, ...).
        memory: from `Attention.prepare`, (B, N, D).
        mask: (B, N), True = attend; None: attend to all regions.
        rows: index of the R queries by image.
    """

    keys: Tensor
    memory: Tensor
    mask: Tensor | None
    rows: PackingIndex

    def first(self, count: int) -> "Regions":
        """Return the regions for the first `count` queries."""
        return replace(self, rows=self.rows.first(count))


class Attention(nn.Module):
    """Base class of the attention of recurrent decoders: maps queries (R, Q) and regions to contexts.

    Args:
        dropout: dropout probability of the weights when training computes the context; the returned weights are
            without dropout.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)

    def prepare(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys (B, ...) and the memory (B, N, D) for `Regions`; computed once per image."""
        raise NotImplementedError

    def weigh(self, query: Tensor, regions: Regions) -> Tensor:
        """Return the weights (R, N) of queries (R, Q), which sum to 1."""
        raise NotImplementedError

    def context(self, weights: Tensor, regions: Regions) -> Tensor:
        """Return the context (R, D) of weights (R, N)."""
        shares = regions.rows.pad(weights.to(regions.memory.dtype))
        return regions.rows.pack(torch.bmm(shares, regions.memory))

    def forward(self, query: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Return the context (R, D) and the weights (R, N) of queries (R, Q)."""
        weights = self.weigh(query, regions)
        return self.context(self.dropout(weights), regions), weights


class AdditiveAttention(Attention):
    """Additive attention: score = v . tanh(W_m memory + W_q query).

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", eq. 6 and
    appendix A.1.2. The score has no bias, which would have no effect on the softmax.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        attention_size: units A inside the tanh.
        dropout: see `Attention`.
    """

    def __init__(self, memory_size: int, query_size: int, attention_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.key = Linear(memory_size, attention_size)
        self.query = StepLinear(query_size, attention_size, bias=False)  # its bias would add to the key's
        self.score = Linear(attention_size, 1, bias=False)

    def prepare(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return exp(2 W_m memory), (B, N, A) in float32 or wider, and the memory in the same precision."""
        keys = exp_twice(self.key(memory))
        return keys, memory.to(keys.dtype)

    def weigh(self, query: Tensor, regions: Regions) -> Tensor:
        """Return the weights (R, N)."""
        return self._attend(query, regions)[1]

    def forward(self, query: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Return the context (R, D) and the weights (R, N)."""
        if self.dropout.training and self.dropout.p > 0:
            return super().forward(query, regions)
        return self._attend(query, regions)

    def _attend(self, query: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        factors = exp_twice(self.query(query)).to(regions.keys.dtype)
        score = self.score.weight.flatten().to(regions.keys.dtype)
        return additive_attention(regions.keys, factors, score, regions.memory, regions.rows.row, regions.mask)


class DotAttention(Attention):
    """Multiplicative attention without weights: score = memory . query, with D = Q.

    Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation", section 3.1, `dot`.
    """

    def prepare(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory itself as keys, (B, N, D), and the memory."""
        return memory, memory

    def weigh(self, query: Tensor, regions: Regions) -> Tensor:
        """Return the weights (R, N)."""
        queries = regions.rows.pad(query.to(regions.keys.dtype))
        scores = torch.bmm(queries, regions.keys.transpose(1, 2))  # (B, C, N)
        mask = None if regions.mask is None else regions.mask.unsqueeze(1)
        return regions.rows.pack(masked_softmax(scores, mask))


class GeneralAttention(DotAttention):
    """Multiplicative attention with a matrix: score = (W memory) . query.

    Luong et al. 2015, section 3.1, `general`. The matrix is applied to the memory, once per image.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        dropout: see `Attention`.
    """

    def __init__(self, memory_size: int, query_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.key = Linear(memory_size, query_size, bias=False)

    def prepare(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return W memory, (B, N, Q), and the memory."""
        return self.key(memory), memory


class MultiHeadAttention(Attention):
    """Scaled dot-product attention with H heads.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2. The returned weights are the mean over the heads.

    Args:
        memory_size: width D of a region, and of the context.
        query_size: width of the decoder's query.
        attention_size: total width A of the heads.
        heads: H, a divisor of A.
        dropout: see `Attention`.
    """

    def __init__(
        self, memory_size: int, query_size: int, attention_size: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__(dropout)
        self.heads = heads
        self.key_value = Linear(memory_size, 2 * attention_size)
        self.query = StepLinear(query_size, attention_size)
        self.merge = StepLinear(attention_size, memory_size)

    def prepare(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the concatenated keys and values of each head, (B, H, N, 2A / H), and the memory."""
        halves = self.key_value(memory).chunk(2, dim=-1)
        return torch.cat([split_heads(half, self.heads) for half in halves], dim=-1), memory

    def weigh(self, query: Tensor, regions: Regions) -> Tensor:
        """Return the weights (R, N), the mean over the heads."""
        return regions.rows.pack(self._weigh_heads(query, regions).mean(1))

    def forward(self, query: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Return the context (R, D) and the mean weights (R, N)."""
        weights = self._weigh_heads(query, regions)
        value = regions.keys.chunk(2, dim=-1)[1]
        heads = torch.matmul(self.dropout(weights).to(value.dtype), value).transpose(1, 2).flatten(2)  # (B, C, A)
        context: Tensor = self.merge(regions.rows.pack(heads))
        return context, regions.rows.pack(weights.mean(1))

    def _weigh_heads(self, query: Tensor, regions: Regions) -> Tensor:
        """Return the weights of each head, (B, H, C, N)."""
        key = regions.keys.chunk(2, dim=-1)[0]
        queries = split_heads(regions.rows.pad(self.query(query)), self.heads).to(key.dtype)  # (B, H, C, A / H)
        scores = torch.matmul(queries, key.transpose(-1, -2)) / key.shape[-1] ** 0.5
        return masked_softmax(scores, None if regions.mask is None else regions.mask[:, None, None])


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """Return (..., N, A) as (..., H, N, A / H)."""
    return torch.unflatten(tensor, -1, (heads, -1)).transpose(-2, -3)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax over the last dimension of scores (..., N) where the mask is True; 0 elsewhere."""
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1)


def build_attention(config: ModelConfig, query_size: int) -> Attention:
    """Return the attention of `model.attention_score` for queries (..., Q) of width `query_size`."""
    memory_size, dropout = config.projection_size, config.attention_dropout
    builders: dict[str, Callable[[], Attention]] = {
        "additive": lambda: AdditiveAttention(memory_size, query_size, config.attention_size, dropout),
        "dot": lambda: DotAttention(dropout),
        "general": lambda: GeneralAttention(memory_size, query_size, dropout),
        "multihead": lambda: MultiHeadAttention(
            memory_size, query_size, config.attention_size, config.num_heads, dropout
        ),
    }
    return builders[config.attention_score]()
