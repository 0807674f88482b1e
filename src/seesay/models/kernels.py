"""The functions of kernels.c, where there is a compiler for them."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seesay.compiled import compiled

_SOURCE = Path(__file__).with_name("kernels.c")
_ALL = 0xFFFFFFFF


class Kernels:
    """Arithmetic on a processor, of contiguous tensors in float32, or bfloat16 where that is said.

    Args:
        library: kernels.c.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def additive_energies(self, keys: Tensor, factors: Tensor, score: Tensor, image_of_row: Tensor | None) -> Tensor:
        """Returns the energies (..., N) of additive attention but for what is the same for all regions.

        Args:
            keys: exp(2 k), (B, N, A).
            factors: exp(2 q), (..., A).
            score: v, (A,).
            image_of_row: (R,) int64 for factors (R, A); None = as many rows to each image, in their order.
        """
        images, regions, units = keys.shape
        rows = factors.numel() // units
        found = factors.new_empty(*factors.shape[:-1], regions)
        each = max(1, rows // images)
        self._library.additive_energies(keys, factors, score, image_of_row, each, rows, regions, units, found)
        return found

    def additive_attend(self, keys: Tensor, queries: Tensor, score: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the context (B, K, D) and the weights (B, K, N) of additive attention.

        Args:
            keys: exp(2 k), (B, N, A).
            queries: q, (B, K, A); overwritten.
            score: v, (A,).
            memory: (B, N, D).
        """
        images, rows = queries.shape[:2]
        weights = queries.new_empty(images, rows, keys.shape[1])
        context = queries.new_empty(images, rows, memory.shape[-1])
        self.attend(keys, queries, score, memory, None, images * rows, (queries, weights, context))
        return context, weights

    def additive_gradients(
        self, keys: Tensor, factors: Tensor, grad: Tensor, image_of_row: Tensor, sums: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Returns sum_n g r (1 - r), (R, A), of energies' gradients g (R, N), r as in `seesay.models.additive`.

        Args:
            keys: exp(2 k), (B, N, A).
            factors: exp(2 q), (R, A).
            grad: g, (R, N).
            image_of_row: (R,) int64.
            sums: to which g r (1 - r) of each region and unit is added, (B, N, A), and g r of each unit, (A,).
        """
        found = torch.empty_like(factors)
        sizes = len(factors), *keys.shape[1:]
        self._library.additive_gradients(keys, factors, grad, image_of_row, *sizes, found, *sums)
        return found

    def cross_entropy_rows(
        self, logits: Tensor, targets: Tensor, smoothing: float = 0.0, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the cross-entropy of each token, (M,) in nats, and log sum_v e^logit, (M,), both float32.

        Args:
            logits: (M, V), float32 or bfloat16.
            targets: (M,) int64.
            smoothing: share of the probability that is spread over the words.
            offsets: what is added to the logits first, 0 or -inf, (V,) float32; without smoothing alone.
        """
        log_sums, losses = (torch.empty(len(logits), dtype=torch.float32) for _ in range(2))
        self._library.cross_entropy_rows(
            logits, offsets, targets, *logits.shape, smoothing, log_sums, losses, _is_half(logits)
        )
        return losses, log_sums

    def cross_entropy_rows_backward(
        self,
        grad: Tensor,
        logits: Tensor,
        targets: Tensor,
        log_sums: Tensor,
        smoothing: float = 0.0,
        offsets: Tensor | None = None,
    ) -> Tensor:
        """Returns the gradient of the logits, (M, V) in their precision, of the cross-entropies', (M,) float32."""
        found = torch.empty_like(logits)
        given = logits, offsets, targets, log_sums, grad
        self._library.cross_entropy_rows_backward(*given, *logits.shape, smoothing, found, _is_half(logits))
        return found

    def dropout(self, x: Tensor, dropped: int, key: int) -> Tensor:
        """Returns x (...), float32 or bfloat16, with some elements zero and the others larger for it.

        Args:
            x: any shape.
            dropped: 2^32 times the share that is zero, below 2^32.
            key: 64 bits, of which it hangs which ones are.
        """
        found = torch.empty_like(x)
        scale = (_ALL + 1) / (_ALL + 1 - dropped)
        self._library.dropout(x, x.numel(), key & _ALL, key >> 32 & _ALL, dropped, scale, found, _is_half(x))
        return found

    def gru(self, input_gates: Tensor, state_gates: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a GRU's next state like `hidden` (..., H) float32, and its three gates (..., 3H) float32.

        Args:
            input_gates: (..., 3H), float32 or bfloat16.
            state_gates: the same.
            hidden: (..., H).
        """
        new, kept = torch.empty_like(hidden), hidden.new_empty(state_gates.shape)
        rows = hidden.numel() // hidden.shape[-1]
        self.loop_gru(input_gates, None, state_gates, hidden, rows, (new, None, kept))
        return new, kept

    def gru_backward(
        self, grad: Tensor, state_gates: Tensor, hidden: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of input gates, state gates and state of that of the next state, (..., H) float32."""
        results = torch.empty_like(state_gates), torch.empty_like(state_gates), torch.empty_like(hidden)
        rows = hidden.numel() // hidden.shape[-1]
        self.loop_gru_backward(None, (grad, None), rows, (state_gates, hidden, kept), rows, results)
        return results

    def lstm(self, parts: Sequence[Tensor], cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns an LSTM's next state and cell like `cell`, and (..., 5H) float32 for `lstm_backward`.

        Args:
            parts: whose sum is the gates, (..., 4H) each, float32 or bfloat16.
            cell: (..., H) float32.
        """
        size = cell.shape[-1]
        hidden, new, kept = torch.empty_like(cell), torch.empty_like(cell), cell.new_empty(*cell.shape[:-1], 5 * size)
        places = (ctypes.c_void_p * len(parts))(*[part.data_ptr() for part in parts])
        rows = cell.numel() // size
        self._library.lstm(places, len(parts), cell, rows, size, hidden, new, kept, _is_half(parts[0]))
        return hidden, new, kept

    def lstm_backward(
        self, hidden_grad: Tensor, new_grad: Tensor, cell: Tensor, kept: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of each part of the gates (..., 4H) and of the cell (..., H) float32.

        Args:
            hidden_grad: of the next state, (..., H) float32.
            new_grad: of the next cell, likewise.
            cell: the cell before.
            kept: from `lstm`.
            dtype: of the parts.
        """
        size = cell.shape[-1]
        gates = cell.new_empty(*cell.shape[:-1], 4 * size, dtype=dtype)
        cell_grad, rows = torch.empty_like(cell), cell.numel() // size
        self._library.lstm_backward(hidden_grad, new_grad, cell, kept, rows, size, gates, cell_grad, _is_half(gates))
        return gates, cell_grad

    def rmsprop(self, weights: Tensor, grad: Tensor, average: Tensor, factors: Sequence[float]) -> None:
        """Takes a step of RMSprop; see kernels.c.

        Args:
            weights: to be changed.
            grad: of the same shape.
            average: mean of the squared gradients, which is changed too.
            factors: share of the mean that stays, what is added to its root, learning rate, decay of the weights.
        """
        self._library.rmsprop(weights, grad, average, weights.numel(), *factors)

    def pack_rows(self, weight: Tensor) -> Tensor:
        """Returns a weight (O, I) in the order in which `rows_product` reads it, (blocks, I, width)."""
        width: int = self._library.block_width()
        blocks = -(-len(weight) // width)
        filled = torch.cat([weight, weight.new_zeros(blocks * width - len(weight), weight.shape[1])])
        return filled.view(blocks, width, -1).transpose(1, 2).contiguous()

    def rows_product(self, x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
        """Returns W x + b, (..., O), of rows (..., I); each row's bits are the same whatever rows are beside it.

        Args:
            x: rows.
            weight: W from `pack_rows`.
            bias: b, (O,).
            outputs: O.
        """
        found = x.new_empty(*x.shape[:-1], outputs)
        inner = x.shape[-1]
        self._library.rows_product(x, weight, bias, x.numel() // inner, inner, outputs, found)
        return found

    def attention_gru_step(
        self, weights: ctypes.Structure, tokens: Tensor, given: Sequence[Tensor], results: Sequence[Tensor]
    ) -> None:
        """Takes a step of the tutorials' decoder; see kernels.c.

        Args:
            weights: `struct attention_gru`.
            tokens: (B, K) int64.
            given: hidden (B, K, H), keys exp(2 k) (B, 1, N, A), memory (B, 1, N, D).
            results: to be filled: hidden (B, K, H), weights (B, K, N), logits (B, K, V).

        Raises:
            IndexError: a token is no word of the vocabulary.
        """
        place, rows = ctypes.byref(weights), tokens.numel()
        room = given[0].new_empty(self._library.attention_gru_room(place, rows))
        sizes = tokens.shape[1], rows, given[1].shape[2]
        if self._library.attention_gru_step(place, tokens, *given, *sizes, room, *results):
            raise IndexError(f"a word's id is not within the vocabulary: {int(tokens.min())} to {int(tokens.max())}")

    def attend(
        self,
        keys: Tensor,
        projected: Tensor,
        score: Tensor,
        memory: Tensor,
        image_of_row: Tensor | None,
        rows: int,
        results: Sequence[Tensor],
    ) -> None:
        """Attends additively.

        Args:
            keys: exp(2 k), (B, N, A).
            projected: (>= R, A and more) float32 or bfloat16, which begin with the queries.
            score: v, (A,).
            memory: (B, N, D).
            image_of_row: (>= R,) int64; None = as many rows to each image, in their order.
            rows: R.
            results: to be filled: factors exp(2 q) (R, A), weights (R, N), context (R, D) in the precision of
                `projected`, whose place the factors may take.
        """
        sizes = max(1, rows // len(keys)), rows, *keys.shape[1:], projected.shape[-1], memory.shape[2]
        given = keys, projected, score, memory, image_of_row
        self._library.attend(*given, *sizes, *results, _is_half(projected))

    def attend_backward(
        self,
        given: Sequence[Tensor],
        looked: Sequence[Tensor],
        grad: Tensor,
        image_of_row: Tensor,
        rows: int,
        sums: Sequence[Tensor],
        projected_grad: Tensor,
        more: Tensor | None = None,
    ) -> None:
        """The way back through `attend`.

        Args:
            given: keys, score and memory, as there.
            looked: factors and weights, as it filled them.
            grad: of the context, (>= R, D).
            image_of_row: as there.
            rows: R.
            sums: to which g r (1 - r) is added, (B, N, A), and g r, (A,); see `additive_gradients`.
            projected_grad: (>= R, A and more) of which the first A are filled, in the precision of `grad`.
            more: gradient of the weights by what else they are used for, (R, N) float32; None = nothing.
        """
        keys, score, memory = given
        factors, weights = looked
        regions, units = keys.shape[1:]
        sizes = rows, regions, units, projected_grad.shape[1], memory.shape[2]
        room = keys.new_empty(rows * regions), keys.new_empty(rows * units)
        tensors = keys, factors, score, memory, weights, grad, more, image_of_row
        self._library.attend_backward(*tensors, *sizes, *room, *sums, projected_grad, _is_half(grad))

    def loop_gru(
        self,
        words: Tensor,
        seen: Tensor | None,
        projected: Tensor,
        hidden: Tensor,
        rows: int,
        results: Sequence[Tensor | None],
    ) -> None:
        """Updates the state of a GRU in a time loop.

        Args:
            words: the words' part of the input's side of the gates, (>= R, 3H), float32 or bfloat16 as all but hidden
                and gates.
            seen: the context's part, likewise; None = there is none.
            projected: (>= R, P + 3H), which end with the state's side.
            hidden: (>= R, H) float32.
            rows: R.
            results: to be filled: the next state in float32 and, unless None, in the others' precision (R, H), its
                gates (R, 3H).
        """
        sizes = _gru_sizes(projected, hidden, rows)
        self._library.gru(words, seen, projected, hidden, *sizes, *results, _is_half(projected))

    def loop_gru_backward(
        self,
        grad: Tensor | None,
        later: tuple[Tensor, Tensor | None] | None,
        running: int,
        given: Sequence[Tensor],
        rows: int,
        results: Sequence[Tensor],
    ) -> None:
        """The way back through `loop_gru`.

        Args:
            grad: of the next state, by what was said with it, (>= R, H); None = it is `later`'s first alone.
            later: what the step after this has left of its first `running` rows: its state's gradient (float32) and
                what came through its `projected`; None after the last.
            running: rows that go on.
            given: projected, hidden and gates, as there.
            rows: R.
            results: to be filled: gradients of the input's side (R, 3H), of the last 3H of `projected`, and (float32)
                of the state (R, H) but for what comes through `projected`.
        """
        projected, hidden, kept = given
        left, through = later or (None, None)
        sizes = _gru_sizes(projected, hidden, rows)
        self._library.gru_backward(
            grad, through, left, running, projected, hidden, kept, *sizes, *results, _is_half(projected)
        )

    def image_product(self, matrix: Tensor, x: Tensor, image_of_row: Tensor) -> Tensor:
        """Returns x (R, K) times the matrix (B, K, L) of its image, (R, L)."""
        found = x.new_empty(len(x), matrix.shape[2])
        self._library.image_product(matrix, x, image_of_row, len(x), *matrix.shape[1:], found)
        return found

    def image_product_back(self, matrix: Tensor, grad: Tensor, image_of_row: Tensor) -> Tensor:
        """Returns grad (R, L) times the transposed matrix (B, K, L) of its image, (R, K)."""
        found = grad.new_empty(len(grad), matrix.shape[1])
        self._library.image_product_back(matrix, grad, image_of_row, len(grad), *matrix.shape[1:], found)
        return found


def kernels_for(*tensors: Tensor, half: bool = False) -> Kernels | None:
    """Returns the compiled functions if there are any and they are of use for such tensors.

    Args:
        tensors: all of float32; of the same type among them if `half`.
        half: bfloat16 will do as well.
    """
    dtypes = {torch.float32, torch.bfloat16} if half else {torch.float32}
    first = tensors[0].dtype
    if first not in dtypes or torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return None
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype != first or not tensor.is_contiguous() or not tensor.numel():
            return None
    library = compiled(_SOURCE)
    return None if library is None else Kernels(library)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def _gru_sizes(projected: Tensor, hidden: Tensor, rows: int) -> tuple[int, int, int]:
    """Returns what kernels.c calls rows, units and size."""
    size = hidden.shape[-1]
    return rows, projected.shape[-1] - 3 * size, size
