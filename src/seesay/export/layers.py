"""Layers in a form that can be exported."""

import copy

import torch
from torch import Tensor, nn

from seesay.models.cells import gru_update


class OneStepGRU(nn.Module):
    """One step of a `torch.nn.GRU`, in basic operations.

    Args:
        gru: the GRU whose weights are shared; `batch_first`, with biases, unidirectional.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.hidden_size = gru.hidden_size
        self.weights = nn.ParameterList(parameter for layer in gru.all_weights for parameter in layer)

    def forward(self, words: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (R, 1, H) and the next state (L, R, H) for embedded words (R, 1, E)."""
        output, states = words[:, 0], []
        for layer in range(len(self.weights) // 4):
            inputs, recurrent, input_bias, recurrent_bias = self.weights[4 * layer : 4 * layer + 4]
            gates = nn.functional.linear(output, inputs, input_bias)
            output = gru_update(gates, nn.functional.linear(hidden[layer], recurrent, recurrent_bias), hidden[layer])
            states.append(output)
        return output[:, None], torch.stack(states)


def exportable(decoder: nn.Module) -> nn.Module:
    """Return a copy of a decoder whose step uses basic operations and any number of images."""
    decoder = copy.deepcopy(decoder)
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GRU):
                setattr(parent, name, OneStepGRU(child))
    return decoder
