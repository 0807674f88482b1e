"""Hand-made decoders, and slow reference searches in plain Python without tensors or early stopping."""

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

from seesay.captioners.onnx.graphs import State
from seesay.decoding import DecodingOptions, GenerationRequest, Hypothesis, TokenConstraints, generate, init_state
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, START_ID, UNK_ID

ROWS = 1009
PRIME = 1_000_003
NO_CONSTRAINTS = TokenConstraints()


LIBRARY = "torch"
"""Library of the arrays in which `decode` ngrams the search: torch or numpy."""


class NumpyDecoder:
    """Wraps a torch decoder to take and return NumPy arrays."""

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
    """Return the hypotheses that `generate` finds for `memory`; `more` are further fields of the request."""
    with torch.inference_mode():
        request = GenerationRequest(options or DecodingOptions(), **more)
        keys = request.keys if request.keys and len(request.keys) == len(memory) else None
        state = init_state(decoder, memory, memory_mask, keys)
        if LIBRARY == "numpy":
            return generate(NumpyDecoder(decoder), numpy_state(state), request)
        return generate(decoder, state, request)


class TableDecoder:
    """A decoder whose scores after a prefix are a row of a random table, indexed by a hash of image and prefix.

    The state holds the hash of the words per row and the image's number per image, so that a test fails if the search
    reorders either wrongly. `rows_seen` records the number of hypotheses of each step.
    """

    def __init__(self, seed: int, words: int = 3, regions: int = 4, end: float = 0.0, scale: float = 2.0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.table = scale * torch.randn(ROWS, UNK_ID + 1 + words, generator=random, dtype=torch.float64)
        self.table[:, END_ID] += end
        self.attention = torch.randn(ROWS, regions, generator=random, dtype=torch.float64).softmax(-1)
        self.rows_seen: list[int] = []

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        images = memory[:, :1, 0].long()
        return DecoderState({"image": images}, {"code": torch.zeros_like(images)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        self.rows_seen.append(tokens.numel())
        code = (31 * state.per_row["code"] + 7919 * tokens + 1) % PRIME
        place = (code + 577 * state.per_image["image"]) % ROWS
        return StepOutput(self.table[place], DecoderState(state.per_image, {"code": code}), self.attention[place])

    def place(self, image: int, words: Sequence[int]) -> int:
        """Return the row of the table after START and `words`, in plain Python."""
        code = 0
        for word in (START_ID, *words):
            code = (31 * code + 7919 * word + 1) % PRIME
        return (code + 577 * image) % ROWS

    def log_probs(self, image: int, words: Sequence[int], allow_unk: bool = False) -> dict[int, float]:
        """Return the log-probabilities of the words that may follow, in plain Python."""
        logits = self.table[self.place(image, words)].tolist()
        allowed = {w: x for w, x in enumerate(logits) if w >= END_ID and (allow_unk or w != UNK_ID)}
        total = math.log(sum(math.exp(x) for x in allowed.values()))
        return {word: x - total for word, x in allowed.items()}


class ConstantDecoder:
    """A decoder without attention whose scores are constant."""

    def __init__(self, logits: Sequence[float], dtype: torch.dtype = torch.float64) -> None:
        self.logits = torch.tensor(logits, dtype=dtype)

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        return DecoderState({}, {"nothing": memory.new_zeros(len(memory), 1)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        return StepOutput(self.logits.repeat(*tokens.shape, 1), state, None)


def numbered(images: Sequence[int]) -> Tensor:
    """Return memory (B, 4, 1) that holds the image numbers for a `TableDecoder`."""
    return torch.tensor(images, dtype=torch.float64)[:, None, None].expand(-1, 4, 1)


@dataclass(frozen=True)
class Reference:
    """A hypothesis: words without the end, log-probabilities with it, and the sum of penalised log-probabilities."""

    words: tuple[int, ...]
    probs: tuple[float, ...] = ()
    total: float = 0.0
    ended: bool = False


def extend(
    decoder: TableDecoder, image: int, found: Reference, options: DecodingOptions, word: int, probs: dict[int, float]
) -> Reference:
    """Return the hypothesis extended by one word or by the end."""
    prob = probs[word]
    penalised = prob * options.repetition_penalty if word in found.words else prob
    words = found.words if word == END_ID else (*found.words, word)
    return Reference(words, (*found.probs, prob), found.total + penalised, word == END_ID)


def score_of(found: Reference, options: DecodingOptions) -> float:
    penalty = options.length_penalty if options.strategy == "beam" else 0.0
    return found.total / float(len(found.probs) ** penalty)


def ranked(found: list[Reference], options: DecodingOptions) -> list[Reference]:
    return sorted(found, key=lambda each: -score_of(each, options))


def ends_freely(decoder: TableDecoder, image: int, found: Reference, options: DecodingOptions) -> bool:
    """Return whether a caption ended before the maximum length forced it to."""
    if len(found.words) < options.max_length:
        return True
    probs = decoder.log_probs(image, found.words, options.allow_unk)
    return max(probs, key=lambda word: probs[word]) == END_ID


def contains(words: Sequence[int], phrase: Sequence[int]) -> bool:
    return any(tuple(words[at : at + len(phrase)]) == tuple(phrase) for at in range(len(words) - len(phrase) + 1))


def satisfies_bans(words: Sequence[int], options: DecodingOptions, constraints: TokenConstraints) -> bool:
    """Return whether a prefix satisfies the constraints that ban words and repeats."""
    ngrams = [
        tuple(words[at : at + options.no_repeat_ngram_size])
        for at in range(len(words) - options.no_repeat_ngram_size + 1)
    ]
    repeats = options.no_repeat_ngram_size > 0 and len(set(ngrams)) < len(ngrams)
    return not repeats and not any(contains(words, phrase) for phrase in constraints.banned)


def satisfies_constraints(words: Sequence[int], options: DecodingOptions, constraints: TokenConstraints) -> bool:
    """Return whether a complete caption satisfies every constraint."""
    return (
        options.min_length <= len(words) <= options.max_length
        and satisfies_bans(words, options, constraints)
        and all(contains(words, phrase) for phrase in constraints.required)
        and not (words and words[-1] in constraints.no_end_after)
    )


def allowed_words(decoder: TableDecoder, options: DecodingOptions) -> range:
    return range(UNK_ID + (not options.allow_unk), decoder.table.shape[1])


def every_caption(
    decoder: TableDecoder, image: int, options: DecodingOptions, constraints: TokenConstraints = NO_CONSTRAINTS
) -> list[Reference]:
    """Return all captions up to the maximum length that satisfy the constraints, best first."""

    def captions() -> Iterator[Reference]:
        for length in range(options.max_length + 1):
            for words in itertools.product(allowed_words(decoder, options), repeat=length):
                if satisfies_constraints(words, options, constraints):
                    found = Reference(())
                    for word in (*words, END_ID):
                        probs = decoder.log_probs(image, found.words, options.allow_unk)
                        found = extend(decoder, image, found, options, word, probs)
                    yield found

    return ranked(list(captions()), options)


def reference_beam(
    decoder: TableDecoder, image: int, options: DecodingOptions, constraints: TokenConstraints = NO_CONSTRAINTS
) -> list[Reference]:
    """Reference (diverse) beam search of one image.

    It applies only the constraints that need no lookahead: bans, repeats and the minimum length.
    """
    groups, width = options.num_beam_groups, options.beam_size // options.num_beam_groups
    running: list[list[Reference]] = [[Reference(())] for _ in range(groups)]
    ended: list[list[Reference]] = [[] for _ in range(groups)]
    for step in range(options.max_length):
        chosen: list[int] = []
        for group in range(groups):
            found = []
            for each in running[group]:
                probs = decoder.log_probs(image, each.words, options.allow_unk)
                for word in probs:
                    more = extend(decoder, image, each, options, word, probs)
                    if more.ended and step < options.min_length:
                        continue
                    if satisfies_bans(more.words, options, constraints):
                        penalty = options.diversity_penalty * chosen.count(word) * (not more.ended)
                        found.append((more.total - penalty, word, more))
            found.sort(key=lambda item: -item[0])
            kept = found[: width - len(ended[group])]  # a finished hypothesis keeps its slot
            chosen += [word for _, word, _ in kept]
            running[group] = [each for _, _, each in kept if not each.ended]
            ended[group] += [each for _, _, each in kept if each.ended]
    results = [each for group in ended for each in group]
    for group in range(groups):
        for each in running[group]:
            probs = decoder.log_probs(image, each.words, options.allow_unk)
            results.append(extend(decoder, image, each, options, END_ID, probs))
    return ranked(list(dict.fromkeys(results)), options)


def check_same(
    decoder: TableDecoder, image: int, found: Hypothesis, expected: Reference, options: DecodingOptions
) -> None:
    assert found.tokens == expected.words
    assert found.log_probs == pytest.approx(expected.probs, rel=1e-9)
    assert found.score == pytest.approx(score_of(expected, options), rel=1e-9)
    assert found.finished is ends_freely(decoder, image, expected, options)


def same(left: list[Hypothesis], right: list[Hypothesis]) -> bool:
    """Return whether two results are equal up to the rounding of sums over different batch sizes."""
    if [h.tokens for h in left] != [h.tokens for h in right]:
        return False
    for one, other in zip(left, right, strict=True):
        assert (one.attention is None) == (other.attention is None)
        if one.attention is not None and other.attention is not None:
            np.testing.assert_allclose(one.attention, other.attention, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-9, atol=1e-12)
        assert one.finished == other.finished
    return True
