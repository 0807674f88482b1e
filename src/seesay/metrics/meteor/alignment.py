"""METEOR's alignment: a beam search over non-overlapping matches, from the first word of the reference."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from seesay.metrics.meteor.matching import EXACT, Match

BEAM = 40

# The rank of a path as one number, lower is better: more matched words, then fewer chunks, then less distance.
_CHUNK = 1 << 40
_WEIGHT = 1 << 60


class Alignment(NamedTuple):
    """Non-overlapping matches, and the number of chunks: runs that are adjacent and in order on both sides."""

    matches: list[Match]
    chunks: int


# The matches of a path as a linked list, last first. Plain tuples for speed.
_Chain: TypeAlias = "tuple[Match, _Chain] | None"

# A partial alignment: rank; next word of the reference; end of the last match in the hypothesis, -1 if the previous
# word is not matched; bit mask of the covered words of both sides; matches.
_Path: TypeAlias = tuple[int, int, int, int, _Chain]


class _Option(NamedTuple):
    """A match with the bit mask of its words on both sides, its change of rank and its distance."""

    match: Match
    words: int
    gain: int
    distance: int


def align(matches: Sequence[Sequence[Match]]) -> Alignment:
    """Returns the best alignment found with a beam of 40.

    Uncontested matches are fixed first. Peculiarities of the original are kept because scores depend on them: the half
    weight of inexact matches is rounded down per match and side, so that single words have weight 0; and the distance
    of a match is added not to the path that takes it but to the paths tried after it from the same position.

    Args:
        matches: possible matches, by the start word in the reference.
    """
    options = [[_option(match, len(matches)) for match in starting] for starting in matches]
    fixed = _uncontested(options)
    covered = 0
    for option in fixed.values():
        covered |= option.words
    paths: list[_Path] = [(0, 0, -1, covered, None)]
    for position, starting in enumerate(options):
        paths = (
            _extend_fixed(paths, position, fixed[position]) if position in fixed else _branch(paths, position, starting)
        )
        if len(paths) > 1:
            paths.sort(key=itemgetter(0))  # stable: the first of equal paths stays first
            del paths[BEAM:]
    best = min(paths, key=_final_rank)
    chain, found = best[-1], []
    while chain:
        match, chain = chain
        found.append(match)
    return Alignment(found[::-1], (_final_rank(best) & (_WEIGHT - 1)) // _CHUNK)


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
    """Returns the matches that share no word with another match on either side, by start position."""
    once = twice = 0
    for starting in options:
        for _, words, _, _ in starting:
            twice |= once & words
            once |= words
    return {
        position: starting[0]
        for position, starting in enumerate(options)
        if len(starting) == 1 and not starting[0].words & twice
    }


def _final_rank(path: _Path) -> int:
    """Returns the rank of a path including its last chunk."""
    rank, _, last, _, _ = path
    return rank if last == -1 else rank + _CHUNK


def _extend_fixed(paths: Sequence[_Path], position: int, option: _Option) -> list[_Path]:
    """Returns the paths extended with the uncontested match at a position; paths beyond it are unchanged."""
    (_, end, start, hypothesis_end, _), _, gain, distance = option
    gain -= distance
    return [
        path
        if path[1] > position
        else (
            path[0] - gain + (0 if path[2] == -1 or path[2] == start else _CHUNK),
            end,
            hypothesis_end,
            path[3],
            (option.match, path[4]),
        )
        for path in paths
    ]


def _branch(paths: Sequence[_Path], position: int, starting: Sequence[_Option]) -> list[_Path]:
    """Returns the paths extended at a position with each match that starts there, and with none."""
    extended: list[_Path] = []
    for path in paths:
        rank, reached, last, covered, chain = path
        if reached > position:
            extended.append(path)
            continue
        for match, words, gain, distance in starting:
            if covered & words:
                continue
            gap = 0 if last == -1 or last == match[2] else _CHUNK
            extended.append((rank + gap - gain, match[1], match[3], covered | words, (match, chain)))
            rank += distance
        extended.append(
            path
            if last == -1 and rank == path[0]
            else (rank if last == -1 else rank + _CHUNK, reached, -1, covered, chain)
        )
    return extended
