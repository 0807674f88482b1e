"""First weights."""

from torch import nn

from seesay.models.cells import LSTMGates


def initialise_like_keras(module: nn.Module) -> None:
    """Sets every weight as Keras would: Glorot uniform matrices, zero biases, embeddings in +-0.05.

    The tutorials' models start from these, their recurrent matrices included. An LSTM's forget gate starts open
    (bias 1), and layer norms stay as torch makes them, at one and zero, which is Keras' way too.
    """
    norms = {id(p) for part in module.modules() if isinstance(part, nn.LayerNorm) for p in part.parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) in norms:
            continue
        if parameter.ndim < 2:
            nn.init.zeros_(parameter)
        elif "embedding" in name:
            nn.init.uniform_(parameter, -0.05, 0.05)
        else:
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, LSTMGates):
            nn.init.ones_(part.bias.data.chunk(4)[1])
