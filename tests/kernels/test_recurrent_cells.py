"""The elementwise parts of GRU and LSTM, native and in plain torch, against torch's own cells in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seesay.kernels import gru_cell as gru_module
from seesay.kernels import lstm_cell as lstm_module
from seesay.kernels.gru_cell import gru_cell
from seesay.kernels.lstm_cell import lstm_cell

pytestmark = pytest.mark.usefixtures("way", "threads")
SHAPES = [(3, 5), (40, 512), (2, 3, 33)]


def compared(ours: Callable[..., object], torchs: Callable[..., object], given: list[Tensor], used: slice) -> None:
    """Holds results and gradients of a loss over some of the outputs in float32 against float64."""
    found, wanted = (
        results(way, [each.to(dtype) for each in given], used)
        for way, dtype in ((ours, torch.float32), (torchs, torch.float64))
    )
    for left, right in zip(found, wanted, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left.double(), right, rtol=1e-5, atol=2e-6)


def results(way: Callable[..., object], given: list[Tensor], used: slice) -> list[Tensor]:
    leaves = [each.clone().requires_grad_() for each in given]
    out = way(*leaves)
    outputs = [out] if isinstance(out, Tensor) else list(out)  # type: ignore[call-overload]
    loss = torch.stack([(each * torch.linspace(-1, 1, each.numel()).view_as(each)).sum() for each in outputs[used]])
    grads = torch.autograd.grad(loss.sum(), leaves)
    return [*(each.detach() for each in outputs), *grads]


@pytest.mark.parametrize("shape", SHAPES)
def test_gru_is_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    size = shape[-1]
    cell = nn.GRUCell(3 * size, size).double()

    def torchs(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
        reset, update = torch.sigmoid(inputs[..., : 2 * size] + recurrent[..., : 2 * size]).chunk(2, -1)
        candidate = torch.tanh(inputs[..., 2 * size :] + reset * recurrent[..., 2 * size :])
        return (1 - update) * candidate + update * hidden

    x, hidden = torch.randn(4, 3 * size, dtype=torch.float64), torch.randn(4, size, dtype=torch.float64)
    gates = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    recurrent = nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(torchs(gates, recurrent, hidden), cell(x, hidden))
    torch.testing.assert_close(gru_cell(gates, recurrent, hidden), cell(x, hidden))
    wide = (*shape[:-1], 3 * size)
    compared(gru_cell, torchs, [2 * torch.randn(wide), 2 * torch.randn(wide), torch.randn(shape)], slice(None))


@pytest.mark.parametrize("used", [slice(None), slice(1), slice(1, None)], ids=["both", "hidden", "cell"])
@pytest.mark.parametrize("shape", SHAPES)
def test_lstm_is_torchs(shape: tuple[int, ...], used: slice) -> None:
    torch.manual_seed(3)
    size = shape[-1]
    cell = nn.LSTMCell(4 * size, size, bias=False).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.eye(4 * size))
        cell.weight_hh.zero_()

    def torchs(gates: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        flat = before.reshape(-1, size)
        hidden, new = cell(gates.reshape(-1, 4 * size), (torch.zeros_like(flat), flat))
        return hidden.view(shape), new.view(shape)

    compared(lstm_cell, torchs, [2 * torch.randn(*shape[:-1], 4 * size), torch.randn(shape)], used)


def test_gates_that_do_not_fit_the_state_are_refused_not_read() -> None:
    with pytest.raises(RuntimeError):
        gru_cell(torch.zeros(2, 9), torch.zeros(2, 9), torch.zeros(3, 3))
    with pytest.raises(RuntimeError):
        lstm_cell(torch.zeros(2, 8), torch.zeros(3, 2))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_they_are_proper_operators(way: str) -> None:
    if way == "reference":
        pytest.skip("the reference is plain torch")
    inputs, recurrent, hidden, gates = (torch.randn(3, width, requires_grad=True) for width in (15, 15, 5, 20))
    torch.library.opcheck(gru_module._cell, (inputs, recurrent, hidden))
    torch.library.opcheck(lstm_module._cell, (gates, hidden))
