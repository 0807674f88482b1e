"""The search as a tree: every candidate of every step, for those who want to see why a word was said."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.tokenizer import END_ID

if TYPE_CHECKING:
    from seesay.decoding.beam_state import BeamState
    from seesay.decoding.logits_processing import Scores
    from seesay.decoding.selection import Choice


@dataclass(frozen=True)
class Candidate:
    """One continuation that a search looked at.

    Attributes:
        parent: number of the candidate it continues, in the image's list; -1 = the start.
        step: how many words come before it.
        token: the word, or the end.
        log_prob: the model's natural log-probability of the word.
        total: penalised log-probabilities added up, this word's included.
        kept: whether the search went on with it, or put it among the finished.
        forced: an end that the maximum length brought about.
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
        """Whether it is an end."""
        return self.token == END_ID


class SearchTrace:
    """Collects the candidates of a search, a list an image; give it to `decode`.

    Looking on costs time, as the device waits in every step.

    Attributes:
        images: number of the image in the batch -> its candidates, parents before children.
    """

    def __init__(self) -> None:
        self.images: dict[int, list[Candidate]] = {}

    def note(self, beam_state: "BeamState", scores: "Scores", choice: "Choice", options: DecodingOptions) -> Tensor:
        """Adds a step's candidates; returns the numbers, (b, K), of those that were kept, -1 for empty places."""
        assert beam_state.nodes is not None
        width = options.beam_size if options.strategy == "beam" else max(3, options.num_return_sequences)
        values, words = scores.choice.topk(min(width, scores.choice.shape[-1]), dim=-1)
        totals = (beam_state.sums[..., None] + values - scores.total).tolist()
        probs = (scores.model.gather(-1, words) - scores.total).tolist()
        chosen_probs = scores.log_probs(choice.words, choice.parents).tolist()
        parents, sums, said = choice.parents.tolist(), choice.sums.tolist(), choice.words.tolist()
        rows = zip(beam_state.images.tolist(), beam_state.nodes.tolist(), words.tolist(), strict=True)
        numbers = []
        for place, (image, nodes, top_tokens) in enumerate(rows):
            found = self.images.setdefault(image, [])
            kept: dict[tuple[int, int], int] = {}
            line = []
            for row, word, total, prob in zip(
                parents[place], said[place], sums[place], chosen_probs[place], strict=True
            ):
                if total == float("-inf"):
                    line.append(-1)
                    continue
                kept[row, word] = len(found)
                line.append(len(found) + 1)
                found.append(Candidate(nodes[row] - 1, beam_state.step, word, prob, total, True))
            for row, options_of_row in enumerate(top_tokens):
                for word, total, prob in zip(options_of_row, totals[place][row], probs[place][row], strict=True):
                    if total > float("-inf") and (row, word) not in kept:
                        found.append(Candidate(nodes[row] - 1, beam_state.step, word, prob, total, False))
            numbers.append(line)
        return torch.tensor(numbers, device=beam_state.nodes.device)

    def note_end(self, beam_state: "BeamState", scores: "Scores", sums: Tensor) -> None:
        """Adds the ends that the maximum length brought about; sums (b, R), -inf = none."""
        assert beam_state.nodes is not None
        probs = scores.end_log_probs().tolist()
        rows = zip(beam_state.images.tolist(), beam_state.nodes.tolist(), sums.tolist(), probs, strict=True)
        for image, nodes, totals, ends in rows:
            found = self.images.setdefault(image, [])
            for node, total, prob in zip(nodes, totals, ends, strict=True):
                if total > float("-inf"):
                    found.append(Candidate(node - 1, beam_state.step, END_ID, prob, total, True, forced=True))
