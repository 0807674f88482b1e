"""`generate`: the search from a decoder's state to captions.

Greedy decoding, sampling, beam search, diverse beam search and constrained beam search are strategies of one loop: run
a step of the decoder, process its logits, select the next hypotheses, store the finished ones. The loop keeps
hypotheses in NumPy arrays on the host; the decoder's state and scores stay on its device, as torch tensors or as NumPy
arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.arrays import NEG_INF, Array, Floats, Ints, to_device_of, to_host
from seesay.decoding.beam_state import BeamState, TokenHistory
from seesay.decoding.constraints import TokenConstraints, check_repeats
from seesay.decoding.deduplicate import merge_distinct, warn_of_shortcomings, widen
from seesay.decoding.finished import FinishedHypotheses, RankedHypothesis
from seesay.decoding.hypothesis import BEST_RANK, FAILED, Hypothesis, Result
from seesay.decoding.logits_processing import LogitsProcessor, StepScores
from seesay.decoding.request import GenerationRequest
from seesay.decoding.sampling import uniform_draws
from seesay.decoding.selection import (
    Beam,
    ConstrainedBeam,
    DiverseBeam,
    Greedy,
    Sampling,
    Selection,
    Strategy,
    finite,
)
from seesay.decoding.trace import SearchTrace
from seesay.errors import ConfigError
from seesay.tokenizer import END_ID, START_ID

_WIDENINGS = 3
"""Maximum number of repeats of a search that found too few distinct captions, each twice as wide as the last."""


class State(Protocol):
    """A decoder's state between two tokens: of torch tensors or of NumPy arrays.

    Attributes:
        per_image: arrays (B, ...), shared by the hypotheses of an image.
        per_row: arrays (B, K, ...), one row per hypothesis.
    """

    per_image: dict[str, Any]
    per_row: dict[str, Any]

    def keep(self, images: Any) -> "State":
        """Return the state of the images at some positions."""
        ...

    def pick(self, parents: Any) -> "State":
        """Return the state in which row k of image b continues its row `parents[b, k]`."""
        ...


class StepDecoder(Protocol):
    """The interface of a decoder that a search needs."""

    def step(self, tokens: Any, state: Any) -> Any:
        """Return logits (B, K, V), the next state and attention (B, K, N) or None after the tokens (B, K)."""
        ...


def generate(decoder: StepDecoder, state: Any, request: GenerationRequest) -> list[list[Hypothesis]]:
    """Return `num_return_sequences` distinct hypotheses per image, best first; at least one, or `request.required`.

    The greedy caption and the first sample come first even if others score higher, so that the first caption does not
    depend on `num_return_sequences`. Logs a warning, naming one of the images, if there are fewer hypotheses than
    requested even after widening the search, if constraints are violated, and if scores are not finite.

    Args:
        decoder: anything with a `step`; `EnsembleDecoder` for several.
        state: the decoder's state of B images before the start token.
        request: the options.

    Raises:
        ConfigError: the constraints cannot be satisfied, or the number of keys differs from that of images.
    """
    options, constraints = request.resolved_options(), request.constraints or TokenConstraints()
    _check(options, constraints)
    names = request.names(_number_of_images(state))
    if not names:
        return []
    required = request.required or options.num_return_sequences
    search = Search(decoder, options, constraints, request.keep_attention, request.trace)
    found = [merge_distinct([], each, options, constraints) for each in search.run(state, names)]
    for widening in range(1, _WIDENINGS + 1):
        short = [n for n, each in enumerate(found) if each.failed or len(each.hypotheses) < required]
        if not short:
            break
        wider = replace(search, options=widen(options, widening), trace=None)
        part = keep_images(state, short)
        for image, more in zip(short, wider.run(part, [names[image] for image in short]), strict=True):
            if found[image].failed or not more.failed:
                before = [] if found[image].failed else found[image].hypotheses
                found[image] = merge_distinct(before, more, options, constraints)
    warn_of_shortcomings(found, names, required)
    return [each.hypotheses[: options.num_return_sequences] for each in found]


def sample_captions(decoder: StepDecoder, state: Any, options: DecodingOptions, draws: Array) -> list[list[Hypothesis]]:
    """Return the sampled captions of each image in order, duplicates included.

    Self-critical training uses this; `generate` returns distinct captions.

    Args:
        decoder: anything with a `step`.
        state: the decoder's state of B images before the start token.
        options: `strategy` "sample", with `num_return_sequences` and `max_length`; its word lists are ignored.
        draws: uniform numbers in [0, 1), (B, num_return_sequences, max_length + 1), one per token.
    """
    names = [""] * _number_of_images(state)
    results = Search(decoder, options, TokenConstraints(), False, None).run(state, names, draws)
    # A sample whose scores are not finite is never stored.
    lost = Hypothesis((), (), float("nan"), finished=False)
    found = []
    for result in results:
        by_row = dict(zip(result.rows, result.hypotheses, strict=True))
        found.append([by_row.get(row, lost) for row in range(options.num_return_sequences)])
    return found


@dataclass(frozen=True)
class Search:
    """One search over a batch.

    A finished hypothesis keeps its slot in the beam, so that a beam of one is greedy decoding. An open one is pruned
    once it cannot rank among the best `num_return_sequences` even if all its further tokens had probability 1: sums
    only fall, so sum / (max_length + 1) ** length_penalty is an upper bound of its score. Its successors would score
    lower, so that the results equal those of a search without early stopping. In diverse beam search the groups depend
    on each other's tokens, so that an image's hypotheses are pruned together or not at all.

    Attributes:
        decoder: computes the scores.
        options: with `max_length` set.
        constraints: phrases in token ids.
        keep_attention: return attention weights.
        trace: records every candidate.
    """

    decoder: StepDecoder
    options: DecodingOptions
    constraints: TokenConstraints
    keep_attention: bool
    trace: SearchTrace | None

    def run(self, state: Any, names: Sequence[str], draws: Array | None = None) -> list[Result]:
        """Return the hypotheses of each image, best first.

        Args:
            state: the decoder's state before the start token.
            names: of the images; seed the random numbers of sampling.
            draws: random numbers to use instead.
        """
        running = _Running(self, state, names, draws)
        beam: BeamState | None = running.start(state)
        while beam is not None:
            output = self.decoder.step(to_device_of(beam.tokens, running.like), beam.state)
            beam = running.advance(beam, output)
        return running.finished.collect()


class _Running:
    """The state shared by the steps of a search."""

    def __init__(self, search: Search, state: Any, names: Sequence[str], draws: Array | None) -> None:
        self.options, self.constraints, self.trace = search.options, search.constraints, search.trace
        self.keep_attention, self.images = search.keep_attention, len(names)
        self.like = _any_array(state)
        self.penalty = self.options.length_penalty if self.options.strategy == "beam" else 0.0
        self.processor: LogitsProcessor | None = None
        self.strategy: Strategy = self._build_strategy(names, draws)
        self.finished = FinishedHypotheses(self.images, self.strategy.size, distinct=self.strategy.groups > 1)

    def _build_strategy(self, names: Sequence[str], draws: Array | None) -> Strategy:
        options = self.options
        if options.strategy == "sample":
            return Sampling(options, _on_device(uniform_draws(names, options), self.like) if draws is None else draws)
        if options.strategy == "greedy":
            return Greedy(options)
        return DiverseBeam(options) if options.num_beam_groups > 1 else Beam(options)

    def start(self, state: Any) -> BeamState:
        """Return one empty hypothesis per image, or one per group or sample."""
        images, rows, groups = self.images, self.strategy.rows, self.strategy.groups
        if rows > 1:
            state = state.pick(to_device_of(np.zeros((images, rows), np.int64), self.like))
        empty = np.zeros((images, rows, 0))
        return BeamState(
            images=np.arange(images),
            state=state,
            tokens=np.full((images, rows), START_ID),
            sums=np.zeros((images, rows)),
            slots=np.full((images, groups), self.strategy.size // groups),
            history=TokenHistory(empty.astype(np.int64), empty, None),
            automaton_states=None,
            nodes=None if self.trace is None else np.zeros((images, rows), np.int64),
            samples=np.broadcast_to(np.arange(rows), (images, rows)),
        )

    def advance(self, beam: BeamState, output: Any) -> BeamState | None:
        """Return the open hypotheses extended by one token, or None if none is left; store the finished ones."""
        beam, scores = self._score(beam, output)
        if beam.step == self.options.max_length:
            self._end_all(beam, scores)
            return None
        chosen = self.strategy.select(scores, beam)
        batch = np.arange(len(beam.images))[:, None]
        parents = (batch, chosen.parents)
        attention = None if scores.attention is None else scores.attention[parents]
        history = beam.history.pick(parents).score(scores.log_probs(chosen.tokens, chosen.parents), attention)
        samples = beam.samples[parents] if self.strategy.reorders else _rows(chosen.sums)
        ended = (chosen.tokens == END_ID) & np.isfinite(chosen.sums)
        self._finish(beam.images, np.where(ended, chosen.sums, NEG_INF), history, ended, samples)
        self._keep_failed(beam, scores, chosen)
        nodes = beam.nodes
        if self.trace is not None:
            nodes = self.trace.note(beam, scores, chosen, self.options)
        automaton_states = beam.automaton_states
        if automaton_states is not None and self.processor is not None and self.processor.automaton is not None:
            automaton_states = self.processor.automaton.advance(automaton_states[parents], chosen.tokens)
        sums = np.where(ended, NEG_INF, chosen.sums)
        following = replace(
            beam,
            tokens=chosen.tokens,
            sums=np.where(self._prunable(beam.images, sums), NEG_INF, sums),
            slots=beam.slots - ended.reshape(len(ended), self.strategy.groups, -1).sum(-1),
            history=history.append(chosen.tokens),
            automaton_states=automaton_states,
            nodes=nodes,
            samples=samples,
        )
        return self._compact(following, chosen.parents, output.state, beam.tokens.shape[1])

    def _score(self, beam: BeamState, output: Any) -> tuple[BeamState, StepScores]:
        if self.processor is None:
            self.processor = LogitsProcessor(self.options, self.constraints, output.logits.shape[-1])
            automaton = self.processor.automaton
            if automaton is not None:
                beam = replace(beam, automaton_states=np.zeros_like(beam.tokens))
                if automaton.banks > 1 and type(self.strategy) is Beam:
                    self.strategy = ConstrainedBeam(self.options, automaton)
        attention = None
        if self.keep_attention and output.attention is not None:
            attention = to_host(output.attention).astype(np.float32)
        return beam, self.processor(output.logits, beam.history.tokens, beam.automaton_states, attention)

    def _compact(self, beam: BeamState, parents: Ints, state: Any, rows_before: int) -> BeamState | None:
        """Remove finished images and rows; return the open hypotheses with the decoder's state of `parents`."""
        is_open = np.isfinite(beam.sums)
        counts = is_open.sum(1)
        active = (counts > 0) & (beam.slots.sum(1) > 0)
        if not active.any():
            return None
        images = np.flatnonzero(active) if active.sum() <= _KEPT_SHARE * len(active) else np.arange(len(active))
        rows = _rows(beam.sums)[images]
        if self.strategy.reorders:
            # Open hypotheses come first, in order, so that ties are resolved alike in any batch.
            rows = np.argsort(~is_open[images], 1, kind="stable")[:, : int(counts[active].max())]
        if len(images) < len(active):
            state = state.keep(to_device_of(images, self.like))
        picked = parents[images[:, None], rows]
        if picked.shape[1] != rows_before or (picked != np.arange(rows_before)).any():
            state = state.pick(to_device_of(picked, self.like))
        return replace(beam.select(images, rows), state=state)

    def _end_all(self, beam: BeamState, scores: StepScores) -> None:
        """End all hypotheses at the maximum length."""
        assert self.processor is not None
        log_probs = scores.end_log_probs()
        sums = np.where(self.processor.may_end(beam.automaton_states), finite(beam.sums + log_probs), NEG_INF)
        history = beam.history.score(log_probs, scores.attention)
        self._finish(beam.images, sums, history, self.strategy.ends_freely(scores, beam), beam.samples)
        self._keep_failed(beam, scores, Selection(_rows(sums), beam.tokens, sums))
        if self.trace is not None:
            self.trace.note_end(beam, scores, sums)

    def _finish(
        self, images: Ints, sums: Floats, history: TokenHistory, finished: NDArray[np.bool_], rows: Ints
    ) -> None:
        """Store finished hypotheses (b, k), those with finite sums."""
        for place, row in np.argwhere(np.isfinite(sums)).tolist():
            score = float(sums[place, row]) / history.log_probs.shape[-1] ** self.penalty
            rank = BEST_RANK if self.options.strategy == "greedy" and row == 0 else score
            hypothesis = _hypothesis(history, place, row, score, bool(finished[place, row]))
            self.finished.add(int(images[place]), RankedHypothesis(rank, int(rows[place, row]), hypothesis))

    def _keep_failed(self, beam: BeamState, scores: StepScores, chosen: Selection) -> None:
        """Store the best open hypothesis of each image whose hypotheses can neither continue nor have ended."""
        stuck: NDArray[np.bool_] = ~np.isfinite(chosen.sums)
        moved = self.options.strategy == "beam" or stuck.shape != beam.sums.shape
        stuck = np.logical_and.reduce(stuck, axis=1, keepdims=True) if moved else stuck
        if not stuck.any():
            return
        lost = np.isfinite(beam.sums) & stuck & self.finished.is_empty(beam.images)[:, None]
        lost &= beam.sums == beam.sums.max(1, keepdims=True)
        log_probs = scores.end_log_probs()
        history = beam.history.score(log_probs, scores.attention)
        for place, row in np.argwhere(lost).tolist():
            score = float(beam.sums[place, row] + log_probs[place, row]) / (beam.step + 1) ** self.penalty
            hypothesis = _hypothesis(history, place, row, score, finished=False)
            self.finished.add(
                int(beam.images[place]), RankedHypothesis(FAILED, int(beam.samples[place, row]), hypothesis)
            )

    def _prunable(self, images: Ints, sums: Floats) -> NDArray[np.bool_]:
        """Return whether open hypotheses (b, k) cannot rank among the requested captions."""
        if self.options.strategy != "beam":
            return np.zeros(sums.shape, bool)
        reachable = sums / (self.options.max_length + 1) ** self.penalty
        prunable: NDArray[np.bool_] = (
            reachable <= self.finished.kth_best_rank(images, self.options.num_return_sequences)[:, None]
        )
        # The tokens of a group affect later groups: prune none while any of the image's hypotheses may still win.
        return prunable if self.strategy.groups == 1 else np.broadcast_to(prunable.all(1, keepdims=True), sums.shape)


_KEPT_SHARE = 0.8
"""Finished images are removed once at most this share is active: each removal copies the decoder's state."""


def keep_images(state: Any, images: Sequence[int]) -> Any:
    """Return a decoder's state of the images at some positions."""
    return state.keep(to_device_of(np.array(images, np.int64), _any_array(state)))


def _check(options: DecodingOptions, constraints: TokenConstraints) -> None:
    """Raise ConfigError if the strategy cannot satisfy the constraints."""
    if constraints.required and (options.strategy != "beam" or options.num_beam_groups > 1):
        raise ConfigError("force_words needs beam search without groups; add --strategy beam")
    check_repeats(constraints, options.no_repeat_ngram_size)


def _hypothesis(history: TokenHistory, place: int, row: int, score: float, finished: bool) -> Hypothesis:
    maps = None if history.attention is None else history.attention[place, row].copy()
    log_probs = tuple(history.log_probs[place, row].tolist())
    return Hypothesis(tuple(history.tokens[place, row].tolist()), log_probs, score, finished, maps)


def _rows(sums: Floats) -> Ints:
    return np.broadcast_to(np.arange(sums.shape[1]), sums.shape)


def _any_array(state: Any) -> Array:
    return next(iter((*state.per_row.values(), *state.per_image.values())))


def _number_of_images(state: Any) -> int:
    return len(_any_array(state))


def _on_device(draws: Floats, like: Array) -> Array:
    # MPS devices have no float64.
    is_mps = getattr(getattr(like, "device", None), "type", "") == "mps"
    return to_device_of(draws.astype(np.float32) if is_mps else draws, like)
