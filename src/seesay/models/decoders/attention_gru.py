"""The decoder of the tutorials: a GRU with attention over regions and a state carried between steps."""

from collections.abc import Mapping

from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.attention import Regions
from seesay.models.cells import gru_update
from seesay.models.loop import StepLinear
from seesay.models.products import Linear
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
        self.context_gates = StepLinear(config.projection_size, gates, bias=False)
        self.state_gates = StepLinear(config.hidden_size, gates)
        self.output = output_layers(config, self.embedding)

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the zero state."""
        return {"hidden": self.zeros(memory.shape[0])}

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next state: attend with the previous one, then update it."""
        hidden = self.recurrent(state["hidden"], fixed)
        context, weights = self.attend(hidden, regions)
        new = gru_update(words + self.context_gates(context), self.state_gates(hidden), state["hidden"])
        return CellOutput({"hidden": new}, new, weights)
