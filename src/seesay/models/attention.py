"""Attention of a decoder's query over the regions of an image: one interface, four ways to score a region."""

from collections.abc import Callable

import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.additive import AdditiveGradient, additive_gradient, doubled_exponential, energies
from seesay.models.dropout import Dropout
from seesay.models.kernels import kernels_for
from seesay.models.loop import DeferredGradients, DeferredLinear, DeferredModule, ImageGradient
from seesay.models.products import Linear


class Attention(DeferredModule):
    """Base class of the attention of recurrent decoders.

    `forward` is the definition, for any leading dimensions that broadcast. Two faster paths compute the same: `enter`,
    `loop_weigh` and `loop_context` in the time loop of training, on the tensors that `enter` registers; `search_keys`
    and `search` in decoding.

    Args:
        dropout: dropout probability of the weights when training computes the context; the returned weights are
            without dropout.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)

    def keys(self, memory: Tensor) -> Tensor:
        """Return the keys (..., N, A) of memory (..., N, D), computed once per image."""
        raise NotImplementedError

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (..., N) of the regions for a query (..., Q), before the softmax."""
        raise NotImplementedError

    def weigh(self, query: Tensor, keys: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Return the weights (..., N), which sum to 1."""
        return masked_softmax(self.energies(query, keys), memory_mask)

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the attended context and the weights.

        Args:
            query: the decoder's state, (..., Q).
            keys: from `keys`, (..., N, A).
            memory: (..., N, D).
            memory_mask: (..., N), True = attend; None: attend to all regions.

        Returns:
            context (..., D) and weights (..., N) that sum to 1.
        """
        weights = self.weigh(query, keys, memory_mask)
        return weighted_sum(self.dropout(weights), memory), weights

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Register the per-image tensors of the time loop, such as memory (B, N, D)."""
        loop.add(self, "memory", ImageGradient(memory, loop))

    def loop_energies(self, query: Tensor) -> Tensor:
        """Return the energies (R, N) of the running captions' queries (R, Q), up to a constant per row."""
        raise NotImplementedError

    def loop_weigh(self, query: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Return the weights (R, N) of the running captions."""
        return masked_softmax(self.loop_energies(query), memory_mask)

    def loop_context(self, weights: Tensor) -> Tensor:
        """Return the context (R, D) of weights (R, N) of the running captions."""
        return self._loop_term("memory").product(weights)

    def loop_attend(self, query: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output of `forward` for the running captions."""
        weights = self.loop_weigh(query, memory_mask)
        return self.loop_context(self.dropout(weights)), weights

    def _loop_term(self, name: str) -> ImageGradient:
        assert self.loop is not None
        return self.loop.term(self, name, ImageGradient)

    def search_keys(self, memory: Tensor) -> Tensor:
        """Return the keys (B, ...) for `search` of memory (B, N, D), computed once per image."""
        return self.keys(memory)

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (B, K, N) of the regions for each hypothesis of their image, before the softmax.

        Args:
            query: queries of the hypotheses, (B, K, Q).
            keys: from `search_keys`, shared by the K hypotheses.
        """
        raise NotImplementedError

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output of `forward` for the hypotheses of a search, without dropout.

        Args:
            query: queries of the hypotheses, (B, K, Q).
            keys: from `search_keys`, (B, ...), shared by the hypotheses of an image.
            memory: (B, N, D).
            memory_mask: (B, N), True = attend; None: attend to all regions.

        Returns:
            context (B, K, D) and weights (B, K, N) that sum to 1.
        """
        mask = None if memory_mask is None else memory_mask.unsqueeze(1)
        weights = masked_softmax(self.search_energies(query, keys), mask)
        return torch.bmm(weights.to(memory.dtype), memory), weights


class AdditiveAttention(Attention):
    """Additive attention: score = v . tanh(W_m memory + W_q query).

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", eq. 6 and
    appendix A.1.2. The score has no bias, which would have no effect on the softmax.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        attention_size: units A inside the tanh.
        dropout: see `Attention`.

    Attributes:
        in_parts: a search processes as many images at a time as fit in the CPU's cache. Off in graph export, which
            must work for any number of images.
    """

    def __init__(self, memory_size: int, query_size: int, attention_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.in_parts = True
        self.key = Linear(memory_size, attention_size)
        self.query = DeferredLinear(query_size, attention_size, bias=False)  # its bias would add to the key's
        self.score = Linear(attention_size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Return W_m memory, (..., N, A)."""
        projected: Tensor = self.key(memory)
        return projected

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (..., N)."""
        scores: Tensor = self.score(torch.tanh(keys + self.query(query).unsqueeze(-2)))
        return scores.squeeze(-1)

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Register the memory, the keys and the score's weights."""
        super().enter(memory, loop)
        loop.add(self, "keys", additive_gradient(self.keys(memory), self.score.weight, loop))

    def loop_energies(self, query: Tensor) -> Tensor:
        """Return the energies (R, N)."""
        assert self.loop is not None
        return self.loop.term(self, "keys", AdditiveGradient).energies(self.query(query))

    def search_keys(self, memory: Tensor) -> Tensor:
        """Return exp(2 key) of the regions, (..., N, A), at least float32, for `search`."""
        return doubled_exponential(self.keys(memory))

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the energies (B, K, N); see `seesay.models.additive`."""
        factors, score = doubled_exponential(self.query(query)), self.score.weight[0].to(keys.dtype)
        return energies(factors, keys, score, in_parts=self.in_parts)

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the context (B, K, D) and the weights (B, K, N), with the native kernel if available."""
        plain = memory_mask is None and self.in_parts and not torch.is_grad_enabled()
        kernels = kernels_for(query, keys, memory, self.score.weight) if plain else None
        if kernels is None:
            return super().search(query, keys, memory, memory_mask)
        projected_query = self.query(query).to(keys.dtype)  # bfloat16 under autocast
        return kernels.additive_attend(keys, projected_query.contiguous(), self.score.weight[0], memory)


class DotAttention(Attention):
    """Multiplicative attention without weights: score = memory . query, with D = Q.

    Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation", section 3.1, `dot`.
    """

    def keys(self, memory: Tensor) -> Tensor:
        """Return the memory itself, (..., N, D)."""
        return memory

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (..., N)."""
        return torch.matmul(keys, query.to(keys.dtype).unsqueeze(-1)).squeeze(-1)

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Register the memory and the keys."""
        super().enter(memory, loop)
        loop.add(self, "keys", ImageGradient(self.keys(memory).transpose(-1, -2), loop))

    def loop_energies(self, query: Tensor) -> Tensor:
        """Return the energies (R, N)."""
        return self._loop_term("keys").product(query)

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (B, K, N)."""
        return torch.bmm(query.to(keys.dtype), keys.transpose(1, 2))


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

    def keys(self, memory: Tensor) -> Tensor:
        """Return W memory, (..., N, Q)."""
        projected: Tensor = self.key(memory)
        return projected


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
        self.query = DeferredLinear(query_size, attention_size)
        self.merge = DeferredLinear(attention_size, memory_size)

    def keys(self, memory: Tensor) -> Tensor:
        """Return the keys, then the values, (..., N, 2A)."""
        projected: Tensor = self.key_value(memory)
        return projected

    def weigh(self, query: Tensor, keys: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Return the weights (..., N), the mean over the heads."""
        return self._by_head(query, keys, memory_mask)[0].mean(-2)

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the context (..., D) and the mean weights (..., N); the values are part of `keys`."""
        weights, values = self._by_head(query, keys, memory_mask)
        heads = torch.matmul(self.dropout(weights).to(values.dtype).unsqueeze(-2), values).squeeze(-2)
        context: Tensor = self.merge(heads.flatten(-2))
        return context, weights.mean(-2)

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Register the keys and values of each head, and the memory for `loop_context`."""
        super().enter(memory, loop)
        keys, values = (split_heads(half, self.heads) for half in self.keys(memory).chunk(2, dim=-1))
        loop.add(self, "keys", ImageGradient(keys.transpose(-1, -2) / keys.shape[-1] ** 0.5, loop))
        loop.add(self, "values", ImageGradient(values, loop))

    def loop_weigh(self, query: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Return the weights (R, N), the mean over the heads."""
        return self._loop_heads(query, memory_mask).mean(-2)

    def loop_attend(self, query: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the context (R, D) and the mean weights (R, N)."""
        weights = self._loop_heads(query, memory_mask)
        context: Tensor = self.merge(self._loop_term("values").product(self.dropout(weights)).flatten(-2))
        return context, weights.mean(-2)

    def _loop_heads(self, query: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Return the weights of each head, (R, H, N)."""
        scores = self._loop_term("keys").product(torch.unflatten(self.query(query), -1, (self.heads, -1)))
        return masked_softmax(scores, None if memory_mask is None else memory_mask.unsqueeze(-2))

    def search_keys(self, memory: Tensor) -> Tensor:
        """Return the concatenated keys and values of each head, (B, H, N, 2A / H)."""
        halves = self.keys(memory).chunk(2, dim=-1)
        return torch.cat([split_heads(half, self.heads) for half in halves], dim=-1)

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the context (B, K, D) and the mean weights (B, K, N), with the heads in the batch dimension."""
        key, value = keys.flatten(0, 1).chunk(2, dim=-1)  # (B * H, N, A / H)
        projected_query = split_heads(self.query(query), self.heads).flatten(0, 1)  # (B * H, K, A / H)
        scores = torch.bmm(projected_query, key.transpose(1, 2)) / key.shape[-1] ** 0.5
        by_head = torch.unflatten(scores, 0, (-1, self.heads))  # (B, H, K, N)
        weights = masked_softmax(by_head, None if memory_mask is None else memory_mask[:, None, None])
        heads = torch.bmm(weights.flatten(0, 1).to(value.dtype), value)
        context: Tensor = self.merge(torch.unflatten(heads, 0, (-1, self.heads)).transpose(1, 2).flatten(2))
        return context, weights.mean(1)

    def _by_head(self, query: Tensor, keys: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weights (..., H, N) and values (..., H, N, A / H)."""
        key, value = (split_heads(half, self.heads) for half in keys.chunk(2, dim=-1))
        projected_query = torch.unflatten(self.query(query), -1, (self.heads, -1)).unsqueeze(-1)  # (..., H, A / H, 1)
        scores = torch.matmul(key, projected_query).squeeze(-1) / key.shape[-1] ** 0.5
        return masked_softmax(scores, None if memory_mask is None else memory_mask.unsqueeze(-2)), value


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """Return (..., N, A) as (..., H, N, A / H)."""
    return torch.unflatten(tensor, -1, (heads, -1)).transpose(-2, -3)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax over the last dimension of scores (..., N) where the mask is True; 0 elsewhere."""
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1)


def weighted_sum(weights: Tensor, memory: Tensor) -> Tensor:
    """Return the context (..., D) of weights (..., N) over memory (..., N, D)."""
    return torch.matmul(weights.to(memory.dtype).unsqueeze(-2), memory).squeeze(-2)


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
