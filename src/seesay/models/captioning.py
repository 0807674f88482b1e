"""The captioner's network: an encoder (where it is in the loop), a projection, and a decoder."""

from typing import cast

from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.errors import ConfigError
from seesay.models.encoders import Encoder
from seesay.models.packing import PackedCaptions
from seesay.models.protocol import Decoder
from seesay.models.recurrent import AttentionGRUDecoder, PooledGRUDecoder, initialise_like_keras

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


class CaptionModel(nn.Module):
    """Features in, word scores out.

    Attributes:
        encoder: the image network where pictures pass through the model; None on cached features.
        projection: features (..., F) -> memory (..., D).
        decoder: any `Decoder`, with a `forward` for teacher forcing.
    """

    def __init__(
        self,
        projection: nn.Module,
        decoder: nn.Module,
        feature_dropout: float = 0.0,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.projection = projection
        self.decoder = decoder

    @property
    def search(self) -> Decoder:
        """The decoder as `seesay.decoding` sees it."""
        return cast("Decoder", self.decoder)

    def encode(self, pixels: Tensor) -> Tensor:
        """Returns features (B, N, F) of uint8 pixels (B, height, width, 3).

        Raises:
            ConfigError: the model works on cached features and has no encoder.
        """
        if self.encoder is None:
            raise ConfigError("this model was trained on cached features and holds no encoder")
        return cast("Tensor", self.encoder(pixels))

    def remember(self, features: Tensor) -> Tensor:
        """Returns the decoder's memory (B, N, D) of features (B, N, F)."""
        weight = next(self.projection.parameters())
        return cast("Tensor", self.projection(self.feature_dropout(features.to(weight.dtype))))

    def forward(self, features: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        """Returns the logits (M, V) of every real token under teacher forcing.

        Args:
            features: (B, N, F).
            memory_mask: (B, N), True = may attend; None = all.
            captions: all captions of the B pictures, packed.
        """
        return cast("Tensor", self.decoder(self.remember(features), memory_mask, captions))


def build_model(
    config: ModelConfig, vocabulary_size: int, feature_size: int, encoder: Encoder | None = None
) -> CaptionModel:
    """Returns a freshly initialised captioner.

    Args:
        config: the network's sizes.
        vocabulary_size: V, special tokens included.
        feature_size: width F of the encoder's features.
        encoder: the image network, if pictures are to pass through the model.

    Raises:
        ConfigError: the sizes contradict each other.
    """
    activation = _ACTIVATIONS[config.projection_activation]()
    projection = nn.Sequential(nn.Linear(feature_size, config.projection_size), activation)
    decoder = _BUILDERS[config.decoder](config, vocabulary_size)
    if config.initialisation == "keras":
        for part in (projection, decoder):
            initialise_like_keras(part)
    return CaptionModel(projection, decoder, config.feature_dropout, encoder)


def count_parameters(model: nn.Module) -> int:
    """Returns how many numbers training may change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _attention_decoder(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    if config.layers != 1:
        raise ConfigError(f"model.layers is {config.layers}; the attention decoder has one recurrent layer")
    return AttentionGRUDecoder(
        vocabulary_size,
        config.projection_size,
        config.embedding_size,
        config.hidden_size,
        config.attention_size,
        config.output_size,
        config.embedding_dropout,
        config.output_dropout,
    )


def _pooled_decoder(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    wanted = config.hidden_size if config.merge == "state" else config.embedding_size
    if config.projection_size != wanted:
        raise ConfigError(
            f"model.projection_size is {config.projection_size}; with model.merge={config.merge} it must equal "
            f"model.{'hidden_size' if config.merge == 'state' else 'embedding_size'} ({wanted})"
        )
    return PooledGRUDecoder(
        vocabulary_size,
        config.projection_size,
        config.embedding_size,
        config.hidden_size,
        config.layers,
        config.output_size,
        config.merge,
        config.embedding_dropout,
        config.output_dropout,
    )


_BUILDERS = {"attention": _attention_decoder, "pooled": _pooled_decoder}
