"""Banned and required phrases as one deterministic automaton that every hypothesis walks along.

The trie of all phrases with its failure links (Aho and Corasick 1975) tells after each word which phrases end there.
A state is a node of it, with the set of the required phrases said so far and whether the last word may end a caption:
the product that Anderson et al. 2017 ("Guided Open Vocabulary Image Captioning with Constrained Beam Search") search
over. As the automaton is small, how many words are still needed before a caption may end is known of every state, so
that no hypothesis runs into the maximum length with a phrase unsaid.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.decoding.constraints import Phrase, TokenConstraints
from seesay.errors import ConfigError

IMPOSSIBLE = 1 << 30
_LARGEST = 50_000_000  # entries of a table; beyond them its 400 MB are no longer small


@dataclass(frozen=True)
class PhraseAutomaton:
    """Tables over S states and A symbols: each token of a phrase is one, all others share one or two.

    Attributes:
        next: state after a symbol, (S, A) int64; that of a barred symbol is the state itself.
        needed: fewest further words after a symbol before a caption may end, (S, A); `IMPOSSIBLE` if barred.
        may_end: (S,) bool.
        bank: how many required tokens are said or begun, (S,) int64; `banks` - 1 once all are said.
        symbol_of: symbol of each token, (V,) int64.
        phrase_tokens: tokens that are symbols of their own, the first of the symbols, (P,) int64.
        banks: how many different values `bank` may take.
        fewest: words that a caption needs at least.
    """

    next: NDArray[np.int64]
    needed: NDArray[np.int64]
    may_end: NDArray[np.bool_]
    bank: NDArray[np.int64]
    symbol_of: NDArray[np.int64]
    phrase_tokens: NDArray[np.int64]
    banks: int
    fewest: int

    def advance(self, states: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the states (...) after the tokens (...)."""
        found: NDArray[np.int64] = self.next[states, self.symbol_of[tokens]]
        return found


def build_automaton(constraints: TokenConstraints, never: NDArray[np.bool_]) -> PhraseAutomaton | None:
    """Returns the automaton of the rules, None where no phrase or ending has to be minded.

    Args:
        constraints: single banned tokens are left to `never`.
        never: which tokens (V,) are not said at all.

    Raises:
        ConfigError: the required phrases cannot all be said, or there are too many for one table.
    """
    banned = [phrase for phrase in constraints.banned if len(phrase) > 1 and not never[list(phrase)].any()]
    if not banned and not constraints.required and not constraints.no_end_after:
        return None
    trie = _Trie(constraints.required, banned)
    symbols = _Symbols(trie.tokens, constraints.no_end_after, never)
    endings, sets, nodes = (2 if constraints.no_end_after else 1), 1 << len(constraints.required), len(trie.children)
    if endings * sets * nodes * symbols.count > _LARGEST:
        raise ConfigError(
            f"{len(constraints.required)} required and {len(banned)} banned phrases are too many for one search"
        )
    goto = trie.goto(symbols.count)
    after = _after(goto, trie, symbols, sets, endings)
    full = np.tile(np.repeat(np.arange(sets) == sets - 1, nodes), endings)
    may_end = full & np.repeat([True, False][:endings], sets * nodes)
    distance = _distances(after, may_end)
    if distance[0] >= IMPOSSIBLE:
        raise ConfigError("the required words cannot all be said: what is banned, or may not end a caption, bars them")
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
        fewest=int(distance[0]),
    )


class _Symbols:
    """The tokens as symbols: those of phrases by themselves, then all others, parted by whether they may end."""

    def __init__(self, tokens: list[int], no_end_after: Collection[int], never: NDArray[np.bool_]) -> None:
        closing = np.ones(len(never), bool)
        closing[[token for token in no_end_after if token < len(never)]] = False
        others = ~never
        others[tokens] = False
        self.symbol_of = np.where(closing, len(tokens), len(tokens) + 1)
        self.symbol_of[tokens] = np.arange(len(tokens))
        self.count = len(tokens) + 2
        self.opens = np.array([*(~closing[tokens]), False, True])  # leaves the caption open
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
        """Returns the node after each symbol, (nodes, A), and lets nodes know what ends there by failure links."""
        table = np.zeros((len(self.children), symbols), np.int64)
        fails = [0] * len(self.children)
        waiting = deque([0])
        while waiting:
            node = waiting.popleft()
            if node:
                table[node] = table[fails[node]]
                self.done[node] |= self.done[fails[node]]
                self.dead[node] |= self.dead[fails[node]]
            for symbol, child in self.children[node].items():
                fails[child] = int(table[fails[node], symbol]) if node else 0
                table[node, symbol] = child
                waiting.append(child)
        return table

    def banks(self, sets: int) -> NDArray[np.int64]:
        """Returns how many required tokens are said or begun, (sets * nodes,)."""
        begun = np.array([[_begun(path, phrase) for phrase in self.required] for path in self.path], np.int64)
        lengths = np.array([len(phrase) for phrase in self.required], np.int64)
        said = (np.arange(sets)[:, None] >> np.arange(len(lengths)) & 1).astype(bool)  # (sets, C)
        begun = begun.reshape(len(self.path), len(lengths))
        banks = np.where(said[:, None], lengths, np.minimum(begun, np.maximum(lengths - 1, 0))[None]).sum(-1)
        return np.asarray(banks, np.int64).reshape(-1)


def _begun(path: Phrase, phrase: Phrase) -> int:
    """Returns how much of the start of `phrase` the words of `path` end in."""
    return max(size for size in range(min(len(path), len(phrase)) + 1) if path[len(path) - size :] == phrase[:size])


def _after(goto: NDArray[np.int64], trie: _Trie, symbols: _Symbols, sets: int, endings: int) -> NDArray[np.int64]:
    """Returns the state after each symbol, (S, A), -1 = barred; states count endings, then sets, then nodes."""
    nodes = len(goto)
    done, dead = np.array(trie.done, np.int64)[goto], np.array(trie.dead)[goto]
    said = np.arange(sets)[:, None, None] | done[None]  # (sets, nodes, A)
    last = symbols.opens.astype(np.int64) if endings == 2 else np.zeros(symbols.count, np.int64)
    after = (last * sets + said) * nodes + goto[None]
    after = np.where(dead[None] | symbols.barred, -1, after).reshape(sets * nodes, -1)
    return np.concatenate([after] * endings)


def _distances(after: NDArray[np.int64], may_end: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the fewest words from each state to one that may end, (S,); `IMPOSSIBLE` if there is no way."""
    distance = np.where(may_end, 0, IMPOSSIBLE)
    while True:
        step = np.where(after < 0, IMPOSSIBLE, distance[after]).min(axis=1)
        better = np.minimum(distance, np.minimum(step + 1, IMPOSSIBLE))
        if (better == distance).all():
            return distance
        distance = better
