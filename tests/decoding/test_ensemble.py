"""`EnsembleDecoder` against the mean of the members' distributions computed by hand."""

import math
from typing import Any

import pytest
import torch

from seesay.config import ModelConfig
from seesay.decoding import DecodingOptions, EnsembleDecoder
from seesay.decoding.ensemble import Mean, join_memories
from seesay.errors import ConfigError
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.decoders.pooled_gru import PooledGRUDecoder
from seesay.models.protocol import Decoder
from seesay.tokenizer import END_ID
from tests.decoding.oracles import TableDecoder, decode, numbered, same


def mean_decoder(decoders: list[TableDecoder], mean: Mean) -> TableDecoder:
    """Return a decoder whose table is the mean of the decoders' distributions."""
    found = TableDecoder(0, words=3)
    log_probs = torch.stack([decoder.table.log_softmax(-1) for decoder in decoders])
    found.table = log_probs.exp().mean(0).log() if mean == "probabilities" else log_probs.mean(0)
    found.attention = torch.stack([decoder.attention for decoder in decoders]).mean(0)
    return found


@pytest.mark.parametrize("mean", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_an_ensemble_is_the_mean_of_its_members(strategy: Any, mean: Mean) -> None:
    members = [TableDecoder(seed, words=3) for seed in range(3)]
    options = DecodingOptions(strategy="beam", beam_size=3, max_length=8, num_return_sequences=2)
    options = options.with_strategy(strategy)
    memory, mask = join_memories([numbered(range(9))] * 3, [None] * 3)
    found = decode(EnsembleDecoder(members, [1, 1, 1], mean), memory, mask, options, keep_attention=True)
    expected = decode(mean_decoder(members, mean), numbered(range(9)), None, options, keep_attention=True)
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_members_attend_to_their_own_memories() -> None:
    torch.manual_seed(0)
    sizes = ModelConfig(projection_size=7, embedding_size=5, hidden_size=9, attention_size=4, output_size=8)
    attention = AttentionGRUDecoder(sizes, 11).double().eval()
    sizes = ModelConfig(projection_size=6, embedding_size=6, hidden_size=6, num_layers=1, output_size=0)
    pooled = PooledGRUDecoder(sizes, 11).double().eval()
    grid, vector = torch.randn(4, 5, 7, dtype=torch.float64), torch.randn(4, 2, 6, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, False, True, True, True]] * 2)
    decoders: list[Decoder] = [attention, pooled]
    ensemble = EnsembleDecoder(decoders, [7, 6])
    memory, both = join_memories([grid, vector], [mask, None])
    assert (memory.shape, both.shape) == ((4, 5, 13), (4, 5, 2))
    for image, (found,) in enumerate(
        decode(ensemble, memory, both, DecodingOptions(strategy="beam", beam_size=3, max_length=6), keep_attention=True)
    ):
        assert found.attention is None  # one member has none
        states = [
            attention.init_state(grid[image : image + 1], mask[image : image + 1]),
            pooled.init_state(vector[image : image + 1], None),
        ]
        fed, log_probs = [1, *found.tokens], []
        for word, target in zip(fed, [*found.tokens, END_ID], strict=True):
            outputs = [d.step(torch.tensor([[word]]), s) for d, s in zip(decoders, states, strict=True)]
            states = [output.state for output in outputs]
            probabilities = torch.stack([output.logits[0, 0].detach().softmax(-1) for output in outputs]).mean(0)
            probabilities[[0, 1, 3]] = 0.0
            log_probs.append(math.log(probabilities[target] / probabilities.sum()))
        assert found.log_probs == pytest.approx(log_probs, rel=1e-9)


def test_members_with_different_vocabularies_raise() -> None:
    ensemble = EnsembleDecoder([TableDecoder(0, words=3), TableDecoder(0, words=4)], [1, 1])
    memory, mask = join_memories([numbered([0])] * 2, [None] * 2)
    with pytest.raises(ConfigError, match="one vocabulary; its members have 7, 8 words"):
        decode(ensemble, memory, mask)
    with pytest.raises(ConfigError, match="an ensemble of 0 decoders"):
        EnsembleDecoder([], [])
