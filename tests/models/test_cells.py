"""The updates against torch's own cells."""

import torch
from torch import nn

from seesay.models.cells import gru_update, lstm_update


def test_gru_is_torchs() -> None:
    torch.manual_seed(3)
    cell = nn.GRUCell(15, 5).double()
    x, hidden = torch.randn(4, 15, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    gates = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    recurrent = nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gru_update(gates, recurrent, hidden), cell(x, hidden))


def test_lstm_is_torchs() -> None:
    torch.manual_seed(3)
    cell = nn.LSTMCell(15, 5).double()
    x, hidden, memory = (torch.randn(4, size, dtype=torch.float64) for size in (15, 5, 5))
    parts = [
        nn.functional.linear(x, cell.weight_ih, cell.bias_ih),
        nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh),
    ]
    for found, wanted in zip(lstm_update(parts, memory), cell(x, (hidden, memory)), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_state_keeps_its_precision() -> None:
    hidden = torch.zeros(2, 5, dtype=torch.bfloat16)
    assert gru_update(torch.zeros(2, 15), torch.zeros(2, 15), hidden).dtype == torch.bfloat16
    assert lstm_update([torch.zeros(2, 20)], hidden)[1].dtype == torch.bfloat16
