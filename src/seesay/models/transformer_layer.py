"""One layer of the Transformer decoder: over the words so far, over the regions, and a feed-forward part."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.attention import masked_softmax, split_heads
from seesay.models.dropout import Dropout
from seesay.models.packing import PackingIndex
from seesay.models.products import Linear


class TransformerLayer(nn.Module):
    """x + words(norm x), then x + regions(norm x), then x + feed-forward(norm x).

    Args:
        config: the width of the layer is `model.hidden_size`, that of a region `model.projection_size`.
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
        """Returns keys, then values, of the regions, (B, N, 2 width), from memory (B, N, D); once an image."""
        projected: Tensor = self.cross_keys(memory)
        return projected

    def forward(
        self, hidden: Tensor, keys: Tensor, memory_mask: Tensor | None, by_caption: PackingIndex, by_image: PackingIndex
    ) -> Tensor:
        """Returns the layer's output (M, width) for every packed token.

        Args:
            hidden: (M, width).
            keys: from `memory_keys`, (B, N, 2 width).
            memory_mask: (B, N), True = may attend; None = all.
            by_caption: the tokens' way to rows of captions.
            by_image: the tokens' way to rows of images.
        """
        asked, key, value = self._heads(by_caption.pad(self.self_input(self.self_norm(hidden))), 3)
        # Padding follows the real tokens of a row, so that looking back never meets it.
        seen = self._look(asked, key, value, None, only_back=True)
        hidden = hidden + self.dropout(self.self_output(by_caption.pack(_merge(seen))))
        (asked,) = self._heads(by_image.pad(self.cross_query(self.cross_norm(hidden))), 1)
        key, value = self._heads(keys, 2)
        mask = None if memory_mask is None else memory_mask[:, None, None]
        seen = self._look(asked, key, value, mask, only_back=False)
        hidden = hidden + self.dropout(self.cross_output(by_image.pack(_merge(seen))))
        return self._feed(hidden)

    def step(
        self, hidden: Tensor, cache: Tensor, keys: Tensor, memory_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the layer's output for one word a hypothesis, the cache with it, and where it looked.

        Args:
            hidden: (B, K, width).
            cache: keys, then values, of the words so far, (B, K, T, 2 width).
            keys: from `memory_keys`, (B, N, 2 width).
            memory_mask: (B, N), True = may attend; None = all.

        Returns:
            hidden (B, K, width), cache (B, K, T + 1, 2 width) and attention (B, K, N), the mean of the heads.
        """
        joined = self.self_input(self.self_norm(hidden))
        width = hidden.shape[-1]
        cache = torch.cat([cache.to(joined.dtype), joined[:, :, None, width:]], dim=2)
        key, value = self._heads(cache, 2)  # (B, K, H, T + 1, width / H)
        seen, _ = _attend(split_heads(joined[:, :, None, :width], self.heads), key, value, None)
        hidden = hidden + self.dropout(self.self_output(_merge(seen)[:, :, 0]))
        # The hypotheses of an image are to its regions what the places of a caption are in training.
        (asked,) = self._heads(self.cross_query(self.cross_norm(hidden)), 1)
        key, value = self._heads(keys, 2)
        seen, weights = _attend(asked, key, value, None if memory_mask is None else memory_mask[:, None, None])
        hidden = hidden + self.dropout(self.cross_output(_merge(seen)))
        return self._feed(hidden), cache, weights.mean(1)

    def _look(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, only_back: bool) -> Tensor:
        """Returns what was seen, (..., H, T, d); `only_back`: by no place after its own."""
        rate = self.attention_dropout.p if self.training else 0.0
        if rate == 0.0 or query.device.type != "cpu":
            return F.scaled_dot_product_attention(query, key, value, mask, rate, only_back)
        # With dropout torch's has no quick way on a processor, and draws the chances one after the other.
        if only_back:
            places = query.shape[-2]
            mask = torch.ones(places, places, dtype=torch.bool).tril()
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):  # as torch's does: scores in half precision are a per cent off
            weights = _weigh(query.to(wide), key.to(wide), mask)
        return torch.matmul(self.attention_dropout(weights.to(value.dtype)), value)

    def _feed(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(torch.relu(self.feed_input(self.feed_norm(hidden))))
        fed: Tensor = hidden + self.dropout(self.feed_output(inner))
        return fed

    def _heads(self, joined: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Returns (..., T, parts * width) as so many (..., H, T, width / H)."""
        return tuple(split_heads(part, self.heads) for part in joined.chunk(parts, dim=-1))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns what was seen (..., H, T, d) and the weights (..., H, T, N); `mask` (..., N), True = may attend."""
    weights = _weigh(query, key, mask)
    return torch.matmul(weights.to(value.dtype), value), weights


def _weigh(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the weights alone."""
    return masked_softmax(torch.matmul(query, key.transpose(-1, -2)) / key.shape[-1] ** 0.5, mask)


def _merge(seen: Tensor) -> Tensor:
    """Returns (..., H, T, d) as (..., T, H * d)."""
    return seen.transpose(-2, -3).flatten(-2)
