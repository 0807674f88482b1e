"""Banned and required phrases as one deterministic automaton.

The trie of all phrases with its failure links (Aho and Corasick 1975) gives the phrases that end at each token. A state
combines a node of the trie, the set of required phrases generated so far and whether the last token may end a caption:
the product that Anderson et al. 2017 ("Guided Open Vocabulary Image Captioning with Constrained Beam Search") search
over. The minimum number of tokens before a caption may end is precomputed per state, so that no hypothesis reaches the
maximum length with a required phrase missing.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.decoding.constraints import Phrase, TokenConstraints
from seesay.errors import ConfigError

IMPOSSIBLE = 1 << 30
_MAX_ENTRIES = 50_000_000  # of a table, 400 MB


@dataclass(frozen=True)
class PhraseAutomaton:
    """Tables over S states and A symbols; each token of a phrase is a symbol, all other tokens share one or two.

    Attributes:
        next: state after a symbol, (S, A) int64; unchanged after a banned symbol.
        needed: minimum number of further tokens after a symbol before a caption may end, (S, A); `IMPOSSIBLE` if the
            symbol is banned.
        may_end: whether a caption may end in a state, (S,) bool.
        bank: number of required tokens generated, partial phrases included, (S,) int64; `banks` - 1 when complete.
        symbol_of: symbol of each token, (V,) int64.
        phrase_tokens: tokens of the first P symbols, (P,) int64.
        banks: number of values of `bank`.
        min_length: minimum number of tokens of a caption.
    """

    next: NDArray[np.int64]
    needed: NDArray[np.int64]
    may_end: NDArray[np.bool_]
    bank: NDArray[np.int64]
    symbol_of: NDArray[np.int64]
    phrase_tokens: NDArray[np.int64]
    banks: int
    min_length: int

    def advance(self, states: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the states (...) after the tokens (...)."""
        found: NDArray[np.int64] = self.next[states, self.symbol_of[tokens]]
        return found


def build_automaton(constraints: TokenConstraints, never: NDArray[np.bool_]) -> PhraseAutomaton | None:
    """Return the automaton of the constraints, or None if they have neither phrases nor forbidden endings.

    Args:
        constraints: the constraints; banned phrases of one token are ignored, `never` includes them.
        never: True for tokens that are never generated, (V,).

    Raises:
        ConfigError: the required phrases cannot all be generated, or there are too many for one table.
    """
    banned = [phrase for phrase in constraints.banned if len(phrase) > 1 and not never[list(phrase)].any()]
    if not banned and not constraints.required and not constraints.no_end_after:
        return None
    trie = _Trie(constraints.required, banned)
    symbols = _Symbols(trie.tokens, constraints.no_end_after, never)
    endings, sets, nodes = (2 if constraints.no_end_after else 1), 1 << len(constraints.required), len(trie.children)
    if endings * sets * nodes * symbols.count > _MAX_ENTRIES:
        raise ConfigError(
            f"{len(constraints.required)} required and {len(banned)} banned phrases are too many for one search"
        )
    goto = trie.goto(symbols.count)
    after = _transitions(goto, trie, symbols, sets, endings)
    full = np.tile(np.repeat(np.arange(sets) == sets - 1, nodes), endings)
    may_end = full & np.repeat([True, False][:endings], sets * nodes)
    distance = _distances(after, may_end)
    if distance[0] >= IMPOSSIBLE:
        raise ConfigError("the required words cannot all be generated: bad_words or complete_endings exclude them")
    needed = np.where(after < 0, IMPOSSIBLE, distance[after])
    own = np.arange(len(after))[:, None]
    banks = np.tile(trie.banks(sets), endings)
    count = 1 + sum(map(len, constraints.required))
    return PhraseAutomaton(
        next=np.where(after < 0, own, after),
        needed=needed,
        may_end=may_end,
        bank=banks,
        symbol_of=symbols.symbol_of,
        phrase_tokens=np.array(trie.tokens, np.int64),
        banks=count,
        min_length=int(distance[0]),
    )


class _Symbols:
    """Symbols of the tokens: one per token of a phrase, then two for the others, which may or may not end a caption."""

    def __init__(self, tokens: list[int], no_end_after: Collection[int], never: NDArray[np.bool_]) -> None:
        closing = np.ones(len(never), bool)
        closing[[token for token in no_end_after if token < len(never)]] = False
        others = ~never
        others[tokens] = False
        self.symbol_of = np.where(closing, len(tokens), len(tokens) + 1)
        self.symbol_of[tokens] = np.arange(len(tokens))
        self.count = len(tokens) + 2
        self.opens = np.array([*(~closing[tokens]), False, True])  # a caption may not end after it
        self.barred = np.array([*never[tokens], not (others & closing).any(), not (others & ~closing).any()])


class _Trie:
    """All phrases as a tree of tokens with its failure links."""

    def __init__(self, required: tuple[Phrase, ...], banned: list[Phrase]) -> None:
        self.required = required
        self.tokens = sorted({token for phrase in (*required, *banned) for token in phrase})
        self.symbol = {token: place for place, token in enumerate(self.tokens)}
        self.children: list[dict[int, int]] = [{}]
        self.path: list[Phrase] = [()]
        self.done, self.dead = [0], [False]
        for place, phrase in enumerate(required):
            self.done[self._insert(phrase)] |= 1 << place
        for phrase in banned:
            self.dead[self._insert(phrase)] = True

    def _insert(self, phrase: Phrase) -> int:
        node = 0
        for token in phrase:
            child = self.children[node].get(self.symbol[token])
            if child is None:
                child = len(self.children)
                self.children[node][self.symbol[token]] = child
                self.children.append({})
                self.path.append((*self.path[node], token))
                self.done.append(0)
                self.dead.append(False)
            node = child
        return node

    def goto(self, symbols: int) -> NDArray[np.int64]:
        """Return the node after each symbol, (nodes, A), and propagate `done` and `dead` along the failure links."""
        table = np.zeros((len(self.children), symbols), np.int64)
        fails = [0] * len(self.children)
        queue = deque([0])
        while queue:
            node = queue.popleft()
            if node:
                table[node] = table[fails[node]]
                self.done[node] |= self.done[fails[node]]
                self.dead[node] |= self.dead[fails[node]]
            for symbol, child in self.children[node].items():
                fails[child] = int(table[fails[node], symbol]) if node else 0
                table[node, symbol] = child
                queue.append(child)
        return table

    def banks(self, sets: int) -> NDArray[np.int64]:
        """Return the number of required tokens generated, partial phrases included, (sets * nodes,)."""
        partial = np.array([[_prefix_length(path, phrase) for phrase in self.required] for path in self.path], np.int64)
        lengths = np.array([len(phrase) for phrase in self.required], np.int64)
        generated = (np.arange(sets)[:, None] >> np.arange(len(lengths)) & 1).astype(bool)  # (sets, C)
        partial = partial.reshape(len(self.path), len(lengths))
        banks = np.where(generated[:, None], lengths, np.minimum(partial, np.maximum(lengths - 1, 0))[None]).sum(-1)
        return np.asarray(banks, np.int64).reshape(-1)


def _prefix_length(path: Phrase, phrase: Phrase) -> int:
    """Return the length of the longest prefix of `phrase` that is a suffix of `path`."""
    return max(size for size in range(min(len(path), len(phrase)) + 1) if path[len(path) - size :] == phrase[:size])


def _transitions(goto: NDArray[np.int64], trie: _Trie, symbols: _Symbols, sets: int, endings: int) -> NDArray[np.int64]:
    """Return the state after each symbol, (S, A), or -1 if banned; states are ordered by ending, set, node."""
    nodes = len(goto)
    done, dead = np.array(trie.done, np.int64)[goto], np.array(trie.dead)[goto]
    generated = np.arange(sets)[:, None, None] | done[None]  # (sets, nodes, A)
    last = symbols.opens.astype(np.int64) if endings == 2 else np.zeros(symbols.count, np.int64)
    after = (last * sets + generated) * nodes + goto[None]
    after = np.where(dead[None] | symbols.barred, -1, after).reshape(sets * nodes, -1)
    return np.concatenate([after] * endings)


def _distances(after: NDArray[np.int64], may_end: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the minimum number of tokens from each state to one that may end, (S,); `IMPOSSIBLE` if none."""
    distance = np.where(may_end, 0, IMPOSSIBLE)
    while True:
        step = np.where(after < 0, IMPOSSIBLE, distance[after]).min(axis=1)
        better = np.minimum(distance, np.minimum(step + 1, IMPOSSIBLE))
        if (better == distance).all():
            return distance
        distance = better
