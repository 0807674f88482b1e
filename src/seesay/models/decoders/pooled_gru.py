"""Stacked GRUs over a pooled image vector."""

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.cells import masked_mean
from seesay.models.dropout import Dropout
from seesay.models.packing import PackedCaptions
from seesay.models.protocol import DecoderOutput, DecoderState, StepOutput
from seesay.models.registry import register_decoder
from seesay.models.vocabulary import output_layers

_OPTIONS = (
    *("embedding_size", "hidden_size", "num_layers", "merge", "output_size", "tie_weights"),
    *("embedding_dropout", "output_dropout"),
)


@register_decoder("pooled", _OPTIONS)
class PooledGRUDecoder(nn.Module):
    """Stacked GRUs with the image as one vector: their initial state, or added to every word.

    With `model.merge=state` the vector is the initial state of every layer (`model.projection_size` must equal
    `model.hidden_size`); with `add` it is added to each embedded word (and must equal `model.embedding_size`).
    `model.output_dropout` also applies between the layers.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.merge = config.merge
        self.layers = config.num_layers
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
        between = config.output_dropout if config.num_layers > 1 else 0.0
        self.gru = nn.GRU(
            config.embedding_size, config.hidden_size, config.num_layers, batch_first=True, dropout=between
        )
        self.dropout_between = Dropout(between)
        self.output = output_layers(config, self.embedding)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.output_dropout = Dropout(config.output_dropout)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the initial state from the mean over the regions of memory (B, N, D)."""
        vector = masked_mean(memory, memory_mask)
        if self.merge == "state":
            first = vector[:, None, None].expand(-1, 1, self.layers, -1)  # (B, 1, L, H)
            return DecoderState({}, {"hidden": first})
        zeros = vector.new_zeros(vector.shape[0], 1, self.layers, self.gru.hidden_size)
        return DecoderState({"vector": vector[:, None]}, {"hidden": zeros})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return logits (B, K, V) after the words `tokens` (B, K); this decoder has no attention."""
        images, beams = tokens.shape
        words = self.embedding(tokens)
        if self.merge == "add":
            words = words + state.per_image["vector"]
        hidden = state.per_row["hidden"].flatten(0, 1).transpose(0, 1).contiguous()  # (L, B*K, H)
        output, hidden = self.gru(words.flatten(0, 1)[:, None], hidden)
        logits = self.output(output[:, 0]).unflatten(0, (images, beams))
        rows = {"hidden": hidden.transpose(0, 1).unflatten(0, (images, beams))}
        return StepOutput(logits, DecoderState(state.per_image, rows), None)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) of every real token under teacher forcing.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = part of the mean; None: all regions.
            captions: the packed captions of the batch.
        """
        state = self.init_state(memory, memory_mask)
        rows = captions.image_of_row
        words = self.embedding_dropout(self.embedding(captions.inputs))
        if self.merge == "add":
            vectors = state.per_image["vector"][:, 0].index_select(0, rows)
            words = words + torch.cat([vectors[:size] for size in captions.sizes])
        first = state.per_row["hidden"][:, 0].index_select(0, rows).transpose(0, 1).contiguous()
        packed = nn.utils.rnn.PackedSequence(words, torch.tensor(captions.sizes, dtype=torch.int64))
        output, _ = self.gru(packed, first.to(words.dtype))
        return DecoderOutput(self.output(self.output_dropout(output.data)))
