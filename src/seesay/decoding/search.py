"""The loop of every search: a step of the decoder, scores, choice, and what has ended.

Images and their hypotheses are one tensor (B, R); what an image alone decides (memory, attention keys) is shared
by its hypotheses. The device waits for Python only once in `CHECK_EVERY` steps, when what is done leaves.
"""

from dataclasses import replace

import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding.beam_state import BeamState, TokenHistory, split, surely_none
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.finished import Finished
from seesay.decoding.hypothesis import FAILED, Result
from seesay.decoding.logits_processing import NEG_INF, Scorer, Scores
from seesay.decoding.selection import (
    Choice,
    best_token,
    finite,
    sample,
    sampled_token,
    select_banks,
    select_beam,
    select_groups,
)
from seesay.decoding.stepping import CHECK_EVERY, StepInput, Steps, least_saved
from seesay.decoding.trace import SearchTrace
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, START_ID


class Search:
    """One search over a batch.

    A hypothesis that has ended keeps its place in the beam, so that a beam of one is greedy decoding. An open one is
    dropped as soon as it could not come among the best `num_return_sequences` even if all its further words were certain:
    sums only fall, so sum / (max_length + 1) ** length_penalty bounds what it may reach. All that could take its
    place is still worse, so that nothing else changes: the results are those of a search that never stops early.
    Groups shun each other's words, so that theirs are dropped all at once or not at all.

    The decoder itself is not known here: `steps` asks for what it gives (see `seesay.decoding.stepping`).

    Args:
        options: with the maximum length filled in.
        rules: phrases in ids.
        memory: (B, N, D).
        draws: uniform numbers of sampling, (B, num_return_sequences, max_length + 1); None in other searches.
        keep_attention: gather where each word looked.
        trace: told of every step; None = nobody is.
    """

    def __init__(
        self,
        options: DecodingOptions,
        rules: TokenConstraints,
        memory: Tensor,
        draws: Tensor | None,
        keep_attention: bool,
        trace: SearchTrace | None,
    ) -> None:
        self.options, self.rules = options, rules
        self.draws, self.keep_attention, self.trace = draws, keep_attention, trace
        self.beam = options.strategy == "beam"
        self.penalty = options.length_penalty if self.beam else 0.0
        self.groups = options.num_beam_groups if self.beam else 1
        # Added up in float32, or in the decoder's type if that is wider.
        self.zero = torch.zeros((), dtype=torch.promote_types(memory.dtype, torch.float32), device=memory.device)
        size = options.beam_size if self.beam else options.num_return_sequences
        self.finished = Finished(len(memory), size, options.max_length + 1, self.zero, self.groups > 1)
        self.scorer: Scorer | None = None

    def steps(self, state: DecoderState, images: int) -> Steps[list[Result]]:
        """Asks for the decoder's steps, from its first state on; returns each image's hypotheses, best first."""
        pending = [self._first(state, images)]
        while pending:
            beam_state = pending.pop()
            while beam_state.step < self.options.max_length:
                beam_state = self._advance(beam_state, (yield StepInput(beam_state.words, beam_state.state)))
                if beam_state.step % CHECK_EVERY == 0:
                    break
            if beam_state.step < self.options.max_length:
                saved = least_saved(self.zero.device)
                by_rows = self.draws is not None or (self.beam and self.groups == 1)
                pending += split(beam_state, by_rows=by_rows, by_width=not self.rules.required, least_saved=saved)
            else:
                self._close(beam_state, (yield StepInput(beam_state.words, beam_state.state)))
        return self.finished.collect()

    def _first(self, state: DecoderState, images: int) -> BeamState:
        """Returns one empty hypothesis an image, or one for each group or drawn caption."""
        device, options = self.zero.device, self.options
        rows = options.num_return_sequences if options.strategy == "sample" else self.groups
        if rows > 1:
            state = state.pick(torch.zeros((images, rows), dtype=torch.int64, device=device))
        width = options.beam_size // self.groups if self.beam else options.num_return_sequences
        empty = torch.zeros((images, rows, 0), dtype=torch.int64, device=device)
        draw = None if self.draws is None else torch.arange(rows, device=device).expand(images, rows)
        return BeamState(
            images=torch.arange(images, device=device),
            state=state,
            words=torch.full((images, rows), START_ID, device=device),
            sums=self.zero.expand(images, rows),
            places=torch.full((images, self.groups), width, device=device),
            history=TokenHistory(empty, empty.to(self.zero.dtype), None),
            phrases=None,
            nodes=None if self.trace is None else empty.new_zeros(images, rows),
            rows=draw,
            width=width,
        )

    def _scored(self, beam_state: BeamState, output: StepOutput) -> tuple[StepOutput, Scores, BeamState]:
        if self.scorer is None:
            self.scorer = Scorer(self.options, self.rules, output.logits.shape[-1], self.zero.device)
        if beam_state.step == 0:
            beam_state = replace(beam_state, phrases=self.scorer.first_states(beam_state.words))
        if not self.keep_attention:
            output = output._replace(attention=None)
        return output, self.scorer(output.logits, beam_state.history.tokens, beam_state.phrases), beam_state

    def _advance(self, beam_state: BeamState, output: StepOutput) -> BeamState:
        """Returns the frontier one word on; what has ended is put away."""
        output, scores, beam_state = self._scored(beam_state, output)
        choice = self._choose(beam_state, scores)
        moved = self.beam or choice.words.shape != beam_state.words.shape  # else every row continues itself
        parents, words, sums = choice.parents, choice.words, choice.sums.to(self.zero.dtype)
        log_probs = scores.log_probs(words, parents).to(self.zero.dtype)
        history = beam_state.history.pick(parents) if moved else beam_state.history
        attention = output.attention
        if attention is not None and moved:
            attention = attention[torch.arange(len(words), device=words.device)[:, None], parents]
        history = history.scored(log_probs, attention)
        ended = (words == END_ID) & torch.isfinite(sums)
        self._finalize(beam_state, torch.where(ended, sums, NEG_INF), history, torch.ones_like(ended))
        self._finalize_failed(beam_state, scores, output.attention, sums, moved)
        nodes = beam_state.nodes
        if self.trace is not None and nodes is not None:
            nodes = self.trace.note(beam_state, scores, choice, self.options)
        phrases = beam_state.phrases
        if phrases is not None and self.scorer is not None and self.scorer.automaton is not None:
            phrases = self.scorer.automaton.advance(phrases.gather(1, parents), words)
        history = history._replace(tokens=torch.cat([history.tokens, words[..., None]], -1))
        places = beam_state.places - ended.view(len(ended), self.groups, -1).sum(-1)
        sums = sums.masked_fill(ended, NEG_INF)
        return replace(
            beam_state,
            state=output.state.pick(parents) if moved else output.state,
            words=words,
            sums=sums.masked_fill(self._prunable(beam_state.images, sums), NEG_INF),
            places=places,
            history=history,
            phrases=phrases,
            nodes=nodes,
        )

    def _choose(self, beam_state: BeamState, scores: Scores) -> Choice:
        options, sums = self.options, beam_state.sums
        if self.draws is not None:
            return sampled_token(scores, sums, self._draws_of(beam_state, self.draws), options)
        if not self.beam:
            first = beam_state.step == 0 and options.num_return_sequences > 1
            return select_beam(scores, sums, beam_state.width, beam_state.places) if first else best_token(scores, sums)
        if self.groups > 1:
            return select_groups(scores, sums, beam_state.width, beam_state.places, options.diversity_penalty)
        automaton = self.scorer.automaton if self.scorer else None
        if automaton is not None and automaton.banks > 1 and beam_state.phrases is not None:
            return select_banks(scores, sums, beam_state.width, beam_state.places, beam_state.phrases, automaton)
        return select_beam(scores, sums, beam_state.width, beam_state.places)

    @staticmethod
    def _draws_of(beam_state: BeamState, draws: Tensor) -> Tensor:
        """Returns the uniform numbers (b, R) of the next words."""
        here = draws[beam_state.images, :, beam_state.step]
        return here if beam_state.rows is None else here.gather(1, beam_state.rows)

    def _close(self, beam_state: BeamState, output: StepOutput) -> None:
        """Ends all hypotheses at the maximum length; those end by themselves of which the end is chosen freely."""
        output, scores, beam_state = self._scored(beam_state, output)
        assert self.scorer is not None
        log_probs = scores.end_log_probs().to(self.zero.dtype)
        if self.draws is not None:
            freely = sample(scores.model, self._draws_of(beam_state, self.draws), self.options) == END_ID
        else:
            freely = scores.model.argmax(-1) == END_ID
        may_end = self.scorer.may_end(beam_state.phrases, beam_state.sums)
        sums = torch.where(may_end, finite(beam_state.sums + log_probs), NEG_INF)
        history = beam_state.history.scored(log_probs, output.attention)
        self._finalize(beam_state, sums, history, freely)
        self._finalize_failed(beam_state, scores, output.attention, sums, moved=self.beam)
        if self.trace is not None:
            self.trace.note_end(beam_state, scores, sums)

    def _finalize(self, beam_state: BeamState, sums: Tensor, history: TokenHistory, finished: Tensor) -> None:
        """Puts hypotheses (b, k) that have ended, whose sums are numbers, among the finished."""
        if surely_none(torch.isfinite(sums)):
            return
        score = sums / history.log_probs.shape[-1] ** self.penalty
        rank = score
        if not self.beam and self.draws is None:
            # The caption of greedy decoding stays the first, whatever the alternatives score.
            greedy = torch.arange(score.shape[1], device=score.device) == 0
            rank = torch.where(greedy & torch.isfinite(score), 0.0 - FAILED, score)
        self.finished.add(beam_state.images, rank, score, history, finished, beam_state.rows)

    def _finalize_failed(
        self, beam_state: BeamState, scores: Scores, attention: Tensor | None, sums: Tensor, moved: bool
    ) -> None:
        """Keeps the best open hypothesis of an image of which none can go on and none has ended."""
        stuck = ~torch.isfinite(sums)
        stuck = stuck.all(1, keepdim=True) if moved else stuck
        if surely_none(stuck):
            return
        lost = torch.isfinite(beam_state.sums) & stuck & ~torch.isfinite(self.finished.rank[beam_state.images, :1])
        if surely_none(lost):
            return
        best = beam_state.sums == beam_state.sums.max(1, keepdim=True).values
        log_probs = scores.end_log_probs().to(self.zero.dtype)
        score = (beam_state.sums + log_probs) / (beam_state.step + 1) ** self.penalty
        rank = torch.where(lost & best, FAILED, NEG_INF).to(self.zero.dtype)
        history = beam_state.history.scored(log_probs, attention)
        self.finished.add(beam_state.images, rank, score, history, torch.zeros_like(lost), beam_state.rows)

    def _prunable(self, images: Tensor, sums: Tensor) -> Tensor:
        """Returns which open hypotheses (b, k) cannot come among the captions asked for any more."""
        if not self.beam:
            return torch.zeros_like(sums, dtype=torch.bool)
        reachable: Tensor = sums / (self.options.max_length + 1) ** self.penalty
        prunable = reachable <= self.finished.bar(self.options.num_return_sequences)[images, None]
        # What a group says keeps later ones from saying it: none is dropped while any of its image may still win.
        return prunable if self.groups == 1 else prunable.all(1, keepdim=True).expand_as(prunable)
