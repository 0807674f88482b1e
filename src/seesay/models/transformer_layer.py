"""A layer of the Transformer decoder: self-attention, cross-attention and a feed-forward block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.attention import masked_softmax, split_heads
from seesay.models.dropout import Dropout
from seesay.models.packing import PackingIndex
from seesay.models.products import Linear


class TransformerLayer(nn.Module):
    """x + self_attention(norm x), then x + cross_attention(norm x), then x + feed_forward(norm x).

    Args:
        config: `model.hidden_size` is the width of the layer, `model.projection_size` that of a region.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.attention_dropout = Dropout(config.attention_dropout)
        self.self_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_input = Linear(width, 3 * width)  # queries, keys, values
        self.self_output = Linear(width, width)
        self.cross_query = Linear(width, width)
        self.cross_keys = Linear(config.projection_size, 2 * width)  # keys, values
        self.cross_output = Linear(width, width)
        self.feed_input = Linear(width, config.feedforward_size)
        self.feed_output = Linear(config.feedforward_size, width)
        self.dropout = Dropout(config.state_dropout)

    def memory_keys(self, memory: Tensor) -> Tensor:
        """Return the keys and values (B, N, 2 width) of memory (B, N, D), computed once per image."""
        projected: Tensor = self.cross_keys(memory)
        return projected

    def forward(
        self, hidden: Tensor, keys: Tensor, memory_mask: Tensor | None, by_caption: PackingIndex, by_image: PackingIndex
    ) -> Tensor:
        """Return the layer's output (M, width) for every packed token.

        Args:
            hidden: (M, width).
            keys: from `memory_keys`, (B, N, 2 width).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            by_caption: index of the tokens in rows of captions.
            by_image: index of the tokens in rows of images.
        """
        query, key, value = self._heads(by_caption.pad(self.self_input(self.self_norm(hidden))), 3)
        # Padding follows the real tokens of a row, so that causal attention never includes it.
        attended = self._attend_values(query, key, value, None, causal=True)
        hidden = hidden + self.dropout(self.self_output(by_caption.pack(_merge(attended))))
        (query,) = self._heads(by_image.pad(self.cross_query(self.cross_norm(hidden))), 1)
        key, value = self._heads(keys, 2)
        mask = None if memory_mask is None else memory_mask[:, None, None]
        attended = self._attend_values(query, key, value, mask, causal=False)
        hidden = hidden + self.dropout(self.cross_output(by_image.pack(_merge(attended))))
        return self._feed(hidden)

    def step(
        self, hidden: Tensor, cache: Tensor, keys: Tensor, memory_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the layer's output for one token per hypothesis, the extended cache, and the attention.

        Args:
            hidden: (B, K, width).
            cache: keys, then values, of the previous tokens, (B, K, T, 2 width).
            keys: from `memory_keys`, (B, N, 2 width).
            memory_mask: (B, N), True = attend; None: attend to all regions.

        Returns:
            hidden (B, K, width), cache (B, K, T + 1, 2 width) and attention (B, K, N), averaged over the heads.
        """
        joined = self.self_input(self.self_norm(hidden))
        width = hidden.shape[-1]
        cache = torch.cat([cache.to(joined.dtype), joined[:, :, None, width:]], dim=2)
        key, value = self._heads(cache, 2)  # (B, K, H, T + 1, width / H)
        attended, _ = _attend_with_weights(split_heads(joined[:, :, None, :width], self.heads), key, value, None)
        hidden = hidden + self.dropout(self.self_output(_merge(attended)[:, :, 0]))
        # In cross-attention, the hypotheses of an image take the place of a caption's positions in training.
        (query,) = self._heads(self.cross_query(self.cross_norm(hidden)), 1)
        key, value = self._heads(keys, 2)
        attended, weights = _attend_with_weights(
            query, key, value, None if memory_mask is None else memory_mask[:, None, None]
        )
        hidden = hidden + self.dropout(self.cross_output(_merge(attended)))
        return self._feed(hidden), cache, weights.mean(1)

    def _attend_values(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Return the attended values (..., H, T, d); `causal`: no position attends to later ones."""
        rate = self.attention_dropout.p if self.training else 0.0
        if rate == 0.0 or query.device.type != "cpu":
            return F.scaled_dot_product_attention(query, key, value, mask, rate, causal)
        # With dropout, torch's kernel is slow on a CPU and samples the mask sequentially.
        if causal:
            positions = query.shape[-2]
            mask = torch.ones(positions, positions, dtype=torch.bool).tril()
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):  # as torch's kernel: half-precision scores have 1 % error
            weights = _weigh(query.to(wide), key.to(wide), mask)
        return torch.matmul(self.attention_dropout(weights.to(value.dtype)), value)

    def _feed(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(torch.relu(self.feed_input(self.feed_norm(hidden))))
        fed: Tensor = hidden + self.dropout(self.feed_output(inner))
        return fed

    def _heads(self, joined: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (..., T, parts * width) into `parts` tensors (..., H, T, width / H)."""
        return tuple(split_heads(part, self.heads) for part in joined.chunk(parts, dim=-1))


def _attend_with_weights(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the attended values (..., H, T, d) and the weights (..., H, T, N); `mask` (..., N), True = attend."""
    weights = _weigh(query, key, mask)
    return torch.matmul(weights.to(value.dtype), value), weights


def _weigh(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention weights."""
    return masked_softmax(torch.matmul(query, key.transpose(-1, -2)) / key.shape[-1] ** 0.5, mask)


def _merge(attended: Tensor) -> Tensor:
    """Return (..., H, T, d) as (..., T, H * d)."""
    return attended.transpose(-2, -3).flatten(-2)
