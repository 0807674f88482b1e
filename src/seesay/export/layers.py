"""Layers in the form in which a graph can hold them."""

import copy

import torch
from torch import Tensor, nn

from seesay.models.attention import AdditiveAttention
from seesay.models.cells import gru_update


class OneStepGRU(nn.Module):
    """What a `torch.nn.GRU` does with one word, in operations that every exporter knows.

    Args:
        gru: whose weights it shares; `batch_first`, with biases, in one direction.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.hidden_size = gru.hidden_size
        self.weights = nn.ParameterList(parameter for layer in gru.all_weights for parameter in layer)

    def forward(self, words: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output (R, 1, H) and the next state (L, R, H) after words (R, 1, E)."""
        below, states = words[:, 0], []
        for layer in range(len(self.weights) // 4):
            inputs, recurrent, input_bias, recurrent_bias = self.weights[4 * layer : 4 * layer + 4]
            gates = nn.functional.linear(below, inputs, input_bias)
            below = gru_update(gates, nn.functional.linear(hidden[layer], recurrent, recurrent_bias), hidden[layer])
            states.append(below)
        return below[:, None], torch.stack(states)


def for_graph(decoder: nn.Module) -> nn.Module:
    """Returns a copy of a decoder whose steps hold for any number of images and are made of plain operations."""
    decoder = copy.deepcopy(decoder)
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GRU):
                setattr(parent, name, OneStepGRU(child))
            if isinstance(child, AdditiveAttention):
                child.in_parts = False
    return decoder
