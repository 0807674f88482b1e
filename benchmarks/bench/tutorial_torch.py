"""The algorithm of the well-known image-captioning-with-attention tutorial in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD_ID = 0


class TorchTutorial(nn.Module):
    """The tutorial's network: ReLU projection, additive attention, a GRU over context and word, two dense layers.

    As in the tutorial: one row per caption, with projected features per caption; attention keys and the vocabulary
    layer at every step; every caption padded to the longest. Unlike the tutorial, the state is carried from step to
    step, which costs nothing and makes this the network of our `attention-gru`, so that the losses can be compared.

    Args:
        feature_size: F.
        vocabulary: V.
        width: of projected regions and word embeddings.
        units: of attention, GRU and dense layer.
    """

    def __init__(self, feature_size: int, vocabulary: int, width: int = 256, units: int = 512) -> None:
        super().__init__()
        self.projection = nn.Linear(feature_size, width)
        self.embedding = nn.Embedding(vocabulary, width)
        self.key = nn.Linear(width, units)
        self.query = nn.Linear(units, units)
        self.score = nn.Linear(units, 1)
        self.gru = nn.GRUCell(2 * width, units)
        self.dense = nn.Linear(units, units)
        self.vocabulary = nn.Linear(units, vocabulary)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return the loss: each step's mean cross-entropy over the batch, 0 for padding, summed over the steps.

        Args:
            features: (R, N, F), one row per caption.
            tokens: (R, T) int64, start and end included, padded with 0.
        """
        memory = torch.relu(self.projection(features))
        hidden = memory.new_zeros(len(tokens), self.gru.hidden_size)
        loss = memory.new_zeros((), dtype=torch.float32)
        for step in range(tokens.shape[1] - 1):
            energy = self.score(torch.tanh(self.key(memory) + self.query(hidden)[:, None]))  # (R, N, 1)
            context = (torch.softmax(energy, 1) * memory).sum(1)
            hidden = self.gru(torch.cat([context, self.embedding(tokens[:, step])], -1), hidden)
            logits = self.vocabulary(self.dense(hidden))
            following = tokens[:, step + 1]
            losses = F.cross_entropy(logits.float(), following, reduction="none")
            loss = loss + (losses * (following != PAD_ID)).mean()
        return loss
