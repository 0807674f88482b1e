"""Generation of captions, many images at once, over any decoder; `docs/decoding.md` defines every option.

`generate` holds the loop and `request` its parameters. `selection` has the strategies (greedy, sampling, beam, groups,
banks), `logits_processing` a step's scores under the `constraints` and their `automaton`, `beam_state` and `finished`
the hypotheses, `deduplicate` several captions per image, `top_tokens` alternatives per position, `trace` the search as
a tree, `ensemble` several decoders as one, `arrays` the few operations on NumPy arrays and torch tensors.

The names are loaded when they are first used. Only `ensemble` and `memory` need torch.
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

_HOMES = {
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
    if name not in _HOMES:
        raise AttributeError(f"module 'seesay.decoding' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the module `generate` would else take the place of the function
    return value
