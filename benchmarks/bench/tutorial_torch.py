"""The algorithm of the well-known image-captioning-with-attention tutorial, plainly in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD_ID = 0


class TorchTutorial(nn.Module):
    """Dense and ReLU over the grid, additive attention, a GRU of context and word, a dense layer, the vocabulary.

    As the tutorial does it: one row a caption, its image's features projected for each; attention keys and the
    vocabulary layer at every step; every caption as long as the longest. The state is carried from step to step,
    which the tutorial forgets and which costs nothing, so that this is the network of our `attention-gru` and its
    loss can be held against ours.

    Args:
        feature_size: F.
        vocabulary: V.
        width: of a projected region and of a word's embedding.
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
        """Returns the loss: each step's mean surprise over the batch, padding as 0, summed over the steps.

        Args:
            features: (R, N, F), one a caption.
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
            cross_entropy_rows = F.cross_entropy(logits.float(), following, reduction="none")
            loss = loss + (cross_entropy_rows * (following != PAD_ID)).mean()
        return loss
