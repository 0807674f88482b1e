"""The top-down decoder with an attention LSTM and a language LSTM."""

from collections.abc import Mapping

from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.attention import Regions
from seesay.models.cells import LSTMGates, lstm_update, masked_mean
from seesay.models.loop import StepLinear
from seesay.models.products import Linear
from seesay.models.recurrent import OPTIONS, CellOutput, RecurrentDecoder, Tensors
from seesay.models.registry import register_decoder
from seesay.models.vocabulary import output_layers


@register_decoder("up-down", OPTIONS.union(("output_size",)))
class UpDownDecoder(RecurrentDecoder):
    """The captioning model of Anderson et al. 2018, "Bottom-Up and Top-Down Attention", section 3.2, over any regions.

    The input of the attention LSTM is the language LSTM's previous output, the mean region and the word (eq. 2). Its
    output queries the attention (eq. 3-5). The input of the language LSTM is the context and that output (eq. 6); its
    output is the input of the vocabulary layer (eq. 7).
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        memory, hidden, gates = config.projection_size, config.hidden_size, 4 * config.hidden_size
        # Each LSTM's matrices in parts, so that the products of constant inputs are computed outside the loop.
        self.word_gates = LSTMGates(config.embedding_size, gates)
        self.mean_gates = Linear(memory, gates, bias=False)
        self.language_gates = StepLinear(hidden, gates, bias=False)
        self.attention_state_gates = StepLinear(hidden, gates, bias=False)
        self.context_gates = LSTMGates(memory, gates)
        self.attended_gates = StepLinear(hidden, gates, bias=False)
        self.language_state_gates = StepLinear(hidden, gates, bias=False)
        self.output = output_layers(config, self.embedding)

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return zeros for both LSTMs."""
        zeros = self.zeros(memory.shape[0])
        return dict.fromkeys(("attention_hidden", "attention_cell", "language_hidden", "language_cell"), zeros)

    def image(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the mean region's part of the attention LSTM's gates, (B, 4H)."""
        return {"mean_gates": self.mean_gates(masked_mean(memory, memory_mask))}

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next states of both LSTMs."""
        language = self.recurrent(state["language_hidden"], fixed)
        recurrent_gates = self.attention_state_gates(self.recurrent(state["attention_hidden"], fixed))
        gates = [words, fixed["mean_gates"], self.language_gates(language), recurrent_gates]
        query, attention_cell = lstm_update(gates, state["attention_cell"])
        context, weights = self.attend(query, regions)
        gates = [self.context_gates(context), self.attended_gates(query), self.language_state_gates(language)]
        new_language, language_cell = lstm_update(gates, state["language_cell"])
        new = {
            "attention_hidden": query,
            "attention_cell": attention_cell,
            "language_hidden": new_language,
            "language_cell": language_cell,
        }
        return CellOutput(new, new_language, weights)
