"""The alignment that METEOR scores: a beam search over non-overlapping matches, from the reference's first word on."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from seesay.metrics.meteor.matching import EXACT, Match

BEAM = 40

# A path's rank in one number, least first: more words matched, then fewer chunks, then less distance.
_CHUNK = 1 << 40
_WEIGHT = 1 << 60


class Alignment(NamedTuple):
    """Matches that share no word, and the number of chunks: runs that are adjacent, and in order, on both sides."""

    matches: list[Match]
    chunks: int


# The matches of a path, last first: a match, and the chain before it. Plain tuples, for a search makes many.
_Chain: TypeAlias = "tuple[Match, _Chain] | None"

# A partial alignment: its rank; the word of the reference before which it is complete; where in the hypothesis its
# last match ends, -1 if the word before is not matched; the words of both sides that are taken, as bits; its matches.
_Path: TypeAlias = tuple[int, int, int, int, _Chain]


class _Option(NamedTuple):
    """A match with what the search needs of it: its words of both sides as bits, its rank's change, its distance."""

    match: Match
    words: int
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
    options = [[_option(match, len(matches)) for match in here] for here in matches]
    fixed = _uncontested(options)
    taken = 0
    for option in fixed.values():
        taken |= option.words
    paths: list[_Path] = [(0, 0, -1, taken, None)]
    for place, here in enumerate(options):
        paths = _fix(paths, place, fixed[place]) if place in fixed else _branch(paths, place, here)
        if len(paths) > 1:
            paths.sort(key=itemgetter(0))  # among equals the first found stays first
            del paths[BEAM:]
    best = min(paths, key=_closed)
    chain, found = best[-1], []
    while chain:
        match, chain = chain
        found.append(match)
    return Alignment(found[::-1], (_closed(best) & (_WEIGHT - 1)) // _CHUNK)


def _option(match: Match, offset: int) -> _Option:
    start, end, hypothesis_start, hypothesis_end, stage = match
    length, across = end - start, hypothesis_end - hypothesis_start
    return _Option(
        match,
        ((1 << length) - 1) << start | ((1 << across) - 1) << (hypothesis_start + offset),
        _WEIGHT * (2 if stage == EXACT else length // 2 + across // 2),
        abs(start - hypothesis_start),
    )


def _uncontested(options: Sequence[Sequence[_Option]]) -> dict[int, _Option]:
    """Returns, by where they start, the matches none of whose words, on either side, any other match covers."""
    once = twice = 0
    for here in options:
        for _, words, _, _ in here:
            twice |= once & words
            once |= words
    return {place: here[0] for place, here in enumerate(options) if len(here) == 1 and not here[0].words & twice}


def _closed(path: _Path) -> int:
    """Returns a path's rank with its last chunk counted."""
    rank, _, last, _, _ = path
    return rank if last == -1 else rank + _CHUNK


def _fix(paths: Sequence[_Path], place: int, option: _Option) -> list[_Path]:
    """Returns the paths that come to a word of the reference with its uncontested match, the others as they are."""
    (_, end, start, hypothesis_end, _), _, gain, distance = option
    gain -= distance
    return [
        path
        if path[1] > place
        else (
            path[0] - gain + (0 if path[2] == -1 or path[2] == start else _CHUNK),
            end,
            hypothesis_end,
            path[3],
            (option.match, path[4]),
        )
        for path in paths
    ]


def _branch(paths: Sequence[_Path], place: int, here: Sequence[_Option]) -> list[_Path]:
    """Returns the paths that come to a word of the reference, with each match that starts there and without any."""
    longer: list[_Path] = []
    for path in paths:
        rank, reached, last, taken, chain = path
        if reached > place:
            longer.append(path)
            continue
        for match, words, gain, distance in here:
            if taken & words:
                continue
            broken = 0 if last == -1 or last == match[2] else _CHUNK
            longer.append((rank + broken - gain, match[1], match[3], taken | words, (match, chain)))
            rank += distance
        longer.append(
            path
            if last == -1 and rank == path[0]
            else (rank if last == -1 else rank + _CHUNK, reached, -1, taken, chain)
        )
    return longer
