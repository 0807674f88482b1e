"""The search against exhaustive search, a plain slow beam, and teacher forcing, over decoders made by hand."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.decoding import DEFAULT_MAX_LENGTH, DecodingOptions, Hypothesis, decode
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.decoders.pooled_gru import PooledGRUDecoder
from seesay.models.packing import pack_captions
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID

ROWS = 1009
PRIME = 1_000_003
STRATEGIES: tuple[Literal["greedy", "sample", "beam"], ...] = ("greedy", "sample", "beam")


class TableDecoder:
    """A decoder whose scores after any prefix are a row of a random table, found by hashing picture and prefix.

    The hash of the words is kept a row, the picture's number a picture, so that both kinds of state have to
    be led the right way. `rows_seen` notes how many pictures each step was asked for.
    """

    def __init__(self, seed: int, words: int = 3, regions: int = 4, end: float = 0.0, scale: float = 2.0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.table = scale * torch.randn(ROWS, UNK_ID + 1 + words, generator=random, dtype=torch.float64)
        self.table[:, END_ID] += end
        self.looks = torch.randn(ROWS, regions, generator=random, dtype=torch.float64).softmax(-1)
        self.rows_seen: list[int] = []

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        images = memory[:, :1, 0].long()
        return DecoderState({"image": images}, {"code": torch.zeros_like(images)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        self.rows_seen.append(len(tokens))
        code = (31 * state.per_row["code"] + 7919 * tokens + 1) % PRIME
        place = (code + 577 * state.per_image["image"]) % ROWS
        return StepOutput(self.table[place], DecoderState(state.per_image, {"code": code}), self.looks[place])

    def place(self, image: int, words: Sequence[int]) -> int:
        """The table's row after START and `words`, in plain Python."""
        code = 0
        for word in (START_ID, *words):
            code = (31 * code + 7919 * word + 1) % PRIME
        return (code + 577 * image) % ROWS

    def log_probs(self, image: int, words: Sequence[int], allow_unk: bool = False) -> dict[int, float]:
        """The words that may follow and their log-probabilities, in plain Python."""
        logits = self.table[self.place(image, words)].tolist()
        said = {w: x for w, x in enumerate(logits) if w >= END_ID and (allow_unk or w != UNK_ID)}
        total = math.log(sum(math.exp(x) for x in said.values()))
        return {word: x - total for word, x in said.items()}


class ConstantDecoder:
    """A decoder without attention that always gives the same scores."""

    def __init__(self, logits: Sequence[float], dtype: torch.dtype = torch.float64) -> None:
        self.logits = torch.tensor(logits, dtype=dtype)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        return DecoderState({}, {"nothing": memory.new_zeros(len(memory), 1)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        return StepOutput(self.logits.expand(*tokens.shape, -1), state, None)


def numbered(images: Sequence[int]) -> Tensor:
    """Memory (B, 4, 1) that tells a `TableDecoder` which pictures it looks at."""
    return torch.tensor(images, dtype=torch.float64)[:, None, None].expand(-1, 4, 1)


Plain = tuple[tuple[int, ...], tuple[float, ...]]
"""Words, END included, and their log-probabilities."""


def plain_beam(decoder: TableDecoder, image: int, options: DecodingOptions) -> list[Plain]:
    """Beam search of one picture with nothing clever: no tensors, no early stop."""
    running: list[Plain] = [((), ())]
    ended: list[Plain] = []
    for _ in range(options.max_length):
        longer = [
            ((*words, word), (*probs, prob))
            for words, probs in running
            for word, prob in decoder.log_probs(image, words, options.allow_unk).items()
        ]
        longer.sort(key=lambda found: -sum(found[1]))
        kept = longer[: options.beam_size - len(ended)]  # a finished hypothesis keeps its place
        running = [found for found in kept if found[0][-1] != END_ID]
        ended += [found for found in kept if found[0][-1] == END_ID]
    return ranked(ended or running, options.length_penalty)


def ranked(found: list[Plain], penalty: float) -> list[Plain]:
    return sorted(found, key=lambda each: -sum(each[1]) / len(each[1]) ** penalty)


def every_caption(decoder: TableDecoder, image: int, options: DecodingOptions) -> list[Plain]:
    """All captions that end within the maximum length, best first."""
    found: list[Plain] = []
    vocabulary = range(UNK_ID + (not options.allow_unk), decoder.table.shape[1])
    for length in range(options.max_length):
        for words in itertools.product(vocabulary, repeat=length):
            whole = (*words, END_ID)
            probs = [decoder.log_probs(image, whole[:t], options.allow_unk)[word] for t, word in enumerate(whole)]
            found.append((whole, tuple(probs)))
    return ranked(found, options.length_penalty)


def check_same(found: Hypothesis, expected: Plain, penalty: float) -> None:
    words, probs = expected
    assert found.tokens == (words[:-1] if words[-1] == END_ID else words)
    assert found.finished is (words[-1] == END_ID)
    assert found.log_probs == pytest.approx(probs, rel=1e-9)
    assert found.score == pytest.approx(sum(probs) / len(probs) ** penalty, rel=1e-9)


def same(left: list[Hypothesis], right: list[Hypothesis]) -> bool:
    """Whether two results are the same, up to the rounding of sums over other batch sizes."""
    if [h.tokens for h in left] != [h.tokens for h in right]:
        return False
    for one, other in zip(left, right, strict=True):
        assert (one.attention is None) == (other.attention is None)
        if one.attention is not None and other.attention is not None:
            np.testing.assert_allclose(one.attention, other.attention, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-9, atol=1e-12)
        assert one.finished == other.finished
    return True


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize(("words", "length"), [(5, 1), (5, 2), (5, 3), (3, 4), (2, 4)])
def test_a_beam_that_holds_every_prefix_is_exhaustive_search(words: int, length: int, penalty: float) -> None:
    most = sum(words**t for t in range(length + 1))
    options = DecodingOptions("beam", most, length, penalty)
    for seed in range(3):
        decoder = TableDecoder(seed, words)
        (found,) = decode(decoder, numbered([seed]), None, options)
        expected = every_caption(decoder, seed, options)
        assert len(found) == len(expected) == sum(words**t for t in range(length))
        for hypothesis, whole in zip(found, expected, strict=True):
            check_same(hypothesis, whole, penalty)


def test_exhaustive_search_over_captions_with_unk() -> None:
    options = DecodingOptions("beam", 200, 3, allow_unk=True)
    decoder = TableDecoder(0, words=3)
    (found,) = decode(decoder, numbered([0]), None, options)
    for hypothesis, whole in zip(found, every_caption(decoder, 0, options), strict=True):
        check_same(hypothesis, whole, options.length_penalty)


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
def test_beam_search_is_the_plain_one(beam: int, penalty: float) -> None:
    # Pictures of one batch end at different times, so that they leave it, and some are stopped early.
    left = stopped = 0
    for seed in range(60):
        random = np.random.default_rng([seed, beam])
        length = int(random.integers(1, 14))
        options = DecodingOptions("beam", beam, length, penalty, allow_unk=bool(seed % 2))
        decoder = TableDecoder(seed, int(random.integers(1, 6)), end=float(random.uniform(-3, 2)))
        images = random.integers(0, 1000, int(random.integers(1, 7))).tolist()
        results = decode(decoder, numbered(images), None, options)
        left += len(set(decoder.rows_seen)) > 1
        stopped += len(decoder.rows_seen) < length
        for image, found in zip(images, results, strict=True):
            expected = plain_beam(decoder, image, options)
            check_same(found[0], expected[0], penalty)
            # Of the others, those may lack that were still open when they could no longer win.
            rest = iter(expected)
            for hypothesis in found:
                words = (*hypothesis.tokens, END_ID) if hypothesis.finished else hypothesis.tokens
                check_same(hypothesis, next(each for each in rest if each[0] == words), penalty)
            if length <= 4:  # too short for the first look at who may still win
                assert len(found) == len(expected)
    assert left > 3
    assert stopped > 3


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_one_beam_is_greedy(penalty: float) -> None:
    for seed in range(20):
        decoder = TableDecoder(seed, end=-1.0)
        images = numbered(range(5))
        greedy = decode(decoder, images, None, DecodingOptions("greedy", max_length=9), keep_attention=True)
        beam = decode(decoder, images, None, DecodingOptions("beam", 1, 9, penalty), keep_attention=True)
        for one, other in zip(greedy, beam, strict=True):
            assert same(one, other)
            # Bug: a single beam's score was not divided by the length, so it could not be compared with two's.
            assert other[0].score == pytest.approx(sum(other[0].log_probs) / len(other[0].log_probs) ** penalty)
            assert one[0].score == pytest.approx(sum(one[0].log_probs))


def test_a_beam_leaves_the_greedy_path_where_it_leads_nowhere() -> None:
    decoder = TableDecoder(0, words=2)
    decoder.table[:] = 0.0
    a, b = UNK_ID + 1, UNK_ID + 2
    decoder.table[decoder.place(0, ())] = torch.tensor([0, 0, -9.0, 0, 0.1, 0.0])  # a is a little likelier
    decoder.table[decoder.place(0, (b,))] = torch.tensor([0, 0, 9.0, 0, 0.0, 0.0])  # but only b surely ends
    greedy = decode(decoder, numbered([0]), None, DecodingOptions(max_length=3))[0][0]
    beam = decode(decoder, numbered([0]), None, DecodingOptions("beam", 2, 3))[0][0]
    assert greedy.tokens[0] == a
    assert beam.tokens == (b,)
    assert beam.score > greedy.score


# Real decoders.


def real_decoder(kind: Any) -> AttentionGRUDecoder | PooledGRUDecoder:
    """A decoder of 11 words over memory of width 7, with weights large enough for captions that differ."""
    torch.manual_seed(0)
    decoder: AttentionGRUDecoder | PooledGRUDecoder
    if kind == "attention":
        sizes = ModelConfig(projection_size=7, embedding_size=5, hidden_size=9, attention_size=4, output_size=8)
        decoder = AttentionGRUDecoder(sizes, 11)
    else:
        sizes = ModelConfig(projection_size=7, embedding_size=7, hidden_size=7, layers=2, output_size=0, merge=kind)
        decoder = PooledGRUDecoder(sizes, 11)
    for parameter in decoder.parameters():
        parameter.data.mul_(3.0)
    last = decoder.output[-1] if isinstance(decoder.output, torch.nn.Sequential) else decoder.output
    cast("torch.nn.Linear", last).bias.data[END_ID] -= 4.0  # nor all of them empty
    return decoder.double().eval()


KINDS = ("attention", "state", "add")
MEMORY = torch.randn(6, 4, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
MASK = torch.tensor([[True] * 4, [True, False, True, True], [False, False, False, True]] * 2)
KEYS = list("abcdef")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_are_those_of_teacher_forcing(kind: str, strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = real_decoder(kind)
    options = DecodingOptions(strategy, 4, 9)
    results = decode(decoder, MEMORY, MASK, options, keys=KEYS)
    assert len({found[0].tokens for found in results}) > 3
    for image, found in enumerate(results):
        for hypothesis in found:
            words = [*hypothesis.tokens, END_ID]
            packed = pack_captions(torch.tensor([[[START_ID, *words]]]))
            logits = decoder(MEMORY[image : image + 1], MASK[image : image + 1], packed).logits
            logits[:, [PAD_ID, START_ID, UNK_ID]] = float("-inf")
            expected = logits.log_softmax(-1)[range(len(words)), words].tolist()
            expected = expected if hypothesis.finished else expected[:-1]
            assert hypothesis.log_probs == pytest.approx(expected, rel=1e-9)
            penalty = options.length_penalty if strategy == "beam" else 0.0
            assert hypothesis.score == pytest.approx(sum(expected) / len(expected) ** penalty, rel=1e-9)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", [*KINDS, "table"])
def test_a_batch_is_its_pictures_one_by_one(kind: str, strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = TableDecoder(1, end=-1.0) if kind == "table" else real_decoder(kind)
    memory = numbered(range(6)) if kind == "table" else MEMORY
    options = DecodingOptions(strategy, 3, 11)
    batch = decode(decoder, memory, MASK, options, keys=KEYS, keep_attention=True)
    for order in ([5, 4, 3, 2, 1, 0], [2, 2, 0], [4]):
        names = [KEYS[image] for image in order]
        again = decode(decoder, memory[order], MASK[order], options, keys=names, keep_attention=True)
        assert all(same(batch[image], found) for image, found in zip(order, again, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_regions_do_not_matter(kind: str, strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = real_decoder(kind)
    options = DecodingOptions(strategy, 3, 9)
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
def test_attention_is_that_of_replaying_the_words(strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = real_decoder("attention")
    options = DecodingOptions(strategy, 4, 9)
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
def test_attention_is_gathered_along_the_beam_and_through_leaving_pictures(beam: int) -> None:
    decoder = TableDecoder(3, end=-0.5)
    options = DecodingOptions("beam", beam, 12)
    for image, found in enumerate(decode(decoder, numbered(range(9)), None, options, keep_attention=True)):
        for hypothesis in found:
            expected = [
                decoder.looks[decoder.place(image, hypothesis.tokens[:t])].numpy()
                for t in range(len(hypothesis.log_probs))
            ]
            assert hypothesis.attention is not None
            np.testing.assert_allclose(hypothesis.attention, expected, rtol=1e-6)
    assert len(set(decoder.rows_seen)) > 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_attention_is_none_where_there_is_none(strategy: Literal["greedy", "sample", "beam"]) -> None:
    # Bug: a beam search gave zeros for the attention of a decoder that has none.
    options = DecodingOptions(strategy, 2, 5)
    for keep in (True, False):
        for found, *_ in decode(real_decoder("state"), MEMORY, None, options, keep_attention=keep):
            assert found.attention is None
    for found, *_ in decode(real_decoder("attention"), MEMORY, None, options):
        assert found.attention is None


# Sampling.


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Pearson's statistic of counts against probabilities."""
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1.0)
    return sum((counts[key] - total * share) ** 2 / (total * share) for key, share in expected.items())


def sharpened(log_probs: dict[int, float], temperature: float, top_k: int) -> dict[int, float]:
    kept = sorted(log_probs, key=lambda word: -log_probs[word])[: top_k or None]
    weights = {word: math.exp(log_probs[word] / temperature) for word in kept}
    return {word: weight / sum(weights.values()) for word, weight in weights.items()}


@pytest.mark.parametrize(("temperature", "top_k", "outcomes"), [(1.0, 0, 13), (0.6, 0, 13), (1.7, 3, 7), (1.0, 2, 3)])
def test_sampled_captions_follow_the_distribution(temperature: float, top_k: int, outcomes: int) -> None:
    decoder = TableDecoder(7, words=3, scale=0.6)
    draws = 6000
    options = DecodingOptions("sample", max_length=2, temperature=temperature, top_k=top_k)
    results = decode(decoder, numbered([0] * draws), None, options)
    counts = Counter((*h.tokens, END_ID) if h.finished else h.tokens for (h,) in results)
    expected: dict[tuple[int, ...], float] = {}
    for first, share in sharpened(decoder.log_probs(0, ()), temperature, top_k).items():
        if first == END_ID:
            expected[(END_ID,)] = share
            continue
        for second, then in sharpened(decoder.log_probs(0, (first,)), temperature, top_k).items():
            expected[first, second] = share * then
    assert len(expected) == outcomes
    # The 99.9 % quantile of the statistic by Wilson and Hilferty's approximation.
    spread = 2 / (9 * (outcomes - 1))
    assert chi_square(counts, expected) < (outcomes - 1) * (1 - spread + 3.09 * spread**0.5) ** 3


def test_sampling_depends_on_seed_and_key_alone() -> None:
    decoder = TableDecoder(2, end=-1.0)

    def captions(images: int, seed: int, keys: Sequence[str] | None, length: int = 8) -> list[tuple[int, ...]]:
        options = DecodingOptions("sample", max_length=length, sampling_seed=seed)
        return [found.tokens for (found,) in decode(decoder, numbered([0] * images), None, options, keys=keys)]

    same_picture = captions(20, 0, [f"photo {n}" for n in range(20)])
    assert len(set(same_picture)) > 10
    assert captions(1, 0, ["photo 13"]) == [same_picture[13]]
    assert captions(1, 0, ["photo 13"], length=4) == [same_picture[13][:4]]
    assert captions(20, 1, [f"photo {n}" for n in range(20)]) != same_picture
    assert captions(3, 0, None) == captions(5, 0, None)[:3]


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions("sample", max_length=9, top_k=1),
        DecodingOptions("sample", max_length=9, temperature=1e-6),
        # Bug: what no float can hold divided by the temperature made every probability not a number.
        DecodingOptions("sample", max_length=9, temperature=5e-324),
    ],
)
def test_sampling_without_freedom_is_greedy(options: DecodingOptions) -> None:
    decoder = TableDecoder(4, end=-1.0)
    greedy = decode(decoder, numbered(range(30)), None, DecodingOptions(max_length=9), keep_attention=True)
    sampled = decode(decoder, numbered(range(30)), None, options, keep_attention=True)
    assert all(same(one, other) for one, other in zip(greedy, sampled, strict=True))


def test_top_k_says_no_more_words_than_k_where_scores_tie() -> None:
    # Bug: every word as likely as the k-th was let in.
    options = DecodingOptions("sample", max_length=1, top_k=2)
    found = decode(ConstantDecoder([0.0] * 12), numbered([0] * 200), None, options)
    assert len({h.tokens for (h,) in found}) == 2


# What may be said, and for how long.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_padding_and_start_are_never_said_and_unk_only_where_allowed(
    strategy: Literal["greedy", "sample", "beam"],
) -> None:
    decoder = ConstantDecoder([90.0, 80.0, 2.0, 2.5, 1.0, 1.5])
    for allow in (True, False):
        options = DecodingOptions(strategy, 4, 6, allow_unk=allow)
        results = decode(decoder, numbered(range(40)), None, options)
        said = {word for found in results for h in found for word in h.tokens}
        assert said <= {UNK_ID, 4, 5}
        assert (UNK_ID in said) is allow
        assert all(math.isfinite(h.score) for found in results for h in found)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8])
def test_captions_stop_at_the_maximum_length(strategy: Literal["greedy", "sample", "beam"], length: int) -> None:
    decoder = TableDecoder(0, end=-50.0)
    options = DecodingOptions(strategy, 3, length)
    for image, found in enumerate(decode(decoder, numbered(range(4)), None, options)):
        assert len(found) == (3 if strategy == "beam" else 1)
        for hypothesis in found:
            assert len(hypothesis.tokens) == len(hypothesis.log_probs) == (length or DEFAULT_MAX_LENGTH)
            assert not hypothesis.finished
        if strategy == "beam" and length:
            check_same(found[0], plain_beam(decoder, image, options)[0], options.length_penalty)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_caption_may_be_empty(strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = ConstantDecoder([0.0, 0.0, 50.0, 0.0, 0.0, 0.0])
    for found, *_ in decode(decoder, numbered([0, 1]), None, DecodingOptions(strategy, 2, 5)):
        assert found.tokens == ()
        assert found.finished
        assert len(found.log_probs) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_batch_has_no_captions(strategy: Literal["greedy", "sample", "beam"]) -> None:
    assert decode(real_decoder("attention"), MEMORY[:0], MASK[:0], DecodingOptions(strategy), keys=[]) == []


def test_a_search_stops_when_the_best_has_ended() -> None:
    decoder = TableDecoder(0, end=-50.0)
    decoder.table[decoder.place(0, ()), END_ID] = 20.0
    ((best, *_),) = decode(decoder, numbered([0]), None, DecodingOptions("beam", 4, 40))
    assert (best.tokens, best.finished) == ((), True)
    assert len(decoder.rows_seen) == 4  # the first time it looks


def test_pictures_that_are_done_leave_the_batch() -> None:
    for options in (DecodingOptions("greedy", max_length=40), DecodingOptions("beam", 2, 40)):
        decoder = TableDecoder(0)
        decode(decoder, numbered(range(50)), None, options)
        assert decoder.rows_seen == sorted(decoder.rows_seen, reverse=True)
        assert decoder.rows_seen[-1] < 25
        assert len(decoder.rows_seen) < 40


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_that_are_no_numbers_give_some_caption(strategy: Literal["greedy", "sample", "beam"]) -> None:
    # Bug: a beam search over the features of a damaged picture gave no hypothesis at all.
    memory = MEMORY.clone()
    memory[1] = float("nan")
    options = DecodingOptions(strategy, 3, 9)
    found = decode(real_decoder("attention"), memory, None, options, keys=KEYS)
    sound = decode(real_decoder("attention"), MEMORY, None, options, keys=KEYS)
    assert all(len(hypotheses) >= 1 for hypotheses in found)
    assert all(same(found[image], sound[image]) for image in (0, 2, 3, 4, 5))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_of_any_precision_are_added_up_in_float32(
    strategy: Literal["greedy", "sample", "beam"], dtype: torch.dtype
) -> None:
    decoder = ConstantDecoder([0.0, 0.0, 1.0, 0.0, 1.0, 2.0], dtype)
    memory = numbered([0]).to(dtype)
    (found, *_) = decode(decoder, memory, None, DecodingOptions(strategy, 3, 20))[0]
    exact = {END_ID: 1.0, 4: 1.0, 5: 2.0}
    total = math.log(sum(math.exp(x) for x in exact.values()))
    words = [*found.tokens, END_ID][: len(found.log_probs)]
    assert found.log_probs == pytest.approx([exact[word] - total for word in words], rel=1e-6)
