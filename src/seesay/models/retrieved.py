"""Captions of similar training images as further regions of an image."""

import torch
from torch import Tensor, nn

from seesay.models.packing import PAD_ID
from seesay.models.products import Linear

EMBEDDING_SIZE = 256
DROPOUT = 0.2
"""Probability that an image has no retrieved captions in training, so that the model does without them too."""


class RetrievedCaptions(nn.Module):
    """Maps captions to vectors of the width of the encoder's features, to be projected and attended to like regions.

    After Sarto et al. 2022, "Retrieval-Augmented Transformer for Image Captioning", and Ramos et al. 2023,
    "Retrieval-augmented Image Captioning". The vector of a caption is a linear function of the mean of its words'
    embeddings; the bias distinguishes captions from regions.

    Args:
        vocabulary_size: V.
        feature_size: width F of the encoder's features.
    """

    def __init__(self, vocabulary_size: int, feature_size: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocabulary_size, EMBEDDING_SIZE, mode="mean", padding_idx=PAD_ID)
        self.feature = Linear(EMBEDDING_SIZE, feature_size)

    def forward(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (B, R, F), and the mask of the captions that may be attended to, (B, R).

        Args:
            captions: token ids, (B, R, T) int64, padded with `PAD_ID`; a caption of padding does not exist.
        """
        mask = (captions != PAD_ID).any(-1)
        if self.training:
            mask &= torch.rand(len(captions), 1, device=captions.device) >= DROPOUT
        words = nn.functional.pad(captions, (0, 1), value=PAD_ID)  # an EmbeddingBag needs at least one
        means = self.embedding(words.flatten(0, 1)).unflatten(0, captions.shape[:2])
        return self.feature(means), mask
