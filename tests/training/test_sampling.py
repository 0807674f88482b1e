import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.captioning import build_model
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID
from seesay.training.sampling import sample_captions, without_dropout


class Chain:
    """A decoder whose next word depends on the picture and the last word alone; it counts the rows it is fed."""

    def __init__(self, table: Tensor) -> None:
        self.table = table  # (B, V, V) logits
        self.fed: list[tuple[int, int]] = []
        self._before = torch.zeros(1)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        images = memory.shape[0]
        return DecoderState({"image": torch.arange(images)[:, None]}, {"last": torch.zeros(images, 1, 1)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        self.fed.append((tokens.shape[0], tokens.shape[1]))
        if len(self.fed) > 1:  # the last picture, which alone stays to the end
            last = state.per_row["last"][-1, :, 0].long()
            assert torch.equal(last, self._before.expand(len(last))), "a row lost its own past"
        self._before = tokens[-1]
        logits = self.table[state.per_image["image"], tokens]
        return StepOutput(logits, DecoderState(state.per_image, {"last": tokens[..., None].float()}), None)


class Unchecked(Chain):
    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        logits = self.table[state.per_image["image"], tokens]
        return StepOutput(logits, state, None)


def probabilities(table: Tensor, length: int, allow_unk: bool) -> dict[tuple[int, ...], float]:
    """Every caption of at most `length` tokens with its probability, by walking the tree."""
    banned = [PAD_ID, START_ID] + ([] if allow_unk else [UNK_ID])
    weights = table.double().exp()
    weights[:, banned] = 0
    chance = weights / weights.sum(1, keepdim=True)
    found: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(START_ID,): 1.0}
    for _ in range(length):
        grown = {
            (*row, word): p * float(chance[row[-1], word]) for row, p in open_.items() for word in range(len(table))
        }
        found |= {row[1:]: p for row, p in grown.items() if row[-1] == END_ID}
        open_ = {row: p for row, p in grown.items() if row[-1] != END_ID and p > 0}
    return found | {row[1:]: p for row, p in open_.items()}


@pytest.mark.parametrize("allow_unk", [False, True])
def test_captions_come_as_often_as_they_are_likely(allow_unk: bool) -> None:
    torch.manual_seed(3)
    table, samples = torch.randn(2, 6, 6), 20_000
    memory = torch.zeros(2, 1, 1)
    tokens = sample_captions(Unchecked(table), memory, None, samples, 3, allow_unk)
    assert tokens.shape == (2, samples, 3)
    for image in range(2):
        counts = Counter(tuple(word for word in row if word != PAD_ID) for row in tokens[image].tolist())
        wanted = probabilities(table[image], 3, allow_unk)
        assert sum(wanted.values()) == pytest.approx(1)
        assert set(counts) <= {row for row, p in wanted.items() if p > 0}
        for row, p in wanted.items():  # within 4.5 deviations of a binomial count
            assert abs(counts[row] - samples * p) <= 4.5 * np.sqrt(samples * p * (1 - p)) + 1e-9, row


def test_samples_of_a_picture_do_not_depend_on_each_other() -> None:
    torch.manual_seed(4)
    memory = torch.zeros(3000, 1, 1)
    tokens = sample_captions(Unchecked(torch.zeros(3000, 6, 6)), memory, None, 2, 1, False)
    pairs: Counter[tuple[int, int]] = Counter((first, second) for ((first,), (second,)) in tokens.tolist())
    words = (END_ID, 4, 5)
    assert set(pairs) == set(itertools.product(words, words))
    assert all(abs(count - 3000 / 9) < 4.5 * np.sqrt(3000 / 9) for count in pairs.values())


def test_rows_keep_their_past_and_pictures_leave_when_all_of_theirs_have_ended() -> None:
    table = torch.full((2, 7, 7), -50.0)
    table[0, :, END_ID] = 50.0  # the first picture ends at once
    table[1, START_ID, 4:7] = 0.0
    table[1, 4, 5], table[1, 5, 6], table[1, 6, END_ID] = 0.0, 0.0, 0.0
    torch.manual_seed(0)
    decoder = Chain(table)
    tokens = sample_captions(decoder, torch.zeros(2, 1, 1), None, 6, 9, False)
    assert tokens[0].tolist() == [[END_ID] + [PAD_ID] * (tokens.shape[2] - 1)] * 6
    ways = {(4, 5, 6, END_ID), (5, 6, END_ID, PAD_ID), (6, END_ID, PAD_ID, PAD_ID)}
    assert set(map(tuple, tokens[1].tolist())) == ways
    assert decoder.fed == [(2, 1), (1, 6), (1, 6), (1, 6)]


def test_caption_that_does_not_end_is_cut() -> None:
    table = torch.full((1, 6, 6), -50.0)
    table[:, :, 4] = 50.0
    assert sample_captions(Unchecked(table), torch.zeros(1, 1, 1), None, 2, 5, False).tolist() == [[[4] * 5] * 2]


@pytest.mark.parametrize("decoder", ["attention", "pooled"])
def test_without_dropout_a_model_is_as_it_is_used_learns_and_gets_its_modes_back(decoder: str) -> None:
    config = ModelConfig(
        decoder=decoder,
        projection_size=8,
        hidden_size=8,
        embedding_size=8,
        attention_size=8,
        output_size=0,
        layers=2 if decoder == "pooled" else 1,
        feature_dropout=0.5,
        embedding_dropout=0.5,
        output_dropout=0.5,
    )
    model = build_model(config, 9, 5).train()
    model.projection.eval()  # a mode of its own must come back too
    modes = {name: module.training for name, module in model.named_modules()}
    features, tokens = torch.randn(2, 3, 5), torch.tensor([[[1, 4, 5, 2]], [[1, 6, 2, 0]]])
    from seesay.models.packing import pack_captions

    captions = pack_captions(tokens)
    with without_dropout(model):
        found = model(features, None, captions)
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        assert all(module.training for module in recurrent)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [module.dropout for module in recurrent] == [0.5] * len(recurrent)
    assert not torch.allclose(model(features, None, captions), found)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(model.eval()(features, None, captions), found)
