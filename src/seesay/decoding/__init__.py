"""Generation of captions, many images at once, over any decoder; `docs/decoding.md` defines every option.

`generate` has the loop, `request` its parameters and `selection` its strategies (greedy, sampling, beam, diverse beam,
constrained beam). `logits_processing` computes a step's scores under the `constraints` and their `automaton`;
`beam_state` and `finished` store the hypotheses; `deduplicate` merges several captions per image; `top_tokens` finds
alternatives per position; `trace` records the search tree; `ensemble` averages several decoders; `arrays` has the
operations shared by NumPy arrays and torch tensors.

The names are loaded on first use. Only `ensemble` and `memory` need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seesay.config import DecodingOptions
    from seesay.decoding.constraints import TokenConstraints, token_constraints
    from seesay.decoding.ensemble import EnsembleDecoder
    from seesay.decoding.generate import generate, sample_captions
    from seesay.decoding.hypothesis import Hypothesis
    from seesay.decoding.memory import init_state
    from seesay.decoding.request import DEFAULT_MAX_LENGTH, GenerationRequest
    from seesay.decoding.trace import SearchTrace

_MODULES = {
    "DEFAULT_MAX_LENGTH": "seesay.decoding.request",
    "DecodingOptions": "seesay.config",
    "EnsembleDecoder": "seesay.decoding.ensemble",
    "Hypothesis": "seesay.decoding.hypothesis",
    "SearchTrace": "seesay.decoding.trace",
    "TokenConstraints": "seesay.decoding.constraints",
    "GenerationRequest": "seesay.decoding.request",
    "generate": "seesay.decoding.generate",
    "init_state": "seesay.decoding.memory",
    "sample_captions": "seesay.decoding.generate",
    "token_constraints": "seesay.decoding.constraints",
}

__all__ = [
    "DEFAULT_MAX_LENGTH",
    "DecodingOptions",
    "EnsembleDecoder",
    "GenerationRequest",
    "Hypothesis",
    "SearchTrace",
    "TokenConstraints",
    "generate",
    "init_state",
    "sample_captions",
    "token_constraints",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'seesay.decoding' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # importing the submodule `generate` sets the attribute to the module
    return value
