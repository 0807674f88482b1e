"""The loop of a search by NumPy, with the results of `seesay.decoding.search`, whose rules it follows.

What is done leaves at once: NumPy never waits for a device.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.hypothesis import FAILED, Hypothesis, Result
from seesay.onnx_runtime.finished import Ended, Finished
from seesay.onnx_runtime.graphs import Decoder, State
from seesay.onnx_runtime.logits_processing import NEG_INF, Flags, Floats, Ints, Scorer, Scores
from seesay.onnx_runtime.selection import Choice, best_token, finite, select_beam
from seesay.tokenizer import END_ID, START_ID


@dataclass(frozen=True)
class TokenHistory:
    """What hypotheses (b, R) have said: tokens (b, R, t), log-probabilities, attention (b, R, t, N) if it is kept."""

    tokens: Ints
    log_probs: Floats
    attention: Floats | None

    def pick(self, parents: Ints) -> "TokenHistory":
        """Returns the histories (b, K) of the rows `parents` (b, K)."""
        places = (np.arange(len(parents))[:, None], parents)
        maps = None if self.attention is None else self.attention[places]
        return TokenHistory(self.tokens[places], self.log_probs[places], maps)

    def keep(self, images: Ints) -> "TokenHistory":
        """Returns the histories of the images at positions `images` (b')."""
        maps = None if self.attention is None else self.attention[images]
        return TokenHistory(self.tokens[images], self.log_probs[images], maps)

    def scored(self, log_probs: Floats, attention: Floats | None) -> "TokenHistory":
        """Returns the histories with the log-probability (b, R) and attention (b, R, N) of one more token."""
        maps = None
        if attention is not None:
            latest = attention[:, :, None]
            maps = latest if self.attention is None else np.concatenate([self.attention, latest], 2)
        return TokenHistory(self.tokens, np.concatenate([self.log_probs, log_probs[..., None]], -1), maps)

    def hypothesis(self, image: int, row: int, score: float, finished: bool) -> Hypothesis:
        """Returns one of them as a result."""
        maps = None if self.attention is None else self.attention[image, row].astype(np.float32)
        tokens, log_probs = self.tokens[image, row].tolist(), self.log_probs[image, row].tolist()
        return Hypothesis(tuple(tokens), tuple(log_probs), score, finished, maps)


@dataclass(frozen=True)
class BeamState:
    """The open hypotheses (b, R) of some images; see `seesay.decoding.beam_state.Frontier`.

    Attributes:
        images: number of each image in the batch, (b,).
        state: the decoder's, before `words`.
        words: last word of each hypothesis, (b, R).
        sums: penalised log-probabilities added up, (b, R); -inf = no open hypothesis.
        places: how many hypotheses of each image have not ended, (b,).
        history: what they have said.
    """

    images: Ints
    state: State
    words: Ints
    sums: Floats
    places: Ints
    history: TokenHistory

    def keep(self, images: Ints) -> "BeamState":
        """Returns the part of the images at positions `images` (b')."""
        return BeamState(
            self.images[images],
            self.state.keep(images),
            self.words[images],
            self.sums[images],
            self.places[images],
            self.history.keep(images),
        )

    def narrow(self, rows: int) -> "BeamState":
        """Returns the open hypotheses in their order, at most `rows` an image."""
        first = np.argsort(np.isneginf(self.sums), axis=1, kind="stable")[:, :rows]
        return replace(
            self,
            state=self.state.pick(first),
            words=np.take_along_axis(self.words, first, 1),
            sums=np.take_along_axis(self.sums, first, 1),
            history=self.history.pick(first),
        )


class Search:
    """One search over a batch: greedy or by beam.

    Args:
        decoder: one step of it.
        options: with the maximum length filled in.
        rules: phrases in ids.
        keep_attention: gather where each word looked.
    """

    def __init__(
        self, decoder: Decoder, options: DecodingOptions, rules: TokenConstraints, keep_attention: bool
    ) -> None:
        self.decoder, self.options, self.keep_attention = decoder, options, keep_attention
        self.beam = options.strategy == "beam"
        self.penalty = options.length_penalty if self.beam else 0.0
        self.width = options.beam_size if self.beam else options.num_return_sequences
        self.scorer = Scorer(options, rules)

    def run(self, state: State, images: int) -> list[Result]:
        """Returns the hypotheses of every image, best first, from the state before the start token, (B, 1, ...)."""
        self.finished = Finished(images, self.width)
        empty = np.zeros((images, 1, 0), np.int64)
        beam_state: BeamState | None = BeamState(
            np.arange(images),
            state,
            np.full((images, 1), START_ID),
            np.zeros((images, 1), np.float32),
            np.full(images, self.width),
            TokenHistory(empty, empty.astype(np.float32), None),
        )
        for _ in range(self.options.max_length):
            if beam_state is not None:
                beam_state = self._left(self._advance(beam_state))
        if beam_state is not None:
            self._close(beam_state)
        return self.finished.collect()

    def _step(self, beam_state: BeamState) -> tuple[Scores, State, Floats | None]:
        output = self.decoder.step(beam_state.words, beam_state.state)
        scores = self.scorer(output.logits, beam_state.history.tokens)
        return scores, output.state, output.attention if self.keep_attention else None

    def _advance(self, beam_state: BeamState) -> BeamState:
        """Returns the frontier one word on; what has ended is put away."""
        scores, state, attention = self._step(beam_state)
        parents, words, sums = self._choose(beam_state, scores)
        moved = self.beam or words.shape != beam_state.words.shape  # else every row continues itself
        looked = attention[np.arange(len(words))[:, None], parents] if attention is not None else None
        history = beam_state.history.pick(parents).scored(scores.log_probs(words, parents), looked)
        ended = (words == END_ID) & np.isfinite(sums)
        self._finalize(beam_state.images, np.where(ended, sums, NEG_INF), history, ended)
        self._finalize_failed(beam_state, scores, attention, sums, moved)
        sums[ended] = NEG_INF
        sums[self._prunable(beam_state.images, sums)] = NEG_INF
        return BeamState(
            beam_state.images,
            state.pick(parents) if moved else state,
            words,
            sums,
            beam_state.places - ended.sum(1),
            replace(history, tokens=np.concatenate([history.tokens, words[..., None]], -1)),
        )

    def _choose(self, beam_state: BeamState, scores: Scores) -> Choice:
        first = beam_state.history.tokens.shape[-1] == 0 and self.options.num_return_sequences > 1
        if self.beam or first:
            return select_beam(scores, beam_state.sums, self.width, beam_state.places)
        return best_token(scores, beam_state.sums)

    def _left(self, beam_state: BeamState) -> BeamState | None:
        """Returns the frontier without what is done; None if all is."""
        rows = np.isfinite(beam_state.sums).sum(1)
        going = np.flatnonzero((rows > 0) & (beam_state.places > 0))
        if len(going) == 0:
            return None
        if len(going) < len(rows):
            beam_state = beam_state.keep(going)
        most = int(rows[going].max())
        # Of greedy decoding the first row is the caption, and stays the first.
        return beam_state.narrow(most) if self.beam and most < beam_state.sums.shape[1] else beam_state

    def _close(self, beam_state: BeamState) -> None:
        """Ends all hypotheses at the maximum length; those end by themselves of which the end is the best word."""
        scores, _, attention = self._step(beam_state)
        log_probs = scores.end_log_probs()
        sums = finite(beam_state.sums + log_probs)
        freely = scores.model.argmax(-1) == END_ID
        self._finalize(beam_state.images, sums, beam_state.history.scored(log_probs, attention), freely)
        self._finalize_failed(beam_state, scores, attention, sums, moved=self.beam)

    def _finalize(self, images: Ints, sums: Floats, history: TokenHistory, finished: Flags) -> None:
        """Puts hypotheses (b, k) that have ended, whose sums are numbers, among the finished."""
        score = sums / history.log_probs.shape[-1] ** self.penalty
        for place, row in np.argwhere(np.isfinite(sums)).tolist():
            hypothesis = history.hypothesis(place, row, float(score[place, row]), bool(finished[place, row]))
            # The caption of greedy decoding stays the first, whatever the alternatives score.
            rank = hypothesis.score if self.beam or row > 0 else -FAILED
            self.finished.add(int(images[place]), Ended(rank, row, hypothesis))

    def _finalize_failed(
        self, beam_state: BeamState, scores: Scores, attention: Floats | None, sums: Floats, moved: bool
    ) -> None:
        """Keeps the best open hypothesis of an image of which none can go on and none has ended."""
        stuck: NDArray[np.bool_] = ~np.isfinite(sums)
        if moved:
            stuck = np.logical_and.reduce(stuck, axis=1, keepdims=True)
        if not stuck.any():
            return
        none = np.isneginf(self._bars(beam_state.images, 1))
        best = beam_state.sums == beam_state.sums.max(1, keepdims=True)
        log_probs = scores.end_log_probs()
        history = beam_state.history.scored(log_probs, attention)
        score = (beam_state.sums + log_probs) / history.log_probs.shape[-1] ** self.penalty
        for place, row in np.argwhere(np.isfinite(beam_state.sums) & stuck & none & best).tolist():
            hypothesis = history.hypothesis(place, row, float(score[place, row]), finished=False)
            self.finished.add(int(beam_state.images[place]), Ended(FAILED, row, hypothesis))

    def _prunable(self, images: Ints, sums: Floats) -> Flags:
        """Returns which open hypotheses (b, k) cannot come among the captions asked for any more."""
        if not self.beam:
            return np.zeros(sums.shape, np.bool_)
        reachable = sums / (self.options.max_length + 1) ** self.penalty
        prunable: Flags = np.less_equal(reachable, self._bars(images, self.options.num_return_sequences))
        return prunable

    def _bars(self, images: Ints, count: int) -> NDArray[np.float64]:
        """Returns the rank that one of the best `count` of each image has to beat, (b, 1)."""
        return np.array([[self.finished.bar(int(image), count)] for image in images])
