"""Attention of a decoder's query over the regions of a picture."""

import math

import torch
from torch import Tensor, nn

# Numbers of a temporary that stay in a processor's cache between two passes over them.
_CACHED = 1 << 18


class AdditiveAttention(nn.Module):
    """Additive attention: score = v . tanh(W_m memory + W_q query).

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", eq. 6 and
    appendix A.1.2. The bias of the score is left out: the softmax takes it away again.

    Args:
        memory_size: width D of a region.
        query_size: width of the decoder's query.
        attention_size: units A inside the tanh.
    """

    def __init__(self, memory_size: int, query_size: int, attention_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, attention_size)
        self.query = nn.Linear(query_size, attention_size, bias=False)  # its bias would add to the key's
        self.score = nn.Linear(attention_size, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """Returns the picture's side of the score, (..., N, A), from memory (..., N, D); once a picture."""
        projected: Tensor = self.key(memory)
        return projected

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the attended context and the weights.

        The leading dimensions broadcast: in training query (R, Q) with keys (R, N, A); in decoding query
        (B, K, Q) with keys (B, 1, N, A) that the K hypotheses of a picture share.

        Args:
            query: the decoder's state, (..., Q).
            keys: from `keys`, (..., N, A).
            memory: (..., N, D).
            memory_mask: (..., N), True = may attend; None = all.

        Returns:
            context (..., D) and weights (..., N) that sum to 1.
        """
        energy = self.score(torch.tanh(keys + self.query(query).unsqueeze(-2))).squeeze(-1)
        if memory_mask is not None:
            energy = energy.masked_fill(~memory_mask, float("-inf"))
        weights = torch.softmax(energy, dim=-1)
        context = torch.matmul(weights.to(memory.dtype).unsqueeze(-2), memory).squeeze(-2)
        return context, weights

    def search_keys(self, memory: Tensor) -> Tensor:
        """Returns exp(2 key) of the regions, (..., N, A) in float32 or better, for `search`; once a picture."""
        return _doubled_exponential(self.keys(memory))

    def search(self, query: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, for the hypotheses of a search, in a fraction of the time.

        tanh(k + q) = 1 - 2 / (1 + exp(2 k) exp(2 q)), and the exponentials are taken of each side alone, before
        they meet: a multiplication and a reciprocal are left where tanh took most of a step's time. The 1 adds the
        same to every region's score, which the softmax takes away again.

        Args:
            query: of hypotheses, (B, K, Q).
            keys: from `search_keys`, (B, N, A), shared by the hypotheses of a picture.
            memory: (B, N, D).
            memory_mask: (B, N), True = may attend; None = all.

        Returns:
            context (B, K, D) and weights (B, K, N) that sum to 1.
        """
        factors = _doubled_exponential(self.query(query)).unsqueeze(2)  # (B, K, 1, A)
        one, weight = keys.new_ones(()), -2.0 * self.score.weight[0].to(keys.dtype)
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
        energy = torch.cat(energies)
        if memory_mask is not None:
            energy = energy.masked_fill(~memory_mask.unsqueeze(1), float("-inf"))
        weights = torch.softmax(energy, dim=-1)
        return torch.bmm(weights.to(memory.dtype), memory), weights


def _doubled_exponential(values: Tensor) -> Tensor:
    """Returns exp(2 x) in float32 or better; beyond the bound, where tanh is 1 to all digits, that of the bound."""
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    bound = 43.0 if wide.dtype == torch.float32 else 350.0  # the largest whose exponential is still a number
    return torch.exp(2.0 * wide.clamp(-bound, bound))
