"""A pre-norm Transformer decoder: packed captions in training, a cache of keys and values in decoding."""

import math

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.dropout import Dropout
from seesay.models.packing import PackedCaptions
from seesay.models.protocol import DecoderOutput, DecoderState, StepOutput
from seesay.models.registry import register_decoder
from seesay.models.transformer_layer import TransformerLayer
from seesay.models.vocabulary import vocabulary_layer

_OPTIONS = (
    *("embedding_size", "hidden_size", "num_heads", "num_layers", "feedforward_size", "tie_weights"),
    *("embedding_dropout", "attention_dropout", "state_dropout", "output_dropout"),
)


@register_decoder("transformer", _OPTIONS)
class TransformerDecoder(nn.Module):
    """The decoder of Vaswani et al. 2017, "Attention Is All You Need", with pre-norm.

    Pre-norm (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture") trains without a long
    warm-up. Sinusoidal positions (section 3.5) have no maximum, so that a run may decode longer captions than it was
    trained on. `model.hidden_size` is the width of the layers, `model.projection_size` that of the regions. The
    attention that a step returns is that of the last layer over the regions, averaged over its heads.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.width, self.heads = config.hidden_size, config.num_heads
        self.embedding = nn.Embedding(vocabulary_size, self.width)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(self.width)
        self.output = vocabulary_layer(config, self.width, self.embedding)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.output_dropout = Dropout(config.output_dropout)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the state before the start token: each layer's keys of the memory (B, N, D), and empty caches."""
        per_image = {f"keys_{place}": layer.memory_keys(memory) for place, layer in enumerate(self._layers())}
        if memory_mask is not None:
            per_image["memory_mask"] = memory_mask
        empty = memory.new_zeros(memory.shape[0], 1, 0, 2 * self.width)
        return DecoderState(per_image, {f"cache_{place}": empty for place in range(len(self.layers))})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K).

        The cache (B, K, T, 2 width) of each layer holds the keys and values of the previous words, so that a step
        computes one word per hypothesis.
        """
        caches: dict[str, Tensor] = {}
        length = state.per_row["cache_0"].shape[2]
        hidden = self._embed(tokens, torch.full_like(tokens, length))
        mask, weights = state.per_image.get("memory_mask"), None
        for place, layer in enumerate(self._layers()):
            name = f"cache_{place}"
            hidden, caches[name], weights = layer.step(
                hidden, state.per_row[name], state.per_image[f"keys_{place}"], mask
            )
        return StepOutput(self._score(hidden), DecoderState(state.per_image, caches), weights)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) of every real token under teacher forcing.

        Tokens are packed in layers that act on single tokens. They are padded for self-attention, one row per caption,
        and for cross-attention, one row per image, so that an image's keys are shared by its captions.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            captions: the packed captions of the batch.
        """
        by_caption, by_image = captions.by_caption(), captions.by_image(len(memory))
        hidden = self.embedding_dropout(self._embed(captions.inputs, by_caption.place))
        for layer in self._layers():
            hidden = layer(hidden, layer.memory_keys(memory), memory_mask, by_caption, by_image)
        return DecoderOutput(self._score(hidden))

    def _layers(self) -> list[TransformerLayer]:
        return [layer for layer in self.layers if isinstance(layer, TransformerLayer)]

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the embeddings (..., width) of tokens (...) at their positions (...) in the caption."""
        words: Tensor = self.embedding(tokens) * math.sqrt(self.width)
        return words + sinusoids(positions, self.width).to(words.dtype)

    def _score(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.output(self.output_dropout(self.norm(hidden)))
        return logits


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return the position encodings (..., width) of positions (...), from 0 (Vaswani et al. 2017, section 3.5).

    Sines come first, then cosines, with wavelengths from 2 pi to 10,000 * 2 pi; an odd width omits the last cosine.
    """
    count = (width + 1) // 2
    rates = torch.exp(torch.arange(count, device=positions.device) * (-math.log(10000.0) * 2 / width))
    angles = positions[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :width]
