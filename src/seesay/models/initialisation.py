"""Initial weights."""

from torch import nn

from seesay.models.cells import LSTMGates


def initialise_like_keras(module: nn.Module) -> None:
    """Initialise every weight as Keras does: Glorot uniform matrices, zero biases, embeddings in +-0.05.

    The tutorials' models use this for their recurrent matrices too. The forget gate's bias of an LSTM is 1. Layer norms
    keep torch's weight 1 and bias 0, which are Keras' too.
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
