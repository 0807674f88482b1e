"""Recurrent decoders: a GRU that attends over regions, and stacked GRUs that start from one vector."""

import torch
from torch import Tensor, nn

from seesay.models.attention import AdditiveAttention
from seesay.models.packing import PackedCaptions
from seesay.models.protocol import DecoderState, StepOutput


class AttentionGRUDecoder(nn.Module):
    """A GRU whose input at each step is the attended context, then the word's embedding.

    The system of Xu et al. 2015 ("Show, Attend and Tell") in the form of the well-known tutorial, with the
    state carried over from step to step: additive attention queried by the previous state, a GRU from a zero
    state, a dense layer, the vocabulary, with nothing between the two.

    Args:
        vocabulary_size: V.
        memory_size: width D of a region.
        embedding_size: width of a word.
        hidden_size: units H of the GRU.
        attention_size: units of the attention.
        output_size: width of the dense layer before the vocabulary; 0 leaves it out.
        embedding_dropout: share of embedding values dropped in training.
        output_dropout: share of GRU outputs dropped before the dense layers in training.
    """

    def __init__(
        self,
        vocabulary_size: int,
        memory_size: int,
        embedding_size: int,
        hidden_size: int,
        attention_size: int,
        output_size: int,
        embedding_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.attention = AdditiveAttention(memory_size, hidden_size, attention_size)
        # The GRU's input matrix in its two halves: the word's is applied to all steps at once before the
        # loop, the context's inside it.
        self.word_gates = nn.Linear(embedding_size, 3 * hidden_size)
        self.context_gates = nn.Linear(memory_size, 3 * hidden_size, bias=False)
        self.state_gates = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = _output_layers(hidden_size, output_size, vocabulary_size)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.output_dropout = nn.Dropout(output_dropout)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the zero state over memory (B, N, D) with its keys, one row a picture."""
        per_image = {"memory": memory, "keys": self.attention.search_keys(memory)}
        if memory_mask is not None:
            per_image["memory_mask"] = memory_mask
        hidden = self._zero_state(memory.shape[0], 1)
        return DecoderState(per_image, {"hidden": hidden})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K)."""
        fixed = state.per_image
        words, hidden = self.word_gates(self.embedding(tokens)), state.per_row["hidden"]
        context, weights = self.attention.search(hidden, fixed["keys"], fixed["memory"], fixed.get("memory_mask"))
        hidden = gru_update(words + self.context_gates(context), self.state_gates(hidden), hidden)
        return StepOutput(self.output(hidden), DecoderState(fixed, {"hidden": hidden}), weights)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        """Returns the logits (M, V) of every real token under teacher forcing.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = may attend; None = all.
            captions: the batch's captions, packed.
        """
        words = self.word_gates(self.embedding_dropout(self.embedding(captions.inputs)))
        rows = captions.image_of_row
        row_memory = memory.index_select(0, rows)
        row_keys = self.attention.keys(memory).index_select(0, rows)
        row_mask = None if memory_mask is None else memory_mask.index_select(0, rows)
        hidden = self._zero_state(captions.rows)
        outputs = []
        for size, word in zip(captions.sizes, words.split(captions.sizes), strict=True):
            mask = None if row_mask is None else row_mask[:size]
            hidden, _ = self._advance(word, hidden[:size], row_keys[:size], row_memory[:size], mask)
            outputs.append(hidden)
        logits: Tensor = self.output(self.output_dropout(torch.cat(outputs)))
        return logits

    def _zero_state(self, *shape: int) -> Tensor:
        """Returns zeros (*shape, H) in the weights' precision, which bfloat16 training keeps for the state."""
        return self.state_gates.weight.new_zeros(*shape, self.hidden_size)

    def _advance(
        self, words: Tensor, hidden: Tensor, keys: Tensor, memory: Tensor, memory_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the next hidden state (..., H) and attention (..., N) given the word gates (..., 3H)."""
        context, weights = self.attention(hidden, keys, memory, memory_mask)
        return gru_update(words + self.context_gates(context), self.state_gates(hidden), hidden), weights


class PooledGRUDecoder(nn.Module):
    """Stacked GRUs that see the picture as one vector: their first state, or added to every word.

    Args:
        vocabulary_size: V.
        memory_size: width D of the picture's vector.
        embedding_size: width of a word.
        hidden_size: units of each GRU.
        layers: how many GRUs are stacked.
        output_size: width of a dense layer before the vocabulary; 0 leaves it out.
        merge: "state" starts every layer from the picture's vector (memory_size must equal hidden_size),
            "add" adds it to each embedded word (memory_size must equal embedding_size).
        embedding_dropout: share of embedding values dropped in training.
        output_dropout: share of GRU outputs dropped in training, between the layers too.

    Raises:
        ValueError: the sizes do not fit the way of merging.
    """

    def __init__(
        self,
        vocabulary_size: int,
        memory_size: int,
        embedding_size: int,
        hidden_size: int,
        layers: int,
        output_size: int,
        merge: str = "state",
        embedding_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        wanted = hidden_size if merge == "state" else embedding_size
        if memory_size != wanted:
            raise ValueError(f"merge={merge!r} needs a picture vector of width {wanted}, not {memory_size}")
        self.merge = merge
        self.layers = layers
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        between = output_dropout if layers > 1 else 0.0
        self.gru = nn.GRU(embedding_size, hidden_size, layers, batch_first=True, dropout=between)
        self.output = _output_layers(hidden_size, output_size, vocabulary_size)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.output_dropout = nn.Dropout(output_dropout)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the first state from memory (B, N, D), whose regions are averaged to one vector."""
        vector = masked_mean(memory, memory_mask)
        if self.merge == "state":
            first = vector[:, None, None].expand(-1, 1, self.layers, -1)  # (B, 1, L, H)
            return DecoderState({}, {"hidden": first})
        zeros = vector.new_zeros(len(vector), 1, self.layers, self.gru.hidden_size)
        return DecoderState({"vector": vector[:, None]}, {"hidden": zeros})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns logits (B, K, V) after the words `tokens` (B, K); this decoder has no attention."""
        images, beams = tokens.shape
        words = self.embedding(tokens)
        if self.merge == "add":
            words = words + state.per_image["vector"]
        hidden = state.per_row["hidden"].flatten(0, 1).transpose(0, 1).contiguous()  # (L, B*K, H)
        output, hidden = self.gru(words.flatten(0, 1)[:, None], hidden)
        logits = self.output(output[:, 0]).unflatten(0, (images, beams))
        rows = {"hidden": hidden.transpose(0, 1).unflatten(0, (images, beams))}
        return StepOutput(logits, DecoderState(state.per_image, rows), None)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> Tensor:
        """Returns the logits (M, V) of every real token under teacher forcing.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = counts in the average; None = all.
            captions: the batch's captions, packed.
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
        logits: Tensor = self.output(self.output_dropout(output.data))
        return logits


def gru_update(input_gates: Tensor, state_gates: Tensor, hidden: Tensor) -> Tensor:
    """Returns the next hidden state (..., H) of a GRU whose reset comes after the recurrent product.

    Cho et al. 2014 in the form of cuDNN, torch.nn.GRU and Keras' `reset_after=True`:
    r, z = sigmoid(x_rz + h_rz), n = tanh(x_n + r * h_n), h' = n + z * (h - n).

    Args:
        input_gates: the input's side of reset, update and candidate, (..., 3H).
        state_gates: the state's side of the same, (..., 3H).
        hidden: previous state, (..., H).
    """
    size = hidden.shape[-1]
    input_gates, state_gates = input_gates.to(hidden.dtype), state_gates.to(hidden.dtype)
    both = torch.sigmoid(input_gates[..., : 2 * size] + state_gates[..., : 2 * size])
    reset, update = both[..., :size], both[..., size:]
    candidate = torch.tanh(input_gates[..., 2 * size :] + reset * state_gates[..., 2 * size :])
    return torch.lerp(candidate, hidden, update)


def masked_mean(memory: Tensor, memory_mask: Tensor | None) -> Tensor:
    """Returns the mean (B, D) of the regions of memory (B, N, D) that the mask (B, N) lets through."""
    if memory_mask is None:
        return memory.mean(1)
    weights = memory_mask.to(memory.dtype)
    return torch.einsum("bnd,bn->bd", memory, weights) / weights.sum(1, keepdim=True).clamp(min=1.0)


def initialise_like_keras(module: nn.Module) -> None:
    """Sets every weight as Keras would: Glorot uniform matrices, zero biases, embeddings in +-0.05.

    The tutorials' models start from these, their recurrent matrices included.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            nn.init.zeros_(parameter)
        elif "embedding" in name:
            nn.init.uniform_(parameter, -0.05, 0.05)
        else:
            nn.init.xavier_uniform_(parameter)


def _output_layers(hidden_size: int, output_size: int, vocabulary_size: int) -> nn.Module:
    if output_size == 0:
        return nn.Linear(hidden_size, vocabulary_size)
    return nn.Sequential(nn.Linear(hidden_size, output_size), nn.Linear(output_size, vocabulary_size))
