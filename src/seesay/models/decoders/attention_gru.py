"""The decoder of the tutorials: a GRU with attention over regions and a state carried between steps."""

from collections.abc import Mapping

from torch import Tensor

from seesay.config import ModelConfig
from seesay.kernels.attention_gru_step import AttentionGRUStep, AttentionGRUWeights
from seesay.kernels.native import native
from seesay.models.attention import AdditiveAttention, Regions
from seesay.models.cells import gru_update
from seesay.models.loop import StepLinear
from seesay.models.products import Linear, Prepackable, is_traced
from seesay.models.protocol import DecoderState, StepOutput
from seesay.models.recurrent import OPTIONS, CellOutput, RecurrentDecoder, Tensors
from seesay.models.registry import register_decoder
from seesay.models.vocabulary import output_layers


@register_decoder("attention", OPTIONS.union(("output_size",)))
class AttentionGRUDecoder(Prepackable, RecurrentDecoder):
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
        self._native_step: AttentionGRUStep | None = None

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the zero state."""
        return {"hidden": self.zeros(memory.shape[0])}

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next state: attend with the previous one, then update it."""
        hidden = self.recurrent(state["hidden"], fixed)
        context, weights = self.attend(hidden, regions)
        new = gru_update(words + self.context_gates(context), self.state_gates(hidden), state["hidden"])
        return CellOutput({"hidden": new}, new, weights)

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return logits (B, K, V) and attention (B, K, N) after `tokens` (B, K); in one native call if possible."""
        hidden, image = state.per_row["hidden"], state.per_image
        if not self.fixed or is_traced():
            return super().step(tokens, state)
        keys, memory = image["keys"][:, 0], image["memory"][:, 0]
        mask = image["memory_mask"][:, 0] if "memory_mask" in image else None
        inputs = (tokens, hidden, keys, memory, mask)
        step = self._pack_step() if native(*inputs) else None
        if step is None:
            return super().step(tokens, state)
        following, attention, logits = step(*inputs)
        return StepOutput(logits, DecoderState(image, {"hidden": following}), attention)

    def unpack(self) -> None:
        """Discard the packed weights."""
        super().unpack()
        self._native_step = None

    def _pack_step(self) -> AttentionGRUStep | None:
        """Return the step of the packed weights; None if it cannot be computed natively."""
        if self._native_step is None and isinstance(self.attention, AdditiveAttention):
            output: list[Linear] = [*self.output.children()] or [self.output]  # type: ignore[list-item]
            *dense, vocabulary = output
            layers = (self.attention.query, self.context_gates, self.state_gates, vocabulary, *dense)
            packed = [weight for layer in layers if (weight := layer.pack()) is not None]
            if len(packed) == len(layers):
                query, context, gates, words, *rest = packed
                self._native_step = AttentionGRUStep(
                    AttentionGRUWeights(
                        word_gates=self.words(self.embedding.weight),
                        query=query,
                        score=self.attention.score.weight.flatten(),
                        context_gates=context,
                        state_gates=gates,
                        state_bias=self.state_gates.bias,
                        dense=rest[0] if rest else None,
                        dense_bias=dense[0].bias if dense else None,
                        vocabulary=words,
                        vocabulary_bias=vocabulary.bias,
                    )
                )
        return self._native_step
