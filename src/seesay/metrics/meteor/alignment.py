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

# A partial alignment: its rank; the word of the reference it has come to; where in the hypothesis its last match
# ends, -1 if the word before is not matched; the words of either side that are taken, as bits; its matches.
_Path: TypeAlias = tuple[int, int, int, int, int, _Chain]


class _Option(NamedTuple):
    """A match with what the search needs of it: its words as bits, its rank's change, how far it reaches across."""

    match: Match
    words: int
    hypothesis_words: int
    gain: int
    distance: int


# A way on from a path, which is carried out if the beam holds it: the rank that it would have, and the match that
# it takes; no match if it leaves a word out, _PASS if it is in the middle of a match.
_Move: TypeAlias = tuple[int, _Path, _Option | None]
_PASS = _Option(Match(0, 0, 0, 0, EXACT), 0, 0, 0, 0)


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
    paths: list[_Path] = [(0, 0, -1, taken, hypothesis_taken, None)]
    for place, here in enumerate(options):
        moves = _moves(paths, place, here, fixed.get(place))
        if len(moves) > 1:
            moves.sort(key=itemgetter(0))  # among equals the first found stays first
        paths = [_carry_out(*move) for move in moves[:BEAM]]
    best = min(paths, key=_closed)
    chain, found = best[-1], []
    while chain:
        match, chain = chain
        found.append(match)
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


def _closed(path: _Path) -> int:
    """Returns a path's rank with its last chunk counted."""
    rank, _, last, _, _, _ = path
    return rank if last == -1 else rank + _CHUNK


def _moves(paths: Sequence[_Path], place: int, here: Sequence[_Option], fixed: _Option | None) -> list[_Move]:
    """Returns the ways on from paths that have come to a word of the reference, or passed it."""
    moves: list[_Move] = []
    for path in paths:
        rank, reached, last, taken, hypothesis_taken, _ = path
        if reached > place:
            moves.append((rank, path, _PASS))
            continue
        if fixed:
            broken = _CHUNK if last not in (-1, fixed.match.hypothesis_start) else 0
            moves.append((rank + broken - fixed.gain + fixed.distance, path, fixed))
            continue
        for option in here:
            match, words, hypothesis_words, gain, distance = option
            if taken & words or hypothesis_taken & hypothesis_words:
                continue
            broken = _CHUNK if last not in (-1, match.hypothesis_start) else 0
            moves.append((rank + broken - gain, path, option))
            rank += distance
        moves.append((rank if last == -1 else rank + _CHUNK, path, None))
    return moves


def _carry_out(rank: int, path: _Path, option: _Option | None) -> _Path:
    if option is _PASS:
        return path
    _, place, _, taken, hypothesis_taken, chain = path
    if option is None:
        return rank, place + 1, -1, taken, hypothesis_taken, chain
    match, words, hypothesis_words, _, _ = option
    taken |= words
    hypothesis_taken |= hypothesis_words
    return rank, match.end, match.hypothesis_end, taken, hypothesis_taken, (match, chain)
