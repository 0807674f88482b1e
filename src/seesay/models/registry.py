"""The decoders by name: a class with `@register_decoder(name)` is what `model.decoder: name` builds."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from seesay.config import ModelConfig
from seesay.errors import ConfigError

DecoderBuilder = Callable[[ModelConfig, int], nn.Module]
"""Makes a decoder of the network's sizes and the size V of the vocabulary."""

Builder = TypeVar("Builder", bound=DecoderBuilder)
_DECODERS: dict[str, DecoderBuilder] = {}


def register_decoder(name: str) -> Callable[[Builder], Builder]:
    """Returns a class decorator that makes a decoder known as `name`.

    The class is called with a `ModelConfig` and the size V of the vocabulary, and is a `TrainableDecoder`.

    Raises:
        ConfigError: the name is another decoder's already.
    """

    def register(builder: Builder) -> Builder:
        if name in _DECODERS:
            raise ConfigError(f"there is a decoder {name!r} already ({_DECODERS[name].__module__})")
        _DECODERS[name] = builder
        return builder

    return register


def decoder_names() -> list[str]:
    """Returns the names of all decoders, sorted; those of `seesay.models.decoders` are loaded first."""
    from seesay.models import decoders

    for module in pkgutil.iter_modules(decoders.__path__, f"{decoders.__name__}."):
        importlib.import_module(module.name)
    return sorted(_DECODERS)


def decoder_builder(name: str) -> DecoderBuilder:
    """Returns what makes the decoder of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    known = decoder_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"model.decoder is {name!r}, which is no decoder; {hint}")
    return _DECODERS[name]
