"""The vocabulary layer: tied to the embeddings, or initialised from word frequencies."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seesay.config import ModelConfig
from seesay.errors import ConfigError
from seesay.models.products import Linear


class VocabularyLayer(Linear):
    """A linear layer to the vocabulary, optionally tied to the word embeddings.

    A tied layer owns only its bias and reads the embedding's matrix at each call, so that the matrix is one parameter
    of the optimizer and one tensor on disk. Press and Wolf 2017, "Using the Output Embedding to Improve Language
    Models".

    Args:
        width: width of the input.
        vocabulary_size: V.
        tied: the embedding (V, width) to share, if any.
    """

    def __init__(self, width: int, vocabulary_size: int, tied: nn.Embedding | None = None) -> None:
        super().__init__(width, vocabulary_size)
        self._tied = () if tied is None else (tied,)  # a tuple, so that torch does not register the module
        if tied is not None:
            self.register_parameter("weight", None)

    @property
    def matrix(self) -> Tensor:
        """The weight matrix, (V, width)."""
        return self._tied[0].weight if self._tied else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (..., V) of hidden states (..., width)."""
        plain = x.ndim == 2 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not plain or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        logits: Tensor = _Logits.apply(x, self.matrix, self.bias)
        return logits


class _Logits(torch.autograd.Function):
    """A linear layer with its result in `aligned_rows`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.addmm(bias, x, weight.T, out=aligned_rows(len(x), len(weight), x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.mm(grad, weight) if needs_x else None,
            torch.mm(grad.T, x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def aligned_rows(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return an uninitialised tensor (rows, columns) whose rows are 64 bytes or a multiple of them apart.

    Matrix products with rows of an odd number of values, as vocabularies often have, take up to twice the time.

    Args:
        rows: number of rows.
        columns: number of columns.
        like: tensor whose dtype and device are used.
    """
    # Not a view of a larger tensor, which could not be modified in place.
    return torch.empty_strided((rows, columns), (columns + -columns % 16, 1), dtype=like.dtype, device=like.device)


def vocabulary_layer(config: ModelConfig, width: int, embedding: nn.Embedding) -> VocabularyLayer:
    """Return the last layer of a decoder, tied to its embedding with `model.tie_weights`.

    Raises:
        ConfigError: `model.tie_weights` is set, but the sizes differ.
    """
    words, size = embedding.weight.shape
    if config.tie_weights and width != size:
        raise ConfigError(
            f"model.tie_weights needs equal widths, but model.embedding_size is {size} and the vocabulary layer has "
            f"{width} inputs (model.output_size, or model.hidden_size if that is 0)"
        )
    return VocabularyLayer(width, words, embedding if config.tie_weights else None)


def output_layers(config: ModelConfig, embedding: nn.Embedding) -> nn.Module:
    """Return the vocabulary layer, preceded by a dense layer unless `model.output_size` is 0.

    There is no activation between the two, as in the tutorials' models.
    """
    if config.output_size == 0:
        return vocabulary_layer(config, config.hidden_size, embedding)
    dense = Linear(config.hidden_size, config.output_size)
    return nn.Sequential(dense, vocabulary_layer(config, config.output_size, embedding))


@torch.no_grad()
def init_bias_from_frequencies(decoder: nn.Module, counts: Tensor) -> None:
    """Set the bias of a decoder's vocabulary layer to the log frequencies of the words.

    The softmax then starts at the unigram distribution. Counts are increased by 1, so that the bias is finite.

    Args:
        decoder: contains a `VocabularyLayer`.
        counts: number of occurrences of each token as a target, (V,).

    Raises:
        ConfigError: the decoder has no `VocabularyLayer`.
    """
    layers = [module for module in decoder.modules() if isinstance(module, VocabularyLayer)]
    if not layers:
        raise ConfigError("model.log_frequency_bias needs a decoder with a VocabularyLayer")
    smoothed = counts.to(layers[0].bias) + 1
    for layer in layers:
        layer.bias.copy_(torch.log(smoothed / smoothed.sum()))
