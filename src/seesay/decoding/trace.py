"""The search tree: every candidate of every step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seesay.config import DecodingOptions
from seesay.decoding.arrays import NEG_INF, Floats, Ints, stable_topk, take_along, to_host
from seesay.tokenizer import END_ID

if TYPE_CHECKING:
    from seesay.decoding.beam_state import BeamState
    from seesay.decoding.logits_processing import StepScores
    from seesay.decoding.selection import Selection


@dataclass(frozen=True)
class Candidate:
    """One continuation that a search considered.

    Attributes:
        parent: index of the candidate it continues in the image's list; -1 for the start.
        step: number of tokens before it.
        token: the token, or the end token.
        log_prob: the model's natural log-probability of the token.
        total: sum of penalised log-probabilities, this token's included.
        kept: whether the search continued it or stored it as finished.
        forced: the maximum length forced this end token.
    """

    parent: int
    step: int
    token: int
    log_prob: float
    total: float
    kept: bool
    forced: bool = False

    @property
    def ended(self) -> bool:
        """Whether the token is the end token."""
        return self.token == END_ID


class SearchTrace:
    """Records the candidates of a search; pass it in a `GenerationRequest`.

    Attributes:
        images: the candidates of each image by its index in the batch, parents before children.
    """

    def __init__(self) -> None:
        self.images: dict[int, list[Candidate]] = {}

    def note(self, beam: "BeamState", scores: "StepScores", chosen: "Selection", options: DecodingOptions) -> Ints:
        """Add a step's candidates; return the numbers (b, K) of those kept, -1 for empty slots."""
        assert beam.nodes is not None
        width = options.beam_size if options.strategy == "beam" else max(3, options.num_return_sequences)
        values, places = stable_topk(scores.choice, width)
        tokens, total = to_host(places), scores.total[..., None]
        totals = (beam.sums[..., None] + to_host(values) - total).tolist()
        probs = (to_host(take_along(scores.model, places)) - total).tolist()
        chosen_probs = scores.log_probs(chosen.tokens, chosen.parents).tolist()
        parents, sums, words = chosen.parents.tolist(), chosen.sums.tolist(), chosen.tokens.tolist()
        numbers = []
        for place, (image, nodes) in enumerate(zip(beam.images.tolist(), beam.nodes.tolist(), strict=True)):
            found = self.images.setdefault(image, [])
            kept: set[tuple[int, int]] = set()
            line = []
            for row, word, sum_, prob in zip(
                parents[place], words[place], sums[place], chosen_probs[place], strict=True
            ):
                if sum_ == NEG_INF:
                    line.append(-1)
                    continue
                kept.add((row, word))
                line.append(len(found) + 1)
                found.append(Candidate(nodes[row] - 1, beam.step, word, prob, sum_, True))
            for row, others in enumerate(tokens[place].tolist()):
                for word, sum_, prob in zip(others, totals[place][row], probs[place][row], strict=True):
                    if sum_ > NEG_INF and (row, word) not in kept:
                        found.append(Candidate(nodes[row] - 1, beam.step, word, prob, sum_, False))
            numbers.append(line)
        return np.array(numbers)

    def note_end(self, beam: "BeamState", scores: "StepScores", sums: Floats) -> None:
        """Add the end tokens that the maximum length forced; sums (b, R), -inf for none."""
        assert beam.nodes is not None
        rows = zip(
            beam.images.tolist(), beam.nodes.tolist(), sums.tolist(), scores.end_log_probs().tolist(), strict=True
        )
        for image, nodes, totals, ends in rows:
            found = self.images.setdefault(image, [])
            for node, total, prob in zip(nodes, totals, ends, strict=True):
                if total > NEG_INF:
                    found.append(Candidate(node - 1, beam.step, END_ID, prob, total, True, forced=True))
