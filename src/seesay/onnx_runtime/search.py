"""The loop of a search by NumPy, with the results of `seesay.decoding.search`, whose rules it follows.

What is done leaves at once: NumPy never waits for a device.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.hypothesis import FAILED, Hypothesis, Result
from seesay.decoding.rules import TokenRules
from seesay.onnx_runtime.choosing import Choice, best_of_beam, best_word, finite
from seesay.onnx_runtime.finished import Ended, Finished
from seesay.onnx_runtime.graphs import Decoder, State
from seesay.onnx_runtime.scoring import NO, Flags, Floats, Ints, Scorer, Scores
from seesay.tokenizer import END_ID, START_ID


@dataclass(frozen=True)
class History:
    """What hypotheses (b, R) have said: tokens (b, R, t), log-probabilities, attention (b, R, t, N) if it is kept."""

    tokens: Ints
    log_probs: Floats
    attention: Floats | None

    def pick(self, parents: Ints) -> "History":
        """Returns the histories (b, K) of the rows `parents` (b, K)."""
        places = (np.arange(len(parents))[:, None], parents)
        maps = None if self.attention is None else self.attention[places]
        return History(self.tokens[places], self.log_probs[places], maps)

    def keep(self, images: Ints) -> "History":
        """Returns the histories of the pictures at positions `images` (b')."""
        maps = None if self.attention is None else self.attention[images]
        return History(self.tokens[images], self.log_probs[images], maps)

    def scored(self, log_probs: Floats, attention: Floats | None) -> "History":
        """Returns the histories with the log-probability (b, R) and attention (b, R, N) of one more token."""
        maps = None
        if attention is not None:
            latest = attention[:, :, None]
            maps = latest if self.attention is None else np.concatenate([self.attention, latest], 2)
        return History(self.tokens, np.concatenate([self.log_probs, log_probs[..., None]], -1), maps)

    def hypothesis(self, image: int, row: int, score: float, finished: bool) -> Hypothesis:
        """Returns one of them as a result."""
        maps = None if self.attention is None else self.attention[image, row].astype(np.float32)
        tokens, log_probs = self.tokens[image, row].tolist(), self.log_probs[image, row].tolist()
        return Hypothesis(tuple(tokens), tuple(log_probs), score, finished, maps)


@dataclass(frozen=True)
class Frontier:
    """The open hypotheses (b, R) of some pictures; see `seesay.decoding.frontier.Frontier`.

    Attributes:
        images: number of each picture in the batch, (b,).
        state: the decoder's, before `words`.
        words: last word of each hypothesis, (b, R).
        sums: penalised log-probabilities added up, (b, R); -inf = no open hypothesis.
        places: how many hypotheses of each picture have not ended, (b,).
        history: what they have said.
    """

    images: Ints
    state: State
    words: Ints
    sums: Floats
    places: Ints
    history: History

    def keep(self, images: Ints) -> "Frontier":
        """Returns the part of the pictures at positions `images` (b')."""
        return Frontier(
            self.images[images],
            self.state.keep(images),
            self.words[images],
            self.sums[images],
            self.places[images],
            self.history.keep(images),
        )

    def narrow(self, rows: int) -> "Frontier":
        """Returns the open hypotheses in their order, at most `rows` a picture."""
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

    def __init__(self, decoder: Decoder, options: DecodingOptions, rules: TokenRules, keep_attention: bool) -> None:
        self.decoder, self.options, self.keep_attention = decoder, options, keep_attention
        self.beam = options.strategy == "beam"
        self.penalty = options.length_penalty if self.beam else 0.0
        self.width = options.beam_size if self.beam else options.num_captions
        self.scorer = Scorer(options, rules)

    def run(self, state: State, images: int) -> list[Result]:
        """Returns the hypotheses of every picture, best first, from the state before the start token, (B, 1, ...)."""
        self.finished = Finished(images, self.width)
        empty = np.zeros((images, 1, 0), np.int64)
        frontier: Frontier | None = Frontier(
            np.arange(images),
            state,
            np.full((images, 1), START_ID),
            np.zeros((images, 1), np.float32),
            np.full(images, self.width),
            History(empty, empty.astype(np.float32), None),
        )
        for _ in range(self.options.max_length):
            if frontier is not None:
                frontier = self._left(self._advance(frontier))
        if frontier is not None:
            self._close(frontier)
        return self.finished.collect()

    def _step(self, frontier: Frontier) -> tuple[Scores, State, Floats | None]:
        output = self.decoder.step(frontier.words, frontier.state)
        scores = self.scorer(output.logits, frontier.history.tokens)
        return scores, output.state, output.attention if self.keep_attention else None

    def _advance(self, frontier: Frontier) -> Frontier:
        """Returns the frontier one word on; what has ended is put away."""
        scores, state, attention = self._step(frontier)
        parents, words, sums = self._choose(frontier, scores)
        moved = self.beam or words.shape != frontier.words.shape  # else every row continues itself
        looked = attention[np.arange(len(words))[:, None], parents] if attention is not None else None
        history = frontier.history.pick(parents).scored(scores.log_probs(words, parents), looked)
        ended = (words == END_ID) & np.isfinite(sums)
        self._put_away(frontier.images, np.where(ended, sums, NO), history, ended)
        self._put_away_failed(frontier, scores, attention, sums, moved)
        sums[ended] = NO
        sums[self._hopeless(frontier.images, sums)] = NO
        return Frontier(
            frontier.images,
            state.pick(parents) if moved else state,
            words,
            sums,
            frontier.places - ended.sum(1),
            replace(history, tokens=np.concatenate([history.tokens, words[..., None]], -1)),
        )

    def _choose(self, frontier: Frontier, scores: Scores) -> Choice:
        first = frontier.history.tokens.shape[-1] == 0 and self.options.num_captions > 1
        if self.beam or first:
            return best_of_beam(scores, frontier.sums, self.width, frontier.places)
        return best_word(scores, frontier.sums)

    def _left(self, frontier: Frontier) -> Frontier | None:
        """Returns the frontier without what is done; None if all is."""
        rows = np.isfinite(frontier.sums).sum(1)
        going = np.flatnonzero((rows > 0) & (frontier.places > 0))
        if len(going) == 0:
            return None
        if len(going) < len(rows):
            frontier = frontier.keep(going)
        most = int(rows[going].max())
        # Of greedy decoding the first row is the caption, and stays the first.
        return frontier.narrow(most) if self.beam and most < frontier.sums.shape[1] else frontier

    def _close(self, frontier: Frontier) -> None:
        """Ends all hypotheses at the maximum length; those end by themselves of which the end is the best word."""
        scores, _, attention = self._step(frontier)
        log_probs = scores.end_log_probs()
        sums = finite(frontier.sums + log_probs)
        freely = scores.model.argmax(-1) == END_ID
        self._put_away(frontier.images, sums, frontier.history.scored(log_probs, attention), freely)
        self._put_away_failed(frontier, scores, attention, sums, moved=self.beam)

    def _put_away(self, images: Ints, sums: Floats, history: History, finished: Flags) -> None:
        """Puts hypotheses (b, k) that have ended, whose sums are numbers, among the finished."""
        score = sums / history.log_probs.shape[-1] ** self.penalty
        for place, row in np.argwhere(np.isfinite(sums)).tolist():
            hypothesis = history.hypothesis(place, row, float(score[place, row]), bool(finished[place, row]))
            # The caption of greedy decoding stays the first, whatever the alternatives score.
            rank = hypothesis.score if self.beam or row > 0 else -FAILED
            self.finished.add(int(images[place]), Ended(rank, row, hypothesis))

    def _put_away_failed(
        self, frontier: Frontier, scores: Scores, attention: Floats | None, sums: Floats, moved: bool
    ) -> None:
        """Keeps the best open hypothesis of a picture of which none can go on and none has ended."""
        stuck: Flags = np.logical_not(np.isfinite(sums))
        if moved:
            stuck = np.logical_and.reduce(stuck, axis=1, keepdims=True)
        if not stuck.any():
            return
        none = np.isneginf(self._bars(frontier.images, 1))
        best = frontier.sums == frontier.sums.max(1, keepdims=True)
        log_probs = scores.end_log_probs()
        history = frontier.history.scored(log_probs, attention)
        score = (frontier.sums + log_probs) / history.log_probs.shape[-1] ** self.penalty
        for place, row in np.argwhere(np.isfinite(frontier.sums) & stuck & none & best).tolist():
            hypothesis = history.hypothesis(place, row, float(score[place, row]), finished=False)
            self.finished.add(int(frontier.images[place]), Ended(FAILED, row, hypothesis))

    def _hopeless(self, images: Ints, sums: Floats) -> Flags:
        """Returns which open hypotheses (b, k) cannot come among the captions asked for any more."""
        if not self.beam:
            return np.zeros(sums.shape, np.bool_)
        reachable = sums / (self.options.max_length + 1) ** self.penalty
        hopeless: Flags = reachable <= self._bars(images, self.options.num_captions)
        return hopeless

    def _bars(self, images: Ints, count: int) -> NDArray[np.float64]:
        """Returns the rank that one of the best `count` of each picture has to beat, (b, 1)."""
        return np.array([[self.finished.bar(int(image), count)] for image in images])
