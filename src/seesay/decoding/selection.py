"""Selection of the next hypotheses: greedy, sampling, beam, diverse beam, constrained beam.

A strategy maps a step's scores and the open hypotheses (b, R) to a `Selection` (b, K). Every strategy resolves ties in
favour of the first hypothesis, then of the first token of the vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.arrays import NEG_INF, Array, Floats, Ints, to_device_of, to_host
from seesay.decoding.automaton import PhraseAutomaton
from seesay.decoding.beam_state import BeamState
from seesay.decoding.logits_processing import StepScores
from seesay.decoding.sampling import sample
from seesay.tokenizer import END_ID


@dataclass(frozen=True)
class Selection:
    """The next hypotheses (b, K).

    Attributes:
        parents: row of the hypothesis that each continues.
        tokens: its next token.
        sums: sum of penalised log-probabilities; -inf for an empty slot.
    """

    parents: Ints
    tokens: Ints
    sums: Floats


class Strategy(Protocol):
    """A rule that selects the next hypotheses.

    Attributes:
        rows: hypotheses per image before the first step.
        groups: groups of hypotheses with separate slots.
        size: maximum number of finished hypotheses per image.
        reorders: whether hypotheses may change rows, so that empty rows can be removed.
    """

    rows: int
    groups: int
    size: int
    reorders: bool

    def select(self, scores: StepScores, beam: BeamState) -> Selection:
        """Return the next hypotheses."""
        ...

    def ends_freely(self, scores: StepScores, beam: BeamState) -> NDArray[np.bool_]:
        """Return whether hypotheses of the maximum length would end without the limit, (b, R)."""
        ...


class Greedy:
    """Continue every hypothesis with its best token; further captions start with the next best first tokens."""

    rows = groups = 1
    reorders = False

    def __init__(self, options: DecodingOptions) -> None:
        self.size = options.num_return_sequences

    def select(self, scores: StepScores, beam: BeamState) -> Selection:
        """Return every hypothesis with its best token."""
        if beam.step == 0 and self.size > 1:
            return _select_best(scores, beam, self.size)
        tokens, values = scores.topk(1)
        return Selection(_own_rows(beam), tokens[..., 0], finite(beam.sums + values[..., 0]))

    def ends_freely(self, scores: StepScores, beam: BeamState) -> NDArray[np.bool_]:
        """Return whether the end is the most probable token."""
        return _is_best_end(scores)


class Sampling:
    """Sample the next token of every hypothesis.

    Args:
        options: how tokens are sampled.
        draws: uniform numbers in [0, 1), (B, samples, max_length + 1), one per token.
    """

    groups = 1
    reorders = True

    def __init__(self, options: DecodingOptions, draws: Array) -> None:
        self.options, self.draws = options, draws
        self.rows = self.size = options.num_return_sequences

    def select(self, scores: StepScores, beam: BeamState) -> Selection:
        """Return every hypothesis with a sampled token."""
        tokens = to_host(sample(scores.choice, self._draws_of(scores, beam), self.options))
        values = scores.choice_log_probs(tokens[..., None])[..., 0]  # NaN if all scores are
        return Selection(_own_rows(beam), tokens, finite(beam.sums + values))

    def ends_freely(self, scores: StepScores, beam: BeamState) -> NDArray[np.bool_]:
        """Return whether the next sampled token is the end."""
        found: NDArray[np.bool_] = to_host(sample(scores.model, self._draws_of(scores, beam), self.options)) == END_ID
        return found

    def _draws_of(self, scores: StepScores, beam: BeamState) -> Array:
        places = (np.broadcast_to(beam.images[:, None], beam.samples.shape), beam.samples)
        return self.draws[(*(to_device_of(each, scores.model) for each in places), beam.step)]


class Beam:
    """Keep the best `beam_size` continuations of all hypotheses of an image."""

    rows = groups = 1
    reorders = True

    def __init__(self, options: DecodingOptions) -> None:
        self.size = options.beam_size

    def select(self, scores: StepScores, beam: BeamState) -> Selection:
        """Return the best continuations, one per free slot of an image."""
        return _select_best(scores, beam, min(self.size, int(beam.slots.max())))

    def ends_freely(self, scores: StepScores, beam: BeamState) -> NDArray[np.bool_]:
        """Return whether the end is the most probable token."""
        return _is_best_end(scores)


class DiverseBeam(Beam):
    """Diverse beam search: later groups avoid the tokens of earlier ones.

    Vijayakumar et al. 2018, eq. 3 and algorithm 1, with Hamming diversity: the selection subtracts `diversity_penalty`
    from a token per hypothesis of an earlier group that has it in this step. The sums exclude this penalty, and the end
    token is exempt.
    """

    reorders = False

    def __init__(self, options: DecodingOptions) -> None:
        super().__init__(options)
        self.rows = self.groups = options.num_beam_groups
        self.width, self.penalty = options.beam_size // options.num_beam_groups, options.diversity_penalty

    def select(self, scores: StepScores, beam: BeamState) -> Selection:
        """Return the best continuations of each group in turn."""
        # A group's best tokens after the penalty are among this many before it.
        tokens, totals = _candidates(scores, beam.sums, self.width * self.groups)
        rows, each = tokens.shape[1] // self.groups, tokens.shape[2]
        chosen: list[Selection] = []
        for group in range(self.groups):
            own = slice(group * rows, (group + 1) * rows)
            candidates, total = tokens[:, own].reshape(len(tokens), -1), totals[:, own].reshape(len(tokens), -1)
            ranked = total
            if chosen:
                earlier = np.concatenate([np.where(np.isfinite(c.sums), c.tokens, -1) for c in chosen], 1)
                shared = (candidates[..., None] == earlier[:, None]).sum(-1) * (candidates != END_ID)
                ranked = total - self.penalty * shared
            flat = _best(ranked, self.width)
            sums = np.take_along_axis(total, flat, 1)
            sums = np.where(np.arange(flat.shape[1]) >= beam.slots[:, group, None], NEG_INF, sums)
            chosen.append(Selection(flat // each + group * rows, np.take_along_axis(candidates, flat, 1), sums))
        return Selection(*(np.concatenate([getattr(c, part) for c in chosen], 1) for part in _PARTS))


class ConstrainedBeam(Beam):
    """Beam search in which hypotheses compete with those that contain as many required tokens.

    Grid beam search (Hokamp and Liu 2017, algorithm 1): `beam_size` hypotheses per bank, so that required words appear
    where they fit and not only at the end.
    """

    def __init__(self, options: DecodingOptions, automaton: PhraseAutomaton) -> None:
        super().__init__(options)
        self.automaton = automaton

    def select(self, scores: StepScores, beam: BeamState) -> Selection:
        """Return the best continuations of every bank."""
        automaton, width = self.automaton, self.size
        assert beam.automaton_states is not None
        own = np.broadcast_to(automaton.phrase_tokens, (*beam.sums.shape, len(automaton.phrase_tokens)))
        # Candidates are the phrase tokens and the best other tokens of each hypothesis.
        best, values = scores.topk(width + own.shape[-1])
        values = np.where(np.isin(best, automaton.phrase_tokens), NEG_INF, values)
        tokens = np.concatenate([best, own], -1)
        totals = finite(beam.sums[..., None] + np.concatenate([values, scores.choice_log_probs(own)], -1))
        reached = automaton.bank[automaton.advance(beam.automaton_states[..., None], tokens)]
        reached = np.where(tokens == END_ID, automaton.banks - 1, reached).reshape(len(tokens), -1)
        each, flat_totals, parts = tokens.shape[2], totals.reshape(len(tokens), -1), []
        for bank in range(automaton.banks):
            ranked = np.where(reached == bank, flat_totals, NEG_INF)
            flat = _best(ranked, width)
            sums = np.take_along_axis(ranked, flat, 1)
            if bank == automaton.banks - 1:
                sums = np.where(np.arange(flat.shape[1]) >= beam.slots, NEG_INF, sums)
            chosen = np.take_along_axis(tokens.reshape(len(tokens), -1), flat, 1)
            parts.append(Selection(flat // each, chosen, sums))
        return Selection(*(np.concatenate([getattr(c, part) for c in parts], 1) for part in _PARTS))


_PARTS = ("parents", "tokens", "sums")


def finite(sums: Floats) -> Floats:
    """Return sums with -inf for those that are not finite."""
    return np.where(np.isfinite(sums), sums, NEG_INF)


def _select_best(scores: StepScores, beam: BeamState, width: int) -> Selection:
    tokens, totals = _candidates(scores, beam.sums, width)
    each, totals, tokens = tokens.shape[2], totals.reshape(len(tokens), -1), tokens.reshape(len(tokens), -1)
    flat = _best(totals, width)
    sums = np.take_along_axis(totals, flat, 1)
    sums = np.where(np.arange(flat.shape[1]) >= beam.slots, NEG_INF, sums)
    return Selection(flat // each, np.take_along_axis(tokens, flat, 1), sums)


def _candidates(scores: StepScores, sums: Floats, width: int) -> tuple[Ints, Floats]:
    """Return the best tokens of each hypothesis (b, R, W) and the sums with them."""
    tokens, values = scores.topk(width)
    return tokens, finite(sums[..., None] + values)


def _best(totals: Floats, width: int) -> Ints:
    """Return the indices of the best `width` totals (b, M), best first; ties keep their order."""
    return np.argsort(-totals, 1, kind="stable")[:, :width]


def _own_rows(beam: BeamState) -> Ints:
    return np.broadcast_to(np.arange(beam.sums.shape[1]), beam.sums.shape)


def _is_best_end(scores: StepScores) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = to_host(scores.model.argmax(-1)) == END_ID
    return found
