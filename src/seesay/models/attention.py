"""Attention of a decoder's query over the regions of a picture."""

import torch
from torch import Tensor, nn


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
