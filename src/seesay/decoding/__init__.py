"""Captions searched for, many pictures at once, over any `Decoder`; `docs/decoding.md` defines every option.

By role: `engine` (the one function), `rules` and `automaton` (what may be said), `scoring` (a step's scores under
these), `choosing` (greedy, sampling, beam, groups), `search` (the loop), `stepping` (steps that searches share),
`finished` (ranking), `hypothesis` (results), `likely` (what else could have been said), `trace` (the search as a
tree), `ensemble` (several decoders as one).
"""

from seesay.config import DecodingOptions
from seesay.decoding.engine import DEFAULT_MAX_LENGTH, decode, draw_captions
from seesay.decoding.ensemble import EnsembleDecoder
from seesay.decoding.hypothesis import Hypothesis
from seesay.decoding.rules import TokenRules, token_rules
from seesay.decoding.trace import SearchTrace

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
