"""Luong's decoder against a plain loop over torch.nn.GRUCell."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seesay.models.packing import pack_captions
from tests.models.decoder_cases import MASK, TOKENS, decoder, fed, memories, spread


def reference(made: Any, memory: Tensor, words: list[int]) -> Tensor:
    """Return logits (T, V) of one image (N, D) and one caption: update, attend, project, feed."""
    cell = nn.GRUCell(made.embedding.embedding_dim + made.wide, made.hidden_size).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([made.word_gates.weight, made.fed_gates.weight], dim=1))
        cell.bias_ih.copy_(made.word_gates.bias)
        cell.weight_hh.copy_(made.state_gates.weight)
        cell.bias_hh.copy_(made.state_gates.bias)
    hidden = torch.tanh(made.first_hidden(memory.mean(0)))[None]
    attentional = torch.zeros(made.wide, dtype=torch.float64)
    rows = []
    combine = torch.cat([made.context_part.weight, made.state_part.weight], dim=1)
    for word in words:
        hidden = cell(torch.cat([made.embedding.weight[word], attentional])[None], hidden)
        matrix = made.attention.key.weight if hasattr(made.attention, "key") else torch.eye(6, dtype=torch.float64)
        weights = torch.softmax(torch.stack([hidden[0] @ matrix @ region for region in memory]), dim=0)
        context = weights @ memory
        attentional = torch.tanh(combine @ torch.cat([context, hidden[0]]) + made.state_part.bias)
        rows.append(made.output.weight @ attentional + made.output.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["luong-general", "luong-dot"])
def test_it_equals_the_equations_of_the_paper(name: str) -> None:
    made, memory = decoder(name), memories()
    for (image, caption), logits in spread(made(memory, MASK, pack_captions(TOKENS)).logits, TOKENS).items():
        wanted = reference(made, memory[image][MASK[image]], fed(image, caption))
        torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-10)
