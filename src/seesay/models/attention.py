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
    """What a recurrent decoder asks of its attention.

    `forward` says what is computed, of any leading dimensions that broadcast. Two cheaper ways give the same: for
    the time loop of training `enter`, `loop_weigh` and `loop_context`, which work on what `enter` has told the
    loop; for search `search_keys` and `search`.

    Args:
        dropout: share of the weights dropped in training when the context is formed; the weights that are
            returned are whole.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns the image's side of the score, (..., N, A), from memory (..., N, D); once an image."""
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

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Tells a time loop what its steps use of the images, memory (B, N, D) above all."""
        loop.add(self, "memory", ImageGradient(memory, loop))

    def loop_energies(self, query: Tensor) -> Tensor:
        """Returns the energies (R, N) of the running captions' queries (R, Q), but for what is equal in a row."""
        raise NotImplementedError

    def loop_weigh(self, query: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Returns the weights (R, N) alone, of the running captions."""
        return masked_softmax(self.loop_energies(query), memory_mask)

    def loop_context(self, weights: Tensor) -> Tensor:
        """Returns the context (R, D) of weights (R, N) of the running captions."""
        return self._loop_term("memory").product(weights)

    def loop_attend(self, query: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, of the running captions."""
        weights = self.loop_weigh(query, memory_mask)
        return self.loop_context(self.dropout(weights)), weights

    def _loop_term(self, name: str) -> ImageGradient:
        assert self.loop is not None
        return self.loop.term(self, name, ImageGradient)

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns what `search` takes as keys, (B, ...), from memory (B, N, D); once an image."""
        return self.keys(memory)

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns how well each region suits each hypothesis of its image, before the softmax, (B, K, N).

        Args:
            query: of hypotheses, (B, K, Q).
            keys: from `search_keys`, never repeated for the K hypotheses.
        """
        raise NotImplementedError

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, for the hypotheses of a search, without dropout's chances.

        Args:
            query: of hypotheses, (B, K, Q).
            keys: from `search_keys`, (B, ...), shared by the hypotheses of an image.
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
        in_parts: a search computes as many images at a time as the processor's cache holds. Off where the steps
            are written down as a graph, which must hold for any number of images.
    """

    def __init__(self, memory_size: int, query_size: int, attention_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.in_parts = True
        self.key = Linear(memory_size, attention_size)
        self.query = DeferredLinear(query_size, attention_size, bias=False)  # its bias would add to the key's
        self.score = Linear(attention_size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns W_m memory, (..., N, A)."""
        projected: Tensor = self.key(memory)
        return projected

    def energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the scores (..., N)."""
        scores: Tensor = self.score(torch.tanh(keys + self.query(query).unsqueeze(-2)))
        return scores.squeeze(-1)

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Tells the loop of the memory, the keys and the score's weights."""
        super().enter(memory, loop)
        loop.add(self, "keys", additive_gradient(self.keys(memory), self.score.weight, loop))

    def loop_energies(self, query: Tensor) -> Tensor:
        """Returns the energies (R, N)."""
        assert self.loop is not None
        return self.loop.term(self, "keys", AdditiveGradient).energies(self.query(query))

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns exp(2 key) of the regions, (..., N, A) in float32 or better, for `search`; once an image."""
        return doubled_exponential(self.keys(memory))

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the energies (B, K, N), in a fraction of the time; see `seesay.models.additive`."""
        factors, score = doubled_exponential(self.query(query)), self.score.weight[0].to(keys.dtype)
        return energies(factors, keys, score, in_parts=self.in_parts)

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the context (B, K, D) and the weights (B, K, N); in one call of C where that can be."""
        plain = memory_mask is None and self.in_parts and not torch.is_grad_enabled()
        kernels = kernels_for(query, keys, memory, self.score.weight) if plain else None
        if kernels is None:
            return super().search(query, keys, memory, memory_mask)
        asked = self.query(query).to(keys.dtype)  # bfloat16 under autocast
        return kernels.additive_attend(keys, asked.contiguous(), self.score.weight[0], memory)


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

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Tells the loop of the memory and the keys."""
        super().enter(memory, loop)
        loop.add(self, "keys", ImageGradient(self.keys(memory).transpose(-1, -2), loop))

    def loop_energies(self, query: Tensor) -> Tensor:
        """Returns the energies (R, N)."""
        return self._loop_term("keys").product(query)

    def search_energies(self, query: Tensor, keys: Tensor) -> Tensor:
        """Returns the scores (B, K, N)."""
        return torch.bmm(query.to(keys.dtype), keys.transpose(1, 2))


class GeneralAttention(DotAttention):
    """Multiplicative attention through a matrix: score = (W memory) . query.

    Luong et al. 2015, section 3.1, `general`. The matrix is applied to the memory, once an image.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        dropout: see `Attention`.
    """

    def __init__(self, memory_size: int, query_size: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.key = Linear(memory_size, query_size, bias=False)

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
        self.key_value = Linear(memory_size, 2 * attention_size)
        self.query = DeferredLinear(query_size, attention_size)
        self.merge = DeferredLinear(attention_size, memory_size)

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

    def enter(self, memory: Tensor, loop: DeferredGradients) -> None:
        """Tells the loop of the keys and values of each head, and of the memory for `loop_context`."""
        super().enter(memory, loop)
        keys, values = (split_heads(half, self.heads) for half in self.keys(memory).chunk(2, dim=-1))
        loop.add(self, "keys", ImageGradient(keys.transpose(-1, -2) / keys.shape[-1] ** 0.5, loop))
        loop.add(self, "values", ImageGradient(values, loop))

    def loop_weigh(self, query: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Returns the weights (R, N), the mean over the heads."""
        return self._loop_heads(query, memory_mask).mean(-2)

    def loop_attend(self, query: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the context (R, D) and the mean weights (R, N)."""
        weights = self._loop_heads(query, memory_mask)
        context: Tensor = self.merge(self._loop_term("values").product(self.dropout(weights)).flatten(-2))
        return context, weights.mean(-2)

    def _loop_heads(self, query: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Returns the weights of each head, (R, H, N)."""
        scores = self._loop_term("keys").product(torch.unflatten(self.query(query), -1, (self.heads, -1)))
        return masked_softmax(scores, None if memory_mask is None else memory_mask.unsqueeze(-2))

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns the keys beside the values of each head, (B, H, N, 2A / H)."""
        halves = self.keys(memory).chunk(2, dim=-1)
        return torch.cat([split_heads(half, self.heads) for half in halves], dim=-1)

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the context (B, K, D) and the mean weights (B, K, N), every head an image of its own."""
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
