"""Luong's decoder: the GRU first, then attention, whose result is fed to the next step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.attention import Regions
from seesay.models.cells import gru_update, masked_mean
from seesay.models.loop import StepLinear
from seesay.models.products import Linear
from seesay.models.recurrent import OPTIONS, CellOutput, RecurrentDecoder, Tensors
from seesay.models.registry import register_decoder
from seesay.models.vocabulary import vocabulary_layer


@register_decoder("luong", OPTIONS.union(("output_size",)))
class LuongGRUDecoder(RecurrentDecoder):
    """A GRU whose current state, instead of the previous one, queries the attention.

    Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation": the current state queries
    the context (section 3.1); the attentional state tanh(W_c [context; state]) (eq. 5) is the input of the vocabulary
    layer (eq. 6) and, with the word, of the next step (input feeding, section 3.3). The paper has an LSTM over words;
    here a GRU starts from the mean region. The width of the attentional state is `model.output_size`.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        gates, wide = 3 * config.hidden_size, config.output_size
        self.wide = wide
        self.first_hidden = Linear(config.projection_size, config.hidden_size)
        self.word_gates = Linear(config.embedding_size, gates)
        self.fed_gates = StepLinear(wide, gates, bias=False)
        self.state_gates = StepLinear(config.hidden_size, gates)
        self.context_part = StepLinear(config.projection_size, wide, bias=False)
        self.state_part = StepLinear(config.hidden_size, wide)
        self.output = vocabulary_layer(config, wide, self.embedding)

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the first state from the mean region, with a zero attentional state."""
        hidden = torch.tanh(self.first_hidden(masked_mean(memory, memory_mask)))
        zeros = self.embedding.weight.new_zeros(memory.shape[0], self.wide)
        return {"hidden": hidden.to(zeros.dtype), "fed": zeros}

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next state: update it, then attend with it."""
        gates = words + self.fed_gates(state["fed"])
        hidden = gru_update(gates, self.state_gates(self.recurrent(state["hidden"], fixed)), state["hidden"])
        context, weights = self.attend(hidden, regions)
        attentional = torch.tanh(self.context_part(context) + self.state_part(hidden)).to(hidden.dtype)
        return CellOutput({"hidden": hidden, "fed": attentional}, attentional, weights)
