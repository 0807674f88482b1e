"""Registry of decoders: `model.decoder: name` builds the class decorated with `@register_decoder(name, options)`."""

import importlib
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from seesay.config import ModelConfig
from seesay.config.section import suggest
from seesay.errors import ConfigError

DecoderBuilder = Callable[[ModelConfig, int], nn.Module]
"""Builds a decoder from the model configuration and the vocabulary size V."""

Builder = TypeVar("Builder", bound=DecoderBuilder)

_SHARED = frozenset(
    (
        *("decoder", "projection_size", "projection_activation", "initialisation", "log_frequency_bias"),
        *("feature_dropout", "retrieve"),
    )
)
"""The fields of `ModelConfig` used with every decoder."""


@dataclass(frozen=True)
class _Decoder:
    build: DecoderBuilder
    options: frozenset[str]


_DECODERS: dict[str, _Decoder] = {}


def register_decoder(name: str, options: Collection[str]) -> Callable[[Builder], Builder]:
    """Return a class decorator that registers a decoder as `name`.

    The class is called with a `ModelConfig` and the size V of the vocabulary, and is a `TrainableDecoder`.

    Args:
        name: name of the decoder.
        options: the fields of `ModelConfig` that it reads, besides the shared ones. Setting other fields raises
            ConfigError, and `seesay tune` does not search them.

    Raises:
        ConfigError: the name is already registered, or an option is not a field of `ModelConfig`.
    """
    for option in options:
        if option not in ModelConfig.model_fields:
            raise ConfigError(f"the decoder {name!r} reads {option!r}; {suggest(option, ModelConfig.model_fields)}")

    def register(builder: Builder) -> Builder:
        if name in _DECODERS:
            raise ConfigError(f"decoder {name!r} is already registered ({_DECODERS[name].build.__module__})")
        _DECODERS[name] = _Decoder(builder, _SHARED | frozenset(options))
        return builder

    return register


def decoder_names() -> list[str]:
    """Load `seesay.models.decoders` and return the names of all decoders, sorted."""
    from seesay.models import decoders

    for module in pkgutil.iter_modules(decoders.__path__, f"{decoders.__name__}."):
        importlib.import_module(module.name)
    return sorted(_DECODERS)


def decoder_builder(name: str) -> DecoderBuilder:
    """Return the builder of a decoder.

    Raises:
        ConfigError: the name is unknown; the message suggests a similar one.
    """
    return _find(name).build


def decoder_options(name: str) -> frozenset[str]:
    """Return the fields of `ModelConfig` that a model with this decoder reads.

    Raises:
        ConfigError: the name is unknown; the message suggests a similar one.
    """
    return _find(name).options


def _find(name: str) -> _Decoder:
    known = decoder_names()
    if name not in known:
        raise ConfigError(f"model.decoder is {name!r}, which is not a decoder; {suggest(name, known)}")
    return _DECODERS[name]
