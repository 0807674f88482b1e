"""Captions searched for, many pictures at once, over any `Decoder`; `docs/decoding.md` defines every option.

By role: `engine` (the one function), `rules` and `automaton` (what may be said), `scoring` (a step's scores under
these), `choosing` (greedy, sampling, beam, groups), `search` (the loop), `stepping` (steps that searches share),
`finished` (ranking), `distinct` (several captions), `hypothesis` (results), `likely` (what else could have been said),
`trace` (the search as a tree), `ensemble` (several decoders as one).

The names are loaded when they are first used: what searches without torch needs `rules`, `distinct` and `hypothesis`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seesay.config import DecodingOptions
    from seesay.decoding.engine import DEFAULT_MAX_LENGTH, decode, draw_captions
    from seesay.decoding.ensemble import EnsembleDecoder
    from seesay.decoding.hypothesis import Hypothesis
    from seesay.decoding.rules import TokenRules, token_rules
    from seesay.decoding.trace import SearchTrace

_HOMES = {
    "DEFAULT_MAX_LENGTH": "seesay.decoding.engine",
    "DecodingOptions": "seesay.config",
    "EnsembleDecoder": "seesay.decoding.ensemble",
    "Hypothesis": "seesay.decoding.hypothesis",
    "SearchTrace": "seesay.decoding.trace",
    "TokenRules": "seesay.decoding.rules",
    "decode": "seesay.decoding.engine",
    "draw_captions": "seesay.decoding.engine",
    "token_rules": "seesay.decoding.rules",
}

__all__ = [
    "DEFAULT_MAX_LENGTH",
    "DecodingOptions",
    "EnsembleDecoder",
    "Hypothesis",
    "SearchTrace",
    "TokenRules",
    "decode",
    "draw_captions",
    "token_rules",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seesay.decoding' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
