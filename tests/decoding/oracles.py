"""Decoders made by hand, and slow plain searches in Python that know nothing of tensors or of stopping early."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from seesay.decoding import DecodingOptions, GenerationRequest, Hypothesis, TokenConstraints, generate, init_state
from seesay.models.protocol import DecoderState, StepOutput
from seesay.onnx_runtime.graphs import State
from seesay.tokenizer import END_ID, START_ID, UNK_ID

ROWS = 1009
PRIME = 1_000_003
NO_RULES = TokenConstraints()


LIBRARY = "torch"
"""Of the arrays in which `decode` runs the search: torch or numpy."""


class NumpyDecoder:
    """A decoder of torch tensors that takes and gives NumPy arrays."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def step(self, tokens: NDArray[np.int64], state: State) -> StepOutput:
        before = DecoderState(
            *({k: torch.from_numpy(v) for k, v in d.items()} for d in (state.per_image, state.per_row))
        )
        output = self.decoder.step(torch.from_numpy(np.ascontiguousarray(tokens)), before)
        attention = None if output.attention is None else output.attention.numpy()
        half = output.logits.dtype in (torch.float16, torch.bfloat16)
        logits = (output.logits.float() if half else output.logits).numpy()
        return StepOutput(logits, numpy_state(output.state), attention)  # type: ignore[arg-type]


def numpy_state(state: DecoderState) -> State:
    return State(*({k: v.numpy() for k, v in d.items()} for d in (state.per_image, state.per_row)))


def decode(
    decoder: Any, memory: Tensor, memory_mask: Tensor | None = None, options: DecodingOptions | None = None, **more: Any
) -> list[list[Hypothesis]]:
    """What `generate` returns over some memory; `more` are further fields of its request."""
    with torch.inference_mode():
        request = GenerationRequest(options or DecodingOptions(), **more)
        keys = request.keys if request.keys and len(request.keys) == len(memory) else None
        state = init_state(decoder, memory, memory_mask, keys)
        if LIBRARY == "numpy":
            return generate(NumpyDecoder(decoder), numpy_state(state), request)
        return generate(decoder, state, request)


class TableDecoder:
    """A decoder whose scores after any prefix are a row of a random table, found by hashing image and prefix.

    The hash of the words is kept a row, the image's number an image, so that both kinds of state have to
    be led the right way. `rows_seen` notes how many hypotheses each step was asked for.
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
        self.rows_seen.append(tokens.numel())
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
        return StepOutput(self.logits.repeat(*tokens.shape, 1), state, None)


def numbered(images: Sequence[int]) -> Tensor:
    """Memory (B, 4, 1) that tells a `TableDecoder` which images it looks at."""
    return torch.tensor(images, dtype=torch.float64)[:, None, None].expand(-1, 4, 1)


@dataclass(frozen=True)
class Plain:
    """A hypothesis: words without the end, log-probabilities with it, and what the ranking adds up."""

    words: tuple[int, ...]
    probs: tuple[float, ...] = ()
    total: float = 0.0
    ended: bool = False


def longer(
    decoder: TableDecoder, image: int, found: Plain, options: DecodingOptions, word: int, probs: dict[int, float]
) -> Plain:
    """The hypothesis with one more word, or with its end."""
    prob = probs[word]
    penalised = prob * options.repetition_penalty if word in found.words else prob
    said = found.words if word == END_ID else (*found.words, word)
    return Plain(said, (*found.probs, prob), found.total + penalised, word == END_ID)


def score_of(found: Plain, options: DecodingOptions) -> float:
    penalty = options.length_penalty if options.strategy == "beam" else 0.0
    return found.total / float(len(found.probs) ** penalty)


def ranked(found: list[Plain], options: DecodingOptions) -> list[Plain]:
    return sorted(found, key=lambda each: -score_of(each, options))


def ends_freely(decoder: TableDecoder, image: int, found: Plain, options: DecodingOptions) -> bool:
    """Whether a caption that has ended was not cut."""
    if len(found.words) < options.max_length:
        return True
    probs = decoder.log_probs(image, found.words, options.allow_unk)
    return max(probs, key=lambda word: probs[word]) == END_ID


def holds(words: Sequence[int], phrase: Sequence[int]) -> bool:
    return any(tuple(words[at : at + len(phrase)]) == tuple(phrase) for at in range(len(words) - len(phrase) + 1))


def may_be_said(words: Sequence[int], options: DecodingOptions, rules: TokenConstraints) -> bool:
    """Whether words, which more may follow, keep the rules that forbid."""
    runs = [
        tuple(words[at : at + options.no_repeat_ngram_size])
        for at in range(len(words) - options.no_repeat_ngram_size + 1)
    ]
    repeats = options.no_repeat_ngram_size > 0 and len(set(runs)) < len(runs)
    return not repeats and not any(holds(words, phrase) for phrase in rules.banned)


def may_be_all(words: Sequence[int], options: DecodingOptions, rules: TokenConstraints) -> bool:
    """Whether a whole caption keeps every rule."""
    return (
        options.min_length <= len(words) <= options.max_length
        and may_be_said(words, options, rules)
        and all(holds(words, phrase) for phrase in rules.required)
        and not (words and words[-1] in rules.no_end_after)
    )


def sayings(decoder: TableDecoder, options: DecodingOptions) -> range:
    return range(UNK_ID + (not options.allow_unk), decoder.table.shape[1])


def every_caption(
    decoder: TableDecoder, image: int, options: DecodingOptions, rules: TokenConstraints = NO_RULES
) -> list[Plain]:
    """All captions of at most the maximum length that keep the rules, best first: what search is compared with."""

    def grown() -> Iterator[Plain]:
        for length in range(options.max_length + 1):
            for words in itertools.product(sayings(decoder, options), repeat=length):
                if may_be_all(words, options, rules):
                    found = Plain(())
                    for word in (*words, END_ID):
                        probs = decoder.log_probs(image, found.words, options.allow_unk)
                        found = longer(decoder, image, found, options, word, probs)
                    yield found

    return ranked(list(grown()), options)


def plain_beam(
    decoder: TableDecoder, image: int, options: DecodingOptions, rules: TokenConstraints = NO_RULES
) -> list[Plain]:
    """Beam search of one image with nothing clever, by groups where the options say so.

    Rules are minded where they can be without looking ahead: what forbids, and the minimum length.
    """
    groups, width = options.num_beam_groups, options.beam_size // options.num_beam_groups
    running: list[list[Plain]] = [[Plain(())] for _ in range(groups)]
    ended: list[list[Plain]] = [[] for _ in range(groups)]
    for step in range(options.max_length):
        spoken: list[int] = []
        for group in range(groups):
            found = []
            for each in running[group]:
                probs = decoder.log_probs(image, each.words, options.allow_unk)
                for word in probs:
                    more = longer(decoder, image, each, options, word, probs)
                    if more.ended and step < options.min_length:
                        continue
                    if may_be_said(more.words, options, rules):
                        shunned = options.diversity_penalty * spoken.count(word) * (not more.ended)
                        found.append((more.total - shunned, word, more))
            found.sort(key=lambda item: -item[0])
            kept = found[: width - len(ended[group])]  # a finished hypothesis keeps its place
            spoken += [word for _, word, _ in kept]
            running[group] = [each for _, _, each in kept if not each.ended]
            ended[group] += [each for _, _, each in kept if each.ended]
    results = [each for group in ended for each in group]
    for group in range(groups):
        for each in running[group]:
            probs = decoder.log_probs(image, each.words, options.allow_unk)
            results.append(longer(decoder, image, each, options, END_ID, probs))
    return ranked(list(dict.fromkeys(results)), options)


def check_same(decoder: TableDecoder, image: int, found: Hypothesis, expected: Plain, options: DecodingOptions) -> None:
    assert found.tokens == expected.words
    assert found.log_probs == pytest.approx(expected.probs, rel=1e-9)
    assert found.score == pytest.approx(score_of(expected, options), rel=1e-9)
    assert found.finished is ends_freely(decoder, image, expected, options)


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
