"""The top-down decoder against a reference loop over two LSTMCells of torch."""

from typing import Any

import torch
from torch import Tensor, nn

from seesay.models.packing import pack_captions
from tests.models.decoder_cases import MASK, TOKENS, decoder, fed, memories, spread


def cell_of(inputs: list[nn.Linear], bias: Tensor, state: nn.Linear) -> nn.LSTMCell:
    """Return torch's cell with the concatenated weights of several inputs."""
    matrix = torch.cat([part.weight for part in inputs], dim=1)
    cell = nn.LSTMCell(matrix.shape[1], state.weight.shape[1]).double()
    with torch.no_grad():
        cell.weight_ih.copy_(matrix)
        cell.bias_ih.copy_(bias)
        cell.weight_hh.copy_(state.weight)
        cell.bias_hh.zero_()
    return cell


def reference(made: Any, memory: Tensor, words: list[int]) -> Tensor:
    """Return logits (T, V) of one image (N, D) and one caption, by the equations of the paper."""
    first = cell_of(
        [made.language_gates, made.mean_gates, made.word_gates], made.word_gates.bias, made.attention_state_gates
    )
    second = cell_of([made.context_gates, made.attended_gates], made.context_gates.bias, made.language_state_gates)
    zeros = torch.zeros(1, made.hidden_size, dtype=torch.float64)
    (h1, c1), (h2, c2) = (zeros, zeros), (zeros, zeros)
    attention, rows = made.attention, []
    for word in words:
        h1, c1 = first(torch.cat([h2[0], memory.mean(0), made.embedding.weight[word]])[None], (h1, c1))
        inner = memory @ attention.key.weight.T + attention.key.bias + attention.query.weight @ h1[0]
        weights = torch.softmax(torch.tanh(inner) @ attention.score.weight[0], dim=0)
        h2, c2 = second(torch.cat([weights @ memory, h1[0]])[None], (h2, c2))
        rows.append(made.output(h2[0]))
    return torch.stack(rows)


def test_it_equals_the_equations_of_the_paper() -> None:
    made, memory = decoder("up-down"), memories()
    for (image, caption), logits in spread(made(memory, MASK, pack_captions(TOKENS)).logits, TOKENS).items():
        wanted = reference(made, memory[image][MASK[image]], fed(image, caption))
        torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-10)
