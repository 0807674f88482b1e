"""The loop of every search: a step of the decoder, scores, choice, and what has ended.

Pictures and their hypotheses are one tensor (B, R); what a picture alone decides (memory, attention keys) is shared
by its hypotheses. The device waits for Python only once in `CHECK_EVERY` steps, when what is done leaves.
"""

from dataclasses import replace

import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding.choosing import (
    Choice,
    best_of_banks,
    best_of_beam,
    best_of_groups,
    best_word,
    drawn_word,
    finite,
    sample,
)
from seesay.decoding.finished import Finished
from seesay.decoding.frontier import Frontier, History, split, surely_none
from seesay.decoding.hypothesis import FAILED, Result
from seesay.decoding.rules import TokenRules
from seesay.decoding.scoring import NO, Scorer, Scores
from seesay.decoding.stepping import CHECK_EVERY, StepInput, Steps, least_saved
from seesay.decoding.trace import SearchTrace
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, START_ID


class Search:
    """One search over a batch.

    A hypothesis that has ended keeps its place in the beam, so that a beam of one is greedy decoding. An open one is
    dropped as soon as it could not come among the best `num_captions` even if all its further words were certain:
    sums only fall, so sum / (max_length + 1) ** length_penalty bounds what it may reach. All that could take its
    place is still worse, so that nothing else changes: the results are those of a search that never stops early.
    Groups shun each other's words, so that theirs are dropped all at once or not at all.

    The decoder itself is not known here: `steps` asks for what it gives (see `seesay.decoding.stepping`).

    Args:
        options: with the maximum length filled in.
        rules: phrases in ids.
        memory: (B, N, D).
        draws: uniform numbers of sampling, (B, num_captions, max_length + 1); None in other searches.
        keep_attention: gather where each word looked.
        trace: told of every step; None = nobody is.
    """

    def __init__(
        self,
        options: DecodingOptions,
        rules: TokenRules,
        memory: Tensor,
        draws: Tensor | None,
        keep_attention: bool,
        trace: SearchTrace | None,
    ) -> None:
        self.options, self.rules = options, rules
        self.draws, self.keep_attention, self.trace = draws, keep_attention, trace
        self.beam = options.strategy == "beam"
        self.penalty = options.length_penalty if self.beam else 0.0
        self.groups = options.beam_groups if self.beam else 1
        # Added up in float32, or in the decoder's type if that is wider.
        self.zero = torch.zeros((), dtype=torch.promote_types(memory.dtype, torch.float32), device=memory.device)
        size = options.beam_size if self.beam else options.num_captions
        self.finished = Finished(len(memory), size, options.max_length + 1, self.zero, self.groups > 1)
        self.scorer: Scorer | None = None

    def steps(self, state: DecoderState, images: int) -> Steps[list[Result]]:
        """Asks for the decoder's steps, from its first state on; returns each picture's hypotheses, best first."""
        pending = [self._first(state, images)]
        while pending:
            frontier = pending.pop()
            while frontier.step < self.options.max_length:
                frontier = self._advance(frontier, (yield StepInput(frontier.words, frontier.state)))
                if frontier.step % CHECK_EVERY == 0:
                    break
            if frontier.step < self.options.max_length:
                saved = least_saved(self.zero.device)
                by_rows = self.draws is not None or (self.beam and self.groups == 1)
                pending += split(frontier, by_rows=by_rows, by_width=not self.rules.required, least_saved=saved)
            else:
                self._close(frontier, (yield StepInput(frontier.words, frontier.state)))
        return self.finished.collect()

    def _first(self, state: DecoderState, images: int) -> Frontier:
        """Returns one empty hypothesis a picture, or one for each group or drawn caption."""
        device, options = self.zero.device, self.options
        rows = options.num_captions if options.strategy == "sample" else self.groups
        if rows > 1:
            state = state.pick(torch.zeros((images, rows), dtype=torch.int64, device=device))
        width = options.beam_size // self.groups if self.beam else options.num_captions
        empty = torch.zeros((images, rows, 0), dtype=torch.int64, device=device)
        draw = None if self.draws is None else torch.arange(rows, device=device).expand(images, rows)
        return Frontier(
            images=torch.arange(images, device=device),
            state=state,
            words=torch.full((images, rows), START_ID, device=device),
            sums=self.zero.expand(images, rows),
            places=torch.full((images, self.groups), width, device=device),
            history=History(empty, empty.to(self.zero.dtype), None),
            phrases=None,
            nodes=None if self.trace is None else empty.new_zeros(images, rows),
            rows=draw,
            width=width,
        )

    def _scored(self, frontier: Frontier, output: StepOutput) -> tuple[StepOutput, Scores, Frontier]:
        if self.scorer is None:
            self.scorer = Scorer(self.options, self.rules, output.logits.shape[-1], self.zero.device)
        if frontier.step == 0:
            frontier = replace(frontier, phrases=self.scorer.first_states(frontier.words))
        if not self.keep_attention:
            output = output._replace(attention=None)
        return output, self.scorer(output.logits, frontier.history.tokens, frontier.phrases), frontier

    def _advance(self, frontier: Frontier, output: StepOutput) -> Frontier:
        """Returns the frontier one word on; what has ended is put away."""
        output, scores, frontier = self._scored(frontier, output)
        choice = self._choose(frontier, scores)
        moved = self.beam or choice.words.shape != frontier.words.shape  # else every row continues itself
        parents, words, sums = choice.parents, choice.words, choice.sums.to(self.zero.dtype)
        log_probs = scores.log_probs(words, parents).to(self.zero.dtype)
        history = frontier.history.pick(parents) if moved else frontier.history
        attention = output.attention
        if attention is not None and moved:
            attention = attention[torch.arange(len(words), device=words.device)[:, None], parents]
        history = history.scored(log_probs, attention)
        ended = (words == END_ID) & torch.isfinite(sums)
        self._put_away(frontier, torch.where(ended, sums, NO), history, torch.ones_like(ended))
        self._put_away_failed(frontier, scores, output.attention, sums, moved)
        nodes = frontier.nodes
        if self.trace is not None and nodes is not None:
            nodes = self.trace.note(frontier, scores, choice, self.options)
        phrases = frontier.phrases
        if phrases is not None and self.scorer is not None and self.scorer.automaton is not None:
            phrases = self.scorer.automaton.advance(phrases.gather(1, parents), words)
        history = history._replace(tokens=torch.cat([history.tokens, words[..., None]], -1))
        places = frontier.places - ended.view(len(ended), self.groups, -1).sum(-1)
        sums = sums.masked_fill(ended, NO)
        return replace(
            frontier,
            state=output.state.pick(parents) if moved else output.state,
            words=words,
            sums=sums.masked_fill(self._hopeless(frontier.images, sums), NO),
            places=places,
            history=history,
            phrases=phrases,
            nodes=nodes,
        )

    def _choose(self, frontier: Frontier, scores: Scores) -> Choice:
        options, sums = self.options, frontier.sums
        if self.draws is not None:
            return drawn_word(scores, sums, self._draws_of(frontier, self.draws), options)
        if not self.beam:
            first = frontier.step == 0 and options.num_captions > 1
            return best_of_beam(scores, sums, frontier.width, frontier.places) if first else best_word(scores, sums)
        if self.groups > 1:
            return best_of_groups(scores, sums, frontier.width, frontier.places, options.diversity_strength)
        automaton = self.scorer.automaton if self.scorer else None
        if automaton is not None and automaton.banks > 1 and frontier.phrases is not None:
            return best_of_banks(scores, sums, frontier.width, frontier.places, frontier.phrases, automaton)
        return best_of_beam(scores, sums, frontier.width, frontier.places)

    @staticmethod
    def _draws_of(frontier: Frontier, draws: Tensor) -> Tensor:
        """Returns the uniform numbers (b, R) of the next words."""
        here = draws[frontier.images, :, frontier.step]
        return here if frontier.rows is None else here.gather(1, frontier.rows)

    def _close(self, frontier: Frontier, output: StepOutput) -> None:
        """Ends all hypotheses at the maximum length; those end by themselves of which the end is chosen freely."""
        output, scores, frontier = self._scored(frontier, output)
        assert self.scorer is not None
        log_probs = scores.end_log_probs().to(self.zero.dtype)
        if self.draws is not None:
            freely = sample(scores.model, self._draws_of(frontier, self.draws), self.options) == END_ID
        else:
            freely = scores.model.argmax(-1) == END_ID
        may_end = self.scorer.may_end(frontier.phrases, frontier.sums)
        sums = torch.where(may_end, finite(frontier.sums + log_probs), NO)
        history = frontier.history.scored(log_probs, output.attention)
        self._put_away(frontier, sums, history, freely)
        self._put_away_failed(frontier, scores, output.attention, sums, moved=self.beam)
        if self.trace is not None:
            self.trace.note_end(frontier, scores, sums)

    def _put_away(self, frontier: Frontier, sums: Tensor, history: History, finished: Tensor) -> None:
        """Puts hypotheses (b, k) that have ended, whose sums are numbers, among the finished."""
        if surely_none(torch.isfinite(sums)):
            return
        score = sums / history.log_probs.shape[-1] ** self.penalty
        rank = score
        if not self.beam and self.draws is None:
            # The caption of greedy decoding stays the first, whatever the alternatives score.
            greedy = torch.arange(score.shape[1], device=score.device) == 0
            rank = torch.where(greedy & torch.isfinite(score), 0.0 - FAILED, score)
        self.finished.add(frontier.images, rank, score, history, finished, frontier.rows)

    def _put_away_failed(
        self, frontier: Frontier, scores: Scores, attention: Tensor | None, sums: Tensor, moved: bool
    ) -> None:
        """Keeps the best open hypothesis of a picture of which none can go on and none has ended."""
        stuck = ~torch.isfinite(sums)
        stuck = stuck.all(1, keepdim=True) if moved else stuck
        if surely_none(stuck):
            return
        lost = torch.isfinite(frontier.sums) & stuck & ~torch.isfinite(self.finished.rank[frontier.images, :1])
        if surely_none(lost):
            return
        best = frontier.sums == frontier.sums.max(1, keepdim=True).values
        log_probs = scores.end_log_probs().to(self.zero.dtype)
        score = (frontier.sums + log_probs) / (frontier.step + 1) ** self.penalty
        rank = torch.where(lost & best, FAILED, NO).to(self.zero.dtype)
        history = frontier.history.scored(log_probs, attention)
        self.finished.add(frontier.images, rank, score, history, torch.zeros_like(lost), frontier.rows)

    def _hopeless(self, images: Tensor, sums: Tensor) -> Tensor:
        """Returns which open hypotheses (b, k) cannot come among the captions asked for any more."""
        if not self.beam:
            return torch.zeros_like(sums, dtype=torch.bool)
        reachable: Tensor = sums / (self.options.max_length + 1) ** self.penalty
        hopeless = reachable <= self.finished.bar(self.options.num_captions)[images, None]
        # What a group says keeps later ones from saying it: none is dropped while any of its picture may still win.
        return hopeless if self.groups == 1 else hopeless.all(1, keepdim=True).expand_as(hopeless)
