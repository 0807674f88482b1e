"""`CaptionModel`: an encoder (if it is in the loop), a projection, and a decoder."""

from typing import cast

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.errors import ConfigError
from seesay.models.dropout import Dropout
from seesay.models.encoders import Encoder
from seesay.models.initialisation import initialise_like_keras
from seesay.models.packing import PackedCaptions
from seesay.models.products import Linear
from seesay.models.protocol import Decoder, DecoderOutput
from seesay.models.registry import decoder_builder
from seesay.models.retrieved import RetrievedCaptions
from seesay.models.validation import validate_model_config

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


class CaptionModel(nn.Module):
    """Maps features to logits of tokens.

    Attributes:
        encoder: the image encoder if the model takes images; None with cached features.
        projection: features (..., F) -> memory (..., D).
        decoder: any `TrainableDecoder`.
        retrieved: embeds captions of similar training images; None: the model has no such inputs.
    """

    def __init__(
        self,
        projection: nn.Module,
        decoder: nn.Module,
        feature_dropout: float = 0.0,
        encoder: Encoder | None = None,
        retrieved: RetrievedCaptions | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_dropout = Dropout(feature_dropout)
        self.projection = projection
        self.decoder = decoder
        self.retrieved = retrieved

    @property
    def step_decoder(self) -> Decoder:
        """The decoder, typed for `seesay.decoding`."""
        return cast("Decoder", self.decoder)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return features (B, N, F) of uint8 pixels (B, height, width, 3).

        Raises:
            ConfigError: the model works on cached features and has no encoder.
        """
        if self.encoder is None:
            raise ConfigError("this model was trained on cached features and has no encoder")
        return cast("Tensor", self.encoder(pixels))

    def add_captions(
        self, features: Tensor, memory_mask: Tensor | None, captions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return features (B, N + R, F) and their mask (B, N + R) with retrieved captions as further regions.

        Everything else treats them as regions: the projection, every decoder, sampling and ensembles.

        Args:
            features: (B, N, F).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            captions: token ids, (B, R, T), see `RetrievedCaptions`; None: there are none, and nothing is added.
        """
        if self.retrieved is None or captions is None:
            return features, memory_mask
        vectors, real = self.retrieved(captions)
        regions = real.new_ones(features.shape[:2]) if memory_mask is None else memory_mask
        return torch.cat([features.to(vectors.dtype), vectors], 1), torch.cat([regions, real], 1)

    def project(self, features: Tensor) -> Tensor:
        """Return the decoder's memory (B, N, D) of features (B, N, F)."""
        weight = next(self.projection.parameters())
        return cast("Tensor", self.projection(self.feature_dropout(features.to(weight.dtype))))

    def forward(self, features: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        """Return the logits (M, V) of every real token under teacher forcing.

        Args:
            features: (B, N, F).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            captions: the packed captions of the B images.
        """
        return self.forward_with_penalty(features, memory_mask, captions).logits

    def forward_with_penalty(
        self, features: Tensor, memory_mask: Tensor | None, captions: PackedCaptions
    ) -> DecoderOutput:
        """Return the logits of `forward` with the decoder's penalty; see `DecoderOutput`."""
        return cast("DecoderOutput", self.decoder(self.project(features), memory_mask, captions))


def build_model(
    config: ModelConfig, vocabulary_size: int, feature_size: int, encoder: Encoder | None = None
) -> CaptionModel:
    """Return a newly initialised model.

    Args:
        config: sizes and options of the network.
        vocabulary_size: V, special tokens included.
        feature_size: width F of the encoder's features.
        encoder: the image encoder, if the model takes images.

    Raises:
        ConfigError: the decoder is unknown, or settings contradict each other.
    """
    validate_model_config(config)
    activation = _ACTIVATIONS[config.projection_activation]()
    projection = nn.Sequential(Linear(feature_size, config.projection_size), activation)
    decoder = decoder_builder(config.decoder)(config, vocabulary_size)
    if config.initialisation == "keras":
        for part in (projection, decoder):
            initialise_like_keras(part)
    # With torch's initial values, since the mean of embeddings as small as those of Keras would be almost zero.
    retrieved = RetrievedCaptions(vocabulary_size, feature_size) if config.retrieve else None
    return CaptionModel(projection, decoder, config.feature_dropout, encoder, retrieved)


def check_model(config: ModelConfig) -> None:
    """Check that a network can be built, before its data is loaded.

    Raises:
        ConfigError: the decoder is unknown, or settings contradict each other.
    """
    with torch.device("meta"):  # allocates no memory and draws no random numbers
        build_model(config, vocabulary_size=5, feature_size=1)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
