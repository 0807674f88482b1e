"""The search that nearly everyone asks for, greedy or by beam without rules of phrases, with its bookkeeping in C."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seesay.compiled import compiled
from seesay.config import DecodingOptions
from seesay.decoding.beam_state import parts_of
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.hypothesis import Hypothesis, Result
from seesay.decoding.logits_processing import single_bans, suppressed_tokens, widened
from seesay.decoding.stepping import CHECK_EVERY, StepInput, Steps, least_saved
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, START_ID

_SOURCE = Path(__file__).with_name("beam.c")
_SIZES = ("images", "width", "words", "limit", "least", "run", "wanted", "end", "silents", "bans")
_ARRAYS = (
    *("silent", "banned", "norms", "open", "ended", "sums", "log_probs", "tokens"),
    *("scores", "ended_log_probs", "lengths", "freely", "ended_tokens", "totals", "best", "which", "lost"),
)


class _Struct(ctypes.Structure):
    """`struct search` of beam.c."""

    _fields_ = [(name, ctypes.c_longlong) for name in _SIZES] + [(name, ctypes.c_void_p) for name in _ARRAYS]


class _Part(NamedTuple):
    """Images whose hypotheses are fed together.

    Attributes:
        images: their numbers in the batch, (b,).
        state: the decoder's, before `words`.
        words: last word of each hypothesis, (b, R); of those that are not open, any.
    """

    images: NDArray[np.int64]
    state: DecoderState
    words: Tensor


class CompiledBeam:
    """`Search` for the options that need no more than scores and words, with one call for a word of all hypotheses.

    A step of `Search` is some eighty operations on tensors, which for one image take longer than the decoder's
    products. The hypotheses it finds are the same but for the rounding of their log-probabilities.

    Args:
        library: beam.c.
        options: for which `compiled_beam` gives a search.
        rules: the same.
        images: how many images B.
    """

    def __init__(self, library: ctypes.CDLL, options: DecodingOptions, rules: TokenConstraints, images: int) -> None:
        self._library = library
        beam, limit = options.strategy == "beam", options.max_length
        width, penalty = (options.beam_size, options.length_penalty) if beam else (1, 0.0)
        rows, wide, whole = (images, width), (images, width, width), (images, width, limit + 1)
        # As large as a step's arrays, but for the two halves that steps read and write in turn.
        self._arrays: dict[str, NDArray[np.int64] | NDArray[np.float32]] = {
            "silent": np.array(suppressed_tokens(options.allow_unk), np.int64),
            "banned": np.array(single_bans(rules), np.int64),
            "norms": np.array([1.0, *(count**penalty for count in range(1, limit + 2))], np.float32),
            "open": np.ones(images, np.int64),
            "ended": np.zeros(images, np.int64),
            "sums": np.zeros(rows, np.float32),
            "log_probs": np.empty((2, *whole), np.float32),
            "tokens": np.empty((2, *rows, limit), np.int64),
            "scores": np.empty(rows, np.float32),
            "ended_log_probs": np.empty(whole, np.float32),
            "lengths": np.empty(rows, np.int64),
            "freely": np.empty(rows, np.int64),
            "ended_tokens": np.empty((*rows, limit), np.int64),
            "totals": np.empty(rows, np.float32),
            "best": np.empty(wide, np.float32),
            "which": np.empty(wide, np.int64),
            "lost": np.zeros(1, np.int64),
        }
        silents, bans = len(self._arrays["silent"]), len(self._arrays["banned"])
        sizes = (
            images,
            width,
            0,
            limit,
            options.min_length,
            options.no_repeat_ngram_size,
            options.num_return_sequences,
        )
        self._struct = _Struct(*sizes, END_ID, silents, bans, *(self._arrays[name].ctypes.data for name in _ARRAYS))
        self._images, self._width, self._limit = images, width, limit

    def steps(self, state: DecoderState) -> Steps[list[Result] | None]:
        """Asks for the decoder's steps, from its first state on; returns each image's hypotheses, best first.

        None where the decoder's scores are not of a kind that C reads, where one is no number, or where an image's
        hypotheses can neither go on nor end: `Search` knows what to do then.
        """
        pending = [(0, _Part(np.arange(self._images), state, torch.full((self._images, 1), START_ID, device="cpu")))]
        while pending:
            step, part = pending.pop()
            while step < self._limit:
                output = yield StepInput(part.words, part.state)
                part = self._advance(part, output, step)
                step += 1
                if self._lost:
                    return None
                if step % CHECK_EVERY == 0 or not part.words.numel():
                    break
            if step < self._limit:
                pending += [(step, each) for each in self._apart(part)]
            elif part.words.numel():
                self._close(part, (yield StepInput(part.words, part.state)))
                if self._lost:
                    return None
        return [self._result(image) for image in range(self._images)]

    @property
    def _lost(self) -> bool:
        return bool(self._arrays["lost"][0])

    def _scores(self, output: StepOutput) -> Tensor:
        """Returns the logits (b, R, V) as C reads them, and asks for `Search` if it cannot."""
        logits = widened(output.logits).contiguous()
        words = logits.shape[-1]
        known = words == self._struct.words or not self._beyond(words)
        if logits.dtype != torch.float32 or logits.device.type != "cpu" or not known:
            self._arrays["lost"][0] = 1
        self._struct.words = words
        return logits

    def _beyond(self, words: int) -> bool:
        """Tells whether a rule speaks of what is no word of the vocabulary, which `Search` complains of."""
        banned = any(not END_ID < token < words for token in self._arrays["banned"])
        return banned or words <= max(END_ID, *self._arrays["silent"])

    def _advance(self, part: _Part, output: StepOutput, step: int) -> _Part:
        """Returns the images one word on; without hypotheses where all have ended."""
        logits = self._scores(output)
        if self._lost:
            return part
        count, rows = part.words.shape
        words, parents = torch.empty((2, count, self._width), dtype=torch.int64, device="cpu").unbind()
        self._library.advance(ctypes.byref(self._struct), logits, part.images.ctypes, count, rows, step, words, parents)
        left = int(self._arrays["open"][part.images].max())
        if left == rows == 1:
            return _Part(part.images, output.state, words[:, :1])
        return _Part(part.images, output.state.pick(parents[:, :left]), words[:, :left])

    def _apart(self, part: _Part) -> list[_Part]:
        """Returns the images that are not done, in parts with as many open hypotheses."""
        places = {int(image): place for place, image in enumerate(part.images)}
        open_rows = {image: int(rows) for image, rows in zip(places, self._arrays["open"][part.images], strict=True)}
        parts = parts_of({image: rows for image, rows in open_rows.items() if rows}, least_saved(part.words.device))
        if len(parts) == 1 and len(parts[0][0]) == len(part.images):
            return [part]
        return [self._only(part, [places[image] for image in images], rows) for images, rows in parts]

    @staticmethod
    def _only(part: _Part, places: Sequence[int], rows: int) -> _Part:
        chosen = torch.tensor(places, device="cpu")
        state, words = part.state.keep(chosen), part.words[chosen]
        if rows < words.shape[1]:  # the open ones come first
            first = torch.arange(rows, device="cpu").expand(len(places), rows)
            state, words = state.pick(first), words[:, :rows]
        return _Part(part.images[places], state, words)

    def _close(self, part: _Part, output: StepOutput) -> None:
        logits = self._scores(output)
        if self._lost:
            return
        self._library.close_all(ctypes.byref(self._struct), logits, part.images.ctypes, *part.words.shape)

    def _result(self, image: int) -> Result:
        held = {name: self._arrays[name][image] for name in ("scores", "lengths", "freely")}
        tokens, log_probs = self._arrays["ended_tokens"][image], self._arrays["ended_log_probs"][image]
        count = int(self._arrays["ended"][image])
        order = sorted(range(count), key=lambda place: -held["scores"][place])  # of equals what came first
        found = [
            Hypothesis(
                tokens=tuple(tokens[place, : held["lengths"][place] - 1].tolist()),
                log_probs=tuple(log_probs[place, : held["lengths"][place]].tolist()),
                score=float(held["scores"][place]),
                finished=bool(held["freely"][place]),
            )
            for place in order
        ]
        return Result(found, failed=False, rows=tuple(range(count)))


def compiled_beam(
    options: DecodingOptions, rules: TokenConstraints, memory: Tensor, *, keep_attention: bool, traced: bool
) -> CompiledBeam | None:
    """Returns the compiled search of images with some memory (B, N, D), or None where `Search` has to do it."""
    greedy = options.strategy == "greedy" and options.num_return_sequences == 1
    beam = options.strategy == "beam" and options.num_beam_groups == 1
    more = keep_attention or traced or options.repetition_penalty > 1
    phrases = rules.required or rules.no_end_after or any(len(phrase) > 1 for phrase in rules.banned)
    here = memory.device.type == "cpu" and memory.dtype != torch.float64
    if not (greedy or beam) or more or phrases or not here:
        return None
    library = compiled(_SOURCE)
    return None if library is None else CompiledBeam(library, options, rules, len(memory))
