"""The tutorials' decoder's step in one call of C, for searches on a processor by weights that do not change."""

import ctypes
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seesay.models.attention import AdditiveAttention
from seesay.models.kernels import Kernels, kernels_for
from seesay.models.products import Linear
from seesay.models.protocol import DecoderState, StepOutput

if TYPE_CHECKING:
    from seesay.models.decoders.attention_gru import AttentionGRUDecoder

_SIZES = ("size", "hidden", "units", "dense_size", "words")
_WEIGHTS = (
    *("word_gates", "query", "score", "context_gates", "state_gates", "state_bias"),
    *("dense", "dense_bias", "vocabulary", "vocabulary_bias"),
)


class _Struct(ctypes.Structure):
    """`struct attention_gru` of kernels.c."""

    _fields_ = [(name, ctypes.c_longlong) for name in _SIZES] + [(name, ctypes.c_void_p) for name in _WEIGHTS]


class CompiledStep:
    """The step of an `AttentionGRUDecoder` with additive attention, in evaluation and without masks.

    Several threads may take steps at once: nothing here changes after it is made.

    Args:
        decoder: whose weights it keeps as they are now.
        attention: its attention.
        kernels: where it is computed.
    """

    def __init__(self, decoder: "AttentionGRUDecoder", attention: AdditiveAttention, kernels: Kernels) -> None:
        layers = list(decoder.output) if isinstance(decoder.output, nn.Sequential) else [decoder.output]
        dense, vocabulary = cast("list[Linear | None]", [None, *layers])[-2:]
        assert vocabulary is not None
        with torch.autocast("cpu", enabled=False):
            words = decoder.words(decoder.embedding.weight)
        # Kept, as the struct holds nothing but their places.
        self._tensors: dict[str, Tensor | None] = {
            # A product less in each step, for some 20 MB.
            "word_gates": words.contiguous(),
            "query": kernels.pack_rows(attention.query.matrix),
            "score": attention.score.weight[0].clone(),
            "context_gates": kernels.pack_rows(decoder.context_gates.matrix),
            "state_gates": kernels.pack_rows(decoder.state_gates.matrix),
            "state_bias": decoder.state_gates.bias.clone(),
            "dense": None if dense is None else kernels.pack_rows(dense.matrix),
            "dense_bias": None if dense is None else dense.bias.clone(),
            "vocabulary": kernels.pack_rows(vocabulary.matrix),
            "vocabulary_bias": vocabulary.bias.clone(),
        }
        sizes = {
            "size": decoder.context_gates.in_features,
            "hidden": decoder.hidden_size,
            "units": len(attention.query.matrix),
            "dense_size": 0 if dense is None else dense.out_features,
            "words": len(vocabulary.matrix),
        }
        places = {name: None if tensor is None else tensor.data_ptr() for name, tensor in self._tensors.items()}
        self._struct = _Struct(**sizes, **places)
        self._kernels = kernels
        self._parts, self._layers = _parts_of(decoder), (decoder.word_gates, decoder.state_gates, vocabulary)

    def holds_for(self, decoder: "AttentionGRUDecoder") -> bool:
        """Tells whether the decoder has its parts still, and their weights are fixed still."""
        return _parts_of(decoder) == self._parts and all(layer.fixed for layer in self._layers)

    def __call__(self, tokens: Tensor, state: DecoderState) -> StepOutput | None:
        """Returns what the decoder's `step` does; None where the state is not of a kind that C reads."""
        hidden, tokens = state.per_row["hidden"].contiguous(), tokens.contiguous()
        keys, memory = state.per_image["search_keys"], state.per_image["memory"]
        widths = (hidden.shape[-1], keys.shape[-1], memory.shape[-1])
        fits = tokens.dtype == torch.int64 and widths == (self._struct.hidden, self._struct.units, self._struct.size)
        if not fits or kernels_for(hidden, keys, memory) is None:
            return None
        shapes = (hidden.shape, (*tokens.shape, memory.shape[2]), (*tokens.shape, self._struct.words))
        new, weights, logits = (hidden.new_empty(shape) for shape in shapes)
        self._kernels.attention_gru_step(self._struct, tokens, (hidden, keys, memory), (new, weights, logits))
        return StepOutput(logits, DecoderState(state.per_image, {"hidden": new}), weights)


# Not in the decoders themselves, so that these are copied and saved without.
_steps: WeakKeyDictionary[nn.Module, CompiledStep] = WeakKeyDictionary()


def compiled_step(decoder: "AttentionGRUDecoder", state: DecoderState) -> CompiledStep | None:
    """Returns the decoder's compiled step, if its weights are fixed and C can do what it does."""
    if decoder.training or torch.is_grad_enabled() or set(state.per_image) != {"search_keys", "memory"}:
        return None
    found = _steps.get(decoder)
    if found is None or not found.holds_for(decoder):
        _steps.pop(decoder, None)
        attention, fixed = decoder.attention, all(part.fixed for part in decoder.modules() if isinstance(part, Linear))
        kernels = kernels_for(*decoder.parameters()) if fixed and decoder.as_written() else None
        if kernels is None or not isinstance(attention, AdditiveAttention):
            return None
        found = _steps[decoder] = CompiledStep(decoder, attention, kernels)
    return found


def _parts_of(decoder: "AttentionGRUDecoder") -> tuple[nn.Module, ...]:
    return decoder.word_gates, decoder.context_gates, decoder.state_gates, decoder.attention, decoder.output
