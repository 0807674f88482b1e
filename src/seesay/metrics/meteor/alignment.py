"""The alignment that METEOR scores: a beam search over non-overlapping matches, from the reference's first word on."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from seesay.metrics.meteor.matching import EXACT, Match

BEAM = 40

# A path's rank in one number, least first: more words matched, then fewer chunks, then less distance.
_CHUNK = 1 << 32
_WEIGHT = 1 << 52


class Alignment(NamedTuple):
    """Matches that share no word, and the number of chunks: runs that are adjacent, and in order, on both sides."""

    matches: list[Match]
    chunks: int


class _Chain(NamedTuple):
    """The matches of a path, last first."""

    match: Match
    before: "_Chain | None"


class _Path(NamedTuple):
    """A partial alignment.

    Its rank; the reference's word it has come to; where in the hypothesis its last match ends, -1 if the word
    before is not matched; the words of either side that are taken, as bits; its matches.
    """

    rank: int
    place: int
    last: int
    taken: int
    hypothesis_taken: int
    chain: _Chain | None


class _Option(NamedTuple):
    """A match with what the search needs of it: its words as bits, its rank's change, how far it reaches across."""

    match: Match
    words: int
    hypothesis_words: int
    gain: int
    distance: int


def align(matches: Sequence[Sequence[Match]]) -> Alignment:
    """Returns the best alignment that a beam of 40 finds.

    Every match that nothing competes with is taken first. The peculiarities of the original count, for scores
    depend on them: half a word's weight for what is not exact is rounded down match by match and side by side, so
    that single words weigh nothing; and the distance of a match burdens not the path that takes it but those that
    are tried after it from the same place.

    Args:
        matches: what may be aligned, by the word of the reference where it starts.
    """
    options = [[_option(match) for match in here] for here in matches]
    fixed = _uncontested(options)
    taken = hypothesis_taken = 0
    for option in fixed.values():
        taken |= option.words
        hypothesis_taken |= option.hypothesis_words
    paths = [_Path(0, 0, -1, taken, hypothesis_taken, None)]
    for place, here in enumerate(options):
        paths = _step(_best(paths), place, here, fixed.get(place))
    best = min(_best(paths), key=_closed)
    chain, found = best.chain, []
    while chain:
        found.append(chain.match)
        chain = chain.before
    return Alignment(found[::-1], (_closed(best) & (_WEIGHT - 1)) // _CHUNK)


def _option(match: Match) -> _Option:
    length, across = match.end - match.start, match.hypothesis_end - match.hypothesis_start
    return _Option(
        match,
        ((1 << length) - 1) << match.start,
        ((1 << across) - 1) << match.hypothesis_start,
        _WEIGHT * (2 if match.stage == EXACT else length // 2 + across // 2),
        abs(match.start - match.hypothesis_start),
    )


def _uncontested(options: Sequence[Sequence[_Option]]) -> dict[int, _Option]:
    """Returns, by where they start, the matches none of whose words, on either side, any other match covers."""
    once = twice = hypothesis_once = hypothesis_twice = 0
    for here in options:
        for option in here:
            twice |= once & option.words
            once |= option.words
            hypothesis_twice |= hypothesis_once & option.hypothesis_words
            hypothesis_once |= option.hypothesis_words
    return {
        place: here[0]
        for place, here in enumerate(options)
        if len(here) == 1 and not here[0].words & twice and not here[0].hypothesis_words & hypothesis_twice
    }


def _best(paths: list[_Path]) -> list[_Path]:
    """Returns the paths that the beam holds, best first; among equals the first found."""
    return sorted(paths, key=itemgetter(0))[:BEAM] if len(paths) > 1 else paths


def _closed(path: _Path) -> int:
    """Returns a path's rank with its last chunk counted."""
    return path.rank + _CHUNK if path.last != -1 else path.rank


def _step(paths: list[_Path], place: int, here: Sequence[_Option], fixed: _Option | None) -> list[_Path]:
    """Returns the ways on from paths that have come to a word of the reference, or passed it."""
    on: list[_Path] = []
    for path in paths:
        rank, reached, last, taken, hypothesis_taken, chain = path
        if reached > place:
            on.append(path)
            continue
        if fixed:
            start, end = fixed.match.hypothesis_start, fixed.match.hypothesis_end
            rank += fixed.distance - fixed.gain + (_CHUNK if last not in (-1, start) else 0)
            on.append(_Path(rank, fixed.match.end, end, taken, hypothesis_taken, _Chain(fixed.match, chain)))
            continue
        for match, words, hypothesis_words, gain, distance in here:
            if taken & words or hypothesis_taken & hypothesis_words:
                continue
            broken = _CHUNK if last not in (-1, match.hypothesis_start) else 0
            on.append(
                _Path(
                    rank - gain + broken,
                    match.end,
                    match.hypothesis_end,
                    taken | words,
                    hypothesis_taken | hypothesis_words,
                    _Chain(match, chain),
                )
            )
            rank += distance
        on.append(_Path(rank if last == -1 else rank + _CHUNK, place + 1, -1, taken, hypothesis_taken, chain))
    return on
