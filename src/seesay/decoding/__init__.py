"""Captions searched for, many images at once, over any `Decoder`; `docs/decoding.md` defines every option.

By role: `engine` (the one function), `rules` and `automaton` (what may be said), `scoring` (a step's scores under
these), `choosing` (greedy, sampling, beam, groups), `search` (the loop), `stepping` (steps that searches share),
`finished` (ranking), `distinct` (several captions), `hypothesis` (results), `top_tokens` (what else could have been said),
`trace` (the search as a tree), `ensemble` (several decoders as one).

The names are loaded when they are first used: what searches without torch needs `rules`, `distinct` and `hypothesis`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seesay.config import DecodingOptions
    from seesay.decoding.constraints import TokenConstraints, token_constraints
    from seesay.decoding.engine import DEFAULT_MAX_LENGTH, decode, sample_captions
    from seesay.decoding.ensemble import EnsembleDecoder
    from seesay.decoding.hypothesis import Hypothesis
    from seesay.decoding.trace import SearchTrace

_HOMES = {
    "DEFAULT_MAX_LENGTH": "seesay.decoding.engine",
    "DecodingOptions": "seesay.config",
    "EnsembleDecoder": "seesay.decoding.ensemble",
    "Hypothesis": "seesay.decoding.hypothesis",
    "SearchTrace": "seesay.decoding.trace",
    "TokenConstraints": "seesay.decoding.constraints",
    "decode": "seesay.decoding.engine",
    "sample_captions": "seesay.decoding.engine",
    "token_constraints": "seesay.decoding.constraints",
}

__all__ = [
    "DEFAULT_MAX_LENGTH",
    "DecodingOptions",
    "EnsembleDecoder",
    "Hypothesis",
    "SearchTrace",
    "TokenConstraints",
    "decode",
    "sample_captions",
    "token_constraints",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seesay.decoding' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
