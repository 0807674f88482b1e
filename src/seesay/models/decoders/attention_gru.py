"""The decoder of the tutorials: a GRU with attention over regions and a state carried between steps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.attention import AdditiveAttention
from seesay.models.cells import gru_update
from seesay.models.compiled_step import compiled_step
from seesay.models.fused_loop import LoopWeights, fused_loop
from seesay.models.loop import DeferredLinear
from seesay.models.packing import PackedCaptions
from seesay.models.products import Linear
from seesay.models.protocol import DecoderOutput, DecoderState, StepOutput
from seesay.models.recurrent import OPTIONS, CellOutput, RecurrentDecoder, Tensors
from seesay.models.registry import register_decoder
from seesay.models.vocabulary import output_layers


@register_decoder("attention", OPTIONS.union(("output_size",)))
class AttentionGRUDecoder(RecurrentDecoder):
    """A GRU whose input at each step is the attended context and the word's embedding.

    The system of Xu et al. 2015 ("Show, Attend and Tell") in the form of the well-known tutorial, but with the state
    carried between steps: the previous state queries the attention; the GRU starts from zeros; a dense layer and the
    vocabulary layer follow without an activation in between.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        gates = 3 * config.hidden_size
        # The GRU's input matrix in two halves: the word's is applied to all steps before the loop, the context's
        # inside it.
        self.word_gates = Linear(config.embedding_size, gates)
        self.context_gates = DeferredLinear(config.projection_size, gates, bias=False)
        self.state_gates = DeferredLinear(config.hidden_size, gates)
        self.output = output_layers(config, self.embedding)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) of every real token under teacher forcing; see `RecurrentDecoder.forward`."""
        attention = self.attention
        # `fused_loop` returns no attention weights, which the penalty needs.
        penalty = self.training and self.doubly_stochastic > 0
        fusible = self.as_written() and self.fusible(memory, memory_mask, captions) and not penalty
        if not fusible or not isinstance(attention, AdditiveAttention):
            return super().forward(memory, memory_mask, captions)
        embedded = self.embedding_dropout(self.embedding(captions.inputs))
        weights = LoopWeights(
            attention.score.weight,
            attention.query.weight,
            self.context_gates.weight,
            self.state_gates.weight,
            self.state_gates.bias,
        )
        states = fused_loop(self.words(embedded), memory, attention.keys(memory), weights, captions)
        return DecoderOutput(self.compute_logits(states, embedded))

    def as_written(self) -> bool:
        """Return whether neither the class nor any part has been replaced or subclassed."""
        return self.consists_of_ours(AttentionGRUDecoder)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the state before the start token over memory (B, N, D), one row per image."""
        # Autocast's half precision does not make a search on a CPU faster.
        wider = self.word_gates.fixed and memory.device.type == "cpu" and memory.dtype == torch.bfloat16
        wider = wider and self.word_gates.weight.dtype == torch.float32
        return super().init_state(memory.float() if wider else memory, memory_mask)

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K)."""
        step = compiled_step(self, state)
        found = None if step is None else step(tokens, state)
        return super().step(tokens, state) if found is None else found

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the zero state."""
        return {"hidden": self.zeros(memory.shape[0])}

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor]) -> CellOutput:
        """Return the next state: attend with the previous one, then update it."""
        hidden = self.recurrent(state["hidden"], fixed)
        context, weights = self.attend(hidden, fixed)
        new = gru_update(words + self.context_gates(context), self.state_gates(hidden), state["hidden"])
        return CellOutput({"hidden": new}, new, weights)
