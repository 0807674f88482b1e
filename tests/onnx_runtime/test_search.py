"""The search by NumPy against the one on torch, which is proven by exhaustive search, over decoders made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seesay.decoding import DecodingOptions, Hypothesis, TokenConstraints, decode
from seesay.decoding.deduplicate import distinct_captions, widened
from seesay.models.protocol import Decoder, DecoderState
from seesay.onnx_runtime.graphs import State, StepOutput
from seesay.onnx_runtime.search import Search
from seesay.onnx_runtime.selection import stable_topk
from tests.decoding.oracles import TableDecoder, numbered

IMAGES = 12


class AsNumpy:
    """A decoder on torch as the search by NumPy asks for it."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def start(self, memory: torch.Tensor) -> State:
        state = self.decoder.init_state(memory, None)
        return State(_numpy(state.per_image), _numpy(state.per_row))

    def step(self, tokens: Any, state: State) -> StepOutput:
        given = DecoderState(_torch(state.per_image), _torch(state.per_row))
        output = self.decoder.step(torch.from_numpy(np.ascontiguousarray(tokens)), given)
        maps = None if output.attention is None else output.attention.numpy()
        return StepOutput(output.logits.numpy().copy(), State(state.per_image, _numpy(output.state.per_row)), maps)


def _numpy(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _torch(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def search(
    decoder: Decoder, memory: torch.Tensor, options: DecodingOptions, rules: TokenConstraints, attention: bool = True
) -> list[list[Hypothesis]]:
    own = AsNumpy(decoder)
    state = own.start(memory)

    def some(images: list[int], widening: int) -> Any:
        part = state.keep(np.array(images))
        return Search(own, widened(options, widening), rules, attention).run(part, len(images))

    return distinct_captions(some, [str(place) for place in range(len(memory))], options, rules)


def assert_same(found: list[list[Hypothesis]], wanted: list[list[Hypothesis]]) -> None:
    assert [[each.tokens for each in one] for one in found] == [[each.tokens for each in one] for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.finished == theirs.finished
            np.testing.assert_allclose(mine.score, theirs.score, rtol=1e-9)
            np.testing.assert_allclose(mine.log_probs, theirs.log_probs, rtol=1e-9)
            assert (mine.attention is None) == (theirs.attention is None)
            if mine.attention is not None and theirs.attention is not None:
                assert mine.attention.dtype == np.float32
                np.testing.assert_allclose(mine.attention, theirs.attention, rtol=1e-6)


OPTIONS = {
    "greedy": DecodingOptions("greedy", max_length=9),
    "greedy, cut": DecodingOptions("greedy", max_length=2),
    "greedy, several": DecodingOptions("greedy", max_length=9, num_return_sequences=4),
    "greedy, all rules": DecodingOptions(
        "greedy", max_length=9, min_length=4, no_repeat_ngram_size=2, repetition_penalty=1.5, num_return_sequences=2
    ),
    "beam of 1": DecodingOptions("beam", 1, 9),
    "beam": DecodingOptions("beam", 3, 9),
    "wide beam": DecodingOptions("beam", 7, 6),
    "beam, several": DecodingOptions("beam", 5, 9, num_return_sequences=4),
    "sum of scores": DecodingOptions("beam", 4, 9, length_penalty=0.0),
    "long": DecodingOptions("beam", 4, 9, length_penalty=2.0, min_length=5),
    "no repeats": DecodingOptions("beam", 4, 9, no_repeat_ngram_size=1, num_return_sequences=3),
    "no pairs twice": DecodingOptions("beam", 4, 9, no_repeat_ngram_size=2, min_length=6),
    "repeats cost": DecodingOptions("beam", 4, 9, repetition_penalty=1.7, allow_unk=True),
}


@pytest.mark.parametrize("end", [-1.5, 1.0])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_finds_what_the_search_on_torch_finds(name: str, end: float) -> None:
    options, memory = OPTIONS[name], numbered(range(IMAGES))
    for seed, words in enumerate((2, 5, 30)):
        decoder = TableDecoder(seed, words, end=end)
        wanted = decode(decoder, memory, None, options, keep_attention=True)
        assert_same(search(decoder, memory, options, TokenConstraints()), wanted)
        assert len({found[0].tokens for found in wanted}) > 1


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_banned_words_and_phrases_are_never_said(strategy: Any) -> None:
    options = DecodingOptions("beam", 4, 8, num_return_sequences=2).with_strategy(strategy)
    rules = TokenConstraints(banned=((5,), (6, 7), (7, 6, 8), (4, 4, 4)))
    decoder, memory = TableDecoder(0, 6, end=-1.0), numbered(range(IMAGES))
    wanted = decode(decoder, memory, None, options, rules=rules)
    assert_same(search(decoder, memory, options, rules, attention=False), wanted)
    assert any(5 in found[0].tokens for found in decode(decoder, memory, None, options))


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_what_the_rules_leave_no_way_to_is_told_as_failed(strategy: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = DecodingOptions("beam", 2, 8, min_length=6, no_repeat_ngram_size=1).with_strategy(strategy)
    decoder, memory = TableDecoder(0, words=3), numbered(range(4))  # three words, and none may come twice
    wanted = decode(decoder, memory, None, options)
    caplog.clear()
    found = search(decoder, memory, options, TokenConstraints(), attention=False)
    assert_same(found, wanted)
    assert not any(one[0].finished for one in found)
    assert "break the rules" in caplog.text


def test_equal_scores_go_to_the_first_word_and_the_first_hypothesis() -> None:
    class Even(TableDecoder):
        """All words, and the end, are as likely."""

        def __init__(self) -> None:
            super().__init__(0, words=4, end=0.0, scale=0.0)

    for options in OPTIONS.values():
        wanted = decode(Even(), numbered(range(2)), None, options)
        assert_same(search(Even(), numbered(range(2)), options, TokenConstraints(), attention=False), wanted)


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_scores_that_are_no_numbers_give_some_caption(strategy: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = DecodingOptions("beam", 3, 5).with_strategy(strategy)
    decoder, memory = TableDecoder(0), numbered(range(3))
    decoder.table[:] = float("nan")
    found = search(decoder, memory, options, TokenConstraints(), attention=False)
    assert [len(one) for one in found] == [1, 1, 1]
    assert "no finite numbers" in caplog.text


def test_images_do_not_hang_on_their_batch() -> None:
    decoder, options = TableDecoder(3, 8, end=-0.5), replace(OPTIONS["beam, several"], max_length=12)
    together = search(decoder, numbered(range(IMAGES)), options, TokenConstraints())
    for image in range(IMAGES):
        assert_same(search(decoder, numbered([image]), options, TokenConstraints()), together[image : image + 1])
    assert len(set(decoder.rows_seen)) > 3  # images and hypotheses leave as they end


def test_the_greatest_are_those_of_a_stable_sort() -> None:
    random = np.random.default_rng(0)
    for size, count in ((1, 1), (5, 2), (5, 9), (40, 7)):
        values = random.integers(0, 4, (3, 6, size)).astype(np.float32)
        values[random.random(values.shape) < 0.2] = -np.inf
        found, places = stable_topk(values, count)
        wanted = np.argsort(-values, axis=-1, kind="stable")[..., :count]
        np.testing.assert_array_equal(places, wanted)
        np.testing.assert_array_equal(found, np.take_along_axis(values, wanted, -1))
