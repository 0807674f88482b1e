"""Attention of a decoder's query over the regions of a picture: one interface, four ways to score a region."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig

# Numbers of a temporary that stay in a processor's cache between two passes over them.
_CACHED = 1 << 18


class Attention(nn.Module):
    """What a recurrent decoder asks of its attention.

    The leading dimensions of all arguments broadcast: in training query (R, Q) with keys (R, N, A); in decoding
    query (B, K, Q) with keys (B, 1, N, A) that the K hypotheses of a picture share.

    Args:
        dropout: share of the weights dropped in training when the context is formed; the weights that are
            returned are whole.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns the picture's side of the score, (..., N, A), from memory (..., N, D); once a picture."""
        raise NotImplementedError

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns how well each region suits the query (..., Q), before the softmax, (..., N)."""
        raise NotImplementedError

    def weigh(self, query: Tensor, keys: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Returns the weights (..., N) alone, which sum to 1."""
        return masked_softmax(self.energies(query, keys), memory_mask)

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the attended context and the weights.

        Args:
            query: the decoder's state, (..., Q).
            keys: from `keys`, (..., N, A).
            memory: (..., N, D).
            memory_mask: (..., N), True = may attend; None = all.

        Returns:
            context (..., D) and weights (..., N) that sum to 1.
        """
        weights = self.weigh(query, keys, memory_mask)
        return weighted_sum(self.dropout(weights), memory), weights

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns what `search` takes as keys, (B, ...), from memory (B, N, D); once a picture."""
        return self.keys(memory)

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns how well each region suits each hypothesis of its picture, before the softmax, (B, K, N).

        Args:
            query: of hypotheses, (B, K, Q).
            keys: from `search_keys`, never repeated for the K hypotheses.
        """
        raise NotImplementedError

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, for the hypotheses of a search, without dropout's chances.

        Args:
            query: of hypotheses, (B, K, Q).
            keys: from `search_keys`, (B, ...), shared by the hypotheses of a picture.
            memory: (B, N, D).
            memory_mask: (B, N), True = may attend; None = all.

        Returns:
            context (B, K, D) and weights (B, K, N) that sum to 1.
        """
        mask = None if memory_mask is None else memory_mask.unsqueeze(1)
        weights = masked_softmax(self.search_energies(query, keys), mask)
        return torch.bmm(weights.to(memory.dtype), memory), weights


class AdditiveAttention(Attention):
    """Additive attention: score = v . tanh(W_m memory + W_q query).

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", eq. 6 and
    appendix A.1.2. The bias of the score is left out: the softmax takes it away again.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        attention_size: units A inside the tanh.
        dropout: see `Attention`.

    Attributes:
        in_parts: a search computes as many pictures at a time as the processor's cache holds. Off where the steps
            are written down as a graph, which must hold for any number of pictures.
    """

    def __init__(self, memory_size: int, query_size: int, attention_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.in_parts = True
        self.key = nn.Linear(memory_size, attention_size)
        self.query = nn.Linear(query_size, attention_size, bias=False)  # its bias would add to the key's
        self.score = nn.Linear(attention_size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns W_m memory, (..., N, A)."""
        projected: Tensor = self.key(memory)
        return projected

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the scores (..., N)."""
        scores: Tensor = self.score(torch.tanh(keys + self.query(query).unsqueeze(-2)))
        return scores.squeeze(-1)

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns exp(2 key) of the regions, (..., N, A) in float32 or better, for `search`; once a picture."""
        return _doubled_exponential(self.keys(memory))

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the scores (B, K, N) but for what is the same for all regions, in a fraction of the time.

        tanh(k + q) = 1 - 2 / (1 + exp(2 k) exp(2 q)), and the exponentials are taken of each side alone, before
        they meet: a multiplication and a reciprocal are left where tanh took most of a step's time. The 1 adds the
        same to every region's score, which the softmax takes away again.
        """
        factors = _doubled_exponential(self.query(query)).unsqueeze(2)  # (B, K, 1, A)
        one, weight = keys.new_ones(()), -2.0 * self.score.weight[0].to(keys.dtype)
        if not self.in_parts:
            return torch.addcmul(one, keys.unsqueeze(1), factors).reciprocal().matmul(weight)
        size = query.shape[1] * math.prod(keys.shape[1:])
        images = max(1, _CACHED // max(1, size)) if keys.device.type == "cpu" else max(1, len(keys))
        # One piece of memory for all parts: to get a fresh one from the system takes longer than to fill it.
        room = None if torch.is_grad_enabled() else keys.new_empty(images * size)
        energies = []
        for begin in range(0, len(keys), images):
            part, factor = keys[begin : begin + images].unsqueeze(1), factors[begin : begin + images]
            shape = (len(part), query.shape[1], *keys.shape[1:])
            out = None if room is None else room[: math.prod(shape)].view(shape)
            energies.append(torch.addcmul(one, part, factor, out=out).reciprocal_().matmul(weight))
        return torch.cat(energies)


class DotAttention(Attention):
    """Multiplicative attention without weights: score = memory . query, so that D must equal Q.

    Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation", section 3.1, `dot`.
    """

    def keys(self, memory: Tensor) -> Tensor:
        """Returns the memory itself, (..., N, D)."""
        return memory

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the scores (..., N)."""
        return torch.matmul(keys, query.to(keys.dtype).unsqueeze(-1)).squeeze(-1)

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the scores (B, K, N)."""
        return torch.bmm(query.to(keys.dtype), keys.transpose(1, 2))


class GeneralAttention(DotAttention):
    """Multiplicative attention through a matrix: score = (W memory) . query.

    Luong et al. 2015, section 3.1, `general`. The matrix is applied to the memory, once a picture.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        dropout: see `Attention`.
    """

    def __init__(self, memory_size: int, query_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.key = nn.Linear(memory_size, query_size, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns W memory, (..., N, Q)."""
        projected: Tensor = self.key(memory)
        return projected


class MultiHeadAttention(Attention):
    """Scaled dot-product attention in H heads, each with its own view of regions and query.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2. The weights that are returned are the mean
    over the heads.

    Args:
        memory_size: width D of a region, and of the context.
        query_size: width of the decoder's query.
        attention_size: width A of all heads together.
        heads: H, a divisor of A.
        dropout: see `Attention`.
    """

    def __init__(
        self, memory_size: int, query_size: int, attention_size: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__(dropout)
        self.heads = heads
        self.key_value = nn.Linear(memory_size, 2 * attention_size)
        self.query = nn.Linear(query_size, attention_size)
        self.merge = nn.Linear(attention_size, memory_size)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns the keys, then the values, (..., N, 2A)."""
        projected: Tensor = self.key_value(memory)
        return projected

    def weigh(self, query: Tensor, keys: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Returns the weights (..., N), the mean over the heads."""
        return self._by_head(query, keys, memory_mask)[0].mean(-2)

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the context (..., D) and the mean weights (..., N); `memory` itself is in the keys already."""
        weights, values = self._by_head(query, keys, memory_mask)
        heads = torch.matmul(self.dropout(weights).to(values.dtype).unsqueeze(-2), values).squeeze(-2)
        context: Tensor = self.merge(heads.flatten(-2))
        return context, weights.mean(-2)

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns the keys beside the values of each head, (B, H, N, 2A / H)."""
        halves = self.keys(memory).chunk(2, dim=-1)
        return torch.cat([split_heads(half, self.heads) for half in halves], dim=-1)

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the context (B, K, D) and the mean weights (B, K, N), every head a picture of its own."""
        key, value = keys.flatten(0, 1).chunk(2, dim=-1)  # (B * H, N, A / H)
        asked = split_heads(self.query(query), self.heads).flatten(0, 1)  # (B * H, K, A / H)
        scores = torch.bmm(asked, key.transpose(1, 2)) / key.shape[-1] ** 0.5
        by_head = torch.unflatten(scores, 0, (-1, self.heads))  # (B, H, K, N)
        weights = masked_softmax(by_head, None if memory_mask is None else memory_mask[:, None, None])
        heads = torch.bmm(weights.flatten(0, 1).to(value.dtype), value)
        context: Tensor = self.merge(torch.unflatten(heads, 0, (-1, self.heads)).transpose(1, 2).flatten(2))
        return context, weights.mean(1)

    def _by_head(self, query: Tensor, keys: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns weights (..., H, N) and values (..., H, N, A / H)."""
        key, value = (split_heads(half, self.heads) for half in keys.chunk(2, dim=-1))
        asked = torch.unflatten(self.query(query), -1, (self.heads, -1)).unsqueeze(-1)  # (..., H, A / H, 1)
        scores = torch.matmul(key, asked).squeeze(-1) / key.shape[-1] ** 0.5
        return masked_softmax(scores, None if memory_mask is None else memory_mask.unsqueeze(-2)), value


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """Returns (..., N, A) as (..., H, N, A / H)."""
    return torch.unflatten(tensor, -1, (heads, -1)).transpose(-2, -3)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Returns softmax over the last dimension of scores (..., N) where the mask is True; 0 elsewhere."""
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1)


def weighted_sum(weights: Tensor, memory: Tensor) -> Tensor:
    """Returns the context (..., D) of weights (..., N) over memory (..., N, D)."""
    return torch.matmul(weights.to(memory.dtype).unsqueeze(-2), memory).squeeze(-2)


def build_attention(config: ModelConfig, query_size: int) -> Attention:
    """Returns the attention that `model.attention_score` names, for queries (..., Q) of the given width."""
    memory_size, units, dropout = config.projection_size, config.attention_size, config.attention_dropout
    builders: dict[str, Callable[[], Attention]] = {
        "additive": lambda: AdditiveAttention(memory_size, query_size, units, dropout),
        "dot": lambda: DotAttention(dropout),
        "general": lambda: GeneralAttention(memory_size, query_size, dropout),
        "multihead": lambda: MultiHeadAttention(memory_size, query_size, units, config.heads, dropout),
    }
    return builders[config.attention_score]()


def _doubled_exponential(values: Tensor) -> Tensor:
    """Returns exp(2 x) in float32 or better, of x clamped to where that is a number: 43, or 350 in float64.

    A side beyond the bound counts as the bound, which tanh(k + q) = +-1 does not show unless the other side is near
    or beyond the opposite bound: k = -60 and q = 50 give tanh(0), not tanh(-10). Nothing cheap mends that, as the
    exponents can no longer be added once each is taken alone.
    """
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    bound = 43.0 if wide.dtype == torch.float32 else 350.0
    return torch.exp(2.0 * wide.clamp(-bound, bound))
