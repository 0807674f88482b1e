"""Show, Attend and Tell: an LSTM with a gated context, a deep output, and soft or hard attention."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models.attention import Regions
from seesay.models.cells import LSTMGates, lstm_update, masked_mean
from seesay.models.hard_attention import HardAttentionLoss, sample_regions
from seesay.models.loop import StepLinear
from seesay.models.products import Linear
from seesay.models.recurrent import OPTIONS, CellOutput, RecurrentDecoder, SequenceOutput, Tensors
from seesay.models.registry import register_decoder
from seesay.models.vocabulary import vocabulary_layer


@register_decoder("show-attend-tell", OPTIONS.union(("attention", "hard_reward", "hard_entropy", "hard_share")))
class ShowAttendTellDecoder(RecurrentDecoder):
    """The decoder of Xu et al. 2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention".

    It implements the LSTM of eq. 1-3, with initial state and cell from the mean region through a layer each; the
    context gated by beta (section 4.2.1); the deep output of eq. 7; the doubly stochastic penalty of eq. 14
    (`model.doubly_stochastic`). With `model.attention=hard`, training samples one region per word (section 4.1) in
    `model.hard_share` of the captions; the others use the weighted mean, in the paper half of them. Outside training
    hard attention uses the weighted mean too: the weights were trained with it on the other captions, it approximates
    the expectation over the samples (section 4.2), and it is deterministic.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        memory, words, hidden = config.projection_size, config.embedding_size, config.hidden_size
        self.hard = config.attention == "hard"
        self.hard_share = config.hard_share
        self.hard_loss = HardAttentionLoss(config.hard_reward, config.hard_entropy) if self.hard else None
        self.first_hidden = Linear(memory, hidden)
        self.first_cell = Linear(memory, hidden)
        self.word_gates = LSTMGates(words, 4 * hidden)
        self.context_gates = StepLinear(memory, 4 * hidden, bias=False)
        self.state_gates = StepLinear(hidden, 4 * hidden, bias=False)  # its bias would add to the words'
        self.beta = StepLinear(hidden, 1)
        self.hidden_output = Linear(hidden, words)
        self.context_output = Linear(memory, words, bias=False)
        self.output = vocabulary_layer(config, words, self.embedding)

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the initial state and cell from the mean region."""
        mean = masked_mean(memory, memory_mask)
        hidden, cell = torch.tanh(self.first_hidden(mean)), torch.tanh(self.first_cell(mean))
        dtype = self.embedding.weight.dtype  # bfloat16 training keeps the state in the precision of the weights
        return {"hidden": hidden.to(dtype), "cell": cell.to(dtype)}

    def dropout_masks(self, rows: int) -> Tensors:
        """Return the masks, with `is_sampled` (R,) bool: captions whose regions are sampled."""
        masks = super().dropout_masks(rows)
        if self.hard and self.training:
            masks["is_sampled"] = torch.rand(rows, device=self.embedding.weight.device) < self.hard_share
        return masks

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next state: attend with the previous one, gate the context, then update."""
        hidden = self.recurrent(state["hidden"], fixed)
        draw = None
        if "is_sampled" in fixed:
            weights = self.attention.weigh(hidden, regions)
            region, draw = sample_regions(weights)
            attended = torch.where(fixed["is_sampled"][..., None], region, self.attention.dropout(weights))
            context = self.attention.context(attended, regions)
        else:
            context, weights = self.attend(hidden, regions)
        context = torch.sigmoid(self.beta(hidden)) * context
        gates = [words, self.context_gates(context), self.state_gates(hidden)]
        new, cell = lstm_update(gates, state["cell"])
        return CellOutput({"hidden": new, "cell": cell}, torch.cat([new, context.to(new.dtype)], -1), weights, draw)

    def compute_logits(self, output: Tensor, embedded: Tensor) -> Tensor:
        """Return the logits (..., V): L_o (E y + L_h h + L_z z), eq. 7."""
        hidden, context = output[..., : self.hidden_size], output[..., self.hidden_size :]
        deep = embedded + self.hidden_output(self.output_dropout(hidden)) + self.context_output(context)
        logits: Tensor = self.output(self.output_dropout(deep))
        return logits

    def penalty(self, sequence: SequenceOutput) -> Tensor | float:
        """Return the doubly stochastic penalty plus, with hard attention, the loss of the sampled regions."""
        penalty = super().penalty(sequence)
        return penalty + self.hard_loss(sequence) if self.hard_loss is not None and self.training else penalty
