"""How the hypotheses of the next step are chosen from the scores: the best, drawn ones, a beam's, a beam's by groups.

Every way takes `Scores` of hypotheses (b, R) with their sums, and gives `Choice` (b, K). Only `topk` orders, but for
nucleus sampling, which is defined by an order, and where scores are equal: then the first hypothesis, and of its
words the first in the vocabulary, is the better in every search.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding.automaton import PhraseAutomaton
from seesay.decoding.beam_state import surely_none
from seesay.decoding.logits_processing import NEG_INF, Scores
from seesay.decoding.sampling import sample_tokens
from seesay.tokenizer import END_ID


class Choice(NamedTuple):
    """The next hypotheses (b, K).

    Attributes:
        parents: row of the hypothesis that each continues.
        words: by which word.
        sums: penalised log-probabilities added up; -inf = the place is empty.
    """

    parents: Tensor
    words: Tensor
    sums: Tensor


def best_token(scores: Scores, sums: Tensor) -> Choice:
    """Returns every hypothesis with its best word."""
    values, words = scores.choice.max(-1)  # the first of equal ones
    return Choice(_itself(sums), words, finite(sums + values - scores.total[..., 0]))


def sampled_token(scores: Scores, sums: Tensor, draws: Tensor, options: DecodingOptions) -> Choice:
    """Returns every hypothesis with a word drawn by inverting the cumulative distribution at `draws` (b, R)."""
    words = sample(scores.choice, draws, options)
    values = scores.choice.gather(-1, words[..., None])[..., 0]  # no number where none of them is one
    return Choice(_itself(sums), words, finite(sums + values - scores.total[..., 0]))


def sample(logits: Tensor, draws: Tensor, options: DecodingOptions) -> Tensor:
    """Returns words (...) drawn from logits (..., V) at the uniform numbers `draws` (...).

    The distribution is the softmax of logits / temperature; then only the `top_k` likeliest words are kept, of
    these the fewest that make up `top_p` (Holtzman et al. 2020, eq. 2), and of these the ones at least `min_p` times
    as likely as the likeliest (Nguyen et al. 2024, eq. 1), each renormalised.
    """
    if options.top_k == 0 and options.top_p >= 1 and options.min_p == 0:
        words = sample_tokens(logits, draws, options.temperature)
        if words is not None:
            return words
    best = logits.max(-1, keepdim=True).values
    scaled = (logits - best).to(draws.dtype) / options.temperature  # 0 at the best: no temperature is too low
    if 0 < options.top_k < scaled.shape[-1]:
        values, kept = stable_topk(scaled, options.top_k)
        scaled = torch.full_like(scaled, NEG_INF).scatter(-1, kept, values)
    if options.top_p < 1:
        ordered, place = torch.softmax(scaled, -1).sort(dim=-1, descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= options.top_p  # the words before it make up enough already
        scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, place, beyond), NEG_INF)
    probabilities = torch.softmax(scaled, dim=-1)
    if options.min_p > 0:
        likeliest = probabilities.max(-1, keepdim=True).values
        probabilities = torch.where(probabilities < options.min_p * likeliest, 0.0, probabilities)
    cumulative = probabilities.cumsum(-1)
    # Scaled by the total so that rounding never leaves a draw beyond the last word that may be said, and above
    # zero so that none comes before the first.
    least = torch.finfo(draws.dtype).tiny
    place = torch.searchsorted(cumulative, (draws[..., None] * cumulative[..., -1:]).clamp(min=least))
    return place[..., 0].clamp(max=cumulative.shape[-1] - 1)  # beyond it only of scores that are no numbers


def select_beam(scores: Scores, sums: Tensor, width: int, places: Tensor) -> Choice:
    """Returns the best `width` continuations of all hypotheses of an image, as many as it has `places` (b, 1)."""
    words, totals = _candidates(scores, sums, width)
    best, flat = stable_topk(totals.flatten(1), width)
    ranks = torch.arange(best.shape[1], device=best.device)
    parents = torch.div(flat, words.shape[-1], rounding_mode="floor")
    return Choice(parents, words.flatten(1).gather(1, flat), best.masked_fill(ranks >= places, NEG_INF))


def select_groups(scores: Scores, sums: Tensor, width: int, places: Tensor, strength: float) -> Choice:
    """Returns the best continuations of each group of hypotheses in turn, later groups shunning the words of earlier.

    Diverse beam search (Vijayakumar et al. 2018, eq. 3 and algorithm 1) with Hamming diversity: in choosing, a word
    loses `strength` for each hypothesis of an earlier group that says it in this step. The sums that go on are the
    model's own. The end is no word.

    Args:
        scores: of hypotheses (b, G * r), r a group.
        sums: (b, G * r).
        width: hypotheses a group has at most.
        places: how many of them have not ended, (b, G).
        strength: of the diversity.
    """
    groups = places.shape[1]
    # A word that is among the best of its group though its score was lowered is among this many without that.
    words, totals = _candidates(scores, sums, width * groups)
    rows = words.shape[1] // groups
    chosen: list[Choice] = []
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        said, total = words[:, own].flatten(1), totals[:, own].flatten(1)
        ranked = total
        if chosen:
            earlier = torch.cat([torch.where(torch.isfinite(c.sums), c.words, -1) for c in chosen], 1)
            shared = (said[..., None] == earlier[:, None]).sum(-1) * (said != END_ID)
            ranked = total - strength * shared
        best, flat = stable_topk(ranked, width)
        empty = torch.arange(best.shape[1], device=best.device) >= places[:, group, None]
        parents = torch.div(flat, words.shape[-1], rounding_mode="floor") + group * rows
        chosen.append(Choice(parents, said.gather(1, flat), total.gather(1, flat).masked_fill(empty, NEG_INF)))
    return Choice(*(torch.cat(parts, 1) for parts in zip(*chosen, strict=True)))


def select_banks(
    scores: Scores, sums: Tensor, width: int, places: Tensor, states: Tensor, automaton: PhraseAutomaton
) -> Choice:
    """Returns the best continuations for every count of required tokens said, `width` of each.

    Grid beam search (Hokamp and Liu 2017, algorithm 1): hypotheses compete with those that have said as much of
    what is required, so that the words come where they fit and not where they can no longer be put off.

    Args:
        scores: of hypotheses (b, R).
        sums: (b, R).
        width: hypotheses a bank has at most.
        places: how many of the last bank have not ended, (b, 1).
        states: of the automaton, (b, R).
        automaton: of the required phrases.
    """
    own = automaton.phrase_tokens
    apart = scores._replace(choice=scores.choice.index_fill(-1, own, NEG_INF))
    words, totals = _candidates(apart, sums, width)
    phrase = finite(sums[..., None] + scores.choice[..., own] - scores.total)
    words = torch.cat([words, own.expand(*phrase.shape)], -1)
    totals = torch.cat([totals, phrase], -1).flatten(1)
    following = automaton.advance(states[..., None].expand_as(words), words)
    reached = torch.where(words == END_ID, automaton.banks - 1, automaton.bank[following]).flatten(1)
    parts = []
    for bank in range(automaton.banks):
        best, flat = stable_topk(totals.masked_fill(reached != bank, NEG_INF), width)
        if bank == automaton.banks - 1:
            best = best.masked_fill(torch.arange(best.shape[1], device=best.device) >= places, NEG_INF)
        parts.append((best, flat))
    best, flat = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    parents = torch.div(flat, words.shape[-1], rounding_mode="floor")
    return Choice(parents, words.flatten(1).gather(1, flat), best)


def stable_topk(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the greatest `count` of values (..., M), or all if there are fewer, and their places; each (..., count).

    Of equal numbers the first come first. `topk` takes any of them, and which hangs on how many there are.
    """
    size = values.shape[-1]
    count = min(count, size)
    found, places = values.topk(min(count + 1, size), dim=-1)  # with the first that is left out
    if surely_none((found[..., 1:] == found[..., :-1]) & torch.isfinite(found[..., 1:])):
        return found[..., :count], places[..., :count]
    least = found[..., count - 1 : count]
    above, equal = values > least, values == least
    kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    earliest = torch.arange(size, 0, -1, device=values.device)
    places = torch.where(kept, earliest, 0).topk(count, dim=-1).indices
    found, order = values.gather(-1, places).sort(dim=-1, descending=True, stable=True)
    return found, places.gather(-1, order)


def finite(sums: Tensor) -> Tensor:
    """Returns the sums with -inf for those that are no numbers."""
    return torch.where(torch.isfinite(sums), sums, NEG_INF)


def _candidates(scores: Scores, sums: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Returns the best words of each hypothesis (b, R, W) and the sums with them; only these are normalised."""
    values, words = stable_topk(scores.choice, width)
    return words, finite(sums[..., None] + (values - scores.total))


def _itself(sums: Tensor) -> Tensor:
    return torch.arange(sums.shape[1], device=sums.device).expand(len(sums), -1)
