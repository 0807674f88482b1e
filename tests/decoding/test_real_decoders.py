"""The search with the package's decoders, against teacher forcing, replay, and other batches."""

from typing import Any, Literal, cast

import numpy as np
import pytest
import torch

from seesay.config import ModelConfig
from seesay.decoding import DecodingOptions, TokenConstraints
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.decoders.pooled_gru import PooledGRUDecoder
from seesay.models.packing import pack_captions
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID
from tests.decoding.oracles import TableDecoder, decode, numbered, same

STRATEGIES: tuple[Literal["greedy", "sample", "beam"], ...] = ("greedy", "sample", "beam")


def real_decoder(kind: Any) -> AttentionGRUDecoder | PooledGRUDecoder:
    """Return a decoder of 11 words and memory of width 7 whose captions differ between images."""
    torch.manual_seed(0)
    decoder: AttentionGRUDecoder | PooledGRUDecoder
    if kind == "attention":
        sizes = ModelConfig(projection_size=7, embedding_size=5, hidden_size=9, attention_size=4, output_size=8)
        decoder = AttentionGRUDecoder(sizes, 11)
    else:
        sizes = ModelConfig(projection_size=7, embedding_size=7, hidden_size=7, num_layers=2, output_size=0, merge=kind)
        decoder = PooledGRUDecoder(sizes, 11)
    for parameter in decoder.parameters():
        parameter.data.mul_(3.0)
    last = decoder.output[-1] if isinstance(decoder.output, torch.nn.Sequential) else decoder.output
    cast("torch.nn.Linear", last).bias.data[END_ID] -= 4.0  # so that not all captions are empty
    return decoder.double().eval()


KINDS = ("attention", "state", "add")
MEMORY = torch.randn(6, 4, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
MASK = torch.tensor([[True] * 4, [True, False, True, True], [False, False, False, True]] * 2)
KEYS = list("abcdef")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_equal_teacher_forcing(kind: str, strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = real_decoder(kind)
    options = DecodingOptions(strategy="beam", beam_size=4, max_length=9, num_return_sequences=3).with_strategy(
        strategy
    )
    results = decode(decoder, MEMORY, MASK, options, keys=KEYS)
    assert len({found[0].tokens for found in results}) > 3
    for image, found in enumerate(results):
        for hypothesis in found:
            words = [*hypothesis.tokens, END_ID]
            packed = pack_captions(torch.tensor([[[START_ID, *words]]]))
            logits = decoder(MEMORY[image : image + 1], MASK[image : image + 1], packed).logits
            logits[:, [PAD_ID, START_ID, UNK_ID]] = float("-inf")
            expected = logits.log_softmax(-1)[range(len(words)), words].tolist()
            assert hypothesis.log_probs == pytest.approx(expected, rel=1e-9)
            penalty = options.length_penalty if strategy == "beam" else 0.0
            assert hypothesis.score == pytest.approx(sum(expected) / len(expected) ** penalty, rel=1e-9)
        scores = [hypothesis.score for hypothesis in found][
            strategy != "beam" :
        ]  # the greedy caption or the first sample comes first
        assert scores == sorted(scores, reverse=True)


SEARCHES = {
    "greedy": DecodingOptions(strategy="greedy", max_length=11),
    "greedy, several": DecodingOptions(
        strategy="greedy", max_length=11, num_return_sequences=3, no_repeat_ngram_size=2
    ),
    "sample": DecodingOptions(strategy="sample", max_length=11),
    "sample, several": DecodingOptions(
        strategy="sample", max_length=11, num_return_sequences=3, repetition_penalty=1.3
    ),
    "beam": DecodingOptions(strategy="beam", beam_size=3, max_length=11),
    "beam, several": DecodingOptions(
        strategy="beam", beam_size=4, max_length=11, num_return_sequences=3, no_repeat_ngram_size=2
    ),
    "groups": DecodingOptions(
        strategy="beam", beam_size=4, max_length=11, num_return_sequences=2, num_beam_groups=2, diversity_penalty=1.0
    ),
    "required": DecodingOptions(strategy="beam", beam_size=3, max_length=11),
    "required, several": DecodingOptions(
        strategy="beam", beam_size=4, max_length=11, num_return_sequences=2, no_repeat_ngram_size=2
    ),
}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("kind", [*KINDS, "table"])
def test_captions_do_not_depend_on_the_batch(kind: str, name: str) -> None:
    decoder = TableDecoder(1, words=7, end=-1.0) if kind == "table" else real_decoder(kind)
    memory = numbered(range(6)) if kind == "table" else MEMORY
    options, constraints = (
        SEARCHES[name],
        TokenConstraints(required=((5,), (9, 4)) if name.startswith("required") else ()),
    )
    batch = decode(decoder, memory, MASK, options, constraints=constraints, keys=KEYS, keep_attention=True)
    for order in ([5, 4, 3, 2, 1, 0], [2, 2, 0], [4]):
        names = [KEYS[image] for image in order]
        again = decode(
            decoder, memory[order], MASK[order], options, constraints=constraints, keys=names, keep_attention=True
        )
        assert all(same(batch[image], found) for image, found in zip(order, again, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_regions_have_no_effect(kind: str, strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = real_decoder(kind)
    options = DecodingOptions(strategy="beam", beam_size=3, max_length=9).with_strategy(strategy)
    plain = decode(decoder, MEMORY, None, options, keys=KEYS, keep_attention=True)
    padded = torch.cat([50 * torch.ones(6, 1, 7), MEMORY, -50 * torch.ones(6, 2, 7)], dim=1)
    mask = torch.tensor([False, True, True, True, True, False, False]).expand(6, -1)
    found = decode(decoder, padded, mask, options, keys=KEYS, keep_attention=True)
    for one, other in zip(plain, found, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        for left, right in zip(one, other, strict=True):
            np.testing.assert_allclose(left.log_probs, right.log_probs, rtol=1e-9)
            if left.attention is not None and right.attention is not None:
                np.testing.assert_allclose(left.attention, right.attention[:, 1:5], rtol=1e-6)
                assert not right.attention[:, [0, 5, 6]].any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_attention_equals_a_replay_of_the_words(strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = real_decoder("attention")
    options = DecodingOptions(strategy="beam", beam_size=4, max_length=9, num_return_sequences=3).with_strategy(
        strategy
    )
    for image, found in enumerate(decode(decoder, MEMORY, MASK, options, keys=KEYS, keep_attention=True)):
        for hypothesis in found:
            state = decoder.init_state(MEMORY[image : image + 1], MASK[image : image + 1])
            fed = [START_ID, *hypothesis.tokens][: len(hypothesis.log_probs)]
            rows = []
            for word in fed:
                output = decoder.step(torch.tensor([[word]]), state)
                state = output.state
                assert output.attention is not None
                rows.append(output.attention[0, 0])
            assert hypothesis.attention is not None
            assert hypothesis.attention.dtype == np.float32
            np.testing.assert_allclose(hypothesis.attention, torch.stack(rows).detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("beam", [1, 4])
def test_attention_follows_the_beam_when_images_are_removed(beam: int) -> None:
    decoder = TableDecoder(3, end=-0.5)
    options = DecodingOptions(strategy="beam", beam_size=beam, max_length=12)
    for image, found in enumerate(decode(decoder, numbered(range(9)), None, options, keep_attention=True)):
        for hypothesis in found:
            expected = [
                decoder.attention[decoder.place(image, hypothesis.tokens[:t])].numpy()
                for t in range(len(hypothesis.log_probs))
            ]
            assert hypothesis.attention is not None
            np.testing.assert_allclose(hypothesis.attention, expected, rtol=1e-6)
    assert len(set(decoder.rows_seen)) > 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_attention_is_none_for_decoders_without_attention(strategy: Literal["greedy", "sample", "beam"]) -> None:
    # Bug: beam search returned zeros as the attention of a decoder without attention.
    options = DecodingOptions(strategy="beam", beam_size=2, max_length=5).with_strategy(strategy)
    for keep in (True, False):
        for found, *_ in decode(real_decoder("state"), MEMORY, None, options, keep_attention=keep):
            assert found.attention is None
    for found, *_ in decode(real_decoder("attention"), MEMORY, None, options):
        assert found.attention is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_batch_has_no_captions(strategy: Literal["greedy", "sample", "beam"]) -> None:
    assert decode(real_decoder("attention"), MEMORY[:0], MASK[:0], DecodingOptions(strategy=strategy), keys=[]) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nan_scores_still_give_a_caption(strategy: Literal["greedy", "sample", "beam"]) -> None:
    # Bug: beam search over NaN features returned no hypothesis.
    memory = MEMORY.clone()
    memory[1] = float("nan")
    options = DecodingOptions(strategy="beam", beam_size=3, max_length=9).with_strategy(strategy)
    found = decode(real_decoder("attention"), memory, None, options, keys=KEYS)
    unaffected = decode(real_decoder("attention"), MEMORY, None, options, keys=KEYS)
    assert all(len(hypotheses) >= 1 for hypotheses in found)
    assert all(same(found[image], unaffected[image]) for image in (0, 2, 3, 4, 5))
