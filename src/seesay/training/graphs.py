"""Training steps on a GPU as CUDA graphs: the thousand small kernels of a step are launched at once.

One after the other, Python takes longer to launch them than the device to run them. A graph holds for one shape: so
captions are filled up to steps of four words, and run to the end of the batch's longest (`PaddedCaptions`), padding
included, which does not count. That is more arithmetic and much less time.
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
from seesay.tokenizer import END_ID, START_ID
from seesay.training.distributed import process_counts
from seesay.training.losses import padded_cross_entropy
from seesay.training.self_critical import Samples, SelfCritic, sampled_loss, without_dropout

_STEPS = 4
"""Captions are filled up to a multiple of so many words."""

_DRAWN = 8
"""Words that a graph draws before it is looked whether all samples have ended."""

_MOST_GRAPHS = 64
"""Graphs of a function; batches of still other shapes are computed without."""

Tensors = tuple[Tensor, ...]


class Graph:
    """A function of tensors as a CUDA graph, for inputs of one shape; elsewhere than on a GPU it is simply called.

    What it gives is overwritten when any graph runs again: take what is needed first.

    Args:
        function: tensors in, tensors out. It must not wait for the device, and all else that it reads (weights, above
            all) must stay where it is in memory.
        inputs: the first of them.
        device: where it runs.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor, device: torch.device) -> None:
        self.function = function
        self.device = device
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        self.outputs: Any = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """Returns what the function gives."""
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        if self.device.type != "cuda":
            self.outputs = self.function(*self.inputs)
            return self.outputs
        self._graph = self._graph or self._capture()
        self._graph.replay()
        return self.outputs

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Returns the function's kernels, written down. The generators' state stays: a first call is as any other."""
        chance = torch.cuda.get_rng_state()
        torch.clear_autocast_cache()  # else the graph would read weights that were rounded for this one step
        aside = _aside()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.function(*self.inputs)
            torch.clear_autocast_cache()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=_first_graph()[0].pool()):
                self.outputs = self.function(*self.inputs)
        except torch.OutOfMemoryError:  # a RuntimeError, which no other setting of graphs would mend
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"this network cannot be captured ({reason}); add --no-cuda-graphs") from error
        torch.clear_autocast_cache()
        torch.cuda.set_rng_state(chance)
        return graph


class Graphs:
    """The same for inputs of many shapes, a graph each; beyond `_MOST_GRAPHS` the function is called.

    Args:
        function: as of `Graph`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._graphs: dict[tuple[torch.Size, ...], Graph] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Returns what the function gives."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                return self.function(*inputs)
            self._graphs[shapes] = Graph(self.function, *inputs, device=inputs[0].device)
        return self._graphs[shapes](*inputs)


@cache
def _aside() -> Any:
    """Returns the stream that functions are first called on, one and the same: cuBLAS keeps memory for each stream."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


@cache
def _first_graph() -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Returns a graph that does next to nothing and is never freed.

    All others work in its memory: what one gives is good until the next one runs. Memory that graphs share goes with
    the last of them, and could not be shared again.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = torch.zeros(1, device="cuda")
    return graph, held


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are there already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *weights: Tensor) -> Tensor:
        # The next graph writes over both; what autograd keeps until the backward pass must be its own.
        ctx.gradients = [None if gradient is None else gradient.clone() for gradient in gradients]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if gradient is None else gradient * grad for gradient in ctx.gradients))


@dataclass(frozen=True)
class _Loss:
    """A loss of a model with its gradients, in graphs.

    Attributes:
        graphs: give the loss, what else is to be told, and the gradients.
        weights: of which gradients are wanted.
    """

    graphs: Graphs
    weights: Sequence[Tensor]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensors]:
        """Returns the loss, whose backward pass gives the gradients that the graph has worked out, and the rest."""
        loss, told, gradients = self.graphs(*inputs)
        found: Tensor = _WithGradients.apply(loss, gradients, *self.weights)
        return found, tuple(tensor.clone() for tensor in told)


class _Called(nn.Module):
    """A function of a model, as a module, whose parameters can be exchanged for a call."""

    def __init__(self, model: nn.Module, function: Callable[..., tuple[Tensor, Tensors]]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensors]:
        return self.function(*inputs)


def _loss(model: nn.Module, function: Callable[..., tuple[Tensor, Tensors]]) -> _Loss:
    called = _Called(model, function)
    named = {name: weight for name, weight in called.named_parameters() if weight.requires_grad}

    def both(*inputs: Tensor) -> tuple[Tensor, Tensors, Tensors]:
        # The same memory under other names: autograd's node of a parameter belongs to the stream that met it first,
        # which a graph must have nothing to do with.
        own = {name: weight.detach().requires_grad_() for name, weight in named.items()}
        with torch.enable_grad():
            loss, told = functional_call(called, own, inputs)
            # Autocast is for the way there: by itself it would round what plain code of a backward pass computes, too.
            with torch.autocast(loss.device.type, enabled=False):
                gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        return loss.detach(), tuple(tensor.detach() for tensor in told), gradients

    return _Loss(Graphs(both), list(named.values()))


def uses_graphs(training: TrainingConfig, model: CaptionModel) -> bool:
    """Tells whether a training's steps can be captured: on one GPU, of a network whose kernels are always the same.

    cuDNN's recurrent layers are few kernels as they are; hard attention asks the device whether its chances are sound.
    """
    if not training.cuda_graphs or not choose_device(training.device).startswith("cuda"):
        return False
    apart = (nn.RNNBase, HardAttentionLoss)
    return process_counts(training) == (1, 1) and not any(isinstance(part, apart) for part in model.modules())


class GraphedTrainStep:
    """The first stage's step in graphs.

    Args:
        model: the captioner; its weights stay where they are in memory.
        label_smoothing: of the cross-entropy.
    """

    def __init__(self, model: CaptionModel, label_smoothing: float) -> None:
        def taught(features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensors]:
            captions = pad_to_longest(tokens)
            logits, adds = model.teach(features, None, captions)
            penalty = torch.zeros((), device=features.device) + adds()
            cross_entropy_rows = padded_cross_entropy(logits, captions.targets, label_smoothing)
            return cross_entropy_rows + penalty, (penalty,)

        self._loss = _loss(model, taught)

    def __call__(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the cross-entropy and the decoder's penalty, nats a token; the gradient of both passes the first.

        Args:
            features: (B, N, F).
            tokens: (B, C, T).
        """
        loss, (penalty,) = self._loss(features, _filled_up(tokens))
        return loss - penalty, penalty


@dataclass(frozen=True)
class GraphedCritic(SelfCritic):
    """The second stage's loss with its samples and their gradients in graphs, of one and the same model."""

    @cached_property
    def _rollouts(self) -> dict[torch.Size, "Rollout"]:
        return {}

    @cached_property
    def _losses(self) -> dict[CaptionModel, _Loss]:
        return {}

    def sample(self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None) -> Samples:
        """Returns K independent samples of every image, from torch's global generator: those of `SelfCritic`."""
        if memory_mask is not None or (features.shape not in self._rollouts and len(self._rollouts) >= _MOST_GRAPHS):
            return super().sample(model, features, memory_mask)
        if features.shape not in self._rollouts:
            self._rollouts[features.shape] = Rollout(model, self.sampling)
        return self._rollouts[features.shape](features.detach(), self.draws(len(features), features.device))

    def loss(
        self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None, samples: Samples, advantages: Tensor
    ) -> Tensor:
        """Returns the loss of samples that are worth so much more than the baseline, (B, K).

        Not in a graph where features are an encoder's that learns: a graph's gradients are those of the model alone.
        """
        if memory_mask is not None or features.requires_grad:
            return super().loss(model, features, memory_mask, samples, advantages)
        if model not in self._losses:
            self._losses[model] = _loss(model, partial(self._padded_loss, model))
        device = features.device
        given = (_filled_up(samples.tokens), samples.cut, advantages.float())
        loss, _ = self._losses[model](features, *(tensor.to(device) for tensor in given))
        return loss

    def _padded_loss(
        self, model: CaptionModel, features: Tensor, tokens: Tensor, cut: Tensor, advantages: Tensor
    ) -> tuple[Tensor, Tensors]:
        captions = pad_to_longest(tokens)
        with contextlib.nullcontext() if self.dropout else without_dropout(model):
            logits = model(features, None, captions)
        return sampled_loss(logits, captions, cut, advantages, self.options.allow_unk), ()


class Rollout:
    """Samples of a batch of images, a few words a graph, as `sample_captions` draws them.

    Args:
        model: the captioner.
        options: `max_length`, whether the unknown word may be said, and how words are drawn.
    """

    def __init__(self, model: CaptionModel, options: DecodingOptions) -> None:
        self.model, self.options = model, options
        self._pieces: list[Graph] = []
        self._given: Tensors = ()

    def __call__(self, features: Tensor, draws: Tensor) -> Samples:
        """Returns the samples.

        Args:
            features: (B, N, F), always of the same shape.
            draws: uniform numbers in 0..1, (B, K, max_length + 1).
        """
        self._given = self._given or (features.clone(), draws.clone())
        for held, given in zip(self._given, (features, draws), strict=True):
            held.copy_(given)
        drawn: list[Tensor] = []
        for number in range(-(-draws.shape[2] // _DRAWN)):
            if number == len(self._pieces):
                self._pieces.append(Graph(partial(self._draw, number), device=features.device))
            words, _ = self._pieces[number]()
            drawn.append(words.cpu())
            if (torch.cat(drawn, -1) == END_ID).any(-1).all():
                break
        return samples_of(torch.cat(drawn, -1), self.options.max_length)

    @torch.no_grad()
    def _draw(self, number: int) -> tuple[Tensor, DecoderState]:
        """Returns the next words, (B, K, at most 8), and the state after them; goes on from the piece before."""
        features, draws = self._given
        with without_dropout(self.model):
            decoder = self.model.search
            if number == 0:
                rows = torch.zeros(draws.shape[:2], dtype=torch.int64, device=draws.device)
                state = decoder.init_state(self.model.project(features), None).pick(rows)
                words = torch.full_like(rows, START_ID)
            else:
                before, state = self._pieces[number - 1].outputs
                words = before[..., -1]
            found = []
            for draw in draws[..., number * _DRAWN : (number + 1) * _DRAWN].unbind(-1):
                output = decoder.step(words, state)
                state = output.state
                words = sample(mask_special_tokens(output.logits, self.options.allow_unk), draw, self.options)
                found.append(words)
        return torch.stack(found, -1), state


def samples_of(drawn: Tensor, longest: int) -> Samples:
    """Returns samples of what was drawn, (B, K, T) int64, word after word, whatever follows the first end.

    Args:
        drawn: until all have ended, or one word more than the longest.
        longest: words of a caption; where the word after these is not the end, the caption was cut.
    """
    over = (drawn == END_ID).cumsum(-1) > 0
    cut = ~over.any(-1)
    said = drawn.masked_fill(over, PAD_ID)[..., :longest]
    tokens = F.pad(said, (1, 1), value=PAD_ID)
    tokens[..., 0] = START_ID
    lengths = (said != PAD_ID).sum(-1, keepdim=True)
    tokens = tokens.scatter(-1, 1 + lengths, END_ID)
    return Samples(tokens[..., : 2 + int(lengths.max())].contiguous(), cut)


def _filled_up(tokens: Tensor) -> Tensor:
    """Returns captions (B, C, T) padded to a number of words of which there are few."""
    return F.pad(tokens, (0, -(tokens.shape[-1] - 1) % _STEPS), value=PAD_ID)
