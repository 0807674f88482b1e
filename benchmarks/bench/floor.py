"""Lower bound on the time of a training step: its necessary arithmetic at the machine's best measured rates.

The multiply-adds of the matrix products, forward and backward, and the evaluations of tanh are counted. What depends
only on the image counts once per image, and captions count their real tokens. Softmax and loss over the vocabulary,
dropout, the optimizer, weight averaging, sums, copies and memory traffic are not counted, so that the floor is below
what can be reached. See `docs/performance.md`.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.measuring import seconds
from seesay.config import ModelConfig
from seesay.models.attention import AdditiveAttention, Attention, DotAttention, MultiHeadAttention
from seesay.models.captioning import CaptionModel
from seesay.models.packing import PackedCaptions
from seesay.models.transformer_layer import TransformerLayer

# By the last part of a layer's name; all other layers are applied to every token.
_ONCE_PER_REGION = ("key", "key_value", "cross_keys")
_ONCE_PER_IMAGE = ("first_hidden", "first_cell", "mean_gates")
_PROJECTION = "projection.0"


@dataclass(frozen=True)
class Counts:
    """Sizes of a batch.

    Attributes:
        images: images B.
        regions: regions per image, N.
        tokens: real tokens M, over all captions.
        pairs: pairs of a token and one that it attends to (itself and the earlier ones), over all captions.
    """

    images: int
    regions: int
    tokens: int
    pairs: int

    @classmethod
    def of(cls, captions: PackedCaptions, images: int, regions: int) -> "Counts":
        """Return the sizes of a batch."""
        pairs = sum((step + 1) * size for step, size in enumerate(captions.sizes))
        return cls(images, regions, sum(captions.sizes), pairs)


@dataclass(frozen=True)
class Product:
    """A matrix product of a step.

    Attributes:
        name: of the layer.
        rows: number of input vectors.
        inner: input width.
        columns: output width.
        backward: number of products of the same size in the backward pass: one per factor with a gradient.
    """

    name: str
    rows: int
    inner: int
    columns: int
    backward: int = 2

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass."""
        return self.rows * self.inner * self.columns


@dataclass(frozen=True)
class NecessaryWork:
    """The arithmetic of one step.

    Attributes:
        products: all matrix products.
        tanh: evaluations of tanh, or of the logistic function, which is a tanh of half the argument.
    """

    products: tuple[Product, ...]
    tanh: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds, forward and backward."""
        return sum(product.multiply_adds * (1 + product.backward) for product in self.products)


def necessary_work(model: CaptionModel, config: ModelConfig, counts: Counts) -> NecessaryWork:
    """Return the necessary arithmetic of a training step of a captioner on stored features.

    Args:
        model: the captioner; only the sizes of its layers are used.
        config: of the model.
        counts: sizes of the batch.
    """
    products, tanh = [], counts.tokens * _cell_activations(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            rows = _rows(name, counts)
            products.append(Product(name, rows, module.in_features, module.out_features, _backward(name)))
        elif isinstance(module, nn.GRU):
            products += _stacked_gru(name, module, counts)
        elif isinstance(module, Attention):
            products += _attention(name, module, config, counts)
            if isinstance(module, AdditiveAttention):
                tanh += counts.tokens * counts.regions * config.attention_size
        elif isinstance(module, TransformerLayer):
            # Scores and weighted sum, over the earlier words and over the regions.
            products += [Product(f"{name}.words", 2 * counts.pairs, 1, config.hidden_size)]
            products += [Product(f"{name}.regions", 2 * counts.tokens, counts.regions, config.hidden_size)]
    return NecessaryWork(tuple(products), tanh)


def _backward(name: str) -> int:
    """Return the number of products of a layer's size in its backward pass."""
    # The features need no gradient; that of a score's input is an outer product.
    return 1 if name == _PROJECTION or name.endswith(".score") else 2


def _rows(name: str, counts: Counts) -> int:
    last = name.rpartition(".")[2]
    if name == _PROJECTION or last in _ONCE_PER_REGION:
        return counts.images * counts.regions
    if last == "score":  # additive attention: every token scores every region
        return counts.tokens * counts.regions
    return counts.images if last in _ONCE_PER_IMAGE else counts.tokens


def _stacked_gru(name: str, gru: nn.GRU, counts: Counts) -> Iterator[Product]:
    gates = 3 * gru.hidden_size
    for layer in range(gru.num_layers):
        inner = gru.hidden_size if layer else gru.input_size
        yield Product(f"{name}.input.{layer}", counts.tokens, inner, gates)
        yield Product(f"{name}.state.{layer}", counts.tokens, gru.hidden_size, gates)


def _attention(name: str, attention: Attention, config: ModelConfig, counts: Counts) -> Iterator[Product]:
    """Yield the products of the queries with their images' regions: scores, then the weighted sum."""
    memory = config.projection_size
    if isinstance(attention, MultiHeadAttention):
        yield Product(f"{name}.scores", counts.tokens, config.attention_size, counts.regions)
        memory = config.attention_size
    elif isinstance(attention, DotAttention):
        yield Product(f"{name}.scores", counts.tokens, config.hidden_size, counts.regions)
    yield Product(f"{name}.context", counts.tokens, counts.regions, memory)


def _cell_activations(config: ModelConfig) -> int:
    """Return the number of activations per token in recurrent cells: 3 H in a GRU, 5 H in an LSTM."""
    hidden = config.hidden_size
    return {
        "attention": 3 * hidden,
        "luong": 3 * hidden + config.output_size,
        "show-attend-tell": 5 * hidden + 1,
        "up-down": 10 * hidden,
        "pooled": 3 * hidden * config.num_layers,
        "transformer": 0,
    }[config.decoder]


class MachineRates:
    """The best rates of this process with its threads, measured at each call.

    Args:
        products: of the step; the largest shapes are measured in addition to squares.
        dtype: of the products and the tanh.
        device: where they run.
    """

    def __init__(self, products: Iterable[Product], dtype: torch.dtype, device: str = "cpu") -> None:
        self.dtype, self.device = dtype, device
        squares = (512, 1024, 2048) if device == "cpu" else (2048, 4096, 8192)
        shapes = [(size, size, size) for size in squares]
        for product in sorted(products, key=lambda each: -each.multiply_adds)[:3]:
            rows, inner, columns = product.rows, product.inner, product.columns
            shapes += [(rows, inner, columns), (rows, columns, inner), (columns, rows, inner)]
        self._shapes = list(dict.fromkeys(shapes))
        self._tanh_sizes = [1 << 14, 1 << 17, 1 << 20, 1 << 23] if device == "cpu" else [1 << 23, 1 << 26]

    def matrix(self) -> float:
        """Return the multiply-adds per second of the best shape and layout."""
        rates = {shape: max(self._product_rates(*shape)) for shape in self._shapes}
        self._shapes = sorted(rates, key=lambda shape: -rates[shape])[:3]  # later calls measure only the fastest
        return rates[self._shapes[0]]

    def _product_rates(self, rows: int, inner: int, columns: int) -> Iterator[float]:
        """Yield the rate of (rows, inner) times (inner, columns), plain and with either factor transposed."""
        left, right = self._random(rows, inner), self._random(inner, columns)
        out = torch.empty(rows, columns, dtype=self.dtype, device=self.device)
        other_left, other_right = left.T.contiguous().T, right.T.contiguous().T
        for a, b in ((left, right), (left, other_right), (other_left, right)):
            yield rows * inner * columns / self._median(lambda a=a, b=b: torch.mm(a, b, out=out))  # type: ignore[misc]

    def tanh(self) -> float:
        """Return the evaluations per second of the best size."""
        rates = {size: self._tanh_rate(size) for size in self._tanh_sizes}
        self._tanh_sizes = sorted(rates, key=lambda size: -rates[size])[:2]
        return rates[self._tanh_sizes[0]]

    def _tanh_rate(self, size: int) -> float:
        values = self._random(size)
        out, repeats = torch.empty_like(values), max(1, (1 << 20) // size)

        def work() -> None:
            for _ in range(repeats):
                torch.tanh(values, out=out)

        return size * repeats / self._median(work)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape).to(self.device, self.dtype)

    def _median(self, work: Callable[[], object], repeats: int = 3) -> float:
        def run() -> None:
            work()
            finish(self.device)

        run()
        return statistics.median(seconds(run) for _ in range(repeats))


def finish(device: str) -> None:
    """Wait until a device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Floor:
    """Lower bound on the time of a step.

    Attributes:
        products: seconds of its matrix products.
        tanh: seconds of its tanh.
    """

    products: float
    tanh: float

    @property
    def seconds(self) -> float:
        """Seconds in total."""
        return self.products + self.tanh


def floor_of(works: Iterable[NecessaryWork], matrix_rate: float, tanh_rate: float) -> Floor:
    """Return the lower bound for several steps at the given rates, in multiply-adds and evaluations per second."""
    listed = list(works)
    products = math.fsum(work.multiply_adds for work in listed) / matrix_rate
    return Floor(products, math.fsum(work.tanh for work in listed) / tanh_rate)
