"""Searches with options of their own that share the decoder's steps, against each by itself."""

import math

import pytest
import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.decoding import DecodingOptions, Hypothesis, TokenConstraints, decode, stepping
from seesay.decoding.engine import searching
from seesay.decoding.stepping import Steps, run_alone, run_together
from seesay.decoding.top_tokens import find_top_tokens
from seesay.errors import ConfigError, SeesayError
from seesay.models.captioning import build_model
from seesay.models.protocol import Decoder, DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID
from tests.decoding.oracles import TableDecoder, numbered, same
from tests.decoding.test_real_decoders import KEYS, MASK, MEMORY, SEARCHES, real_decoder

IMAGES = ([0, 1], [2], [3, 4, 5], [1, 5], [0], [4], [2, 3], [5, 0], [1])
RULES = {name: TokenConstraints(required=((5,), (9, 4)) if name.startswith("required") else ()) for name in SEARCHES}


class Counting:
    """A decoder that notes how many hypotheses each step was asked for."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: list[int] = []

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        return self.decoder.init_state(memory, memory_mask)

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        self.rows.append(tokens.numel())
        return self.decoder.step(tokens, state)


def transformer() -> Decoder:
    torch.manual_seed(0)
    sizes = ModelConfig(
        "transformer", projection_size=7, embedding_size=8, hidden_size=8, num_heads=2, num_layers=2, output_size=0
    )
    return build_model(sizes, 11, 3).double().eval().search


def made(kind: str) -> tuple[Decoder, Tensor]:
    if kind == "table":
        return TableDecoder(1, words=7, end=-1.0), numbered(range(6))
    return (transformer() if kind == "transformer" else real_decoder(kind)), MEMORY


def search(decoder: Decoder, memory: Tensor, name: str, images: list[int]) -> Steps[list[list[Hypothesis]]]:
    return searching(
        lambda: decoder.init_state(memory[images], MASK[images]),
        memory[images],
        MASK[images],
        SEARCHES[name],
        rules=RULES[name],
        keys=[KEYS[image] for image in images],
        keep_attention=name != "sample",
    )


@pytest.mark.parametrize("worth", [0, 16, 10_000])
@pytest.mark.parametrize("kind", ["attention", "state", "transformer", "table"])
def test_searches_together_find_what_each_finds_alone(kind: str, worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stepping._LEAST_SAVED, "cpu", worth)
    decoder, memory = made(kind)
    jobs = list(zip(SEARCHES, IMAGES, strict=True))
    wanted = []
    for name, images in jobs:
        names = [KEYS[image] for image in images]
        wanted.append(
            decode(
                decoder,
                memory[images],
                MASK[images],
                SEARCHES[name],
                rules=RULES[name],
                keys=names,
                keep_attention=name != "sample",
            )
        )
    found: dict[int, object] = {}
    with torch.inference_mode():
        searches = [search(decoder, memory, name, images) for name, images in jobs]
        run_together(decoder, searches, found.__setitem__)
    for number, expected in enumerate(wanted):
        got = found[number]
        assert isinstance(got, list)
        assert all(same(one, other) for one, other in zip(expected, got, strict=True)), jobs[number]


def test_as_many_steps_as_the_longest_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words fed in one step are those of all searches that still run: that is what sharing is for."""
    decoder, memory = Counting(real_decoder("attention")), MEMORY
    names = ["sample", "beam", "groups", "greedy"]
    monkeypatch.setitem(SEARCHES, "greedy", DecodingOptions(max_length=2))
    alone = []
    for name in names:
        decoder.rows.clear()
        with torch.inference_mode():
            run_alone(decoder, search(decoder, memory, name, [0, 3]))
        alone.append(len(decoder.rows))
    decoder.rows.clear()
    ended: list[int] = []
    with torch.inference_mode():
        searches = [search(decoder, memory, name, [0, 3]) for name in names]
        run_together(decoder, searches, lambda number, _: ended.append(number))
    assert len(decoder.rows) == max(alone) < sum(alone)
    assert decoder.rows[0] == 2 * 2 * len(names)  # as wide as the two groups of the last
    assert ended[0] == 3, "the shortest waited for a longer one"


def test_states_of_other_shapes_take_steps_of_their_own() -> None:
    """A transformer's captions of different lengths have caches of different lengths."""
    decoder = Counting(transformer())
    found: dict[int, object] = {}
    with torch.inference_mode():
        ahead, behind = (search(decoder, MEMORY, "greedy", images) for images in ([0, 3], [1]))
        asked = next(ahead)

        def later() -> Steps[list[list[Hypothesis]]]:
            output = yield asked
            while True:  # one word ahead of the other from here on
                try:
                    output = yield ahead.send(output)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]

        def first() -> Steps[list[list[Hypothesis]]]:
            yield asked
            return (yield from behind)

        run_together(decoder, [later(), first()], found.__setitem__)
    for number, images in enumerate(([0, 3], [1])):
        names = [KEYS[image] for image in images]
        expected = decode(decoder, MEMORY[images], MASK[images], SEARCHES["greedy"], keys=names, keep_attention=True)
        assert all(same(one, other) for one, other in zip(expected, found[number], strict=True))  # type: ignore[call-overload]


def test_an_error_ends_its_own_search_alone() -> None:
    decoder = real_decoder("attention")

    def broken() -> Steps[list[list[Hypothesis]]]:
        yield from search(decoder, MEMORY, "greedy", [0])
        raise ConfigError("cannot be")

    found: dict[int, object] = {}
    with torch.inference_mode():
        searches = [broken(), search(decoder, MEMORY, "beam", [1])]
        run_together(decoder, searches, found.__setitem__)
        assert isinstance(found[0], SeesayError)
        assert isinstance(found[1], list)
        run_together(decoder, [], found.__setitem__)


@pytest.mark.parametrize("allow_unk", [False, True])
@pytest.mark.parametrize("kind", ["attention", "transformer", "table"])
def test_likely_words_are_the_best_of_the_distribution_after_each_word(kind: str, allow_unk: bool) -> None:
    decoder, memory = made(kind)
    captions: list[list[tuple[int, ...]]] = [[(4, 6, 5), ()], [(9,)], [(5, 5)]]
    with torch.inference_mode():
        found = run_alone(
            decoder, find_top_tokens(decoder.init_state(memory[:3], None), captions, 3, allow_unk=allow_unk)
        )
    for image, said in enumerate(captions):
        for row, tokens in enumerate(said):
            assert len(found[image][row]) == len(tokens) + 1
            state = decoder.init_state(memory[image : image + 1], None)
            for at, word in enumerate((START_ID, *tokens)):
                output = decoder.step(torch.tensor([[word]]), state)
                state = output.state
                logits = output.logits[0, 0].tolist()
                barred = {PAD_ID, START_ID} if allow_unk else {PAD_ID, START_ID, UNK_ID}
                total = math.log(sum(math.exp(x) for token, x in enumerate(logits) if token not in barred))
                order = sorted((token for token in range(len(logits)) if token not in barred), key=lambda t: -logits[t])
                assert [token for token, _ in found[image][row][at]] == order[:3]
                wanted = [logits[token] - total for token in order[:3]]
                assert [value for _, value in found[image][row][at]] == pytest.approx(wanted, rel=1e-6)


def test_likely_words_of_a_caption_hold_its_own_log_probs() -> None:
    decoder = real_decoder("attention")
    ((best, *_),) = decode(decoder, MEMORY[:1], None, SEARCHES["beam"])
    with torch.inference_mode():
        state = decoder.init_state(MEMORY[:1], None)
        ((places,),) = run_alone(decoder, find_top_tokens(state, [[best.tokens]], 99))
    assert [len(place) for place in places] == [8] * (len(best.tokens) + 1)  # eleven but the three never said
    own = [dict(place)[token] for place, token in zip(places, (*best.tokens, END_ID), strict=True)]
    assert own == pytest.approx(best.log_probs)
