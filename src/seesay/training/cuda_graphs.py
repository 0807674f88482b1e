"""Training steps as CUDA graphs: the thousand small kernels of a step are launched together.

Launching them one by one from Python takes longer than running them. A graph is valid for one shape; captions are
therefore padded to a multiple of `_LENGTH_MULTIPLE` tokens and all run as long as the longest of the batch
(`PaddedCaptions`); the loss ignores padding. The extra arithmetic costs less than the launches.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from seesay.config import DecodingOptions, TrainingConfig
from seesay.decoding.logits_processing import mask_special_tokens
from seesay.decoding.sampling import sample
from seesay.devices import choose_device
from seesay.errors import ConfigError
from seesay.models.captioning import CaptionModel
from seesay.models.hard_attention import HardAttentionLoss
from seesay.models.packing import PAD_ID, pad_to_longest
from seesay.models.protocol import DecoderState
from seesay.models.retrieved import RetrievedCaptions
from seesay.tokenizer import END_ID, START_ID
from seesay.training.distributed import process_counts
from seesay.training.losses import padded_cross_entropy
from seesay.training.scst import Samples, SelfCritic, sampled_loss, without_dropout

_LENGTH_MULTIPLE = 4
"""Captions are padded to a multiple of this number of tokens."""

_TOKENS_PER_GRAPH = 8
"""Tokens that a graph samples before the host checks whether all samples have finished."""

_MAX_GRAPHS = 64
"""Maximum number of graphs per function; batches of further shapes run without a graph."""

Tensors = tuple[Tensor, ...]


class Graph:
    """A function of tensors as a CUDA graph, for inputs of one shape; without a GPU the function is called.

    Any later run of any graph overwrites the outputs.

    Args:
        function: maps tensors to tensors. It must not synchronise with the device, and the other tensors it reads, such
            as weights, must keep their addresses.
        inputs: the first inputs.
        device: device of the inputs.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor, device: torch.device) -> None:
        self.function = function
        self.device = device
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        self.outputs: Any = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the function's outputs."""
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        if self.device.type != "cuda":
            self.outputs = self.function(*self.inputs)
            return self.outputs
        self._graph = self._graph or self._capture()
        self._graph.replay()
        return self.outputs

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture the function. It keeps the state of the random generators, so that the first call is no exception."""
        rng_state = torch.cuda.get_rng_state()
        torch.clear_autocast_cache()  # otherwise the graph would read weights that were cast for this step only
        warmup = _warmup_stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            self.function(*self.inputs)
            torch.clear_autocast_cache()
        torch.cuda.current_stream().wait_stream(warmup)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=_first_graph()[0].pool()):
                self.outputs = self.function(*self.inputs)
        except torch.OutOfMemoryError:  # a RuntimeError that --no-cuda-graphs would not fix
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"this network cannot be captured ({reason}); add --no-cuda-graphs") from error
        torch.clear_autocast_cache()
        torch.cuda.set_rng_state(rng_state)
        return graph


class Graphs:
    """A `Graph` per shape of the inputs; beyond `_MAX_GRAPHS` shapes the function is called.

    Args:
        function: see `Graph`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._graphs: dict[tuple[torch.Size, ...], Graph] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the function's outputs."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            if len(self._graphs) >= _MAX_GRAPHS:
                return self.function(*inputs)
            self._graphs[shapes] = Graph(self.function, *inputs, device=inputs[0].device)
        return self._graphs[shapes](*inputs)


@cache
def _warmup_stream() -> Any:
    """Return the stream of warm-up calls; a single one, since cuBLAS allocates a workspace per stream."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


@cache
def _first_graph() -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Return a trivial graph that is never freed.

    All other graphs share its memory pool, which would be lost with the last graph that uses it.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tensor = torch.zeros(1, device="cuda")
    return graph, tensor


class _WithGradients(torch.autograd.Function):
    """A loss with precomputed gradients."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *weights: Tensor) -> Tensor:
        # Cloned, since the next graph overwrites them before the backward pass.
        ctx.gradients = [None if gradient is None else gradient.clone() for gradient in gradients]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if gradient is None else gradient * grad for gradient in ctx.gradients))


@dataclass(frozen=True)
class _Loss:
    """A loss of a model with its gradients, as graphs.

    Attributes:
        graphs: return the loss, further outputs, and the gradients.
        weights: the trainable parameters.
    """

    graphs: Graphs
    weights: Sequence[Tensor]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensors]:
        """Return the loss, whose backward pass returns the gradients of the graph, and the further outputs."""
        loss, others, gradients = self.graphs(*inputs)
        found: Tensor = _WithGradients.apply(loss, gradients, *self.weights)
        return found, tuple(tensor.clone() for tensor in others)


class _Called(nn.Module):
    """A function of a model as a module, for `functional_call`."""

    def __init__(self, model: nn.Module, function: Callable[..., tuple[Tensor, Tensors]]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensors]:
        return self.function(*inputs)


def _loss(model: nn.Module, function: Callable[..., tuple[Tensor, Tensors]]) -> _Loss:
    called = _Called(model, function)
    named = {name: weight for name, weight in called.named_parameters() if weight.requires_grad}

    def loss_and_gradients(*inputs: Tensor) -> tuple[Tensor, Tensors, Tensors]:
        # Views of the parameters: autograd binds a parameter's node to the stream that used it first, which a capture
        # must not touch.
        own = {name: weight.detach().requires_grad_() for name, weight in named.items()}
        with torch.enable_grad():
            loss, others = functional_call(called, own, inputs)
            # Autocast is for the forward pass only; it would also round hand-written backward passes.
            with torch.autocast(loss.device.type, enabled=False):
                gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        return loss.detach(), tuple(tensor.detach() for tensor in others), gradients

    return _Loss(Graphs(loss_and_gradients), list(named.values()))


def uses_graphs(training: TrainingConfig, model: CaptionModel) -> bool:
    """Return whether training steps can be captured: on one GPU, for a network with a fixed sequence of kernels.

    cuDNN's recurrent layers already use few kernels; hard attention synchronises to check its probabilities; retrieved
    captions are features with a gradient and a mask, which a graph does not support.
    """
    if not training.cuda_graphs or not choose_device(training.device).startswith("cuda"):
        return False
    excluded = (nn.RNNBase, HardAttentionLoss, RetrievedCaptions)
    return process_counts(training) == (1, 1) and not any(isinstance(part, excluded) for part in model.modules())


class GraphedTrainStep:
    """The cross-entropy training step as CUDA graphs.

    Args:
        model: the model; its weights must keep their addresses.
        label_smoothing: see `cross_entropy`.
    """

    def __init__(self, model: CaptionModel, label_smoothing: float) -> None:
        def step_loss(features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensors]:
            captions = pad_to_longest(tokens)
            logits, penalty_of = model.forward_with_penalty(features, None, captions)
            penalty = torch.zeros((), device=features.device) + penalty_of()
            cross_entropy_rows = padded_cross_entropy(logits, captions.targets, label_smoothing)
            return cross_entropy_rows + penalty, (penalty,)

        self._loss = _loss(model, step_loss)

    def __call__(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy, with the gradient of both, and the decoder's penalty, in nats per token.

        Args:
            features: (B, N, F).
            tokens: (B, C, T).
        """
        loss, (penalty,) = self._loss(features, _pad_length(tokens))
        return loss - penalty, penalty


@dataclass(frozen=True)
class GraphedCritic(SelfCritic):
    """The SCST loss with sampling and gradients as CUDA graphs, for a single model."""

    @cached_property
    def _rollouts(self) -> dict[torch.Size, "Rollout"]:
        return {}

    @cached_property
    def _losses(self) -> dict[CaptionModel, _Loss]:
        return {}

    def sample(self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None) -> Samples:
        """Return K independent samples per image, equal to those of `SelfCritic`."""
        if memory_mask is not None or (features.shape not in self._rollouts and len(self._rollouts) >= _MAX_GRAPHS):
            return super().sample(model, features, memory_mask)
        if features.shape not in self._rollouts:
            self._rollouts[features.shape] = Rollout(model, self.sampling)
        return self._rollouts[features.shape](features.detach(), self.draws(len(features), features.device))

    def loss(
        self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None, samples: Samples, advantages: Tensor
    ) -> Tensor:
        """Return the loss of samples with the given advantages, (B, K).

        It runs without a graph if the encoder is trained, since a graph computes no gradient of the features.
        """
        if memory_mask is not None or features.requires_grad:
            return super().loss(model, features, memory_mask, samples, advantages)
        if model not in self._losses:
            self._losses[model] = _loss(model, partial(self._padded_loss, model))
        device = features.device
        inputs = (_pad_length(samples.tokens), samples.cut, advantages.float())
        loss, _ = self._losses[model](features, *(tensor.to(device) for tensor in inputs))
        return loss

    def _padded_loss(
        self, model: CaptionModel, features: Tensor, tokens: Tensor, cut: Tensor, advantages: Tensor
    ) -> tuple[Tensor, Tensors]:
        captions = pad_to_longest(tokens)
        with contextlib.nullcontext() if self.dropout else without_dropout(model):
            logits = model(features, None, captions)
        return sampled_loss(logits, captions, cut, advantages, self.options.allow_unk), ()


class Rollout:
    """Samples captions like `sample_captions`, with `_TOKENS_PER_GRAPH` tokens per graph.

    Args:
        model: the model.
        options: `max_length`, `allow_unk` and the sampling options.
    """

    def __init__(self, model: CaptionModel, options: DecodingOptions) -> None:
        self.model, self.options = model, options
        self._graphs: list[Graph] = []
        self._inputs: Tensors = ()

    def __call__(self, features: Tensor, draws: Tensor) -> Samples:
        """Return the samples.

        Args:
            features: (B, N, F), of the same shape in every call.
            draws: uniform numbers in [0, 1), (B, K, max_length + 1).
        """
        self._inputs = self._inputs or (features.clone(), draws.clone())
        for static, tensor in zip(self._inputs, (features, draws), strict=True):
            static.copy_(tensor)
        tokens: list[Tensor] = []
        for number in range(-(-draws.shape[2] // _TOKENS_PER_GRAPH)):
            if number == len(self._graphs):
                self._graphs.append(Graph(partial(self._sample_tokens, number), device=features.device))
            words, _ = self._graphs[number]()
            tokens.append(words.cpu())
            if (torch.cat(tokens, -1) == END_ID).any(-1).all():
                break
        return samples_of(torch.cat(tokens, -1), self.options.max_length)

    @torch.no_grad()
    def _sample_tokens(self, number: int) -> tuple[Tensor, DecoderState]:
        """Return the tokens of graph `number`, (B, K, at most 8), and the state after them."""
        features, draws = self._inputs
        with without_dropout(self.model):
            decoder = self.model.step_decoder
            if number == 0:
                rows = torch.zeros(draws.shape[:2], dtype=torch.int64, device=draws.device)
                state = decoder.init_state(self.model.project(features), None).pick(rows)
                words = torch.full_like(rows, START_ID)
            else:
                before, state = self._graphs[number - 1].outputs
                words = before[..., -1]
            found = []
            for draw in draws[..., number * _TOKENS_PER_GRAPH : (number + 1) * _TOKENS_PER_GRAPH].unbind(-1):
                output = decoder.step(words, state)
                state = output.state
                words = sample(mask_special_tokens(output.logits, self.options.allow_unk), draw, self.options)
                found.append(words)
        return torch.stack(found, -1), state


def samples_of(sampled: Tensor, max_length: int) -> Samples:
    """Return the captions of sampled tokens.

    Args:
        sampled: (B, K, T) int64, up to the end of all captions or `max_length` + 1 tokens; tokens after a caption's end
            are ignored.
        max_length: maximum number of words; a caption whose next token is not the end is truncated.
    """
    over = (sampled == END_ID).cumsum(-1) > 0
    cut = ~over.any(-1)
    words = sampled.masked_fill(over, PAD_ID)[..., :max_length]
    tokens = F.pad(words, (1, 1), value=PAD_ID)
    tokens[..., 0] = START_ID
    lengths = (words != PAD_ID).sum(-1, keepdim=True)
    tokens = tokens.scatter(-1, 1 + lengths, END_ID)
    return Samples(tokens[..., : 2 + int(lengths.max())].contiguous(), cut)


def _pad_length(tokens: Tensor) -> Tensor:
    """Return captions (B, C, T) padded to a multiple of `_LENGTH_MULTIPLE` words, so that few shapes occur."""
    return F.pad(tokens, (0, -(tokens.shape[-1] - 1) % _LENGTH_MULTIPLE), value=PAD_ID)
